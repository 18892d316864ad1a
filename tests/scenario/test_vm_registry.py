# SPDX-License-Identifier: Apache-2.0
"""The registry inside a VM: virtiofs over a bangerfs of the VM's own. What is seen there, what is published from there,
what is refused, whose doing it is, and what stays when parts of it are killed."""
import concurrent.futures
import errno
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

import harness
from harness import PROGRAM, until
from test_vms import call, execute, refused, state
from wire import WireError

VIRTIOFSD = [p for p in (os.environ.get('BANGER_VIRTIOFSD'), '/usr/libexec/virtiofsd', '/usr/lib/qemu/virtiofsd')
             if p and os.access(p, os.X_OK)]
pytestmark = [pytest.mark.needs('qemu-system-x86_64', 'banger-agent', 'mke2fs', 'getfattr'), pytest.mark.limit(300),
              pytest.mark.skipif(not VIRTIOFSD, reason='needs virtiofsd')]
ENV = {'BANGER_VIRTIOFSD': VIRTIOFSD[0]} if VIRTIOFSD else {}


@pytest.fixture
def start(worlds, small, root):
    """start(**kwargs): a daemon with a kernel and an image "web", whose VMs are removed in the end."""
    made = []

    def make(**kwargs):
        host = worlds(**kwargs)
        host.env.update(ENV)
        host.start()
        made.append(host)
        host.ctl('kernel', 'import', small, '--name', 'k')
        host.ctl('image', 'import', root, '--name', 'web')
        return host
    yield make
    for host in made:
        for mount in list(host.mounts):
            host.unmount(mount)
        for vm in host.call('vm.ls')['vms'] if host.daemon.alive() else []:
            call(host, 'vm.rm', vm=vm['name'], force=True)
        nothing_runs()


def create(host, registry, name='a', **params):
    return call(host, 'vm.create', name=name, image='web', accel='tcg', registry=registry, **params)['vm']


def sh(host, script, vm='a'):
    """(exit code, what it printed, standard error among it) of a script in a VM."""
    code, out, err = execute(host, vm, 'sh', '-c', script)
    return code, out + err


def processes():
    """pids of what a VM with the registry has, by name."""
    found = {}
    for pid, command in harness.children().items():
        for name, mark in (('virtiofsd', 'virtiofsd'), ('bangerfs', '--vm='), ('bangerfs', '--content-process'),
                           ('qemu-system', 'qemu-system')):
            if mark in command and name in command:
                found.setdefault(name, []).append(pid)
    return found


def nothing_runs():
    until(lambda: not processes(), f'all to end: {processes()}')


def log_of(host, vm='a'):
    return host.state / 'vms' / state(host, vm)['id'] / 'registry.log'


# ---- reading and writing

BUILD = '''
set -e
mkdir /tmp/tree && cp -a /bin /lib /lib64 /etc /tmp/tree/
for d in root srv tmp proc sys dev run; do mkdir /tmp/tree/$d; done
echo made in a VM > /tmp/tree/etc/note
mke2fs -q -t ext4 -d /tmp/tree /tmp/fs 96M > /dev/null
mkdir /banger/drafts/made
cp /tmp/fs /banger/drafts/made/rootfs.ext4
echo '{"labels":{"from":"a VM"}}' > /banger/drafts/made/image.json
mv /banger/drafts/made /banger/images/made
cat /banger/images/made/image.json
'''


def build(host):
    """A script in the VM builds a root filesystem, publishes it, and the host boots it. Who did it is in each record."""
    code, out = sh(host, BUILD)
    assert code == 0, out
    made = json.loads(out)
    image = call(host, 'image.show', image='made')['image']
    assert image['id'] == made['id'] and made['config']['labels'] == {'from': 'a VM'}
    op = host.op(made['op_id'])
    assert op['method'] == 'image.promote' and op['actor']['vm'] == 'a' and op['actor']['door'] == 'fs'
    assert [r for r in host.records(made['op_id']) if r['msg'] == 'operation started'][0]['vm'] == 'a'
    said = host.ctl('vm', 'run', '--accel', 'tcg', 'made', '--', 'cat', '/etc/note', timeout=120)
    assert said.out == 'made in a VM\n'
    # Swapped and deleted, as on the host.
    assert sh(host, 'rmdir /banger/images/made && ls /banger/images') == (0, 'web\n')
    refused(host, 'image.show', 'not_found', image='made')


