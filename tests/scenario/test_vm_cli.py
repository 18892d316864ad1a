# SPDX-License-Identifier: Apache-2.0
"""banger-ctl vm, with the real programs and real VMs: what people type, what they see, and with which status it ends. One
daemon for all of it, and one VM, "a", for what only needs one that runs."""
import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tarfile
import termios
import time

import pytest

import harness
import kernels
import pulls
from conftest import QUICK
from harness import PROGRAM, run, until

pytestmark = [pytest.mark.needs('qemu-system-x86_64', 'banger-agent', 'busybox'), pytest.mark.limit(300)]
WAIT = 120


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def host(scratch, cache):
    """A daemon with a kernel, and an image "web" that has busybox."""
    tree = kernels.bootable_tree(cache / 'cli-tree')
    shutil.copy(shutil.which('busybox'), tree / 'bin/busybox')
    for name in ('stty', 'nc', 'test', 'ln'):
        if not (tree / 'bin' / name).exists():
            os.symlink('busybox', tree / 'bin' / name)
    image = harness.make_ext4(cache / 'cli.ext4', tree, '64M')
    with pulls.shared_world(scratch) as world:
        world.start()
        world.ctl('kernel', 'import', kernels.small_tar(kernels.find_deb(cache), cache / 'vm-kernel.tar'), '--name', 'k')
        world.ctl('image', 'import', image, '--name', 'web')
        yield world
        if world.daemon.alive():
            names = world.ctl('vm', 'ls', '-q').out.split()
            if names:
                world.ctl('vm', 'rm', '-f', *names)


@pytest.fixture(scope='module')
def port(host):
    return free_port()


@pytest.fixture(scope='module')
def a(host, port):
    """The VM that the tests share. Stages of its start are lines on a pipe."""
    made = host.ctl('vm', 'create', 'web', '--name', 'a', '--accel', 'tcg', '--network', 'user', '-p', f'{port}:80',
                    timeout=WAIT)
    assert re.fullmatch('created a [0-9a-f]{16}\n', made.out)
    assert re.search('^banger-ctl: creating a: (boot|agent)$', made.err, re.M), made.err
    return host


def ctl(host, *args, **kwargs):
    return host.ctl('vm', *args, check=False, timeout=WAIT, **kwargs)


def sh(host, script, *options, **kwargs):
    return ctl(host, 'exec', *options, 'a', 'sh', '-c', script, **kwargs)


def start(host, *args, **popen):
    popen = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **popen}
    return subprocess.Popen([str(PROGRAM['banger-ctl']), 'vm', *map(str, args)], env=host.env, **popen)


def sha(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


class Terminal:
    """banger-ctl on a terminal of its own."""

    def __init__(self, host, *args, rows=24, cols=80):
        self.said = b''
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack('HHHH', rows, cols, 0, 0))
            os.execve(PROGRAM['banger-ctl'], ['banger-ctl', 'vm', *map(str, args)], {**host.env, 'TERM': 'xterm'})
        self.cooked = termios.tcgetattr(self.fd)

    def take(self):
        """What has come; False at the end."""
        if not select.select([self.fd], [], [], 0.05)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.said += data
        return bool(data)

    def expect(self, words, seconds=30):
        """Wait for the words, and forget what came up to them."""
        words = words.encode()
        deadline = time.monotonic() + seconds
        while words not in self.said:
            assert self.take() and time.monotonic() < deadline, f'no {words!r} in {self.said!r}'
        before, _, self.said = self.said.partition(words)
        return before.decode()

    def type(self, text):
        os.write(self.fd, text.encode())

    def resize(self, rows, cols):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack('HHHH', rows, cols, 0, 0))

    def modes(self):
        """(echo, canonical): both on at a prompt, both off in a session."""
        flags = termios.tcgetattr(self.fd)[3]
        return bool(flags & termios.ECHO), bool(flags & termios.ICANON)

    def end(self, seconds=30):
        """The exit status, and that the terminal is as it was."""
        deadline = time.monotonic() + seconds
        while self.take():
            assert time.monotonic() < deadline, f'it does not end: {self.said!r}'
        with contextlib.suppress(termios.error):  # its other end is closed
            assert termios.tcgetattr(self.fd)[:4] == self.cooked[:4]
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return status


# ---- looking

