# SPDX-License-Identifier: Apache-2.0
"""Debian from a real registry in VMs: an image that has systemd, and one without any init, whose configuration says what
runs in it. One daemon for all tests here."""
import io
import os
import tarfile
import time

import pytest

import images
import kernels
import pulls
from harness import until
from images import Image, Layer, Store
from registry import DockerRegistry
from test_vms import alive, call, execute, logs, state

pytestmark = [pytest.mark.needs('banger-unpack', 'banger-agent', 'docker-registry', 'mmdebstrap', 'qemu-system-x86_64'), pytest.mark.slow,
              pytest.mark.limit(300), pytest.mark.skipif(os.geteuid() != 0, reason='needs root for mmdebstrap')]
CONFIG = {'Entrypoint': ['sh', '-c', 'echo "$0 $1 $GREETING $(id -un):$(id -gn) [$(id -G)] $HOME $PWD"'], 'Cmd': ['entry', 'command'],
          'Env': ['PATH=/usr/local/bin:/usr/bin:/bin', 'GREETING=hello'], 'User': 'www-data:audio', 'WorkingDir': '/srv/not/there'}


def layer_of(*files):
    """A layer with these files, {name: content}."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w', format=tarfile.PAX_FORMAT) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
    return Layer(out.getvalue())


@pytest.fixture(scope='module')
def world(scratch, cache):
    """Two images of the same Debian; files for names as an image brings them from where it was made."""
    debian = Layer(kernels.debian_tar(cache).read_bytes())
    made_elsewhere = layer_of(('etc/hostname', b'builder\n'), ('etc/resolv.conf', b'nameserver 192.0.2.1\n'))
    home = layer_of(('var/www/seeded', b'from the image\n'))
    no_init = layer_of(('usr/sbin/.wh.init', b''), ('usr/lib/.wh.systemd', b''))
    with pulls.shared_world(scratch) as world:
        server = DockerRegistry(world.base / 'registry')
        try:
            store = Store()
            tags = {'system': Image(debian, made_elsewhere).put(store),
                    'plain': Image(debian, made_elsewhere, home, no_init, command=CONFIG).put(store)}
            images.push(server.host, 'debian', store, tags)
            world.start()
            world.ctl('kernel', 'import', kernels.small_tar(kernels.find_deb(cache), cache / 'vm-kernel.tar'), '--name', 'k')
            for tag in tags:
                world.ctl('image', 'pull', f'{server.host}/debian:{tag}', '--name', tag, timeout=120)
        finally:
            server.close()
        yield world
        for vm in call(world, 'vm.ls')['vms']:
            call(world, 'vm.rm', vm=vm['name'], force=True)


def sh(world, script, vm='s'):
    code, out, err = execute(world, vm, 'sh', '-c', script)
    assert code == 0, (script, code, out, err)
    return out


def ended(world, vm, after):
    """It powers off by itself: what was running then is gone."""
    until(lambda: state(world, vm)['state'] not in ('running', 'stopping'), f'VM "{vm}" to end', 60)
    now = state(world, vm)
    assert now['state'] == 'stopped' and not alive(after['pid']), now
    return now


def is_up(world, vm='s'):
    """systemd has done what it does at a start."""
    def said():
        return execute(world, vm, 'systemctl', 'is-system-running')[1].strip() in ('running', 'degraded')
    until(said, 'systemd to be up', 90)


def test_systemd(world):
    """The image's init is PID 1, the agent goes on beside it: names, network, programs; it is killed, and comes back; the VM
    ends from inside by power-off and by restart, and from outside by the agent."""
    vm = call(world, 'vm.create', name='s', image='system', accel='tcg', network='user', memory=384 << 20)['vm']
    assert vm['init'] == 'image'
    is_up(world)
    assert sh(world, 'cat /proc/1/comm') == 'systemd\n'
    assert execute(world, 's', 'systemctl', '--failed', '--quiet') == (0, '', '')
    assert sh(world, 'hostname; cat /etc/hostname; getent hosts s localhost').split()[:6] == ['s', 's', '127.0.1.1', 's', '::1', 'localhost']
    assert 'nameserver 10.0.2.3\n' in sh(world, 'cat /etc/resolv.conf') and '192.0.2.1' not in sh(world, 'cat /etc/resolv.conf')
    assert '0202000A' in sh(world, 'cat /proc/net/route')
    # What the VM changes is its own from now on.
    sh(world, 'echo own > /etc/hostname; echo nameserver 10.9.9.9 > /etc/resolv.conf; echo kept > /root/file')
    # One of the agent's processes serves and one sees to it that there is one. Both are spared by systemd's end of everything.
    agents = sh(world, 'for p in /proc/[0-9]*; do grep -qs ^banger-agent $p/comm && tr "\\0" "\\n" < $p/cmdline | head -1 && basename $p; done; true').split()
    assert len(agents) == 4 and all(name.startswith('@') for name in agents[::2]), agents
    for i in range(3):
        execute_and_lose(world, 's', 'kill -9 $PPID')
        until(lambda: answers(world, 's'), 'the agent to be back', 20)
    sh(world, 'systemctl poweroff')
    ended(world, 's', vm)
    assert b'reboot: Power down' in logs(world, 's')

    vm = call(world, 'vm.start', vm='s')['vm']
    assert sh(world, 'cat /etc/hostname /etc/resolv.conf /root/file') == 'own\nnameserver 10.9.9.9\nkept\n'
    until(lambda: execute(world, 's', 'systemctl', 'reboot')[0] == 0, 'systemd to listen', 60)
    ended(world, 's', vm)

    vm = call(world, 'vm.start', vm='s')['vm']
    # A program that does not end by SIGTERM holds nothing up: it is told that its host hangs up.
    null = os.open(os.devnull, os.O_RDWR)
    with world.wire(timeout=60) as client:
        client.send({'version': 1, 'method': 'vm.exec', 'params': {'vm': 's', 'argv': ['sh', '-c', 'trap "" TERM; sleep 4321']}}, [null] * 3)
        until(lambda: '4321' in sh(world, 'cat /proc/[0-9]*/cmdline | tr "\\0" " "; true'), 'the program', 20)
        began = time.monotonic()
        stopped = call(world, 'vm.stop', vm='s', timeout_ms=120000)['vm']
        assert client.receive()['result']['signal'] == 1
    os.close(null)
    assert stopped['state'] == 'stopped' and time.monotonic() - began < 60
    assert not [r for r in world.records(stopped['op_id']) if 'power it off' in r['msg']]


def execute_and_lose(world, vm, script, **params):
    """A command that ends the agent, or the VM, and with it itself."""
    null = os.open(os.devnull, os.O_RDWR)
    with world.wire(timeout=60) as client:
        client.reply('vm.exec', {'vm': vm, 'argv': ['sh', '-c', script], 'user': 'root', **params}, fds=[null] * 3)
    os.close(null)


def answers(world, vm):
    try:
        return execute(world, vm, 'echo', 'again') == (0, 'again\n', '')
    except AssertionError:
        return False  # it met the one that was killed


def test_agent_does_not_answer(world):
    """`vm stop` of a VM whose agent is not well: asked, the power button, and killed when the time is over."""
    vm = call(world, 'vm.start', vm='s')['vm']
    execute_and_lose(world, 's', 'kill -STOP $PPID', timeout_ms=1000)
    stopped = call(world, 'vm.stop', vm='s', timeout_ms=1500)['vm']
    assert stopped['state'] == 'stopped' and not alive(vm['pid'])
    said = [r['msg'] for r in world.records(stopped['op_id'])]
    assert "the VM's agent does not power it off" in said and 'the VM does not power off and is killed' in said
    call(world, 'vm.rm', vm='s')


def test_without_init(world):
    """The agent stays PID 1; the image's configuration says what runs, as whom and where, as with Docker."""
    out = 'entry command hello www-data:audio [29] /var/www /srv/not/there\n'
    assert world.ctl('vm', 'run', '--accel', 'tcg', 'plain', timeout=120).out == out
    vm = call(world, 'vm.create', name='p', image='plain', accel='tcg', network='user', work_disk='keep', disk=1 << 30)['vm']
    assert vm['init'] == 'image'
    assert sh(world, 'cat /proc/1/comm', 'p') == 'init\n'
    assert exec_as(world) == out
    say = 'echo "$(id -u):$(id -g) [$(id -G)] $HOME $PWD"'
    for user, workdir, want in (('root', None, '0:0 [0] /root /srv/not/there'), ('www-data', '/etc', '33:33 [33] /var/www /etc'),
                                ('33:29', None, '33:29 [29] /var/www /srv/not/there'), ('1234', '/', '1234:0 [0] / /'),
                                ('1234:www-data', '/', '1234:33 [33] / /'), ('games:0', '/', '5:0 [0] /usr/games /')):
        assert exec_as(world, ['sh', '-c', say], user=user, **({'workdir': workdir} if workdir else {})) == want + '\n', user
    assert sh(world, 'hostname; cat /etc/hostname; getent hosts p', 'p').split() == ['p', 'p', '127.0.1.1', 'p']
    assert 'nameserver 10.0.2.3\n' in sh(world, 'cat /etc/resolv.conf', 'p')
    # The disk is as large as asked, and the user's home one of its own, made of what the image has there.
    blocks, size = map(int, exec_as(world, ['stat', '-f', '-c', '%b %S', '/']).split())
    assert 900 << 20 < blocks * size < 1 << 30
    assert exec_as(world, ['sh', '-c', 'cat ~/seeded; stat -c %m ~; echo mine > ~/own'], user='root', env=['HOME=/var/www']) == 'from the image\n/var/www\n'
    # Orphans are reaped; the rest is asked to end at a stop.
    sh(world, 'for i in 1 2 3; do (sleep 0.2 &) ; done; sleep 1; ! grep -s "^State:.Z" /proc/[0-9]*/status', 'p')
    exec_as(world, ['sh', '-c', '(trap "echo goodbye > /dev/ttyS0; exit" TERM; while :; do sleep 0.1; done) > /dev/null 2>&1 & sleep 1'], user='root')
    began = time.monotonic()
    assert call(world, 'vm.stop', vm='p')['vm']['state'] == 'stopped'
    assert time.monotonic() - began < 20 and b'goodbye' in logs(world, 'p')
    vm = call(world, 'vm.start', vm='p')['vm']
    execute_and_lose(world, 'p', 'sync; echo o > /proc/sysrq-trigger')
    ended(world, 'p', vm)
    # Another VM of that name has the same home, on another root disk.
    call(world, 'vm.rm', vm='p')
    call(world, 'vm.create', name='p', image='plain', accel='tcg', work_disk='keep')
    assert exec_as(world, ['sh', '-c', 'cat /var/www/own; cat /etc/hostname']) == 'mine\np\n'


def exec_as(world, argv=None, **params):
    read, write = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    with world.wire(timeout=60) as client:
        client.send({'version': 1, 'method': 'vm.exec', 'params': {'vm': 'p', **({'argv': argv} if argv else {}), **params}}, [null, write, write])
        os.close(write)
        os.close(null)
        with os.fdopen(read) as out:
            said = out.read()
        reply = client.receive()
    assert reply['ok'], reply
    assert reply['result'].get('exit_code') == 0, (reply, said)
    return said