def follow(host):
    """A refusal's op_id, from the guest's last-error through the logs of bangerfs and bangerd."""
    code, out = sh(host, 'mkdir /banger/drafts/empty; mv /banger/drafts/empty /banger/images/empty; cat /banger/last-error;'
                         'getfattr --only-values -n user.banger.last_error /banger/images')
    assert 'No data available' in out and 'has no rootfs.ext4' in out, out
    op_id = out[out.rindex('(') + 1:out.rindex(')')]
    [ours] = [r for r in harness.read_log(log_of(host), op_id) if 'code' in r]
    assert ours['program'] == 'bangerfs' and ours['vm'] == 'a' and ours['code'] == 'incomplete'
    ended = host.records(op_id)[-1]
    assert ended['program'] == 'bangerd' and ended['msg'] == 'operation failed'
    op = host.op(op_id)
    assert op['actor']['vm'] == 'a' and op['outcome'] == 'failed' and op['actor']['uid'] == os.getuid()
    # What bangerfs refuses by itself is reported to the daemon, and is the VM's too.
    code, out = sh(host, 'touch /banger/images/web/new; cat /banger/last-error')
    op_id = out[out.rindex('(') + 1:out.rindex(')')]
    assert 'Read-only file system' in out
    until(lambda: [r for r in host.records(op_id) if r.get('vm') == 'a'], 'the report to come')
    assert host.op(op_id)['actor']['vm'] == 'a'


def sees(host):
    """What the host does shows inside within a second, and the other way round."""
    began = time.monotonic()
    code, out = sh(host, 'ls /banger/drafts')
    call(host, 'image.register', name='host')
    assert 'host\n' in sh(host, 'ls /banger/drafts')[1]
    call(host, 'image.rename', image='drafts/host', name='other')
    assert sh(host, 'test -e /banger/drafts/host; echo $?; test -d /banger/drafts/other; echo $?') == (0, '1\n0\n')
    call(host, 'image.delete', image='drafts/other')
    assert sh(host, 'test -e /banger/drafts/other; echo $?') == (0, '1\n')
    taken = time.monotonic() - began
    sh(host, 'mkdir /banger/drafts/guest')
    assert call(host, 'image.show', image='drafts/guest')['image']['state'] == 'draft'
    sh(host, 'rmdir /banger/drafts/guest')
    refused(host, 'image.show', 'not_found', image='drafts/guest')
    # Content trees, and what makes its text when it is opened.
    assert sh(host, 'cat /banger/rootfs/web/etc/os-release; cat /banger/vms/a/vm.json | grep -c \'"name": "a"\'') == \
        (0, 'ID=bootable\n1\n')
    return taken


def events(host):
    """A reader gets what happens, and is not held for ever."""
    assert sh(host, 'exec 3< /banger/events; mkdir /banger/drafts/ev; cat <&3; rmdir /banger/drafts/ev')[1].count('"registered"') == 1


ESCAPES = (
    ('ln -s /etc/shadow /banger/drafts/d/rootfs.ext4', 'Permission denied'),
    ('ln -s /etc/shadow /banger/drafts/d/README', 'Permission denied'),
    ('ln -s ../../../../etc/shadow /banger/drafts/d/README', 'Permission denied'),
    ('ln /banger/images/web/rootfs.ext4 /banger/drafts/d/rootfs.ext4', 'Operation not permitted'),
    ('mknod /banger/drafts/d/disk b 8 0', 'Operation not permitted'),
    ('mknod /banger/drafts/d/zero c 1 5', 'Operation not permitted'),
    ('setfattr -n trusted.overlay.opaque -v y /banger/drafts/d', 'Operation not'),
    ('setfattr -n security.selinux -v y /banger/drafts/d/f', 'Operation not'),
    ('mkdir /banger/hole', 'Operation not permitted'),
    ('cat /banger/drafts/host/rootfs.ext4', 'No such file'),
    ('mv /banger/drafts/host /banger/images/host', 'Permission denied'),
)


