# SPDX-License-Identifier: Apache-2.0
"""Layers to images by banger-unpack alone, through unpack_run() and a small driver: against umoci, reused where blocks are
shared and where they are not, what was deleted, many layers, deep trees, its memory, and its system calls.
"""
import contextlib
import hashlib
import json
import os
import pathlib
import re
import subprocess

import pytest

import harness
import images
import test_import
from archives import archive, directory, hardlink, member, symlink
from conftest import QUICK
from images import Image, Store
from test_import import fsck, mounted
from test_pull_trees import plain_facts, random_image, same_trees, umoci

UNPACK = harness.PROGRAM.get('banger-unpack')
DRIVER = pathlib.Path(os.environ.get('BANGER_BUILD', 'build')) / 'tests/unit/unpack/unpack_layers'
pytestmark = [pytest.mark.needs('banger-unpack', 'e2fsck'), pytest.mark.limit(180),
              pytest.mark.skipif(not DRIVER.exists(), reason='needs the build of the tests')]
root_only = pytest.mark.skipif(os.geteuid() != 0, reason='needs root to mount images')
MIB = 1 << 20
SEED = 'seed=' + '5a' * 32


def diff_id(path):
    return 'sha256:' + hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


class Stack:
    """Layers in files."""

    def __init__(self, base, *tars):
        base.mkdir(parents=True, exist_ok=True)
        self.base, self.files, self.ids = base, [], []
        for i, tar in enumerate(tars):
            self.files.append(base / f'{i}.gz')
            self.files[-1].write_bytes(images.gz(tar))
            self.ids.append(images.sha256(tar))

    def unpack(self, image, *options, record=None, replay=None, first=0, check=True):
        """record, replay: directories of records; first: so many layers are replayed."""
        layers = []
        for i, (file, said) in enumerate(zip(self.files, self.ids)):
            if i < first:
                layers.append(f'replay={replay}/{i},diff_id={said}')
            else:
                layers.append(f'{file},diff_id={said},digest={said},compression=gzip' + (f',record={record}/{i}' if record else ''))
        return drive(image, *options, *layers, check=check)


class Driven(dict):
    """What the driver printed; .ok."""


def drive(image, *words, check=True):
    process = subprocess.Popen([DRIVER, image, SEED, 'headroom=1048576', *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, 'BANGER_UNPACK_DIR': os.path.dirname(UNPACK)})
    out, err = (text.decode(errors='replace') for text in process.communicate())
    assert not harness.SANITIZER.search(err), err
    assert process.returncode in (0, 1), (process.returncode, out, err)
    told = Driven(json.loads(out))
    told.ok = process.returncode == 0
    if check:
        assert told.ok, told
        fsck(image)
    return told


def digest(path):
    done = subprocess.run(['sha256sum', path], check=True, capture_output=True, text=True)
    return done.stdout.split()[0]


# ---- against umoci

@root_only
@pytest.mark.needs('umoci')
def test_as_umoci_random(base):
    for seed in range(100, 104 if QUICK else 112):
        store = Store()
        image = random_image(seed)
        layout = images.write_layout(base / f'l{seed}', store, {'it': image.put(store)})
        theirs = plain_facts(umoci(layout, base / f'b{seed}'))
        stack = Stack(base / f's{seed}', *(layer.tar for layer in image.layers))
        stack.unpack(base / 'it.ext4')
        try:
            with mounted(base / 'it.ext4', base / 'mnt') as root:
                same_trees(plain_facts(root), theirs)
        except AssertionError as error:
            raise AssertionError(f'seed {seed}: {error}') from None


