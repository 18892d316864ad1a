# SPDX-License-Identifier: Apache-2.0
"""Hostile and odd images, each with what a pull must come to: a precise refusal that leaves nothing, or exactly the
right tree. Each is an image layout on disk (oci:DIR:it); those whose documents are bent come from a registry too.
"""
import bz2
import functools
import hashlib
import itertools
import json
import lzma
import os
import random

import pytest

import images
import pulls
import registry
from archives import (BLOCK, END, acl, archive, base256, directory, gnu_long, hardlink, header, member, old_sparse,
                      pax, symlink)
from conftest import QUICK
from images import (DOCKER, FOREIGN, INDEX, LAYER, MANIFEST, OCI, Document, Image, Index, Layer, Refused, Store, Tree, d, f,
                    gz, gz_members, l, plain, platform, zstd, zstd_frame)

pytestmark = [pytest.mark.needs('banger-unpack', 'e2fsck'),
              pytest.mark.skipif(os.geteuid() != 0, reason='needs root to mount images')]
NS = 1_000_000_000
MIB = 1 << 20
CASES = {}


def case(name, image, expected, *options, **about):
    """image: what is tagged "it", or a function that gives it. about: see the test below."""
    assert name not in CASES, name
    CASES[name] = (image, expected, options, about)


def wh(name, **fields):
    """A whiteout."""
    folder, _, last = name.rpartition('/')
    return member((folder + '/' if folder else '') + '.wh.' + last, **fields)


def opaque(folder):
    return member((folder + '/' if folder else '') + '.wh..wh..opq')


ONE = archive(member('a', b'one'))
TREE_ONE = Tree(a=f('one'))


def one(**fields):
    return Image(Layer(ONE, **fields))


# ---- paths that would lead out

LOWER = archive(directory('etc'), member('etc/passwd', b'ours'), directory('d'), member('d/x', b'x'), symlink('out', '/etc'),
                symlink('up', '../../../../etc'))
case('dotdot', Image(LOWER, archive(member('d/../../etc/passwd'))), Refused('bad_request', r'd/\.\./\.\./etc.*\.\.', layer=1))
case('dotdot first', Image(archive(member('../x'))), Refused('bad_request', r'\.\.', layer=0))
case('dotdot alone', Image(archive(directory('..'))), Refused('bad_request', r'\.\.', layer=0))
case('dotdot after an absolute', Image(archive(member('/../../x'))), Refused('bad_request', r'\.\.', layer=0))
case('absolute names', Image(archive(member('/etc/passwd', b'mine'), member('//a///b', b'b'))),
     Tree(etc=d(), **{'etc/passwd': f('mine'), 'a': d(), 'a/b': f('b')}))
case('through an absolute symlink of a lower layer', Image(LOWER, archive(member('out/passwd', b'new'))),
     Tree(etc=d(), d=d(), out=l('/etc'), up=l('../../../../etc'), **{'etc/passwd': f('new'), 'd/x': f('x')}))
case('through a symlink that goes up', Image(LOWER, archive(member('up/passwd', b'new'))),
     Tree(etc=d(), d=d(), out=l('/etc'), up=l('../../../../etc'), **{'etc/passwd': f('new'), 'd/x': f('x')}))
case('symlink loop across layers', Image(archive(symlink('a', 'b'), symlink('b', 'a')), archive(member('a/x'))),
     Refused('bad_request', 'symlinks', layer=1))
case('hard link out of the image', Image(archive(hardlink('shadow', '/etc/shadow'))),
     Refused('bad_request', 'shadow.*has before it', layer=0))
case('hard link by dotdot', Image(archive(member('a'), hardlink('b', '../../etc/shadow'))),
     Refused('bad_request', r'"b".*\.\.', layer=0))
case('hard link through a symlink', Image(LOWER, archive(hardlink('b', 'out/shadow'))),
     Refused('bad_request', 'has before it', layer=1))
case('hard link to a symlink is the symlink', Image(LOWER, archive(hardlink('b', 'out'), member('b/x', b'n'))),
     Tree(etc=d(), d=d(), out=l('/etc'), b=l('/etc'), up=l('../../../../etc'),
          **{'etc/passwd': f('ours'), 'etc/x': f('n'), 'd/x': f('x')}))
case('hard link to a directory', Image(LOWER, archive(hardlink('b', 'etc'))), Refused('bad_request', 'directory', layer=1))
case('file below a file of a lower layer', Image(LOWER, archive(member('etc/passwd/x'))),
     Refused('bad_request', 'etc/passwd/x.*not a directory', layer=1))
case('the root as a symlink', Image(archive(symlink('./', '/tmp'))), Refused('bad_request', 'root', layer=0))

# ---- whiteouts

AB = archive(directory('d', mode=0o700, uid=3, mtime=99), member('d/a', b'a'), member('d/b', b'b'), directory('d/s'),
             member('d/s/x', b'x'), member('top', b'top'))
D = d(mode='0o700', owner=(3, 0), mtime=99 * NS)
LEFT = {'d': D, 'd/b': f('b'), 'd/s': d(), 'd/s/x': f('x'), 'top': f('top')}
case('whiteout', Image(AB, archive(wh('d/a'))), Tree(LEFT))
case('whiteout of a directory', Image(AB, archive(wh('d'))), Tree(top=f('top')))
case('whiteout in the root', Image(AB, archive(wh('top'), wh('./d/a'))), Tree({k: v for k, v in LEFT.items() if k != 'top'}))
case('whiteout of dotdot', Image(AB, archive(member('d/.wh...'))), Refused('bad_request', r'\.wh\.\.\.', layer=1))
case('whiteout of dot', Image(AB, archive(member('d/.wh..'))), Refused('bad_request', r'\.wh\.\.', layer=1))
case('whiteout of nothing', Image(AB, archive(member('d/.wh.'))), Refused('bad_request', r'\.wh\.', layer=1))
case('whiteout by dotdot', Image(AB, archive(member('d/../../.wh.etc'))), Refused('bad_request', r'\.\.', layer=1))
case('whiteout of what is not there', Image(AB, archive(wh('d/none'), wh('d/a'), wh('none'))), Tree(LEFT))
case('whiteout where no directory is', Image(ONE, archive(wh('a'), wh('no/where/x'))), lambda tree: b'a' not in tree)
case('whiteout in the only layer', Image(archive(wh('a'), member('b', b'b'))), Tree(b=f('b')))
case('whiteout twice', Image(AB, archive(wh('d/a'), wh('d/a'))), Tree(LEFT))
case('whiteout then the same name', Image(AB, archive(wh('d/a'), member('d/a', b'new'))), Tree({**LEFT, 'd/a': f('new')}))
case('the same name then whiteout', Image(AB, archive(member('d/a', b'new'), wh('d/a'))), Tree({**LEFT, 'd/a': f('new')}))
case('whiteout of a directory then things in it', Image(AB, archive(wh('d'), member('d/n', b'n'))),
     Tree({'top': f('top'), 'd': d(), 'd/n': f('n')}))
