# SPDX-License-Identifier: Apache-2.0
"""Programs and trees in one running VM over the wire: many at once, slow readers, large inputs, terminals, signals, odd names;
and guests whose agent is none, which harm only themselves."""
import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tarfile
import tempfile
import threading

import pytest

import harness
import kernels
from harness import until
from wire import WireError

pytestmark = [pytest.mark.needs('qemu-system-x86_64', 'banger-agent'), pytest.mark.limit(300)]
WAIT = 120


@pytest.fixture(scope='module')
def host(cache):
    """A daemon with one running VM "a", for all tests here; taken down after the last."""
    base = pathlib.Path(tempfile.mkdtemp(prefix='banger-'))
    banger = harness.Banger(base).start()
    banger.ctl('kernel', 'import', kernels.small_tar(kernels.find_deb(cache), cache / 'exec-kernel.tar'), '--name', 'k')
    banger.ctl('image', 'import', kernels.bootable_ext4(cache), '--name', 'web')
    call(banger, 'vm.create', name='a', image='web', accel='tcg')
    yield banger
    if banger.daemon.alive():
        call(banger, 'vm.rm', vm='a', force=True)
    wrong = banger.check_clean()
    assert not wrong, '\n'.join(wrong)
    shutil.rmtree(base)


def call(host, method, fds=(), **params):
    with host.wire(timeout=WAIT) as client:
        return client.call(method, params, None, fds)


class Exec:
    """vm.exec, vm.put or vm.get under way: our ends of its streams, and its reply."""

    def __init__(self, host, argv=(), method='vm.exec', control=False, vm='a', **params):
        exec_ = method == 'vm.exec'
        pipes = [os.pipe() for _ in range((4 if control else 3) if exec_ else 1)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1], *([pipes[3][0]] if control else [])] if exec_ else \
            [pipes[0][0 if method == 'vm.put' else 1]]
        self.stdin = None if method == 'vm.get' else pipes[0][1]
        self.stdout = pipes[1][0] if exec_ else pipes[0][0] if method == 'vm.get' else None
        self.stderr = pipes[2][0] if exec_ else None
        self.control = pipes[3][1] if control else None
        self.client = host.wire(timeout=WAIT)
        params = {'vm': vm, **({'argv': list(argv)} if exec_ else {}), **params}
        self.client.send({'version': 1, 'method': method, 'params': params}, theirs)
        for fd in theirs:
            os.close(fd)

    def close(self, *names):
        for name in names or ('stdin', 'stdout', 'stderr', 'control'):
            if getattr(self, name) is not None:
                os.close(getattr(self, name))
                setattr(self, name, None)

    def write(self, data, close=True):
        """In a thread of its own; a reader that goes away ends it."""
        fd, self.stdin = (self.stdin, None) if close else (os.dup(self.stdin), self.stdin)

        def run():
            with contextlib.suppress(BrokenPipeError):
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view):]
            os.close(fd)
        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def read(self, fd=None, until_=None):
        """All of it, or up to these bytes."""
        fd, data = self.stdout if fd is None else fd, b''
        while not (until_ and until_ in data):
            more = os.read(fd, 1 << 16)
            if not more:
                break
            data += more
        return data

    def result(self):
        """The reply's result; WireError for a refusal."""
        reply = self.client.receive()
        self.client.close()
        self.close()
        if not reply['ok']:
            raise WireError(reply)
        return reply['result']

    def end(self):
        """(exit code or minus the signal, stdout, stderr)"""
        out, err = self.read(), self.read(self.stderr)
        result = self.result()
        return result.get('exit_code', -result.get('signal', 0)), out, err


def sh(host, script, stdin=b'', **params):
    run = Exec(host, ['sh', '-c', script], **params)
    writer = run.write(stdin)
    end = run.end()
    writer.join()
    return end


def running(host):
    assert call(host, 'vm.show', vm='a')['vm']['state'] == 'running'
    assert sh(host, 'echo well')[1] == b'well\n'


# ---- programs

def test_eight_at_once(host):
    """Each has its own streams; together they take less than one after the other would."""
    data = [os.urandom(200_000) for _ in range(8)]

    def one(i):
        return sh(host, f'sha256sum; echo {i} >&2; exit {i}', data[i])
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, (code, out, err) in enumerate(pool.map(one, range(8))):
            assert (code, err) == (i, b'%d\n' % i) and out.split()[0].decode() == hashlib.sha256(data[i]).hexdigest()


