# SPDX-License-Identifier: Apache-2.0
"""VMs where something is missing, wrong or too much: each is said precisely, with an op_id, and nothing is left. One daemon
for most of them."""
import json
import os
import shutil
import socket
import subprocess

import pytest

import harness
import kernels
import pulls
from harness import until
from test_vms import call, execute, state
from wire import OP_ID, WireError

pytestmark = [pytest.mark.needs('qemu-system-x86_64', 'banger-agent'), pytest.mark.limit(300)]


def parts(world, cache, image=True):
    world.ctl('kernel', 'import', kernels.small_tar(kernels.find_deb(cache), cache / 'vm-kernel.tar'), '--name', 'k')
    if image:
        world.ctl('image', 'import', kernels.bootable_ext4(cache), '--name', 'web')
    return world


@pytest.fixture(scope='module')
def world(scratch, cache):
    with pulls.shared_world(scratch) as world:
        yield parts(world.start(), cache)
        for vm in call(world, 'vm.ls')['vms']:
            call(world, 'vm.rm', vm=vm['name'], force=True)


def refused(host, code, words='', method='vm.create', **params):
    """Refused, with this code and these words, under an op_id by which the daemon has it, too."""
    with pytest.raises(WireError) as caught:
        call(host, method, **({'name': 'a', 'image': 'web', 'kernel': 'k', 'accel': 'tcg', **params} if method == 'vm.create' else params))
    error = caught.value
    assert error.code == code and words in error.message and OP_ID.fullmatch(error.op_id), str(error)
    assert host.op(error.op_id)['code'] == code
    return error.message


def nothing_left(host):
    assert call(host, 'vm.ls')['vms'] == [] and os.listdir(host.state / 'vms') == []
    until(lambda: not [c for c in harness.children(host.daemon.pid).values() if 'guest=banger-' in c], 'QEMU to end')


# ---- what is asked for

@pytest.mark.parametrize('code, words, params', [
    ('bad_request', 'VM name', {'name': ''}),
    ('bad_request', 'VM name', {'name': '-x'}),
    ('bad_request', 'VM name', {'name': 'a b'}),
    ('bad_request', 'VM name', {'name': 'a/../b'}),
    ('bad_request', 'VM name', {'name': 'a\nb'}),
    ('bad_request', 'VM name', {'name': 'ä'}),
    ('name_too_long', 'VM name', {'name': 'x' * 129}),
    ('bad_request', 'cpus', {'cpus': 0}),
    ('bad_request', 'cpus', {'cpus': -1}),
    ('bad_request', 'cpus', {'cpus': 'many'}),
    ('bad_request', f'1 to {os.cpu_count()} CPUs, not {os.cpu_count() + 1}', {'cpus': os.cpu_count() + 1}),
    ('bad_request', 'MiB of memory, not 1048576000', {'memory': 1000 << 40}),
    ('bad_request', '64 to ', {'memory': 63 << 20}),
    ('bad_request', 'memory', {'memory': 0}),
    ('bad_request', 'memory', {'memory': 1.5}),
    ('bad_request', 'disk', {'disk': -5}),
    ('bad_request', 'smaller than the image', {'disk': 4096}),
    ('bad_request', '16 TiB', {'disk': (16 << 40) + 1}),
    ('bad_request', 'disk', {'disk': 1 << 64}),
    ('bad_request', 'one of none, user, bridge', {'network': 'wifi'}),
    ('bad_request', 'none, ro, rw', {'registry': 'all'}),
    ('bad_request', 'none, new, keep', {'work_disk': 'old'}),
    ('bad_request', 'ports from 1 to 65535', {'publish': ['70000:80']}),
    ('bad_request', 'ports from 1 to 65535', {'publish': ['localhost:8080:80']}),
    ('bad_request', 'twice', {'publish': ['8080:80', '8080:81']}),
    ('bad_request', 'published ports', {'publish': [f'{2000 + i}:80' for i in range(100)]}),
    ('bad_request', 'image id or name is required', {'image': ''}),
    ('not_found', 'image "nosuch" not found', {'image': 'nosuch'}),
    ('not_found', 'kernel "nosuch" not found', {'kernel': 'nosuch'}),
])
def test_requests(world, code, words, params):
    refused(world, code, words, **params)
    nothing_left(world)


def test_ports(world):
    """A port that somebody has, and one that only root may have or nobody is at."""
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(world, 'busy', f'port {port} of 127.0.0.1 is in use', publish=[f'{port}:80'])
    refused(world, 'bad_request', 'port 8080 of 192.0.2.7 cannot be published: this host has no such address', publish=['192.0.2.7:8080:80'])
    nothing_left(world)


# ---- kernels and images

