# SPDX-License-Identifier: Apache-2.0
"""banger-ctl against the real daemon: what it prints for people and for programs, its exit codes, its
signals, what it sends. Command lines that make no sense are in test_limits.py and in the unit tests."""
import json
import os
import pathlib
import pty
import re
import select
import signal
import stat
import subprocess
import tarfile
import time

import pytest

import harness
from harness import PROGRAM, run, until

OP_AT_END = re.compile(r'\(op-[0-9a-f]{12}\)$')


def start(banger, *args, **popen):
    """banger-ctl in the background, pipes for its output."""
    popen = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **popen}
    return subprocess.Popen([str(PROGRAM['banger-ctl']), *map(str, args)], env=banger.env, text=True, **popen)


def on_terminal(banger, *args, seconds=10):
    """What a terminal would get: (output, exit status)."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(PROGRAM['banger-ctl'], ['banger-ctl', *map(str, args)], {**banger.env, 'TERM': 'xterm'})
    out, deadline = b'', time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                data = os.read(fd, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            out += data
    os.close(fd)
    return out.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# ---- people and programs

def test_life_of_an_image(banger, ext4):
    """Each change says what it did; --quiet gives ids, --json the daemon's own document."""
    ctl = banger.ctl
    said = ctl('image', 'register', 'web').out.split()
    assert said[:2] == ['registered', 'web'] and re.fullmatch('[0-9a-f]{16}', said[2])
    assert ctl('image', 'ls', '--drafts', '-q').out == 'web\n'
    assert ctl('image', 'ls', '--published', '-q').out == ''
    folder = banger.state / 'drafts' / said[2]
    with banger.wire() as client:
        client.call('draft.open', {'id': said[2], 'file': 'rootfs.ext4', 'write': True, 'create': True})
        with os.fdopen(client.take_fds()[0], 'wb') as out:
            out.write(pathlib.Path(ext4()).read_bytes())
    assert folder.is_dir()
    assert ctl('image', 'configure', 'web', input='{"cmd":["/bin/true"],"labels":{"a":"b c"}}').out.startswith('configured web')
    assert ctl('image', 'promote', 'web', 'web-1').out == f'published web-1 {said[2]}\n'
    shown = ctl('image', 'show', 'web-1').out
    assert re.search(r'^state +published$', shown, re.M) and re.search(r'^command +/bin/true$', shown, re.M)
    assert re.search(r'^label +a=b c$', shown, re.M) and re.search(r'^rootfs.ext4 +8.0MiB', shown, re.M)
    assert ctl('--json', 'image', 'show', 'web-1').json['image'] == banger.images()['published', 'web-1']
    verified = ctl('image', 'verify', 'web-1')
    assert 'verdict     sound' in verified.out
    assert ctl('image', 'rename', 'web-1', 'web-2').out.startswith('renamed web-2 ')
    other = ctl('image', 'import', ext4('other'), '--name', 'other', '--quiet').out
    assert re.fullmatch('[0-9a-f]{16}\n', other)
    swapped = ctl('image', 'swap', 'web-2', 'other').out
    assert f'web-2 {other}' in swapped and f'other {said[2]}' in swapped
    assert ctl('image', 'rm', 'web-2', 'other').out.split('\n')[0] == f'deleted web-2 {other.strip()}'
    assert banger.images() == {}
    assert ctl('image', 'ls').out.split() == ['NAME', 'STATE', 'SIZE', 'CREATED', 'ID', 'DIGEST']


def test_removing_several(banger):
    """What can be deleted is, each refusal has its own sentence, each deletion its own operation."""
    for name in ('a', 'b', 'c'):
        banger.ctl('image', 'register', name)
    done = banger.ctl('image', 'rm', 'a', 'nope', 'b', check=False)
    assert done.code == 1 and [line.split()[1] for line in done.out.splitlines()] == ['a', 'b']
    assert 'image "nope" not found' in done.err and len(done.err.splitlines()) == 1 and done.op_id
    assert list(banger.images()) == [('draft', 'c')]
    ops = [o for o in banger.call('op.ls', {'limit': 100})['ops'] if o['method'] == 'image.delete']
    assert sorted(o['outcome'] for o in ops) == ['completed', 'completed', 'failed'] and len({o['op_id'] for o in ops}) == 3
    done = banger.ctl('--json', 'image', 'rm', 'c', 'nope', check=False)
    assert done.code == 1 and [i['name'] for i in done.json['images']] == ['c']


