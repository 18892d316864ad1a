# SPDX-License-Identifier: Apache-2.0
"""The daemon stops, dies and comes back under a mount; the mount stops under its users."""
import errno
import os
import signal
import subprocess
import threading
import time

import pytest

import harness
from harness import run, until


def mutate(mount, name='probe'):
    """One change through the mount: '' or the errno's name."""
    try:
        os.mkdir(mount / 'drafts' / name)
        return ''
    except OSError as error:
        return errno.errorcode[error.errno]


def connected(mount, name='probe'):
    """Wait until a change goes through."""
    until(lambda: mutate(mount, name) in ('', 'EEXIST'), 'bangerfs to reconnect')


@pytest.mark.parametrize('how', ['stop', 'kill'])
def test_published_stays_readable(mnt, published, ext4, how):
    published('a')
    open_file = open(mnt / 'images/a/rootfs.ext4', 'rb')
    open_file.read(4096)
    getattr(mnt.banger, how)()
    start = time.monotonic()
    assert mutate(mnt) == 'EHOSTDOWN'
    assert time.monotonic() - start < 1
    line = mnt.last_error()
    assert line.endswith(')') and 'bangerd' in line
    # What was open, and what was never opened before.
    open_file.seek(0)
    assert open_file.read() == ext4().read_bytes()
    run('cmp', ext4(), mnt / 'images/a/rootfs.ext4')
    assert 'published' in (mnt / 'images/a/image.json').read_text()
    assert (mnt / 'rootfs/a/etc/hostname').read_text() == 'small\n'
    assert run('find', mnt / 'rootfs/a', '-type', 'f').out.count('\n') >= 4
    open_file.close()
    mnt.banger.start()
    connected(mnt)
    assert sorted(os.listdir(mnt / 'images')) == ['a']


def test_changes_made_while_disconnected(mnt, published):
    """What happened between the death and the new connection shows after it."""
    published('a')
    published('b')
    assert sorted(os.listdir(mnt / 'images')) == ['a', 'b']
    keep = os.open(mnt / 'images/a/rootfs.ext4', os.O_RDONLY)
    mnt.process.popen.send_signal(signal.SIGSTOP)
    try:
        mnt.banger.kill()
        mnt.banger.start()
        mnt.banger.call('image.delete', {'image': 'images/a'})
        mnt.banger.call('image.rename', {'image': 'images/b', 'name': 'c'})
        published('d', wait=False)
        mnt.banger.call('image.register', {'name': 'e'})
    finally:
        mnt.process.popen.send_signal(signal.SIGCONT)
    until(lambda: sorted(os.listdir(mnt / 'images')) == ['c', 'd'] and os.listdir(mnt / 'drafts') == ['e'],
          'the tree to catch up')
    assert not os.path.exists(mnt / 'images/a')
    # The content process follows the registry by itself, and connects again at its own time.
    until(lambda: sorted(os.listdir(mnt / 'rootfs')) == ['c', 'd'], 'the content tree to catch up')
    assert not os.path.exists(mnt / 'rootfs/b')
    assert os.path.isdir(mnt / 'rootfs/c/etc')
    assert len(os.listdir(mnt / 'by-id')) == 3
    assert os.pread(keep, 4, 1080)[:2] == b'\x53\xef'  # a deleted image's open file
    os.close(keep)


def test_another_state_directory(mnt, published, worlds, base):
    """A daemon with other images takes over the socket: the tree becomes its."""
    published('a')
    mnt.banger.stop()
    other = worlds('other', env={'BANGER_RUNTIME_DIR': str(mnt.banger.run_dir)})
    other.socket = mnt.banger.socket
    other.start()
    until(lambda: os.listdir(mnt / 'images') == [], 'the other registry')
    connected(mnt)
    other.stop()
    mnt.banger.start()
    until(lambda: os.path.isdir(mnt / 'images') and os.listdir(mnt / 'images') == ['a'], 'the first registry again')