def test_look(a):
    """A table for people, names with --quiet, documents with --json; by state; prefixes; errors that can be followed."""
    heading, line = ctl(a, 'ls').out.splitlines()
    assert heading.split() == ['NAME', 'STATE', 'IMAGE', 'CPUS', 'MEMORY', 'NETWORK', 'PORTS', 'STARTED', 'ID']
    assert re.match(r'a +running +web +1 +256MiB +user +127\.0\.0\.1:\d+->80/tcp +\S.* [0-9a-f]{16}$', line)
    assert ctl(a, 'ls', '-q').out == 'a\n' == ctl(a, 'ls', '-q', '--state', 'running', '--state', 'failed').out
    assert ctl(a, 'ls', '-q', '--state', 'stopped').out == ''
    document = a.ctl('--json', 'vm', 'ls').json
    assert document['vms'] == a.call('vm.ls')['vms'] and a.ctl('--json', 'vm', 'ls', '--state', 'paused').json == {'vms': []}
    [vm] = document['vms']
    shown = ctl(a, 'show', vm['id'][:5]).out
    assert re.search(r'^name +a$', shown, re.M) and re.search(r'^memory +256MiB \(268435456 bytes\)$', shown, re.M)
    assert a.ctl('--json', 'vm', 'show', 'a').json['vm'] == vm and ctl(a, 'show', '-q', 'a').out == vm['id'] + '\n'
    refused = ctl(a, 'show', 'nosuch')
    assert refused.code == 1 and 'VM "nosuch" not found' in refused.err and a.op(refused.op_id)['code'] == 'not_found'


def test_completion(a):
    """Names of VMs, images, kernels; states; what can be copied."""
    def offered(*words):
        return run(PROGRAM['banger-ctl'], '--complete', *words, env=a.env).out
    assert offered('vm', 'stop', '') == ':words\na\trunning\n'
    assert offered('vm', 'exec', '-u', 'root', 'a', '') == ':files\n' == offered('vm', 'exec', 'a', 'ls', '-')
    assert offered('vm', 'run', 'w') == ':words\nweb\tpublished\n'
    assert offered('vm', 'create', '--kernel', '').startswith(':words\nk\t')
    assert offered('vm', 'ls', '--state', 'st').split() == [':words', 'starting', 'stopping', 'stopped']
    assert offered('vm', 'cp', '') == ':files\na:\trunning\n' and offered('vm', 'cp', './') == ':files\n'


# ---- exec

def test_exec(a):
    """Both outputs byte for byte; statuses; options stand before the command, whatever stands in it is the command's."""
    done = sh(a, 'echo out; echo err >&2; exit 42')
    assert (done.out, done.err, done.code) == ('out\n', 'err\n', 42)
    assert ctl(a, 'exec', 'a', 'true').code == 0 and sh(a, 'exit 1').code == 1
    assert sh(a, 'kill -9 $$').code == 137 and sh(a, 'kill -15 $$').code == 143
    assert ctl(a, 'exec', 'a', '--', 'echo', '-n', '--json', '--').out == '--json --'
    assert ctl(a, 'exec', 'a', 'echo', '-n', '-q', '--', 'x').out == '-q -- x'
    said = sh(a, 'id -u; pwd; echo $A $B; echo $C', '-u', 'web', '-w', '/etc', '-e', 'A=b=c', '--env=B', '-e', 'NOT_SET_HERE',
              env={'B': 'here'}).out
    assert said == '33\n/etc\nb=c here\n\n'
    document = a.ctl('--json', 'vm', 'exec', 'a', 'sh', '-c', 'echo x; exit 3', check=False)
    assert document.code == 3 and document.out.startswith('x\n') and json.loads(document.out[2:])['exit_code'] == 3


