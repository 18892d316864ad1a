#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Browsing rootfs/NAME of a Debian image: against the kernel's ext4 on a loop device, and fuse2fs.

find, ls -lR, tar c, grep -r, each as a first pass after dropped caches and as a second one, the sides in turn.
Ratios are speeds: the kernel's time by ours, so 1 is as fast and 0.5 takes twice as long.
"""
import contextlib
import os
import pathlib
import shutil
import subprocess
import time

from pairs import arguments, directory, drop_caches, harness, median, milliseconds, running, title

options = arguments(__doc__, image='', rounds=5, fuse2fs_rounds=1, alone=0, tools='find,ls,tar,grep')
PACKAGES = 'build-essential,python3,perl,git,vim,libboost1.74-dev,libicu-dev'
WANT = {'first': 0.7, 'second': 0.9}
WANT_FUSE2FS = {'first': 2.5, 'second': 12}
TOOLS = {
    'find': lambda root: ['find', root],
    'ls': lambda root: ['ls', '-lR', root],
    'tar': lambda root: ['sh', '-c', 'tar -C "$0" -cf - . | cat', root],
    'grep': lambda root: ['grep', '-r', 'no such words', root / 'usr/include'],
}


def make_image(path):
    """A Debian root filesystem of 33,000 files; kept for the next run where --dir is given."""
    if path.exists():
        return path
    tar = path.with_suffix('.tar')
    subprocess.run(['mmdebstrap', '--quiet', '--variant=minbase', '--mode=root', f'--include={PACKAGES}', 'bookworm', tar],
                   check=True)
    with open(path, 'wb') as f:
        f.truncate(2 << 30)
    subprocess.run(['mkfs.ext4', '-q', '-F', path], check=True)
    point = path.parent / 'fill'
    point.mkdir(exist_ok=True)
    subprocess.run(['mount', '-o', 'loop', path, point], check=True)
    try:
        subprocess.run(['tar', '-xpf', tar, '-C', point, '--xattrs', '--xattrs-include=*'], check=True)
    finally:
        subprocess.run(['umount', point], check=True)
    tar.unlink()
    return path


@contextlib.contextmanager
def mounted(point, *command):
    point.mkdir(parents=True, exist_ok=True)
    subprocess.run([*command, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(['umount', point], check=True)


@contextlib.contextmanager
def served_alone(base, image):
    """The content server on the image file, without bangerd."""
    program = next(p for p in harness.BUILD.rglob('serve_image') if p.is_file())
    point = base / 'alone'
    point.mkdir()
    process = subprocess.Popen([program, point, f'it={image}'], stdout=subprocess.PIPE)
    process.stdout.readline()
    try:
        yield point / 'it'
    finally:
        subprocess.run(['umount', point], check=True)
        process.wait(10)


@contextlib.contextmanager
def served(base, image):
    """Imported into a registry and mounted by bangerfs."""
    shutil.rmtree(base / 'banger', ignore_errors=True)  # of an earlier run with --dir
    with running(harness.Banger(base / 'banger')) as banger:
        banger.ctl('image', 'import', image, '--name', 'deb', timeout=600)
        yield banger.mount() / 'rootfs' / 'deb'


def passes(root, command, times):
    """One first and one second pass."""
    drop_caches()
    time.sleep(0.2)
    for which in ('first', 'second'):
        with open(os.devnull, 'wb') as null:
            times[which].append(milliseconds(
                lambda: subprocess.run([str(a) for a in command(root)], stdout=null, stderr=null)))


def measure(roots, name):
    times = {who: {'first': [], 'second': []} for who in roots}
    for round_number in range(options.rounds):
        for who, root in roots.items():
            if who != 'fuse2fs' or round_number < options.fuse2fs_rounds:
                passes(root, TOOLS[name], times[who])
    for which in ('first', 'second'):
        ours, kernel = (median(times[who][which]) for who in ('ours', 'kernel'))
        cells = [f'{name} {which}', f'{ours:.0f}', f'{kernel:.0f}', f'{kernel / ours:.2f}', f'want {WANT[which]}']
        if times.get('fuse2fs', {}).get(which):
            other = median(times['fuse2fs'][which])
            cells += [f'{other:.0f}', f'{other / ours:.1f}', f'want {WANT_FUSE2FS[which]}']
        print(''.join(c.rjust(w) for c, w in zip(cells, (14, 9, 9, 8, 11, 10, 8, 11))), flush=True)


def main():
    with directory(options.dir) as base:
        image = pathlib.Path(options.image) if options.image else make_image(base / 'debian.ext4')
        alone = options.alone or not {'bangerd', 'bangerfs', 'banger-ctl'} <= set(harness.PROGRAM)
        fuse2fs = options.fuse2fs_rounds and shutil.which('fuse2fs')
        with contextlib.ExitStack() as stack:
            roots = {'ours': stack.enter_context((served_alone if alone else served)(base, image)),
                     'kernel': stack.enter_context(mounted(base / 'kernel', 'mount', '-o', 'loop,ro', image))}
            if fuse2fs:
                roots['fuse2fs'] = stack.enter_context(mounted(base / 'fuse2fs', 'fuse2fs', '-o', 'ro', image))
            files = len(subprocess.run(['find', roots['kernel']], stdout=subprocess.PIPE, check=True).stdout.splitlines())
            title(f'Browsing {files} files, ms{" (server alone)" if alone else ""}')
            print(''.join(c.rjust(w) for c, w in zip(
                ('', 'ours', 'kernel', 'speed', '', *(('fuse2fs', 'times') if fuse2fs else ())),
                (14, 9, 9, 8, 11, 10, 8))))
            for name in options.tools.split(','):
                measure(roots, name)


main()