def test_an_error_can_be_followed(banger):
    """The op_id that ends the sentence is in the daemon's log and in its records."""
    banger.ctl('image', 'register', 'web')
    done = banger.ctl('image', 'register', 'web', check=False)
    assert done.code == 1 and done.out == ''
    assert re.fullmatch(r'banger-ctl: .*"web" is taken \(op-[0-9a-f]{12}\)\n', done.err)
    op = banger.op(done.op_id)
    assert (op['method'], op['outcome'], op['code']) == ('image.register', 'failed', 'exists')
    assert op['actor']['door'] == 'ctl' and op['actor']['uid'] == os.getuid()
    assert [r['msg'] for r in banger.records(done.op_id)][-1] == 'operation failed'
    shown = banger.ctl('op', 'show', done.op_id[:9]).out
    assert done.op_id in shown and 'is taken' in shown
    assert 'operation failed' in banger.ctl('op', 'log', done.op_id).out
    listed = banger.ctl('op', 'ls', '--failed', '-n', '1').out.splitlines()
    assert len(listed) == 2 and listed[1].startswith(done.op_id) and 'failed: exists' in listed[1]
    assert banger.ctl('op', 'ls', '-q', '-n', '1', '--failed').out == done.op_id + '\n'
    assert banger.ctl('op', 'ls', '--user', str(os.getuid()), '-q').out.split()
    assert banger.ctl('op', 'ls', '--user', '54321', '-q').out == ''
    missing = banger.ctl('op', 'cancel', 'op-000000000000', check=False)
    assert missing.code == 1 and missing.op_id


def test_many_pages(banger):
    """More images than one answer holds are all listed, in order, without a word twice."""
    names = [f'image-{i:04}' for i in range(2300)]
    with banger.wire() as client:
        for name in names:
            client.call('image.register', {'name': name})
    assert banger.ctl('image', 'ls', '-q').out.splitlines() == names
    assert sorted(i['name'] for i in banger.ctl('image', 'ls', '--json').json['images']) == names
    table = banger.ctl('image', 'ls').out.splitlines()
    assert len(table) == 2301 and len({line.index('draft') for line in table[1:]}) == 1
    assert banger.ctl('image', 'ls', '--published', '--json').json == {'images': []}


def test_status_and_versions(banger):
    said = banger.ctl('status').out
    assert re.search(rf'^state +{re.escape(str(banger.state))}$', said, re.M)
    assert re.search(r'^publication lock +free$', said, re.M) and 'running' not in said
    status = banger.ctl('--json', 'status').json
    assert status['state_dir'] == str(banger.state) and status['drafts'] == 0
    assert banger.ctl('version').out == 'banger-ctl 0.1.0\nbangerd 0.1.0 (protocol 1)\n'
    assert banger.ctl('version', '--json').json['daemon']['version'] == '0.1.0'
    assert banger.ctl('ping', '-q').out == '' and 'bangerd answers in' in banger.ctl('ping').out
    banger.stop()
    away = banger.ctl('version', check=False)
    assert (away.code, away.out) == (3, 'banger-ctl 0.1.0\n') and away.op_id
    assert banger.ctl('--version').out == 'banger-ctl 0.1.0\n'


def test_what_cannot_be_shown(banger):
    """Escape sequences and raw bytes never get through to a terminal."""
    evil = 'x\x1b]0;title\x07\x1b[31m\x9b31m\u202e\r\n\x7fy'
    banger.call('image.register', {'name': 'web', 'source': evil})
    for args in (['image', 'show', 'web'], ['image', 'show', 'web', '--json'], ['op', 'ls'], ['op', 'ls', '--json']):
        out = banger.ctl(*args).out
        assert not re.search('[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]', out), (args, out)
    assert banger.ctl('--json', 'image', 'show', 'web').json['image']['source'] == evil
    assert r'\x1b]0;title\x07' in banger.ctl('image', 'show', 'web').out
    for word in (evil, b'\xff\xfe', 'n' * 100000):
        done = banger.ctl('image', 'show', os.fsdecode(word), check=False)
        assert done.code == 1 and done.op_id and not re.search('[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]', done.err)


def test_decoration_is_for_terminals(banger):
    banger.ctl('image', 'register', 'web')
    shown, code = on_terminal(banger, 'image', 'ls')
    assert code == 0 and shown.startswith('\x1b[1mNAME') and '\r\nweb ' in shown
    assert '\x1b' not in banger.ctl('image', 'ls').out


