# SPDX-License-Identifier: Apache-2.0
"""VMs that stay: made, started, used, stopped and removed over the wire; daemons and QEMUs that die meanwhile."""
import errno
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time

import pytest

import harness
from harness import PROGRAM, until
from wire import WireError

pytestmark = [pytest.mark.needs('qemu-system-x86_64', 'banger-agent'), pytest.mark.limit(300)]
WAIT = 120


@pytest.fixture
def host(banger, small, root):
    banger.ctl('kernel', 'import', small, '--name', 'k')
    banger.ctl('image', 'import', root, '--name', 'web')
    yield banger
    for vm in banger.call('vm.ls')['vms'] if banger.daemon.alive() else []:
        call(banger, 'vm.rm', vm=vm['name'], force=True)


def call(host, method, fds=(), **params):
    with host.wire(timeout=WAIT) as client:
        return client.call(method, params, None, fds)


def create(host, name='a', **params):
    return call(host, 'vm.create', name=name, image='web', accel='tcg', **params)['vm']


def execute(host, vm, *argv, stdin=b''):
    """(exit code or minus the signal, stdout, stderr) of a command in a VM."""
    pipes = [os.pipe() for _ in range(3)]
    took = [[], []]

    def drain(fd, into):
        while data := os.read(fd, 65536):
            into.append(data)

    threads = [threading.Thread(target=drain, args=(pipes[i + 1][0], took[i])) for i in range(2)]
    os.write(pipes[0][1], stdin)
    os.close(pipes[0][1])
    with host.wire(timeout=WAIT) as client:
        client.send({'version': 1, 'method': 'vm.exec', 'params': {'vm': vm, 'argv': list(argv)}},
                    [pipes[0][0], pipes[1][1], pipes[2][1]])
        for fd in (pipes[0][0], pipes[1][1], pipes[2][1]):
            os.close(fd)
        for thread in threads:
            thread.start()
        reply = client.receive()
    for thread in threads:
        thread.join()
    os.close(pipes[1][0])
    os.close(pipes[2][0])
    assert reply['ok'], reply
    result = reply['result']
    return (result.get('exit_code', -result.get('signal', 0)), *(b''.join(t).decode() for t in took))


def state(host, vm='a'):
    return call(host, 'vm.show', vm=vm)['vm']


def alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as stat:
            return stat.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def logs(host, vm='a', **params):
    read, write = os.pipe()
    with host.wire(timeout=WAIT) as client:
        client.send({'version': 1, 'method': 'vm.logs', 'params': {'vm': vm, **params}}, [write])
        os.close(write)
        said = b''
        while data := os.read(read, 65536):
            said += data
        reply = client.receive()
    os.close(read)
    assert reply['ok'], reply
    return said


def refused(host, method, code, words='', **params):
    with pytest.raises(WireError) as caught:
        call(host, method, **params)
    assert caught.value.code == code and words in caught.value.message, str(caught.value)


# ---- a life