@root_only
@pytest.mark.needs('umoci')
def test_as_umoci_by_hand(base):
    """What the random ones seldom do: links across layers, kinds that change, symlinks in the way, whiteouts of them."""
    tars = [archive(directory('./'), directory('usr/'), directory('usr/lib/'), symlink('lib', 'usr/lib'), member('usr/lib/a', b'1'),
                    directory('d/'), directory('d/e/'), member('d/e/f', b'2', mode=0o4755), member('d/g', b'3'), member('top', b'4')),
            archive(member('lib/b', b'5'), hardlink('linked', 'd/g'), hardlink('usr/lib/c', 'lib/a'), directory('top/'),
                    member('top/inside', b'6'), symlink('d/e', '../usr')),
            archive(member('.wh.top'), member('d/.wh.g'), member('lib/.wh.a'), member('d/h', b'7', uid=4_000_000_000)),
            archive(directory('d/', mode=0o1700, mtime=5), member('d/.wh..wh..opq'), member('d/new', b'8')),
            archive(), archive(member('.wh.lib'), directory('lib/'), member('lib/own', b'9'))]
    store = Store()
    layout = images.write_layout(base / 'l', store, {'it': Image(*tars).put(store)})
    theirs = plain_facts(umoci(layout, base / 'bundle'))
    Stack(base / 's', *tars).unpack(base / 'it.ext4')
    with mounted(base / 'it.ext4', base / 'mnt') as root:
        same_trees(plain_facts(root), theirs)


# ---- reuse

SECRET = b'what the second layer takes away '


def stacks(base):
    """Two images with three layers in common, of which the first image's fourth removes content."""
    noise = [os.urandom(3 * MIB), os.urandom(2 * MIB), os.urandom(MIB)]
    below = [archive(directory('root/'), member('root/.bashrc', b'hello'), member('big', noise[0]), member('gone', SECRET * 40_000)),
             archive(member('two', noise[1]), member('.wh.gone'), hardlink('again', 'big')),
             archive(member('three', noise[2]), directory('d/'), *(member(f'd/{i}', b'%d' % i) for i in range(3000)))]
    first = Stack(base / 'one', *below, archive(member('.wh.two'), member('d/.wh..wh..opq'), member('.wh.three'), member('x', b'x')))
    other = Stack(base / 'other', *below, archive(member('y', SECRET[:5]), directory('e/')))
    return first, other