@pytest.mark.parametrize('args, status, code, words', [
    (['exec', 'a', 'nosuch'], 125, 'not_found', 'cannot run "nosuch"'),
    (['exec', 'nosuch', 'true'], 125, 'not_found', 'VM "nosuch" not found'),
    (['exec', 'a'], 2, None, 'CMD... is missing'),
    (['exec', '-e', '=x', 'a', 'true'], 2, None, '"=x" is no variable'),
    (['exec', '-it', 'a', 'true'], 2, None, 'standard input is none'),
    (['exec', '-u', 'nobody', 'a', 'true'], 125, 'not_found', 'no user "nobody"'),
    (['exec', '--timeout', '300ms', 'a', 'sleep', '100'], 125, 'timeout', 'did not end in time'),
    (['create', 'nosuch'], 1, 'not_found', 'image "nosuch" not found'),
    (['create', 'web', '--kernel', 'nosuch'], 1, 'not_found', 'kernel "nosuch" not found'),
    (['create', 'web', '--name', 'a'], 1, 'exists', 'VM name "a" is taken'),
    (['create', 'web', '--name', '../x'], 1, 'bad_request', 'VM name'),
    (['create', '-d', 'web', '--memory', '900G'], 1, 'bad_request', 'memory'),
    (['create', 'web', '--memory', 'much'], 2, None, '--memory takes a size'),
    (['create', 'web', '--disk', '1M'], 1, 'bad_request', 'smaller than the image'),
    (['create', 'web', '-p', '80'], 1, 'bad_request', '"80" is no published port'),
    (['create', 'web', '--network', 'wifi'], 2, None, '--network is none, user or bridge'),
    (['run', 'nosuch', 'true'], 125, 'not_found', 'image "nosuch" not found'),
    (['run', '--name', 'a', 'web', 'true'], 125, 'exists', 'VM name "a" is taken'),
    (['run', '-d', '--timeout', '5s', 'web'], 2, None, 'exclude each other'),
    (['run', '-d', '--rm', 'nosuch'], 125, 'not_found', 'image "nosuch" not found'),
    (['start', 'nosuch'], 1, 'not_found', 'VM "nosuch" not found'),
    (['rm', 'a'], 1, 'busy', 'stop it first'),
    (['resume', 'a'], 1, 'bad_request', 'not paused'),
    (['kill', '-s', 'HUP', 'a'], 2, None, 'KILL and TERM'),
    (['kill', '-s', 'NOSUCH', 'a'], 2, None, 'no signal "NOSUCH"'),
    (['logs', '-n', 'some', 'a'], 2, None, 'a number of lines'),
    (['logs', 'nosuch'], 1, 'not_found', 'VM "nosuch" not found'),
    (['console', '--escape', 'Esc', 'a'], 2, None, '--escape takes a key'),
])
def test_refusals(a, args, status, code, words):
    """Each with the status of its command, in words that help, under an op_id that can be followed."""
    done = ctl(a, *args)
    assert done.code == status and words in done.err and done.out == '', (done.code, done.err)
    if code:
        assert a.op(done.op_id)['code'] == code
    assert ctl(a, 'ls', '-q').out == 'a\n'


def test_stdin(a):
    """A large pipe; bytes as they are; an end that the program sees; a program that wants none of it."""
    size = (64 << 20) if QUICK else (1 << 30)
    with subprocess.Popen(['head', '-c', str(size), '/dev/zero'], stdout=subprocess.PIPE) as pipe:
        assert ctl(a, 'exec', 'a', 'wc', '-c', stdin=pipe.stdout).out.split() == [str(size)]
    data = os.urandom(1 << 20) * 4
    process = start(a, 'exec', '-i', 'a', 'sha256sum', stdin=subprocess.PIPE)
    assert process.communicate(data, timeout=WAIT)[0].split()[0].decode() == hashlib.sha256(data).hexdigest()
    # The end of the input is an end there, with more to come the other way.
    assert sh(a, 'cat; echo end; sleep 0.2; echo after', input='in\n').out == 'in\nend\nafter\n'
    process = start(a, 'exec', 'a', 'sh', '-c', 'exec 0<&-; sleep 0.2; echo done', stdin=subprocess.PIPE)
    assert process.communicate(b'x' * (4 << 20), timeout=WAIT)[0] == b'done\n' and process.returncode == 0
    assert sh(a, 'cat').out == ''


def test_output_to_nobody(a):
    """A reader that goes away gives SIGPIPE to the program there; one that is slow gets everything."""
    read, write = os.pipe()
    process = start(a, 'exec', 'a', 'yes', stdout=write)
    os.close(write)
    assert os.read(read, 2) == b'y\n'
    os.close(read)
    assert process.wait(WAIT) == 128 + signal.SIGPIPE
    process = start(a, 'exec', 'a', 'dd', 'if=/dev/zero', 'bs=65536', 'count=128', stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    assert len(process.communicate(timeout=WAIT)[0]) == 128 * 65536


def test_eight_at_once(a):
    def one(i):
        return sh(a, f'cat; sleep 0.3; echo {i} >&2; exit {i}', input=f'{i}\n' * 1000)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, range(8)))
    assert [(r.out, r.err, r.code) for r in results] == [(f'{i}\n' * 1000, f'{i}\n', i) for i in range(8)]


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals(a, signum):
    """What we are sent is sent on; the status is the command's."""
    name = signum.name[3:]
    process = start(a, 'exec', 'a', 'sh', '-c', f'trap "echo got {name}; exit 9" {name}; echo ready; while :; do sleep 0.05; done')
    assert process.stdout.readline() == b'ready\n'
    process.send_signal(signum)
    assert process.communicate(timeout=WAIT)[0] == f'got {name}\n'.encode() and process.returncode == 9