def test_life(host):
    """create, exec, stop, start, rm: states, events, what stays on the disk, nothing left."""
    with host.wire() as watch:
        watch.watch(snapshot=False)
        vm = create(host)
        assert vm['state'] == 'running' and alive(vm['pid']) and vm['image'] == 'web' and vm['accel_used'] == 'tcg'
        assert execute(host, 'a', 'sh', '-c', 'echo out; echo err >&2; echo kept > /root/file; exit 42') == \
            (42, 'out\n', 'err\n')
        assert execute(host, vm['id'][:6], 'sh', '-c', 'kill -9 $$')[0] == -9
        assert execute(host, 'a', 'cat', stdin=b'hello') == (0, 'hello', '')
        with open(f'/proc/{vm["pid"]}/cmdline') as line:
            command = line.read()
        assert f'banger.op={vm["op_id"]}' in command and 'guest=banger-a,' in command
        assert [v['name'] for v in call(host, 'vm.ls')['vms']] == ['a']
        # Its image and kernel are its own, running or not; another VM cannot have its name.
        refused(host, 'image.delete', 'busy', 'VM "a"', image='web')
        refused(host, 'vm.create', 'exists', '"a"', name='a', image='web')
        refused(host, 'vm.rm', 'busy', 'stop it', vm='a')
        call(host, 'image.rename', image='web', name='renamed')
        assert call(host, 'vm.start', vm='a')['vm']['pid'] == vm['pid']
        stopped = call(host, 'vm.stop', vm='a')['vm']
        assert stopped['state'] == 'stopped' and 'pid' not in stopped and not alive(vm['pid'])
        assert call(host, 'vm.stop', vm='a')['vm']['state'] == 'stopped'
        refused(host, 'vm.pause', 'bad_request', 'start it first', vm='a')
        refused(host, 'vm.kill', 'bad_request', 'stopped', vm='a')
        refused(host, 'vm.exec', 'bad_request', 'start it first', vm='a', argv=['true'],
                fds=[0, 1, 2])
        refused(host, 'image.delete', 'busy', 'VM "a"', image='renamed')
        refused(host, 'kernel.delete', 'busy', 'VM "a"', kernel='k')
        assert call(host, 'vm.start', vm='a')['vm']['state'] == 'running'
        assert execute(host, 'a', 'cat', '/root/file') == (0, 'kept\n', '')
        assert call(host, 'vm.pause', vm='a')['vm']['state'] == 'paused'
        assert call(host, 'vm.resume', vm='a')['vm']['state'] == 'running'
        assert execute(host, 'a', 'true')[0] == 0
        call(host, 'vm.rm', vm='a', force=True)
        changes = []
        while 'removed' not in changes:
            event = watch.receive()
            if event['event'] == 'vm':
                changes.append(event['change'])
                assert event['vm']['name'] == 'a' and event['op_id']
        assert changes == ['created', 'starting', 'running', 'stopping', 'stopped', 'starting', 'running', 'paused',
                           'running', 'stopped', 'removed']
    assert os.listdir(host.state / 'vms') == []
    refused(host, 'vm.show', 'not_found', 'VM "a" not found', vm='a')
    call(host, 'image.delete', image='renamed')


def test_begin(host):
    """vm.create.begin: its op_id is that of all lines; stages as progress; cancelled, nothing is left of it."""
    op_id = call(host, 'vm.create.begin', name='a', image='web', accel='tcg')['op_id']
    phases = set()

    def ended():
        op = call(host, 'vm.create.status', op_id=op_id)['op']
        phases.add((op.get('progress') or {}).get('phase'))
        return op['outcome'] != 'running'
    until(ended, 'the VM to be made', 60)
    status = call(host, 'vm.create.status', op_id=op_id)
    assert status['op']['outcome'] == 'completed' and status['vm']['state'] == 'running', status
    assert 'agent' in phases
    assert {'VM created', 'VM started', 'VM changed'} <= {r['msg'] for r in host.records(op_id)}
    op_id = call(host, 'vm.create.begin', name='b', image='web', accel='tcg')['op_id']
    until(lambda: [v for v in call(host, 'vm.ls')['vms'] if v['name'] == 'b' and v['state'] == 'starting'], 'its start')
    call(host, 'vm.create.cancel', op_id=op_id)
    until(ended, 'its end', 20)
    assert call(host, 'vm.create.status', op_id=op_id)['op']['code'] == 'cancelled'
    assert [v['name'] for v in call(host, 'vm.ls')['vms']] == ['a']
    assert os.listdir(host.state / 'vms') == [state(host)['id']]


def test_disks(host):
    """A larger disk; a console that is logged and followed; ports."""
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(host, 'vm.create', 'busy', f'port {port} of 127.0.0.1 is in use', name='a', image='web',
                publish=[f'{port}:80'])
    assert os.listdir(host.state / 'vms') == []
    vm = create(host, disk=100 << 20, publish=[f'{port}:80'])
    assert vm['disk'] == 100 << 20 and vm['network'] == 'user' and vm['publish'] == [f'127.0.0.1:{port}:80/tcp']
    assert execute(host, 'a', 'cat', '/sys/block/vda/size')[1] == f'{(100 << 20) // 512}\n'
    blocks, size = map(int, execute(host, 'a', 'stat', '-f', '-c', '%b %S', '/')[1].split())
    assert 80 << 20 < blocks * size < 100 << 20
    assert execute(host, 'a', 'sh', '-c', 'echo mark one > /dev/ttyS0')[0] == 0
    until(lambda: b'mark one' in logs(host), 'the console\'s log')
    assert b'mark one' in (host.state / 'vms' / vm['id'] / 'console.log').read_bytes()
    said = []
    follower = threading.Thread(target=lambda: said.append(logs(host, follow=True, lines=0)))
    follower.start()
    time.sleep(0.5)
    assert execute(host, 'a', 'sh', '-c', 'echo mark two > /dev/ttyS0')[0] == 0
    call(host, 'vm.kill', vm='a')
    follower.join(20)
    assert not follower.is_alive() and b'mark two' in said[0] and b'mark one' not in said[0]
    assert state(host)['state'] == 'stopped'


