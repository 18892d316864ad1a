# SPDX-License-Identifier: Apache-2.0
"""Runs the real programs in a directory of their own and takes them down again, whatever happened.

A Banger is one daemon with its state and runtime directory; it owns the mounts, logs and processes of a
test. check_clean() is the other half of every test: nothing may stay mounted, running or half-made, each
line that a program wrote must be a log record, and no sanitizer may have said anything.

Nothing here sleeps for a fixed time to let something happen: until() waits for a condition.
"""
import ctypes
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

import wire

BUILD = pathlib.Path(os.environ.get('BANGER_BUILD', 'build')).resolve()
SANITIZER = re.compile(r'ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|LeakSanitizer')
PROGRAMS = ('bangerd', 'bangerfs', 'banger-ctl', 'banger-unpack', 'banger-agent')
LEVELS = {'debug', 'info', 'warn', 'error'}
TS = re.compile(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z')
PR_SET_CHILD_SUBREAPER = 36


def find_programs():
    """Where the build has its programs, by name."""
    found = {}
    for name in PROGRAMS:
        for path in sorted(BUILD.rglob(name)):
            if path.is_file() and os.access(path, os.X_OK):
                found[name] = path
    return found


PROGRAM = find_programs()


def become_subreaper():
    """Orphans of the programs become our children, so that none can hide."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def until(condition, what, seconds=10.0):
    """Wait for condition() to be true and give its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f'waited {seconds} s for {what}')
        time.sleep(0.004)


def loop_mount(image, point, *options, check=True):
    """Mount a file's filesystem, by a loop device of its own. mount(8) alone would take one that still has the file from
    before, with its cache, where somebody who looked at all devices kept it from going with its last mount."""
    lock = os.open(pathlib.Path(tempfile.gettempdir()) / 'banger-test-loop.lock', os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        device = run('losetup', '-f', '--show', image).out.strip()
        try:
            return run('mount', *(('-o', ','.join(options)) if options else ()), device, point, check=check)
        finally:
            run('losetup', '-d', device)  # with the mount's end
    finally:
        os.close(lock)


def mounts_under(path):
    """Mount points at or under path, deepest first, read without touching them."""
    path = str(path)
    found = []
    for line in pathlib.Path('/proc/self/mountinfo').read_text().splitlines():
        point = line.split(' ')[4].encode().decode('unicode_escape')
        if point == path or point.startswith(path + '/'):
            found.append(point)
    return sorted(found, key=len, reverse=True)


def force_unmount(path):
    """Take down what is mounted under path, in the order that always works."""
    for point in mounts_under(path):
        subprocess.run(['umount', '-l', point], capture_output=True)


def children(pid=None):
    """Living descendants, {pid: command line}; zombies that nobody waited for are reaped."""
    pid = pid or os.getpid()
    table = {}
    for entry in os.listdir('/proc'):
        if not entry.isdigit():
            continue
        try:
            stat = pathlib.Path(f'/proc/{entry}/stat').read_text().rpartition(')')[2].split()
            command = pathlib.Path(f'/proc/{entry}/cmdline').read_bytes().replace(b'\0', b' ').decode(errors='replace')
        except (FileNotFoundError, ProcessLookupError):
            continue
        table[int(entry)] = (int(stat[1]), stat[0], command)
    found, queue = {}, [pid]
    while queue:
        parent = queue.pop()
        for child, (its_parent, state, command) in table.items():
            if its_parent == parent and child not in found:
                found[child] = (state, command)
                queue.append(child)
    return {p: c for p, (s, c) in found.items() if s != 'Z'}


@dataclasses.dataclass
class Result:
    """What a command did."""
    args: list
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def op_id(self):
        """The op_id that an error printed for a person ends with."""
        match = re.search(r'\((op-[0-9a-f]{12})\)\s*$', self.err)
        assert match, f'no op_id at the end of: {self.err!r}'
        return match.group(1)


def run(*args, check=True, timeout=60, **kwargs):
    """Run a tool; text in and out, English messages."""
    env = {**kwargs.pop('env', os.environ), 'LC_ALL': 'C.UTF-8'}
    kwargs.setdefault('stdin', subprocess.DEVNULL if 'input' not in kwargs else None)
    if kwargs['stdin'] is None:
        del kwargs['stdin']
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, errors='replace',
                          timeout=timeout, env=env, **kwargs)
    result = Result([str(a) for a in args], done.returncode, done.stdout, done.stderr)
    if check:
        assert result.code == 0, f'{result.args}: exit {result.code}\n{result.out}{result.err}'
    return result


