# SPDX-License-Identifier: Apache-2.0
"""kill -9 of bangerd and of banger-unpack at random moments of 100 pulls, and disks that fill up: nothing half-published,
nothing left but what the next pull goes on from, and that one succeeds with the bytes that an undisturbed pull gives.
"""
import concurrent.futures
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest

import harness
import images
import pulls
import test_crash
from archives import archive, directory, hardlink, member, symlink
from conftest import QUICK
from images import Image, Layer, Store
from registry import Registry, throttle

pytestmark = [pytest.mark.needs('banger-unpack', 'e2fsck'), pytest.mark.slow]
MIB = 1 << 20
ROUNDS = 16 if QUICK else 50   # of each of two kinds
RATE = 12 * MIB                # bytes a second and transfer


def random_image(seed):
    """Three layers, 3 MB that do not compress, changes of what is below."""
    dice = random.Random(seed)
    return Image(archive(directory('./'), *(member(f'd/{n}', dice.randbytes(dice.choice((0, 100, 30_000)))) for n in range(40)), hardlink('h', 'd/3')),
                 archive(member('big', dice.randbytes(2_500_000)), member('d/.wh.5'), symlink('l', 'd')),
                 Layer(archive(member('d/5', dice.randbytes(100_000)), member('.wh.h')), images.zstd_frame))


class Round:
    """An image of its own, in the registry."""

    def __init__(self, server, kind, number):
        self.store, self.repository = Store(), f'{kind}/{number}'
        self.said = random_image(f'{kind}{number}').put(self.store)
        self.server = server
        server.add(self.repository, self.store, {'it': self.said})
        self.reference = f'{server.host}/{self.repository}:it'

    def gets(self, since=0):
        return [r for r in self.server.asked(f'GET /v2/{self.repository}/blobs/') if r.at >= since]

    def size(self):
        """Of its blobs; the manifest is none."""
        return sum(len(data) for digest, data in self.store.items() if digest != self.said['digest'])


