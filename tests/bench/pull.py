#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A pull from a real docker-registry on loopback to a published ext4 image, client state cold each time: against what people
use instead, and against a floor that only fetches, hashes, inflates and writes (pull_floor.c). Images of Debian: base, multi
and big, in gzip and zstd (debian_images.py; the first run makes them, in --dir to keep them).

--layouts DIR takes images from OCI layouts instead: DIR/NAME.raw, tag "latest", for each NAME of --images (oci_layouts.py).
Whatever made them, their layers are compressed anew by skopeo (once, kept in --dir) in each of --kinds.

Peers that are installed take part: containerd's ctr, podman, skopeo with umoci and mke2fs, crane with a mke2fs that reads
archives (e2fsprogs 1.47.1; both are in Debian 13: --debian13 DIR names a root directory that has them). All of them in turn,
round after round. Also: memory of all of banger's processes at their peak, and a second image that shares all but a small
top layer, on a filesystem that clones.
"""
import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time

from pairs import arguments, directory, drop_caches, harness, median, number, running, title, tool

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / 'scenario'))
import debian_images  # noqa: E402
import oci_layouts  # noqa: E402
import registry  # noqa: E402

options = arguments(__doc__.split('\n')[0], rounds=3, images='base,multi,big', kinds='gz,zst', peers='crane,ctr,podman,umoci', debian13='',
                    layouts='', second=3)
# How many times as long as banger each peer should take at least, for the large image; half of that for the others.
WANT = {'crane': 5, 'ctr': 6, 'podman': 9, 'umoci': 14}
FLOOR = 1.4
SECOND = 0.15
MEMORY = 100 << 20


class Memory(threading.Thread):
    """The most that bangerd and its children had at once, and the sum of what each had at most, of resident memory."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.most, self.peaks, self.over = pid, 0, {}, threading.Event()

    def run(self):
        while not self.over.wait(0.02):
            now = 0
            for pid in (self.pid, *harness.children(self.pid)):
                with contextlib.suppress(OSError):
                    text = pathlib.Path(f'/proc/{pid}/status').read_text()
                    peak, current = (re.search(rf'{f}:\s+(\d+) kB', text) for f in ('VmHWM', 'VmRSS'))
                    if peak:
                        self.peaks[pid] = max(self.peaks.get(pid, 0), int(peak.group(1)) << 10)
                        now += int(current.group(1)) << 10
            self.most = max(self.most, now)

    def stop(self):
        self.over.set()
        self.join()


def timed(do):
    drop_caches()
    start = time.perf_counter()
    result = do()
    return time.perf_counter() - start, result


def command(*args, **kwargs):
    done = subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          errors='replace', **kwargs)
    assert done.returncode == 0, f'{args}: {done.stderr[-2000:]}'