def others(host):
    """Of the VMs it sees itself, and nothing of what is done to others."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        heard = pool.submit(sh, host, 'exec 3< /banger/events; touch /tmp/open; mkdir /banger/drafts/ev2; until [ -e /tmp/made ]; do sleep 0.1; done;'
                            'rmdir /banger/drafts/ev2; cat <&3')
        assert sh(host, 'until [ -e /tmp/open ]; do sleep 0.1; done')[0] == 0
        call(host, 'vm.create', name='other', image='web', start=False)
        assert sh(host, 'touch /tmp/made')[0] == 0
        out = heard.result()[1]
    assert '"ev2"' in out and 'other' not in out and '"vm.' not in out, out
    records = sh(host, 'cat /banger/ops/*')[1]
    assert '"method": "image.register"' in records and '"vm.' not in records, records
    assert sh(host, 'ls /banger/vms; cat /banger/vms/other/vm.json 2>&1 | grep -c "No such file"') == (0, 'a\n1\n')
    call(host, 'vm.rm', vm='other')


def escapes(host):
    """No path, link, device or name leads out of the tree; what the host linked by reference a VM cannot have copied."""
    secret = host.base / 'secret'
    secret.write_text('secret of the host')
    mount = host.mount()
    (mount / 'drafts/host').mkdir()
    os.symlink(secret, mount / 'drafts/host/rootfs.ext4')
    assert sh(host, 'mkdir /banger/drafts/d && touch /banger/drafts/d/f')[0] == 0
    for command, words in ESCAPES:
        code, out = sh(host, f'LC_ALL=C {command}')
        assert code != 0 and words in out and 'secret' not in out, (command, out)
    # The host's root is not above the guest's mount, by whichever name.
    assert sh(host, 'ls /banger/..; cat /banger/../../../../etc/os-release')[1].endswith('ID=bootable\n')
    assert sh(host, f'cat /banger{secret} /banger/rootfs/..{secret}')[0] != 0
    assert sh(host, 'chmod 6755 /banger/drafts/d/f; rm /banger/drafts/d/f; rmdir /banger/drafts/d /banger/drafts/host')[0] == 0
    host.unmount(mount)


def forgeries(host):
    """Nobody says himself that he is a VM: neither the daemon's own user, nor about an operation that he reports."""
    actor = {'uid': 0, 'gid': 0, 'pid': 1, 'program': 'cp', 'door': 'fs', 'vm': 'a'}
    with host.wire() as client:
        client.send({'version': 1, 'method': 'image.register', 'params': {'name': 'forged'}, 'actor': actor})
        reply = client.receive()
    assert not reply['ok'] and reply['error']['code'] == 'denied', reply
    assert host.op(reply['error']['op_id'])['actor'].get('vm', '') == ''
    record = {'op_id': 'op-0123456789ab', 'method': 'fs.create', 'actor': actor, 'started': '2026-01-01T00:00:00.000000Z',
              'outcome': 'failed', 'elapsed_ms': 1, 'code': 'denied', 'message': 'forged'}
    call(host, 'op.report', op=record)
    assert host.op('op-0123456789ab')['actor'].get('vm', '') == ''


def holds(pids, path):
    return [pid for pid in pids if f' {path} ' in pathlib.Path(f'/proc/{pid}/mountinfo').read_text()]


def test_inside(start, base):
    """One VM with rw: what it does, sees, cannot do and cannot pretend."""
    host = start()
    disk = base / 'disk'
    disk.mkdir()
    harness.run('mount', '-t', 'tmpfs', 'tmpfs', disk)
    vm = create(host, 'rw', disk=512 << 20)
    # A disk of the host that is unmounted while the VM runs is free.
    found = processes()
    assert holds([os.getpid()], disk) and not holds(found['bangerfs'] + found['virtiofsd'], disk)
    harness.run('umount', disk)
    assert vm['registry'] == 'rw' and 'registry_lost' not in vm
    build(host)
    follow(host)
    assert sees(host) < 10  # execs and all
    events(host)
    others(host)
    escapes(host)
    forgeries(host)
    # Its mount is not in the host's table of mounts.
    assert not harness.mounts_under(host.base)
    call(host, 'vm.rm', vm='a', force=True)
    assert os.listdir(host.state / 'vms') == []


