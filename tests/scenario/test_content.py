# SPDX-License-Identifier: Apache-2.0
"""rootfs/NAME/ shows what the kernel's own ext4 shows.

Images with every kind of file are made by mkfs and the kernel, then compared with the kernel's mount of
the same image: names, attributes, contents, holes, extended attributes. The first half runs the content
server alone on an image file (serve_image), so that each variant of the format takes a second; the
second half goes through bangerd and bangerfs.
"""
import ctypes
import errno
import filecmp
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time

import pytest

import harness
from harness import run, until

pytestmark = [pytest.mark.needs('mkfs.ext4', 'setfacl', 'getfattr'), pytest.mark.limit(180)]

SERVE, RUN = (next((p for p in sorted(harness.BUILD.rglob(n)) if p.is_file()), None)
              for n in ('serve_image', 'content_run'))


# ---- making images

def kernel_mount(image, point, *options):
    point.mkdir(parents=True, exist_ok=True)
    harness.loop_mount(image, point, *options)
    return point


def make_image(path, mkfs, fill, size='64M', tune=()):
    """An image made by mkfs and filled by the kernel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'wb') as f:
        f.truncate(int(size[:-1]) << {'M': 20, 'G': 30}[size[-1]])
    run('mkfs.ext4', '-q', '-F', *(() if '-b' in mkfs else ('-b', '4096')), *mkfs, path)
    for step in tune:
        run(*step, path)
    point = path.parent / 'fill'
    point.mkdir(exist_ok=True)
    if harness.loop_mount(path, point, check=False).code:
        pytest.skip('the kernel does not know this variant')
    try:
        fill(point)
    finally:
        run('umount', point)
    return path


def times(path, ns):
    os.utime(path, ns=(ns, ns + 1), follow_symlinks=False)


def fill_files(root):
    rng = random.Random(1)
    d = root / 'files'
    d.mkdir()
    for size in (0, 1, 10, 59, 60, 61, 100, 155, 156, 157, 500, 1023, 1024, 1025, 4095, 4096, 4097, 70000):
        (d / f's{size}').write_bytes(rng.randbytes(size))
    (d / 'big').write_bytes(rng.randbytes(3 << 20))
    with open(d / 'holes', 'wb') as f:
        for at in (0, 8192, 1 << 20, (1 << 20) + 65536):
            f.seek(at)
            f.write(rng.randbytes(5000))
        f.truncate(2 << 20)
    with open(d / 'all-hole', 'wb') as f:
        f.truncate(1 << 20)
    with open(d / 'scattered', 'wb') as f:  # an extent tree with inner nodes, or an indirect map
        for k in range(1500):
            f.seek(k * 8192)
            f.write(rng.randbytes(700))
    (d / 'mode').write_text('x')
    (d / 'mode').chmod(0o6755)
    os.chown(d / 'mode', 70000, 4000000000)
    (d / 'mode').chmod(0o4711)


def fill_reserved(root):
    """Space that was reserved and never written, with some data in the middle."""
    path = root / 'reserved'
    if subprocess.run(['fallocate', '-l', '1M', path], capture_output=True).returncode == 0:
        with open(path, 'r+b') as f:
            f.seek(500000)
            f.write(b'data' * 100)


def fill_names(root):
    d = root / 'names'
    d.mkdir()
    for name in (b'a' * 255, 'ü€😀'.encode(), b'\xff\xfe\x80', b'new\nline', b'-dash', b' space ', b'...',
                 b'back\\slash', b'tab\t', b'\x01\x7f'):
        (pathlib.Path(os.fsdecode(os.fsencode(d) + b'/' + name))).write_bytes(name)
    deep = d
    for k in range(60):
        deep = deep / f'{k}'
        deep.mkdir()
    (deep / 'end').write_text('end')


def fill_links(root):
    d = root / 'links'
    d.mkdir()
    (d / 'one').write_text('one')
    for k in range(5):
        os.link(d / 'one', d / f'one{k}')
    os.link(d / 'one', root / 'one-elsewhere')
    for length in (1, 59, 60, 61, 500, 1023):
        os.symlink('t' * length, d / f'sym{length}')
    if os.statvfs(root).f_bsize >= 4096:
        os.symlink('t' * 4095, d / 'sym4095')
    os.symlink('/etc/passwd', d / 'absolute')
    os.symlink('../files/big', d / 'relative')


def fill_special(root):
    d = root / 'special'
    d.mkdir()
    for name, kind, major, minor in (('null', stat.S_IFCHR, 1, 3), ('old', stat.S_IFBLK, 255, 255),
                                     ('new', stat.S_IFBLK, 256, 1048575), ('mid', stat.S_IFCHR, 4, 300),
                                     ('max', stat.S_IFCHR, 4095, 0), ('zero', stat.S_IFCHR, 0, 0)):
        os.mknod(d / name, 0o640 | kind, os.makedev(major, minor))
    os.mkfifo(d / 'fifo', 0o600)
    with socket.socket(socket.AF_UNIX) as s:
        here = os.open('.', os.O_RDONLY)
        os.chdir(d)
        s.bind('socket')
        os.fchdir(here)
        os.close(here)


def fill_times(root):
    d = root / 'times'
    d.mkdir()
    wide = os.stat(root).st_mtime_ns % 1000 != 0  # 256-byte inodes have nanoseconds and epochs
    for sec in (0, 1, -1, -2147483648, 2147483647, *((2147483648, 4102444800, 8589934591, 15032385535) if wide else ())):
        for name, ns in ((f't{sec}', sec * 10**9), *(((f't{sec}n', sec * 10**9 + 123456788),) if wide else ())):
            (d / name).write_text(name)
            times(d / name, ns)
    os.symlink('x', d / 'link')
    times(d / 'link', 1234567890123456788 if wide else 10**18)


def put(path, name, value):
    """Set an attribute where there is room for it: how much there is depends on the variant."""
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        assert error.errno == errno.ENOSPC


def fill_xattrs(root, large=False):
    d = root / 'xattrs'
    d.mkdir()
    few, many, big = d / 'few', d / 'many', d / 'big'
    for path in (few, many, big):
        path.write_text('x')
    put(few, 'user.a', b'1')
    put(few, 'user.empty', b'')
    put(few, 'user.' + 'n' * 200, b'long name')
    for k in range(20):
        put(many, f'user.k{k}', bytes([k]) * k)
        put(many, f'trusted.k{k}', bytes([k]) * 3)
    put(many, 'security.other', b'\0\1\2')
    put(many, 'security.capability', bytes.fromhex('0100000200200000000000000000000000000000'))
    room = os.statvfs(root).f_bsize - 200
    put(big, 'user.big', random.Random(2).randbytes(room))
    for k in range(3):  # files that share one block of attributes
        (d / f'same{k}').write_text('x')
        put(d / f'same{k}', 'user.same', b'z' * (room - 100))
    if large:
        for size in (20000, 65536):
            put(big, f'user.large{size}', random.Random(size).randbytes(size))
    run('setfacl', '-m', 'u:1000:rw,u:70000:r,g:5:---,m::rwx', few)
    sub = d / 'sub'
    sub.mkdir()
    run('setfacl', '-m', 'd:u:12:rwx,u:13:r-x,d:g:4000000000:r', sub)
    (sub / 'inherits').write_text('x')
    os.symlink('few', d / 'link')
    os.setxattr(d / 'link', 'trusted.on-link', b'l', follow_symlinks=False)


def fill_directories(root, many=3000):
    d = root / 'many'
    d.mkdir()
    for k in range(many):
        os.close(os.open(d / f'entry-{k:06}-{"x" * (k % 40)}', os.O_CREAT | os.O_WRONLY))
    gaps = root / 'gaps'  # blocks in which every entry was deleted
    gaps.mkdir()
    for k in range(600):
        (gaps / f'{"g" * 100}{k}').write_text('')
    for k in range(600):
        if k % 7:
            (gaps / f'{"g" * 100}{k}').unlink()
    for k in range(4):
        small = root / f'small{k}'
        small.mkdir()
        for j in range(k * 3):
            (small / f'f{j}').write_text('y')
    (root / 'empty').mkdir()


def fill_all(root, large=False):
    fill_files(root)
    fill_reserved(root)
    fill_names(root)
    fill_links(root)
    fill_special(root)
    fill_times(root)
    fill_xattrs(root, large)
    fill_directories(root)


# ---- comparing

FIELDS = ('st_mode', 'st_uid', 'st_gid', 'st_size', 'st_blocks', 'st_blksize', 'st_nlink', 'st_rdev',
          'st_atime_ns', 'st_mtime_ns', 'st_ctime_ns')


def xattrs(path):
    return [(n, os.getxattr(path, n, follow_symlinks=False)) for n in os.listxattr(path, follow_symlinks=False)]


def segments(path):
    """Where there is data, as lseek says."""
    found, end = [], 0
    with open(path, 'rb') as f:
        while True:
            try:
                start = os.lseek(f.fileno(), end, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
                return found
            end = os.lseek(f.fileno(), start, os.SEEK_HOLE)
            found.append((start, end))


def compare_file(ours, theirs, holes):
    if holes:
        assert segments(ours) == segments(theirs), ours
    if os.path.getsize(theirs) > 1 << 28:  # too long to read the zeros
        with open(ours, 'rb') as a, open(theirs, 'rb') as b:
            ends = [p for s in segments(theirs) for p in s] + [os.path.getsize(theirs)]
            for at in ends:
                for start in (max(0, at - 70000), at):
                    a.seek(start), b.seek(start)
                    assert a.read(140000) == b.read(140000), (ours, start)
    else:
        assert filecmp.cmp(ours, theirs, shallow=False), ours


def compare(ours, theirs, holes=True, skip=()):
    """Walks both trees but for what has a name in skip; gives the number of files."""
    count, seen = 0, {}
    stack = [(pathlib.Path(ours), pathlib.Path(theirs))]
    while stack:
        a, b = stack.pop()
        sa, sb = os.lstat(a), os.lstat(b)
        assert {f: getattr(sa, f) for f in FIELDS} == {f: getattr(sb, f) for f in FIELDS}, a
        assert sa.st_ino & 0xffffffff == sb.st_ino and sa.st_ino >> 32, a
        assert seen.setdefault(sa.st_ino, sb.st_ino) == sb.st_ino
        assert xattrs(a) == xattrs(b), a
        count += 1
        if stat.S_ISDIR(sa.st_mode):
            da, db = ({e.name: (e.inode() & 0xffffffff, e.is_dir(follow_symlinks=False), e.is_symlink())
                       for e in os.scandir(p)} for p in (a, b))
            assert da == db, a
            stack += [(a / n, b / n) for n in da if n not in skip]
        elif stat.S_ISLNK(sa.st_mode):
            assert os.readlink(a) == os.readlink(b)
        elif stat.S_ISREG(sa.st_mode):
            compare_file(a, b, holes)
    return count


class Server:
    """serve_image on some images."""

    def __init__(self, base, **images):
        self.point = base / 'serve'
        self.point.mkdir(exist_ok=True)
        self.log = base / 'serve.log'
        with open(self.log, 'ab') as log:
            self.popen = subprocess.Popen([SERVE, self.point, *(f'{k}={v}' for k, v in images.items())],
                                          stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL)
        assert self.popen.stdout.readline() == b'mounted\n', self.log.read_text()

    def __enter__(self):
        return self.point

    def __exit__(self, *_):
        subprocess.run(['umount', '-l', self.point], check=True)
        self.popen.stdout.close()
        code = self.popen.wait(20)
        text = self.log.read_text()
        assert code == 0 and not harness.SANITIZER.search(text), text


@pytest.fixture
def both(base):
    """both(image): (our mount, the kernel's) of one image, taken down after the test."""
    open_servers = []

    def make(image):
        kernel = kernel_mount(image, base / 'kernel', 'ro')
        server = Server(base, it=image)
        open_servers.append((server, kernel))
        return server.point / 'it', kernel
    yield make
    for server, kernel in open_servers:
        server.__exit__()
        run('umount', kernel)


VARIANTS = {
    'default': ((), ()),
    'ext2': (('-t', 'ext2'), ()),
    'ext3': (('-t', 'ext3'), ()),
    '1k': (('-b', '1024'), ()),
    '2k': (('-b', '2048', '-g', '8192'), ()),
    'no-csum': (('-O', '^metadata_csum,^64bit'), ()),
    'gdt-csum': (('-O', '^metadata_csum,uninit_bg'), ()),
    'small-inodes': (('-I', '128', '-O', '^metadata_csum'), ()),
    'large-inodes': (('-I', '1024', '-O', 'inline_data'), ()),
    'inline': (('-O', 'inline_data'), ()),
    'inline-1k': (('-O', 'inline_data', '-b', '1024'), ()),
    'ea-inode': (('-O', 'ea_inode'), ()),
    'bigalloc': (('-O', 'bigalloc', '-C', '16384'), ()),
    'bigalloc-1k': (('-O', 'bigalloc', '-b', '1024', '-C', '4096'), ()),
    'csum-seed': (('-O', 'metadata_csum_seed'), (('tune2fs', '-U', 'random'),)),
    'large-dir': (('-O', 'large_dir', '-b', '1024'), ()),
    'orphan-file': (('-O', 'orphan_file'), ()),
    'meta-bg': (('-O', 'meta_bg,^resize_inode', '-b', '1024'), ()),
    'no-flex': (('-O', '^flex_bg', '-b', '1024'), ()),
    'no-index': (('-O', '^dir_index'), ()),
    'no-filetype': (('-O', '^filetype'), ()),
    'no-journal': (('-O', '^has_journal'), ()),
    'sparse2': (('-O', 'sparse_super2,^resize_inode'), ()),
    'quota': (('-O', 'quota,project', '-E', 'quotatype=usrquota:grpquota:prjquota'), ()),
    'tea': ((), (('tune2fs', '-E', 'hash_alg=tea'),)),
    'legacy': ((), (('tune2fs', '-E', 'hash_alg=legacy'),)),
    'mmp': (('-O', 'mmp'), ()),
    'casefold': (('-O', 'casefold', '-E', 'encoding=utf8'), ()),
    'revision-0': (('-t', 'ext2', '-r', '0'), ()),
}


@pytest.mark.skipif(not SERVE, reason='needs serve_image')
@pytest.mark.parametrize('variant', VARIANTS)
def test_variants(base, both, variant):
    mkfs, tune = VARIANTS[variant]
    image = make_image(base / 'img' / 'it.ext4', mkfs,
                       lambda root: fill_all(root, large='ea_inode' in str(mkfs)), '96M', tune)
    ours, theirs = both(image)

    assert compare(ours, theirs) > 3200
    # Names one by one, past what the listing made known.
    subprocess.run(['sh', '-c', 'echo 2 > /proc/sys/vm/drop_caches'], check=True)
    for name in os.listdir(theirs / 'many'):
        assert os.lstat(ours / 'many' / name).st_ino & 0xffffffff == os.lstat(theirs / 'many' / name).st_ino
    for name in ('nobody', 'entry-', 'x' * 255):
        assert not (ours / 'many' / name).exists()
    with pytest.raises(OSError) as caught:
        os.lstat(ours / 'many' / ('x' * 256))
    assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.skipif(not SERVE, reason='needs serve_image')
def test_tools_agree(base, both):
    """diff -r, getfattr, tar and find say the same of both."""
    ours, theirs = both(make_image(base / 'img' / 'it.ext4', (), fill_all))
    assert run('diff', '-r', '--no-dereference', '-x', 'special', ours, theirs).out == ''
    outputs = []
    for tree in (ours, theirs):
        attrs = run('sh', '-c', 'cd "$0"; find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m - -e hex', tree).out
        acls = run('sh', '-c', 'cd "$0"; find xattrs ! -type l | LC_ALL=C sort | xargs getfacl -n', tree).out
        tar = run('sh', '-c', 'tar -C "$0" --sort=name --xattrs --xattrs-include="*" --acls --numeric-owner '
                  '-cf - . 2>/dev/null | sha256sum', tree).out
        find = run('sh', '-c', r'cd "$0"; find . -printf "%P %y %m %U %G %s %b %n %l %A@ %T@ %C@\n" | LC_ALL=C sort', tree).out
        outputs.append((attrs, acls, tar, find))
    for a, b in zip(*outputs):
        assert a == b


def fill_large(root, sizes=((1 << 32) + 12345,)):
    """Files over 4 GiB and 100,000 entries in one directory."""
    for size in sizes:
        with open(root / f'sparse{size}', 'wb') as f:
            for at in (0, 1 << 31, (1 << 32) - 3, (5 << 30) + 7, (1 << 43) - 1):
                if at + 10 < size:
                    f.seek(at)
                    f.write(b'0123456789')
            f.truncate(size)
    d = root / 'hundred-thousand'
    d.mkdir()
    for k in range(100000):
        os.close(os.open(d / f'{k}', os.O_CREAT | os.O_WRONLY))


@pytest.mark.skipif(not SERVE, reason='needs serve_image')
def test_lean_listings(base, both):
    """A walk that looks at no file is given names only; whoever looks at files afterwards sees all of them."""
    ours, theirs = both(make_image(base / 'img' / 'it.ext4', (), fill_all))
    names = [run('sh', '-c', r'cd "$0"; find . -printf "%p %y\n" | LC_ALL=C sort', p).out for p in (ours, theirs)]
    assert names[0] == names[1]
    assert run('find', ours, '-type', 'f', '-size', '+2M').out.split() == [str(ours / 'files/big'), str(ours / 'files/scattered')]
    for _ in range(2):
        subprocess.run(['sh', '-c', 'echo 3 > /proc/sys/vm/drop_caches'], check=True)
        assert names[1] == run('sh', '-c', r'cd "$0"; find . -printf "%p %y\n" | LC_ALL=C sort', ours).out
        compare(ours, theirs, holes=False)  # the kernel takes reserved space for data once it is in its cache


@pytest.mark.skipif(not SERVE, reason='needs serve_image')
def test_large(base, both):
    def fill(root):
        fill_large(root, (1 << 32, (1 << 32) + 1, 6 << 30, (1 << 43) + 12345))
    ours, theirs = both(make_image(base / 'img' / 'it.ext4', ('-N', '120000'), fill, '256M'))
    assert compare(ours, theirs) == 100007
    subprocess.run(['sh', '-c', 'echo 2 > /proc/sys/vm/drop_caches'], check=True)
    start = time.monotonic()
    for k in range(0, 100000, 10):
        os.lstat(ours / 'hundred-thousand' / f'{k}')
        assert not (ours / 'hundred-thousand' / f'no{k}').exists()
    assert time.monotonic() - start < 20  # by the index, not by reading all of it


def colliding(algorithm, seed, count):
    """Names of 248 bytes as (hash, name), and pairs of them that have the same hash."""
    library = ctypes.CDLL('libext2fs.so.2')
    words = (ctypes.c_uint32 * 4).from_buffer_copy(seed)
    value, minor = ctypes.c_uint32(), ctypes.c_uint32()
    seen, pairs = {}, []
    for k in range(count):
        name = b'%08d' % k + b'x' * 240
        assert library.ext2fs_dirhash(algorithm, name, len(name), words, ctypes.byref(value), ctypes.byref(minor)) == 0
        other = seen.setdefault(value.value, name)
        if other is not name:
            pairs.append((value.value, other, name))
    return sorted(seen.items()), pairs


@pytest.mark.skipif(not SERVE, reason='needs serve_image')
@pytest.mark.parametrize('algorithm', ['legacy', 'half_md4', 'tea'])
def test_hash_goes_on_in_next_leaf(base, both, algorithm):
    """Names with one hash that stand in two leaves: the index marks the second as a continuation."""
    seed = bytes(range(16))
    everyone, pairs = colliding(['legacy', 'half_md4', 'tea'].index(algorithm), seed, 250000)
    assert len(pairs) >= 3

    def fill(root):
        # Three such names fill a block. The kernel splits it in the middle, by size, when the fourth comes, and
        # counts the room at the end of a block to its last entry: with a larger one first, that is after the
        # first of the two.
        for n, (value, *both_names) in enumerate(pairs[:8]):
            d = os.fsencode(root / f'd{n}')
            os.mkdir(d)
            larger = [name for v, name in everyone if v > value][:6]
            for name in (larger[0], *both_names, *larger[1:]):
                with open(d + b'/' + name, 'wb') as f:
                    f.write(name)
    image = make_image(base / 'img' / 'it.ext4', ('-b', '1024', '-E', 'hash_seed=00010203-0405-0607-0809-0a0b0c0d0e0f'),
                       fill, '16M', (('tune2fs', '-E', f'hash_alg={algorithm}'),))
    ours, theirs = both(image)
    continued = 0
    for n, (value, *both_names) in enumerate(pairs[:8]):
        dump = run('debugfs', '-R', f'htree_dump /d{n}', image).out
        continued += f'0x{value | 1:08x}' in dump
    assert continued, 'the kernel made no such leaf'
    # Looked up one by one first: once listed, names are known.
    for n, (value, *both_names) in enumerate(pairs[:8]):
        for name in both_names:
            assert (ours / f'd{n}' / os.fsdecode(name)).read_bytes() == name
        assert not (ours / f'd{n}' / 'none').exists()
    compare(ours, theirs)


@pytest.mark.skipif(not SERVE, reason='needs serve_image')
def test_casefold_lookup(base, both):
    def fill(root):
        d = root / 'fold'
        d.mkdir()
        run('chattr', '+F', d)
        (d / 'Größe').write_text('x')
        for k in range(500):
            (d / f'Name{k}').write_text(f'{k}')
    ours, theirs = both(make_image(base / 'img' / 'it.ext4', ('-O', 'casefold', '-E', 'encoding=utf8'), fill))
    assert compare(ours, theirs) > 500
    for tree in (ours, theirs):
        assert (tree / 'fold' / 'GRÖßE').read_text() == 'x'
        assert (tree / 'fold' / 'gRöSSe').exists() == (theirs / 'fold' / 'gRöSSe').exists()
        for k in range(0, 500, 7):
            assert (tree / 'fold' / f'nAME{k}').read_text() == f'{k}'
        assert not (tree / 'fold' / 'other').exists()


@pytest.mark.skipif(not SERVE, reason='needs serve_image')
def test_read_only(base, both):
    ours, _ = both(make_image(base / 'img' / 'it.ext4', (), fill_files, '32M'))
    f = ours / 'files'
    attempts = [lambda: (f / 'new').write_text('x'), lambda: open(f / 's1', 'r+'), lambda: (f / 's1').unlink(),
                lambda: (f / 'd').mkdir(), lambda: (f / 's1').rename(f / 's2'), lambda: (f / 's1').chmod(0o600),
                lambda: os.setxattr(f / 's1', 'user.x', b'1'), lambda: os.truncate(f / 's10', 1),
                lambda: os.link(f / 's1', f / 's2'), lambda: os.utime(f / 's1')]
    for attempt in attempts:
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS


@pytest.mark.skipif(not SERVE, reason='needs serve_image')
def test_threads(base, both):
    """Eight readers at once see what one sees."""
    ours, theirs = both(make_image(base / 'img' / 'it.ext4', (), fill_all))
    for _ in range(3):
        subprocess.run(['sh', '-c', 'echo 3 > /proc/sys/vm/drop_caches'], check=True)
        sums = [subprocess.Popen(['sh', '-c', 'cd "$0"; find . -type f -print0 | LC_ALL=C sort -z | '
                                  'xargs -0 sha256sum | sha256sum', tree], stdout=subprocess.PIPE)
                for tree in [theirs] + [ours] * 8]
        outputs = {p.communicate(timeout=120)[0] for p in sums}
        assert len(outputs) == 1


@pytest.mark.skipif(not SERVE, reason='needs serve_image')
@pytest.mark.parametrize('what', ['text', 'short', 'truncated', 'unclean', 'future'])
def test_not_an_image(base, what):
    """What is no sound filesystem is EUCLEAN (or EOPNOTSUPP) by name, and the others stay visible."""
    good = make_image(base / 'img' / 'good.ext4', (), fill_links, '16M')
    bad = base / 'img' / 'bad.ext4'
    shutil.copy(good, bad)
    want = errno.EUCLEAN
    if what == 'text':
        bad.write_text('no image\n' * 1000)
    elif what == 'short':
        bad.write_bytes(b'x')
    elif what == 'truncated':
        os.truncate(bad, 8 << 20)
    else:
        with open(bad, 'r+b') as f:
            bits = {'unclean': 0x4, 'future': 0x40000000}[what]
            f.seek(1024 + 96)
            incompat = int.from_bytes(f.read(4), 'little') | bits
            f.seek(1024 + 96)
            f.write(incompat.to_bytes(4, 'little'))
        want = errno.EUCLEAN if what == 'unclean' else errno.EOPNOTSUPP
    with Server(base, good=good, bad=bad) as point:
        assert sorted(os.listdir(point)) == ['bad', 'good']
        with pytest.raises(OSError) as caught:
            os.listdir(point / 'bad')
        assert caught.value.errno == want
        assert (point / 'good' / 'links' / 'one').read_text() == 'one'
    assert 'image cannot be shown' in (base / 'serve.log').read_text()


@pytest.mark.skipif(not SERVE, reason='needs serve_image')
def test_damaged_part(base):
    """Damage is an error where it is and nowhere else."""
    image = make_image(base / 'img' / 'it.ext4', ('-b', '4096'), fill_all)
    good = base / 'img' / 'good.ext4'
    shutil.copy(image, good)
    def inode_of(name):
        text = run('debugfs', '-R', f'imap {name}', image).out
        block = int(text.split('located at block ')[1].split(',')[0])
        offset = int(text.split('offset ')[1].split()[0], 16)
        return block * 4096 + offset
    with open(image, 'r+b') as f:
        f.seek(inode_of('/files/s500') + 4)  # a size that its checksum does not know
        f.write(b'\xff\xff')
        block = int(run('debugfs', '-R', 'bmap /gaps 1', image).out.split()[0])
        f.seek(block * 4096 + 20)
        f.write(b'/')
        node = run('debugfs', '-R', 'ex /files/scattered', image).out.splitlines()[1].split()
        f.seek(int(node[7]) * 4096 + 100)
        f.write(b'\xff' * 8)
    with Server(base, it=image, good=good) as point:
        for name in ('files/s500', 'files/scattered'):
            with pytest.raises(OSError) as caught:
                (point / 'it' / name).read_bytes()
            assert caught.value.errno in (errno.EUCLEAN, errno.EIO)
        seen = []
        with pytest.raises(OSError) as caught:
            for entry in os.scandir(point / 'it' / 'gaps'):
                seen.append(entry.name)
        assert caught.value.errno == errno.EUCLEAN
        assert seen and set(seen) < set(os.listdir(point / 'good' / 'gaps'))
        for name in ('files/s1', 'files/big', 'files/holes', 'links/one'):
            assert (point / 'it' / name).read_bytes() == (point / 'good' / name).read_bytes()
        assert len(os.listdir(point / 'it' / 'files')) == len(os.listdir(point / 'good' / 'files'))
    log = harness.read_log(base / 'serve.log')
    assert all('op_id' in r for r in log if r['msg'] == 'damage in an image')
    assert any('checksum' in r.get('error', '') for r in log)


# ---- the process: against a daemon that says what the test wants

class FakeDaemon:
    """Speaks registry.watch and nothing else."""

    def __init__(self, base):
        self.images = base / 'state' / 'images'
        self.images.mkdir(parents=True, exist_ok=True)
        self.path = base / 'fake.sock'
        self.generation = 0
        self.known = {}
        self.clients = []
        self.lock = threading.Lock()
        self.listener = None
        self.start()

    def start(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.path.unlink(missing_ok=True)
        self.listener.bind(str(self.path))
        self.listener.listen()
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def stop(self):
        """As bangerd dying: every connection breaks."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for client in self.clients:
                client.close()
            self.clients = []

    def accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
                assert b'registry.watch' in client.recv(4096)
            except OSError:
                return
            with self.lock:
                fds = [os.open(self.images, os.O_RDONLY | os.O_DIRECTORY)] * 3
                head = {'ok': True, 'result': {'generation': self.generation}}
                socket.send_fds(client, [json.dumps(head).encode() + b'\n'], fds)
                os.close(fds[0])
                self.send(client, {'event': 'snapshot', 'images': list(self.known.values())})
                self.send(client, {'event': 'ready', 'generation': self.generation})
                self.clients.append(client)

    @staticmethod
    def send(client, document):
        client.sendall(json.dumps(document).encode() + b'\n')

    def event(self, *images):
        """Tell of images, [(id, name or None for deleted)], in one event; gives its generation."""
        with self.lock:
            self.generation += 1
            documents = [{'id': i, 'name': n or 'gone', 'state': 'published' if n else 'deleted',
                          'generation': self.generation} for i, n in images]
            for document in documents:
                self.known[document['id']] = document
                if document['state'] == 'deleted':
                    del self.known[document['id']]
            for client in self.clients:
                self.send(client, {'event': 'image', 'change': 'any', 'generation': self.generation,
                                   'images': documents})
            return self.generation

    def publish(self, name, image, number):
        ident = f'{number:016x}'
        (self.images / ident).mkdir()
        shutil.copy(image, self.images / ident / 'rootfs.ext4')
        return ident, self.event((ident, name))


class Content:
    """content_run with a directory in the place of the registry's mount."""

    def __init__(self, base, daemon, nofile=4096, setpriv=()):
        self.mnt = base / 'mnt'
        self.root = self.mnt / 'rootfs'
        self.root.mkdir(parents=True, exist_ok=True)
        (base / 'run').mkdir(exist_ok=True)
        (base / 'run').chmod(0o777)
        self.log = base / 'content.log'
        with open(self.log, 'ab') as log:
            self.popen = subprocess.Popen([*setpriv, RUN, self.mnt, daemon.path, base / 'run'], stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE, stderr=log, text=True,
                                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile)))

    def line(self):
        return self.popen.stdout.readline().rstrip('\n')

    def wait(self, generation, ms=5000):
        self.popen.stdin.write(f'wait {generation} {ms}\n')
        self.popen.stdin.flush()
        while True:
            line = self.line()
            if not line.startswith('placed'):
                return int(line)

    def process(self):
        found = [p for p, c in harness.children(self.popen.pid).items() if '--content-process' in c]
        assert len(found) == 1
        return found[0]

    def stop(self):
        out, _ = self.popen.communicate('stop\n', timeout=20)
        assert self.popen.returncode == 0 and out.endswith('stopped\n')
        assert not harness.mounts_under(self.mnt)
        text = self.log.read_text()
        assert not harness.SANITIZER.search(text), text
        harness.read_log(self.log)