def test_restarts_under_load(mnt, published):
    """Ten restarts while a reader reads and a writer writes: only EHOSTDOWN, never a hang or another error."""
    published('a')
    done, errors = threading.Event(), set()

    def read():
        while not done.is_set():
            try:
                os.listdir(mnt / 'images')
                (mnt / 'rootfs/a/etc/hostname').read_text()
            except OSError as error:
                errors.add(('read', errno.errorcode[error.errno]))

    def write():
        i = 0
        while not done.is_set():
            i += 1
            errors.add(('write', mutate(mnt, f'w{i}')))

    threads = [threading.Thread(target=read), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    try:
        for i in range(10):
            mnt.banger.kill() if i % 2 else mnt.banger.stop()
            mnt.banger.start()
            connected(mnt, f'probe{i}')
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert errors <= {('write', ''), ('write', 'EHOSTDOWN')}
    until(lambda: set(os.listdir(mnt / 'drafts')) == {n for s, n in mnt.banger.images() if s == 'draft'}, 'agreement')


def test_without_standard_descriptors(worlds):
    """Started without standard input and output, it does not take their numbers for files of its own."""
    banger = worlds(setpriv=('sh', '-c', 'exec "$@" <&- >&-', 'sh')).start()
    assert [os.readlink(f'/proc/{banger.daemon.pid}/fd/{n}') for n in (0, 1)] == ['/dev/null'] * 2


def test_stop_is_graceful(banger):
    """SIGTERM during an import that waits for its peer: it is cancelled, nothing half-made stays."""
    reader, writer = os.pipe()
    client = banger.wire()
    client.send({'version': 1, 'method': 'image.import', 'params': {'name': 'a', 'format': 'raw'}, 'op_id': 'op-00000000abcd'},
                [reader])
    os.close(reader)
    os.write(writer, b'x' * 4096)
    until(lambda: [o for o in banger.call('status')['operations'] if o['method'] == 'image.import'], 'the import to run')
    start = time.monotonic()
    banger.stop()
    assert time.monotonic() - start < 15
    assert client.receive()['error']['code'] == 'cancelled'
    client.close()
    os.close(writer)
    assert os.listdir(banger.state / 'staging') == []
    assert not banger.socket.exists()
    banger.start()
    banger.settled()
    assert banger.leftovers() == []
    assert banger.images() == {}
    assert banger.op('op-00000000abcd')['code'] == 'cancelled'


def test_two_signals_end_it_once(banger):
    for _ in range(3):
        banger.daemon.popen.send_signal(signal.SIGTERM)
    assert banger.daemon.wait() == 0


def test_stale_socket_is_replaced(banger):
    banger.kill()
    assert banger.socket.exists()
    banger.start()
    assert banger.call('ping') is not None


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_bangerfs_unmounts(banger, signum):
    """Both connections, and exit status 0."""
    mount = banger.mount('other')
    banger.mounts.remove(mount)
    assert mount.process.end(signum) == 0
    assert harness.mounts_under(mount.path) == []


def test_bangerfs_unmounts_under_a_user(banger, published):
    """Who has a file open keeps it; the mount point is free."""
    published('a')
    mount = banger.mount('other')
    reader = subprocess.Popen(['sleep', '60'], cwd=mount / 'rootfs/a/etc')
    try:
        banger.unmount(mount)
    finally:
        reader.kill()
        reader.wait()
    banger.mount('other')


def test_unmount_by_hand(banger):
    """fusermount3 -u of both ends bangerfs."""
    mount = banger.mount('other')
    banger.mounts.remove(mount)
    run('umount', mount / 'rootfs')
    run('umount', mount.path)
    assert mount.process.wait() == 0
    assert harness.mounts_under(mount.path) == []


def test_bangerfs_waits_for_nobody(worlds, base):
    """Without a daemon the mount refuses to start, and says which socket."""
    banger = worlds()
    (base / 'mnt').mkdir()
    done = run(harness.PROGRAM['bangerfs'], '-f', base / 'mnt', check=False, env=banger.env)
    assert done.code != 0
    assert str(banger.socket) in done.err
    assert harness.mounts_under(base / 'mnt') == []


def test_death_of_the_content_process(mnt, published):
    """rootfs/ comes back by itself when its process dies."""
    published('a')
    assert (mnt / 'rootfs/a/etc/hostname').read_text() == 'small\n'
    [content] = [pid for pid, command in harness.children(mnt.process.pid).items()]
    os.kill(content, signal.SIGKILL)

    def back():
        try:
            return (mnt / 'rootfs/a/etc/hostname').read_text() == 'small\n'
        except OSError:
            return False
    until(back, 'rootfs/ to come back')
    assert mutate(mnt) == ''


def test_death_of_bangerfs(banger, published):
    """kill -9 leaves a dead mount, as any FUSE server does; the content process goes, and a new one can be mounted."""
    published('a')
    mount = banger.mount('other')
    banger.mounts.remove(mount)
    assert mount.process.end(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not [c for c in harness.children().values() if str(mount.path) in c], 'its content process to end')
    harness.force_unmount(mount.path)
    again = banger.mount('other')
    assert (again / 'rootfs/a/etc/hostname').read_text() == 'small\n'


@pytest.mark.parametrize('what', ['daemon', 'mount'])
def test_background(banger, base, what):
    """bangerfs without -f returns when the mount is ready to use, and goes on by itself."""
    if what == 'mount':
        path = base / 'background'
        path.mkdir()
        run(harness.PROGRAM['bangerfs'], path, env=banger.env)
    else:
        path = base / 'background'
        path.mkdir()
        banger.ctl('fs', 'mount', path)
    assert sorted(os.listdir(path / 'drafts')) == []
    os.mkdir(path / 'drafts/a')
    assert str(path / 'rootfs') in harness.mounts_under(path)
    banger.ctl('fs', 'unmount', path)
    assert harness.mounts_under(path) == []
    until(lambda: not [c for c in harness.children().values() if str(path) in c], 'bangerfs to end')