def test_work_disk(banger, small, root, tmp_path):
    """A disk of its own for the user's home: "keep" outlives the VM and is the next one's of that name; "new" does not."""
    banger.ctl('kernel', 'import', small, '--name', 'k')
    seed = tmp_path / 'seed.ext4'
    (tmp_path / 'home').mkdir()
    (tmp_path / 'home' / 'greeting').write_text('hello\n')
    harness.make_ext4(seed, tmp_path / 'home', '8M')
    with banger.wire() as client:
        image = client.call('image.register', {'name': 'd'})['image']
        for file, source in (('rootfs.ext4', root), ('work-seed.ext4', seed)):
            client.call('draft.open', {'id': image['id'], 'file': file, 'write': True, 'create': True})
            with os.fdopen(client.take_fds()[0], 'wb') as out:
                out.write(source.read_bytes())
        client.call('image.promote', {'draft': 'd', 'name': 'web'})
    vm = create(banger, work_disk='keep')
    assert vm['work_disk'] == 'keep' and os.listdir(banger.state / 'work') == ['a.ext4']
    assert execute(banger, 'a', 'sh', '-c', 'cat /root/greeting; echo mine > /root/file') == (0, 'hello\n', '')
    call(banger, 'vm.stop', vm='a')
    call(banger, 'vm.rm', vm='a')
    create(banger, work_disk='keep')
    assert execute(banger, 'a', 'cat', '/root/greeting', '/root/file') == (0, 'hello\nmine\n', '')
    call(banger, 'vm.rm', vm='a', force=True)
    vm = create(banger, work_disk='new')
    assert execute(banger, 'a', 'ls', '/root')[1].split() == ['greeting', 'lost+found']
    assert (banger.state / 'vms' / vm['id'] / 'work.ext4').exists()
    call(banger, 'vm.rm', vm='a', force=True)
    assert os.listdir(banger.state / 'vms') == [] and os.listdir(banger.state / 'work') == ['a.ext4']


# ---- deaths

def test_qemu_dies(host):
    """kill -9 of QEMU: failed, with how; an operation of its own; it can be started again. A panic; a restart."""
    vm = create(host)
    os.kill(vm['pid'], signal.SIGKILL)
    until(lambda: state(host)['state'] == 'failed', 'the failure')
    dead = state(host)
    assert 'signal 9 (SIGKILL)' in dead['failure'] and dead['op_id'] != vm['op_id']
    assert host.op(dead['op_id'])['method'] == 'vm.end'
    vm = call(host, 'vm.start', vm='a')['vm']
    assert vm['state'] == 'running' and 'failure' not in vm
    with host.wire(timeout=WAIT) as client:
        null = os.open('/dev/null', os.O_RDWR)
        reply = client.reply('vm.exec', {'vm': 'a', 'argv': ['sh', '-c', 'echo c > /proc/sysrq-trigger']}, fds=[null] * 3)
        os.close(null)
    assert not reply['ok']
    until(lambda: state(host)['state'] == 'failed', 'the failure', 20)
    assert 'panic' in state(host)['failure']


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGKILL])
def test_daemon_restarts(host, signum):
    """The VM does not notice: the same process, its files as they were, exec and stop work."""
    vm = create(host)
    assert execute(host, 'a', 'sh', '-c', 'echo one > /run/one; echo mark one > /dev/ttyS0')[0] == 0
    if signum == signal.SIGKILL:
        host.kill()
    else:
        host.stop()
    assert alive(vm['pid'])
    host.start()
    again = state(host)
    assert again['state'] == 'running' and again['pid'] == vm['pid']
    assert execute(host, 'a', 'sh', '-c', 'cat /run/one; echo mark two > /dev/ttyS0') == (0, 'one\n', '')
    until(lambda: b'mark two' in logs(host), 'the console')
    assert b'mark one' in logs(host)
    refused(host, 'image.delete', 'busy', 'VM "a"', image='web')
    assert call(host, 'vm.stop', vm='a')['vm']['state'] == 'stopped'
    assert not alive(vm['pid'])


