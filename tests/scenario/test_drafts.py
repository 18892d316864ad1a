# SPDX-License-Identifier: Apache-2.0
"""Putting a draft together with the tools that people use."""
import ctypes
import errno
import hashlib
import json
import mmap
import os
import subprocess
import threading

import pytest

from harness import run, until

SEEK_DATA, SEEK_HOLE = os.SEEK_DATA, os.SEEK_HOLE


@pytest.fixture
def draft(mnt):
    """The path of an empty draft."""
    path = mnt / 'drafts/a'
    path.mkdir()
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_an_empty_draft_shows(mnt, draft):
    assert os.listdir(draft) == ['image.json']
    document = json.loads((draft / 'image.json').read_text())
    assert document['name'] == 'a' and document['state'] == 'draft' and document['op_id'].startswith('op-')
    assert os.stat(draft).st_mode & 0o777 in (0o755, 0o775, 0o700)
    assert os.readlink(mnt / 'by-id' / document['id']) == '../drafts/a'
    assert os.path.samefile(mnt / 'by-id' / document['id'], draft)


def test_cp_and_promote(mnt, draft, ext4):
    run('cp', ext4(), draft / 'rootfs.ext4')
    run('mv', draft, mnt / 'images/a')
    document = json.loads((mnt / 'images/a/image.json').read_text())
    digest = 'sha256:' + sha256(ext4())
    assert document['digest'] == digest == mnt.xattr('images/a', 'digest')
    assert document['size'] == ext4().stat().st_size
    assert os.stat(mnt / 'images/a/rootfs.ext4').st_mode == 0o100644  # so that cp -r of it makes a draft that can be written
    assert mnt.xattr('images/a', 'state') == 'published'


def test_rsync(mnt, draft, ext4, base):
    """-a: to a temporary name, times and mode, then rename. A second run has nothing to do."""
    source = base / 'source'
    source.mkdir()
    run('cp', '--sparse=always', ext4(), source / 'rootfs.ext4')
    (source / 'SBOM').write_text('{}')
    (source / 'SBOM').chmod(0o640)
    os.utime(source / 'SBOM', ns=(10**18, 10**18 + 123456789))
    run('rsync', '-a', '--exclude=image.json', f'{source}/', f'{draft}/')
    for name in ('rootfs.ext4', 'SBOM'):
        ours, theirs = os.stat(draft / name), os.stat(source / name)
        assert (ours.st_size, ours.st_mode, ours.st_mtime_ns, ours.st_uid) == \
            (theirs.st_size, theirs.st_mode, theirs.st_mtime_ns, theirs.st_uid)
    assert sorted(os.listdir(draft)) == ['SBOM', 'image.json', 'rootfs.ext4']
    again = run('rsync', '-ai', '--exclude=image.json', f'{source}/', f'{draft}/').out
    assert not [line for line in again.splitlines() if line.startswith('>')], again
    run('rsync', '-a', '--ignore-times', '--inplace', '--no-whole-file', ext4('other'), draft / 'rootfs.ext4')
    assert sha256(draft / 'rootfs.ext4') == sha256(ext4('other'))


def test_cp_a(draft, ext4, base):
    """Mode, owner and times arrive."""
    source = base / 'file'
    source.write_text('x')
    source.chmod(0o4750)
    os.chown(source, 1234, 4321)
    source.chmod(0o4750)
    os.utime(source, ns=(10**18 + 1, 10**18 + 2))
    os.symlink('/absolute/target', base / 'link')
    run('cp', '-a', source, draft / 'file')
    run('cp', '-a', base / 'link', draft / 'link')
    st = os.stat(draft / 'file')
    assert (st.st_uid, st.st_gid, st.st_mode & 0o7777, st.st_mtime_ns) == (1234, 4321, 0o4750, 10**18 + 2)
    assert os.readlink(draft / 'link') == '/absolute/target'


def test_derive_with_cp_r(mnt, published):
    published('a')
    run('cp', '-r', mnt / 'images/a', mnt / 'drafts/b')
    document = json.loads((mnt / 'drafts/b/image.json').read_text())
    source = json.loads((mnt / 'images/a/image.json').read_text())
    assert document['name'] == 'b' and document['state'] == 'draft' and document['id'] != source['id']
    assert sha256(mnt / 'drafts/b/rootfs.ext4') == sha256(mnt / 'images/a/rootfs.ext4')
    run('mv', mnt / 'drafts/b', mnt / 'images/b')
    assert mnt.xattr('images/a', 'digest') == mnt.xattr('images/b', 'digest')


