#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""100,000 images: listing them against a bare FUSE server, lookups against a registry of 1,000, memory, start times.

The state is on tmpfs: filling it commits 100,000 times.
"""
import os
import random
import time

from pairs import (arguments, bare_fs, command, compare, directory, harness, median, memory_of, milliseconds, number, row,
                   running, title, tool)

options = arguments(__doc__, images=100000, rounds=5)
LISTS = (('ls -U', ('ls', '-U')), ('find -maxdepth 1', ('find',)), ('find', ('find',)), ('ls -l', ('ls', '-l')))


def listing(name, args, path):
    return command(*args, path, *(['-maxdepth', '1'] if 'maxdepth' in name else []))


def fill(base, count):
    banger = harness.Banger(base)
    start = time.monotonic()
    harness.run(tool('fill'), banger.state, count, timeout=3600)
    print(f'{count} images filled in {time.monotonic() - start:.0f} s')
    return banger


def lookups(mount, count, rounds=3000):
    """Microseconds of a lookup that the kernel does not know, and of one in vain."""
    dice = random.Random(1)
    names = [f'image-{dice.randrange(count):06}' for _ in range(rounds)]
    absent = [f'absent-{i}' for i in range(rounds)]
    cold = [milliseconds(lambda: os.stat(mount / 'images' / n)) * 1000 for n in names]

    def missing(name):
        try:
            os.stat(mount / 'images' / name)
        except FileNotFoundError:
            pass
    return cold, [milliseconds(lambda: missing(n)) * 1000 for n in absent]


with directory(options.dir, memory=True) as base:
    found = {}
    for count in (1000, options.images):
        banger = fill(base / f'n{count}', count)
        start = time.monotonic()
        with running(banger):
            ready = time.monotonic() - start
            start = time.monotonic()
            mount = banger.mount()
            mounted = time.monotonic() - start
            found[count] = lookups(mount, count)
            if count == 1000:
                continue
            title(f'{count} images')
            row('', 'seconds', '', '', 'wanted')
            row('bangerd ready after', number(ready), '', '', 'under 1')
            row('mounted after', number(mounted), '', '', 'under 2')
            with bare_fs(base / 'bare', 'names', count) as bare:
                times = {}
                for i in range(options.rounds):
                    for name, args in LISTS:
                        for side, path in (('banger', mount / 'images'), ('bare', bare)):
                            times.setdefault((name, side), []).append(milliseconds(listing(name, args, path)))
                title('listing, milliseconds: the first pass, and the median of the later ones')
                row('', 'banger', 'bare', 'ratio', 'wanted')
                for name, _ in LISTS:
                    compare(f'{name}, first', times[name, 'banger'][:1], times[name, 'bare'][:1], 'at most 1.3')
                    compare(f'{name}, later', times[name, 'banger'][1:], times[name, 'bare'][1:], 'at most 1.3')
            title('memory, MB')
            row('', 'resident', 'private', '', 'wanted')
            total = [0, 0]
            for name, pid in (('bangerd', banger.daemon.pid), ('bangerfs (both processes)', mount.process.pid)):
                resident, private = memory_of(pid)
                total = [total[0] + resident, total[1] + private]
                row(name, number(resident), number(private))
            row('together', number(total[0]), number(total[1]), '', 'under 150')
    title(f'a lookup, microseconds: among {options.images} against among 1000')
    row('', str(options.images), '1000', 'ratio', 'wanted')
    for i, label in enumerate(('of a name that is there', 'of one that is not')):
        compare(label, found[options.images][i], found[1000][i], 'no growth')
    assert median(found[1000][0]) > 0