def test_death_while_the_daemon_is_away(host):
    """QEMU dies, the host restarts, a directory is left over: each is seen at the next start."""
    a, b = create(host), create(host, 'b')
    assert execute(host, 'a', 'sh', '-c', 'echo last words > /dev/ttyS0')[0] == 0
    until(lambda: b'last words' in logs(host), 'the console')
    host.kill()
    for vm in (a, b):
        os.kill(vm['pid'], signal.SIGKILL)
        until(lambda: not alive(vm['pid']), 'QEMU to die')
    with sqlite3.connect(host.state / 'registry.db') as db:
        db.execute("UPDATE vms SET boot_id = 'another' WHERE name = 'b'")
    db.close()
    (host.state / 'vms' / 'leftover').mkdir()
    (host.state / 'vms' / 'leftover' / 'root.qcow2').write_bytes(b'x')
    host.start()
    dead = state(host)
    assert dead['state'] == 'failed' and 'while bangerd was not running' in dead['failure'] and \
        'last words' in dead['failure']
    assert state(host, 'b')['state'] == 'stopped'
    assert sorted(os.listdir(host.state / 'vms')) == sorted([a['id'], b['id']])
    assert call(host, 'vm.start', vm='b')['vm']['state'] == 'running'
    assert execute(host, 'b', 'true')[0] == 0


def test_pid_of_somebody_else(host):
    """The pid in the store is another process's now: it is left alone, and the VM is failed."""
    vm = create(host)
    host.kill()
    os.kill(vm['pid'], signal.SIGKILL)
    until(lambda: not alive(vm['pid']), 'QEMU to die')
    with sqlite3.connect(host.state / 'registry.db') as db:
        db.execute('UPDATE vms SET pid = ?', (os.getpid(),))
    db.close()
    host.start()
    assert state(host)['state'] == 'failed'
    call(host, 'vm.rm', vm='a', force=True)


# ---- what cannot be

@pytest.mark.parametrize('params, code, words', [
    ({'image': 'nosuch'}, 'not_found', 'image "nosuch" not found'),
    ({'kernel': 'nosuch'}, 'not_found', 'kernel "nosuch" not found'),
    ({'name': '../x'}, 'bad_request', 'VM name'),
    ({'name': 'x' * 129}, 'name_too_long', 'VM name'),
    ({'cpus': 900}, 'bad_request', 'CPUs'),
    ({'memory': 1 << 20}, 'bad_request', 'memory'),
    ({'disk': 1 << 20}, 'bad_request', 'smaller than the image'),
    ({'disk': 1 << 60}, 'bad_request', 'at most'),
    ({'network': 'wifi'}, 'bad_request', 'one of none, user, bridge'),
    ({'publish': ['80']}, 'bad_request', 'published port'),
    ({'publish': ['80:80'], 'network': 'none'}, 'bad_request', 'user or bridge'),
    ({'work_disk': 'new'}, 'incomplete', 'work-seed.ext4'),
    ({'accel': 'warp'}, 'bad_request', 'auto, kvm, tcg'),
])
def test_refusals(host, params, code, words):
    refused(host, 'vm.create', code, words, **{'name': 'a', 'image': 'web', **params})
    assert call(host, 'vm.ls')['vms'] == [] and os.listdir(host.state / 'vms') == []


def test_no_qemu(worlds, small, root):
    world = worlds().start(BANGER_QEMU='/nonexistent/qemu')
    world.ctl('kernel', 'import', small, '--name', 'k')
    world.ctl('image', 'import', root, '--name', 'web')
    refused(world, 'vm.create', 'unsupported', 'not installed', name='a', image='web', accel='tcg')
    assert call(world, 'vm.ls')['vms'] == [] and os.listdir(world.state / 'vms') == []
    vm = call(world, 'vm.create', name='a', image='web', start=False)['vm']
    assert vm['state'] == 'created'
    refused(world, 'vm.start', 'unsupported', 'not installed', vm='a')
    assert state(world)['state'] == 'created'
    world.restart()
    assert state(world)['state'] == 'created'
    call(world, 'vm.rm', vm='a')


