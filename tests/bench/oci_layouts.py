# SPDX-License-Identifier: Apache-2.0
"""Images from OCI layouts on disk (DIR/NAME.raw, tag "latest", whatever their layers' compression), for benchmarks: skopeo
compresses each once (kept in another directory); they are pushed as NAME-gz and NAME-zst.

    names(DIR)                                  what there is
    push(DIR, KEEP, host_port, {'big-gz', …})   {repository: [(digest, diff_id, size)] of its layers, bottom first}
    unpacked(DIR, KEEP, NAME)                   bytes of all its layers, unpacked
    push_top(host_port, repository, top)        the same image under another name, with a small layer more
"""
import http.client
import json
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / 'scenario'))
import images  # noqa: E402
from archives import archive, member  # noqa: E402

FORMAT = {'gz': 'gzip', 'zst': 'zstd'}
UNPACK = {b'\x1f\x8b': ('pigz', '-dc'), b'\x28\xb5': ('zstd', '-dcq')}


def names(directory):
    return [p.name.removesuffix('.raw') for p in sorted(pathlib.Path(directory).glob('*.raw'))]


def blob(layout, descriptor):
    return layout / 'blobs' / descriptor['digest'].replace(':', '/')


def manifest(layout):
    """The manifest of its only image, and that one's configuration."""
    [said] = json.loads((layout / 'index.json').read_text())['manifests']
    document = json.loads(blob(layout, said).read_text())
    return document, json.loads(blob(layout, document['config']).read_text())


def compressed(directory, keep, name, kind):
    """NAME's layout with its layers compressed so."""
    out = keep / f'{name}.{kind}'
    if not out.exists():
        print(f'compressing {out.name}', file=sys.stderr, flush=True)
        subprocess.run(['rm', '-rf', f'{out}.new'], check=True)
        # By way of plain tars, or skopeo would leave layers as they are.
        plain = keep / f'{name}.plain'
        subprocess.run(['rm', '-rf', plain], check=True)
        subprocess.run(['skopeo', 'copy', '-q', f'oci:{directory}/{name}.raw:latest', '--dest-decompress', f'dir:{plain}'], check=True)
        subprocess.run(['skopeo', 'copy', '-q', '--format', 'oci', '--dest-compress-format', FORMAT[kind], f'dir:{plain}', f'oci:{out}.new:latest'], check=True)
        subprocess.run(['rm', '-rf', plain], check=True)
        os.rename(f'{out}.new', out)
    return out


def push(directory, keep, server, wanted):
    keep.mkdir(parents=True, exist_ok=True)
    pushed = {}
    for repository in sorted(wanted):
        name, _, kind = repository.rpartition('-')
        layout = compressed(directory, keep, name, kind)
        document, config = manifest(layout)
        # Not by skopeo, which takes a blob of the same content that the registry has in another compression.
        for descriptor in (document['config'], *document['layers']):
            images.push_blob(server, repository, descriptor['digest'], blob(layout, descriptor).read_bytes())
        for descriptor in document['layers']:
            assert descriptor['mediaType'].endswith(FORMAT[kind]), f'{layout}: {descriptor["mediaType"]}'
        images.push_document(server, repository, 'latest', images.dumps(document), document.get('mediaType', images.MANIFEST))
        pushed[repository] = [(layer['digest'], diff_id, layer['size']) for layer, diff_id in zip(document['layers'], config['rootfs']['diff_ids'])]
    return pushed


def layer_size(path):
    with open(path, 'rb') as file:
        unpack = UNPACK.get(file.read(2))
    if not unpack:
        return path.stat().st_size
    with subprocess.Popen([*unpack, path], stdout=subprocess.PIPE) as process:
        size = 0
        while data := process.stdout.read(1 << 20):
            size += len(data)
    assert process.returncode == 0, path
    return size


def unpacked(directory, keep, name):
    said = keep / f'{name}.size'
    if not said.exists():
        layout = pathlib.Path(directory) / f'{name}.raw'
        said.write_text(str(sum(layer_size(blob(layout, layer)) for layer in manifest(layout)[0]['layers'])))
    return int(said.read_text())


def get(server, path):
    connection = http.client.HTTPConnection(server, timeout=60)
    connection.request('GET', path, headers={'Accept': images.MANIFEST})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.status == 200, f'{path}: {answer.status} {text[:300]!r}'
    return json.loads(text)


def push_top(server, repository, top):
    """The layers go from one repository to the other inside the registry, as a push of docker's has them mounted."""
    document = get(server, f'/v2/{repository}/manifests/latest')
    config = get(server, f'/v2/{repository}/blobs/{document["config"]["digest"]}')
    for layer in document['layers']:
        images.request(server, 'POST', f'/v2/{top}/blobs/uploads/?mount={layer["digest"]}&from={repository}')
    tar, store = archive(member('etc/motd', b'changed\n'), member('usr/local/bin/mine', os.urandom(70_000))), images.Store()
    small = images.gz(tar)
    document['layers'].append({'mediaType': images.LAYER + '+gzip', 'digest': store.put(small), 'size': len(small)})
    config['rootfs']['diff_ids'].append(images.sha256(tar))
    config.pop('history', None)
    document['config'] = store.descriptor(config, images.CONFIG)
    images.push(server, top, store, {'latest': store.descriptor(document, images.MANIFEST)})
