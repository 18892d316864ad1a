#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""mkdir, promote and rmdir of an image through the mount, against the durable floor (durable_floor.c)."""
import os
import subprocess

from pairs import arguments, compare, directory, harness, milliseconds, running, row, title, tool

options = arguments(__doc__, rounds=200, size=1 << 20)


class Floor:
    """durable_floor, a line in and the microseconds out."""

    def __init__(self, path):
        path.mkdir()
        self.path = path
        self.process = subprocess.Popen([tool('durable_floor'), path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, verb, name):
        self.process.stdin.write(f'{verb} {name}\n')
        self.process.stdin.flush()
        return int(self.process.stdout.readline()) / 1000

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def write(source, path):
    """What cp leaves: whole, not synced."""
    with open(path, 'wb') as f:
        f.write(source)


with directory(options.dir) as base:
    image = base / 'rootfs.ext4'
    harness.run('mke2fs', '-q', '-F', '-t', 'ext4', image, str(options.size // 1024) + 'k')
    content = image.read_bytes()
    with running(harness.Banger(base / 'b')) as banger:
        mount = banger.mount()
        floor = Floor(base / 'floor')
        times = {(side, verb): [] for side in ('banger', 'floor') for verb in ('register', 'promote', 'delete')}
        for i in range(options.rounds):
            name = f'n{i}'
            for side in ('floor', 'banger') if i % 2 else ('banger', 'floor'):
                if side == 'floor':
                    times[side, 'register'].append(floor.ask('register', name))
                    write(content, floor.path / 'drafts' / name / 'rootfs.ext4')
                    times[side, 'promote'].append(floor.ask('promote', name))
                    times[side, 'delete'].append(floor.ask('delete', name))
                else:
                    draft, published = mount / 'drafts' / name, mount / 'images' / name
                    times[side, 'register'].append(milliseconds(lambda: os.mkdir(draft)))
                    write(content, draft / 'rootfs.ext4')
                    times[side, 'promote'].append(milliseconds(lambda: os.rename(draft, published)))
                    times[side, 'delete'].append(milliseconds(lambda: os.rmdir(published)))
        floor.close()
    title(f'changes through the mount, {options.rounds} rounds, root filesystem of {options.size >> 10} KiB, milliseconds (median)')
    row('', 'banger', 'floor', 'ratio', 'wanted')
    for verb, call in (('register', 'mkdir'), ('promote', 'rename to images/'), ('delete', 'rmdir')):
        compare(call, times['banger', verb], times['floor', verb], 'at most 1.5')