# ---- read only, and its end

WRITES = ('mkdir /banger/drafts/x', 'rmdir /banger/images/web', 'rmdir /banger/drafts/open', 'mv /banger/images/web /banger/images/w',
          'mv /banger/drafts/open /banger/images/open', 'touch /banger/drafts/open/f', 'echo x > /banger/drafts/open/image.json',
          'chmod 600 /banger/drafts/open/image.json', 'rm /banger/drafts/open/f1', 'ln -s /etc/passwd /banger/drafts/open/l',
          'mknod /banger/drafts/open/p p', 'setfattr -n user.x -v y /banger/drafts/open', 'mv -T --exchange /banger/images/web /banger/drafts/open')


def read_only(host):
    """Each write is refused by the host, also when the guest's own kernel lets it through."""
    call(host, 'image.register', name='open')
    assert sh(host, 'ls /banger/images; head -c 4 /banger/images/web/rootfs.ext4 | wc -c; cat /banger/rootfs/web/etc/os-release') == \
        (0, 'web\n4\nID=bootable\n')
    for prepare in ('true', 'mount -o remount,rw /banger && grep "^banger /banger virtiofs rw" /proc/mounts'):
        code, out = sh(host, prepare)
        assert code == 0, out
        for command in WRITES:
            if '--exchange' in command and '--exchange' not in subprocess.run(['mv', '--help'], capture_output=True, text=True).stdout:
                continue
            code, out = sh(host, f'LC_ALL=C; export LC_ALL; {command}')
            assert code != 0 and ('Read-only file system' in out or 'No such file' in out and '/f1' in command), (command, out)
    assert call(host, 'image.show', image='web')['image']['state'] == 'published'
    assert not [r for r in host.records() if r.get('vm') == 'a' and r['msg'] == 'operation started' and 'image.' in r['method']]


def lost(host, name, words):
    """kill -9 of a part: the VM runs on and says so, its files give errors, a stop leaves nothing, a start has it again."""
    for pid in processes()[name]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # with the one before
    until(lambda: state(host).get('registry_lost'), 'the loss to be noticed')
    assert words in state(host)['registry_lost'] and state(host)['state'] == 'running'
    assert json.loads(execute(host, 'a', 'echo', json.dumps(1))[1]) == 1
    until(lambda: sh(host, 'ls /banger/images')[1].count('Transport endpoint is not connected'), 'files to give errors')


def test_read_only_and_losses(start):
    host = start()
    create(host, 'ro')
    read_only(host)
    # The daemon goes, by either way: all goes on.
    before = processes()
    host.stop()
    host.start()
    assert processes() == before and sh(host, 'ls /banger/images') == (0, 'web\n')
    host.kill()
    host.start()
    until(lambda: sh(host, 'ls /banger/images') == (0, 'web\n'), 'the new daemon to be seen')
    call(host, 'image.register', name='later')
    until(lambda: 'later\n' in sh(host, 'ls /banger/drafts')[1], 'changes to be seen again')
    assert 'registry_lost' not in state(host) and processes() == before
    lost(host, 'bangerfs', 'bangerfs')
    assert 'qemu-system' in processes()
    call(host, 'vm.stop', vm='a')
    nothing_runs()
    assert 'registry_lost' not in state(host)
    call(host, 'vm.start', vm='a')
    assert sh(host, 'ls /banger/images') == (0, 'web\n')
    lost(host, 'virtiofsd', 'virtiofsd')
    until(lambda: 'bangerfs' not in processes(), 'bangerfs to end')
    # It is known to the next daemon as well.
    host.kill()
    host.start()
    assert 'virtiofsd' in state(host)['registry_lost'] or 'bangerfs' in state(host)['registry_lost']
    call(host, 'vm.stop', vm='a')
    nothing_runs()
    # A daemon that is away when the VM ends: nothing is left either.
    call(host, 'vm.start', vm='a')
    host.kill()
    os.kill(processes()['qemu-system'][0], signal.SIGKILL)
    nothing_runs()
    host.start()
    assert state(host)['state'] == 'failed'