case('things in a directory then its whiteout', Image(AB, archive(directory('d'), member('d/n', b'n'), wh('d'))),
     Tree({'top': f('top'), 'd': d(mode='0o755', owner=(0, 0)), 'd/n': f('n')}))
case('whiteout of a file by a directory and back', Image(AB, archive(wh('top'), directory('top')), archive(wh('top'))),
     Tree({k: v for k, v in {**LEFT, 'd/a': f('a')}.items() if k != 'top'}))
case('whiteout through a symlink', Image(archive(directory('r'), member('r/x', b'1'), member('r/y', b'2'), symlink('l', 'r')),
                                         archive(wh('l/x'))), Tree(r=d(), l=l('r'), **{'r/y': f('2')}))
case('whiteout of a symlink', Image(archive(member('t', b't'), symlink('l', 't')), archive(wh('l'))), Tree(t=f('t')))
case('whiteout that is not empty', Image(AB, archive(wh('d/a', data=b'content'))), Tree(LEFT))
case('whiteout of one of two links', Image(archive(member('a', b'x'), hardlink('b', 'a')), archive(wh('a'))),
     Tree(b=f('x', links=1)))
case('whiteout then a hard link to it', Image(AB, archive(wh('d/a'), hardlink('n', 'd/a'))),
     Refused('bad_request', '"n".*has before it', layer=1))
case('a device 0:0 is no whiteout', Image(AB, archive(header('d/a', b'3', major=0, minor=0))),
     Tree({**LEFT, 'd/a': {'type': '0o20000', 'device': (0, 0)}}))

# ---- opaque directories, in all orders

for n, order in enumerate(itertools.permutations(('opaque', 'dir', 'new', 'again'))):
    part = {'opaque': opaque('d'), 'dir': directory('d', mode=0o711), 'new': member('d/n', b'n'), 'again': member('d/b', b'B')}
    case(f'opaque {"-".join(order)}', Image(AB, archive(*(part[o] for o in order))),
         Tree({'top': f('top'), 'd': d(mode='0o711'), 'd/n': f('n'), 'd/b': f('B')}))
case('opaque alone', Image(AB, archive(opaque('d'))), Tree({'top': f('top'), 'd': D}))
case('opaque root', Image(AB, archive(member('n', b'n'), opaque(''))), Tree(n=f('n')))
case('opaque where nothing is', Image(AB, archive(directory('e'), opaque('e'), member('e/x', b'x'))),
     Tree({**LEFT, 'd/a': f('a'), 'e': d(), 'e/x': f('x')}))
case('opaque and a whiteout', Image(AB, archive(wh('d/a'), opaque('d'), member('d/s/y', b'y'))),
     Tree({'top': f('top'), 'd': D, 'd/s': d(), 'd/s/y': f('y')}))
case('opaque over a file', Image(AB, archive(directory('top'), opaque('top'), member('top/x', b'x'))),
     Tree({**LEFT, 'd/a': f('a'), 'top': d(), 'top/x': f('x')}))
case('opaque in one layer, things in the next', Image(AB, archive(opaque('d')), archive(member('d/a', b'2'))),
     Tree({'top': f('top'), 'd': D, 'd/a': f('2')}))
case('nested opaque', Image(AB, archive(member('d/s/n', b'n'), opaque('d/s'))),
     Tree({**{k: v for k, v in LEFT.items() if k != 'd/s/x'}, 'd/a': f('a'), 'd/s/n': f('n')}))

# ---- merging

case('file becomes directory', Image(AB, archive(directory('top', mode=0o701), member('top/in', b'i'))),
     Tree({**LEFT, 'd/a': f('a'), 'top': d(mode='0o701'), 'top/in': f('i')}))
case('directory becomes file', Image(AB, archive(member('d', b'file'))), Tree(d=f('file'), top=f('top')))
case('directory becomes symlink', Image(AB, archive(symlink('d', 'top'))), Tree(d=l('top'), top=f('top')))
case('symlink becomes directory', Image(archive(directory('r'), member('r/x', b'x'), symlink('l', 'r')),
                                        archive(directory('l'), member('l/y', b'y'))),
     Tree(r=d(), l=d(), **{'r/x': f('x'), 'l/y': f('y')}))
case('and back again', Image(AB, archive(member('d', b'file')), archive(directory('d'), member('d/z', b'z'))),
     Tree({'top': f('top'), 'd': d(), 'd/z': f('z')}))
case('later duplicates', Image(archive(member('a', b'1'), member('./a', b'22'), member('b', b'x'), member('/a', b'333', mode=0o600))),
     Tree(a=f('333', mode='0o600'), b=f('x')))
case('metadata of a directory', Image(archive(directory('d', mode=0o700, pax={'SCHILY.xattr.user.x': '1'}), member('d/a')),
                                      archive(directory('d', mode=0o1777, uid=7, gid=8, mtime=5, pax={'SCHILY.xattr.user.y': '2'}))),
     Tree({'d': d(mode='0o1777', owner=(7, 8), mtime=5 * NS, xattrs={'user.y': b'2'}), 'd/a': f()}))
case('a lower directory keeps what it was', Image(AB, archive(member('d/a', b'n'), member('d/s/x', b'n'))),
     Tree({**LEFT, 'd/a': f('n'), 'd/s/x': f('n')}))
case('hard links across layers', Image(archive(directory('d'), member('d/a', b'low', mode=0o640, mtime=7)),
                                       archive(hardlink('b', 'd/a'), directory('e'), hardlink('e/c', '/d/a'))),
     Tree(d=d(), e=d(), **{n: f('low', links=3, mode='0o640', mtime=7 * NS, same=[b'b', b'd/a', b'e/c'])
                           for n in ('d/a', 'b', 'e/c')}))
case('a link of a lower layer replaced', Image(archive(member('a', b'low'), hardlink('b', 'a')), archive(member('a', b'new'))),
     Tree(a=f('new', links=1), b=f('low', links=1)))
case('links chained over layers', Image(archive(member('a', b'1')), archive(hardlink('b', 'a'), member('a', b'2')),
                                        archive(hardlink('c', 'b'), wh('b'))),
     Tree(a=f('2', links=1), c=f('1', links=1)))
