# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the scenarios: the real programs, in a fresh directory for each test.

    BANGER_BUILD=DIR   the build directory whose programs are tested (default: build)
    BANGER_QUICK=1     shorter races and fewer crash points

A test that takes longer than its limit (60 s, or @pytest.mark.limit(SECONDS)) has its FUSE connections
aborted, so that a hang in the kernel becomes a failure that is reported and cleaned up like any other.
"""
import faulthandler
import os
import pathlib
import shutil
import tempfile
import threading

import pytest

import harness
import kernels

QUICK = bool(os.environ.get('BANGER_QUICK'))
SLOW_FACTOR = float(os.environ.get('BANGER_SLOW', '1'))  # sanitizer builds


def pytest_configure(config):
    config.addinivalue_line('markers', 'limit(seconds): the time after which the test is given up')
    config.addinivalue_line('markers', 'slow: left out of sanitizer builds')
    config.addinivalue_line('markers', 'needs(program): skipped where the build or machine has none')
    harness.become_subreaper()


def pytest_collection_modifyitems(items):
    for item in items:
        for mark in item.iter_markers('needs'):
            missing = [n for n in mark.args if n not in harness.PROGRAM and not shutil.which(n)]
            if missing:
                item.add_marker(pytest.mark.skip(reason=f'needs {" ".join(missing)}'))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Lets fixtures know whether the test failed, to keep what explains it."""
    outcome = yield
    setattr(item, f'report_{call.when}', outcome.get_result())


@pytest.fixture(scope='session')
def scratch():
    """A short path: a socket's name may have 107 bytes."""
    path = pathlib.Path(tempfile.mkdtemp(prefix='banger-'))
    yield path
    try:
        path.rmdir()  # only when every test was clean
    except OSError:
        print(f'\nlogs of failed tests are in {path}')


@pytest.fixture(scope='session')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='session')
def small(cache):
    """A kernel with the few modules that VMs need, to import."""
    return kernels.small_tar(kernels.find_deb(cache), cache / 'vm-kernel.tar')


@pytest.fixture(scope='session')
def root(cache):
    """A root filesystem of busybox's that boots."""
    return kernels.bootable_ext4(cache)


@pytest.fixture(scope='session')
def ext4(cache):
    """ext4(tag, size='8M'): a small real root filesystem, made once for each tag. Do not change it."""
    made = {}

    def make(tag='small', size='8M'):
        if (tag, size) not in made:
            tree = harness.make_tree(cache / f'tree-{tag}-{size}', tag)
            made[tag, size] = harness.make_ext4(cache / f'{tag}-{size}.ext4', tree, size)
        return made[tag, size]
    return make


@pytest.fixture
def limit(request):
    mark = request.node.get_closest_marker('limit')
    return (mark.args[0] if mark else 60) * SLOW_FACTOR


@pytest.fixture
def base(request, scratch, limit):
    """The test's own directory. Kept when the test fails, for its logs."""
    path = pathlib.Path(tempfile.mkdtemp(prefix='t', dir=scratch))
    path.chmod(0o755)
    scratch.chmod(0o755)

    def give_up():
        faulthandler.dump_traceback()
        harness.abort_fuse_under(path)

    watchdog = threading.Timer(limit, give_up)
    watchdog.daemon = True
    watchdog.start()
    yield path
    expired = not watchdog.is_alive()
    watchdog.cancel()
    strays = harness.kill_strays()
    harness.force_unmount(path)
    report = getattr(request.node, 'report_call', None)
    clean = report is not None and not report.failed and not strays and not expired
    if clean and not getattr(request.node, 'unclean', False):
        harness.remove_tree(path)
    else:
        print(f'\n{request.node.name}: logs in {path / "logs"}')
    assert not expired, f'the test took over {limit} s; its mounts were aborted'
    assert not strays, 'processes left behind:\n' + '\n'.join(strays)


@pytest.fixture
def worlds(request, base):
    """worlds(name='', **kwargs): a Banger that is not started; checked and taken down after the test."""
    made = []

    def make(name='', **kwargs):
        world = harness.Banger(base / name if name else base, **kwargs)
        made.append(world)
        return world

    yield make
    wrong = [line for world in made for line in world.check_clean()]
    request.node.unclean = bool(wrong)
    assert not wrong, '\n'.join(wrong)


@pytest.fixture
def banger(worlds):
    """A running daemon."""
    return worlds().start()


@pytest.fixture
def mnt(banger):
    """A running daemon's mount; mnt.banger is the daemon."""
    return banger.mount()


@pytest.fixture
def published(banger, ext4):
    """published(name, tag='small'): an image that is there, by the shortest way (the wire); keep: left a draft; wait: until mounts show it."""
    def make(name, tag='small', keep=False, wait=True):
        draft = name if keep else f'making-{name}'[:128]
        with banger.wire() as client:
            image = client.call('image.register', {'name': draft})['image']
            client.call('draft.open', {'id': image['id'], 'file': 'rootfs.ext4', 'write': True, 'create': True})
            with os.fdopen(client.take_fds()[0], 'wb') as out, open(ext4(tag), 'rb') as source:
                shutil.copyfileobj(source, out)
            if keep:
                return image
            image = client.call('image.promote', {'draft': f'drafts/{draft}', 'name': name})['image']
        for mount in banger.mounts if wait else ():  # another door's change: there in a moment, not before we were answered
            if mount.process.alive():
                harness.until((mount / 'images' / name).is_dir, f'images/{name} to show', 5)
                harness.until((mount / 'rootfs' / name).is_dir, f'rootfs/{name} to show', 5)
        return image
    return make
