#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""From a change to its being visible: in a second mount, and as an event on the wire."""
import os
import time

from pairs import arguments, directory, harness, median, p95, row, running, title

options = arguments(__doc__, rounds=300)


def wait_visible(path):
    """Milliseconds until a stat of the path succeeds."""
    start = time.perf_counter()
    while True:
        try:
            os.stat(path)
            return (time.perf_counter() - start) * 1000
        except FileNotFoundError:
            pass


with directory(options.dir) as base, running(harness.Banger(base)) as banger:
    first, second = banger.mount('one'), banger.mount('two')
    in_mount, on_wire = [], []
    with banger.wire() as client:
        for i in range(options.rounds):
            os.mkdir(first / f'drafts/a{i}')
            in_mount.append(wait_visible(second / f'drafts/a{i}'))
            client.call('image.register', {'name': f'b{i}'})
            on_wire.append(wait_visible(second / f'drafts/b{i}'))
    title(f'from the answer to a change until another mount shows it, milliseconds, {options.rounds} rounds')
    row('', 'median', '95th', '', 'wanted (median)')
    row('mkdir in the first mount', f'{median(in_mount):.3f}', f'{p95(in_mount):.3f}', '', 'under 10')
    row('image.register on the wire', f'{median(on_wire):.3f}', f'{p95(on_wire):.3f}', '', 'under 10')
