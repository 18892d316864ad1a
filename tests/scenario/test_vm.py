# SPDX-License-Identifier: Apache-2.0
"""vm run with a real kernel under emulation: what comes out, what goes in, how it ends, what is left (nothing)."""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

import harness
from harness import PROGRAM, until

pytestmark = [pytest.mark.needs('qemu-system-x86_64', 'banger-agent'), pytest.mark.limit(300)]


@pytest.fixture
def host(banger, small, root):
    """A daemon with a kernel and an image "web"; accelerated by nothing, so that machines compare."""
    banger.ctl('kernel', 'import', small, '--name', 'k')
    banger.ctl('image', 'import', root, '--name', 'web')
    return banger


def vm(host, *args, check=False, timeout=120, **kwargs):
    return host.ctl('vm', 'run', '--accel', 'tcg', *args, check=check, timeout=timeout, **kwargs)


def sh(host, script, *options, **kwargs):
    return vm(host, 'web', *options, '--', 'sh', '-c', script, **kwargs)


def start(host, *args, **popen):
    popen = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **popen}
    return subprocess.Popen([str(PROGRAM['banger-ctl']), 'vm', 'run', '--accel', 'tcg', *map(str, args)], env=host.env, **popen)


def qemus(host):
    """Command lines of this daemon's VMs, {pid: text}."""
    return {p: c for p, c in harness.children(host.daemon.pid).items() if 'qemu' in c and ' -name ' in c}


def nothing_left(host):
    until(lambda: not qemus(host), 'QEMU to end')
    until(lambda: os.listdir(host.state / 'vms') == [], 'the VM\'s directory to go')
    assert host.call('status').get('vms', 0) == 0


# ---- what a command sees and says

def test_output_and_status(host):
    """Both outputs apart, byte for byte; exit codes and death by signal."""
    result = sh(host, 'echo out; echo err >&2; exit 42')
    assert (result.out, result.err, result.code) == ('out\n', 'err\n', 42)
    assert vm(host, 'web', '--', 'true').code == 0
    assert sh(host, 'exit 1').code == 1
    assert sh(host, 'kill -9 $$').code == 128 + signal.SIGKILL
    nothing_left(host)


def test_json(host):
    """--json: the daemon's document after the command's output."""
    result = host.ctl('--json', 'vm', 'run', '--accel', 'tcg', 'web', '--', 'true', check=False, timeout=120)
    assert result.code == 0


def test_environment(host):
    """User, directory, variables, and the image's own configuration under them."""
    said = dict(line.split('=', 1) for line in vm(host, 'web', '-e', 'A=b c', '--', 'env').out.splitlines())
    assert said['A'] == 'b c' and said['HOME'] == '/root' and '/bin' in said['PATH']
    said = sh(host, 'id -u; id -g; id -G; pwd; echo $HOME', '--user', 'web').out.split('\n')
    assert said[:2] == ['33', '34'] and set(said[2].split()) == {'34', '29'} and said[3:5] == ['/srv', '/srv']
    assert sh(host, 'id -u; id -g', '--user', '1234:5').out.split() == ['1234', '5']
    assert sh(host, 'pwd', '--workdir', '/etc').out == '/etc\n'


def test_the_machine(host):
    """CPUs and memory as asked; the op_id on the guest's command line, in QEMU's name and in the log; its own root."""
    process = start(host, 'web', '--cpus', '2', '--memory', '384M', '--', 'sh', '-c',
                    'nproc; cat /proc/meminfo; cat /proc/cmdline; cat /etc/os-release; cat /proc/mounts; sleep 2')
    [command] = until(lambda: qemus(host), 'QEMU to start').values()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    lines = out.decode().splitlines()
    total = int(next(line for line in lines if line.startswith('MemTotal')).split()[1])
    assert lines[0] == '2' and 256 << 10 < total < 384 << 10
    [op_id] = {word.split('=')[1] for line in lines for word in line.split() if word.startswith('banger.op=')}
    assert op_id in command and 'ID=bootable' in lines and any(line.startswith('/dev/vda / ext4 rw') for line in lines)
    messages = [r['msg'] for r in host.records(op_id)]
    assert messages[0] == 'operation started' and messages[-1] == 'operation completed' and 'VM started' in messages
    assert host.op(op_id)['method'] == 'vm.run'


def test_stdin(host):
    """Nothing, a line, many megabytes; a program that reads only some of it; one that reads none."""
    assert vm(host, 'web', '--', 'cat').out == ''
    assert vm(host, 'web', '--', 'cat', input='hello\n').out == 'hello\n'
    data = os.urandom(1 << 20) * 8
    process = start(host, 'web', '--', 'sha256sum', stdin=subprocess.PIPE)
    out, _ = process.communicate(data, timeout=180)
    assert out.split()[0].decode() == hashlib.sha256(data).hexdigest()
    for command in (['head', '-c', '5'], ['true']):
        process = start(host, 'web', '--', *command, stdin=subprocess.PIPE)
        out, _ = process.communicate(b'x' * (4 << 20), timeout=180)
        assert process.returncode == 0 and out == b'x' * (5 if command[0] == 'head' else 0)