@pytest.fixture
def content(base):
    """(daemon, content process), taken down after the test."""
    daemon = FakeDaemon(base)
    it = Content(base, daemon)
    assert it.wait(0) == 0
    yield daemon, it
    it.stop()
    daemon.stop()


@pytest.fixture
def small(base):
    """small(text): an image with one file that says text."""
    def make(text):
        def fill(root):
            (root / 'says').write_text(text)
            (root / 'dir').mkdir()
            (root / 'dir' / 'inner').write_text(text * 2)
        return make_image(base / 'img' / f'{text}.ext4', ('-O', '^has_journal'), fill, '2M')
    return make


needs_run = pytest.mark.skipif(not RUN, reason='needs content_run')


@needs_run
def test_names_follow(content, small):
    """Published, renamed, swapped, deleted: after content_wait() nothing old is seen."""
    daemon, it = content
    a, generation = daemon.publish('a', small('one'), 0xa1 << 40)
    assert it.wait(generation) == 0
    assert os.listdir(it.root) == ['a']
    assert (it.root / 'a' / 'says').read_text() == 'one'
    inode = os.stat(it.root / 'a' / 'says').st_ino
    assert it.wait(daemon.event((a, 'renamed'))) == 0
    assert os.listdir(it.root) == ['renamed'] and not (it.root / 'a').exists()
    assert os.stat(it.root / 'renamed' / 'says').st_ino == inode
    b, generation = daemon.publish('b', small('two'), 0xb2 << 40)
    assert it.wait(generation) == 0
    for k in range(50):  # swapped, back and forth
        pair = ((a, 'b'), (b, 'renamed')) if k % 2 == 0 else ((b, 'b'), (a, 'renamed'))
        assert it.wait(daemon.event(*pair)) == 0
        assert (it.root / 'b' / 'says').read_text() == ('one' if k % 2 == 0 else 'two')
        assert (it.root / 'renamed' / 'dir' / 'inner').read_text() == ('twotwo' if k % 2 == 0 else 'oneone')
        assert sorted(os.listdir(it.root)) == ['b', 'renamed']
    assert it.wait(daemon.event((a, None), (b, None))) == 0
    assert os.listdir(it.root) == []
    assert not (it.root / 'b').exists()