def test_sparse(mnt, draft, ext4):
    """A hole stays a hole: in st_blocks, SEEK_HOLE, du, through cp and promotion."""
    image = draft / 'rootfs.ext4'
    run('cp', '--sparse=always', ext4(size='64M'), image)
    blocks = os.stat(image).st_blocks * 512
    assert 0 < blocks < 16 << 20
    assert int(run('du', '-k', image).out.split()[0]) * 1024 == blocks
    with open(image, 'rb') as f:
        hole = os.lseek(f.fileno(), 0, SEEK_HOLE)
        assert 0 < hole < 64 << 20
        data = os.lseek(f.fileno(), hole, SEEK_DATA)
        assert data > hole
        with pytest.raises(OSError) as error:
            os.lseek(f.fileno(), 64 << 20, SEEK_DATA)
        assert error.value.errno == errno.ENXIO
    run('mv', draft, mnt / 'images/a')
    published = mnt / 'images/a/rootfs.ext4'
    assert os.stat(published).st_blocks * 512 <= blocks + 65536
    assert os.stat(published).st_size == 64 << 20
    run('cmp', ext4(size='64M'), published)
    with open(published, 'rb') as f:
        assert os.lseek(f.fileno(), 0, SEEK_HOLE) == hole
    run('cp', '--sparse=auto', published, mnt.banger.base / 'copy')
    assert os.stat(mnt.banger.base / 'copy').st_blocks * 512 <= blocks + 65536


def test_copy_file_range(mnt, draft, published, ext4):
    """Within the mount: from an image into a draft."""
    published('b')
    size = ext4().stat().st_size
    with open(mnt / 'images/b/rootfs.ext4', 'rb') as source, open(draft / 'rootfs.ext4', 'wb') as target:
        done = 0
        while done < size:
            n = os.copy_file_range(source.fileno(), target.fileno(), size - done)
            assert n > 0
            done += n
    assert sha256(draft / 'rootfs.ext4') == sha256(ext4())
    with open(draft / 'rootfs.ext4', 'rb') as source, open(draft / 'piece', 'wb') as target:
        assert os.copy_file_range(source.fileno(), target.fileno(), 1000, 1024, 5000) == 1000
    assert (draft / 'piece').read_bytes() == b'\0' * 5000 + ext4().read_bytes()[1024:2024]


def test_mode_of_a_new_file(draft):
    """As the creating process's umask has it, whatever the daemon's own is."""
    for umask, mode in (('022', 0o644), ('002', 0o664), ('077', 0o600)):
        run('sh', '-c', f'umask {umask}; echo x > {draft}/file-{umask}')
        assert os.stat(draft / f'file-{umask}').st_mode & 0o7777 == mode


def test_write_truncate_append(draft):
    path = draft / 'file'
    path.write_bytes(b'0123456789')
    os.truncate(path, 4)
    assert path.read_bytes() == b'0123'
    os.truncate(path, 8)
    assert path.read_bytes() == b'0123\0\0\0\0'
    with open(path, 'ab') as f:
        f.write(b'end')
    assert path.read_bytes() == b'0123\0\0\0\0end'
    with open(path, 'r+b') as f:
        f.seek(1)
        f.write(b'X')
        f.flush()
        os.fsync(f.fileno())
        assert os.fstat(f.fileno()).st_size == 11
        f.truncate(2)
    assert path.read_bytes() == b'0X'
    path.write_bytes(b'')
    assert path.stat().st_size == 0
    with pytest.raises(FileExistsError):
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with pytest.raises(FileNotFoundError):
        os.open(draft / 'nothing', os.O_WRONLY)


def test_fallocate_and_punch(draft):
    path = draft / 'file'
    run('fallocate', '-l', '1M', path)
    assert path.stat().st_size == 1 << 20
    path.write_bytes(b'x' * 65536)
    run('fallocate', '--punch-hole', '-o', '0', '-l', '32768', path)
    assert path.read_bytes() == b'\0' * 32768 + b'x' * 32768


