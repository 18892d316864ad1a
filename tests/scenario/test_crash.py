# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the daemon at every fault point that a life of images passes, and at random moments.

A script of changes is sent over the wire while a model keeps what the registry must hold. When the daemon dies,
each answered change must be there and the one in flight must have happened wholly or not at all; nothing may be
left over, and each published image must be what its digest says. Fault points are compiled in by
-Dfault_points=true; BANGER_FAULT=*:N kills at the N-th passage of any of them, so the enumeration goes on until
the script comes through.
"""
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest

import harness
import wire
from conftest import QUICK

LOST = (ConnectionError, BrokenPipeError, TimeoutError, AssertionError)


@pytest.fixture(scope='module')
def image(cache):
    path = cache / 'crash.ext4'
    if not path.exists():
        harness.run('mke2fs', '-q', '-F', '-t', 'ext4', '-O', '^has_journal', path, '512k')
    return path


class Life:
    """The script, one change at a time, and what must be there before and after each."""

    def __init__(self, banger, image):
        self.banger, self.image = banger, image
        self.before = self.after = {}   # {(state, name): label}; the label says which image it is
        self.ids = {}                   # label: id, once it is known
        self.step = 'start'
        self.client = None

    def call(self, method, params, after, fds=()):
        """One change: `after` is the model when it has happened."""
        self.step, self.after = f'{method} {params}', after
        result = self.client.call(method, params, fds=fds)
        self.before = after
        return result

    def with_image(self, method, params, after):
        fd = os.open(self.image, os.O_RDONLY)
        try:
            return self.call(method, params, after, [fd])
        finally:
            os.close(fd)

    def fill(self, draft):
        """Put a root filesystem into a draft; no change to the model."""
        self.step, self.after = f'fill {draft}', self.before
        self.client.call('draft.open', {'id': draft, 'file': 'rootfs.ext4', 'write': True, 'create': True})
        [fd] = self.client.take_fds()
        with os.fdopen(fd, 'wb') as out, open(self.image, 'rb') as source:
            shutil.copyfileobj(source, out)

    def run(self, tag=''):
        """Ends with the same registry that it began with, so it can be run again and again."""
        a, b, c, d = (f'{x}{tag}' for x in 'abcd')
        draft, published = 'draft', 'published'
        start = self.before
        with self.banger.wire(timeout=20) as self.client:
            one = self.call('image.register', {'name': a}, {**start, (draft, a): 1})['image']['id']
            self.fill(one)
            two = self.call('image.register', {'name': b}, {**self.before, (draft, b): 2})['image']['id']
            self.call('draft.symlink', {'id': two, 'file': 'rootfs.ext4', 'target': str(self.image)}, self.before)
            self.call('image.swap', {'a': f'drafts/{a}', 'b': f'drafts/{b}'}, {**start, (draft, a): 2, (draft, b): 1})
            self.call('image.rename', {'image': f'drafts/{b}', 'name': c}, {**start, (draft, a): 2, (draft, c): 1})
            self.call('image.promote', {'draft': c, 'name': c}, {**start, (draft, a): 2, (published, c): 1})
            self.call('image.promote', {'draft': a, 'name': b}, {**start, (published, b): 2, (published, c): 1})
            self.call('image.swap', {'a': f'images/{b}', 'b': f'images/{c}'}, {**start, (published, b): 1, (published, c): 2})
            self.call('image.rename', {'image': f'images/{b}', 'name': a}, {**start, (published, a): 1, (published, c): 2})
            self.with_image('image.import', {'name': d, 'format': 'raw'}, {**self.before, (published, d): 3})
            self.call('image.delete', {'image': f'images/{d}'}, {**start, (published, a): 1, (published, c): 2})
            self.call('image.delete', {'image': f'images/{a}'}, {**start, (published, c): 2})
            self.call('image.register', {'name': a}, {**start, (published, c): 2, (draft, a): 4})
            self.call('image.delete', {'image': f'drafts/{a}'}, {**start, (published, c): 2})
            self.call('image.delete', {'image': f'images/{c}'}, start)
        return True

    def check(self, where):
        """The daemon is up again: old state or new, nothing left over, published things whole."""
        banger = self.banger
        banger.settled()
        images = banger.images()
        assert set(images) in (set(self.before), set(self.after)), f'{where}, during {self.step}: {sorted(images)}'
        try:
            banger.assert_consistent()
        except AssertionError as error:
            raise AssertionError(f'{where}, during {self.step}: {error}') from None
        for (state, name), document in images.items():
            if state == 'published':
                verdict = banger.call('image.verify', {'image': f'images/{name}'})
                assert verdict['ok'] and verdict['digest_ok'], f'{where}: {verdict}'
                files = os.listdir(banger.state / 'images' / document['id'])
                assert 'rootfs.ext4' in files, f'{where}: {files}'

    def clear(self):
        """Back to an empty registry, for the next life in the same directory."""
        for (state, name) in self.banger.images():
            self.banger.call('image.delete', {'image': f'{"images" if state == "published" else "drafts"}/{name}'})
        self.before = self.after = {}


def died(banger):
    """The daemon was killed by its fault point. Waits for it."""
    assert banger.daemon.wait(20) == -signal.SIGKILL, harness.tail(banger.log)


def has_fault_points():
    return 'bangerd' in harness.PROGRAM and b'BANGER_FAULT_LOG' in harness.PROGRAM['bangerd'].read_bytes()


@pytest.mark.slow
@pytest.mark.limit(420)
@pytest.mark.skipif(not has_fault_points(), reason='built without -Dfault_points=true')
def test_every_fault_point(worlds, image):
    """Also a second death, during the recovery from the first."""
    banger = worlds()
    points, life = 0, Life(banger, image)
    stride = 7 if QUICK else 1
    n = 1
    while True:
        where = f'fault point passage {n}'
        try:
            banger.start(BANGER_FAULT=f'*:{n}')
            came_through = life.run()
        except LOST:
            came_through = False
        except wire.WireError as error:
            raise AssertionError(f'{where}, during {life.step}: {error}') from None
        if came_through and banger.daemon.alive():
            break
        died(banger)
        points += 1
        if n % 3 == 0:
            # Die again while recovering, if recovery passes a point at all.
            banger.daemon = None
            try:
                banger.start(BANGER_FAULT='*:1')
                banger.stop()
            except (AssertionError, *LOST):
                died(banger)
                points += 1
        banger.daemon = None
        banger.start()
        life.check(where)
        life.clear()
        banger.stop()
        n += stride
    life.check('after the last')
    assert points >= (40 / stride), f'only {points} fault points were passed'
    print(f'{points} deaths at fault points')


@pytest.mark.slow
@pytest.mark.limit(420)
def test_random_moments(worlds, image):
    """SIGKILL after a random time, again and again, on one state directory."""
    banger = worlds()
    dice = random.Random(20260301)
    banger.start()
    started = time.monotonic()
    Life(banger, image).run()
    whole = time.monotonic() - started
    banger.stop()
    deaths, life = 0, Life(banger, image)
    rounds = 20 if QUICK else 150
    for i in range(rounds):
        banger.start()
        timer = threading.Timer(dice.random() * whole, banger.daemon.popen.kill)
        timer.start()
        try:
            life.run(tag=str(i))
        except LOST:
            pass
        except wire.WireError as error:
            raise AssertionError(f'round {i}, during {life.step}: {error}') from None
        timer.join()
        deaths += banger.daemon.wait(20) == -signal.SIGKILL
        banger.start()
        life.check(f'round {i}')
        life.clear()
        banger.stop()
    assert deaths >= rounds * 0.9, deaths


@pytest.mark.limit(120)
def test_death_of_a_daemon_with_mounts(worlds, image, ext4):
    """Through the mount: changes in flight when the daemon dies fail, and the tree agrees when it is back."""
    banger = worlds().start()
    mount = banger.mount()
    for i in range(3 if QUICK else 15):
        maker = subprocess.Popen(['sh', '-c', f'cd {mount.path} && for n in 1 2 3 4 5 6 7 8; do mkdir drafts/r{i}-$n; done'],
                                 stderr=subprocess.DEVNULL)
        time.sleep(random.Random(i).random() * 0.02)
        banger.kill()
        maker.wait(30)
        banger.daemon = None
        banger.start()
        names = {name for _, name in banger.images()}
        harness.until(lambda: set(os.listdir(mount / 'drafts')) == names, 'the tree to agree with the registry')
        banger.assert_consistent()