def test_signals_that_are_not_heard(a):
    """A command that is ended by one; the third one ends a command that does not listen, and us as if it was for us."""
    process = start(a, 'exec', 'a', 'sh', '-c', 'echo ready; exec sleep 1000')
    assert process.stdout.readline() == b'ready\n'
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=WAIT)
    assert process.returncode == 143
    process = start(a, 'exec', 'a', 'sh', '-c', 'trap "echo heard" INT; echo ready; while :; do sleep 0.05; done')
    assert process.stdout.readline() == b'ready\n'
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b'heard\n'
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == -signal.SIGINT and b'cancelled' in err
    until(lambda: 'sleep 0.05' not in sh(a, 'busybox ps').out, 'the command to be gone')
    process = start(a, 'exec', 'a', 'sh', '-c', 'echo ready; exec sleep 1000')
    assert process.stdout.readline() == b'ready\n'
    [op_id] = [o['op_id'] for o in a.call('status')['operations'] if o['method'] == 'vm.exec']
    a.ctl('op', 'cancel', op_id)
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 125 and b'by another client' in err and op_id.encode() in err


def test_detached(a):
    """It runs on without us, and what it says is in the console's log."""
    assert ctl(a, 'exec', '-d', 'a', 'sh', '-c', 'sleep 0.3; echo said apart').out == ''
    until(lambda: 'said apart' in ctl(a, 'logs', 'a').out, 'its output')
    refused = ctl(a, 'exec', '-d', 'a', 'nosuch')
    assert refused.code == 125 and 'cannot run "nosuch"' in refused.err


# ---- terminals

def test_terminal(a):
    """A session: its size, a change of it, Ctrl-C for the program there, modes that are ours only meanwhile."""
    t = Terminal(a, 'exec', '-it', 'a', 'sh', rows=30, cols=90)
    t.expect('# ')
    assert t.modes() == (False, False)
    t.type('stty size\r')
    t.expect('30 90\r\n')
    t.resize(41, 101)
    t.type('sleep 0.2; stty size\r')
    t.expect('41 101\r\n')
    t.type('echo begin$((1 + 1)); sleep 1000\r')
    t.expect('begin2\r\n')
    until(lambda: 'sleep 1000' in sh(a, 'busybox ps').out, 'the command')
    t.type('\x03')
    t.type('echo status $?; test -t 0 && test -t 1 && echo A$((40 + 2))\r')
    t.expect('status 130\r\n')
    t.expect('A42\r\n')
    t.type('exit 7\r')
    assert t.end() == 7


def test_terminal_stops_and_goes_on(a):
    """Stopped from outside, the terminal is the shell's; afterwards it is the program's again, with its new size."""
    t = Terminal(a, 'exec', '-it', 'a', 'sh')
    t.expect('# ')
    os.kill(t.pid, signal.SIGTSTP)
    pid, status = os.waitpid(t.pid, os.WUNTRACED)
    assert pid == t.pid and os.WIFSTOPPED(status)
    assert termios.tcgetattr(t.fd)[:4] == t.cooked[:4]
    t.resize(50, 120)
    os.kill(t.pid, signal.SIGCONT)
    until(lambda: t.modes() == (False, False), 'the terminal to be raw again')
    t.type('sleep 0.2; stty size\r')
    t.expect('50 120\r\n')
    t.type('exit\r')
    assert t.end() == 0


def test_terminal_is_restored(a):
    """After a signal, after an error, and when the terminal itself goes away."""
    t = Terminal(a, 'exec', '-it', 'a', 'sleep', '1000')
    until(lambda: t.modes() == (False, False), 'the session')
    until(lambda: 'sleep 1000' in sh(a, 'busybox ps').out, 'the command')
    os.kill(t.pid, signal.SIGTERM)
    assert t.end() == 143
    t = Terminal(a, 'exec', '-it', 'a', 'nosuch')
    t.expect('cannot run "nosuch"')
    assert t.modes() == (True, True) and t.end() == 125
    t = Terminal(a, 'exec', '-it', 'a', 'sh', '-c', 'trap "" HUP; echo ready; while :; do sleep 0.05; done')
    t.expect('ready')
    os.close(t.fd)
    assert os.waitstatus_to_exitcode(os.waitpid(t.pid, 0)[1]) in (-signal.SIGHUP, 125)
    until(lambda: 'sleep 0.05' not in sh(a, 'busybox ps').out, 'the command to be gone')


def test_terminal_without_t(a):
    """What is typed is read with -i alone; Ctrl-C is a signal; the end of input is Ctrl-D."""
    t = Terminal(a, 'exec', '-i', 'a', 'cat')
    t.type('line\n')
    t.expect('line\r\n')  # the echo
    t.expect('line\r\n')
    assert t.modes() == (True, True)
    t.type('\x04')
    assert t.end() == 0
    t = Terminal(a, 'exec', 'a', 'sh', '-c', 'cat; echo ready; exec sleep 1000')
    t.expect('ready')
    t.type('\x03')
    assert t.end() == 130