def test_who_does_not_read(host):
    """A reader that rests, of a program that floods both streams: others go on, and what it reads later is whole."""
    flood = Exec(host, ['sh', '-c', 'head -c 1500000 /dev/zero | tr "\\0" x; head -c 600000 /dev/zero | tr "\\0" y >&2'])
    flood.close('stdin')
    for _ in range(3):
        assert sh(host, 'cat', b'past it' * 10000)[1] == b'past it' * 10000
    err = []
    thread = threading.Thread(target=lambda: err.append(flood.read(flood.stderr)))
    thread.start()
    out = flood.read()
    thread.join()
    assert out == b'x' * 1500000 and err == [b'y' * 600000] and flood.result()['exit_code'] == 0


def test_who_is_not_read_from(host):
    """A program that does not read its stdin holds up its own client only, and ends by a signal all the same."""
    deaf = Exec(host, ['sleep', '1000'], control=True)
    writer = deaf.write(b'z' * (4 << 20), close=False)
    assert sh(host, 'wc -c', b'n' * 3000)[1].strip() == b'3000'
    os.write(deaf.control, b'signal 9\n')
    assert deaf.result()['signal'] == signal.SIGKILL
    writer.join(20)
    assert not writer.is_alive()


def test_large_stdin(host):
    data = os.urandom(1 << 20) * 24
    code, out, _ = sh(host, 'sha256sum', data)
    assert code == 0 and out.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert sh(host, 'head -c 3', data) == (0, data[:3], b'')
    assert sh(host, 'cat', data[:3 << 20])[1] == data[:3 << 20]


def test_signals(host):
    """What the control descriptor says: a signal that is caught, one that is not; nonsense between; death by another's hand."""
    run = Exec(host, ['sh', '-c', 'trap "echo caught; exit 7" USR1; echo up; while :; do sleep 0.1; done'], control=True)
    run.close('stdin')
    assert run.read(until_=b'up\n') == b'up\n'
    os.write(run.control, b'nonsense\nsignal x\nsignal 999\n' + b'long' * 100 + b'\nresize 1\nsig')
    os.write(run.control, b'nal 10\n')
    assert run.end()[:2] == (7, b'caught\n')
    for number in (signal.SIGTERM, signal.SIGSEGV):
        run = Exec(host, ['sleep', '1000'], control=True)
        os.write(run.control, b'signal %d\n' % number)
        assert run.result()['signal'] == number
    assert sh(host, 'kill -11 $$')[0] == -11


def test_terminal(host):
    """A terminal with its size, what is typed, Ctrl-C, a new size, the end of what is typed, and hanging up."""
    run = Exec(host, ['sh', '-c', 'stty size; while read x; do echo "<$x>"; done; echo over'], control=True, tty=True, rows=24, cols=80)
    assert run.read(until_=b'24 80\r\n')
    os.write(run.stdin, b'one\n')
    assert run.read(until_=b'<one>\r\n').endswith(b'<one>\r\n')
    run.close('stdin')  # types the terminal's end of file
    code, out, _ = run.end()
    assert code == 0 and out.endswith(b'over\r\n')
    run = Exec(host, ['sh', '-c', 'while ! stty size | grep 132; do sleep 0.1; done; echo over'], control=True, tty=True, rows=24, cols=80)
    os.write(run.control, b'resize 50 132\n')
    assert run.read(until_=b'over').startswith(b'50 132\r\n')
    assert run.result()['exit_code'] == 0
    run = Exec(host, ['sh', '-c', 'echo up; sleep 1000'], tty=True)
    assert run.read(until_=b'up\r\n')
    os.write(run.stdin, b'\3')
    assert run.end()[0] == -signal.SIGINT
    run = Exec(host, ['sh', '-c', 'echo $$; sleep 1001'], tty=True)
    pid = int(run.read(until_=b'\n'))
    run.client.close()
    run.close()
    until(lambda: sh(host, f'kill -0 {pid}')[0] != 0, 'what was on the terminal to end')


def test_client_goes(host):
    """A client that goes takes its program with it, and no other."""
    stays = Exec(host, ['cat'])
    goes = Exec(host, ['sh', '-c', 'echo $$; sleep 1002'])
    pid = int(goes.read(until_=b'\n'))
    goes.client.close()
    goes.close()
    until(lambda: sh(host, f'kill -0 {pid}')[0] != 0, 'the program to end')
    os.write(stays.stdin, b'still here')
    stays.close('stdin')
    assert stays.end() == (0, b'still here', b'')