def test_mmap(draft):
    """mke2fs, sqlite and linkers map files shared."""
    path = draft / 'file'
    path.write_bytes(b'\0' * 8192)
    with open(path, 'r+b') as f, mmap.mmap(f.fileno(), 8192) as m:
        m[4096:4101] = b'hello'
        m.flush()
    assert path.read_bytes()[4096:4101] == b'hello'


def test_mke2fs_in_the_draft(mnt, draft, base):
    """A root filesystem made where it belongs."""
    (base / 'tree/etc').mkdir(parents=True)
    (base / 'tree/etc/hostname').write_text('made here\n')
    run('mke2fs', '-q', '-F', '-t', 'ext4', '-d', base / 'tree', draft / 'rootfs.ext4', '8M')
    run('e2fsck', '-fn', draft / 'rootfs.ext4')
    os.rename(draft, mnt / 'images/a')
    assert (mnt / 'rootfs/a/etc/hostname').read_text() == 'made here\n'


def test_attributes(draft):
    path = draft / 'file'
    path.write_text('x')
    os.chmod(path, 0o600)
    os.chown(path, 7, 8)
    os.utime(path, ns=(123456789012345678, 987654321098765432))
    st = os.stat(path)
    assert (st.st_mode & 0o7777, st.st_uid, st.st_gid) == (0o600, 7, 8)
    assert (st.st_atime_ns, st.st_mtime_ns) == (123456789012345678, 987654321098765432)
    os.symlink('/x', draft / 'link')
    os.utime(draft / 'link', ns=(5 * 10**17, 6 * 10**17), follow_symlinks=False)
    assert os.lstat(draft / 'link').st_mtime_ns == 6 * 10**17
    run('touch', path)
    assert os.stat(path).st_mtime > 10**9


def test_rename_inside(draft):
    (draft / 'a').write_text('a')
    (draft / 'b').write_text('b')
    os.rename(draft / 'a', draft / 'c')
    assert (draft / 'c').read_text() == 'a'
    os.rename(draft / 'c', draft / 'b')  # replaces
    assert (draft / 'b').read_text() == 'a' and sorted(os.listdir(draft)) == ['b', 'image.json']
    (draft / 'd').write_text('d')
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.renameat2(-100, bytes(draft / 'b'), -100, bytes(draft / 'd'), 2) == 0
    assert (draft / 'b').read_text() == 'd' and (draft / 'd').read_text() == 'a'
    assert libc.renameat2(-100, bytes(draft / 'b'), -100, bytes(draft / 'd'), 1) == -1
    assert ctypes.get_errno() == errno.EEXIST


def test_rename_between_drafts(mnt, draft):
    other = mnt / 'drafts/b'
    other.mkdir()
    (draft / 'file').write_text('x')
    os.rename(draft / 'file', other / 'file2')
    assert (other / 'file2').read_text() == 'x' and os.listdir(draft) == ['image.json']


def test_unlink_while_open(draft):
    """As on any filesystem: the open file stays."""
    path = draft / 'file'
    path.write_text('kept')
    with open(path) as f:
        os.unlink(path)
        assert f.read() == 'kept'
    assert not path.exists()


def test_open_while_deleted(mnt, published, ext4, draft):
    """A file that is open stays readable when its image is deleted, renamed or swapped."""
    published('x')
    published('y', 'other')
    whole = ext4().read_bytes()
    (draft / 'file').write_bytes(b'draft')
    with open(mnt / 'images/x/rootfs.ext4', 'rb') as image, open(draft / 'file', 'rb') as file, \
            open(mnt / 'rootfs/x/usr/share/doc/big', 'rb') as inner:
        mnt.banger.call('image.swap', {'a': 'images/x', 'b': 'images/y'})
        assert image.read(4096) == whole[:4096]
        os.rename(mnt / 'images/y', mnt / 'images/z')
        assert image.read(4096) == whole[4096:8192]
        os.rmdir(mnt / 'images/z')
        os.rmdir(draft)
        mnt.banger.settled()
        assert image.read() == whole[8192:]
        assert file.read() == b'draft'
        assert inner.read() == b'0123456789abcdef' * 8192


# ---- image.json

def configure(draft, document):
    """Write image.json; '' or the errno with which it was refused."""
    fd = os.open(draft / 'image.json', os.O_WRONLY | os.O_TRUNC)
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    try:
        os.write(fd, text)
    except OSError as error:
        os.close(fd)
        return errno.errorcode[error.errno]
    try:
        os.close(fd)
        return ''
    except OSError as error:
        return errno.errorcode[error.errno]