# ---- without, and for users

def test_failures(start, base):
    """No virtiofsd, one that ends at once, one that is killed while it starts: precise errors, nothing is left."""
    host = start()
    broken = base / 'broken'
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo virtiofsd 9.9.9 && exit\necho cannot share it >&2\nexit 1\n')
    broken.chmod(0o755)
    for program, code, words in ((base / 'none', 'unsupported', str(base / 'none')), ('/bin/true', 'unsupported', 'no virtiofsd'),
                                 (broken, 'unavailable', 'cannot share it')):
        host.stop()
        host.start(BANGER_VIRTIOFSD=str(program))
        refused(host, 'vm.create', code, words, name='a', image='web', accel='tcg', registry='ro')
        nothing_runs()
        for vm in call(host, 'vm.ls')['vms']:
            assert vm['state'] == 'failed'
            call(host, 'vm.rm', vm='a')
        assert os.listdir(host.state / 'vms') == []
    refused(host, 'vm.create', 'bad_request', 'registry', name='a', image='web', registry='all')


def test_run(start):
    """vm run: the registry for one command, and nothing after it, also when its client is killed."""
    host = start()
    said = host.ctl('vm', 'run', '--accel', 'tcg', '--registry', 'ro', 'web', '--', 'ls', '/banger/images', timeout=120)
    assert said.out == 'web\n'
    nothing_runs()
    run = subprocess.Popen([PROGRAM['banger-ctl'], 'vm', 'run', '--accel', 'tcg', '--registry', 'rw', 'web', '--', 'sleep', '1000'],
                           env=host.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: 'qemu-system' in processes(), 'the VM to start')
    run.kill()
    run.wait()
    nothing_runs()
    until(lambda: os.listdir(host.state / 'vms') == [], 'the VM to go')


def test_user(start, base):
    """A daemon of an ordinary user does all of it, in a user namespace."""
    if pathlib.Path('/proc/sys/user/max_user_namespaces').read_text().strip() == '0':
        pytest.skip('no user namespaces here')
    base.chmod(0o777)
    host = start(setpriv=('setpriv', '--reuid=54321', '--regid=54321', '--clear-groups', '--no-new-privs'))
    create(host, 'rw')
    assert sh(host, 'stat -c %u /banger/drafts; mkdir /banger/drafts/mine && ls /banger/drafts; cat /banger/rootfs/web/etc/os-release') == \
        (0, '0\nmine\nID=bootable\n')
    assert call(host, 'image.show', image='drafts/mine')['image']['state'] == 'draft'
    for pid in processes()['virtiofsd'] + processes()['bangerfs']:
        assert os.stat(f'/proc/{pid}').st_uid in (54321, 0)
    call(host, 'vm.rm', vm='a', force=True)


def test_no_namespaces(start, base):
    """A user who may have no namespace is told so; nothing is left."""
    base.chmod(0o777)
    keeper = subprocess.Popen(['unshare', '--user', 'sh', '-c', 'echo; exec cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        if keeper.stdout.readline() != b'\n':
            pytest.skip('no user namespaces here')
        enter = ('nsenter', f'--user=/proc/{keeper.pid}/ns/user')
        for kind in ('uid', 'gid'):
            pathlib.Path(f'/proc/{keeper.pid}/{kind}_map').write_text('0 0 65536')
        harness.run(*enter, '--setuid', '0', '--setgid', '0', 'sh', '-c', 'echo 0 > /proc/sys/user/max_user_namespaces')
        host = start(setpriv=(*enter, '--setuid', '54321', '--setgid', '54321'))
        refused(host, 'vm.create', 'unsupported', 'gives uid 54321 no user namespace', name='a', image='web', accel='tcg',
                registry='ro')
        assert call(host, 'vm.ls')['vms'] == [] and os.listdir(host.state / 'vms') == []
        nothing_runs()
    finally:
        keeper.communicate()