@needs_run
def test_same_name_again(content, small):
    """A deleted name that comes back never shows what was there, and open files stay readable."""
    daemon, it = content
    images = [small('old'), small('new')]
    for k in range(20):
        text = ('old', 'new')[k % 2]
        ident, generation = daemon.publish('again', images[k % 2], 0x1000 + k << 36)
        assert it.wait(generation) == 0
        assert (it.root / 'again' / 'says').read_text() == text
        with open(it.root / 'again' / 'dir' / 'inner') as f:
            shutil.rmtree(daemon.images / ident)
            assert it.wait(daemon.event((ident, None))) == 0
            assert not (it.root / 'again').exists()
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert f.read() == text * 2
    until(lambda: 'rootfs.ext4' not in run('ls', '-l', f'/proc/{it.process()}/fd', check=False).out,
          'the deleted images to be closed', 20)


@needs_run
def test_daemon_away(content, small):
    """While bangerd is away what is there stays readable; the new snapshot is taken over when it is back."""
    daemon, it = content
    a, _ = daemon.publish('a', small('one'), 0xa1 << 40)
    b, generation = daemon.publish('b', small('two'), 0xb2 << 40)
    assert it.wait(generation) == 0
    assert (it.root / 'b' / 'says').read_text() == 'two'
    daemon.stop()
    assert (it.root / 'a' / 'says').read_text() == 'one'  # opened only now
    assert it.wait(generation + 1, 50) == -errno.ETIMEDOUT
    daemon.event((a, 'c'), (b, None))
    daemon.start()
    assert it.wait(daemon.generation) == 0
    assert os.listdir(it.root) == ['c'] and (it.root / 'c' / 'says').read_text() == 'one'
    assert not (it.root / 'a').exists() and not (it.root / 'b').exists()