def synced(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


# ---- the sides: each gives seconds; what it leaves is removed outside of them

def pull_banger(base, reference, layers, memory):
    """A fresh daemon for each pull; its start is not part of the time, its memory is measured all along."""
    with running(harness.Banger(base / 'b')) as banger:
        watch = Memory(banger.daemon.pid) if memory is not None else None
        if watch:
            watch.start()
        seconds, _ = timed(lambda: banger.ctl('image', 'pull', reference, '--name', 'it', timeout=900))
        if watch:
            watch.stop()
            memory.append((watch.most, sum(watch.peaks.values())))
    shutil.rmtree(base / 'b')
    return seconds


def pull_floor(base, reference, layers):
    server, _, repository = reference.rpartition(':')[0].partition('/')
    lines = ''.join(f'http://{server}/v2/{repository}/blobs/{d} {d} {i}\n' for d, i, s in sorted(layers, key=lambda layer: -layer[2]))
    out = base / 'floor.img'

    def do():
        subprocess.run([tool('pull_floor'), out], input=lines, text=True, check=True, stdout=subprocess.DEVNULL)
    seconds, _ = timed(do)
    out.unlink()
    return seconds


def pull_crane(base, reference, layers):
    root = pathlib.Path(options.debian13) if options.debian13 else None
    inside = ['chroot', root] if root else []
    image = base / 'crane.ext4'
    size = UNPACKED[reference] * 5 // 4 + (64 << 20)
    with open(image, 'wb') as file:
        file.truncate(size)
    target = image
    if root:
        (root / 'crane.ext4').touch()
        command('mount', '--bind', image, root / 'crane.ext4')
        target = '/crane.ext4'
    try:
        def do():
            producer = subprocess.Popen([*inside, 'crane', 'export', '--insecure', reference, '-'], stdout=subprocess.PIPE)
            subprocess.run([*inside, 'mke2fs', '-q', '-F', '-t', 'ext4', '-d', '-', target], stdin=producer.stdout, check=True,
                           stdout=subprocess.DEVNULL)
            assert producer.wait() == 0
            synced(image)
        return timed(do)[0]
    finally:
        if root:
            command('umount', root / 'crane.ext4')
            (root / 'crane.ext4').unlink()
        image.unlink()


def pull_ctr(base, reference, layers):
    top = base / 'containerd'
    top.mkdir()
    (top / 'config.toml').write_text(f'version = 2\nroot = "{top}/root"\nstate = "{top}/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
                                     f'[grpc]\n  address = "{top}/sock"\n')
    with open(top / 'log', 'wb') as log:
        daemon = subprocess.Popen(['containerd', '-c', top / 'config.toml'], stdout=log, stderr=log)
    try:
        harness.until((top / 'sock').exists, 'containerd', 20)
        time.sleep(0.5)
        return timed(lambda: command('ctr', '-a', top / 'sock', 'images', 'pull', '--plain-http', reference))[0]
    finally:
        daemon.terminate()
        daemon.wait(30)
        shutil.rmtree(top)


def pull_podman(base, reference, layers):
    top = base / 'podman'
    podman = ['podman', '--root', top / 'root', '--runroot', top / 'run', '--storage-driver', 'overlay', '--cgroup-manager', 'cgroupfs']
    try:
        return timed(lambda: command(*podman, 'pull', '-q', '--tls-verify=false', reference))[0]
    finally:
        subprocess.run([str(a) for a in (*podman, 'system', 'reset', '-f')], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        harness.force_unmount(top)
        shutil.rmtree(top, ignore_errors=True)


def pull_umoci(base, reference, layers):
    top = base / 'umoci'
    top.mkdir()
    # umoci knows no zstd: skopeo turns it into gzip, as whoever uses the two would have it.
    extra = ['--dest-compress-format', 'gzip'] if '-zst' in reference else []
    size = UNPACKED[reference] * 5 // 4 + (64 << 20)

    def do():
        command('skopeo', 'copy', '-q', '--src-tls-verify=false', *extra, f'docker://{reference}', f'oci:{top}/layout:it')
        command('umoci', 'unpack', '--image', f'{top}/layout:it', top / 'bundle')
        with open(top / 'image.ext4', 'wb') as file:
            file.truncate(size)
        command('mke2fs', '-q', '-F', '-t', 'ext4', '-d', top / 'bundle/rootfs', top / 'image.ext4')
        synced(top / 'image.ext4')
    try:
        return timed(do)[0]
    finally:
        shutil.rmtree(top)


PEERS = {'crane': pull_crane, 'ctr': pull_ctr, 'podman': pull_podman, 'umoci': pull_umoci}
UNPACKED = {}  # bytes of all layers, by reference


def reads_archives(mke2fs):
    done = subprocess.run([*mke2fs, '-V'], capture_output=True, text=True)
    version = re.search(r'mke2fs (\d+)\.(\d+)(?:\.(\d+))?', done.stderr)
    return version and tuple(int(n or 0) for n in version.groups()) >= (1, 47, 1)


def missing(peer):
    """Why a peer cannot take part; '' when it can."""
    if peer == 'crane':
        inside = ['chroot', options.debian13] if options.debian13 else []
        has = subprocess.run([*inside, 'sh', '-c', 'command -v crane'], capture_output=True).returncode == 0
        return '' if has and reads_archives([*inside, 'mke2fs']) else 'crane, or a mke2fs that reads archives: see --debian13'
    needed = {'ctr': ('ctr', 'containerd'), 'podman': ('podman',), 'umoci': ('skopeo', 'umoci', 'mke2fs')}[peer]
    return ' '.join(n for n in needed if not shutil.which(n))


# ---- the runs

def line(label, values, ours=None, want=''):
    middle = median(values)
    spread = f'{min(values):.2f}–{max(values):.2f}' if len(values) > 1 else ''
    ratio = f'{middle / ours:.2f}' if ours else ''
    print(''.join(str(c).rjust(w) if i else str(c).ljust(w)
                  for i, (c, w) in enumerate(zip((label, number(middle), spread, ratio, want), (36, 9, 16, 9, 32)))), flush=True)
    return middle


def compare(base, reference, layers, name):
    ours, floor, memory, others = [], [], [], {p: [] for p in peers}
    for n in range(options.rounds):
        ours.append(pull_banger(base, reference, layers, memory))
        floor.append(pull_floor(base, reference, layers))
        for peer in others:
            others[peer].append(PEERS[peer](base, reference, layers))
        print(f'  {name}, round {n + 1}: banger {ours[-1]:.2f}, floor {floor[-1]:.2f}', *(f'{p} {v[-1]:.2f}' for p, v in others.items()),
              file=sys.stderr, flush=True)
    a = line(f'{name}: banger', ours)
    f = median(floor)
    line('  floor', floor, a, f'ours/floor {a / f:.2f}, want ≤ {FLOOR}')
    for peer, values in others.items():
        want = WANT[peer] * (1 if name.startswith('big') else 0.5)
        line(f'  {peer}', values, a, f'want ≥ {want:g}')
    most, peaks = max(m for m, _ in memory), max(p for _, p in memory)
    print(f'  memory of all processes: {most >> 20} MB at once, {peaks >> 20} MB of each one\'s peak; want < {MEMORY >> 20}', flush=True)


@contextlib.contextmanager
def cloning_disk(base):
    """xfs with reflinks, else btrfs, in a file; None where there is neither."""
    makers = [m for m in (['mkfs.xfs', '-q', '-m', 'reflink=1'], ['mkfs.btrfs', '-q']) if shutil.which(m[0])]
    if not makers:
        yield None
        return
    image, point = base / 'clone.disk', base / 'clone'
    with open(image, 'wb') as file:
        file.truncate(12 << 30)
    command(*makers[0], image)
    point.mkdir()
    command('mount', '-o', 'loop', image, point)
    try:
        yield point
    finally:
        command('umount', point)
        point.rmdir()
        image.unlink()


def second_image(base, host):
    """big, then the same with a small layer on top."""
    with cloning_disk(base) as point:
        if not point:
            print('a second image: needs mkfs.xfs or mkfs.btrfs')
            return
        first, second = [], []
        for _ in range(options.second):
            with running(harness.Banger(point / 'b')) as banger:
                for name, times in (('big-gz', first), ('top-gz', second)):
                    times.append(timed(lambda: banger.ctl('image', 'pull', f'{host}/{name}:latest', '--name', name, timeout=900))[0])
            shutil.rmtree(point / 'b')
        a, b = median(first), median(second)
        print(f'a second image that shares all but a small layer: {b:.2f} s after {a:.2f} s, {b / a:.3f}; want ≤ {SECOND}', flush=True)


def fill(base, host, wanted):
    """Pushes what is wanted; gives {repository: layers}, and a function that says how large an image is unpacked."""
    if options.layouts:
        keep = base / 'layouts'
        pushed = oci_layouts.push(options.layouts, keep, host, wanted | ({'big-gz'} if options.second else set()))
        if options.second:
            oci_layouts.push_top(host, 'big-gz', 'top-gz')
        return pushed, lambda name: oci_layouts.unpacked(options.layouts, keep, name)
    tars = debian_images.make(base / 'images')
    pushed = debian_images.push(base / 'images', host, wanted | ({'big-gz', 'top-gz'} if options.second else set()))
    return pushed, lambda name: sum(f.stat().st_size for f in tars[name])


with directory(options.dir) as base:
    peers = []
    for peer in filter(None, options.peers.split(',')):
        why = missing(peer)
        print(f'{peer} takes no part: needs {why}') if why else peers.append(peer)
    server = registry.DockerRegistry(base / 'registry')
    try:
        names, kinds = options.images.split(','), options.kinds.split(',')
        wanted = {f'{n}-{k}' for n in names for k in kinds}
        pushed, sizes = fill(base, server.host, wanted)
        title(f'Pull; seconds, median of {options.rounds}, least to most, times as long as banger')
        for kind in kinds:
            for name in names:
                reference = f'{server.host}/{name}-{kind}:latest'
                UNPACKED[reference] = sizes(name)
                compare(base, reference, pushed[f'{name}-{kind}'], f'{name} {kind}')
        if options.second:
            second_image(base, server.host)
    finally:
        server.close()
        shutil.rmtree(base / 'registry')