case('the same layer twice', lambda: Image(ONE, archive(wh('a'), member('b', b'b')), ONE), Tree(a=f('one'), b=f('b')))
case('root described by the upper', Image(archive(directory('./', mode=0o700), member('a')), archive(directory('.', mode=0o751, uid=4))),
     Tree({'a': f(), '.': d(mode='0o751', owner=(4, 0))}))
case('500 layers', lambda: Image(*(archive(member(f'f{n % 50}', b'%d' % n), wh(f'f{(n + 1) % 50}'), member(f'all/{n}')) for n in range(500))),
     Tree({'all': d(), **{f'all/{n}': f() for n in range(500)}, **{f'f{n % 50}': f(b'%d' % n) for n in range(451, 500)}}))
case('2,000 layers', lambda: Image(*(Layer(archive(member('a', b'%d' % (n % 3)))) for n in range(2000))),
     Refused(('too_large', 'bad_request', 'unsupported'), 'layers'), both=True)
case('no layers', Image(), Tree())
case('an empty layer', Image(archive(), ONE, archive()), TREE_ONE)

# ---- what a tar can say

case('name of 255', Image(archive(member('n' * 255, b'x'))), Tree({'n' * 255: f('x')}))
case('name of 256', Image(ONE, archive(member('d/' + 'n' * 256))), Refused('name_too_long', '256 bytes', layer=1))
case('names with newlines, not UTF-8, of one kind of blank',
     Image(archive(member('a\nb', b'1'), member(b'\xff\xfe\x80', b'2'), member('p', b'3', pax={'path': b'raw\xc3\x28'}), member(' ', b'4'),
                   member('\u00e9', b'5'), member('e\u0301', b'6'), member('-rf', b'7'), member('\t\x01', b'8'))),
     Tree({'a\nb': f('1'), b'\xff\xfe\x80': f('2'), b'raw\xc3\x28': f('3'), ' ': f('4'), '\u00e9': f('5'), 'e\u0301': f('6'), '-rf': f('7'),
           '\t\x01': f('8')}))
case('name with a NUL', Image(archive(member('a', pax={'path': b'a\0b'}))), Refused('bad_request', 'NUL', layer=0))
case('names of a thousand bytes', Image(archive(gnu_long('d/' * 500 + 'x'), header('short'))),
     Tree({**{'d/' * n + 'd': d() for n in range(500)}, 'd/' * 500 + 'x': f()}))
case('uid over 2^31', Image(archive(member('a', uid=base256((1 << 32) - 2, 8), gid=base256(1 << 31, 8)), member('b', pax={'uid': '3000000000'}))),
     Tree(a=f(owner=((1 << 32) - 2, 1 << 31)), b=f(owner=(3_000_000_000, 0))))
case('uid of 2^32', Image(archive(member('a', uid=base256(1 << 32, 8)))), Refused('unsupported', '4294967296.*32 bits', layer=0))
case('pax uid of 2^32', Image(archive(member('a', pax={'gid': str(1 << 32)}))), Refused('unsupported', '4294967296.*32 bits', layer=0))
case('negative and far times', Image(archive(member('a', pax={'mtime': '-1.5'}), member('b', pax={'mtime': '4102444800.000000007'}),
                                             member('c', mtime=base256(-(1 << 31), 12)), member('d', pax={'mtime': '99999999999999999999'}))),
     Tree(a=f(mtime=-1_500_000_000), b=f(mtime=4_102_444_800_000_000_007), c=f(mtime=-(1 << 31) * NS),
          d=f(mtime=0x27fffffff * NS + 999_999_999)))
case('modes', Image(archive(member('su', b'x', mode=0o4755), member('sg', b'x', mode=0o2755), directory('st', mode=0o1777), member('no', b'x', mode=0),
                            directory('all', mode=0o7777))),
     Tree(su=f('x', mode='0o4755'), sg=f('x', mode='0o2755'), st=d(mode='0o1777'), no=f('x', mode='0o0'), all=d(mode='0o7777')))
case('setuid with an owner', Image(archive(member('su', b'x', mode=0o4755, uid=1000, gid=1000))), Tree(su=f('x', mode='0o4755', owner=(1000, 1000))))
case('devices and a FIFO', Image(archive(header('null', b'3', major=1, minor=3, mode=0o666), header('b', b'4', major=300, minor=70000),
                                         header('p', b'6', mode=0o600))),
     Tree(null={'type': '0o20000', 'device': (1, 3), 'mode': '0o666'}, b={'type': '0o60000', 'device': (300, 70000)},
          p={'type': '0o10000', 'mode': '0o600'}))
ACL = acl((1, 7, 0xffffffff), (2, 5, 1234), (4, 4, 0xffffffff), (16, 7, 0xffffffff), (32, 0, 0xffffffff))
case('extended attributes', Image(archive(
    member('cap', b'x', mode=0o755, pax={'SCHILY.xattr.security.capability': images.capability()}),
    member('user', b'x', pax={'SCHILY.xattr.user.a': b'\0\xff', 'SCHILY.xattr.user.empty': '', 'SCHILY.xattr.user.big': 'v' * 2000}),
    member('acl', b'x', mode=0o770, pax={'SCHILY.xattr.system.posix_acl_access': ACL}),
    directory('dir', pax={'SCHILY.xattr.system.posix_acl_default': ACL, 'SCHILY.xattr.trusted.overlay.opaque': 'y'}))),
    Tree(cap=f('x', xattrs={'security.capability': images.capability()}),
         user=f('x', xattrs={'user.a': b'\0\xff', 'user.empty': b'', 'user.big': b'v' * 2000}),
         acl=f('x', xattrs={'system.posix_acl_access': ACL}),
         dir=d(xattrs={'system.posix_acl_default': ACL, 'trusted.overlay.opaque': b'y'})))
case('attribute of 70,000 bytes', Image(archive(member('a', pax={'SCHILY.xattr.user.x': 'v' * 70_000}))),
     Refused('too_large', '"a".*attribute', layer=0))