@needs_run
def test_process_dies(content, small):
    """Killed, it is started again; its mount is put in place anew."""
    daemon, it = content
    _, generation = daemon.publish('a', small('one'), 0xa1 << 40)
    assert it.wait(generation) == 0
    for _ in range(3):
        assert (it.root / 'a' / 'says').read_text() == 'one'
        pid = it.process()
        os.kill(pid, signal.SIGKILL)
        assert it.line() == 'placed -'
        until(lambda: it.wait(generation, 1000) == 0, 'the new process')
        assert it.process() != pid
        assert harness.mounts_under(it.root) == [str(it.root)]
        assert (it.root / 'a' / 'says').read_text() == 'one'


@needs_run
def test_unmounted(base, small):
    """Who unmounts rootfs/ ends it, and it is not put back."""
    daemon = FakeDaemon(base)
    it = Content(base, daemon)
    assert it.wait(0) == 0
    run('umount', it.root)
    until(lambda: it.wait(0) == -errno.EHOSTDOWN, 'the process to end')
    assert not harness.mounts_under(it.root)
    it.stop()
    daemon.stop()


@needs_run
def test_parent_dies(base, small):
    """Without its supervisor the process ends."""
    daemon = FakeDaemon(base)
    it = Content(base, daemon)
    assert it.wait(0) == 0
    pid = it.process()
    it.popen.kill()
    it.popen.wait()
    until(lambda: pid not in harness.children(), 'the content process to end')
    harness.force_unmount(it.mnt)
    it.popen.stdin.close(), it.popen.stdout.close()
    daemon.stop()


