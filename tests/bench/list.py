#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""100,000 images: listing them against a bare FUSE server, lookups against a registry of 1,000, memory, start times.

The state is on tmpfs unless --dir says where: filling it commits 100,000 times. With a --dir on a disk, the start is
measured from a cold one.
"""
import os
import random
import time

from pairs import (arguments, bare_fs, command, compare, directory, drop_caches, harness, memory_of, milliseconds, number, row,
                   running, title, tool)

options = arguments(__doc__, images=100000, rounds=5)
LISTS = (('ls -U', ('ls', '-U')), ('find -maxdepth 1', ('find',)), ('ls -l', ('ls', '-l')))
SLICE = 500  # images that one find walks into


def listing(name, args, path):
    return command(*args, path, *(['-maxdepth', '1'] if 'maxdepth' in name else []))


def fill(base, count):
    banger = harness.Banger(base)
    start = time.monotonic()
    harness.run(tool('fill'), banger.state, count, timeout=3600)
    print(f'{count} images filled in {time.monotonic() - start:.0f} s')
    return banger


def lookups(sides, rounds=1000):
    """Microseconds of a lookup that the kernel does not know, and of one in vain: for each (mount, count), in turns."""
    dice = random.Random(1)
    names = {count: [f'image-{i:06}' for i in dice.sample(range(count), rounds)] for _, count in sides}
    found = {count: ([], []) for _, count in sides}

    def look(mount, name):
        try:
            os.stat(mount / 'images' / name)
        except FileNotFoundError:
            pass
    for start in range(0, rounds, 50):
        for mount, count in sides:
            for n in names[count][start:start + 50]:
                found[count][0].append(milliseconds(lambda: look(mount, n)) * 1000)
            for i in range(start, start + 50):
                found[count][1].append(milliseconds(lambda: look(mount, f'absent-{i}')) * 1000)
    return found

def start_times(banger, how):
    """Start and mount; the mount."""
    start = time.monotonic()
    banger.start()
    ready = time.monotonic() - start
    start = time.monotonic()
    mount = banger.mount()
    row(f'bangerd ready after, {how}', number(ready), '', '', 'under 1')
    row(f'mounted after, {how}', number(time.monotonic() - start), '', '', 'under 2')
    return mount


def walks(sides):
    """Into every image, some at a time on each side in turns: {side: milliseconds of each step}."""
    times = {side: [] for side, _ in sides}
    for first in range(0, options.images, SLICE):
        names = [f'image-{i:06}' for i in range(first, min(first + SLICE, options.images))]
        for side, path in sides if first // SLICE % 2 else sides[::-1]:
            times[side].append(milliseconds(command('find', *names, cwd=path)))
    return times


def listings(mount, bare):
    sides = (('banger', mount / 'images'), ('bare', bare))
    times, walked = {}, []
    for i in range(options.rounds):
        for name, args in LISTS:
            for side, path in sides if i % 2 else sides[::-1]:
                times.setdefault((name, side), []).append(milliseconds(listing(name, args, path)))
        walked.append(walks(sides))
    title('listing, milliseconds: the first pass, and the median of the later ones')
    row('', 'banger', 'bare', 'ratio', 'wanted')
    for name, _ in LISTS:
        compare(f'{name}, first', times[name, 'banger'][:1], times[name, 'bare'][:1], 'at most 1.3')
        compare(f'{name}, later', times[name, 'banger'][1:], times[name, 'bare'][1:], 'at most 1.3')
    compare(f'find in {SLICE} images, first', walked[0]['banger'], walked[0]['bare'])
    later = {side: [t for w in walked[1:] for t in w[side]] for side, _ in sides}
    compare(f'find in {SLICE} images, later', later['banger'], later['bare'])


def memory(banger, mount, when):
    title(f'memory, MB, {when}')
    row('', 'resident', 'private', '', 'wanted')
    total = [0, 0]
    for name, pid in (('bangerd', banger.daemon.pid), ('bangerfs (both processes)', mount.process.pid)):
        resident, private = memory_of(pid)
        total = [total[0] + resident, total[1] + private]
        row(name, number(resident), number(private))
    row('together', number(total[0]), number(total[1]), '', 'under 150')


with directory(options.dir, memory=not options.dir) as base:
    few, many = fill(base / 'few', 1000), fill(base / 'many', options.images)
    title(f'{options.images} images')
    row('', 'seconds', '', '', 'wanted')
    drop_caches()
    with running(few, start=False), running(many, start=False):
        mount = start_times(many, 'caches dropped')
        many.check_clean()
        mount = start_times(many, 'again')
        found = lookups(((few.start().mount(), 1000), (mount, options.images)))
        memory(many, mount, 'after its start')
        with bare_fs(base / 'bare', 'names', options.images) as bare:
            listings(mount, bare)
        memory(many, mount, 'after the listings')
    title(f'a lookup, microseconds: among {options.images} against among 1000')
    row('', str(options.images), '1000', 'ratio', 'wanted')
    for i, label in enumerate(('of a name that is there', 'of one that is not')):
        compare(label, found[options.images][i], found[1000][i], 'no growth')