def test_shell(a):
    """The user's login shell: on a terminal a session, else what is piped in is read."""
    t = Terminal(a, 'shell', 'a', '-u', 'web')
    t.expect('$ ')
    t.type('id -u; echo $0\r')
    t.expect('33\r\n')
    t.type('exit 5\r')
    assert t.end() == 5
    done = ctl(a, 'shell', 'a', input='echo $((6 * 7)); exit 3\n')
    assert (done.out, done.code) == ('42\n', 3)


# ---- ports

def test_publish(a, port):
    """A server in the VM, reached through the port of this host."""
    server = start(a, 'exec', 'a', 'nc', '-l', '-p', '80', '-e', 'echo', 'hello from the VM')
    said = b''

    def reached():
        nonlocal said
        with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), 5) as s:
            s.settimeout(5)
            said += s.recv(100)
        return said
    until(reached, 'the server', 30)
    assert said == b'hello from the VM\n'
    assert server.wait(WAIT) == 0


# ---- cp

@pytest.fixture
def files(tmp_path):
    """A tree with a little of everything."""
    tree = tmp_path / 'tree'
    (tree / 'sub' / 'deep').mkdir(parents=True)
    (tree / 'file').write_bytes(os.urandom(100000))
    (tree / 'sub' / 'run').write_text('#!/bin/sh\necho ran\n')
    (tree / 'sub' / 'run').chmod(0o750)
    os.link(tree / 'file', tree / 'sub' / 'same')
    os.symlink('../file', tree / 'sub' / 'link')
    os.symlink('nowhere', tree / 'dangling')
    with open(tree / 'sparse', 'wb') as f:
        f.write(b'head')
        f.seek(20 << 20)
        f.write(b'tail')
    (tree / 'ä b').write_text('a name\n')
    os.utime(tree / 'file', (1e9, 1e9 + 0.25))
    yield tmp_path
    sh_done = subprocess.run(['chmod', '-R', 'u+rwx', tmp_path], check=False)
    assert sh_done.returncode == 0


def facts(tree):
    """{name: what it is}, of everything below a directory."""
    found = {}
    for path in sorted(pathlib.Path(tree).rglob('*')):
        st = path.lstat()
        what = os.readlink(path) if path.is_symlink() else sha(path) if path.is_file() else ''
        found[str(path.relative_to(tree))] = (st.st_mode, what, st.st_mtime_ns if not path.is_dir() else 0)
    return found


def test_copy_both_ways(a, files):
    """A tree there and back is the tree: contents, modes, times, links, holes."""
    sh(a, 'mkdir /tmp/cp')
    assert ctl(a, 'cp', files / 'tree', 'a:/tmp/cp').code == 0
    sums = dict(reversed(line.split(None, 1)) for line in
                sh(a, 'cd /tmp/cp/tree && sha256sum file sub/run sub/same sparse').out.splitlines())
    assert sums == {name: sha(files / 'tree' / name) for name in ('file', 'sub/run', 'sub/same', 'sparse')}
    assert sh(a, 'cd /tmp/cp/tree; sub/run; stat -c %u:%g:%a:%h file sub/run; stat -c %b sparse').out.split()[:3] == \
        ['ran', '0:0:644:2', '0:0:750:1']
    assert int(sh(a, 'stat -c %b /tmp/cp/tree/sparse').out) < 1000
    assert ctl(a, 'cp', 'a:/tmp/cp/tree', files / 'back').code == 0
    assert facts(files / 'back') == facts(files / 'tree')
    assert (files / 'back/file').stat().st_ino == (files / 'back/sub/same').stat().st_ino
    assert (files / 'back/sparse').stat().st_blocks < 1000