@needs_run
def test_confined(content):
    """No capabilities but one, no new privileges, a filter."""
    _, it = content
    status = dict(line.split(':\t', 1) for line in
                  pathlib.Path(f'/proc/{it.process()}/status').read_text().splitlines())
    assert status['NoNewPrivs'] == '1' and status['Seccomp'] == '2'
    assert int(status['CapEff'], 16) in (0, 4) and int(status['CapBnd'], 16) == 0
    assert int(status['CapPrm'], 16) in (0, 4) and int(status['CapInh'], 16) == 0


@needs_run
def test_many_images(base, small):
    """More images than may be open at once: those longest unused are let go of, also by the kernel."""
    daemon = FakeDaemon(base)
    it = None
    try:
        image = small('many')
        for k in range(300):
            ident = f'{(k + 1) << 36:016x}'
            (daemon.images / ident).mkdir()
            os.link(image, daemon.images / ident / 'rootfs.ext4')
            generation = daemon.event((ident, f'n{k}'))
        it = Content(base, daemon, nofile=264)
        assert it.wait(generation) == 0
        held = [open(it.root / f'n{k}' / 'says') for k in range(10)]
        for _ in range(2):
            for k in range(300):
                assert (it.root / f'n{k}' / 'says').read_text() == 'many'
                assert os.listdir(it.root / f'n{k}' / 'dir') == ['inner']
        for f in held:
            assert f.read() == 'many'
            f.close()
    finally:
        if it:
            it.stop()
        daemon.stop()