def test_large_output_to_a_slow_reader(host):
    """The reader stalls, then takes all: nothing is lost, and the daemon has not grown by it."""
    process = start(host, 'web', '--', 'dd', 'if=/dev/zero', 'bs=65536', 'count=256')
    until(lambda: qemus(host), 'QEMU to start')
    time.sleep(4)
    out, _ = process.communicate(timeout=180)
    assert len(out) == 256 * 65536 and process.returncode == 0


def test_reader_that_goes_away(host):
    """`… | head`: the program gets SIGPIPE, as without a VM between."""
    read, write = os.pipe()
    process = start(host, 'web', '--', 'yes', stdout=write)
    os.close(write)
    assert os.read(read, 2) == b'y\n'
    os.close(read)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGPIPE, err
    nothing_left(host)


def test_background_processes_do_not_hold_it_up(host):
    started = time.monotonic()
    assert sh(host, 'sleep 1000 & echo done').out == 'done\n'
    assert time.monotonic() - started < 60


def test_default_command(banger, small, root):
    """Without CMD the image's own entry point and command; without those a shell. CMD replaces cmd, not entrypoint."""
    banger.ctl('kernel', 'import', small, '--name', 'k')
    with banger.wire() as client:
        image = client.call('image.register', {'name': 'd'})['image']
        client.call('draft.open', {'id': image['id'], 'file': 'rootfs.ext4', 'write': True, 'create': True})
        with os.fdopen(client.take_fds()[0], 'wb') as out:
            out.write(root.read_bytes())
        document = {'config': {'entrypoint': ['echo', 'entry'], 'cmd': ['cmd'], 'env': ['A=image'], 'working_dir': '/etc'}}
        client.call('image.configure', {'image': 'd', 'document': document})
        client.call('image.promote', {'draft': 'd', 'name': 'configured'})
    banger.ctl('image', 'import', root, '--name', 'plain')
    assert vm(banger, 'configured').out == 'entry cmd\n'
    assert vm(banger, 'configured', '--', 'x', 'y').out == 'entry x y\n'
    assert vm(banger, 'plain', input='echo $((6 * 7)); exit 3\n').out == '42\n'


def test_changes_do_not_reach_the_image(host):
    """The root disk is writable and gone afterwards; the image's file is as it was."""
    image = host.images()['published', 'web']
    file = host.state / 'images' / image['id'] / 'rootfs.ext4'
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    assert sh(host, 'rm /etc/os-release && echo x > /new && dd if=/dev/zero of=/big bs=1M count=8 && cat /new').out == 'x\n'
    assert sh(host, 'cat /etc/os-release; ls /new').out == 'ID=bootable\n'
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before
    assert host.call('image.verify', {'image': 'web'})['ok']


def test_several_at_once(host):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: sh(host, f'echo {i}; exit {i}', timeout=240), range(4)))
    assert [(r.out, r.code) for r in results] == [(f'{i}\n', i) for i in range(4)]
    nothing_left(host)


# ---- an image in use

def test_image_in_use(host):
    """Deleting is busy and names the VM; renaming is fine; afterwards it can go."""
    process = start(host, 'web', '--', 'sleep', '1000')
    until(lambda: qemus(host), 'QEMU to start')
    result = host.ctl('image', 'rm', 'web', check=False)
    assert result.code == 1 and 'in use by VM "vm-' in result.err
    result = host.ctl('kernel', 'rm', 'k', check=False)
    assert result.code == 1 and 'in use by VM' in result.err
    host.ctl('image', 'rename', 'web', 'renamed')
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    nothing_left(host)
    host.ctl('image', 'rm', 'renamed')


# ---- ends

@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_client_goes_away(host, signum):
    """Ctrl-C, or a client that dies at once: the VM ends with it."""
    process = start(host, 'web', '--', 'sleep', '1000')
    until(lambda: qemus(host), 'QEMU to start')
    process.send_signal(signum)
    process.communicate(timeout=30)
    nothing_left(host)


def test_cancelled(host):
    process = start(host, 'web', '--', 'sleep', '1000')
    until(lambda: qemus(host), 'QEMU to start')
    [operation] = [o for o in host.call('status')['operations'] if o['method'] == 'vm.run']
    host.call('op.cancel', {'op_id': operation['op_id']})
    _, err = process.communicate(timeout=30)
    assert process.returncode == 125 and operation['op_id'] in err.decode()
    assert host.op(operation['op_id'])['code'] == 'cancelled'
    nothing_left(host)


def test_timeout(host):
    result = vm(host, 'web', '--timeout', '6s', '--', 'sleep', '1000')
    assert result.code == 125 and 'did not end in time' in result.err
    assert host.op(result.op_id)['code'] == 'timeout'
    nothing_left(host)


def test_daemon_stops(host):
    """SIGTERM with a VM running: it is cancelled, and nothing stays."""
    process = start(host, 'web', '--', 'sleep', '1000')
    pids = until(lambda: qemus(host), 'QEMU to start')
    host.stop()
    process.communicate(timeout=30)
    assert process.returncode == 125
    assert not any(os.path.exists(f'/proc/{pid}') for pid in pids)
    assert os.listdir(host.state / 'vms') == []


