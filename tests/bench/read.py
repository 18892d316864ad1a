#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reading rootfs.ext4 through the mount: against the file itself, and against a bare keep_cache server."""
import mmap
import os
import random

from pairs import arguments, bare_fs, directory, drop_caches, harness, median, milliseconds, row, running, title

options = arguments(__doc__, megabytes=1024, rounds=5, random_reads=300000)
SIZE = options.megabytes << 20
SLICE = 5000  # random reads in one go
buffer = mmap.mmap(-1, 1 << 20)


def read_all(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        while os.readv(fd, [buffer]):
            pass
    finally:
        os.close(fd)


def random_reads(path, offsets):
    """Microseconds each, of 4 KiB at the offsets."""
    fd = os.open(path, os.O_RDONLY)
    page = memoryview(buffer)[:4096]
    try:
        def all_of_them():
            for offset in offsets:
                os.preadv(fd, [page], offset)
        return milliseconds(all_of_them) * 1000 / len(offsets)
    finally:
        os.close(fd)
        page.release()


def turns(sides, i):
    """The sides, each time another first."""
    items = list(sides.items())
    return items[i % len(items):] + items[:i % len(items)]


def evict(path):
    """Out of that file's own page cache (FUSE's or the disk's), not out of the other's."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


with directory(options.dir) as base:
    image = base / 'image'
    with open(image, 'wb') as f:
        for _ in range(options.megabytes):
            f.write(os.urandom(1 << 20))
    harness.run('mke2fs', '-q', '-F', '-t', 'ext4', '-E', 'nodiscard,lazy_itable_init=1', image)
    with running(harness.Banger(base / 'b')) as banger:
        mount = banger.mount()
        os.mkdir(mount / 'drafts/a')
        harness.run('cp', image, mount / 'drafts/a/rootfs.ext4', timeout=600)
        os.rename(mount / 'drafts/a', mount / 'images/a')
        [stored] = (banger.state / 'images').glob('*/rootfs.ext4')
        with bare_fs(base / 'bare', 'file', stored) as bare:
            sides = {'file': stored, 'banger': mount / 'images/a/rootfs.ext4', 'bare': bare / 'file'}
            rate = {}
            for i in range(options.rounds):
                for side, path in turns(sides, i):
                    drop_caches()
                    rate.setdefault((side, 'uncached'), []).append(SIZE / 1e3 / milliseconds(lambda: read_all(path)))
                    for _ in range(3):
                        rate.setdefault((side, 'second read'), []).append(
                            SIZE / 1e3 / milliseconds(lambda: read_all(path)))
                    if side != 'file':
                        evict(path)
                        read_all(stored)
                        rate.setdefault((side, "in the disk's cache only"), []).append(
                            SIZE / 1e3 / milliseconds(lambda: read_all(path)))
            dice = random.Random(1)
            offsets = [dice.randrange(SIZE >> 12) << 12 for _ in range(SLICE)]
            latency = {side: [] for side in sides}
            for side, path in sides.items():
                read_all(path)
            for i in range(options.random_reads // SLICE):
                for side, path in turns(sides, i):
                    latency[side].append(random_reads(path, offsets))
    title(f'reading {options.megabytes} MB, MB/s (medians of {options.rounds})')
    row('', 'banger', 'file', 'ratio', 'wanted')

    def line(kind, other, wanted):
        a, b = median(rate['banger', kind]), median(rate[other, kind])
        row(f'{kind}, against the {other}', f'{a:.0f}', f'{b:.0f}', f'{a / b:.2f}', wanted)
    line('uncached', 'file', 'at least 0.9')
    line('uncached', 'bare', '')
    line("in the disk's cache only", 'bare', '')
    line('second read', 'bare', 'at least 0.91')
    line('second read', 'file', '')
    title('4 KiB random reads, cached, microseconds each')
    row('', 'banger', 'file', 'speed', 'wanted')
    for other, wanted in (('file', 'at least 0.85'), ('bare', '')):
        a, b = median(latency['banger']), median(latency[other])
        row(f'against the {other}', f'{a:.2f}', f'{b:.2f}', f'{b / a:.2f}', wanted)