@needs_run
@pytest.mark.needs('fusermount3', 'setpriv')
@pytest.mark.skipif(not os.access('/dev/fuse', os.R_OK | os.W_OK) or os.stat('/dev/fuse').st_mode & 0o6 != 0o6,
                    reason='/dev/fuse is not for everyone here')
def test_ordinary_user(base, small):
    """Without root the content is mounted beside the sockets, and the registry is told where."""
    daemon = FakeDaemon(base)
    daemon.path.chmod(0o777)
    user = ('setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', '--')
    it = Content(base, daemon, setpriv=user)
    try:
        line = it.line()
        assert line.startswith(f'placed {base}/run/rootfs-')
        place = pathlib.Path(line.removeprefix('placed '))
        _, generation = daemon.publish('a', small('one'), 0xa1 << 40)
        assert it.wait(generation) == 0
        assert run(*user, 'cat', place / 'a' / 'says').out == 'one'
        assert run('cat', place / 'a' / 'says', check=False).code  # others may not, not even root
        os.kill(it.process(), signal.SIGKILL)
        assert it.line() == line
        until(lambda: it.wait(generation, 1000) == 0, 'the new process')
        assert run(*user, 'cat', place / 'a' / 'dir' / 'inner').out == 'oneone'
    finally:
        it.stop()
        daemon.stop()
    assert not place.exists() and not harness.mounts_under(base)