def test_cannot_start(host):
    for argv, params, words in ((['nothing-of-that-name'], {}, 'not found in $PATH'), (['/etc'], {}, 'Permission denied'),
                                (['true'], {'user': 'nobody-here'}, 'no user "nobody-here"'),
                                (['true'], {'workdir': '/not/there'}, 'working directory "/not/there"'),
                                (['sh', '-c', 'x' * 140000], {}, '')):
        with pytest.raises(WireError, match=words.replace('$', r'\$')):
            run = Exec(host, argv, **params)
            run.result()
    running(host)


def test_orphans(host):
    """A child that keeps the streams is not waited for; the agent reaps it."""
    code, out, _ = sh(host, 'sleep 1003 & echo $!')
    assert code == 0 and sh(host, f'kill -9 {int(out)}')[0] == 0
    until(lambda: sh(host, 'grep -l Z.\\(zombie /proc/[0-9]*/status; true')[1] == b'', 'zombies to be reaped')


# ---- trees

ODD = ('plain', 'with space', 'new\nline', '-rf', b'\xff\xfe'.decode(errors='surrogateescape'), 'ümläut', 'back\\slash', 'x' * 255, '$HOME;`id`')


def test_trees(host, tmp_path):
    """A tree of odd names into the VM and out of it again is the same; get and put that cannot be say why."""
    tree = tmp_path / 'tree'
    (tree / 'deep/er').mkdir(parents=True)
    for name in ODD:
        (tree / name).write_bytes(os.fsencode(name))
    (tree / 'large').write_bytes(os.urandom(1 << 20) * 5)
    (tree / 'deep/er/link').symlink_to('../../plain')
    (tree / 'deep/private').touch(0o4711)
    os.utime(tree / 'plain', ns=(0, -1_000_000_001))
    packed = tmp_path / 'packed.tar'
    subprocess.run(['tar', '--format=pax', '-cf', packed, '-C', tmp_path, 'tree'], check=True)
    put = Exec(host, method='vm.put', path='/srv')
    put.write(packed.read_bytes())
    put.result()
    assert sh(host, 'cat "/srv/tree/with space" /srv/tree/deep/er/link; stat -c %a /srv/tree/deep/private')[1] == b'with spaceplain4711\n'
    get = Exec(host, method='vm.get', path='/srv/tree')
    data = get.read()
    get.result()
    (tmp_path / 'back').mkdir()
    subprocess.run(['tar', '-xf', '-', '-C', tmp_path / 'back'], input=data, check=True)
    subprocess.run(['diff', '-r', '--no-dereference', tree, tmp_path / 'back/tree'], check=True)
    for path in ('plain', 'deep/private'):
        a, b = os.stat(tree / path), os.stat(tmp_path / 'back/tree' / path)
        assert (a.st_mode, a.st_mtime_ns, a.st_uid) == (b.st_mode, b.st_mtime_ns, b.st_uid), path
    for method, path, code in (('vm.get', '/srv/none', 'not_found'), ('vm.put', '/srv/none', 'not_found'), ('vm.put', 'relative', 'bad_request')):
        with pytest.raises(WireError) as caught:
            run = Exec(host, method=method, path=path)
            run.close()
            run.result()
        assert caught.value.code == code, caught.value
    for broken in (b'', b'no tar' * 200, packed.read_bytes()[:100_000]):
        put = Exec(host, method='vm.put', path='/srv')
        put.write(broken)
        with pytest.raises(WireError):
            put.result()
    sh(host, 'rm -r /srv/tree')
    running(host)


# ---- agents that are none

def header(kind, channel, length):
    return struct.pack('<BBHI', kind, 0, channel, length)


HELLO, STDOUT, EXIT, CREDIT = 1, 3, 5, 128