CONFIG = {'entrypoint': ['/bin/sh', '-c'], 'cmd': ['echo hi'], 'env': ['A=b', 'PATH=/bin'], 'user': '1000:1000', 'working_dir': '/srv',
          'labels': {'org.example': 'x', 'é': '€'}}


def test_image_json(mnt, draft, ext4):
    assert configure(draft, {'config': CONFIG, 'kernel': 'cloud'}) == ''
    document = json.loads((draft / 'image.json').read_text())
    assert document['config'] == CONFIG and document['kernel'] == 'cloud' and document['name'] == 'a'
    assert mnt.banger.images()['draft', 'a']['config'] == CONFIG
    run('cp', ext4(), draft / 'rootfs.ext4')
    run('mv', draft, mnt / 'images/b')
    document = json.loads((mnt / 'images/b/image.json').read_text())
    assert document['config'] == CONFIG and document['name'] == 'b' and document['state'] == 'published'


def test_image_json_at_the_top_level(draft):
    assert configure(draft, {'cmd': ['x'], 'labels': {'a': 'b'}}) == ''
    assert json.loads((draft / 'image.json').read_text())['config'] == {'cmd': ['x'], 'labels': {'a': 'b'}}


def test_image_json_identity_stays(draft):
    """A document of another image can be written: what says which image it is, is left as it was."""
    before = json.loads((draft / 'image.json').read_text())
    assert configure(draft, {**before, 'id': 'f' * 16, 'name': 'other', 'state': 'published', 'digest': 'sha256:' + 'a' * 64, 'size': 5,
                             'generation': 99, 'op_id': 'op-ffffffffffff', 'config': {'cmd': ['x']}}) == ''
    after = json.loads((draft / 'image.json').read_text())
    for field in ('id', 'name', 'state', 'created'):
        assert after[field] == before[field]
    assert 'digest' not in after and after['config'] == {'cmd': ['x']}


@pytest.mark.parametrize('bad', [b'hello', b'[]', b'"x"', b'{"cmd":"sh"}', b'{"cmd":[1]}', b'{"env":["NOEQUALS"]}', b'{"labels":{"a":1}}',
                                 b'{"config":[]}', b'{"kernel":"../x"}', b'{"working_dir":"relative"}', b'{"cmd":["\xff"]}', b'{',
                                 b'{"config":{"frobnicate":1}}', b'{"user":{}}'])
def test_image_json_that_is_none(mnt, draft, bad):
    assert configure(draft, {'cmd': ['kept']}) == ''
    before = (draft / 'image.json').read_text()
    assert configure(draft, bad) == 'EINVAL'
    line = mnt.last_error()
    assert line.endswith(')') and 'image.json' in line or '"' in line
    assert (draft / 'image.json').read_text() == before


def test_image_json_emptied(mnt, draft):
    """Known to be no document when the last descriptor is closed."""
    assert configure(draft, {'cmd': ['kept']}) == ''
    assert configure(draft, b'') == 'EINVAL'
    until(lambda: 'nothing was written to it' in mnt.last_error(), 'the record')
    assert json.loads((draft / 'image.json').read_text())['config'] == {'cmd': ['kept']}


def test_image_json_by_tools(mnt, draft):
    """A shell redirection, sed -i and rsync (a temporary file and a rename), truncation."""
    run('sh', '-c', f'echo \'{{"cmd":["a"]}}\' > {draft}/image.json')
    assert json.loads((draft / 'image.json').read_text())['config'] == {'cmd': ['a']}
    run('sed', '-i', 's/"a"/"b"/', draft / 'image.json')
    assert json.loads((draft / 'image.json').read_text())['config'] == {'cmd': ['b']}
    assert os.listdir(draft) == ['image.json']
    assert mnt.last_error() == ''  # the shell's first close came before its first word
    (draft / 'new').write_text('{"cmd":["c"]}')
    os.rename(draft / 'new', draft / 'image.json')
    assert json.loads((draft / 'image.json').read_text())['config'] == {'cmd': ['c']}


# ---- promotion and writers