def test_unbootable(host, tmp_path):
    """A root filesystem that does not mount: failed, with the reason in the error; its console stays to be read."""
    bad = tmp_path / 'bad.ext4'
    harness.make_ext4(bad, harness.make_tree(tmp_path / 'tree'), '8M')
    host.ctl('image', 'import', bad, '--name', 'bad')
    image = host.images()['published', 'bad']
    file = host.state / 'images' / image['id'] / 'rootfs.ext4'
    file.chmod(0o600)
    with open(file, 'r+b') as f:
        f.seek(1024 + 56)
        f.write(b'\0\0')
    refused(host, 'vm.create', 'corrupt', 'cannot mount', name='a', image='bad', accel='tcg')
    vm = state(host)
    assert vm['state'] == 'failed' and 'cannot mount' in vm['failure']
    shutil.rmtree(tmp_path / 'tree')


# ---- in the tree

@pytest.mark.needs('bangerfs')
def test_tree(host):
    """vms/NAME/: vm.json as it is now, console.log that grows, the state as an attribute; nothing can be changed there."""
    mount = host.mount()
    vms = mount / 'vms'
    assert os.listdir(vms) == []
    vm = create(host, start=False)
    until(lambda: os.listdir(vms) == ['a'], 'the VM to show')
    assert os.listdir(vms / 'a') == ['vm.json'] and os.getxattr(vms / 'a', 'user.banger.state') == b'created'
    assert json.loads((vms / 'a' / 'vm.json').read_text())['id'] == vm['id']
    call(host, 'vm.start', vm='a')
    until(lambda: os.getxattr(vms / 'a', 'user.banger.state') == b'running', 'the state')
    assert json.loads((vms / 'a' / 'vm.json').read_text())['state'] == 'running'
    assert sorted(os.listdir(vms / 'a')) == ['console.log', 'vm.json']
    tail = subprocess.Popen(['tail', '-n', '+1', '-s', '0.2', '-f', vms / 'a' / 'console.log'], stdout=subprocess.PIPE)
    assert execute(host, 'a', 'sh', '-c', 'echo mark one > /dev/ttyS0')[0] == 0
    os.set_blocking(tail.stdout.fileno(), False)
    said = []
    until(lambda: b'mark one' in (said.append(tail.stdout.read() or b'') or b''.join(said)), 'tail -f')
    for change in (lambda: (vms / 'a').rmdir(), lambda: (vms / 'b').mkdir(), lambda: (vms / 'a' / 'x').touch(),
                   lambda: (vms / 'a' / 'console.log').unlink(), lambda: (vms / 'a' / 'console.log').write_text('x'),
                   lambda: (vms / 'a' / 'vm.json').write_text('{}')):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EPERM, caught.value
    tail.terminate()
    tail.wait()
    call(host, 'vm.rm', vm='a', force=True)
    until(lambda: os.listdir(vms) == [], 'the VM to go')
    with pytest.raises(FileNotFoundError):
        os.stat(vms / 'a')


# ---- the daemon dies in the middle

@pytest.mark.parametrize('point, method, params, left', [
    ('vm.create.dir:1', 'vm.create', {'name': 'b'}, None),
    ('vm.create.committed:1', 'vm.create', {'name': 'b'}, 'created'),
    ('vm.transition:1', 'vm.create', {'name': 'b'}, 'created'),
    ('vm.transition:2', 'vm.create', {'name': 'b'}, 'running'),
    ('vm.remove.committed:1', 'vm.rm', {'vm': 'a'}, None),
])
def test_crash_points(host, point, method, params, left):
    """Whatever is found then is one of the states there are, and what it says is so; nothing runs that is in no row."""
    if b'BANGER_FAULT_LOG' not in PROGRAM['bangerd'].read_bytes():
        pytest.skip('a build without fault points')
    create(host, start=False)
    host.stop()
    host.start(BANGER_FAULT=point)
    if method == 'vm.create':
        params = {**params, 'image': 'web', 'accel': 'tcg'}
    with pytest.raises((ConnectionError, AssertionError)):
        call(host, method, **params)
    host.daemon.wait()
    host.kill()
    host.start(BANGER_FAULT='')
    found = {v['name']: v for v in call(host, 'vm.ls')['vms']}
    assert found.get('b', {}).get('state') == left, found
    assert ('a' in found) == (method == 'vm.create')
    assert sorted(os.listdir(host.state / 'vms')) == sorted(v['id'] for v in found.values())
    running = [p for p, c in harness.children().items() if 'guest=banger-b,' in c and alive(p)]
    assert running == ([found['b']['pid']] if left == 'running' else [])
    if left:
        assert call(host, 'vm.start', vm='b')['vm']['state'] == 'running'
        assert call(host, 'vm.kill', vm='b')['vm']['state'] == 'stopped'
