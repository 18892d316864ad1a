# SPDX-License-Identifier: Apache-2.0
"""Archives to images: banger-unpack by itself against the kernel's ext4 and against the trees that real tar
programs archived, hostile archives, its sandbox, and image import through the daemon.
"""
import contextlib
import copy
import fcntl
import gzip
import json
import lzma
import os
import pathlib
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest

import harness
import trees
from archives import (BLOCK, END, acl, archive, base256, directory, gnu_long, hardlink, header, member, octal,
                      old_sparse, pad, pax, symlink)

UNPACK = harness.PROGRAM.get('banger-unpack')
pytestmark = [pytest.mark.needs('banger-unpack', 'e2fsck')]
root_only = pytest.mark.skipif(os.geteuid() != 0, reason='needs root to mount images')
MIB = 1 << 20
OP_ID = 'op-0123456789ab'
DEFAULTS = {'size': 0, 'headroom': 4 * MIB, 'headroom_percent': 10, 'time': 1, 'memory': 512 * MIB,
            'cpu_seconds': 600}


class Outcome:
    def __init__(self, status, lines):
        self.status = status
        self.last = lines[-1] if lines else {}
        self.progress = [line['progress'] for line in lines if 'progress' in line]
        self.result, self.error = self.last.get('result'), self.last.get('error')


def start_unpack(tar_fd, image_fd, **options):
    """Starts banger-unpack as the daemon does; gives its pid and the reading ends of its status and stderr."""
    assert not options.keys() - DEFAULTS.keys() - {'seed'}, options
    status, errors = os.pipe(), os.pipe()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 40) for fd in (tar_fd, image_fd, status[1], errors[1])]
    pid = os.posix_spawn(UNPACK, ['banger-unpack', json.dumps({**DEFAULTS, **options})],
                         {'BANGER_OP_ID': OP_ID, 'ASAN_OPTIONS': 'detect_leaks=0'},
                         file_actions=[(os.POSIX_SPAWN_DUP2, fd, to) for fd, to in zip(high, (3, 4, 5, 2))])
    for fd in (*high, status[1], errors[1]):
        os.close(fd)
    return pid, status[0], errors[0]


def finish_unpack(pid, status, errors):
    """Waits for its end and gives the Outcome."""
    with os.fdopen(status, 'rb') as f:
        data = f.read()
    with os.fdopen(errors, 'r') as f:
        err = f.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert not harness.SANITIZER.search(err), err
    return Outcome(code, [json.loads(line) for line in data.splitlines()])


def unpack(source, image, **options):
    """source: bytes, or a path. Gives the Outcome."""
    with contextlib.ExitStack() as stack:
        if isinstance(source, bytes):
            tar_fd = os.memfd_create('archive')
            stack.callback(os.close, tar_fd)
            with os.fdopen(os.dup(tar_fd), 'wb') as f:
                f.write(source)
            os.lseek(tar_fd, 0, os.SEEK_SET)
        else:
            tar_fd = os.open(source, os.O_RDONLY)
            stack.callback(os.close, tar_fd)
        image_fd = os.open(image, os.O_RDWR | os.O_CREAT, 0o644)
        stack.callback(os.close, image_fd)
        return finish_unpack(*start_unpack(tar_fd, image_fd, **options))