@contextlib.contextmanager
def sharing(base):
    """A filesystem that shares blocks."""
    disk, point = base / 'xfs', base / 'shared'
    with open(disk, 'wb') as f:
        f.truncate(600 * MIB)
    subprocess.run(['mkfs.xfs', '-q', '-m', 'reflink=1', disk], check=True)
    point.mkdir()
    subprocess.run(['mount', '-o', 'loop', disk, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(['umount', point], check=True)


@root_only
@pytest.mark.needs('mkfs.xfs')
def test_reused_where_blocks_are_shared(base):
    first, other = stacks(base)
    with sharing(base) as disk:
        (disk / 'records').mkdir()
        told = first.unpack(disk / 'first', f'keep={disk}/kept', 'mountpoints=1', record=disk / 'records')
        assert told['kept']
        assert SECRET not in (disk / 'first').read_bytes()
        # A record that cannot be written costs only the record.
        assert not drive(disk / 'full', f'keep={disk}/kept0', f'{first.files[0]},record=/dev/full')['kept']
        fresh = other.unpack(disk / 'fresh', 'mountpoints=1')
        for k in (1, 2, 3):
            again = other.unpack(disk / 'again', f'from={disk}/kept', 'mountpoints=1', replay=disk / 'records', first=k)
            assert again['shared']
            assert digest(disk / 'again') == digest(disk / 'fresh')
            for key in ('size', 'used', 'free', 'content', 'inodes', 'members', 'uuid'):
                assert again[key] == fresh[key]
            assert again['read'] == sum(os.path.getsize(f) for f in other.files[k:])
            assert SECRET not in (disk / 'again').read_bytes()
        # The whole image again, and its own upper layers kept from a run that reused the lower ones.
        first.unpack(disk / 'same', f'from={disk}/kept', 'mountpoints=1', replay=disk / 'records', first=4)
        assert digest(disk / 'same') == digest(disk / 'first')
        (disk / 'more').mkdir()
        other.unpack(disk / 'again', f'from={disk}/kept', f'keep={disk}/kept2', replay=disk / 'records', record=disk / 'more', first=2)
        for i in (0, 1):
            os.link(disk / f'records/{i}', disk / f'more/{i}')
        other.unpack(disk / 'third', f'from={disk}/kept2', 'mountpoints=1', replay=disk / 'more', first=4)
        assert digest(disk / 'third') == digest(disk / 'fresh')


@root_only
@pytest.mark.needs('mkfs.xfs')
def test_reused_from_an_image(base):
    """An image itself serves too when nothing was removed; what it has between the content is not taken."""
    below = archive(member('large', b'abcd' * (36 * MIB)), member('small', b'1'))
    with sharing(base) as disk:
        (disk / 'records').mkdir()
        first = Stack(base / 's', below, archive(member('more', b'efgh' * MIB), *(member(f'd/{i}') for i in range(5000))))
        first.unpack(disk / 'first', record=disk / 'records')
        other = Stack(base / 't', below, archive(member('x', b'y')))
        other.unpack(disk / 'fresh')
        told = other.unpack(disk / 'again', f'from={disk}/first', replay=disk / 'records', first=1)
        assert told['shared'] and told['content'] > 128 * MIB
        assert digest(disk / 'again') == digest(disk / 'fresh')


def test_reused_by_copying(base):
    """Where blocks are not shared, an image of which no upper layer removed anything serves."""
    first, other = stacks(base)
    (base / 'records').mkdir()
    told = other.unpack(base / 'first', f'keep={base}/kept', record=base / 'records')
    first.unpack(base / 'fresh')
    again = first.unpack(base / 'again', f'from={base}/first', replay=base / 'records', first=3)
    assert again['shared'] == told['kept']
    assert digest(base / 'again') == digest(base / 'fresh')


# ---- sizes

@pytest.mark.slow
def test_a_thousand_layers(base):
    tars = [archive(member(f'f{i}', b'%d' % i), *([member(f'.wh.f{i - 1}')] if i % 2 else [])) for i in range(1000)]
    told = Stack(base / 's', *tars).unpack(base / 'it.ext4')
    assert told['members'] == 1500 and told['inodes'] == 501
    assert told['memory'] < 60_000


@root_only
def test_deep(base):
    """2,000 levels, described, hidden, and replaced."""
    deep = 'd/' * 2000
    below = archive(*(directory(deep[:2 * n]) for n in range(1, 2001)), member(deep + 'f', b'x'))
    Stack(base / 's', below, archive(member(deep + 'g', b'y'))).unpack(base / 'it.ext4')
    with mounted(base / 'it.ext4', base / 'mnt') as root:
        here = os.open(root, os.O_RDONLY)
        for _ in range(2000):
            below_here = os.open('d', os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below_here
        assert sorted(os.listdir(here)) == ['f', 'g']
        os.close(here)
    told = Stack(base / 't', below, archive(member(deep + 'g', b'y'), member('d/.wh.d'))).unpack(base / 'it.ext4')
    assert told['inodes'] == 2002
    told = Stack(base / 'u', below, archive(member('d', b'y'))).unpack(base / 'it.ext4')
    assert told['inodes'] == 2


@pytest.mark.slow
def test_memory(base):
    """50,000 files and their records in 60 MB."""
    members = [member(f'some/directory-{i % 500}/a-name-of-usual-length-{i}', b'content %d' % i, mtime=i) for i in range(50_000)]
    stack = Stack(base / 's', archive(*members[:25_000]), archive(*members[25_000:]))
    (base / 'r').mkdir()
    assert stack.unpack(base / 'it.ext4', record=base / 'r')['memory'] < 60_000
    again = stack.unpack(base / 'again.ext4', f'from={base}/it.ext4', replay=base / 'r', first=2)
    assert again['memory'] < 60_000
    assert digest(base / 'it.ext4') == digest(base / 'again.ext4')


@pytest.mark.slow
def test_repeated_whiteouts_take_no_time(base):
    """Each directory is walked once in a layer, however often it is hidden."""
    names = [member(f'd/{i}') for i in range(30_000)]
    told = Stack(base / 's', archive(*names), archive(*names, *[member('d/.wh..wh..opq'), member('.wh.d')] * 20_000)).unpack(base / 'it.ext4')
    assert told['inodes'] == 30_002
    assert told['cpu_us'] < 2_000_000


@pytest.mark.parametrize('zeros', [300 * MIB])
def test_limit_of_what_layers_unpack_to(base, zeros):
    file, tar = base / 'bomb.gz', member('bomb', b'', size=zeros)
    pack = subprocess.Popen(['gzip', '-1', '-c'], stdin=subprocess.PIPE, stdout=open(file, 'wb'))
    pack.stdin.write(tar)
    for _ in range(zeros // MIB):
        pack.stdin.write(bytes(MIB))
    pack.stdin.write(bytes(1024))
    pack.stdin.close()
    assert pack.wait() == 0
    told = drive(base / 'it.ext4', f'max={100 * MIB}', f'{file},digest=sha256:bomb', check=False)
    assert told['code'] == 'too_large' and 'over the limit of 104857600' in told['message'] and 'sha256:bomb' in told['message']
    told = drive(base / 'it.ext4', str(file))
    assert told['used'] < 30 * MIB


# ---- it is stopped

@pytest.mark.needs('sleep')
def test_cancelled_and_stalled(base):
    stack = Stack(base / 's', archive(member('a', os.urandom(4 * MIB))))
    told = stack.unpack(base / 'it.ext4', 'grow=1', 'delay=100000', 'cancel=300', check=False)
    assert told['code'] == 'cancelled'
    # Waiting for a blob is not standing still.
    told = stack.unpack(base / 'it.ext4', f'grow={MIB}', 'delay=1500000', 'stall=1000')
    assert told.ok


# ---- its system calls

ALLOWED = set('''read write pread64 pwrite64 lseek fallocate ftruncate close poll ppoll brk munmap mremap madvise futex sched_yield
    rt_sigprocmask rt_sigreturn restart_syscall getpid gettid exit exit_group clock_gettime mmap mprotect fcntl recvmsg ioctl'''.split())
REFUSED = set('sysinfo sched_getaffinity prctl getuid geteuid getgid getegid getrandom'.split())


@pytest.mark.slow
@pytest.mark.needs('strace')
def test_system_calls(base):
    """In its sandbox it makes no call but those that it needs."""
    stack = Stack(base / 's', archive(directory('root/'), member('root/a', os.urandom(MIB))), archive(member('b', b'x'), member('.wh.b')))
    wrapper = base / 'wrapped'
    wrapper.mkdir()
    log = base / 'calls'
    (wrapper / 'banger-unpack').write_text(f'#!/bin/sh\nexec strace -f -qq -s 0 -o {log} {UNPACK} "$@"\n')
    (wrapper / 'banger-unpack').chmod(0o755)
    (base / 'r').mkdir()
    done = subprocess.run([DRIVER, base / 'it.ext4', f'home={base}/home', f'keep={base}/kept', f'grow={MIB}',
                           *(f'{f},record={base}/r/{i}' for i, f in enumerate(stack.files))],
                          env={**os.environ, 'BANGER_UNPACK_DIR': str(wrapper)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = log.read_text().splitlines()
    sealed = max(i for i, line in enumerate(lines) if re.search(r' seccomp\(SECCOMP_SET_MODE_FILTER', line))
    made = {m[1] for line in lines[sealed + 1:] if (m := re.match(r'\d+ +(\w+)\(', line))}
    assert {'pwrite64', 'recvmsg', 'pread64'} <= made
    assert made - ALLOWED - REFUSED == set()