class Process:
    """A program that we started, with its stderr in a file that is read as log records."""

    def __init__(self, args, env, log, **popen):
        self.args, self.log = [str(a) for a in args], pathlib.Path(log)
        with open(self.log, 'ab') as stderr:
            self.popen = subprocess.Popen(self.args, env=env, stdin=subprocess.DEVNULL,
                                          stdout=subprocess.DEVNULL, stderr=stderr, **popen)
        self.pid = self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def wait(self, seconds=20):
        return self.popen.wait(seconds)

    def end(self, signum=signal.SIGTERM, seconds=20):
        """Send a signal and give the exit status; SIGKILL after `seconds`, which is a failure."""
        if self.alive():
            self.popen.send_signal(signum)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            stack = kernel_stacks(self.pid)
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(f'{self.args[0]} did not end in {seconds} s after signal {signum}:\n'
                                 f'{stack}\n{tail(self.log)}') from None


def kernel_stacks(pid):
    """Where each thread of a process waits, for the report of a hang."""
    lines = []
    for task in sorted(pathlib.Path(f'/proc/{pid}/task').glob('*')):
        try:
            lines.append(f'{task.name} {(task / "comm").read_text().strip()} '
                         f'{(task / "wchan").read_text().strip()}')
        except OSError:
            continue
    return '\n'.join(lines)


def tail(path, lines=30):
    try:
        return '\n'.join(pathlib.Path(path).read_text(errors='replace').splitlines()[-lines:])
    except FileNotFoundError:
        return '(no log)'


class Mount:
    """One bangerfs. `path` is its mount point."""

    def __init__(self, banger, path, options=(), setpriv=(), env=None):
        self.banger, self.path = banger, pathlib.Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.log = banger.logs / f'bangerfs-{self.path.name}.log'
        self.process = Process([*setpriv, PROGRAM['bangerfs'], '-f', *options, self.path],
                               {**banger.env, **(env or {})}, self.log)
        until(self.ready, f'{self.path} to be mounted\n{tail(self.log)}', 20)

    def ready(self):
        assert self.process.alive(), f'bangerfs ended with {self.process.popen.returncode}\n{tail(self.log)}'
        return str(self.path) in mounts_under(self.path) and \
            str(self.path / 'rootfs') in mounts_under(self.path)

    def __truediv__(self, name):
        return self.path / name

    def __fspath__(self):
        return str(self.path)

    def stop(self):
        """SIGTERM takes both connections down; anything left is a failure, and is taken down."""
        try:
            code = self.process.end()
            assert code == 0, f'bangerfs exit {code}\n{tail(self.log)}'
            left = mounts_under(self.path)
            assert not left, f'still mounted after SIGTERM: {left}'
        finally:
            force_unmount(self.path)

    def records(self, op_id=None):
        return read_log(self.log, op_id)

    def last_error(self):
        return (self.path / 'last-error').read_text().rstrip('\n')

    def xattr(self, path, name):
        return os.getxattr(self.path / path, f'user.banger.{name}').decode()