def fsck(image):
    done = subprocess.run(['e2fsck', '-fn', image], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def mounted(image, point, options='ro,noload'):
    point.mkdir(exist_ok=True)
    harness.loop_mount(image, point, options)
    try:
        yield point
    finally:
        subprocess.run(['umount', point], check=True)


@pytest.fixture
def image(base):
    return base / 'image.ext4'


@pytest.fixture
def good(base, image):
    """good(source): unpacks, checks, and gives the outcome."""
    def make(source, **options):
        outcome = unpack(source, image, **options)
        assert outcome.status == 0, outcome.last
        fsck(image)
        return outcome
    return make


@pytest.fixture
def tree_of(base, image, good):
    """tree_of(source): the facts of what the archive becomes."""
    def make(source, **options):
        good(source, **options)
        with mounted(image, base / 'mnt') as mnt:
            return trees.facts(mnt)
    return make


# ---- trees of the real world, through real tar programs

CAPABILITY = bytes.fromhex('0100000200040000000000000000000000000000')
SOME_ACL = acl((1, 7, 0xffffffff), (2, 5, 1234), (4, 4, 0xffffffff), (8, 6, 99), (16, 7, 0xffffffff),
               (32, 0, 0xffffffff))


def make_everything(root):
    """One of everything that a tree can hold."""
    root.mkdir()
    path = os.fsencode(root)
    rng = random.Random(7)

    def write(name, data=b'', mode=0o644, **owner):
        with open(os.path.join(path, name), 'wb') as f:
            f.write(data)
        os.chown(os.path.join(path, name), owner.get('uid', 0), owner.get('gid', 0))
        os.chmod(os.path.join(path, name), mode)

    for size in (0, 1, 511, 512, 513, 4095, 4096, 4097, 100_000, 3 * MIB + 17):
        write(b'size-%d' % size, rng.randbytes(size))
    for mode in (0o0, 0o4755, 0o2755, 0o1777, 0o6111):
        write(b'mode-%04o' % mode, b'x', mode)
    write(b'owned', b'', uid=4_000_000_000, gid=65536)
    for name in (b'n' * 255, 'e\u0301'.encode(), '\u00e9'.encode(), b'not-utf8-\xff\xfe', b'new\nline', b'tab\t', b' ',
                 b'-rf', b'back\\slash', b'quote"', 'snow\u2603'.encode()):
        write(b'name-' + name if len(name) < 250 else name, name)
    os.makedirs(path + b'/deep' + b'/0123456789' * 40)
    write(b'deep' + b'/0123456789' * 40 + b'/bottom', b'here')
    os.mkdir(path + b'/sticky')
    os.chmod(path + b'/sticky', 0o3777)
    os.mkdir(path + b'/many')
    for i in range(700):
        write(b'many/file with a longer name %d' % i, b'%d' % i)
    for i, target in enumerate((b't', b't' * 59, b't' * 60, b't' * 100, b't' * 101, b'u' * 4000, b'/abs', b'..')):
        os.symlink(target, path + b'/link-%d' % i)
    os.link(path + b'/size-4097', path + b'/hard')
    os.link(path + b'/size-4097', path + b'/sticky/hard too')
    os.link(path + b'/link-3', path + b'/hard symlink')
    os.mkfifo(path + b'/fifo')
    os.mknod(path + b'/null', stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(path + b'/big device', stat.S_IFBLK | 0o600, os.makedev(300, 70000))
    with open(path + b'/sparse', 'wb') as f:
        f.seek(5 * MIB)
        f.write(b'middle' * 1000)
        f.truncate(50 * MIB + 3)
    with open(path + b'/all hole', 'wb') as f:
        f.truncate(6 << 30)
    with open(path + b'/fragments', 'wb') as f:
        for i in range(40):
            f.seek(i * 65536)
            f.write(b'%d' % i)
    os.setxattr(path + b'/size-1', 'user.note', b'\0binary\xff')
    os.setxattr(path + b'/size-1', 'user.empty', b'')
    os.setxattr(path + b'/size-511', 'security.capability', CAPABILITY)
    os.setxattr(path + b'/size-512', 'user.big', b'v' * 2000)
    os.setxattr(path + b'/size-513', 'trusted.other', b'root only')
    os.setxattr(path + b'/sticky', 'user.dir', b'dir')
    os.setxattr(path + b'/owned', 'system.posix_acl_access', SOME_ACL)
    os.setxattr(path + b'/many', 'system.posix_acl_default', SOME_ACL)
    for i, ns in enumerate((0, 1, 1_234_567_890_123_456_789, -1, -1_500_000_000, 4_102_444_800_000_000_007)):
        write(b'time-%d' % i, b'')
        os.utime(path + b'/time-%d' % i, ns=(ns, ns))
    os.utime(path + b'/link-0', ns=(5, 987_654_321), follow_symlinks=False)
    os.utime(path + b'/many', ns=(5, 123_000_000_456))
    os.chmod(path, 0o711)
    os.utime(path, ns=(9, 1_000_000_000_000_000_001))


@pytest.fixture(scope='session')
def everything(cache):
    root = pathlib.Path(subprocess.run(['mktemp', '-d', '/var/tmp/banger-tree-XXXXXX'], check=True,
                                       capture_output=True, text=True).stdout.strip())
    make_everything(root / 'tree')
    yield root / 'tree'
    shutil.rmtree(root)


GNU = ['tar', '-C', '{tree}', '--xattrs', '--xattrs-include=*', '--acls', '--numeric-owner', '-cf', '{tar}']
WRITERS = {
    'gnu-pax': GNU + ['--format=posix', '.'],
    'gnu-pax-sparse-1.0': GNU + ['--format=posix', '-S', '.'],
    'gnu-pax-sparse-0.1': GNU + ['--format=posix', '-S', '--sparse-version=0.1', '.'],
    'gnu-pax-sparse-0.0': GNU + ['--format=posix', '-S', '--sparse-version=0.0', '.'],
    'bsdtar-pax': ['bsdtar', '-C', '{tree}', '--format=pax', '--numeric-owner', '--xattrs', '--acls', '-cf', '{tar}',
                   '.'],
    'python-pax': [sys.executable, '-c', 'import sys, tarfile\n'
                   'def whole(m):\n'
                   '    m.mtime = int(m.mtime // 1)\n'  # it would write 1e-09
                   '    return m\n'
                   't = tarfile.open(sys.argv[2], "w", format=tarfile.PAX_FORMAT)\n'
                   't.add(sys.argv[1], ".", filter=whole)\n'
                   't.close()', '{tree}', '{tar}'],
    'gnu-gnu': ['tar', '-C', '{tree}', '--numeric-owner', '--format=gnu', '-S', '-cf', '{tar}', '.'],
}
# What a writer cannot say.
NO_XATTRS = {'python-pax', 'gnu-gnu'}
WHOLE_SECONDS = {'gnu-gnu', 'python-pax'}


@root_only
@pytest.mark.limit(300)
@pytest.mark.needs('bsdtar', 'tar')
@pytest.mark.parametrize('writer', WRITERS)
def test_tree_survives(writer, everything, base, image, good):
    tar = base / 'a.tar'
    if writer in ('bsdtar-pax', 'python-pax'):  # they store the hole of 6 GiB as zeros
        keep = everything / 'all hole'
        os.truncate(keep, 1 * MIB)
    command = [a.format(tree=everything, tar=tar) for a in WRITERS[writer]]
    before = trees.facts(everything, nanoseconds=writer not in WHOLE_SECONDS)
    done = subprocess.run(command, capture_output=True, text=True, errors='replace',
                          env={**os.environ, 'LC_ALL': 'C.UTF-8'})
    if writer in ('bsdtar-pax', 'python-pax'):
        os.truncate(everything / 'all hole', 6 << 30)
    assert tar.exists(), done.stderr
    good(tar)
    with mounted(image, base / 'mnt') as mnt:
        after = trees.facts(mnt, nanoseconds=writer not in WHOLE_SECONDS)
        assert os.stat(mnt / 'all hole').st_blocks == 0
        assert os.stat(mnt / 'sparse').st_blocks < 100
    for fact in (*before.values(), *after.values()):
        if writer in NO_XATTRS:
            fact['xattrs'] = {}
        if fact['type'] == oct(stat.S_IFDIR):
            fact.pop('links')  # ext4 has one more for lost+found, which there is none of
    before.pop(b'all hole'), after.pop(b'all hole')
    if writer == 'python-pax':  # it does not know that symlinks can be hard links
        for name in (b'hard symlink', b'link-3'):
            before[name].pop('same')
    if writer == 'bsdtar-pax':  # it writes half a second before the epoch as -1.5
        for name in (b'time-3', b'time-4'):
            before.pop(name), after.pop(name)
    assert trees.difference(before, after) == []


# ---- what archives say, one thing at a time

def gives(name, **facts):
    return name, facts


NS = 1_000_000_000
ODD = {
    'nothing': (archive(), []),
    'one zero block': (archive(member('a'), end=bytes(BLOCK)), [gives('a', size=0)]),
    'records padded': (archive(member('a'), end=END + bytes(9000)), [gives('a', size=0)]),
    'v7': (archive(header('d/', b'\0', magic=b''), header('f', b'\0', 3, magic=b'') + pad(b'abc')),
           [gives('d', type=oct(stat.S_IFDIR)), gives('f', size=3)]),
    'dot slash and slashes': (archive(member('./a//b/./c', b'x'), member('/abs', b'y'), member('././/d', b'z')),
                              [gives('a/b/c', size=1), gives('abs', size=1), gives('d', size=1)]),
    'root described': (archive(directory('./', mode=0o1777, uid=5, mtime=77)),
                       [gives('.', mode='0o1777', owner=(5, 0), mtime=77 * NS)]),
    'parents are made': (archive(member('a/b/c')), [gives('a', mode='0o755', owner=(0, 0), mtime=1 * NS),
                                                    gives('a/b', type=oct(stat.S_IFDIR))]),
    'parents described later': (archive(member('a/b'), directory('a', mode=0o700, mtime=5)),
                                [gives('a', mode='0o700', mtime=5 * NS), gives('a/b', size=0)]),
    'later one counts': (archive(member('a', b'first', mode=0o600), member('a', b'second!')),
                         [gives('a', size=7, mode='0o644')]),
    'file over directory': (archive(member('d/x/y', b'1'), member('d', b'22')), [gives('d', size=2, links=1)]),
    'directory over file': (archive(member('d', b'1'), directory('d', mode=0o700), member('d/x', b'2')),
                            [gives('d', type=oct(stat.S_IFDIR), mode='0o700'), gives('d/x', size=1)]),
    'directory over symlink': (archive(directory('real'), symlink('d', 'real'), directory('d'), member('d/x')),
                               [gives('d', type=oct(stat.S_IFDIR)), gives('d/x', size=0)]),
    'symlink over directory': (archive(member('d/x'), member('real/y'), symlink('d', 'real'), member('d/z')),
                               [gives('d', target=b'real'), gives('real/z', size=0)]),
    'through symlinks': (archive(directory('usr/lib'), symlink('lib', 'usr/lib'), symlink('abs', '/usr/lib'),
                                 symlink('up', '../../../usr/./lib'), member('lib/1'), member('abs/2'),
                                 member('up/3')),
                         [gives('usr/lib/1', size=0), gives('usr/lib/2', size=0), gives('usr/lib/3', size=0)]),
    'through a symlink to nothing': (archive(symlink('l', 'made/here'), member('l/x')),
                                     [gives('made/here/x', size=0), gives('l', target=b'made/here')]),
    'last component is not followed': (archive(member('t', b'old'), symlink('l', 't'), member('l', b'new!')),
                                       [gives('t', size=3), gives('l', size=4)]),
    'hard links': (archive(member('a', b'abc', mode=0o600), hardlink('b', './a', mode=0o777), hardlink('c/d', '/b')),
                   [gives('c/d', mode='0o600', size=3, links=3)]),
    'hard link to itself': (archive(member('a', b'abc'), hardlink('a', 'a')), [gives('a', size=3, links=1)]),
    'hard link replaced': (archive(member('a', b'abc'), hardlink('b', 'a'), member('a', b'x')),
                           [gives('a', size=1, links=1), gives('b', size=3, links=1)]),
    'hard link with a size': (archive(member('a', b'abc'), hardlink('b', 'a', size=3)), [gives('b', size=3, links=2)]),
    'sizes of what has none': (archive(directory('d', size=100), header('s', b'2', 100, link=b't'), member('z')),
                               [gives('d'), gives('s', target=b't'), gives('z')]),
    'numbers': (archive(member('a', uid=base256(4294967294, 8), gid=base256(77, 8), mtime=base256(-5, 12)),
                        member('b', uid=b'    14 \0', mode=b'100644 \0', mtime=b'')),
                [gives('a', owner=(4294967294, 77), mtime=-5 * NS), gives('b', owner=(12, 0), mode='0o644', mtime=0)]),
    'pax numbers': (archive(member('a', b'abc', size=0,
                                   pax={'size': '3', 'uid': '4000000000', 'gid': '3', 'mtime': '-1.25'}),
                            member('b', pax={'mtime': '1.9999999999'}),
                            member('c', pax={'mtime': '-0.5', 'comment': 'z'})),
                    [gives('a', size=3, owner=(4000000000, 3), mtime=-1_250_000_000),
                     gives('b', mtime=1_999_999_999), gives('c', mtime=-500_000_000)]),
    'times out of range': (archive(member('a', pax={'mtime': '99999999999999999999'}),
                                   member('b', pax={'mtime': '-99999999999999999999.5'})),
                           [gives('a', mtime=(0x27fffffff * NS) + 999_999_999), gives('b', mtime=-(1 << 31) * NS)]),
    'a taken-back record': (archive(pax({'path': 'global', 'uid': '7'}, b'g'), member('a', pax={'path': '', 'uid': ''}),
                                    member('b')),
                            [gives('a', owner=(0, 0)), gives('global', owner=(7, 0))]),
    'gnu long names': (archive(gnu_long('n' * 200), header('short'), gnu_long('t' * 300, b'K'), header('l', b'2')),
                       [gives('n' * 200), gives('l', target=b't' * 300)]),
    'prefix': (archive(header('name', prefix=b'some/dir')), [gives('some/dir/name')]),
    'gnu has no prefix': (archive(header('name', prefix=b'14717267331\0', magic=b'ustar  \0')), [gives('name')]),
    'label': (archive(header('my backup', b'V'), member('a')), [gives('a')]),
    'names': (archive(member(b'x' * 255), member(b'\xff\xfe'), member('e\u0301'), member('\u00e9'),
                      member('p', pax={'path': b'raw\xff\xc0'}), member('a\nb')),
              [gives(b'x' * 255), gives(b'\xff\xfe'), gives('e\u0301'), gives('\u00e9'), gives(b'raw\xff\xc0'),
               gives('a\nb')]),
    'xattrs': (archive(member('a', pax={'SCHILY.xattr.user.x%3Dy': 'v=w', 'LIBARCHIVE.xattr.user.b%25': 'AP8',
                                        'RHT.security.selinux': 'u:r:t:s0', 'SCHILY.xattr.com.apple.x': 'gone'})),
               [gives('a', xattrs={'user.x=y': b'v=w', 'user.b%': b'\0\xff', 'security.selinux': b'u:r:t:s0\0'})]),
    'xattrs of a symlink': (archive(symlink('l', 't', pax={'SCHILY.xattr.user.x': '1', 'SCHILY.xattr.trusted.x': '2'})),
                            [gives('l', xattrs={'trusted.x': b'2'})]),
    'acl': (archive(member('a', mode=0o644, pax={'SCHILY.acl.access':
                                                 'user::rwx,group::r--,other::---,user:lisa:r-x:1234,mask::rwx'}),
                    directory('d', pax={'SCHILY.acl.default': 'u::rwx\ng::r-x # all\nm:rwx\nu:7:-wx\no::-'})),
            [gives('a', mode='0o770', xattrs={'system.posix_acl_access': acl(
                (1, 7, 0xffffffff), (2, 5, 1234), (4, 4, 0xffffffff), (16, 7, 0xffffffff), (32, 0, 0xffffffff))}),
             gives('d', xattrs={'system.posix_acl_default': acl(
                 (1, 7, 0xffffffff), (2, 3, 7), (4, 5, 0xffffffff), (16, 7, 0xffffffff), (32, 0, 0xffffffff))})]),
    'old sparse': (archive(old_sparse('s', [(0, b'a' * 512), (8192, b'b' * 512), (16384, b'c' * 512),
                                            (24576, b'd' * 512)], 100_000, [(i * 8192, b'%d' % i) for i in range(4, 11)]
                                      ), member('z')),
                   [gives('s', size=100_000), gives('z')]),
    'sparse of nothing but a hole': (archive(old_sparse('s', [(1 << 30, b'')], 1 << 30)), [gives('s', size=1 << 30)]),
    'huge hole': (archive(member('s', size=BLOCK, data=b'0\n'.ljust(BLOCK, b'\0'),
                                 pax={'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': 'hole',
                                      'GNU.sparse.realsize': str(15 << 40)})), [gives('hole', size=15 << 40)]),
}


@root_only
@pytest.mark.parametrize('case', ODD)
def test_odd(case, tree_of):
    source, expected = ODD[case]
    tree = tree_of(source)
    for name, facts in expected:
        name = os.fsencode(name)
        assert name in tree, sorted(tree)
        assert {k: tree[name].get(k) for k in facts} == facts


def sparse_1_0(text, size, data=b''):
    body = text.ljust(-(-len(text) // BLOCK) * BLOCK, b'\0') + data
    return member('s', body, pax={'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': 's',
                                  'GNU.sparse.realsize': size})


GOOD = archive(member('good', b'content' * 1000))
HOSTILE = {
    'empty': (b'', 'bad_request', 'empty'),
    'half a block': (b'x' * 100, 'bad_request', 'not a tar archive'),
    'text': (b'hello world\n' * 1000, 'bad_request', 'not a tar archive'),
    'random': (random.Random(1).randbytes(100_000), 'bad_request', 'not a tar archive'),
    'no end mark': (member('a', b'x'), 'corrupt', 'no end mark.*byte 1024'),
    'cut in a header': (archive(member('a'))[:700], 'corrupt', 'too early'),
    'cut in content': (member('abc', b'x' * 2000)[:1500], 'corrupt', '"abc".*too early'),
    'lone zero block': (archive(bytes(BLOCK), member('a')), 'corrupt', 'lone block of zeros'),
    'wrong checksum': (archive(member('a'), header('b', checksum=5)), 'corrupt', 'wrong checksum at byte 512'),
    'checksum not a number': (archive(member('a'), header('b')[:148] + b'zzzzzzzz' + header('b')[156:]), 'corrupt',
                              'checksum'),
    'dotdot': (archive(member('a/../../etc/passwd')), 'bad_request', r'\.\.'),
    'dotdot alone': (archive(directory('..')), 'bad_request', r'\.\.'),
    'dotdot absolute': (archive(member('/../x')), 'bad_request', r'\.\.'),
    'dotdot in a hard link': (archive(member('a'), hardlink('b', '../a')), 'bad_request', r'\.\.'),
    'hard link outside': (archive(hardlink('a', '/etc/passwd')), 'bad_request', 'does not have before it'),
    'hard link forward': (archive(hardlink('a', 'b'), member('b')), 'bad_request', '"a".*"b"'),
    'hard link through a symlink': (archive(symlink('l', '/etc'), hardlink('a', 'l/passwd')), 'bad_request',
                                    'does not have'),
    'hard link to a directory': (archive(directory('d'), hardlink('a', 'd')), 'bad_request', 'directory'),
    'hard link to the root': (archive(hardlink('a', '.')), 'bad_request', 'hard link'),
    'hard link over its own parent': (archive(member('d/t'), hardlink('d', 'd/t')), 'bad_request', 'directory'),
    'hard link to what a member replaced': (archive(member('d/t'), member('d'), hardlink('x', 'd/t')), 'bad_request',
                                            '"x"'),
    'symlink loop': (archive(symlink('a', 'b'), symlink('b', 'a'), member('a/x')), 'bad_request', 'symlinks'),
    'symlink to itself': (archive(symlink('a', 'a'), member('a/x')), 'bad_request', '40 symlinks'),
    'through a file': (archive(member('f'), member('f/x')), 'bad_request', '"f/x".*not a directory'),
    'through a device': (archive(header('n', b'3', major=1, minor=3), member('n/x')), 'bad_request', 'not a directory'),
    'root is a file': (archive(member('.')), 'bad_request', 'root'),
    'root is a symlink': (archive(symlink('/', '/etc')), 'bad_request', 'root'),
    'name of 256': (archive(member('d/' + 'n' * 256)), 'name_too_long', 'n{100}".*256 bytes'),
    'parent of 256': (archive(member('n' * 256 + '/f')), 'name_too_long', '256 bytes'),
    'name with NUL': (archive(member('a', pax={'path': b'a\0b'})), 'bad_request', 'NUL'),
    'empty symlink': (archive(header('l', b'2')), 'bad_request', 'symlink to nothing'),
    'long symlink': (archive(symlink('l', 't' * 4096)), 'name_too_long', '4096'),
    'symlink with NUL': (archive(symlink('l', 't', pax={'linkpath': b'a\0b'})), 'bad_request', 'symlink'),
    'uid of 33 bits': (archive(member('a', uid=base256(1 << 32, 8))), 'unsupported', '4294967296:0.*32 bits'),
    'pax uid of 33 bits': (archive(member('a', pax={'uid': str(1 << 32)})), 'unsupported', '32 bits'),
    'negative uid': (archive(member('a', uid=base256(-1, 8))), 'corrupt', 'uid'),
    'uid no number': (archive(member('a', uid=b'12x')), 'corrupt', 'uid'),
    'negative size': (archive(member('a', size=base256(-512, 12))), 'corrupt', 'size'),
    'size of 2^63': (archive(member('a', size=b'\x80\0\0\0' + b'\xff' * 8)), 'corrupt', 'size'),
    'size of 2^62': (archive(member('a', size=base256(1 << 62, 12))), 'corrupt', 'too early'),
    'size of 96 bits': (archive(member('a', size=b'\x80' + b'\xff' * 11)), 'corrupt', 'size'),
    'device beyond Linux': (archive(header('n', b'3', major=4096)), 'unsupported', '4096:0'),
    'device negative': (archive(header('n', b'3', major=base256(-1, 8))), 'corrupt', 'device'),
    'unknown type': (archive(header('z', b'Z')), 'unsupported', '0x5a'),
    'multi-volume': (archive(header('m', b'M')), 'unsupported', 'volumes'),
    'extended header without a member': (archive(pax({'path': 'x'})), 'corrupt', 'without its member'),
    'extended header too large': (archive(header('P', b'x', 5 * MIB), bytes(5 * MIB)), 'too_large',
                                  'limit'),
    'extended header of 2^60': (archive(header('P', b'x', base256(1 << 60, 12))), 'too_large', 'limit'),
    'extended headers in a row': (archive(*[pax({'comment': 'x' * 60_000})] * 80, member('a')), 'too_large', 'limit'),
    'global headers in a row': (archive(*[pax({'comment': 'x' * 6000}, b'g')] * 11, member('a')), 'too_large', 'limit'),
    'long name of 2^40': (archive(header('L', b'L', base256(1 << 40, 12))), 'too_large', 'limit'),
    'record without length': (archive(pax(b'path=x\n'), member('a')), 'corrupt', 'not well-formed'),
    'record too long': (archive(pax(b'99 path=x\n'), member('a')), 'corrupt', 'not well-formed'),
    'record too short': (archive(pax(b'3 path=x\n'), member('a')), 'corrupt', 'not well-formed'),
    'record of 2^64': (archive(pax(b'18446744073709551617 a=b\n'), member('a')), 'corrupt', 'not well-formed'),
    'record without key': (archive(pax(b'6 =xy\n'), member('a')), 'corrupt', 'not well-formed'),
    'record without newline': (archive(pax(b'9 path=xy'), member('a')), 'corrupt', 'not well-formed'),
    'pax size no number': (archive(member('a', pax={'size': '1e9'})), 'corrupt', 'size'),
    'pax size negative': (archive(member('a', pax={'size': '-1'})), 'corrupt', 'size'),
    'pax size over': (archive(member('a', pax={'size': '9223372036854775808'})), 'corrupt', 'size'),
    'pax mtime no number': (archive(member('a', pax={'mtime': 'now'})), 'corrupt', 'mtime'),
    'xattr too large': (archive(member('a', pax={'SCHILY.xattr.user.x': 'v' * 5000})), 'too_large', '"a".*attributes'),
    'xattrs too many': (archive(member('a', pax={f'SCHILY.xattr.user.{i}': 'v' * 20 for i in range(200)})), 'too_large',
                        'attributes'),
    'xattr of 70000': (archive(member('a', pax={'SCHILY.xattr.user.x': 'v' * 70_000})), 'too_large', 'attribute'),
    'xattr name too long': (archive(member('a', pax={'SCHILY.xattr.user.' + 'n' * 300: 'v'})), 'bad_request',
                            'attribute'),
    'xattr bad base64': (archive(member('a', pax={'LIBARCHIVE.xattr.user.x': '!!'})), 'corrupt', 'LIBARCHIVE'),
    'acl by name': (archive(member('a', pax={'SCHILY.acl.access': 'user::rwx,user:lisa:r--,group::---,mask::r--,'
                                             'other::---'})), 'unsupported', '"lisa"'),
    'acl nonsense': (archive(member('a', pax={'SCHILY.acl.access': 'everyone::rwx'})), 'corrupt', 'ACL'),
    'acl without mask': (archive(member('a', pax={'SCHILY.acl.access': 'user::rwx,user:1:r--,group::---,other::---'})),
                         'corrupt', 'ACL'),
    'acl binary of 5 bytes': (archive(member('a', pax={'SCHILY.xattr.system.posix_acl_access': b'\2\0\0\0x'})),
                              'corrupt', 'ACL'),
    'sparse overlap': (archive(old_sparse('s', [(0, b'a' * 1024), (512, b'b' * 512)], 4096)), 'corrupt', 'map'),
    'sparse backward': (archive(old_sparse('s', [(4096, b'a' * 512), (0, b'b' * 512)], 8192)), 'corrupt', 'map'),
    'sparse past its end': (archive(old_sparse('s', [(4096, b'a' * 512)], 4097)), 'corrupt', 'map'),
    'sparse sum': (archive(sparse_1_0(b'1\n0\n512\n', '512', b'x' * 1024)), 'corrupt', 'map'),
    'sparse map cut': (archive(sparse_1_0(b'3\n0\n512\n', '512')), 'corrupt', 'map'),
    'sparse map nonsense': (archive(sparse_1_0(b'one\n', '512')), 'corrupt', 'map'),
    'sparse map endless number': (archive(sparse_1_0(b'1' * 600, '512')), 'corrupt', 'map'),
    'sparse of 2^63 pieces': (archive(sparse_1_0(b'9223372036854775807\n', '512')), 'corrupt', 'map'),
    'sparse of 17 TiB': (archive(sparse_1_0(b'0\n', str(17 << 40))), 'too_large', '16 TiB'),
    'sparse version 2': (archive(member('s', pax={'GNU.sparse.major': '2', 'GNU.sparse.minor': '0'})), 'unsupported',
                         'version'),
    'sparse 0.1 odd': (archive(member('s', b'x', pax={'GNU.sparse.map': '0,1,5', 'GNU.sparse.size': '10'})), 'corrupt',
                       'map'),
    'sparse 0.0 twice an offset': (archive(member('s', b'x', pax=[
        ('GNU.sparse.size', '10'), ('GNU.sparse.offset', '0'), ('GNU.sparse.offset', '1')])), 'corrupt', 'sparse'),
    'sparse without size': (archive(member('s', b'x', pax={'GNU.sparse.map': '0,1'})), 'corrupt', 'map'),
    'sparse old extended for ever': (archive(header('s', b'S', 0, magic=b'ustar  \0', patch={
        386: octal(0, 12) + octal(0, 12), 482: b'\1', 483: octal(0, 12)}), b'\1' * 4096), 'corrupt', ''),
    'bzip2': (b'BZh91AY&SY' + bytes(100), 'unsupported', 'bzip2'),
    'zip': (b'PK\x03\x04' + bytes(100), 'unsupported', 'zip'),
    'gzip of gzip': (gzip.compress(gzip.compress(GOOD)), 'bad_request', 'not a tar archive'),
    'gzip cut': (gzip.compress(GOOD)[:-3], 'corrupt', 'gzip.*too early'),
    'gzip cut inside': (gzip.compress(archive(member('r', random.Random(3).randbytes(5000))))[:2000], 'corrupt',
                        'gzip'),
    'gzip header only': (gzip.compress(GOOD)[:5], 'corrupt', 'gzip'),
    'gzip wrong crc': (gzip.compress(GOOD)[:-8] + b'\0\0\0\0' + gzip.compress(GOOD)[-4:], 'corrupt', 'checksum'),
    'gzip wrong size': (gzip.compress(GOOD)[:-1] + b'\7', 'corrupt', 'gzip'),
    'gzip and garbage': (gzip.compress(GOOD) + b'garbage', 'corrupt', 'followed'),
    'xz cut': (lzma.compress(GOOD)[:-3], 'corrupt', 'xz'),
    'xz damaged': (lzma.compress(GOOD)[:100] + b'\0\0\0\0' + lzma.compress(GOOD)[104:], 'corrupt', 'xz'),
    'zstd damaged': (b'\x28\xb5\x2f\xfd' + bytes(100), 'corrupt', 'zstd'),
    'xz that wants 1.5 GiB': (lzma.compress(GOOD, filters=[{'id': lzma.FILTER_LZMA2, 'dict_size': 1 << 28}]),
                              'too_large', 'memory'),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_hostile(case, image):
    source, code, message = HOSTILE[case]
    outcome = unpack(source, image)
    assert outcome.status == 1, outcome.last
    assert outcome.error['code'] == code, outcome.error
    assert re.search(message, outcome.error['message']), outcome.error
    assert outcome.result is None


# ---- random archives against a model of the rules

class Model:
    """What an archive's members make, by the rules of daemon/unpack/layer/layer.h, in the plainest way."""

    def __init__(self):
        self.root = {'kind': 'dir', 'names': {}}
        self.root['parent'] = self.root

    def walk(self, parts, make):
        at, parts, followed = self.root, list(parts), 0
        while parts:
            part = parts.pop(0)
            if part == '..':
                at = at['parent']
                continue
            node = at['names'].get(part)
            if node is None:
                if not make:
                    return None
                node = at['names'][part] = {'kind': 'dir', 'names': {}, 'parent': at}
            if node['kind'] == 'link':
                followed += 1
                if followed > 40:
                    return None
                if node['target'].startswith('/'):
                    at = self.root
                parts = [p for p in node['target'].split('/') if p] + parts
            elif node['kind'] == 'dir':
                at = node
            else:
                return None
        return at

    def apply(self, kind, path, argument):
        """False: the archive would be refused, and the model is of no more use."""
        *parents, name = path.split('/')
        folder = self.walk(parents, True)
        if folder is None:
            return False
        old = folder['names'].get(name)
        if kind == 'hard':
            *parents, last = argument.split('/')
            there = self.walk(parents, False)
            target = there and there['names'].get(last)
            if not target or target['kind'] == 'dir' or (old and old['kind'] == 'dir'):
                return False
            if old is not target:
                folder['names'].pop(name, None)
                folder['names'][name] = target
            return True
        if kind == 'dir' and old and old['kind'] == 'dir':
            return True
        folder['names'].pop(name, None)
        folder['names'][name] = {'dir': {'kind': 'dir', 'names': {}, 'parent': folder},
                                 'file': {'kind': 'file', 'content': argument},
                                 'link': {'kind': 'link', 'target': argument}}[kind]
        return True

    def listing(self):
        """{path: what is there}, hard links told by the first of their names."""
        found, first, queue = {}, {}, [('', self.root)]
        while queue:
            prefix, folder = queue.pop()
            for name, node in folder['names'].items():
                path = prefix + name
                if node['kind'] == 'dir':
                    found[path] = 'dir'
                    queue.append((path + '/', node))
                else:
                    found[path] = (node['kind'], node.get('content', node.get('target')))
                    first.setdefault(id(node), []).append(path)
        return found, sorted(sorted(names) for names in first.values() if len(names) > 1)


def listing_of(root):
    found, first = {}, {}
    for path, fact in trees.facts(root).items():
        path = os.fsdecode(path)
        if path != '.':
            kind = {'0o40000': 'dir', '0o120000': 'link', '0o100000': 'file'}[fact['type']]
            found[path] = 'dir' if kind == 'dir' else \
                (kind, os.fsdecode(fact['target']) if kind == 'link' else (root / path).read_bytes())
            if 'same' in fact:
                first[tuple(os.fsdecode(n) for n in fact['same'])] = True
    return found, sorted(sorted(names) for names in first)


def random_members(rng, model):
    """Members that the model accepts, and the bytes of them."""
    def path():
        return '/'.join(rng.choice('abcd') for _ in range(rng.choice((1, 1, 2, 2, 3, 4))))

    out = []
    for i in range(rng.randrange(5, 90)):
        kind = rng.choice(('file', 'file', 'dir', 'link', 'hard'))
        name = path()
        argument = {'file': b'%d' % i * rng.choice((0, 1, 5000)), 'dir': None, 'hard': path(),
                    'link': rng.choice(('', '/', '../', '../../')) + path()}[kind]
        before = copy.deepcopy(model.root)
        if model.apply(kind, name, argument):
            out.append({'file': lambda: member(name, argument), 'dir': lambda: directory(name),
                        'hard': lambda: hardlink(name, argument), 'link': lambda: symlink(name, argument)}[kind]())
        else:
            model.root = before
    return out


@root_only
@pytest.mark.limit(120)
def test_random_archives(image, base, good):
    for seed in range(100):
        rng, model = random.Random(seed), Model()
        members = random_members(rng, model)
        good(archive(*members))
        with mounted(image, base / 'mnt') as mnt:
            assert listing_of(mnt) == model.listing(), f'seed {seed}'


# ---- compression

def zstd(data, *options):
    return subprocess.run(['zstd', '-q', '-c', *options], input=data, capture_output=True, check=True).stdout


COMPRESSED = {
    'none': lambda d: d,
    'gzip': gzip.compress,
    'gzip stored': lambda d: gzip.compress(d, 0),
    'gzip members': lambda d: b''.join(gzip.compress(d[i:i + 70_000]) for i in range(0, len(d), 70_000)),
    'gzip padded': lambda d: gzip.compress(d) + bytes(5000),
    'gzip with a name': lambda d: subprocess.run(['gzip', '-c', '-N'], input=d, capture_output=True, check=True).stdout,
    'xz': lzma.compress,
    'xz streams': lambda d: lzma.compress(d[:100_000]) + bytes(8) + lzma.compress(d[100_000:]),
    'zstd': zstd,
    'zstd frames': lambda d: zstd(d[:100_000]) + zstd(d[100_000:], '-19'),
    'zstd long': lambda d: zstd(d, '--long=27'),
}


@pytest.mark.needs('zstd')
@pytest.mark.parametrize('kind', COMPRESSED)
def test_compression(kind, image, good):
    data = archive(*(member(f'f{i}', random.Random(i).randbytes(40_000)) for i in range(20)),
                   member('zeros', bytes(400_000)))
    good(COMPRESSED[kind](data))
    sums = getattr(test_compression, 'sums', None) or set()
    test_compression.sums = sums | {trees.digest(image)}
    assert len(test_compression.sums) == 1  # the same image from each


def test_slow_pipe(image, good):
    """An archive that comes in small and uneven pieces gives the same image as one that is all there."""
    data = gzip.compress(archive(*(member(f'd/{i}', random.Random(i).randbytes(i * 37)) for i in range(300))))
    good(data)
    expected = trees.digest(image)
    reading, writing = os.pipe()
    image_fd = os.open(image, os.O_RDWR)
    started = start_unpack(reading, image_fd)
    os.close(reading), os.close(image_fd)
    rng = random.Random(5)
    at = 0
    while at < len(data):
        at += os.write(writing, data[at:at + rng.choice((1, 7, 100, 4000))])
    os.close(writing)
    assert finish_unpack(*started).status == 0
    assert trees.digest(image) == expected


# ---- the image as the kernel sees it

def may_resize():
    """The kernel wants this capability for growing a mounted filesystem; containers often lack it."""
    effective = re.search(r'CapEff:\s*(\w+)', pathlib.Path('/proc/self/status').read_text()).group(1)
    return bool(int(effective, 16) >> 24 & 1)


def small_tree():
    return archive(directory('d'), *(member(f'd/{i}', b'%d' % i) for i in range(1000)), symlink('l', 'd/1'))


@root_only
@pytest.mark.limit(120)
def test_large_and_deep(image, base, good):
    """100,000 names in one directory, found through its index; 2,000 levels."""
    names = [f'name-{i:06}-{"x" * (i % 60)}' for i in range(100_000)]
    deep = [directory('/'.join(['deep'] * n)) for n in (1, 500, 1000, 2000)]
    good(gzip.compress(archive(*(member('many/' + n) for n in names), *deep,
                               member('/'.join(['deep'] * 2000) + '/bottom', b'here')), 1))
    with mounted(image, base / 'mnt') as mnt:
        assert sorted(os.listdir(mnt / 'many')) == sorted(names)
        for name in random.Random(1).sample(names, 3000):
            assert os.lstat(mnt / 'many' / name).st_size == 0
        assert not (mnt / 'many' / 'name-100000').exists()
        fd = os.open(mnt, os.O_RDONLY)
        for _ in range(2000):
            next_fd = os.open('deep', os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = next_fd
        assert os.listdir(fd) == ['bottom']
        os.close(fd)


@root_only
@pytest.mark.limit(120)
def test_kernel_writes(image, base, good):
    """Mounted read-write the image takes new files, also in its indexed directories, and stays sound."""
    good(archive(*(member(f'd/{i:0200}') for i in range(3000)), hardlink('h', f'd/{7:0200}')), headroom=32 * MIB)
    with mounted(image, base / 'mnt', 'rw') as mnt:
        for i in range(3000, 6000):
            (mnt / 'd' / f'{i:0200}').write_bytes(b'new')
        for i in range(0, 6000, 2):
            (mnt / 'd' / f'{i:0200}').unlink()
        for i in range(500):
            (mnt / f'dir{i}').mkdir()
        os.setxattr(mnt / 'h', 'user.x', b'y' * 500)
        (mnt / 'fill').write_bytes(bytes(random.Random(1).randbytes(MIB) * 3))
    fsck(image)


@root_only
@pytest.mark.limit(180)
@pytest.mark.needs('resize2fs')
@pytest.mark.parametrize('online', [
    pytest.param(True, marks=pytest.mark.skipif(not may_resize(), reason='needs CAP_SYS_RESOURCE')), False])
def test_grows(online, image, base, good):
    good(small_tree())
    with mounted(image, base / 'mnt') as mnt:
        before = trees.facts(mnt)
    for size in (300 * MIB, 3000 * MIB, 40_000 * MIB):
        os.truncate(image, size)
        if online:
            loop = subprocess.run(['losetup', '-f', '--show', image], check=True, capture_output=True,
                                  text=True).stdout.strip()
            try:
                (base / 'mnt').mkdir(exist_ok=True)
                subprocess.run(['mount', '-t', 'ext4', loop, base / 'mnt'], check=True)
                try:
                    subprocess.run(['resize2fs', loop], check=True, capture_output=True)
                    assert shutil.disk_usage(base / 'mnt').total > size * 0.9
                finally:
                    subprocess.run(['umount', base / 'mnt'], check=True)
            finally:
                subprocess.run(['losetup', '-d', loop], check=True)
        else:
            subprocess.run(['resize2fs', image], check=True, capture_output=True)
        fsck(image)
    with mounted(image, base / 'mnt') as mnt:
        assert trees.difference(before, trees.facts(mnt)) == []


@pytest.mark.parametrize('size', [16 * MIB, 130 * MIB + 4096, 5000 * MIB])
def test_exact_size(size, image, good):
    result = good(small_tree(), size=size).result
    assert result['size'] == size == os.stat(image).st_size
    assert os.stat(image).st_blocks * 512 < 12 * MIB


def test_too_small(image):
    outcome = unpack(archive(member('a', random.Random(1).randbytes(20 * MIB))), image, size=16 * MIB)
    assert outcome.error['code'] == 'no_space'
    assert re.search('"a".*16777216 bytes', outcome.error['message'])
    outcome = unpack(archive(), image, size=8192)
    assert outcome.error['code'] == 'no_space'


def test_headroom(image, good):
    result = good(small_tree(), headroom=100 * MIB).result
    assert 100 * MIB <= result['free'] < 105 * MIB
    result = good(archive(member('a', random.Random(1).randbytes(50 * MIB))), headroom_percent=50).result
    assert result['free'] > 0.45 * result['used']


def test_reproducible(image, good):
    sums = set()
    for _ in range(2):
        good(small_tree())
        sums.add(trees.digest(image))
    assert len(sums) == 1
    uuids = {good(small_tree(), seed=seed).result['uuid'] for seed in ('00' * 32, '01' * 32)}
    assert len(uuids) == 2
    assert good(small_tree(), seed='00' * 32).result['uuid'] in uuids


# ---- limits

@pytest.mark.skipif(UNPACK is not None and b'__asan_init' in UNPACK.read_bytes(),
                    reason="AddressSanitizer's shadow takes terabytes: there is no limit")
def test_memory_limit(image):
    many = b''.join(header(f'd{i % 1000}/{i:090}') for i in range(200_000))
    outcome = unpack(many + END, image, memory=64 * MIB)
    assert outcome.error['code'] == 'too_large'
    assert re.search('64 MiB of memory', outcome.error['message'])


@pytest.mark.limit(120)
def test_cpu_limit(image):
    """Millions of members in a few kilobytes: the bomb runs out of time, or of memory."""
    bomb = gzip.compress(gzip.compress(header('a', b'0') * 40_000))
    inner = gzip.decompress(bomb)
    outcome = unpack(inner * 2000, image, cpu_seconds=1)
    assert outcome.status == -signal.SIGXCPU, outcome.last


@root_only
def test_disk_full(base):
    folder = base / 'tiny'
    folder.mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', folder], check=True)
    try:
        outcome = unpack(archive(member('a', random.Random(1).randbytes(20 * MIB))), folder / 'image')
        assert outcome.error['code'] == 'no_space', outcome.last
    finally:
        subprocess.run(['umount', folder], check=True)


def test_progress(image, good):
    reading, writing = os.pipe()
    image_fd = os.open(image, os.O_RDWR | os.O_CREAT)
    started = start_unpack(reading, image_fd)
    os.close(reading), os.close(image_fd)
    for i in range(8):
        os.write(writing, member(f'f{i}', bytes(3000)))
        time.sleep(0.15)
    os.write(writing, END)
    os.close(writing)
    outcome = finish_unpack(*started)
    assert outcome.status == 0 and len(outcome.progress) >= 2
    assert outcome.progress[-1]['members'] > outcome.progress[0]['members']


def test_called_by_a_person():
    done = subprocess.run([UNPACK], capture_output=True, text=True)
    assert done.returncode == 2 and 'bangerd' in done.stderr


# ---- through the daemon

imports = pytest.mark.needs('bangerd', 'banger-ctl', 'banger-unpack')


def rootfs_of(banger, name):
    image = banger.ctl('image', 'show', name, '--json').json
    image = image.get('image', image)
    return image, banger.state / 'images' / image['id'] / 'rootfs.ext4'


@imports
@root_only
@pytest.mark.limit(120)
def test_import_archive_and_tree(banger, base):
    """A tarball, the same one through a pipe, and the tree that it was made of are the same image."""
    tree = harness.make_tree(base / 'tree')
    os.chown(tree / 'etc/hostname', 1000, 1000)
    os.setxattr(tree / 'bin/sh', 'user.note', b'hello')
    tar = base / 'tree.tar.gz'
    subprocess.run([*'tar --xattrs --numeric-owner --format=posix -czf'.split(), tar, '-C', tree, '.'], check=True)
    before = trees.facts(tree)
    for name, args, kwargs in (('file', [tar], {}), ('pipe', ['-'], {'stdin': open(tar, 'rb')}), ('tree', [tree], {})):
        banger.ctl('image', 'import', *args, '--name', name, **kwargs)
        image, rootfs = rootfs_of(banger, name)
        assert image['state'] == 'published' and image['digest'] == 'sha256:' + trees.digest(rootfs)
        assert image['size'] == os.stat(rootfs).st_size
        fsck(rootfs)
        with mounted(rootfs, base / 'at') as at:
            assert trees.difference(before, trees.facts(at)) == []
    done = [r for r in banger.records() if r['msg'] == 'archive unpacked']
    assert len(done) == 3 and all(r['op_id'] for r in done)
    assert len({rootfs_of(banger, n)[0]['digest'] for n in ('file', 'pipe')}) == 1


@imports
@pytest.mark.parametrize('case', ['dotdot', 'cut in content', 'name of 256', 'hard link outside', 'gzip wrong crc'])
def test_import_refuses(case, banger, base):
    """The message names the member, and nothing is left."""
    source, code, message = HOSTILE[case]
    (base / 'bad.tar').write_bytes(source)
    done = banger.ctl('image', 'import', base / 'bad.tar', '--name', 'bad', check=False)
    assert done.code == 1 and re.search(message, done.err), done.err
    record = banger.op(done.op_id)
    assert record['outcome'] == 'failed' and record['code'] == code
    assert banger.ctl('image', 'ls', '--json').json['images'] == []
    banger.settled()
    assert os.listdir(banger.state / 'staging') == []


@imports
@pytest.mark.limit(120)
def test_import_cancelled(banger, base):
    """Ctrl-C while the archive is still coming ends the program too, and leaves nothing."""
    reading, writing = os.pipe()
    process = subprocess.Popen([harness.PROGRAM['banger-ctl'], 'image', 'import', '-', '--name', 'slow'], stdin=reading,
                               env=banger.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.close(reading)
    os.write(writing, member('a', bytes(50_000)))
    programs = harness.until(lambda: unpackers(banger), 'banger-unpack to run')
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    os.close(writing)
    assert process.returncode in (1, -signal.SIGINT) and 'cancelled' in err, (out, err)
    harness.until(lambda: not unpackers(banger), 'banger-unpack to end')
    assert len(programs) == 1
    banger.settled()
    assert os.listdir(banger.state / 'staging') == []
    assert banger.ctl('image', 'ls', '--json').json['images'] == []


def unpackers(banger):
    return [p for p, command in harness.children(banger.daemon.popen.pid).items() if 'banger-unpack' in command]


@imports
@pytest.mark.limit(120)
def test_daemon_dies(worlds, base):
    """kill -9 of the daemon takes its banger-unpack with it; the next start removes what was half-made."""
    banger = worlds().start()
    reading, writing = os.pipe()
    process = subprocess.Popen([harness.PROGRAM['banger-ctl'], 'image', 'import', '-', '--name', 'slow'], stdin=reading,
                               env=banger.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    os.close(reading)
    os.write(writing, member('a', bytes(50_000)))
    pid, = harness.until(lambda: unpackers(banger), 'banger-unpack to run')
    banger.kill()
    harness.until(lambda: pid not in harness.children(), 'banger-unpack to die')
    os.close(writing)
    assert process.wait(30) in (1, 3)
    process.stderr.close()
    banger.start()
    banger.settled()
    assert os.listdir(banger.state / 'staging') == []
    assert banger.ctl('image', 'ls', '--json').json['images'] == []


@imports
@root_only
@pytest.mark.limit(120)
def test_import_size(banger, base):
    (base / 'a.tar').write_bytes(small_tree())
    banger.ctl('image', 'import', base / 'a.tar', '--name', 'sized', '--size', '300M')
    image, rootfs = rootfs_of(banger, 'sized')
    assert image['size'] == 300 * MIB == os.stat(rootfs).st_size
    fsck(rootfs)