def start(banger, reference, name):
    return subprocess.Popen([harness.PROGRAM['banger-ctl'], 'image', 'pull', reference, '--name', name], env=banger.env,
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def unpackers(banger):
    return [pid for pid, command in harness.children(banger.daemon.pid).items() if 'banger-unpack' in command]


def check_all_or_nothing(banger, name):
    """After the daemon is up: the image is there whole or not at all."""
    banger.settled()
    there = banger.images()
    assert set(there) <= {('published', name)}
    banger.assert_consistent()
    pulls.assert_cache_sound(banger)
    assert not unpackers(banger)
    if there:
        verdict = banger.call('image.verify', {'image': name})
        assert verdict['ok'] and verdict['digest_ok'], verdict
    return bool(there)


def undisturbed(banger, item):
    """The pull that follows: it succeeds and asks for no byte that is in the cache. Gives how many transfers resumed."""
    held = pulls.cached(banger)
    began = time.monotonic()
    pulls.pull(banger, item.reference, 'it')
    resumed = 0
    for request in item.gets(began):
        digest = request.path.rpartition('/')[2].partition(':')[2]
        assert f'sha256/{digest}' not in held, f'{digest} was held, and was fetched again'
        partial = held.get(f'sha256/{digest}.partial', 0)
        if partial > 0:
            assert request.range_start == partial, f'{partial} bytes of {digest} were held: {request}'
            resumed += 1
    return resumed


def kill_one(world, victim, process, dice, item):
    """In the midst of the pull: when the server has sent a random part of its blobs, and a moment later. Gives the part, and
    how many died."""
    part = dice.random() * (1 if victim == 'bangerd' else 0.95)

    def reached():
        return process.poll() is not None or sum(r.sent for r in item.gets()) >= part * item.size()
    if victim == 'banger-unpack':
        harness.until(lambda: unpackers(world) or process.poll() is not None, 'banger-unpack to run')
    harness.until(reached, 'the transfers')
    time.sleep(dice.random() * 0.02)
    if victim == 'bangerd':
        world.kill()
        world.daemon = None
        return part, 1
    died = 0
    for pid in unpackers(world):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            died = 1
    return part, died


def random_moments(world, victim, server):
    """ROUNDS pulls of one daemon that are cut off; gives {number of the round: digest} of every fifth."""
    dice, digests, parts = random.Random(victim), {}, []
    died = resumed = 0
    for number in range(ROUNDS):
        item, where = Round(server, victim, number), f'{victim}, round {number}'
        process = start(world, item.reference, 'it')
        part, dead = kill_one(world, victim, process, dice, item)
        died += dead
        _, err = process.communicate(timeout=60)
        if victim == 'bangerd':
            world.start()
        assert victim == 'bangerd' or process.returncode == 0 or 'unpack' in err, f'{where}: {err}'
        try:
            there = check_all_or_nothing(world, 'it')
            assert there or process.returncode != 0, 'answered, and not there'
            if there:
                pulls.remove(world, 'it')
            else:
                parts.append(part)
            resumed += undisturbed(world, item)
            if number % 5 == 0:
                digests[number] = pulls.digest_of(world, 'it')
                pulls.fsck(pulls.rootfs(world, 'it'))
        except AssertionError as error:
            raise AssertionError(f'{where}: {error}') from None
        pulls.remove(world, 'it')
    quarters = [sum(n / 4 <= part < (n + 1) / 4 for part in parts) for n in range(4)]
    print(f'{victim}: {died} died, {len(parts)} of {ROUNDS} pulls were cut off, {quarters} by quarters of what was fetched; '
          f'{resumed} transfers resumed')
    # Nearly all in the midst of it, early and late: else the test would prove little.
    assert len(parts) >= ROUNDS * 9 // 10 and min(quarters) >= ROUNDS // 16 and resumed >= ROUNDS // 4
    return digests


@pytest.mark.limit(240)
def test_random_moments(worlds):
    """Two daemons side by side: most of it is waiting for the server."""
    victims = ('bangerd', 'banger-unpack')
    server = Registry()
    server.always('GET .*/blobs/', throttle(RATE))
    cut_off = {victim: worlds(victim).start() for victim in victims}
    try:
        with concurrent.futures.ThreadPoolExecutor(len(victims)) as pool:
            running = {victim: pool.submit(random_moments, world, victim, server) for victim, world in cut_off.items()}
            digests = {victim: future.result() for victim, future in running.items()}
        server.behave()
        calm = worlds('calm').start()
        for victim, found in digests.items():
            for number, digest in found.items():
                name = f'{victim}-{number}'
                pulls.pull(calm, f'{server.host}/{victim}/{number}:it', name)
                assert pulls.digest_of(calm, name) == digest, name
    finally:
        server.close()


# ---- a disk that fills up

@contextlib.contextmanager
def small_disk(path, kind, megabytes):
    """A filesystem of its own size at `path`."""
    path.mkdir(parents=True)
    image = path.parent / f'{path.name}.disk'
    if kind == 'tmpfs':
        subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={megabytes}m', 'tmpfs', path], check=True)
    else:
        with open(image, 'wb') as file:
            file.truncate(megabytes * MIB)
        subprocess.run(['mkfs.xfs', '-q', '-f', image] if kind == 'xfs' else ['mke2fs', '-q', '-t', 'ext4', '-b', '1024', '-m', '0', image], check=True)
        harness.loop_mount(image, path)
    try:
        yield path
    finally:
        subprocess.run(['umount', path], check=True)
        image.unlink(missing_ok=True)


def free(path):
    st = os.statvfs(path)
    return st.f_bavail * st.f_frsize


@pytest.mark.limit(180)
@pytest.mark.skipif(os.geteuid() != 0, reason='needs root to mount')
@pytest.mark.parametrize('kind', ['ext4', 'xfs', 'tmpfs'])
def test_disk_fills_up(worlds, kind):
    """Less room each time, taken away before the pull or while it runs: refused as no_space, nothing left but blobs; then
    there is room again, and the pull goes on from them."""
    if kind == 'xfs' and not shutil.which('mkfs.xfs'):
        pytest.skip('needs mkfs.xfs')
    server = Registry()
    server.always('GET .*/blobs/', throttle(64 * MIB))
    dice = random.Random(kind)
    world = worlds(kind)
    disk = world.base / 'disk'
    try:
        with small_disk(disk, kind, 330 if kind == 'xfs' else 160):
            try:
                world.state = disk / 'state'
                world.env['BANGER_STATE_DIR'] = str(world.state)
                (world.base / 'config.json').write_text(json.dumps({'headroom': 4 * MIB, 'fetch_retries': 1}))
                world.env['BANGER_CONFIG'] = str(world.base / 'config.json')
                world.start()
                fails = resumed = 0
                for number in range(3 if QUICK else 6):
                    fails, resumed = [a + b for a, b in zip((fails, resumed), fill_round(world, disk, server, kind, number, dice))]
                world.settled()
                world.stop()
                print(f'{kind}: {fails} pulls had no room, {resumed} transfers resumed')
                assert fails >= 2
            finally:
                if world.daemon and world.daemon.alive():
                    world.kill()
                world.daemon = None
                world.state = world.base / 'none'
    finally:
        server.close()


@pytest.mark.skipif(os.geteuid() != 0, reason='needs root to mount')
def test_bomb_leaves_room(worlds):
    """Some kilobytes that unpack to much more than the disk has are refused before it is full, with the layer and the member."""
    server, store, world = Registry(), Store(), worlds()
    bomb = Layer(b'', blob=images.zstd_frame(member('d/bomb', size=400 * MIB)) + images.zstd_zeros(400 * MIB, b'U'), diff_id='sha256:' + '0' * 64,
                 say={'mediaType': images.LAYER + '+zstd'})
    image = Image(archive(member('a', b'x')), bomb)
    server.add('a/bomb', store, {'it': image.put(store)})
    disk, least, over = world.base / 'disk', [], threading.Event()

    def watch():
        while not over.wait(0.002):
            # But for what the store takes meanwhile, once and for all.
            least.append(free(disk) + (world.state / 'registry.db-wal').stat().st_blocks * 512)
    # Other filesystems take room ahead of what is written, and give it back.
    with contextlib.closing(server), small_disk(disk, 'tmpfs', 160):
        watcher = threading.Thread(target=watch)
        try:
            world.state = disk / 'state'
            world.env['BANGER_STATE_DIR'] = str(world.state)
            world.start()
            watcher.start()
            said = pulls.refused(world, f'{server.host}/a/bomb:it', 'it', codes='no_space',
                          words=f'layer 2 of 2 .{bomb.digest}.: member "d/bomb" .*the disk has room for no more than')
            over.set()
            watcher.join()
            assert len(least) > 20 and min(least) > 6 * MIB, f'{min(least)} bytes were left at the least: {said}'
            world.stop()
        finally:
            over.set()
            if world.daemon and world.daemon.alive():
                world.kill()
            world.daemon = None
            world.state = world.base / 'none'


def fill_round(world, disk, server, kind, number, dice):
    store = Store()
    layers = [archive(directory('./'), *(member(f'{number}-{k}/{n}', dice.randbytes(1_000_000)) for n in range(8))) for k in range(3)]
    repository = f'{kind}/{number}'
    said = Image(*layers).put(store)
    server.add(repository, store, {'it': said})
    reference = f'{server.host}/{repository}:it'
    ballast = disk / 'ballast'
    # The image needs 24 MB of blobs and as much for the filesystem.
    room = int((0.5 + number * 8) * MIB)

    # A pull that looks and sees that there is too little; and one that has seen room, which others then take.
    after = dice.randrange(1, 12) * MIB if number % 2 else 0

    def fill():
        harness.until(lambda: sum(r.sent for r in server.asked(f'GET .*/{repository}/blobs/')) >= after, 'the transfers')
        with open(ballast, 'wb') as file:
            while True:
                try:
                    return os.posix_fallocate(file.fileno(), 0, max(1, free(disk) - (room // 8 if after else room)))
                except OSError:  # the pull was faster
                    continue
    before = world.images()
    filler = threading.Thread(target=fill)
    filler.start()
    if not after:
        filler.join()
    result = pulls.pull(world, reference, 'it', check=False)
    filler.join()
    failed = result.code != 0
    if failed:
        assert world.daemon.alive(), f'bangerd ended with {world.daemon.wait()}: {result.err}\n{harness.tail(world.log)}'
        # There may be no room for the record of it; the log has it.
        ended = [r for r in world.records(result.op_id) if r['msg'] == 'operation failed']
        assert [r['code'] for r in ended] == ['no_space'], result.err
        pulls.assert_nothing_new(world, before)
    else:
        pulls.remove(world, 'it')
    ballast.unlink()
    held, began = pulls.cached(world), time.monotonic()
    pulls.pull(world, reference, 'it')
    pulls.fsck(pulls.rootfs(world, 'it'))
    resumed = 0
    for request in server.asked('GET .*/blobs/'):
        digest = request.path.rpartition(':')[2]
        if request.at >= began:
            assert f'sha256/{digest}' not in held
            if held.get(f'sha256/{digest}.partial'):
                assert request.range_start == held[f'sha256/{digest}.partial'], request
                resumed += 1
    pulls.remove(world, 'it')
    world.settled()
    empty_cache(world)
    server.remove(repository)
    return failed, resumed


def empty_cache(world):
    """Room for the next round: what is cached is of no more use."""
    world.stop()
    shutil.rmtree(world.state / 'cache', ignore_errors=True)
    world.start()


# ---- fault points

@pytest.mark.limit(300)
@pytest.mark.skipif(not test_crash.has_fault_points(), reason='built without -Dfault_points=true')
def test_every_fault_point(worlds, tmp_path):
    """As test_crash's, for one pull from a layout: old state or new at each of them."""
    store = Store()
    said = random_image('fault').put(store)
    layout = images.write_layout(tmp_path / 'l', store, {'it': said})
    banger = worlds()
    passage, points, stride = 1, 0, 4 if QUICK else 1
    while True:
        banger.start(wait=False, BANGER_FAULT=f'*:{passage}')
        try:
            harness.until(banger.ready, 'bangerd to answer', 20)
            result = pulls.pull(banger, f'oci:{layout}:it', 'it', check=False)
        except AssertionError:
            result = None
        if result and result.code == 0 and banger.daemon.alive():
            break
        assert banger.daemon.wait(20) == -signal.SIGKILL, harness.tail(banger.log)
        points += 1
        banger.daemon = None
        banger.start()
        if check_all_or_nothing(banger, 'it'):
            pulls.remove(banger, 'it')
            banger.settled()
        banger.stop()
        passage += stride
    banger.stop()
    banger.start()
    pulls.remove(banger, 'it')
    print(f'{points} deaths at fault points')
    assert points >= 3