def read_log(path, op_id=None):
    """The log's records, all or of one operation. A line that is none fails (sanitizer reports too)."""
    records = []
    try:
        text = pathlib.Path(path).read_text(errors='replace')
    except FileNotFoundError:
        return records
    for line in text.splitlines(keepends=True):
        if not line.endswith('\n'):
            break  # a killed program's last write; whole lines are one write(2)
        try:
            record = json.loads(line)
            assert TS.fullmatch(record['ts']) and record['level'] in LEVELS
            assert record['program'] and record['msg']
            assert 'op_id' not in record or wire.OP_ID.fullmatch(record['op_id'])
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise AssertionError(f'{path}: not a log record ({error!r}): {line!r}\n{tail(path, 60)}') from None
        if op_id is None or record.get('op_id') == op_id:
            records.append(record)
    return records


class Banger:
    """One daemon's world: STATE and RUN directory, environment, daemon, mounts, logs."""

    def __init__(self, base, env=None, setpriv=()):
        self.base = pathlib.Path(base)
        self.state, self.run_dir, self.logs = self.base / 'state', self.base / 'run', self.base / 'logs'
        self.socket = self.run_dir / 'bangerd.sock'
        self.log = self.logs / 'bangerd.log'
        for path in (self.base, self.logs, self.base / 'home', self.base / 'libexec'):
            path.mkdir(parents=True, exist_ok=True)
        for name in ('banger-unpack', 'banger-agent'):
            link = self.base / 'libexec' / name
            if name in PROGRAM and not link.is_symlink():
                link.symlink_to(PROGRAM[name])
        self.env = {
            'PATH': os.environ['PATH'], 'HOME': str(self.base / 'home'), 'LC_ALL': 'C.UTF-8',
            'BANGER_STATE_DIR': str(self.state), 'BANGER_RUNTIME_DIR': str(self.run_dir),
            'BANGER_LIBEXEC_DIR': str(self.base / 'libexec'),
            'ASAN_OPTIONS': f'suppressions={pathlib.Path(__file__).parent}/asan.supp',
            'UBSAN_OPTIONS': 'print_stacktrace=1:halt_on_error=1', 'TSAN_OPTIONS': 'halt_on_error=0', **(env or {})}
        self.setpriv = tuple(setpriv)
        self.daemon = None
        self.mounts = []

    # ---- the daemon

    def start(self, wait=True, **env):
        assert self.daemon is None or not self.daemon.alive()
        self.daemon = Process([*self.setpriv, PROGRAM['bangerd']], {**self.env, **env}, self.log)
        if wait:
            until(self.ready, 'bangerd to answer', 30)
        return self

    def ready(self):
        assert self.daemon.alive(), \
            f'bangerd ended with {self.daemon.popen.returncode}\n{tail(self.log)}'
        try:
            with self.wire() as client:
                return client.call('ping') is not None
        except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
            return False

    def stop(self):
        code = self.daemon.end()
        assert code == 0, f'bangerd exit {code} after SIGTERM\n{tail(self.log)}'

    def kill(self):
        self.daemon.end(signal.SIGKILL)

    def restart(self):
        self.stop()
        self.start()

    # ---- its clients

    def wire(self, timeout=30):
        return wire.Client(self.socket, timeout)

    def call(self, method, params=None, **more):
        with self.wire() as client:
            return client.call(method, params, **more)

    def ctl(self, *args, check=True, **kwargs):
        result = run(PROGRAM['banger-ctl'], *args, check=check, env={**self.env, **kwargs.pop('env', {})},
                     **kwargs)
        assert not SANITIZER.search(result.err), result.err
        return result

    def mount(self, name='mnt', *options, **kwargs):
        mount = Mount(self, self.base / name, options, **kwargs)
        self.mounts.append(mount)
        return mount

    def unmount(self, mount):
        self.mounts.remove(mount)
        mount.stop()

    # ---- what is there

    def records(self, op_id=None):
        return read_log(self.log, op_id)

    def images(self):
        """All images as the daemon has them, {(state, name): document}, with the digests of those just pulled."""
        found, after = {}, None
        with self.wire() as client:
            while True:
                page = client.call('image.ls', {'after': after} if after else {})
                for image in page['images']:
                    if image['state'] == 'published' and 'digest' not in image and not image.get('damaged'):
                        image = client.call('image.show', {'image': image['id']})['image']
                    found[image['state'], image['name']] = image
                after = page.get('next')
                if not after:
                    return found

    def op(self, op_id):
        return self.call('op.show', {'op_id': op_id})['op']

    def settled(self):
        """Wait until nothing runs and the trash is empty."""
        def idle():
            status = self.call('status')
            return not status['trash'] and not [o for o in status['operations'] if o['method'] != 'status']
        until(idle, 'the daemon to be idle', 30)

    def leftovers(self):
        """What an operation may leave behind by mistake."""
        return [str(p.relative_to(self.state)) for d in ('staging', 'trash')
                for p in (self.state / d).glob('*')]

    def assert_consistent(self):
        """Store, directories and (through doctor) the daemon's own comparison agree."""
        self.settled()
        checks = {c['name']: c for c in self.call('doctor', {'check': True})['checks']}
        assert checks['consistency']['ok'] and checks['store']['ok'], checks
        images = self.images()
        for state, folder in (('draft', 'drafts'), ('published', 'images')):
            ids = {i['id'] for i in images.values() if i['state'] == state}
            assert ids == {p.name for p in (self.state / folder).iterdir()}
        assert len({i['id'] for i in images.values()}) == len(images)
        assert self.leftovers() == []

    # ---- the end

    def check_clean(self):
        """Take everything down; give what was wrong with it, [] for nothing."""
        wrong = []

        def attempt(step):
            try:
                step()
            except Exception as error:  # every later step must run
                wrong.append(f'{type(error).__name__}: {error}')

        for mount in list(self.mounts):
            attempt(lambda: self.unmount(mount))
        if self.daemon and self.daemon.alive():
            attempt(self.settled)
            attempt(self.stop)
            if self.leftovers():
                wrong.append(f'left in the state directory: {self.leftovers()}')
        left = mounts_under(self.base)
        if left:
            wrong.append(f'still mounted: {left}')
            force_unmount(self.base)
        for log in sorted(self.logs.glob('*.log')):
            attempt(lambda: read_log(log))
        return wrong