def test_copy_rules(a, files):
    """Where SRC goes: docker's table."""
    sh(a, 'mkdir -p /tmp/rules/dir; ln -s dir /tmp/rules/link; ln -s gone /tmp/rules/dangling; echo old > /tmp/rules/file')
    tree, one = files / 'tree', files / 'one'
    one.write_text('one\n')

    def cp(*args):
        return ctl(a, 'cp', *args).code

    def there(path):
        return sh(a, f'cat {path}').out

    # A file: into a directory, through a link to one, over a file, under a new name; paths are from the root.
    assert cp(one, 'a:/tmp/rules/dir') == 0 and there('/tmp/rules/dir/one') == 'one\n'
    assert cp(one, 'a:tmp/rules/link/') == 0 and cp(one, 'a:/tmp/rules/file') == 0 and there('/tmp/rules/file') == 'one\n'
    assert cp(one, 'a:/tmp/rules/new') == 0 and there('/tmp/rules/new') == 'one\n'
    assert cp(one, 'a:/tmp/rules/dangling') == 0 and there('/tmp/rules/gone') == 'one\n'
    # A tree: into a directory, as a new one, what is in it.
    assert cp(tree, 'a:/tmp/rules/dir') == 0 and there('/tmp/rules/dir/tree/sub/run').endswith('ran\n')
    assert cp(tree, 'a:/tmp/rules/dir2') == 0 and there('/tmp/rules/dir2/sub/run').endswith('ran\n')
    assert cp(f'{tree}/.', 'a:/tmp/rules/dir') == 0 and there('/tmp/rules/dir/sub/run').endswith('ran\n')
    # A link is a link, and with -L what it leads to.
    os.symlink('one', files / 'link')
    assert cp(files / 'link', 'a:/tmp/rules/l1') == 0 and sh(a, 'test -L /tmp/rules/l1').code == 0
    assert cp('-L', files / 'link', 'a:/tmp/rules/l2') == 0 and there('/tmp/rules/l2') == 'one\n'
    # The other way.
    back = files / 'back'
    back.mkdir()
    assert cp('a:/tmp/rules/new', back) == 0 and (back / 'new').read_text() == 'one\n'
    assert cp('a:/tmp/rules/new', back / 'other') == 0 and (back / 'other').read_text() == 'one\n'
    assert cp('a:/tmp/rules/dir2/.', back) == 0 and (back / 'sub/run').exists()
    assert cp('a:/tmp/rules/dir2', back) == 0 and (back / 'dir2/sub/run').exists()
    assert cp('a:/tmp/rules/link', back) == 0 and os.readlink(back / 'link') == 'dir'
    assert cp('-L', 'a:/tmp/rules/link', back / 'followed') == 0 and (back / 'followed/one').read_text() == 'one\n'
    os.mkfifo(back / 'pipe')
    for args, words in ([[one, 'a:/tmp/none/x'], 'there is no directory'], [[one, 'a:/tmp/none/'], 'there is no directory'],
                        [[tree, 'a:/tmp/rules/file'], 'is a file'], [[files / 'none', 'a:/tmp'], 'No such file'],
                        [['a:/tmp/none', back], 'there is no file'], [['a:/tmp/rules/dir', back / 'new'], 'is a file'],
                        [['a:/tmp/rules/new', f'{back}/none/'], 'there is no directory'],
                        [['a:/tmp/rules/new', back / 'none/x'], 'there is no directory'],
                        [['a:/tmp/rules/new', back / 'pipe'], 'is a device, a pipe or a socket'],
                        [['nosuch:/x', back], 'VM "nosuch" not found']):
        done = ctl(a, 'cp', *args)
        assert done.code == 1 and words in done.err and done.op_id, (args, done)
    assert (back / 'pipe').is_fifo()
    for args in (['x', 'y'], ['a:/x', 'a:/y'], ['a:', 'y']):
        assert cp(*args) == 2


def test_copy_owners(a, files):
    """Root's there and ours here; with --archive as it is, special modes too, which else nobody gains."""
    tree = files / 'tree'
    os.chown(tree / 'file', 1234, 567)
    assert ctl(a, 'cp', '-a', f'{tree}', 'a:/tmp/owned').code == 0
    assert sh(a, 'stat -c %u:%g /tmp/owned/file').out == '1234:567\n'
    sh(a, 'cd /tmp/owned; busybox chmod 4755 sub/run; busybox mknod null c 1 3')
    assert ctl(a, 'cp', '--archive', 'a:/tmp/owned', files / 'kept').code == 0
    assert (files / 'kept/file').stat().st_uid == 1234 and (files / 'kept/sub/run').stat().st_mode & 0o7777 == 0o4755
    assert (files / 'kept/null').is_char_device()
    done = ctl(a, 'cp', 'a:/tmp/owned', files / 'mine')
    assert done.code == 0 and 'left out 1 device' in done.err
    assert (files / 'mine/file').stat().st_uid == os.getuid() and (files / 'mine/sub/run').stat().st_mode & 0o7777 == 0o755
    assert not (files / 'mine/null').exists()


def test_copy_streams(a, files):
    """"-" is a tar stream, either way; one that breaks off is an error."""
    with subprocess.Popen(['tar', '-C', files, '-c', 'tree'], stdout=subprocess.PIPE) as tar:
        assert ctl(a, 'cp', '-', 'a:/srv', stdin=tar.stdout).code == 0
    process = start(a, 'cp', 'a:/srv/tree', '-')
    with tarfile.open(fileobj=process.stdout, mode='r|') as stream:
        names = {entry.name for entry in stream}
    assert process.wait(WAIT) == 0 and {'tree', 'tree/sub/run', 'tree/dangling'} <= names
    done = ctl(a, 'cp', '-', 'a:/srv', input='no tar stream')
    assert done.code == 1 and 'stream' in done.err and done.op_id
    read, write = os.pipe()  # a reader that has enough
    process = start(a, 'cp', 'a:/srv/tree', '-', stdout=write)
    os.close(write)
    os.read(read, 512)
    os.close(read)
    assert process.wait(WAIT) == 0