def test_daemon_dies(host):
    """SIGKILL: QEMU dies with it, and the next start clears up."""
    process = start(host, 'web', '--', 'sleep', '1000')
    [pid] = until(lambda: qemus(host), 'QEMU to start')
    host.kill()
    process.communicate(timeout=30)
    until(lambda: pid not in harness.children(), 'QEMU to die')
    assert os.listdir(host.state / 'vms') != []
    host.start()
    assert os.listdir(host.state / 'vms') == []
    assert sh(host, 'echo again').out == 'again\n'


def test_qemu_dies(host):
    process = start(host, 'web', '--', 'sleep', '1000')
    [pid] = until(lambda: qemus(host), 'QEMU to start')
    time.sleep(3)
    os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 125 and b'ended before its command' in err
    nothing_left(host)


# ---- what cannot be done, and with which words

@pytest.mark.parametrize('args, code, words', [
    (['nosuch', '--', 'true'], 'not_found', 'image "nosuch" not found'),
    (['web', '--kernel', 'nosuch', '--', 'true'], 'not_found', 'kernel "nosuch" not found'),
    (['web', '--memory', '8M', '--', 'true'], 'bad_request', 'memory'),
    (['web', '--memory', '900G', '--', 'true'], 'bad_request', 'memory'),
    (['web', '--cpus', '900', '--', 'true'], 'bad_request', 'CPUs'),
    (['web', '--', 'nosuch'], 'not_found', 'cannot run "nosuch": not found'),
    (['web', '--', '/etc/passwd'], 'denied', 'cannot run "/etc/passwd"'),
    (['web', '--user', 'nobody', '--', 'true'], 'not_found', 'no user "nobody"'),
    (['web', '--user', 'root:nogroup', '--', 'true'], 'not_found', 'no group "nogroup"'),
    (['web', '--workdir', '/nosuch', '--', 'true'], 'not_found', '/nosuch'),
])
def test_refusals(host, args, code, words):
    result = vm(host, *args)
    assert result.code == 125 and words in result.err, result.err
    assert host.op(result.op_id)['code'] == code
    nothing_left(host)


def test_no_kernel(banger, root):
    banger.ctl('image', 'import', root, '--name', 'web')
    result = vm(banger, 'web', '--', 'true')
    assert result.code == 125 and 'kernel import' in result.err


def test_which_kernel(host, small):
    """The only one there is; with two, the one that is named, and a question otherwise."""
    host.ctl('kernel', 'import', small, '--name', 'other')
    result = vm(host, 'web', '--', 'true')
    assert result.code == 125 and '--kernel' in result.err
    assert host.op(result.op_id)['code'] == 'ambiguous'
    assert vm(host, 'web', '--kernel', 'other', '--', 'true').code == 0


def test_kernel_without_drivers(host, small, tmp_path):
    """A bare vmlinuz of a kernel whose drivers are modules: said before or by the boot, never hung."""
    harness.run('tar', '-xf', small, '-C', tmp_path)
    [vmlinuz] = (tmp_path / 'boot').glob('vmlinuz-*')
    host.ctl('kernel', 'import', vmlinuz, '--name', 'bare')
    result = vm(host, 'web', '--kernel', 'bare', '--', 'true')
    assert result.code == 125 and 'VM' in result.err
    nothing_left(host)


def test_no_qemu(worlds, small, root):
    world = worlds().start(BANGER_QEMU='/nonexistent/qemu')
    world.ctl('kernel', 'import', small, '--name', 'k')
    world.ctl('image', 'import', root, '--name', 'web')
    result = vm(world, 'web', '--', 'true')
    assert result.code == 125 and 'not installed' in result.err
    assert world.op(result.op_id)['code'] == 'unsupported'


def test_descriptors_must_come_along(host):
    with host.wire() as client:
        reply = client.reply('vm.run', {'image': 'web'})
        assert reply['error']['code'] == 'bad_request' and reply['error']['op_id']


# ---- acceleration

def test_auto_runs_and_is_explained(host):
    """auto gives a VM whatever /dev/kvm is worth, and doctor says what was found."""
    assert host.ctl('vm', 'run', 'web', '--', 'true', timeout=120).code == 0
    checks = {c['name']: c for c in host.call('doctor')['checks']}
    assert checks['kvm']['detail'] and checks['qemu']['ok']
    verdict = json.loads((host.state / 'accel.json').read_text()) if (host.state / 'accel.json').exists() else None
    if verdict and not verdict['kvm']:
        refused = host.ctl('vm', 'run', '--accel', 'kvm', 'web', '--', 'true', check=False)
        assert refused.code == 125 and 'KVM cannot be used here' in refused.err
    host.restart()
    if verdict:
        started = time.monotonic()
        again = {c['name']: c for c in host.call('doctor')['checks']}
        assert again['kvm']['detail'] == checks['kvm']['detail'] and time.monotonic() - started < 2
