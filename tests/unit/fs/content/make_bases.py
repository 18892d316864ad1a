#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes bases.h: small images with some of everything, for the unit tests and the fuzz target.

    make_bases.py > bases.h          as root (the kernel fills them, by a loop mount)

An image is written as base64 of runs: 16 bits of how many zero bytes, 16 bits of how many others, these.
"""
import base64
import os
import pathlib
import random
import struct
import subprocess
import tempfile

SIZE = 768 << 10

BASES = {
    'plain': ['-t', 'ext4', '-O', '^metadata_csum,^has_journal,^64bit,ea_inode,inline_data,^resize_inode'],
    'summed': ['-t', 'ext4', '-O', 'metadata_csum,^has_journal,64bit,ea_inode,inline_data,large_dir,^resize_inode'],
    'extents': ['-t', 'ext4', '-O', 'metadata_csum,^has_journal,^resize_inode'],
    'blocks': ['-t', 'ext2', '-I', '128', '-O', '^resize_inode,dir_index'],
}


def run(*args):
    subprocess.run([str(a) for a in args], check=True, stdout=subprocess.DEVNULL)


def fill(root, small):
    rng = random.Random(3)
    (root / 'empty').touch()
    (root / 'tiny').write_bytes(b't' * 40)
    (root / 'medium').write_bytes(b'm' * 130)
    (root / 'file').write_bytes(b'f' * 1100)
    with open(root / 'sparse', 'wb') as f:
        f.seek(70000)
        f.write(b's' * 100)
        f.truncate(300000)
    with open(root / 'scattered', 'wb') as f:  # an extent tree of two levels, or an indirect block
        for k in range(12 if small else 24):
            f.seek(k * 3072)
            f.write(b'x')
            os.fsync(f.fileno())
    d = root / 'indexed'
    d.mkdir()
    for k in range(45):
        (d / f'{k}{"n" * 60}{rng.randrange(10**6)}').touch() if k < 4 else os.link(
            d / sorted(os.listdir(d))[0], d / f'{k}{"l" * 60}{rng.randrange(10**6)}')
    sub = root / 'sub'
    sub.mkdir()
    (sub / 'ü').write_text('x')
    os.symlink('short', root / 'link')
    os.symlink('l' * 200, root / 'longlink')
    os.mknod(root / 'device', 0o20600, os.makedev(300, 70000))
    os.mkfifo(root / 'fifo')
    run('setfacl', '-m', 'u:1000:rw,g:5:r', root / 'tiny')
    run('setfacl', '-m', 'd:u:1:rwx', sub)
    os.setxattr(root / 'file', 'user.a', b'1')
    os.setxattr(root / 'file', 'user.b', b'v' * 500)
    os.setxattr(root / 'sparse', 'trusted.t', b'')
    try:
        os.setxattr(root / 'empty', 'user.large', b'L' * 1100)
    except OSError:
        pass  # without ea_inode
    os.utime(root / 'file', ns=(-1500000000, 5000000000123456789))


def make(directory, name, options):
    image = directory / name
    with open(image, 'wb') as f:
        f.truncate(SIZE if name != 'extents' else SIZE + (2 << 20))
    run('mkfs.ext4', '-q', '-F', '-b', '1024', '-N', '48', '-m', '0', '-U', '01234567-89ab-cdef-0123-456789abcdef',
        '-E', 'hash_seed=01234567-89ab-cdef-0123-456789abcdef,lazy_itable_init=0', *options, image)
    point = directory / 'm'
    point.mkdir(exist_ok=True)
    run('mount', '-o', 'loop', image, point)
    try:
        os.rmdir(point / 'lost+found')
        fill(point, name == 'blocks')
    finally:
        run('umount', point)
    if name == 'extents':
        run('tune2fs', '-J', 'size=1', image)
    run('e2fsck', '-fn', image)
    return image.read_bytes()


def make_fold(directory):
    """Case folding needs no kernel: the directory's flag is set by hand, e2fsck makes its index."""
    tree = directory / 'tree'
    (tree / 'fold').mkdir(parents=True)
    for k in range(60):
        (tree / 'fold' / f'Größe{k}{"N" * 40}').symlink_to('x')
    image = directory / 'fold'
    with open(image, 'wb') as f:
        f.truncate(SIZE)
    run('mkfs.ext4', '-q', '-F', '-b', '1024', '-N', '80', '-U', '01234567-89ab-cdef-0123-456789abcdef',
        '-O', '^metadata_csum,^has_journal,casefold,^resize_inode', '-E', 'encoding=utf8,root_owner=0:0',
        '-d', tree, image)
    run('debugfs', '-w', '-R', 'sif /fold flags 0x40080000', image)
    subprocess.run(['e2fsck', '-fyD', str(image)], stdout=subprocess.DEVNULL)
    run('e2fsck', '-fn', image)
    return image.read_bytes()


def runs(data):
    out, at = bytearray(), 0
    while at < len(data):
        zeros = 0
        while at + zeros < len(data) and zeros < 65535 and data[at + zeros] == 0:
            zeros += 1
        at += zeros
        end = at
        while end < len(data) and end - at < 65535 and data[end:end + 8] != bytes(8):
            end += 1
        out += struct.pack('<HH', zeros, end - at) + data[at:end]
        at = end
    return bytes(out)


def main():
    print('/* SPDX-License-Identifier: Apache-2.0 */')
    print('/* Made by make_bases.py. */')
    print('/* clang-format off */')
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        images = {name: make(directory, name, options) for name, options in BASES.items()}
        images['fold'] = make_fold(directory)
        names = []
        for name, data in images.items():
            text = base64.b64encode(runs(data)).decode()
            print(f'static const char base_{name}[] =')
            for k in range(0, len(text), 110):
                print(f'\t"{text[k:k + 110]}"' + (';' if k + 110 >= len(text) else ''))
            names.append(f'{{"{name}", {len(data)}, base_{name}}}')
        print('static const struct base { const char *name; size_t size; const char *text; } bases[] = {')
        print('\t' + ', '.join(names) + '};')
    print('/* clang-format on */')


main()
