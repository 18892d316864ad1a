# SPDX-License-Identifier: Apache-2.0
"""VMs on hosts that lack something: QEMU, room on the disk, KVM; and on one that has cgroups to give."""
import os
import pathlib
import shutil

import pytest

import harness
from harness import until
from test_vm_limits import nothing_left, parts, refused
from test_vms import alive, call, execute, state

pytestmark = [pytest.mark.needs('qemu-system-x86_64', 'banger-agent'), pytest.mark.limit(300)]


# ---- QEMU

@pytest.mark.parametrize('text, mode, code, words', [
    (None, 0, 'unsupported', 'is not installed'),
    ('', 0o644, 'unsupported', 'cannot be executed: Permission denied'),
    ('#!/bin/sh\necho "QEMU emulator version 4.2.1 (Debian)"\nexit 1\n', 0o755, 'unavailable', 'exited with status 1 (qemu 4.2.1 is too old: banger needs 6.0 or newer)'),
    ('#!/bin/sh\necho no such machine >&2\nexit 3\n', 0o755, 'unavailable', 'status 3'),
])
def test_qemu(worlds, cache, tmp_path, text, mode, code, words):
    """Not there, not executable, too old, none at all: said by the error and by doctor."""
    program = tmp_path / 'qemu-system-x86_64'
    if text is not None:
        program.write_text(text)
        program.chmod(mode)
    world = parts(worlds().start(BANGER_QEMU=str(program)), cache)
    said = refused(world, code, words)
    check = {c['name']: c for c in world.call('doctor')['checks']}['qemu']
    assert not check['ok'] and check['detail'], check
    if code == 'unavailable':
        assert 'is no QEMU' in said or 'too old' in said, said
        assert state(world)['state'] == 'failed'
        call(world, 'vm.rm', vm='a')
    nothing_left(world)


# ---- a disk that is full

@pytest.mark.skipif(os.geteuid() != 0, reason='mounts')
def test_disk_full(worlds, base, cache):
    """No room for a VM's disk: said, nothing left. None for what a guest writes: its own error, and the VM goes on."""
    harness.run('mkdir', base / 'state')
    harness.run('mount', '-t', 'tmpfs', '-o', 'size=400m,mode=700', 'banger-test', base / 'state')
    world = parts(worlds().start(), cache)
    fill = base / 'state/fill'

    def leave(free):
        fill.unlink(missing_ok=True)
        vfs = os.statvfs(base / 'state')
        with open(fill, 'wb') as out:
            os.posix_fallocate(out.fileno(), 0, max(vfs.f_bavail * vfs.f_frsize - free, 1))
    leave(1 << 20)
    refused(world, 'no_space', 'KiB free: a VM needs 16 MiB to begin with')
    nothing_left(world)
    leave(24 << 20)
    vm = call(world, 'vm.create', name='a', image='web', accel='tcg')['vm']
    code, _, err = execute(world, 'a', 'dd', 'if=/dev/urandom', 'of=/srv/big', 'bs=1M', 'count=40', 'oflag=direct')
    assert code == 1 and ('Input/output error' in err or 'No space' in err or 'Read-only' in err), (code, err)
    assert execute(world, 'a', 'echo', 'alive') == (0, 'alive\n', '') and alive(vm['pid'])
    fill.unlink()
    call(world, 'vm.rm', vm='a', force=True)
    assert call(world, 'vm.create', name='a', image='web', accel='tcg')['vm']['state'] == 'running'
    call(world, 'vm.rm', vm='a', force=True)
    nothing_left(world)
    world.stop()
    harness.run('umount', base / 'state')


# ---- acceleration

DEV = '''set -e
mkdir {base}/dev && mount -t tmpfs -o mode=755 tmpfs {base}/dev
for n in null zero full random urandom tty; do touch {base}/dev/$n; mount --bind /dev/$n {base}/dev/$n; done
mkdir {base}/dev/shm {base}/dev/pts; ln -s /proc/self/fd {base}/dev/fd
{kvm}
mount --rbind {base}/dev /dev
exec "$@"'''