# ---- all of it: bangerd, bangerfs, the content process

def register(mnt, image, name):
    """mkdir, cp, mv: the way of a person."""
    (mnt / 'drafts' / name).mkdir()
    shutil.copyfile(image, mnt / 'drafts' / name / 'rootfs.ext4')
    (mnt / 'drafts' / name).rename(mnt / 'images' / name)


# All that stat(1) tells but for the device and the inode number, which a mount has of its own.
STAT = ("find . -print0 | LC_ALL=C sort -z | xargs -0 stat -c '%N %f %a %u %g %s %b %B %o %h %t %T %x %y %z'",
        'find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m - -e hex')


@pytest.mark.needs('bangerd', 'bangerfs')
def test_registry_same_as_kernel(base, banger):
    """One image with everything: kinds of files, holes, over 4 GiB, 100,000 entries, names at the limits."""
    def fill(root):
        fill_all(root)
        fill_large(root)
    mnt = banger.mount()
    image = make_image(base / 'img' / 'it.ext4', ('-N', '120000'), fill, '256M')
    banger.ctl('image', 'import', image, '--name', 'all')
    ours, kernel = mnt / 'rootfs' / 'all', kernel_mount(image, base / 'kernel', 'ro')
    try:
        for command in STAT:
            a, b = (run('sh', '-c', f'cd "$0" && {command} | sha256sum; cd "$0" && {command} | wc -l', p) for p in (ours, kernel))
            assert a.out == b.out and int(a.out.split()[-1]) > 50, command
        assert compare(ours, kernel, skip=('hundred-thousand',)) > 3200  # which test_large() has
        # Devices and the like are compared above: diff has nothing to say of them but that they are.
        assert run('diff', '-r', '--no-dereference', '-x', 'special', ours, kernel).out == ''
    finally:
        run('umount', kernel)


