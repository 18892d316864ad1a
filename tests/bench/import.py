#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An archive to an ext4 image, on the disk: banger-unpack against bsdtar -x and mke2fs -d, and against mke2fs -d alone,
which is given the unpacked tree. Each side's output is synced; what it reads is in the page cache.

With --ctl also the whole way, banger-ctl image import: the digest is made and the image is published too.

With --layers N the tree is cut into N layers instead, and unpacking them from files is measured against the floor
(pull_floor.c: two threads that inflate, hash both sides and write the bytes once), then against itself: records written,
and everything reused. --layout DIR takes the layers of the first image of an OCI layout.
"""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

from pairs import arguments, compare, directory, harness, median, milliseconds, number, row, running, title, tool

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / 'scenario'))
import test_import  # noqa: E402

options = arguments(__doc__, tree='/usr/share', rounds=3, ctl=0, layers=0, layout='')
KINDS = {'tar': None, 'tar.gz': ['gzip', '-c', '-6'], 'tar.zst': ['zstd', '-q', '-c', '-3', '-T0']}


def synced(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def unpack(archive, image):
    outcome = test_import.unpack(archive, image, headroom=64 << 20, memory=768 << 20)
    assert outcome.status == 0, outcome.last
    synced(image)
    return outcome.result


def mke2fs(tree, image, result):
    image.unlink(missing_ok=True)
    subprocess.run(['mke2fs', '-q', '-t', 'ext4', '-N', str(result['inodes'] * 5 // 4), '-d', tree, image,
                    f'{result["size"] >> 10}k'], check=True, stdout=subprocess.DEVNULL)
    synced(image)


def extract(archive, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    subprocess.run(['bsdtar', '-xpf', archive, '-C', folder, '--numeric-owner', '--xattrs', '--acls'], check=True)


def warm(*paths):
    subprocess.run(['tar', '-cf', '/dev/null', *paths], check=True, stderr=subprocess.DEVNULL)


# ---- layers

def hexdigest(path):
    h = hashlib.sha256()
    with open(path, 'rb') as f:
        while chunk := f.read(1 << 20):
            h.update(chunk)
    return h.hexdigest()


def cut(base, tree, n):
    """The tree as n tar layers of about the same size: [(blob of each kind, diff_id)]."""
    sizes = {}
    for folder, _, files in os.walk(tree):
        sizes[folder] = sum(os.lstat(os.path.join(folder, f)).st_size for f in files)
    share, lists, so_far = sum(sizes.values()) / n + 1, [[] for _ in range(n)], 0
    for folder in sorted(sizes):
        lists[int(so_far / share)].append(os.path.relpath(folder, tree))
        lists[int(so_far / share)] += [os.path.relpath(e.path, tree) for e in os.scandir(folder) if not e.is_dir(follow_symlinks=False)]
        so_far += sizes[folder]
    found = []
    for i, names in enumerate(lists):
        tar, listed = base / f'{i}.tar', base / f'{i}.list'
        listed.write_bytes(b'\0'.join(os.fsencode(name) for name in names))
        subprocess.run(['tar', '-C', tree, '--format=posix', '--xattrs', '--numeric-owner', '--no-recursion', '--null', '-T', listed, '-cf', tar],
                       check=True, stderr=subprocess.DEVNULL)
        found.append((pack(tar, base), 'sha256:' + hexdigest(tar)))
        tar.unlink()
    return found


def pack(tar, base):
    blobs = {}
    for kind in ('tar.gz', 'tar.zst'):
        blobs[kind] = tar.with_suffix('.' + kind)
        with open(blobs[kind], 'wb') as out:
            subprocess.run([*KINDS[kind], tar], stdout=out, check=True)
    return blobs


def of_layout(layout):
    def document(descriptor):
        return json.loads(blob(descriptor).read_text())

    def blob(descriptor):
        return pathlib.Path(layout, 'blobs', *descriptor['digest'].split(':'))
    manifest = document(json.loads(pathlib.Path(layout, 'index.json').read_text())['manifests'][0])
    kinds = {'gzip': 'tar.gz', 'zstd': 'tar.zst', 'tar': 'tar'}
    return [({kinds[layer['mediaType'].rpartition('+')[2].rpartition('.')[2]]: blob(layer)}, diff_id)
            for layer, diff_id in zip(manifest['layers'], document(manifest['config'])['rootfs']['diff_ids'])]


def layers(base):
    stack = of_layout(options.layout) if options.layout else cut(base, options.tree, options.layers)
    driver = harness.BUILD / 'tests/unit/unpack/unpack_layers'
    environment = {**os.environ, 'BANGER_UNPACK_DIR': os.path.dirname(harness.PROGRAM['banger-unpack'])}
    told = []

    def flatten(image, *words):
        image.unlink(missing_ok=True)
        done = subprocess.run([driver, image, 'seed=' + '00' * 32, *words], env=environment, check=True, capture_output=True)
        synced(image)
        told.append(json.loads(done.stdout))

    def floor(kind):
        lines = ''.join(f'file://{blobs[kind].resolve()} sha256:{hexdigest(blobs[kind])} {diff_id}\n' for blobs, diff_id in stack)
        return milliseconds(lambda: subprocess.run([tool('pull_floor'), base / 'floor'], input=lines, text=True, check=True,
                                                   stdout=subprocess.DEVNULL)) / 1000

    title(f'{len(stack)} layers; seconds, median of {options.rounds}')
    row('', 'banger', 'floor', 'ratio', '')
    for kind in stack[0][0]:
        words = [f'{blobs[kind]},diff_id={diff_id}' for blobs, diff_id in stack]
        ours, theirs = [], []
        for _ in range(options.rounds):
            ours.append(milliseconds(lambda: flatten(base / 'ours', *words)) / 1000)
            theirs.append(floor(kind))
        compare(f'{kind}, against inflate, both hashes, O_DIRECT', ours, theirs, 'under 1.15')
        row('  CPU seconds', number(median([t['cpu_us'] for t in told[-options.rounds:]]) / 1e6), '', '', '')
        row('  MiB of memory', told[-1]['memory'] >> 10, '', '', 'under 60')
    (base / 'records').mkdir()
    recorded = [f'{word},record={base}/records/{i}' for i, word in enumerate(words)]
    replayed = [f'replay={base}/records/{i},diff_id={diff_id}' for i, (_, diff_id) in enumerate(stack)]
    times = [milliseconds(lambda: flatten(base / 'first', f'keep={base}/kept', *recorded)) / 1000 for _ in range(options.rounds)]
    row('  with records', number(median(times)), '', '', '')
    source = base / 'kept' if told[-1]['kept'] else base / 'first'
    times = [milliseconds(lambda: flatten(base / 'again', f'from={source}', *replayed)) / 1000 for _ in range(options.rounds)]
    row(f'  all of it reused ({"shared" if told[-1]["shared"] else "copied"})', number(median(times)), '', '', '')
    print(json.dumps(told[-1]))


def archives_and_trees(base):
    tar = base / 'tree.tar'
    subprocess.run(['tar', '-C', options.tree, '--format=posix', '--xattrs', '--acls', '--numeric-owner', '-cf', tar, '.'],
                   check=True)
    archives = {'tar': tar}
    for kind, command in KINDS.items():
        if command:
            archives[kind] = base / f'tree.{kind}'
            with open(archives[kind], 'wb') as out:
                subprocess.run([*command, tar], stdout=out, check=True)
    result = unpack(tar, base / 'first.ext4')
    title(f'{options.tree}: {result["inodes"]} files, {result["content"] >> 20} MiB; seconds, median of {options.rounds}')
    row('', 'banger', 'other', 'ratio', '')
    ours, extracted, made = {k: [] for k in KINDS}, {k: [] for k in KINDS}, []
    for _ in range(options.rounds):
        for kind, archive in archives.items():
            archive.read_bytes()
            ours[kind].append(milliseconds(lambda: unpack(archive, base / 'ours.ext4')) / 1000)
            extracted[kind].append(milliseconds(lambda: extract(archive, base / 'tree')) / 1000)
        warm(base / 'tree')
        made.append(milliseconds(lambda: mke2fs(base / 'tree', base / 'theirs.ext4', result)) / 1000)
    for kind in KINDS:
        compare(f'{kind}, against bsdtar -x and mke2fs -d', ours[kind], [x + m for x, m in zip(extracted[kind], made)], 'under 0.3')
        compare(f'{kind}, against mke2fs -d of the tree', ours[kind], made, 'under 0.5')
    for name in ('ours', 'theirs'):
        used = os.stat(base / f'{name}.ext4').st_blocks >> 11
        row(f'{"banger" if name == "ours" else "mke2fs"}: MiB on disk', used, '', '', '')
    if options.ctl:
        shutil.rmtree(base / 'tree')
        with running(harness.Banger(base / 'b')) as banger:
            times = [milliseconds(lambda: banger.ctl('image', 'import', tar, '--name', f'n{i}', timeout=600)) / 1000
                     for i in range(options.rounds)]
        row('banger-ctl image import, with digest', number(median(times)), '', '', '')
    print(json.dumps(result))


with directory(options.dir) as scratch:
    (layers if options.layers or options.layout else archives_and_trees)(scratch)
