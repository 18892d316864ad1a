# SPDX-License-Identifier: Apache-2.0
"""What every benchmark here shares: pairs in one run, medians, ratios.

Two sides of a comparison are measured alternately in one run, because absolute times on a shared machine move by
half from run to run; the ratio of the medians is the result. Nothing here is a test: no figure fails a run.

    BANGER_BUILD=DIR   a release build (meson setup DIR -Dbuildtype=release)
"""
import argparse
import contextlib
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / 'scenario'))
import harness  # noqa: E402


def arguments(description, **defaults):
    """--rounds and the like, each with its default."""
    parser = argparse.ArgumentParser(description=description)
    for name, value in defaults.items():
        parser.add_argument('--' + name.replace('_', '-'), type=type(value), default=value, help=f'default {value}')
    parser.add_argument('--dir', help='where the state is kept (default: a temporary directory)')
    return parser.parse_args()


@contextlib.contextmanager
def directory(path=None, memory=False):
    """A scratch directory, on tmpfs if `memory`; unmounted and removed at the end."""
    base = path or tempfile.mkdtemp(prefix='banger-bench-', dir='/dev/shm' if memory else None)
    try:
        yield pathlib.Path(base)
    finally:
        harness.force_unmount(base)
        if not path:
            shutil.rmtree(base, ignore_errors=True)


@contextlib.contextmanager
def running(banger, start=True):
    try:
        yield banger.start() if start else banger
    finally:
        wrong = banger.check_clean()
        if wrong:
            print('\n'.join(wrong), file=sys.stderr)


def tool(name):
    return harness.BUILD / 'tests/bench' / name


@contextlib.contextmanager
def bare_fs(mountpoint, *args):
    """The bare FUSE server of bare_fs.c, mounted."""
    mountpoint.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([tool('bare_fs'), mountpoint, *map(str, args)])
    try:
        harness.until(lambda: harness.mounts_under(mountpoint), 'the bare server')
        yield mountpoint
    finally:
        process.terminate()
        process.wait(10)
        harness.force_unmount(mountpoint)


def milliseconds(do):
    start = time.perf_counter()
    do()
    return (time.perf_counter() - start) * 1000


def command(*args, **kwargs):
    """A function that runs a command, its output thrown away."""
    def do():
        subprocess.run([str(a) for a in args], stdout=subprocess.DEVNULL, check=True, **kwargs)
    return do


def drop_caches():
    subprocess.run(['sync'], check=True)
    pathlib.Path('/proc/sys/vm/drop_caches').write_text('3')


def median(values):
    return statistics.median(values)


def p95(values):
    return sorted(values)[int(len(values) * 0.95)]


def row(*cells):
    widths = (44, 12, 12, 8, 20)
    print(''.join(str(c).ljust(w) if i == 0 else str(c).rjust(w) for i, (c, w) in enumerate(zip(cells, widths))), flush=True)


def number(value):
    return f'{value:.3f}' if value < 1 else f'{value:.2f}' if value < 100 else f'{value:.0f}'


def compare(label, ours, theirs, wanted=''):
    """One line: both medians and ours/theirs."""
    a, b = median(ours), median(theirs)
    row(label, number(a), number(b), f'{a / b:.2f}' if b else '-', wanted)
    return a / b if b else None


def memory_of(pid):
    """(resident, private) of a process and its children, in MB."""
    resident = private = 0
    for p in (pid, *harness.children(pid)):
        with open(f'/proc/{p}/smaps_rollup') as f:
            fields = dict(line.split(':', 1) for line in f if ':' in line)
        resident += int(fields['Rss'].split()[0])
        private += int(fields['Private_Dirty'].split()[0]) + int(fields['Private_Clean'].split()[0])
    return resident / 1024, private / 1024


def title(text):
    print(f'\n{text}  ({os.uname().release}, {os.cpu_count()} cores)')
