# SPDX-License-Identifier: Apache-2.0
"""Everything as an ordinary user: no root anywhere, the state in the user's own directories.

Made in a mount namespace of its own, in which there are two more users, /dev/fuse may be opened by all, as on any
desktop, and fuse.conf allows allow_other; the machine's own files are not touched.
"""
import json
import os
import pathlib
import shutil
import subprocess

import pytest

import harness
from harness import run, until

UID, OTHER = 23456, 23457


@pytest.fixture
def namespace(base):
    """Commands prefixed with this run as an ordinary user in the namespace."""
    keeper = subprocess.Popen(['unshare', '--mount', '--propagation', 'private', 'sh', '-c', f'''
        set -e
        mknod {base}/fuse c 10 229 && chmod 666 {base}/fuse && mount --bind {base}/fuse /dev/fuse
        (cat /etc/passwd; echo banger-user:x:{UID}:{UID}::/:/bin/sh; echo banger-other:x:{OTHER}:{OTHER}::/:/bin/sh) > {base}/passwd
        mount --bind {base}/passwd /etc/passwd
        echo user_allow_other > {base}/fuse.conf && mount --bind {base}/fuse.conf /etc/fuse.conf
        echo ready; exec cat'''], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if keeper.stdout.readline() != 'ready\n':
        keeper.wait()
        pytest.skip('no mount namespaces or device nodes here')
    enter = ('nsenter', f'--mount=/proc/{keeper.pid}/ns/mnt', '--')

    def as_uid(uid):
        return (*enter, 'setpriv', f'--reuid={uid}', f'--regid={uid}', '--clear-groups')
    yield as_uid
    keeper.stdin.close()
    keeper.stdout.close()
    keeper.wait(10)


@pytest.fixture
def programs(base, monkeypatch):
    """Copies that any user can reach, wherever the build is."""
    (base / 'bin').mkdir()
    for name, path in harness.PROGRAM.items():
        monkeypatch.setitem(harness.PROGRAM, name, pathlib.Path(shutil.copy(path, base / 'bin')))
    shutil.copy(pathlib.Path(__file__).parent / 'asan.supp', base / 'bin')


@pytest.fixture
def user(namespace, worlds, base, programs):
    """A daemon of an ordinary user, in the user's default places."""
    home = base / 'home'
    home.mkdir()
    (base / 'run').mkdir(mode=0o700)
    (base / 'logs').mkdir()
    banger = worlds(setpriv=namespace(UID))
    for path in (home, base / 'run', base / 'logs'):
        os.chown(path, UID, UID)
    for name in ('BANGER_STATE_DIR', 'BANGER_RUNTIME_DIR'):
        del banger.env[name]
    banger.env['HOME'] = str(home)
    banger.env['ASAN_OPTIONS'] = f'suppressions={base}/bin/asan.supp'
    banger.env['XDG_RUNTIME_DIR'] = str(base / 'run')
    banger.state = home / '.local/state/banger'
    banger.socket = base / 'run/banger/bangerd.sock'
    banger.start()
    return banger


@pytest.fixture
def user_mount(user, namespace, base):
    """mount(*options): bangerfs as the user; in(path) runs a command there as a uid."""
    started = []

    def make(*options):
        path = base / f'mnt{len(started)}'
        path.mkdir()
        os.chown(path, UID, UID)
        log = user.logs / f'bangerfs-{path.name}.log'
        process = harness.Process([*namespace(UID), harness.PROGRAM['bangerfs'], '-f', *options, path], user.env, log)
        started.append((process, path))
        until(lambda: run(*namespace(UID), 'mountpoint', '-q', path / 'rootfs', check=False).code == 0 or
              not process.alive(), f'the mount\n{harness.tail(log)}')
        assert process.alive(), harness.tail(log)
        return path
    yield make
    for process, path in started:
        assert process.end() == 0
        assert run(*namespace(UID), 'mountpoint', '-q', path, check=False).code != 0


def test_whole_way(user, user_mount, namespace, ext4, base):
    image = base / 'disk.img'
    shutil.copy(ext4(), image)
    image.chmod(0o644)
    mnt = user_mount()

    def sh(command, uid=UID, check=True):
        return run(*namespace(uid), 'bash', '-c', command, check=check, env=user.env)

    sh(f'mkdir {mnt}/drafts/web && cp {image} {mnt}/drafts/web/rootfs.ext4 && mv {mnt}/drafts/web {mnt}/images/web')
    assert 'banger test' in sh(f'cat {mnt}/rootfs/web/etc/os-release').out
    assert sh(f'cmp {image} {mnt}/images/web/rootfs.ext4').code == 0
    status = json.loads(sh(f'{harness.PROGRAM["banger-ctl"]} --json status').out)
    assert status['state_dir'] == str(user.state)
    assert user.state.stat().st_uid == UID and user.state.stat().st_mode & 0o077 == 0
    assert user.socket.stat().st_mode & 0o007 == 0
    # Whose operation it was.
    op = json.loads(sh(f'cat {mnt}/images/web/image.json').out)['op_id']
    assert user.op(op)['actor']['uid'] == UID
    # Nobody else gets in, not even root, as FUSE has it.
    denied = sh(f'ls {mnt}/images', uid=OTHER, check=False)
    assert denied.code != 0 and 'Permission denied' in denied.err
    failed = sh(f'mv {mnt}/images/web {mnt}/kernels/x', check=False)
    assert 'not permitted' in failed.err
    sh(f'rmdir {mnt}/images/web')
    assert sh(f'ls {mnt}/images').out == ''


def test_allow_other(user, user_mount, namespace, ext4, base):
    """With allow_other another uid reads, and may not change: EACCES, in its own last-error."""
    image = base / 'disk.img'
    shutil.copy(ext4(), image)
    image.chmod(0o644)
    mnt = user_mount('-o', 'allow_other')

    def sh(command, uid=UID, check=True):
        return run(*namespace(uid), 'bash', '-c', command, check=check, env=user.env)

    sh(f'mkdir {mnt}/drafts/web && cp {image} {mnt}/drafts/web/rootfs.ext4 && mv {mnt}/drafts/web {mnt}/images/web')
    assert 'banger test' in sh(f'cat {mnt}/rootfs/web/etc/os-release', OTHER).out
    assert sh(f'ls {mnt}/images', OTHER).out == 'web\n'
    for command in (f'mkdir {mnt}/drafts/x', f'rmdir {mnt}/images/web', f'mv {mnt}/images/web {mnt}/images/x'):
        denied = sh(command, OTHER, check=False)
        assert denied.code != 0 and ('Permission denied' in denied.err or 'not permitted' in denied.err), command
    assert sh(f'ls {mnt}/images {mnt}/drafts', OTHER).out.split() == [f'{mnt}/drafts:', f'{mnt}/images:', 'web']
    sh(f'mkdir {mnt}/drafts/.bad', check=False)
    assert '.bad' in sh(f'cat {mnt}/last-error').out
    assert '.bad' not in sh(f'cat {mnt}/last-error', OTHER).out


def test_the_socket_is_the_users(user):
    """Another uid cannot even connect."""
    code = f'import socket; socket.socket(socket.AF_UNIX).connect({str(user.socket)!r})'
    done = run('setpriv', f'--reuid={OTHER}', f'--regid={OTHER}', '--clear-groups', '/usr/bin/python3', '-c', code, check=False)
    assert done.code != 0 and 'PermissionError' in done.err


def test_no_file_is_for_others(user):
    """Nothing in the state directory can be read by another uid."""
    user.call('image.register', {'name': 'a'})
    for path in pathlib.Path(user.state).rglob('*'):
        assert path.stat().st_uid == UID, path
    assert user.state.stat().st_mode & 0o077 == 0
