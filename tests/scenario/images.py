# SPDX-License-Identifier: Apache-2.0
"""OCI and Docker images made byte by byte, so that they can be what no tool would write.

    Store()                            blobs by digest; a lie is a blob under another one's digest
    Layer(archive(member('a')))        a layer: a tar, how it is compressed, what its descriptor says
    Image(Layer(...), ...).put(store)  writes layers, configuration and manifest; gives the manifest's descriptor
    write_layout(path, store, {'it': descriptor})
    push(host_port, 'repo', store, {'it': descriptor})     to a real registry, by its API

Every part of an image can be replaced or bent: see the arguments.
"""
import dataclasses
import gzip
import hashlib
import http.client
import json
import os
import pathlib
import struct
import subprocess

OCI = 'application/vnd.oci.image.'
DOCKER = 'application/vnd.docker.'
INDEX, MANIFEST, CONFIG = OCI + 'index.v1+json', OCI + 'manifest.v1+json', OCI + 'config.v1+json'
LAYER = OCI + 'layer.v1.tar'
LIST, SCHEMA2 = DOCKER + 'distribution.manifest.list.v2+json', DOCKER + 'distribution.manifest.v2+json'
DOCKER_CONFIG, DOCKER_LAYER = DOCKER + 'container.image.v1+json', DOCKER + 'image.rootfs.diff.tar.gzip'
FOREIGN = DOCKER + 'image.rootfs.foreign.diff.tar.gzip'
AMD64 = {'os': 'linux', 'architecture': 'amd64'}


def sha256(data):
    return 'sha256:' + hashlib.sha256(data).hexdigest()


def dumps(document):
    """As a tool would write it; bytes stay what they are."""
    return document if isinstance(document, bytes) else json.dumps(document, separators=(',', ':')).encode()


class Store(dict):
    """digest: bytes."""

    def put(self, data, digest=None):
        digest = digest or sha256(data)
        self[digest] = data
        return digest

    def descriptor(self, data, media_type, **change):
        """Puts data; `change` bends what is said of it (None removes a field)."""
        data = dumps(data)
        said = {'mediaType': media_type, 'digest': self.put(data), 'size': len(data), **change}
        return {k: v for k, v in said.items() if v is not None}


# ---- compression

def gz(data, level=1):
    return gzip.compress(data, level, mtime=0)


def plain(data):
    return data


def zstd(data, *options):
    return subprocess.run(['zstd', '-q', '-c', *options], input=data, capture_output=True, check=True).stdout


def gz_members(data, step=70_000):
    return b''.join(gz(data[i:i + step]) for i in range(0, len(data), step))


def zstd_block(kind, size, last):
    return (last | kind << 1 | size << 3).to_bytes(3, 'little')


def zstd_frame(data):
    """A frame of raw blocks (RFC 8878), a window of 128 KiB, no checksum."""
    out = [b'\x28\xb5\x2f\xfd', bytes([0x00, 7 << 3])]
    pieces = [data[i:i + 131072] for i in range(0, len(data), 131072)] or [b'']
    for i, piece in enumerate(pieces):
        out += [zstd_block(0, len(piece), i == len(pieces) - 1), piece]
    return b''.join(out)


def zstd_zeros(size, byte=b'\0'):
    """A frame of `size` zeros, or another byte, in 4 bytes for each 128 KiB: a bomb of 1 to 32,768."""
    whole, rest = divmod(size, 131072)
    return b'\x28\xb5\x2f\xfd' + bytes([0x00, 7 << 3]) + (zstd_block(1, 131072, 0) + byte) * whole + \
        zstd_block(1, rest, 1) + byte