def kill_strays():
    """Processes that a test left; they are ended and named."""
    try:
        until(lambda: not children(), 'children to end', 3)
        return []
    except AssertionError:
        left = children()
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
    return [f'{pid}: {command}' for pid, command in left.items()]


def abort_fuse_under(path):
    """Let go whoever hangs in a FUSE request under path (the way out of D state)."""
    for line in pathlib.Path('/proc/self/mountinfo').read_text().splitlines():
        fields = line.split(' ')
        if fields[4].startswith(str(path)):
            minor = fields[2].split(':')[1]
            try:
                pathlib.Path(f'/sys/fs/fuse/connections/{minor}/abort').write_text('1')
            except OSError:
                pass


# ---- root filesystems

def make_tree(path, tag='small'):
    """A little of everything that a root filesystem holds."""
    path = pathlib.Path(path)
    for folder in ('etc', 'bin', 'usr/share/doc', 'var/empty'):
        (path / folder).mkdir(parents=True)
    (path / 'etc/os-release').write_text(f'ID=banger-test\nPRETTY_NAME="banger test {tag}"\n')
    (path / 'etc/hostname').write_text(f'{tag}\n')
    (path / 'bin/sh').write_bytes(b'\x7fELF' + tag.encode() * 100)
    (path / 'bin/sh').chmod(0o755)
    (path / 'usr/share/doc/big').write_bytes(b'0123456789abcdef' * 8192)
    (path / 'lib').symlink_to('usr/lib')
    os.link(path / 'etc/hostname', path / 'etc/hostname.link')
    with open(path / 'var/sparse', 'wb') as f:
        f.write(b'head')
        f.truncate(1 << 20)
    return path


def make_ext4(path, tree, size='8M'):
    run('mke2fs', '-q', '-F', '-t', 'ext4', '-E', 'root_owner=0:0', '-d', tree, path, size)
    return pathlib.Path(path)


def remove_tree(path):
    force_unmount(path)
    shutil.rmtree(path, ignore_errors=True)