def test_promotion_waits_for_a_writer(mnt, draft, ext4):
    """A copy that is about to be closed delays the mv, it does not fail it."""
    run('cp', ext4(), draft / 'rootfs.ext4')
    fd = os.open(draft / 'rootfs.ext4', os.O_WRONLY)
    timer = threading.Timer(0.3, os.close, [fd])
    timer.start()
    run('mv', draft, mnt / 'images/a')
    timer.join()
    assert mnt.xattr('images/a', 'digest') == 'sha256:' + sha256(ext4())


def test_promotion_gives_up_on_a_writer(mnt, draft, ext4):
    """One that stays: EBUSY, and the draft is as it was."""
    run('cp', ext4(), draft / 'rootfs.ext4')
    fd = os.open(draft / 'rootfs.ext4', os.O_WRONLY)
    done = run('mv', draft, mnt / 'images/a', check=False)
    assert done.code == 1 and 'busy' in done.err.lower()
    assert 'rootfs.ext4' in mnt.last_error() or 'open' in mnt.last_error()
    os.close(fd)
    run('mv', draft, mnt / 'images/a')


def test_nobody_writes_after_promotion(mnt, draft, ext4):
    """A descriptor for writing, a mapping: none outlives the promotion with its right to write."""
    run('cp', ext4(), draft / 'rootfs.ext4')
    fd = os.open(draft / 'rootfs.ext4', os.O_RDONLY)
    run('mv', draft, mnt / 'images/a')
    with pytest.raises(OSError):
        os.write(fd, b'x')
    with pytest.raises(OSError):
        os.open(f'/proc/self/fd/{fd}', os.O_WRONLY)
    os.close(fd)
    assert mnt.banger.call('image.verify', {'image': 'a'})['ok']


# ---- a disk that is full

@pytest.fixture
def small_disk(worlds, base):
    """A daemon whose state is on a filesystem of 24 MB."""
    state = base / 'state'
    state.mkdir()
    run('mount', '-t', 'tmpfs', '-o', 'size=24m,mode=700', 'banger-test', state)
    banger = worlds().start()
    yield banger
    for mount in list(banger.mounts):
        banger.unmount(mount)
    banger.stop()
    run('umount', state)


def test_disk_full(small_disk, ext4):
    banger = small_disk
    mount = banger.mount()
    (mount / 'drafts/a').mkdir()
    done = run('sh', '-c', f'head -c 40000000 /dev/urandom > {mount.path}/drafts/a/rootfs.ext4', check=False)
    assert done.code != 0 and 'No space left' in done.err
    vfs = os.statvfs(mount / 'drafts')
    assert vfs.f_bavail * vfs.f_frsize < 1 << 20
    assert os.statvfs(mount.path).f_blocks * vfs.f_frsize <= 24 << 20
    got = run('mkdir', mount / 'drafts/b', check=False)
    if got.code:
        assert 'No space left' in got.err and '(op-' in mount.last_error()
    os.truncate(mount / 'drafts/a/rootfs.ext4', 0)
    os.unlink(mount / 'drafts/a/rootfs.ext4')
    run('cp', '--sparse=always', ext4(), mount / 'drafts/a/rootfs.ext4')
    until(lambda: run('mv', mount / 'drafts/a', mount / 'images/a', check=False).code == 0, 'room for the promotion')
    banger.assert_consistent()


def test_statfs(mnt, banger):
    ours, disk = os.statvfs(mnt.path), os.statvfs(banger.state)
    assert ours.f_blocks * ours.f_frsize == disk.f_blocks * disk.f_frsize
    assert ours.f_namemax >= 128
    assert 'bangerfs' in run('df', '-T', mnt.path).out or run('df', mnt.path).code == 0


def test_many_writers(mnt, ext4):
    """Six copies at once into six drafts, then all are published."""
    for i in range(6):
        (mnt / f'drafts/n{i}').mkdir()
    copies = [subprocess.Popen(['cp', ext4(), mnt / f'drafts/n{i}/rootfs.ext4']) for i in range(6)]
    assert [c.wait(60) for c in copies] == [0] * 6
    moves = [subprocess.Popen(['mv', mnt / f'drafts/n{i}', mnt / f'images/n{i}']) for i in range(6)]
    assert [m.wait(60) for m in moves] == [0] * 6
    assert {mnt.xattr(f'images/n{i}', 'digest') for i in range(6)} == {'sha256:' + sha256(ext4())}
    mnt.banger.assert_consistent()