@pytest.mark.skipif(os.geteuid() != 0, reason='mounts')
@pytest.mark.parametrize('kvm, why, run', [
    ('', '/dev/kvm does not open: No such file or directory', True),
    ('touch {base}/dev/kvm', '/dev/kvm is not KVM', False),
    ('ln -s null {base}/dev/kvm', '/dev/kvm is not KVM', False),
    ('mkfifo {base}/dev/kvm', '/dev/kvm is not KVM', False),
    ('mkdir {base}/dev/kvm', '/dev/kvm does not open: Is a directory', False),
    ('mknod {base}/dev/kvm c 10 232; chmod 0 {base}/dev/kvm', '/dev/kvm does not open: Permission denied', True),
], ids=['absent', 'file', 'null', 'fifo', 'directory', 'unreadable'])
def test_kvm_that_is_none(worlds, base, cache, kvm, why, run, monkeypatch):
    """auto runs VMs all the same, kvm is refused with the reason, doctor says it."""
    user = ()
    if 'chmod' in kvm:
        user = ('setpriv', '--reuid=23456', '--regid=23456', '--clear-groups', '--bounding-set=-all', '--inh-caps=-all')
        (base / 'bin').mkdir()
        for name, path in harness.PROGRAM.items():
            monkeypatch.setitem(harness.PROGRAM, name, pathlib.Path(shutil.copy(path, base / 'bin')))
    world = worlds(setpriv=('unshare', '--mount', '--propagation', 'private', 'sh', '-c',
                            DEV.format(base=base, kvm=kvm.format(base=base)), 'sh', *user))
    if user:
        for folder in (world.state, world.run_dir):
            folder.mkdir(exist_ok=True, mode=0o700)
            os.chown(folder, 23456, 23456)
    world.start()
    check = {c['name']: c for c in world.call('doctor')['checks']}['kvm']
    assert not check['ok'] and why in check['detail'] and 'TCG' in check['detail'], check
    if user:
        assert 'group kvm' in check['advice']
    if run:
        parts(world, cache)
        assert why in refused(world, 'unsupported', 'KVM cannot be used here', accel='kvm')
        nothing_left(world)
        vm = call(world, 'vm.create', name='a', image='web')['vm']
        assert vm['accel'] == 'auto' and vm['accel_used'] == 'tcg'
        call(world, 'vm.rm', vm='a', force=True)


# ---- cgroups

@pytest.fixture
def delegated():
    """A cgroup that was given away, as systemd would do it; skipped where there is none to be had."""
    points = [l.split()[4] for l in pathlib.Path('/proc/self/mountinfo').read_text().splitlines() if ' - cgroup2 ' in l]
    own = [l[3:] for l in pathlib.Path('/proc/self/cgroup').read_text().splitlines() if l.startswith('0::')]
    if os.geteuid() != 0 or not points or not own:
        pytest.skip('no cgroup v2 here')
    path = pathlib.Path(points[0] + own[0].rstrip('/')) / f'banger-test-{os.getpid()}'
    try:
        path.mkdir()
        os.setxattr(path, 'trusted.delegate', b'1')
    except OSError as error:
        pytest.skip(f'no cgroup of our own: {error}')
    yield path
    left = [d.name for d in path.iterdir() if d.is_dir()]
    for name in left:
        (path / name).rmdir()
    path.rmdir()
    assert left == []


def test_cgroup(delegated, worlds, cache):
    """Each VM's own, for as long as its VMM lives; one that a dead daemon left goes at the next start; without one it works."""
    world = parts(worlds(setpriv=('sh', '-c', f'echo $$ > {delegated}/cgroup.procs; exec "$@"', 'sh')).start(), cache)

    def cgroups():
        return {d.name: (d / 'cgroup.procs').read_text().split() for d in delegated.iterdir() if d.is_dir()}
    check = {c['name']: c for c in world.call('doctor')['checks']}['cgroup']
    assert check['ok'] and delegated.name in check['detail']
    vm = call(world, 'vm.create', name='a', image='web', accel='tcg')['vm']
    assert cgroups() == {f'banger-vm-{vm["id"]}': [str(vm['pid'])]}
    assert int((delegated / f'banger-vm-{vm["id"]}' / 'cpu.stat').read_text().split()[1]) > 0
    assert call(world, 'vm.stop', vm='a')['vm']['state'] == 'stopped' and cgroups() == {}
    vm = call(world, 'vm.start', vm='a')['vm']
    assert list(cgroups().values()) == [[str(vm['pid'])]]
    world.kill()
    os.kill(vm['pid'], 9)
    until(lambda: not alive(vm['pid']), 'QEMU to die')
    (delegated / 'banger-vm-0123456789abcdef').mkdir()
    (delegated / 'else').mkdir()
    world.start()
    assert state(world)['state'] == 'failed' and list(cgroups()) == ['else']
    (delegated / 'else').rmdir()
    assert world.ctl('vm', 'run', '--accel', 'tcg', 'web', '--', 'true', timeout=120).code == 0
    assert cgroups() == {}
    call(world, 'vm.rm', vm='a')