def gz_zeros(size):
    """`size` zeros (a multiple of 64 MiB) as gzip members, a bomb of 1 to 1,000."""
    one = gz(bytes(64 << 20), 9)
    assert size % (64 << 20) == 0
    return one * (size // (64 << 20))


SUFFIX = {gz: '+gzip', gz_members: '+gzip', zstd: '+zstd', zstd_frame: '+zstd', plain: ''}


# ---- layers and images

@dataclasses.dataclass
class Layer:
    tar: bytes
    compress: object = gz
    blob: bytes = None          # instead of the compressed tar
    stored: bytes = None        # what is really found under the blob's digest; b'' is nothing at all, absent: None
    absent: bool = False
    media: str = None
    diff_id: str = None
    say: dict = dataclasses.field(default_factory=dict)   # over the descriptor

    def put(self, store, docker=False):
        if self.blob is None:
            self.blob = self.compress(self.tar)
        media = self.media or (DOCKER_LAYER if docker else LAYER + SUFFIX.get(self.compress, '+gzip'))
        said = store.descriptor(self.blob, media, **self.say)
        if self.stored is not None:
            store[sha256(self.blob)] = self.stored
        if self.absent:
            del store[sha256(self.blob)]
        return said

    @property
    def digest(self):
        return self.say.get('digest') or sha256(self.blob if self.blob is not None else self.compress(self.tar))


class Image:
    """config: fields over the configuration; command: over its "config"; manifest: over the manifest, a function that
    takes it and gives another document, or bytes; about: over the manifest's descriptor. None removes a field."""

    def __init__(self, *layers, config=None, command=None, manifest=None, docker=False, about=None, config_say=None,
                 diff_ids=None, config_media=None):
        self.layers = [layer if isinstance(layer, Layer) else Layer(layer) for layer in layers]
        self.config, self.command, self.manifest, self.docker = config or {}, command, manifest, docker
        self.about, self.config_say, self.diff_ids = about or {}, config_say or {}, diff_ids
        self.config_media = config_media or (DOCKER_CONFIG if docker else CONFIG)

    def put(self, store):
        layers = [layer.put(store, self.docker) for layer in self.layers]
        diff_ids = self.diff_ids
        if diff_ids is None:
            diff_ids = [layer.diff_id or sha256(layer.tar) for layer in self.layers]
        config = self.config
        if not isinstance(config, bytes):
            config = {**AMD64, 'created': '2024-05-06T07:08:09Z', 'rootfs': {'type': 'layers', 'diff_ids': diff_ids},
                      **({'config': self.command} if self.command else {}), **config}
            config = {k: v for k, v in config.items() if v is not None}
        document = {'schemaVersion': 2, 'mediaType': SCHEMA2 if self.docker else MANIFEST,
                    'config': store.descriptor(config, self.config_media, **self.config_say), 'layers': layers}
        if callable(self.manifest):
            document = self.manifest(document)
        elif self.manifest is not None:
            document = {k: v for k, v in {**document, **self.manifest}.items() if v is not None}
        return store.descriptor(document, SCHEMA2 if self.docker else MANIFEST, **self.about)


class Index:
    """entries: Images, Indexes, or ready descriptors; change: as Image's manifest."""

    def __init__(self, *entries, change=None, docker=False, about=None):
        self.entries, self.change, self.docker, self.about = entries, change, docker, about or {}

    def put(self, store):
        entries = [e if isinstance(e, dict) else e.put(store) for e in self.entries]
        document = {'schemaVersion': 2, 'mediaType': LIST if self.docker else INDEX, 'manifests': entries}
        if callable(self.change):
            document = self.change(document)
        elif self.change is not None:
            document = {k: v for k, v in {**document, **self.change}.items() if v is not None}
        return store.descriptor(document, LIST if self.docker else INDEX, **self.about)


def platform(text):
    parts = text.split('/')
    return {'platform': dict(zip(('os', 'architecture', 'variant'), parts))}


class Document:
    """Bytes as a manifest."""

    def __init__(self, document, media=MANIFEST, **say):
        self.document, self.media, self.say = document, media, say

    def put(self, store):
        return store.descriptor(self.document, self.media, **self.say)


# ---- where images are

def write_layout(path, store, tags, version=b'{"imageLayoutVersion":"1.0.0"}', index=None):
    """tags: {tag: descriptor}. Digests that are no file names are left out."""
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    for digest, data in store.items():
        algorithm, _, hexdigits = digest.partition(':')
        if '/' in digest or not hexdigits:
            continue
        (path / 'blobs' / algorithm).mkdir(parents=True, exist_ok=True)
        (path / 'blobs' / algorithm / hexdigits).write_bytes(data)
    (path / 'blobs/sha256').mkdir(parents=True, exist_ok=True)
    if version is not None:
        (path / 'oci-layout').write_bytes(version)
    if index is None:
        entries = [{**descriptor, 'annotations': {'org.opencontainers.image.ref.name': tag}}
                   for tag, descriptor in tags.items()]
        index = dumps({'schemaVersion': 2, 'manifests': entries})
    (path / 'index.json').write_bytes(index)
    return path


def request(server, method, path, body=b'', headers=None, want=(200, 201, 202)):
    """One request of a registry on loopback; gives its headers."""
    connection = http.client.HTTPConnection(server, timeout=60)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status in want, f'{method} {path}: {answer.status} {text[:300]!r}'
        return dict(answer.getheaders())
    finally:
        connection.close()


def push_blob(server, repository, digest, data):
    where = request(server, 'POST', f'/v2/{repository}/blobs/uploads/')['Location']
    where = where.partition(server)[2] if '//' in where else where
    request(server, 'PUT', where + ('&' if '?' in where else '?') + 'digest=' + digest, data,
            {'Content-Type': 'application/octet-stream'})


def push_document(server, repository, name, data, media_type):
    request(server, 'PUT', f'/v2/{repository}/manifests/{name}', data, {'Content-Type': media_type})


def push(server, repository, store, tags):
    """Blobs first, then what names them; an index after its images."""
    documents = {}

    def collect(descriptor):
        document = json.loads(store[descriptor['digest']])
        for entry in document.get('manifests', []):
            collect(entry)
        documents[descriptor['digest']] = descriptor['mediaType']

    for descriptor in tags.values():
        collect(descriptor)
    for digest, data in store.items():
        if digest not in documents:
            push_blob(server, repository, digest, data)
    for digest, media_type in documents.items():
        push_document(server, repository, digest, store[digest], media_type)
    for tag, descriptor in tags.items():
        push_document(server, repository, tag, store[descriptor['digest']], descriptor['mediaType'])


def read_layout(path, tag=None):
    """(store, descriptor) of a layout that a tool has written."""
    path = pathlib.Path(path)
    store = Store()
    for file in (path / 'blobs/sha256').iterdir():
        store['sha256:' + file.name] = file.read_bytes()
    for entry in json.loads((path / 'index.json').read_text())['manifests']:
        if tag is None or entry.get('annotations', {}).get('org.opencontainers.image.ref.name') == tag:
            return store, entry
    raise KeyError(tag)


# ---- what a pull must come to

class Refused:
    """codes: one or several of the contract's; words: a regular expression; layer: the number of the layer whose digest
    the message must name."""

    def __init__(self, codes, words='', layer=None):
        self.codes, self.words, self.layer = {codes} if isinstance(codes, str) else set(codes), words, layer


class Tree(dict):
    """{name: facts as in trees.py}. No other names may be there, but for the mount points that a boot needs."""


BOOT = {b'dev', b'proc', b'run', b'sys', b'tmp'}


def f(content=b'', **facts):
    content = content.encode() if isinstance(content, str) else content
    return {'type': '0o100000', 'size': len(content), 'content': hashlib.sha256(content).hexdigest(), **facts}


def d(**facts):
    return {'type': '0o40000', **facts}


def l(target, **facts):
    return {'type': '0o120000', 'target': os.fsencode(target), **facts}


def compare(tree, expected):
    """Lines that say where trees.facts() of a pulled image is not as expected."""
    wrong = []
    expected = {os.fsencode(k): v for k, v in expected.items()}
    for name in sorted(tree.keys() - expected.keys() - BOOT - {b'.'}):
        wrong.append(f'{name!r} is there')
    for name, facts in sorted(expected.items()):
        if name not in tree:
            wrong.append(f'{name!r} is missing')
            continue
        wrong += [f'{name!r}: {key} is {tree[name].get(key)!r:.300}, not {value!r:.300}'
                  for key, value in facts.items() if tree[name].get(key) != value]
    return wrong[:20]


def capability(permitted=0x400):
    """security.capability, revision 2, effective."""
    return struct.pack('<IIIII', 0x02000001, permitted, 0, 0, 0)
