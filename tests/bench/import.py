#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An archive to an ext4 image, on the disk: banger-unpack against bsdtar -x and mke2fs -d, and against mke2fs -d alone,
which is given the unpacked tree. Each side's output is synced; what it reads is in the page cache.

With --ctl also the whole way, banger-ctl image import: the digest is made and the image is published too.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys

from pairs import arguments, compare, directory, harness, median, milliseconds, number, row, running, title

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / 'scenario'))
import test_import  # noqa: E402

options = arguments(__doc__, tree='/usr/share', rounds=3, ctl=0)
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


with directory(options.dir) as base:
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