# ---- the console

def test_logs(a):
    """All of it, the last lines of it, what is added; a reader that goes away, Ctrl-C, the VM's end."""
    sh(a, 'for i in 1 2 3; do echo line $i > /dev/ttyS0; done')
    until(lambda: 'line 3' in ctl(a, 'logs', 'a').out, 'the console')
    assert ctl(a, 'logs', '-n', '2', 'a').out.split('\n')[:2] == ['line 2', 'line 3'] and ctl(a, 'logs', '--tail', '0', 'a').out == ''
    assert ctl(a, 'logs', '--tail=all', 'a').out == ctl(a, 'logs', 'a').out
    follower = start(a, 'logs', '-f', '-n1', 'a')
    assert follower.stdout.readline() == b'line 3\r\n'
    sh(a, 'echo line 4 > /dev/ttyS0')
    assert follower.stdout.readline() == b'line 4\r\n'
    follower.send_signal(signal.SIGINT)
    follower.communicate(timeout=WAIT)
    assert follower.returncode == -signal.SIGINT


def test_console(a):
    """What the VM says there, what is typed there, and the key that leaves."""
    sh(a, 'read line < /dev/ttyS0; echo read $line > /dev/ttyS0', '-d')
    t = Terminal(a, 'console', 'a')
    t.expect('Ctrl-] leaves it')
    until(lambda: t.modes() == (False, False), 'the terminal to be raw')
    until(lambda: 'read line' in sh(a, 'busybox ps').out, 'the reader')
    t.type('typed\r')
    t.expect('read typed')
    t.type('\x1d')
    t.expect('left the console of a')
    assert t.end() == 0
    t = Terminal(a, 'console', '--escape', '^A', 'a')
    t.expect('Ctrl-A leaves it')
    until(lambda: t.modes() == (False, False), 'the terminal to be raw')
    t.type('\x01')
    assert t.end() == 0


# ---- a life

def test_power(host):
    """Each step of a VM's life by its command; several at once; what is refused does not keep the others."""
    assert ctl(host, 'create', 'web', '--name', 'b', '--no-start').out.startswith('created b ')
    lines = host.ctl('--json', 'vm', 'create', 'web', '--name', 'c', '--accel', 'tcg', timeout=WAIT).out.splitlines()
    lines = [json.loads(line) for line in lines]
    assert lines[-1]['vm']['state'] == 'running' and {line['progress']['name'] for line in lines[:-1]} <= {'c'}
    console = ctl(host, 'console', 'b')
    assert console.code == 1 and 'VM "b" is created' in console.err and console.op_id
    started = ctl(host, 'start', 'b', 'nosuch', 'c')
    assert started.code == 1 and [line.split()[:2] for line in started.out.splitlines()] == [['started', 'b'], ['started', 'c']]
    assert 'VM "nosuch" not found' in started.err
    assert [line.split()[:2] for line in ctl(host, 'pause', 'b', 'c').out.splitlines()] == [['paused', 'b'], ['paused', 'c']]
    assert ctl(host, 'ls', '-q', '--state', 'paused').out == 'b\nc\n'
    assert ctl(host, 'resume', 'b', 'c').code == 0
    follower = start(host, 'logs', '-f', '-n', '0', 'c')
    assert ctl(host, 'stop', '-t', '20', 'c').out.startswith('stopped c ')
    follower.communicate(timeout=WAIT)
    assert follower.returncode == 0
    removed = ctl(host, 'rm', 'b', 'c')
    assert removed.code == 1 and removed.out.startswith('removed c ') and 'stop it first' in removed.err
    assert host.ctl('--json', 'vm', 'kill', 'b').json['vms'][0]['state'] == 'stopped'
    assert ctl(host, 'kill', 'b').code == 1
    assert ctl(host, 'start', '-q', 'b').out == host.call('vm.show', {'vm': 'b'})['vm']['id'] + '\n'
    assert ctl(host, 'kill', '-s', 'SIGTERM', 'b').out.startswith('stopped b ')
    assert ctl(host, 'rm', '--force', 'b').out.startswith('removed b ')


def test_create_is_left_or_cancelled(host):
    """--detach prints the name while it boots; Ctrl-C leaves nothing."""
    name = ctl(host, 'create', '-d', 'web', '--accel', 'tcg').out.strip()
    assert re.fullmatch('vm-[0-9a-f]{12}', name)
    until(lambda: name in ctl(host, 'ls', '-q', '--state', 'running').out.split(), 'the VM to run', 60)
    ctl(host, 'rm', '-f', name)
    t = Terminal(host, 'create', 'web', '--name', 'd', '--accel', 'tcg')
    t.expect('creating d: agent')
    t.type('\x03')
    t.expect('cancelled (op-')
    assert t.end() == -signal.SIGINT and 'd' not in ctl(host, 'ls', '-q').out.split()


