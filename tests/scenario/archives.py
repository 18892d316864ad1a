# SPDX-License-Identifier: Apache-2.0
"""Tar archives made byte by byte, so that they can be what no tar program would write.

    archive(member('a', b'content'), directory('d'), ...)    bytes, with the end mark
"""
import struct

BLOCK = 512


def octal(value, width):
    return b'%0*o\0' % (width - 1, value)


def base256(value, width):
    return (value & ((1 << (8 * width)) - 1) | (1 << (8 * width - 1))).to_bytes(width, 'big')


def number(value, width):
    """Octal where it fits, else base 256; bytes as they are."""
    if isinstance(value, bytes):
        return value.ljust(width, b'\0')[:width]
    if 0 <= value < 8 ** (width - 1):
        return octal(value, width)
    return base256(value, width)


def encode(name):
    return name.encode('utf-8', 'surrogateescape') if isinstance(name, str) else name


def pad(data):
    return data + bytes(-len(data) % BLOCK)


def header(name, kind=b'0', size=0, mode=0o644, uid=0, gid=0, mtime=1_700_000_000, link=b'', magic=b'ustar\x0000',
           major=0, minor=0, prefix=b'', checksum=None, patch=None):
    """One header block. patch: {offset: bytes} to put over it before the checksum is made."""
    raw = bytearray(BLOCK)
    for offset, width, value in (
            (0, 100, encode(name)), (100, 8, number(mode, 8)), (108, 8, number(uid, 8)), (116, 8, number(gid, 8)),
            (124, 12, number(size, 12)), (136, 12, number(mtime, 12)), (148, 8, b' ' * 8), (156, 1, kind),
            (157, 100, encode(link)), (257, 8, magic), (329, 8, number(major, 8)), (337, 8, number(minor, 8)),
            (345, 155, encode(prefix))):
        assert len(value) <= width, (offset, value)
        raw[offset:offset + len(value)] = value
    for offset, value in (patch or {}).items():
        raw[offset:offset + len(value)] = value
    total = sum(raw) if checksum is None else checksum
    raw[148:156] = b'%06o\0 ' % total
    return bytes(raw)


def record(key, value):
    """A pax record; its length counts itself."""
    body = b' ' + encode(key) + b'=' + encode(value) + b'\n'
    size = len(body) + 1
    while len(b'%d' % size) + len(body) != size:
        size += 1
    return b'%d' % size + body


def pax(records, kind=b'x'):
    """An extended header. records: a dict, a list of pairs, or raw bytes."""
    if not isinstance(records, bytes):
        pairs = records.items() if isinstance(records, dict) else records
        records = b''.join(record(k, v) for k, v in pairs)
    return header('PaxHeader', kind, len(records)) + pad(records)


def gnu_long(name, kind=b'L'):
    data = encode(name) + b'\0'
    return header('././@LongLink', kind, len(data), magic=b'ustar  \0') + pad(data)


def member(name, data=b'', **fields):
    """A regular file, its name in an extended header when it is long."""
    extra = fields.pop('pax', None)
    name = encode(name)
    front = b''
    if len(name) > 100:
        extra = {'path': name, **(extra or {})}
        name = name[-100:]
    if extra is not None:
        front = pax(extra)
    fields.setdefault('size', len(data))
    return front + header(name, fields.pop('kind', b'0'), **fields) + pad(data)


def directory(name, **fields):
    fields.setdefault('mode', 0o755)
    return member(name, kind=b'5', **fields)


def symlink(name, target, **fields):
    target = encode(target)
    if len(target) > 100:
        fields['pax'] = {'linkpath': target, **fields.get('pax', {})}
        target = target[:100]
    return member(name, kind=b'2', link=target, mode=0o777, **fields)


def hardlink(name, target, **fields):
    target = encode(target)
    if len(target) > 100:
        fields['pax'] = {'linkpath': target, **fields.get('pax', {})}
        target = target[:100]
    return member(name, kind=b'1', link=target, **fields)


END = bytes(2 * BLOCK)


def archive(*members, end=END):
    return b''.join(members) + end


def acl(*entries):
    """The value of system.posix_acl_*: (tag, perm, id) each."""
    return struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *e) for e in entries)


def old_sparse(name, pieces, size, more=()):
    """An old GNU sparse file. pieces and more: (offset, bytes)."""
    everything = [*pieces, *more]
    stored = b''.join(data for _, data in everything)
    patch = {386: b''.join(octal(o, 12) + octal(len(d), 12) for o, d in pieces),
             482: b'\x01' if more else b'\0', 483: octal(size, 12)}
    blocks = b''
    rest = list(more)
    while rest:
        part, rest = rest[:21], rest[21:]
        block = b''.join(octal(o, 12) + octal(len(d), 12) for o, d in part).ljust(504, b'\0')
        blocks += (block + (b'\x01' if rest else b'\0')).ljust(BLOCK, b'\0')
    return header(name, b'S', len(stored), magic=b'ustar  \0', patch=patch) + blocks + pad(stored)