def test_closed_and_full_outputs(banger):
    """Whoever does not read is no error; what cannot be written is one."""
    with open('/dev/full', 'w') as full:
        done = subprocess.run([PROGRAM['banger-ctl'], 'status'], env=banger.env, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and 'No space left' in done.stderr
    piped = subprocess.run(['sh', '-c', f'{PROGRAM["banger-ctl"]} --help | head -n 1'], env=banger.env, capture_output=True, text=True)
    assert piped.returncode == 0 and piped.stderr == ''


# ---- imports

def make_odd_tree(path):
    """Owners, modes, times, links, attributes, holes, odd names, nodes."""
    harness.make_tree(path)
    (path / 'etc/shadow').write_text('root:*\n')
    os.chmod(path / 'etc/shadow', 0o640)
    os.chown(path / 'etc/shadow', 0, 42)
    os.chmod(path / 'bin/sh', 0o4755)
    os.setxattr(path / 'bin/sh', 'user.note', b'\0\xff binary')
    os.mkfifo(path / 'var/fifo', 0o600)
    os.mknod(path / 'var/null', stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.symlink('/etc/passwd', path / 'etc/outside')
    (path / os.fsdecode(b'var/\xff\xfe raw')).write_text('raw')
    (path / 'var' / ('ü' * 100)).write_text('long')
    deep = path / 'deep'
    for name in ('d' * 100, 'e' * 100, 'f' * 100):
        deep = deep / name
    deep.mkdir(parents=True)
    (deep / 'leaf').write_text('leaf')
    os.utime(path / 'etc/hostname', ns=(10**18, 1500000000123456789))
    os.lchown(path / 'lib', 7, 8)
    return path


def describe(root):
    """{path: what stat says of it} of a tree, hard links by group."""
    found, groups = {}, {}
    for path in [root, *sorted(root.rglob('*'))]:
        name = os.fsencode(path.relative_to(root))
        if name.split(b'/')[0] == b'lost+found':
            continue
        st = path.lstat()
        group = groups.setdefault(st.st_ino, name) if stat.S_ISREG(st.st_mode) else None
        found[name] = (st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns if name else 0, st.st_rdev, group,
                       os.readlink(path) if path.is_symlink() else None,
                       path.read_bytes() if stat.S_ISREG(st.st_mode) else None,
                       {a: os.getxattr(path, a, follow_symlinks=False)
                        for a in os.listxattr(path, follow_symlinks=False) if a.startswith('user.')})
    return found


@pytest.mark.needs('banger-unpack')
def test_import_a_tree(mnt, base):
    """A directory arrives entry by entry as it was."""
    tree = make_odd_tree(base / 'tree')
    done = mnt.banger.ctl('image', 'import', tree, '--name', 'tree')
    assert done.out.startswith('imported tree ')
    want, got = describe(tree), describe(mnt / 'rootfs/tree')
    assert want.keys() == got.keys()
    for name in want:
        assert want[name] == got[name], name
    sparse = (mnt / 'rootfs/tree/var/sparse').stat()
    assert sparse.st_size == 1 << 20 and sparse.st_blocks * 512 < 1 << 19
    assert mnt.banger.images()['published', 'tree']['source'] == str(tree)


@pytest.mark.needs('banger-unpack')
def test_import_a_tarball(mnt, base):
    """From a file and from a pipe, and what is no tarball is refused."""
    tree = harness.make_tree(base / 'tree')
    with tarfile.open(base / 'tree.tar.gz', 'w:gz') as tar:
        tar.add(tree, '.')
    mnt.banger.ctl('image', 'import', base / 'tree.tar.gz', '-n', 'file')
    piped = subprocess.run([PROGRAM['banger-ctl'], 'image', 'import', '-', '--name=pipe', '--size', '32M'], env=mnt.banger.env,
                           input=(base / 'tree.tar.gz').read_bytes(), capture_output=True)
    assert piped.returncode == 0, piped.stderr
    for name in ('file', 'pipe'):
        assert (mnt / 'rootfs' / name / 'etc/hostname').read_text() == 'small\n'
    assert mnt.banger.images()['published', 'pipe']['size'] == 32 << 20
    (base / 'junk').write_bytes(b'junk' * 1000)
    done = mnt.banger.ctl('image', 'import', base / 'junk', '--name', 'junk', check=False)
    assert done.code == 1 and done.op_id
    half = (base / 'tree.tar.gz').read_bytes()[:-200]
    (base / 'half').write_bytes(half)
    assert mnt.banger.ctl('image', 'import', base / 'half', '--name', 'half', check=False).code == 1
    assert sorted(n for _s, n in mnt.banger.images()) == ['file', 'pipe']


def test_import_refusals(banger, base, ext4):
    """Each says what is wrong; nothing is made."""
    banger.ctl('image', 'import', ext4(), '--name', 'taken')
    (base / 'tree').mkdir()
    for args, word in ((['/nonexistent', '--name', 'x'], '/nonexistent: No such file'), (['/dev/null', '--name', 'x'], 'neither a file nor'),
                       ([ext4(), '--name', 'taken'], '"taken" is taken'), ([ext4(), '--name', '.x'], '.x'),
                       ([base / 'tree', '--name', 'taken'], '"taken" is taken')):
        done = banger.ctl('image', 'import', *args, check=False)
        assert done.code == 1 and word in done.err and done.op_id, (args, done)
    assert banger.ctl('image', 'import', base / 'tree', '--name', 'x', '--format', 'raw', check=False).code == 2
    assert list(banger.images()) == [('published', 'taken')]


@pytest.mark.needs('banger-unpack', 'setpriv')
def test_a_tree_that_cannot_be_read_is_not_imported(worlds, base):
    """The reason is the tree's, and no half of it is published."""
    if os.geteuid() != 0:
        pytest.skip('needs root to become somebody else')
    nobody = ('setpriv', '--reuid=23456', '--regid=23456', '--clear-groups')
    tree = harness.make_tree(base / 'tree')
    (tree / 'zz').write_text('secret')
    (tree / 'zz').chmod(0o600)
    for path in (base / 'state', base / 'run', base / 'logs'):
        path.mkdir()
        os.chown(path, 23456, 23456)
    banger = worlds(setpriv=nobody)
    banger.start()
    done = run(*nobody, PROGRAM['banger-ctl'], 'image', 'import', tree, '--name', 'web', check=False, env=banger.env)
    assert done.code == 1 and f'{tree}/zz: cannot open it: Permission denied' in done.err and done.op_id
    assert banger.images() == {} and banger.op(done.op_id)['outcome'] == 'failed'
    banger.assert_consistent()
    (tree / 'zz').unlink()
    run(*nobody, PROGRAM['banger-ctl'], 'image', 'import', tree, '--name', 'web', env=banger.env)


# ---- signals

@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels(banger, signum):
    """Ctrl-C during an import: the daemon cancels it, the sentence says so, the shell sees the signal."""
    process = start(banger, 'image', 'import', '-', '--name', 'web', stdin=subprocess.PIPE)
    until(lambda: [o for o in banger.call('status')['operations'] if o['method'] == 'image.import'], 'the import to run')
    process.send_signal(signum)
    process.wait(20)
    err = process.stderr.read()
    assert process.returncode == -signum and OP_AT_END.search(err.strip()) and 'cancelled' in err, err
    op_id = OP_AT_END.search(err.strip()).group()[1:-1]
    assert banger.op(op_id)['code'] == 'cancelled'
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()
    assert banger.images() == {}
    banger.assert_consistent()


def test_the_daemon_goes_away(banger):
    """A connection that breaks in the middle is exit 3, with where to look afterwards."""
    process = start(banger, 'image', 'import', '-', '--name', 'web', stdin=subprocess.PIPE)
    until(lambda: [o for o in banger.call('status')['operations'] if o['method'] == 'image.import'], 'the import to run')
    banger.kill()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 3 and out == '' and 'op show op-' in err and OP_AT_END.search(err.strip()), err
    banger.start()
    assert banger.images() == {}


# ---- streams

def test_events(banger):
    """Lines as they happen, for programs and for people; the daemon's end is exit 3."""
    program, person = start(banger, 'events', '--json', '--ops'), start(banger, 'events')
    until(lambda: banger.call('status')['watchers'] == 2, 'both to watch')
    banger.ctl('image', 'register', 'web')
    event = json.loads(program.stdout.readline())
    while event['event'] != 'image':
        event = json.loads(program.stdout.readline())
    assert event['change'] == 'registered' and event['images'][0]['name'] == 'web'
    line = person.stdout.readline()
    assert re.fullmatch(r'\d\d:\d\d:\d\d\.\d{3} image registered drafts/web \([0-9a-f]{16}\) ' + event['op_id'] + '\n', line)
    done = banger.ctl('image', 'rm', 'nope', check=False)
    event = json.loads(program.stdout.readline())
    while event['event'] != 'op' or event['op']['op_id'] != done.op_id:
        event = json.loads(program.stdout.readline())
    assert event['op']['code'] == 'not_found'
    banger.ctl('image', 'rm', 'web')
    assert 'image deleted web' in person.stdout.readline()
    banger.stop()
    for process in (program, person):
        out, err = process.communicate(timeout=20)
        assert process.returncode == 3 and OP_AT_END.search(err.strip()), err


def test_following_a_log(banger):
    """Records of operations that begin after it, and of no other with an op_id."""
    follower = start(banger, 'op', 'log', '-f', '--json')

    def followed():
        failed = banger.ctl('image', 'rm', 'nope', check=False).op_id
        return select.select([follower.stdout], [], [], 0.2)[0] and failed
    until(followed, 'records to come')
    assert json.loads(follower.stdout.readline())['op_id']
    follower.send_signal(signal.SIGINT)
    assert follower.wait(10) == -signal.SIGINT
    follower.stdout.close()
    follower.stderr.close()
    done = banger.ctl('image', 'rm', 'nope', check=False)
    person = banger.ctl('op', 'log', done.op_id).out
    assert re.search(rf'^\d\d:\d\d:\d\d\.\d{{3}} \w+ +bangerd: operation failed .*code=not_found.* {done.op_id}$', person, re.M), person
    assert banger.ctl('op', 'log', check=False).code == 2


# ---- the filesystem

def test_mount_and_unmount(banger, base):
    point = base / 'mnt'
    missing = banger.ctl('fs', 'mount', point, check=False)
    assert missing.code == 1 and str(point) in missing.err and missing.op_id
    point.mkdir()
    (base / 'file').write_text('')
    assert 'not a directory' in banger.ctl('fs', 'mount', base / 'file', check=False).err
    assert banger.ctl('fs', 'mount', point).out == f'mounted {point}\n'
    (point / 'drafts/web').mkdir()
    assert banger.ctl('image', 'ls', '-q').out == 'web\n'
    again = banger.ctl('fs', 'mount', point, check=False)
    assert again.code == 1 and 'already' in again.err and 'fs unmount' in again.err
    with open(point / 'drafts/web/file', 'w'):
        busy = banger.ctl('fs', 'unmount', point, check=False)
        assert busy.code == 1 and 'in use' in busy.err and f'[{os.getpid()}]' in busy.err
    assert harness.mounts_under(point) == [str(point / 'rootfs'), str(point)]  # all or nothing
    assert banger.ctl('fs', 'unmount', f'{point}/').out == f'unmounted {point}\n'
    assert harness.mounts_under(point) == []
    gone = banger.ctl('fs', 'unmount', point, check=False)
    assert gone.code == 1 and 'no bangerfs is mounted' in gone.err
    assert banger.ctl('fs', 'unmount', '/proc', check=False).code == 1
    until(lambda: not [c for c in harness.children().values() if str(point) in c], 'bangerfs to end')


def test_lazy_unmount(banger, base):
    point = base / 'mnt'
    point.mkdir()
    banger.ctl('fs', 'mount', point, '--log', base / 'logs/bangerfs.log')
    held = os.open(point / 'drafts', os.O_RDONLY)
    banger.ctl('fs', 'unmount', '--lazy', point)
    assert harness.mounts_under(point) == []
    os.close(held)
    until(lambda: not [c for c in harness.children().values() if str(point) in c], 'bangerfs to end')


def test_mount_says_why_not(banger, base):
    """bangerfs's own reason, an option that it does not know, and nobody to serve from."""
    point = base / 'mnt'
    point.mkdir()
    done = banger.ctl('fs', 'mount', point, '-o', 'frobnicate', check=False)
    assert done.code == 1 and 'frobnicate' in done.err and done.op_id
    banger.stop()
    done = banger.ctl('fs', 'mount', point, check=False)
    assert done.code == 3 and str(banger.socket) in done.err
    assert harness.mounts_under(point) == []


def test_unmount_what_died(banger, base):
    """A mount whose bangerfs was killed is taken down without touching it."""
    point = base / 'mnt'
    point.mkdir()
    banger.ctl('fs', 'mount', point)
    servers = {p: c for p, c in harness.children().items() if 'bangerfs' in c.split(' ')[0]}
    for pid in servers:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not {p for p in servers if p in harness.children()}, 'them to die')
    with pytest.raises(OSError):
        os.listdir(point)
    banger.ctl('fs', 'unmount', point)
    assert harness.mounts_under(point) == []
    banger.ctl('fs', 'mount', point)
    banger.ctl('fs', 'unmount', point)
    until(lambda: not [c for c in harness.children().values() if str(point) in c], 'bangerfs to end')


# ---- the machine

def test_doctor(banger):
    said = banger.ctl('doctor', check=False)
    assert re.match(r'CHECK +STATE +DETAIL\n', said.out)
    for name in ('fuse', 'bangerfs', 'passthrough', 'qemu', 'kvm', 'virtiofsd', 'e2fsck', 'fusermount3'):
        assert re.search(rf'^{name} +(ok|no|MISSING) ', said.out, re.M), name
    document = banger.ctl('--json', 'doctor', check=False).json
    assert document['daemon'] is True and document['ok'] == (said.code == 0)
    names = [c['name'] for c in document['checks']]
    assert len(names) == len(set(names)) and all(c['detail'] for c in document['checks'])
    banger.stop()
    away = banger.ctl('doctor', check=False)
    assert away.code == said.code and str(banger.socket) in away.err and 'fuse' in away.out
    assert banger.ctl('--json', 'doctor', check=False).json['daemon'] is False
    assert banger.ctl('doctor', '--check', check=False).code == 3


def test_doctor_without_what_it_needs(banger, base):
    """An empty PATH: each thing that is missing comes with what to install."""
    done = banger.ctl('--json', 'doctor', check=False, env={'PATH': str(base), 'BANGER_SOCKET': str(base / 'none'),
                                                          'BANGER_QEMU': 'no-such-qemu'})
    checks = {c['name']: c for c in done.json['checks']}
    assert not checks['qemu']['ok'] and 'apt install qemu' in checks['qemu']['advice']
    assert all(c.get('advice') for c in checks.values() if not c['ok'])


def test_doctor_check(banger, published):
    """Agreement is exit 0; a directory that no row knows is said and is exit 1."""
    published('web')
    assert banger.ctl('doctor', '--check').code == 0
    stray = banger.state / 'images' / 'feedfacefeedface'
    stray.mkdir()
    done = banger.ctl('doctor', '--check', check=False)
    stray.rmdir()
    assert done.code == 1 and 'feedfacefeedface' in done.out
    assert banger.ctl('doctor', '--check', '-q').code == 0


def test_not_let_in(banger):
    """Somebody whom the socket does not let in: exit 3, and who is."""
    if os.geteuid() != 0:
        pytest.skip('needs root to become somebody else')
    for path in (banger.base, banger.run_dir):
        path.chmod(0o755)
    done = run('setpriv', '--reuid=23999', '--regid=23999', '--clear-groups', PROGRAM['banger-ctl'], 'ping', check=False, env=banger.env)
    assert done.code == 3 and 'permission' in done.err and done.op_id, done


# ---- help, completion

def test_help_of_everything(banger):
    """Each command that the help names has a help of its own, to standard output, without a daemon."""
    env = {'BANGER_SOCKET': '/nonexistent'}
    listed = re.findall(r'^  ((?:[a-z]+ )?[a-z]+) {2,}\S', banger.ctl('--help', env=env).out.split('Global options')[0], re.M)
    assert len(listed) > 25 and 'image import' in listed
    for command in listed:
        done = banger.ctl(*command.split(), '--help', env=env)
        assert done.out.startswith(done.out.split('\n')[0]) and f'Usage: banger-ctl {command}' in done.out and 'Examples:' in done.out
        assert banger.ctl('help', *command.split(), env=env).out == done.out
    assert banger.ctl('help', 'frobnicate', check=False).code == 2


@pytest.mark.needs('bash')
def test_completion(banger):
    """In a real bash: commands, options, and the names of what is there."""
    for name in ('web-a', 'web-b', 'other'):
        banger.ctl('image', 'register', name)
    env = {**banger.env, 'PATH': f'{PROGRAM["banger-ctl"].parent}:{banger.env["PATH"]}'}
    script = '''source <(banger-ctl completion bash) || exit
        offer() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _banger_ctl 2>/dev/null; echo "${COMPREPLY[*]}"; }
        offer banger-ctl im; offer banger-ctl image show we; offer banger-ctl image ls --dr; offer banger-ctl image import /etc/hostnam
    '''
    lines = run('bash', '-c', script, env=env).out.splitlines()
    assert sorted(lines[1].split()) == ['web-a', 'web-b']
    assert lines[:1] + lines[2:] == ['image', '--drafts', '/etc/hostname']
    banger.stop()
    assert run('bash', '-c', script, env=env).out.splitlines() == ['image', '', '--drafts', '/etc/hostname']