@pytest.fixture(scope='module')
def second(world, cache):
    """A kernel whose files may be spoiled."""
    world.ctl('kernel', 'import', cache / 'vm-kernel.tar', '--name', 'spoiled')
    return world.state / 'kernels' / world.call('kernel.show', {'kernel': 'spoiled'})['kernel']['id']


def spoil(folder, how):
    for file in folder.glob('vmlinu*'):
        file.chmod(0o600)
        how(file)


def cut_short(file):
    os.truncate(file, 100)


def without_code(file):
    """Headers as they were, and nothing behind them: the guest runs into it and resets."""
    size = file.stat().st_size
    os.truncate(file, 4096)
    os.truncate(file, size)


def test_kernel_spoiled(world, second):
    """One that does not boot: failed, with the reason and what was said last. One that is gone: said before anything starts."""
    whole = {file: file.read_bytes() for file in second.glob('vmlinu*')}
    for how in (without_code, cut_short):
        spoil(second, how)
        said = refused(world, 'unavailable', 'VM "a" failed: ', kernel='spoiled')
        vm = state(world)
        assert vm['state'] == 'failed' and vm['failure'] in said and 'pid' not in vm
        call(world, 'vm.rm', vm='a')
        for file, content in whole.items():
            file.write_bytes(content)
    assert 'its console ends with: ' in said and 'qemu' in said, said
    for file in whole:
        file.unlink()
    refused(world, 'not_found', 'kernel "spoiled" has no file vmlinuz', kernel='spoiled')
    nothing_left(world)


def test_no_shell(world, tmp_path):
    """An image that has one program and no /bin/sh: what needs a shell says so, all else works."""
    tree = kernels.bootable_tree(tmp_path / 'tree')
    (tree / 'bin/sh').unlink()
    world.ctl('image', 'import', harness.make_ext4(tmp_path / 'bare.ext4', tree, '64M'), '--name', 'bare')
    shutil.rmtree(tree)
    result = world.ctl('vm', 'run', '--accel', 'tcg', '--kernel', 'k', 'bare', check=False, timeout=120)
    assert result.code == 125 and 'cannot run "/bin/sh": No such file' in result.err and world.op(result.op_id)['code'] == 'not_found'
    call(world, 'vm.create', name='a', image='bare', kernel='k', accel='tcg')
    assert execute(world, 'a', 'echo', 'hello') == (0, 'hello\n', '')
    null = os.open(os.devnull, os.O_RDWR)
    with world.wire(timeout=60) as client:
        error = client.reply('vm.exec', {'vm': 'a', 'argv': ['sh', '-c', 'true']}, fds=[null] * 3)['error']
    os.close(null)
    assert error['code'] == 'not_found' and 'cannot run "sh": not found in $PATH' in error['message']
    call(world, 'vm.rm', vm='a', force=True)
    nothing_left(world)
    world.call('image.delete', {'image': 'bare'})


# ---- VMs of vm.run

@pytest.mark.needs('bangerfs')
def test_transient_in_the_tree(world):
    """A VM of `vm run` shows as any other, to who watched before and to who begins in the middle, and goes with it; its console
    can be followed."""
    early = world.mount('early')
    running = subprocess.Popen([harness.PROGRAM['banger-ctl'], 'vm', 'run', '--accel', 'tcg', '--kernel', 'k', 'web', '--', 'sh', '-c',
                                'echo mark > /dev/ttyS0; read x; echo last > /dev/ttyS0'], env=world.env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    name, = until(lambda: os.listdir(early / 'vms'), 'the VM to show')
    tail = None
    try:
        until(lambda: early.xattr(f'vms/{name}', 'state') == 'running', 'its state', 60)
        with world.wire() as client:
            client.watch()
            told = iter(client.receive, None)
            vms = next(e['vms'] for e in told if 'vms' in e)
        assert [(v['name'], v['state'], v['transient']) for v in vms] == [(name, 'running', True)]
        late = world.mount('late')
        for mount in (early, late):
            assert os.listdir(mount / 'vms') == [name] and mount.xattr(f'vms/{name}', 'state') == 'running'
            document = json.loads((mount / 'vms' / name / 'vm.json').read_text())
            assert document['transient'] and document['state'] == 'running'
            until(lambda: 'mark' in (mount / 'vms' / name / 'console.log').read_text(), 'its console')
        tail = subprocess.Popen(['tail', '-n', '+1', '-s', '0.1', '-f', late / 'vms' / name / 'console.log'], stdout=subprocess.PIPE, text=True)
        while 'mark' not in tail.stdout.readline():
            pass
        running.stdin.write(b'\n')
        running.stdin.close()
        assert running.wait(30) == 0
        for mount in (early, late):
            until(lambda: os.listdir(mount / 'vms') == [], 'the VM to go')
        nothing_left(world)
    finally:
        running.kill()
        running.wait()
        if tail:
            tail.terminate()
            tail.communicate()