@contextlib.contextmanager
def guest(host, lie):
    """A VM "b" whose QEMU is a program of ours that plays an agent on the port's socket: it greets, takes an EXEC, and then
    says lie."""
    script = host.base / 'fake-qemu'
    script.write_text(f'''#!/usr/bin/python3
import json, os, signal, socket, struct, sys, threading
if '--version' in sys.argv:
    print('QEMU emulator version 7.2.22 (played)')
    sys.exit()
args = ' '.join(sys.argv)
fd = next(int(a.split('fd=')[1].split(',')[0]) for a in sys.argv if a.startswith('socket,id=agent'))
qmp = next(int(a.split('fd=')[1].split(',')[0]) for a in sys.argv if a.startswith('socket,id=control'))
def control():
    conn, _ = socket.socket(fileno=qmp).accept()
    conn.sendall(b'{{"QMP": {{"version": {{}}, "capabilities": []}}}}\\n')
    for line in conn.makefile('r'):
        answer = {{'return': {{'status': 'running', 'running': True}}, 'id': json.loads(line).get('id')}}
        conn.sendall(json.dumps(answer).encode() + b'\\n')
threading.Thread(target=control, daemon=True).start()
port, _ = socket.socket(fileno=fd).accept()
def take(n):
    data = b''
    while len(data) < n:
        more = port.recv(n - len(data))
        if not more:
            signal.pause()
        data += more
    return data
attach = take(8 + 36)
port.sendall(struct.pack('<BBHI', 1, 0, 0, 20) + struct.pack('<I', 2) + attach[-16:])
while True:
    kind, _, channel, size = struct.unpack('<BBHI', take(8))
    take(size)
    if kind == 64:
        break
lie = {lie!r}
try:
    if lie is None:
        os._exit(1)
    for what, times in lie:
        for _ in range(times):
            port.sendall(what)
except OSError:
    pass
signal.pause()
''')
    script.chmod(0o755)
    yield script


LIES = {
    'not a frame': ([(b'\x07\x07' * 50, 1)], 'protocol'),
    'a channel that is not in use': ([(header(STDOUT, 9, 1) + b'x', 1)], 'protocol'),
    'more than the window': ([(header(STDOUT, 1, 32760) + b'x' * 32760, 2000)], 'credit'),
    'an exit that is none': ([(header(EXIT, 1, 3) + b'xyz', 1)], 'protocol'),
    'credit out of nothing': ([(header(CREDIT, 1, 5) + struct.pack('<IB', 1 << 30, 0), 1)], 'protocol'),
}


@pytest.fixture(scope='module')
def liars(cache):
    """A daemon whose QEMU lies, apart from the honest one."""
    base = pathlib.Path(tempfile.mkdtemp(prefix='banger-'))
    world = harness.Banger(base, env={'BANGER_QEMU': str(base / 'fake-qemu')})
    with guest(world, []):
        world.start()
    world.ctl('kernel', 'import', cache / 'exec-kernel.tar', '--name', 'k')
    world.ctl('image', 'import', kernels.bootable_ext4(cache), '--name', 'web')
    yield world
    wrong = world.check_clean()
    assert not wrong, '\n'.join(wrong)
    shutil.rmtree(base)


@pytest.mark.parametrize('what', LIES)
def test_a_guest_that_lies(host, liars, what):
    """The program that was started fails with what is wrong; the daemon and honest VMs go on."""
    lie, words = LIES[what]
    with guest(liars, lie):
        call(liars, 'vm.create', name='b', image='web', accel='tcg')
        run = Exec(liars, ['true'], vm='b')
        with pytest.raises(WireError, match=words) as caught:
            run.end()
        assert caught.value.op_id
        with pytest.raises(WireError):
            Exec(liars, ['true'], vm='b').result()
        call(liars, 'vm.rm', vm='b', force=True)
    assert call(liars, 'vm.ls')['vms'] == []
    assert sh(host, 'echo well')[1] == b'well\n'


# ---- the agent ends; last, because it takes the VM along

def test_agent_killed(host):
    """Here the agent is PID 1: nothing in the guest can end it but the kernel. What runs when the VM dies is told so, the
    state is true, and the VM starts again."""
    assert sh(host, 'kill -9 1; kill -11 1; echo $?')[1] == b'0\n'
    running(host)
    waits = Exec(host, ['sleep', '1004'])
    assert sh(host, 'echo up')[1] == b'up\n'
    vm = call(host, 'vm.show', vm='a')['vm']
    os.kill(vm['pid'], signal.SIGKILL)
    with pytest.raises(WireError) as caught:
        waits.result()
    assert caught.value.code == 'unavailable' and '"a"' in caught.value.message
    until(lambda: call(host, 'vm.show', vm='a')['vm']['state'] == 'failed', 'the state to be true')
    with pytest.raises(WireError, match='start it first'):
        Exec(host, ['true']).result()
    call(host, 'vm.start', vm='a')
    running(host)