@pytest.mark.needs('bangerd', 'bangerfs')
def test_registry_changes_show_at_once(banger, small):
    """What a call has changed is seen by the next one, however soon it comes."""
    mnt = banger.mount()
    root = mnt / 'rootfs'
    register(mnt, small('one'), 'a')
    register(mnt, small('two'), 'other')
    for k in range(200):
        old, new = ('a', 'b') if k % 2 == 0 else ('b', 'a')
        os.rename(mnt / 'images' / old, mnt / 'images' / new)
        assert os.path.exists(root / new) and not os.path.exists(root / old), k
        assert (root / new / 'says').read_text() == 'one'
        assert sorted(os.listdir(root)) == sorted([new, 'other'])
        exchange(mnt / 'images' / new, mnt / 'images' / 'other')
        assert (root / new / 'says').read_text() == 'two' and (root / 'other' / 'says').read_text() == 'one'
        exchange(mnt / 'images' / new, mnt / 'images' / 'other')
    for k in range(20):
        register(mnt, small('one'), f'n{k}')
        assert (root / f'n{k}' / 'says').read_text() == 'one'
        os.rmdir(mnt / 'images' / f'n{k}')
        assert not os.path.exists(root / f'n{k}') and f'n{k}' not in os.listdir(root)


@pytest.mark.needs('bangerd', 'bangerfs')
def test_registry_names(banger, small):
    """After a change through the mount rootfs/ shows it at once; open files stay readable."""
    mnt = banger.mount()
    root = mnt / 'rootfs'
    register(mnt, small('one'), 'a')
    register(mnt, small('two'), 'b')
    assert sorted(os.listdir(root)) == ['a', 'b']
    for k in range(10):
        exchange(mnt / 'images' / 'a', mnt / 'images' / 'b')
        assert (root / 'a' / 'says').read_text() == ('two', 'one')[k % 2]
        (mnt / 'images' / 'a').rename(mnt / 'images' / 'c')
        assert not (root / 'a').exists()
        assert (root / 'c' / 'dir' / 'inner').read_text() == ('twotwo', 'oneone')[k % 2]
        (mnt / 'images' / 'c').rename(mnt / 'images' / 'a')
    with open(root / 'b' / 'dir' / 'inner') as f:
        (mnt / 'images' / 'b').rmdir()
        assert os.listdir(root) == ['a']
        assert f.read() == 'twotwo'
    register(mnt, small('new'), 'b')
    assert (root / 'b' / 'says').read_text() == 'new'


def exchange(a, b):
    """renameat2(RENAME_EXCHANGE): mv --exchange came with coreutils 9.5."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), 2):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.mark.needs('bangerd', 'bangerfs')
def test_registry_daemon_away(banger, small):
    mnt = banger.mount()
    register(mnt, small('one'), 'a')
    banger.kill()
    assert (mnt / 'rootfs' / 'a' / 'says').read_text() == 'one'
    banger.start()
    until(lambda: not refused(mnt), 'bangerfs to be connected again')
    register(mnt, small('two'), 'b')
    until(lambda: sorted(os.listdir(mnt / 'rootfs')) == ['a', 'b'], 'the content process to be connected again')
    assert (mnt / 'rootfs' / 'b' / 'says').read_text() == 'two'


def refused(mnt):
    """True while a change is refused because bangerd is away."""
    try:
        (mnt / 'drafts' / 'probe').mkdir()
        (mnt / 'drafts' / 'probe').rmdir()
        return False
    except OSError as error:
        assert error.errno == errno.EHOSTDOWN
        return True
