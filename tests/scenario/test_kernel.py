# SPDX-License-Identifier: Apache-2.0
"""kernel import, ls, show, rm, by the command line and through the mount; a crash at each step of an import."""
import gzip
import io
import json
import os
import subprocess
import tarfile

import pytest

import harness
import kernels
from harness import PROGRAM, run, until


@pytest.fixture(scope='session')
def deb(cache):
    return kernels.find_deb(cache)


@pytest.fixture(scope='session')
def small(deb, cache):
    return kernels.small_tar(deb, cache / 'kernel.tar')


def rows(banger):
    return {k['name']: k for k in banger.call('kernel.ls')['kernels']}


def folders(banger):
    return sorted(os.listdir(banger.state / 'kernels'))


def tar_of(path, *entries):
    """A tar of (name, bytes | TarInfo)."""
    with tarfile.open(path, 'w') as tar:
        for name, what in entries:
            info = what if isinstance(what, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            data = b'' if info is what else what
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def entry(kind, target=''):
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


# ---- what a person does

@pytest.mark.limit(120)
def test_debian_package(banger, deb):
    """Debian's own package: kernel, modules, and a modules.dep that depmod would agree with."""
    said = banger.ctl('kernel', 'import', deb, '--name', 'debian').out.split()
    assert said[:2] == ['imported', 'debian']
    kernel = rows(banger)['debian']
    assert kernel['arch'] == 'amd64' and kernel['modules'] and not kernel['initrd']
    folder = banger.state / 'kernels' / kernel['id']
    modules = folder / 'modules' / kernel['version']
    files = {f.name for f in folder.iterdir()}
    assert {'vmlinuz', 'vmlinux', 'modules', 'config'} <= files
    dep = {}
    for line in (modules / 'modules.dep').read_text().splitlines():
        path, _, needs = line.partition(':')
        dep[path] = needs.split()
    on_disk = {str(p.relative_to(modules)) for p in modules.rglob('*.ko*')}
    assert set(dep) == on_disk and len(on_disk) > 500
    assert all(need in on_disk for needs in dep.values() for need in needs)
    [net] = [p for p in dep if '/virtio_net.ko' in p]
    assert any('/net_failover.ko' in p for p in dep[net]) and any('/failover.ko' in p for p in dep[net])
    shown = banger.ctl('kernel', 'show', 'debian').out
    assert kernel['version'] in shown and 'vmlinux' in shown
    assert kernel['name'] in banger.ctl('kernel', 'ls').out
    banger.ctl('kernel', 'rm', 'debian')
    assert rows(banger) == {} and folders(banger) == []


@pytest.mark.limit(120)
def test_depmod_agrees(banger, deb, tmp_path):
    """Where kmod is installed: every dependency that it finds is in ours."""
    depmod = '/sbin/depmod'
    if not os.path.exists(depmod):
        pytest.skip('no depmod')
    banger.ctl('kernel', 'import', deb, '--name', 'k')
    kernel = rows(banger)['k']
    ours = banger.state / 'kernels' / kernel['id'] / 'modules' / kernel['version']
    theirs = tmp_path / 'lib/modules' / kernel['version']
    theirs.parent.mkdir(parents=True)
    run('cp', '-r', ours, theirs)
    run(depmod, '-b', tmp_path, kernel['version'])

    def read(path):
        return {line.split(':')[0]: set(line.split(':')[1].split()) for line in path.read_text().splitlines()}
    assert read(theirs / 'modules.dep') == read(ours / 'modules.dep')


def test_directory_image_and_pipe(banger, small, tmp_path):
    """A directory with both, a bare vmlinuz, and the same through a pipe."""
    tree = tmp_path / 'tree'
    tree.mkdir()
    run('tar', '-xf', small, '-C', tree)
    banger.ctl('kernel', 'import', tree, '--name', 'tree')
    [vmlinuz] = (tree / 'boot').glob('vmlinuz-*')
    banger.ctl('kernel', 'import', vmlinuz, '--name', 'bare')
    with subprocess.Popen(['cat', small], stdout=subprocess.PIPE) as cat:
        banger.call('kernel.import', {'name': 'pipe', 'format': 'auto'}, fds=[cat.stdout.fileno()])
    found = rows(banger)
    assert sorted(found) == ['bare', 'pipe', 'tree']
    assert found['tree']['modules'] and found['pipe']['modules'] and not found['bare']['modules']
    assert len({k['version'] for k in found.values()}) == 1


def test_in_the_tree(mnt, small):
    """kernels/NAME shows what was imported, and nothing of it can be changed."""
    mnt.banger.ctl('kernel', 'import', small, '--name', 'k')
    kernel = rows(mnt.banger)['k']
    until(lambda: os.listdir(mnt / 'kernels') == ['k'], 'the kernel to show')
    document = json.loads((mnt / 'kernels/k/kernel.json').read_text())
    assert document['id'] == kernel['id'] and document['version'] == kernel['version']
    state = mnt.banger.state / 'kernels' / kernel['id']
    assert (mnt / 'kernels/k/vmlinuz').read_bytes() == (state / 'vmlinuz').read_bytes()
    for change in (lambda: (mnt / 'kernels/k/x').write_text('x'), lambda: os.mkdir(mnt / 'kernels/other')):
        with pytest.raises(OSError):
            change()
    mnt.banger.ctl('kernel', 'rm', 'k')
    until(lambda: os.listdir(mnt / 'kernels') == [], 'the kernel to go')


# ---- what is refused, and with which words

def refused(banger, code, *args):
    result = banger.ctl('kernel', *args, check=False)
    assert result.code == 1, result
    record = banger.op(result.op_id)
    assert record['outcome'] == 'failed' and record['code'] == code, record
    assert any(r['msg'] == 'operation failed' for r in banger.records(result.op_id))
    return result.err


def test_refusals(banger, small, tmp_path):
    text = tmp_path / 'text'
    text.write_text('not a kernel\n' * 1000)
    assert 'not a kernel' in refused(banger, 'corrupt', 'import', text, '--name', 'k')
    assert 'vmlinuz' in refused(banger, 'corrupt', 'import', tar_of(tmp_path / 'a.tar', ('x', b'x')), '--name', 'k')
    banger.ctl('kernel', 'import', small, '--name', 'k')
    assert '"k" is taken' in refused(banger, 'exists', 'import', small, '--name', 'k')
    refused(banger, 'not_found', 'show', 'nosuch')
    refused(banger, 'not_found', 'rm', 'nosuch')
    assert sorted(rows(banger)) == ['k'] and len(folders(banger)) == 1


@pytest.mark.parametrize('name, what', [
    ('lib/modules/../../../x', b'x'), ('/lib/modules/1/x.ko', b'x'),
    ('lib/modules/1/x.ko', entry(tarfile.SYMTYPE, '/etc/passwd')),
    ('lib/modules/1/x.ko', entry(tarfile.LNKTYPE, '/etc/passwd')),
    ('lib/modules/1/x.ko', entry(tarfile.CHRTYPE)), ('lib/modules/1/x.ko', entry(tarfile.FIFOTYPE)),
    ('vmlinuz', entry(tarfile.SYMTYPE, '/etc/passwd')), ('vmlinuz', b'second'),
])
def test_hostile_tar(banger, small, tmp_path, name, what):
    """Such an entry behind a good kernel spoils the archive, and nothing is written anywhere."""
    with tarfile.open(small) as tar:
        [kernel] = [m for m in tar if 'vmlinuz' in m.name]
        data = tar.extractfile(kernel).read()
    before = sorted(os.listdir(banger.state))
    refused(banger, 'corrupt', 'import', tar_of(tmp_path / 'x.tar', ('vmlinuz', data), (name, what)), '--name', 'k')
    assert folders(banger) == [] and sorted(os.listdir(banger.state)) == before


def test_damaged_package(banger, deb, tmp_path):
    """Cut off, or with a block of something else in it."""
    whole = deb.read_bytes()
    for i, bad in enumerate((whole[:len(whole) // 2], whole[:100], whole[:5_000_000] + b'x' * 512 + whole[5_000_512:])):
        path = tmp_path / f'{i}.deb'
        path.write_bytes(bad)
        refused(banger, 'corrupt', 'import', path, '--name', 'k')
    assert folders(banger) == []


def test_bomb(banger, tmp_path):
    """A small file that unpacks to much: stopped at the limit, or by the disk, and nothing stays."""
    path = tmp_path / 'bomb.tar.gz'
    info = tarfile.TarInfo('lib/modules/1/x.ko')
    info.size = 9 << 30
    with gzip.open(path, 'wb', compresslevel=1) as f:
        f.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            f.write(bytes(1 << 20))
    result = banger.ctl('kernel', 'import', path, '--name', 'k', check=False)
    assert result.code == 1 and folders(banger) == []


# ---- a crash

@pytest.mark.limit(240)
def test_crash_at_every_step(worlds, small):
    """Killed at each fault point of an import and of a deletion: the old state or the new one, nothing left over."""
    world = worlds()
    log = world.base / 'points'
    world.start(BANGER_FAULT_LOG=str(log))
    world.ctl('kernel', 'import', small, '--name', 'k')
    world.ctl('kernel', 'rm', 'k')
    world.stop()
    points = [p for p in log.read_text().split() if p.startswith('kernel.')] if log.exists() else []
    if not points:
        pytest.skip('a build without fault points')
    for point in points:
        world.start(BANGER_FAULT=f'{point}:1')
        subprocess.run([PROGRAM['banger-ctl'], 'kernel', 'import', small, '--name', 'k'], env=world.env, capture_output=True)
        subprocess.run([PROGRAM['banger-ctl'], 'kernel', 'rm', 'k'], env=world.env, capture_output=True)
        assert not world.daemon.alive() or world.daemon.wait() is not None
        world.start()
        found = rows(world)
        assert folders(world) == sorted(k['id'] for k in found.values()), point
        assert all(set(os.listdir(world.state / 'kernels' / k['id'])) >= {'vmlinuz', 'vmlinux', 'modules'} for k in found.values())
        if found:
            world.ctl('kernel', 'rm', 'k')
        world.stop()
    world.start()