# ---- run

def vm_run(host, *args, **kwargs):
    return ctl(host, 'run', '--accel', 'tcg', *args, **kwargs)


def test_run(host):
    """With "--" and without; options on either side of the image; nothing is left; a session; Ctrl-C while it boots."""
    done = vm_run(host, '--rm', '-e', 'A=b', 'web', '-w', '/etc', 'sh', '-c', 'echo $A $1; pwd; echo err >&2; exit 42', '-', '-x')
    assert (done.out, done.err, done.code) == ('b -x\n/etc\n', 'err\n', 42)
    t = Terminal(host, 'run', '-it', '--accel', 'tcg', 'web', rows=33, cols=77)
    t.expect('# ', 60)
    t.type('stty size; exit 4\r')
    t.expect('33 77\r\n')
    assert t.end() == 4
    t = Terminal(host, 'run', '-it', '--accel', 'tcg', 'web')
    t.expect('starting vm-', 60)
    t.expect('agent', 60)
    assert t.modes() == (True, True)
    t.type('\x03')
    t.expect('cancelled (op-')
    assert t.end() == -signal.SIGINT
    until(lambda: ctl(host, 'ls', '-q').out.split() in ([], ['a']), 'the VMs to go')


def test_run_detached(host):
    """The name is printed; the command's output is in the logs; the VM ends with it. One that cannot be started leaves none."""
    here = start(host, 'run', '--accel', 'tcg', '--name', 'here', 'web', 'sleep', '1000')
    until(lambda: 'here' in ctl(host, 'ls', '-q').out.split(), 'the other VM', 60)
    done = vm_run(host, '-d', '--name', 'job', '--entrypoint', 'sh', 'web', '--', '-c', 'echo working; sleep 1; echo done')
    assert (done.out, done.code) == ('job\n', 0)
    assert host.call('vm.show', {'vm': 'job'})['vm']['state'] == 'running'
    assert b'done' in start(host, 'logs', '-f', 'job').communicate(timeout=WAIT)[0]
    assert ctl(host, 'rm', 'here').code == 1 and ctl(host, 'rm', '-f', 'here').code == 0
    _, err = here.communicate(timeout=WAIT)
    assert here.returncode == 125 and b'VM "here"' in err
    until(lambda: ctl(host, 'ls', '-q', '--state', 'stopped').out == 'job\n', 'the VM to end', 60)
    ctl(host, 'rm', 'job')
    done = vm_run(host, '-d', '--name', 'job', 'web', 'nosuch')
    assert done.code == 125 and 'cannot run "nosuch"' in done.err and done.op_id
    assert 'job' not in ctl(host, 'ls', '-q').out.split()
    done = vm_run(host, '-d', '--rm', '--name', 'job', 'web', 'sh', '-c', 'echo working; sleep 1000')
    assert (done.out, done.code) == ('job\n', 0), done
    assert host.call('vm.show', {'vm': 'job'})['vm']['transient']
    assert ctl(host, 'exec', 'job', 'echo', 'in it').out == 'in it\n'
    until(lambda: 'working' in ctl(host, 'logs', 'job').out, 'its output')
    assert ctl(host, 'stop', 'job').out.startswith('stopped job ')
    until(lambda: 'job' not in ctl(host, 'ls', '-q').out.split(), 'the VM to go', 60)
    done = vm_run(host, '-d', '--rm', 'web', 'nosuch')
    assert done.code == 125 and 'cannot run "nosuch"' in done.err and host.op(done.op_id)['method'] == 'vm.run.begin'


# ---- the daemon goes away

def test_daemon_goes_away(a):
    """A session is lost, and says so at once, with its op_id; the terminal is as it was; the VM goes on."""
    process = start(a, 'exec', 'a', 'sh', '-c', 'echo ready; exec sleep 1000')
    assert process.stdout.readline() == b'ready\n'
    t = Terminal(a, 'exec', '-it', 'a', 'sh')
    t.expect('# ')
    a.kill()
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 125 and re.search(rb'bangerd.*\(op-[0-9a-f]{12}\)\n$', err), err
    t.expect('bangerd')
    assert t.modes() == (True, True) and t.end() == 125
    refused = ctl(a, 'exec', 'a', 'true')
    assert refused.code == 125 and 'start bangerd' in refused.err
    a.start()
    assert ctl(a, 'exec', 'a', 'echo', 'again').out == 'again\n'
    until(lambda: 'sleep 1000' not in sh(a, 'busybox ps').out, 'the lost command to be ended')