def sparse_pax(version, pieces, size):
    data = b''.join(c for _, c in pieces)
    numbers = [n for o, c in pieces for n in (o, len(c))]
    if version == '1.0':
        text = f'{len(pieces)}\n' + ''.join(f'{n}\n' for n in numbers)
        body = text.encode().ljust(-(-len(text) // BLOCK) * BLOCK, b'\0') + data
        return member('GNUSparse/s', body, pax={'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': 's',
                                                'GNU.sparse.realsize': str(size)})
    if version == '0.1':
        return member('GNUSparse/s', data, pax={'GNU.sparse.numblocks': str(len(pieces)), 'GNU.sparse.map': ','.join(map(str, numbers)),
                                                'GNU.sparse.name': 's', 'GNU.sparse.size': str(size)})
    pairs = [('GNU.sparse.size', str(size)), ('GNU.sparse.numblocks', str(len(pieces)))]
    for offset, content in pieces:
        pairs += [('GNU.sparse.offset', str(offset)), ('GNU.sparse.numbytes', str(len(content)))]
    return member('s', data, pax=pairs)


PIECES = [(4096, b'a' * 512), (100_352, b'b' * 1024), (300_000_256, b'c' * 512)]


def sparse_content(pieces, size):
    h, at = hashlib.sha256(), 0
    for offset, data in pieces:
        h.update(bytes(offset - at) + data)
        at = offset + len(data)
    h.update(bytes(size - at))
    return {'type': '0o100000', 'size': size, 'content': h.hexdigest()}


for version in ('1.0', '0.1', '0.0'):
    case(f'sparse {version}', Image(archive(sparse_pax(version, PIECES, 300_001_000), member('z', b'z'))),
         Tree(s=sparse_content(PIECES, 300_001_000), z=f('z')))
case('sparse old GNU', Image(archive(old_sparse('s', PIECES, 300_001_000), member('z', b'z'))),
     Tree(s=sparse_content(PIECES, 300_001_000), z=f('z')))
case('sparse of 8 EiB', Image(archive(sparse_pax('1.0', PIECES, (1 << 63) - 1))), Refused(('too_large', 'corrupt'), '"s"', layer=0))
case('a hole of 15 TiB', Image(archive(sparse_pax('1.0', [], 15 << 40))), Tree(s={'type': '0o100000', 'size': 15 << 40}))
case('header of 2^62 bytes', Image(archive(member('a', size=base256(1 << 62, 12)))), Refused('corrupt', '"a"', layer=0))
case('negative size', Image(archive(member('a', size=base256(-512, 12)))), Refused('corrupt', 'size', layer=0))
case('pax header of 2^60', Image(archive(header('P', b'x', base256(1 << 60, 12)))), Refused('too_large', 'limit', layer=0))
case('pax header of 100 MB', lambda: Image(archive(header('P', b'x', 100 * MIB), bytes(100 * MIB), member('a'))),
     Refused('too_large', 'limit', layer=0))
case('pax size over 2^63', Image(archive(member('a', pax={'size': str(1 << 63)}))), Refused('corrupt', 'size', layer=0))
case('pax size before the content', Image(archive(member('a', b'x' * 700, size=0, pax={'size': '700'}), member('b', b'b'))),
     Tree(a=f('x' * 700), b=f('b')))
case('pax record that lies about its length', Image(archive(pax(b'4294967295 path=x\n'), member('a'))), Refused('corrupt', 'not well-formed', layer=0))
case('GNU long name of 2^40', Image(archive(header('L', b'L', base256(1 << 40, 12)))), Refused('too_large', 'limit', layer=0))
case('a million pax headers', lambda: Image(Layer(pax({'comment': 'x'}) * 100_000 + END)), Refused(('too_large', 'corrupt'), '', layer=0))
case('checksum', Image(ONE, archive(member('a'), header('b', checksum=1))), Refused('corrupt', 'checksum at byte 512', layer=1))
case('unknown member', Image(archive(header('z', b'Z'))), Refused('unsupported', '"z"', layer=0))
case('100,000 tiny files', lambda: Image(archive(*(member(f'd{n % 10}/{n}', b'%d' % n) for n in range(100_000)))),
     {f'd{n}': range(n, 100_000, 10) for n in range(10)}, limit=90)
case('2,000 levels', lambda: Image(archive(*(directory('/'.join(['d'] * n)) for n in (1, 1000, 2000)), member('d/' * 2000 + 'x', b'x'))), None)

# ---- streams

ZEROS = 10 << 30
# A member "zeros" of 10 GiB of zeros, as below.
ZEROS_DIFF_ID = 'sha256:59773bd317b353ac3c75e95d0d6db162134fae777e4678f412fd34adfb357716'
ZEROS_HEAD = member('zeros', size=base256(ZEROS, 12))
BIG = archive(*(member(f'f{n}', random.Random(n).randbytes(40_000)) for n in range(20)), member('zeros', bytes(400_000)))
TREE_BIG = Tree({**{f'f{n}': f(random.Random(n).randbytes(40_000)) for n in range(20)}, 'zeros': f(bytes(400_000))})
for name, how in {'gzip': gz, 'gzip members': gz_members, 'zstd': zstd, 'zstd raw': zstd_frame, 'none': plain}.items():
    case(f'compressed: {name}', Image(Layer(BIG, how)), TREE_BIG)
case('compressed: zstd frames', Image(Layer(BIG, blob=zstd_frame(BIG[:300_000]) + b'\x50\x2a\x4d\x18\3\0\0\0abc' + zstd_frame(BIG[300_000:]),
                                            media=LAYER + '+zstd')), TREE_BIG)
case('compressed: gzip padded with zeros', Image(Layer(BIG, blob=gz(BIG) + bytes(1000))), TREE_BIG)
case('layers of all kinds', Image(ONE, Layer(archive(member('b', b'2')), zstd_frame), Layer(archive(member('c', b'3')), plain)),
     Tree(a=f('one'), b=f('2'), c=f('3')))
case('bomb: 10 GiB of zeros in zstd', lambda: Image(Layer(b'', blob=zstd_frame(ZEROS_HEAD) + images.zstd_zeros(ZEROS) + zstd_frame(END),
                                                          media=LAYER + '+zstd', diff_id=ZEROS_DIFF_ID)),
     Tree(zeros={'type': '0o100000', 'size': ZEROS}), limit=90, bomb=True)
case('bomb: 10 GiB of zeros in gzip', lambda: Image(Layer(b'', blob=gz(ZEROS_HEAD) + images.gz_zeros(ZEROS) + gz(END), diff_id='sha256:' + '0' * 64)),
     Refused('corrupt', 'diff_id', layer=0), limit=90, bomb=True)
case('bomb: zeros after the end', lambda: Image(Layer(b'', blob=gz(ONE) + images.gz_zeros(1 << 30), diff_id='sha256:' + '1' * 64)),
     Refused('corrupt', 'diff_id', layer=0))
case('bomb: gzip in gzip', Image(Layer(ONE, blob=gz(gz(ONE)))), Refused(('bad_request', 'corrupt', 'unsupported'), 'not a tar|gzip', layer=0))
case('zeros after the end', Image(archive(member('a', b'one')) + bytes(100_000)), TREE_ONE)
case('junk after the end', Image(archive(member('a', b'one')) + b'junk' * 1000), TREE_ONE)
case('junk after the end that is no part of the diff_id', Image(Layer(ONE + b'junk' * 1000, diff_id=images.sha256(ONE))),
     Refused('corrupt', 'diff_id', layer=0))
case('gzip and garbage', Image(Layer(ONE, blob=gz(ONE) + b'garbage')), Refused('corrupt', 'gzip', layer=0))
case('zstd and garbage', Image(Layer(ONE, blob=zstd_frame(ONE) + b'garbage', media=LAYER + '+zstd')), Refused('corrupt', 'zstd', layer=0))
case('gzip cut', Image(ONE, Layer(BIG, blob=gz(BIG)[:-9])), Refused('corrupt', 'gzip', layer=1))
case('gzip cut by a byte', Image(Layer(ONE, blob=gz(ONE)[:-1])), Refused('corrupt', 'gzip', layer=0))
case('zstd cut', Image(Layer(BIG, blob=zstd_frame(BIG)[:-100], media=LAYER + '+zstd')), Refused('corrupt', 'zstd', layer=0))
case('zstd that wants 2 GiB', Image(Layer(ONE, blob=b'\x28\xb5\x2f\xfd\0' + bytes([21 << 3]) + images.zstd_block(0, len(ONE), 1) + ONE,
                                          media=LAYER + '+zstd')), Refused('too_large', 'window|memory', layer=0))
case('gzip with a wrong CRC', Image(Layer(ONE, blob=gz(ONE)[:-8] + b'\1\2\3\4' + gz(ONE)[-4:])), Refused('corrupt', 'checksum', layer=0))
case('tar cut', Image(Layer(BIG[:50_000])), Refused('corrupt', 'too early', layer=0))
case('not a tar', Image(Layer(b'hello\n' * 1000)), Refused('bad_request', 'not a tar', layer=0))
case('a blob of no bytes', Image(ONE, Layer(b'', plain)), TREE_ONE)
case('xz', Image(Layer(ONE, blob=lzma.compress(ONE))), Refused(('unsupported', 'corrupt', 'bad_request'), 'xz', layer=0))
case('bzip2', Image(Layer(ONE, blob=bz2.compress(ONE))), Refused(('unsupported', 'corrupt', 'bad_request'), 'bzip2', layer=0))
case('media type: gzip for zstd', Image(Layer(ONE, zstd_frame, media=LAYER + '+gzip')), Refused(('corrupt', 'bad_request'), 'zstd.*gzip|gzip.*zstd', layer=0))
case('media type: zstd for gzip', Image(Layer(ONE, gz, media=LAYER + '+zstd')), Refused(('corrupt', 'bad_request'), 'zstd.*gzip|gzip.*zstd', layer=0))
case('media type: plain for gzip', Image(Layer(ONE, gz, media=LAYER)), Refused(('corrupt', 'bad_request'), 'gzip', layer=0))
case('media type: gzip for plain', Image(Layer(ONE, plain, media=LAYER + '+gzip')), Refused(('corrupt', 'bad_request'), 'gzip', layer=0))
case('media type: encrypted', Image(Layer(ONE, media=LAYER + '+gzip+encrypted')), Refused('unsupported', 'encrypted'), both=True)
case('media type: unknown', Image(Layer(ONE, media='application/x-tar')), Refused('unsupported', 'application/x-tar'), both=True)
case('media type: Docker says gzip', Image(Layer(ONE), docker=True), TREE_ONE, both=True)

# ---- lies



def own(text):
    """A layer whose blob no other case can have put into the cache."""
    return archive(member('own', text.encode()))


case('layer of another content', Image(ONE, Layer(member('own', b'c') + BIG, stored=gz(member('own', b'c') + BIG)[:-20] + bytes(20))), Refused('corrupt', 'digest', layer=1), both=True)
case('layer larger than said', Image(Layer(own('larger'), stored=gz(own('larger')) + bytes(5000))), Refused(('corrupt', 'too_large'), 'size|bytes|larger', layer=0), both=True)
case('layer smaller than said', Image(Layer(member('own', b'9') + BIG, stored=gz(member('own', b'9') + BIG)[:5000])), Refused(('corrupt', 'unavailable'), '', layer=0), both=True)
case('layer size said too small', Image(Layer(own('small'), say={'size': 10})), Refused(('corrupt', 'too_large'), 'size|bytes|larger', layer=0), both=True)
case('layer size said too large', Image(Layer(own('large'), say={'size': 100_000})), Refused(('corrupt', 'unavailable'), '', layer=0), both=True)
case('layer size of 2^62', Image(Layer(own('2^62'), say={'size': 1 << 62})), Refused(('corrupt', 'too_large', 'no_space', 'unavailable', 'bad_request'), ''), both=True)
case('layer digest of another blob', Image(Layer(ONE, say={'digest': images.sha256(b'nothing')})), Refused('not_found', '', layer=0), both=True)
case('layer that is not there', Image(ONE, Layer(own('absent'), absent=True)), Refused('not_found', '', layer=1), both=True)
case('diff_id of another layer', Image(ONE, Layer(BIG, diff_id=images.sha256(b'x'))), Refused('corrupt', 'diff_id', layer=1))
case('diff_ids exchanged', Image(ONE, archive(member('b')), diff_ids=[images.sha256(archive(member('b'))), images.sha256(ONE)]),
     Refused('corrupt', 'diff_id'))
case('fewer diff_ids', Image(ONE, BIG, diff_ids=[images.sha256(ONE)]), Refused('bad_request', 'diff_ids'), both=True)
case('more diff_ids', Image(ONE, diff_ids=[images.sha256(ONE)] * 2), Refused('bad_request', 'diff_ids'), both=True)
case('no diff_ids', Image(ONE, config={'rootfs': None}), Refused('bad_request', 'rootfs|diff_ids'), both=True)
case('diff_id that is no digest', Image(ONE, diff_ids=['sha256:../../../../etc/passwd']), Refused('bad_request', 'diff_ids'), both=True)
case('diff_id of SHA-512', Image(ONE, diff_ids=['sha512:' + hashlib.sha512(ONE).hexdigest()]), TREE_ONE)
case('config of another content', Image(ONE, manifest=lambda m: {**m, 'config': {**m['config'], 'digest': images.sha256(b'other')}}),
     Refused('not_found', 'config|' + images.sha256(b'other')), both=True)
case('config said too small', Image(ONE, config_say={'size': 20}), Refused(('corrupt', 'too_large'), ''), both=True)
case('manifest of another content', lambda: Document(b'{}', size=2), Refused(('bad_request', 'unsupported'), ''))
case('manifest said too small', Image(ONE, about={'size': 9}), Refused(('corrupt', 'too_large'), ''))
case('manifest under another digest', Image(ONE, about={'digest': images.sha256(b'{}')}), Refused(('corrupt', 'not_found'), ''),
     prepare=lambda layout: (layout / 'blobs/sha256' / images.sha256(b'{}')[7:]).write_bytes(b'{"schemaVersion":2}'))

# ---- documents

for field in ('config', 'layers'):
    case(f'manifest without {field}', Image(ONE, manifest={field: None}), Refused(('bad_request', 'unsupported'), field), both=True)
for field in ('digest', 'size', 'mediaType'):
    case(f'layer without {field}', Image(Layer(ONE, say={field: None})), Refused(('bad_request', 'unsupported'), rf'layers\[0\].*{field}'), both=True)
MISTYPED = {
    'layers an object': ({'layers': {'0': {}}}, 'layers'),
    'layers a string': ({'layers': 'all'}, 'layers'),
    'a layer null': ({'layers': [None]}, r'layers\[0\]'),
    'a layer a list': ({'layers': [[]]}, r'layers\[0\]'),
    'config a string': ({'config': 'sha256:'}, 'config'),
    'config a list': ({'config': []}, 'config'),
    'schemaVersion a string': ({'schemaVersion': '2'}, 'schemaVersion'),
    'schemaVersion 3': ({'schemaVersion': 3}, 'schemaVersion'),
    'mediaType a number': ({'mediaType': 7}, 'mediaType'),
    'mediaType of an index': ({'mediaType': INDEX}, 'mediaType|index'),
}
for name, (change, words) in MISTYPED.items():
    case(f'mistyped: {name}', Image(ONE, manifest=change), Refused(('bad_request', 'unsupported'), words), both=True)
for name, said in {'a string': '100', 'a float': 12.5, 'negative': -1, '2^63': 1 << 63, '2^64': 1 << 64, 'true': True, 'a list': [1]}.items():
    case(f'mistyped: size {name}', Image(Layer(ONE, say={'size': said})), Refused(('bad_request', 'too_large'), r'layers\[0\].*size'), both=True)
DIGESTS = {'path': 'sha256:../../../../../../etc/passwd', 'slash': 'sha256:' + '/' * 64, 'upper case': 'sha256:' + 'A' * 64, 'short': 'sha256:' + 'a' * 63,
           'long': 'sha256:' + 'a' * 65, 'algorithm': 'sha1:' + 'a' * 40, 'none': 'a' * 64, 'empty': '', 'newline': 'sha256:' + 'a' * 64 + '\n',
           'NUL': 'sha256:' + 'a' * 64 + '\0', 'query': 'sha256:' + 'a' * 60 + '?x=y', 'a number': 7, 'of a megabyte': 'sha256:' + 'a' * MIB}
for name, said in DIGESTS.items():
    case(f'digest: {name}', Image(Layer(ONE, say={'digest': said})), Refused(('bad_request', 'unsupported'), r'layers\[0\]|NUL'), both=True)
case('digest of SHA-512', lambda: sha512_image(), TREE_ONE, both=True)
case('not JSON', Document(b'<html>not found</html>'), Refused('bad_request', ''), both=True)
case('JSON and more', Image(ONE, manifest=lambda m: images.dumps(m) + b'{"x":1}'), Refused('bad_request', ''), both=True)
case('JSON cut', Image(ONE, manifest=lambda m: images.dumps(m)[:-30]), Refused('bad_request', ''), both=True)
case('an empty manifest', Document(b''), Refused('bad_request', ''), both=True)
case('a list as manifest', Document(b'[]'), Refused('bad_request', ''), both=True)
case('nested 100,000 deep', lambda: Image(ONE, manifest=lambda m: images.dumps(m)[:-1] + b',"x":' + b'[' * 100_000 + b']' * 100_000 + b'}'),
     Refused(('bad_request', 'too_large'), 'deep|nest|depth|65536'), both=True)
case('nested objects 100,000 deep', lambda: Document(b'{"a":' * 100_000 + b'1' + b'}' * 100_000), Refused(('bad_request', 'too_large'), 'deep|nest|depth|65536'), both=True)
case('manifest of 50 MB', lambda: Image(ONE, manifest=lambda m: {**m, 'annotations': {'x': 'y' * 50_000_000}}), Refused('too_large', ''), both=True)
case('manifest of 3 MB', lambda: Image(ONE, manifest=lambda m: {**m, 'annotations': {'x': 'y' * 3_000_000}}), TREE_ONE, both=True)
case('configuration of 50 MB', lambda: Image(ONE, config={'x': 'y' * 50_000_000}), Refused('too_large', 'config'), both=True)
case('configuration not JSON', Image(ONE, config=b'not JSON at all'), Refused('bad_request', 'config'), both=True)
case('configuration nested deep', lambda: Image(ONE, config=b'[' * 100_000), Refused(('bad_request', 'too_large'), 'config'), both=True)
for name, said in {'a list': [], 'entry point a number': {'Entrypoint': 5}, 'command an object': {'Cmd': {}}, 'environment of numbers': {'Env': [1]},
                   'user a list': {'User': ['root']}, 'NUL in an argument': {'Cmd': ['a\0b']}, 'labels a list': {'Labels': ['a']}}.items():
    case(f'configuration: {name}', Image(ONE, command=said or None, config={'config': said} if said == [] else None),
         Refused('bad_request', 'config'), both=True)
case('configuration with nulls', Image(ONE, command={'Entrypoint': None, 'Cmd': None, 'Env': None, 'Labels': None, 'User': '', 'WorkingDir': ''}), TREE_ONE)
case('configuration of an artifact', Image(ONE, config_media='application/vnd.cncf.helm.config.v1+json'), Refused('unsupported', 'helm'), both=True)
case('an artifact', Image(Layer(b'{}', plain, media='application/vnd.example.thing'), manifest={'artifactType': 'application/vnd.example'},
                          config_media='application/vnd.oci.empty.v1+json', config=b'{}'), Refused('unsupported', 'application/vnd.example'), both=True)
case('unknown fields, subject and annotations', Image(ONE, manifest={
    'annotations': {'a': 'b'}, 'subject': {'mediaType': MANIFEST, 'digest': images.sha256(b's'), 'size': 7}, 'frobnicate': [1, {}], 'null': None}),
     TREE_ONE, both=True)
case('both an index and a manifest', Image(ONE, manifest=lambda m: {**m, 'manifests': []}), Refused('bad_request', 'index.*manifest|manifest.*index|both'), both=True)
case('both, with entries', lambda: Image(ONE, manifest=lambda m: {'schemaVersion': 2, 'manifests': [m['config']], **m}),
     Refused('bad_request', 'index.*manifest|manifest.*index|both'), both=True)
case('an index called a manifest', Document({'schemaVersion': 2, 'manifests': []}, MANIFEST), Refused('bad_request', ''), both=True)
case('a manifest called an index', Image(ONE, manifest={'mediaType': None}, about={'mediaType': INDEX}), Refused('bad_request', ''), both=True)

SCHEMA1 = {'schemaVersion': 1, 'name': 'x', 'tag': 'it', 'architecture': 'amd64', 'fsLayers': [{'blobSum': images.sha256(gz(ONE))}],
           'history': [{'v1Compatibility': '{}'}], 'signatures': [{'signature': 'x', 'protected': 'y', 'header': {}}]}
case('schema 1', Document(SCHEMA1, DOCKER + 'distribution.manifest.v1+prettyjws'), Refused('unsupported', 'schema 1|schema version 1|schemaVersion 1'), both='registry')
case('schema 1 unsigned', Document({k: v for k, v in SCHEMA1.items() if k != 'signatures'}, DOCKER + 'distribution.manifest.v1+json'),
     Refused('unsupported', 'schema 1|schema version 1|schemaVersion 1'), both='registry')

# ---- indexes

ARM = platform('linux/arm64/v8')
OTHER_CPU = Image(archive(member('arm')), config={'architecture': 'arm64'}, about=ARM)
WINDOWS = Image(archive(member('win')), config={'os': 'windows'}, about={'platform': {'os': 'windows', 'architecture': 'amd64', 'os.version': '10.0.1'}})
MINE = Image(ONE, about=platform('linux/amd64'))


def attestation(**about):
    return Image(Layer(b'{}', plain, media='application/vnd.in-toto+json'), config={'architecture': 'unknown', 'os': 'unknown'}, about={
        **platform('unknown/unknown'), 'annotations': {'vnd.docker.reference.type': 'attestation-manifest',
                                                       'vnd.docker.reference.digest': images.sha256(b'x')}, **about})


case('index', Index(OTHER_CPU, WINDOWS, attestation(), MINE), TREE_ONE, both=True)
case('index, another platform asked for', Index(OTHER_CPU, WINDOWS, MINE), Tree(arm=f()), '--platform', 'linux/arm64', both=True)
case('index without this platform', Index(OTHER_CPU, WINDOWS), Refused('not_found', r'linux/arm64.*windows/amd64|windows/amd64.*linux/arm64'), both=True)
case('index, platform absent', Index(OTHER_CPU, MINE), Refused('not_found', 'linux/s390x'), '--platform', 'linux/s390x', both=True)
case('a platform that is none', Index(MINE), Refused('bad_request', 'platform'), '--platform', 'linux//x y')
case('index of attestations', Index(attestation()), Refused('unsupported', 'attestation'), both=True)
case('index of nothing', Index(), Refused(('not_found', 'unsupported', 'bad_request'), ''), both=True)
case('index of one image without a platform', Index(Image(ONE)), TREE_ONE, both=True)
case('index in an index', Index(Index(OTHER_CPU, MINE, about=platform('linux/amd64'))), TREE_ONE, both=True)
case('indexes 20 deep', lambda: functools.reduce(lambda inner, _: Index(inner, about=platform('linux/amd64')), range(20), MINE),
     Refused(('bad_request', 'too_large', 'unsupported'), 'index'), both=True)
case('an index that lists itself', lambda: looping_index(), Refused(('corrupt', 'bad_request', 'too_large'), ''), both=True)
case('index of 20,000 entries', lambda: Index(*([{'mediaType': MANIFEST, 'digest': images.sha256(b'%d' % n), 'size': 7, **ARM} for n in range(20_000)])),
     Refused(('too_large', 'bad_request'), ''), both=True)
case('index with a platform of numbers', Index({'mediaType': MANIFEST, 'digest': images.sha256(b''), 'size': 0, 'platform': {'os': 1, 'architecture': 2}}),
     Refused('bad_request', 'platform|manifests'), both=True)
case('index entry that is not there', Index({'mediaType': MANIFEST, 'digest': images.sha256(b'gone'), 'size': 4, **platform('linux/amd64')}),
     Refused('not_found', images.sha256(b'gone')[7:]), both=True)
case('Docker list', Index(OTHER_CPU, Image(ONE, docker=True, about=platform('linux/amd64')), docker=True), TREE_ONE, both=True)
case('Docker image', Image(ONE, AB, docker=True), Tree({**LEFT, 'a': f('one'), 'd/a': f('a')}), both=True)
case('arm variants', Index(*(Image(archive(member(v)), config={'architecture': 'arm', 'variant': v}, about=platform(f'linux/arm/{v}')) for v in ('v5', 'v6'))),
     Tree(v6=f()), '--platform', 'linux/arm/v7', both=True)
case('mixed OCI and Docker', Index(Image(ONE, docker=True, about=platform('linux/amd64'))), TREE_ONE, both=True)

# ---- foreign layers: what is offered is taken, their addresses are never asked (that is checked where there is a network)

NOWHERE = ['http://192.0.2.1/layer', 'file:///etc/shadow', 'gopher://127.0.0.1/']
case('layer with urls that is there', Image(Layer(ONE, say={'urls': NOWHERE})), TREE_ONE, both=True)
case('foreign layer with urls that is there', Image(Layer(ONE, media=FOREIGN, say={'urls': NOWHERE}), docker=True), TREE_ONE, both=True)
case('foreign layer with urls alone', Image(Layer(own('urls'), absent=True, media=OCI + 'layer.nondistributable.v1.tar+gzip', say={'urls': NOWHERE})),
     Refused(('unsupported', 'not_found'), '', layer=0), both=True)
case('urls of a wrong type', Image(Layer(ONE, say={'urls': {'a': 1}})), Refused('bad_request', 'urls'), both=True)

# ---- layouts that are odd as directories


def special(kind):
    def make(layout):
        blob = layout / 'blobs/sha256' / images.sha256(gz(ONE))[7:]
        blob.unlink()
        {'fifo': lambda: os.mkfifo(blob), 'directory': lambda: blob.mkdir(), 'device': lambda: os.mknod(blob, 0o20666, os.makedev(1, 5)),
         'symlink': lambda: blob.symlink_to('/etc/passwd'), 'dangling': lambda: blob.symlink_to('nothing'),
         'loop': lambda: blob.symlink_to(blob.name)}[kind]()
    return make


for kind in ('fifo', 'directory', 'device', 'symlink', 'dangling', 'loop'):
    case(f'layout: a {kind} as a blob', one(), Refused(('bad_request', 'corrupt', 'not_found', 'denied', 'too_large', 'unsupported', 'internal'), images.sha256(gz(ONE))[7:19]),
         prepare=special(kind))
case('layout: no oci-layout', one(), Refused(('bad_request', 'not_found'), 'oci-layout'), prepare=lambda p: (p / 'oci-layout').unlink())
case('layout: another version', one(), Refused('unsupported', '2.0.0'), prepare=lambda p: (p / 'oci-layout').write_text('{"imageLayoutVersion":"2.0.0"}'))
case('layout: oci-layout is no JSON', one(), Refused('bad_request', 'oci-layout'), prepare=lambda p: (p / 'oci-layout').write_text('x'))
case('layout: no index', one(), Refused(('bad_request', 'not_found'), 'index.json'), prepare=lambda p: (p / 'index.json').unlink())
case('layout: index is a FIFO', one(), Refused(('bad_request', 'not_found', 'unsupported', 'internal'), 'index.json'),
     prepare=lambda p: ((p / 'index.json').unlink(), os.mkfifo(p / 'index.json')))
case('layout: index of 50 MB', one(), Refused('too_large', 'index.json'), prepare=lambda p: (p / 'index.json').write_text(' ' * 50_000_000 + '{}'))
case('layout: index is no JSON', one(), Refused('bad_request', 'index.json'), prepare=lambda p: (p / 'index.json').write_text('{"manifests":'))
case('layout: no such tag', one(), Refused('not_found', '"?other"?'), tag='other')
case('layout: the blobs through a symlink', one(), Refused(('bad_request', 'denied', 'unsupported', 'not_found'), 'symbolic link'), prepare=lambda p: ((p / 'blobs').rename(p / 'real'), (p / 'blobs').symlink_to('real')))


class sha512_image(Image):
    """All of its blobs by SHA-512."""

    def __init__(self):
        super().__init__(ONE)

    def put(self, store):
        inner = Store()
        said = super().put(inner)
        manifest = json.loads(inner[said['digest']])
        for part in (manifest['config'], *manifest['layers']):
            data = inner[part['digest']]
            part['digest'] = store.put(data, 'sha512:' + hashlib.sha512(data).hexdigest())
        return store.descriptor(manifest, MANIFEST)


class looping_index:
    """A digest that is its own cannot be made; one that lies can."""

    def put(self, store):
        digest = images.sha256(b'loop')
        document = {'schemaVersion': 2, 'mediaType': INDEX, 'manifests': [
            {'mediaType': INDEX, 'digest': digest, 'size': 0, **platform('linux/amd64')}]}
        size = 0
        while size != len(images.dumps(document)):
            size = document['manifests'][0]['size'] = len(images.dumps(document))
        store[digest] = images.dumps(document)
        return {'mediaType': INDEX, 'digest': digest, 'size': size}


# ---- the test

@pytest.fixture(scope='module')
def shared(scratch):
    """A daemon for all of them, and a registry beside it."""
    with pulls.shared_world(scratch) as world:
        config = world.base / 'config.json'
        config.write_text(json.dumps({'fetch_retries': 1, 'headroom': 4 * MIB}))
        world.env['BANGER_CONFIG'] = str(config)
        world.start()
        server = registry.Registry()
        try:
            yield world, server
        finally:
            server.close()


def layers_of(store, descriptor):
    """Digests of the layers that the document names, as far as it is one."""
    try:
        return [layer['digest'] for layer in json.loads(store[descriptor['digest']])['layers']]
    except (ValueError, KeyError, TypeError):
        return []


RUNS = [(name, where) for name, (_, _, _, about) in CASES.items()
        for where in {None: ('layout',), True: ('layout', 'registry'), 'registry': ('registry',)}[about.get('both')]]


@pytest.mark.parametrize('name, where', RUNS, ids=[f'{n}, {w}' for n, w in RUNS])
def test_image(name, where, shared, tmp_path):
    image, expected, options, about = CASES[name]
    if QUICK and about.get('bomb'):
        pytest.skip('takes seconds')
    banger, server = shared
    store = Store()
    if callable(image) and not hasattr(image, 'put'):
        image = image()
    said = image.put(store)
    if where == 'layout':
        images.write_layout(tmp_path, store, {'it': said})
        about.get('prepare', lambda _: None)(tmp_path)
        source = f'oci:{tmp_path}:{about.get("tag", "it")}'
    else:
        server.add('test/it', store, {'it': said})
        source = f'{server.host}/test/it:it'
    before = banger.images()
    try:
        if isinstance(expected, Refused):
            message = pulls.refused(banger, source, 'it', *options, codes=expected.codes, words=expected.words, before=before,
                                    timeout=about.get('limit', 30))
            if expected.layer is not None:
                digest = layers_of(store, said)[expected.layer]
                assert digest[:19] in message, f'{digest} is not named: {message}'
        else:
            pulls.pull(banger, source, 'it', *options, timeout=about.get('limit', 30))
            check_tree(banger, expected, about)
            assert_published_once(banger, before)
    finally:
        server.remove('test/it')
        for state, other in banger.images().keys() - before.keys():
            banger.call('image.delete', {'image': f'{"images" if state == "published" else "drafts"}/{other}'})


def check_tree(banger, expected, about):
    image = pulls.rootfs(banger, 'it')
    if about.get('bomb'):
        pulls.fsck(image)
        with pulls.mounted(image, banger.base / 'look') as root:
            assert (root / 'zeros').stat().st_size == ZEROS
            with open(root / 'zeros', 'rb') as file:
                for offset in (0, ZEROS // 3, ZEROS - MIB):
                    file.seek(offset)
                    assert file.read(MIB) == bytes(MIB)
    elif expected is None:
        pulls.fsck(image)
        with pulls.mounted(image, banger.base / 'look') as root:
            assert depth(root) == (2000, ['x'])
    elif isinstance(expected, dict) and not isinstance(expected, Tree):
        pulls.fsck(image)
        with pulls.mounted(image, banger.base / 'look') as root:
            for folder, names in expected.items():
                assert {e.name: e.stat().st_size for e in os.scandir(root / folder)} == {str(n): len(str(n)) for n in names}
    elif isinstance(expected, Tree):
        pulls.assert_tree(banger, 'it', expected)
    else:
        assert expected(pulls.tree_of(image, banger.base / 'look'))


def depth(root):
    """How deep "d" nests, and what is at the bottom."""
    levels, fd = 0, os.open(root, os.O_RDONLY)
    while 'd' in os.listdir(fd):
        inner = os.open('d', os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd, levels = inner, levels + 1
    names = os.listdir(fd)
    os.close(fd)
    return levels, names


def assert_published_once(banger, before):
    new = banger.images().keys() - before.keys()
    assert new == {('published', 'it')}, new
    banger.settled()
    assert banger.leftovers() == []
    pulls.assert_cache_sound(banger)


def test_there_are_enough():
    assert len(CASES) >= 60
