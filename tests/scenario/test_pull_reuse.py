# SPDX-License-Identifier: Apache-2.0
"""Lower layers that were unpacked for another image are not unpacked again where the disk can clone: the result is the
same to the byte, a damaged cache costs nothing but time, and the cache can be pruned."""
import contextlib
import os
import random
import resource
import shutil
import subprocess

import pytest

import harness
import images
import pulls
from archives import archive, directory, member
from images import Image, Store

pytestmark = [pytest.mark.needs('banger-unpack', 'e2fsck', 'mkfs.xfs'), pytest.mark.limit(120),
              pytest.mark.skipif(os.geteuid() != 0, reason='needs root to mount a filesystem that clones')]
MIB = 1 << 20


@pytest.fixture
def world(worlds, base):
    """A daemon whose state is on a filesystem that clones."""
    banger = worlds('w')
    disk = base / 'disk'
    with open(disk, 'wb') as f:
        f.truncate(1200 * MIB)
    subprocess.run(['mkfs.xfs', '-q', '-m', 'reflink=1', disk], check=True)
    banger.state.mkdir(parents=True, exist_ok=True)
    harness.loop_mount(disk, banger.state)
    try:
        yield banger.start()
    finally:
        banger.stop()
        subprocess.run(['umount', banger.state], check=True)


@pytest.fixture
def layout(base):
    dice = random.Random(7)
    lower = [archive(directory('./'), *(member(f'lib/{n}', dice.randbytes(60_000)) for n in range(60)), member('gone', dice.randbytes(90_000))),
             archive(member('usr/share/x', dice.randbytes(300_000)), member('lib/.wh.3')),
             archive(member('etc/x', b'x'), member('.wh.gone'))]
    store = Store()
    tags = {'one': Image(*lower, archive(member('top', b'one'))).put(store),
            'two': Image(*lower, archive(member('top', b'two'), member('.wh.usr'))).put(store),
            'three': Image(lower[0], lower[2]).put(store)}
    return images.write_layout(base / 'l', store, tags)


def pulled(world, layout, tag, name=None):
    """Pull; what the log says of it, and the image's digest."""
    result = pulls.pull(world, f'oci:{layout}:{tag}', name or tag)
    assert result.code == 0
    pulls.fsck(pulls.rootfs(world, name or tag))
    said = [line for line in world.records() if line.get('msg') == 'pulled'][-1]
    return said, world.images()['published', name or tag]['digest']


def entries(world):
    return sorted(p.name for p in (world.state / 'cache/flat').iterdir())


def test_reused(world, layout):
    fresh = {}
    for tag in ('one', 'two', 'three'):
        said, fresh[tag] = pulled(world, layout, tag)
        assert len(entries(world)) == 1 and said['reused'] == 0
        world.call('image.delete', {'image': tag})
        shutil.rmtree(world.state / 'cache/flat' / entries(world)[0])
    # In each order, over each other.
    for first, then, shared in (('one', 'two', 3), ('two', 'one', 3), ('one', 'three', 1), ('three', 'two', 1)):
        assert pulled(world, layout, first, 'a')[1] == fresh[first]
        said, digest = pulled(world, layout, then, 'b')
        assert (said['reused'], digest) == (shared, fresh[then])
        # The very same once more: all of it is there.
        said, digest = pulled(world, layout, then, 'c')
        assert (said['reused'], digest) == (said['layers'], fresh[then])
        assert len(entries(world)) == 2
        # What it was made for may go.
        world.call('image.delete', {'image': 'a'})
        world.call('image.delete', {'image': 'b'})
        world.settled()
        assert pulled(world, layout, first, 'd')[1] == fresh[first]
        for name in 'cd':
            world.call('image.delete', {'image': name})
        for entry in entries(world):
            shutil.rmtree(world.state / 'cache/flat' / entry)


@pytest.mark.parametrize('harm', ['record', 'short', 'data', 'absent', 'layers'])
def test_a_damaged_cache(world, layout, harm):
    """It is done again without, and the harm is gone."""
    _, fresh = pulled(world, layout, 'two')
    world.call('image.delete', {'image': 'two'})
    shutil.rmtree(world.state / 'cache/flat' / entries(world)[0])
    pulled(world, layout, 'one')
    entry = world.state / 'cache/flat' / entries(world)[0]
    if harm == 'record':
        data = bytearray((entry / '1').read_bytes())
        data[len(data) // 2] ^= 0x55
        (entry / '1').write_bytes(data)
    elif harm == 'short':
        os.truncate(entry / '0', (entry / '0').stat().st_size - 1)
    elif harm == 'data':
        os.truncate(entry / 'data', 4096)
    elif harm == 'absent':
        (entry / 'data').unlink()
    else:
        (entry / 'layers').write_text('sha256:nonsense\n' * 5)
    said, digest = pulled(world, layout, 'two')
    assert (said['reused'], digest) == (0, fresh)
    if harm != 'layers':
        assert entry.name not in entries(world)
    assert pulled(world, layout, 'two', 'again')[1] == fresh


def test_no_descriptors(world, base):
    """A daemon without a descriptor to spare cannot open what it has; that is kept for when there are some again."""
    store = Store()
    said = Image(*(archive(member(f'f{n}', b'%d' % n)) for n in range(300))).put(store)
    many = images.write_layout(base / 'many', store, {'it': said})
    _, fresh = pulled(world, many, 'it', 'first')
    pid, kept = world.daemon.pid, entries(world)
    assert len(kept) == 1
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f'/proc/{pid}/fd')) + 100, limits[1]))
    pulls.pull(world, f'oci:{many}:it', 'second', check=False)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert [line for line in world.records() if line.get('msg') == 'unpacked layers cannot be reused']
    assert entries(world) == kept
    said, digest = pulled(world, many, 'it', 'third')
    assert (said['reused'], digest) == (300, fresh)


def test_two_at_once(world, layout):
    """Two pulls that make the same entry, and one that reuses it meanwhile."""
    started = [subprocess.Popen([harness.PROGRAM['banger-ctl'], 'image', 'pull', f'oci:{layout}:{tag}', '--name', f'n{i}'],
                                env={**os.environ, **world.env}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
               for i, tag in enumerate(('one', 'one', 'two', 'two', 'three'))]
    for one in started:
        _, err = one.communicate(timeout=60)
        assert one.returncode == 0, err
    digests = {i: world.images()['published', f'n{i}']['digest'] for i in range(5)}
    assert digests[0] == digests[1] and digests[2] == digests[3]
    assert all(len(name) == 64 for name in entries(world)), entries(world)


def test_killed(world, layout):
    """What a dead daemon left half-made is gone after the next start."""
    (world.state / 'cache/flat' / ('0' * 64 + '.new')).mkdir(parents=True)
    with contextlib.suppress(FileExistsError):
        (world.state / 'cache/flat' / ('0' * 64 + '.new') / 'data').write_bytes(b'x')
    world.kill()
    world.start()
    assert entries(world) == []
    assert pulled(world, layout, 'one')[0]['reused'] == 0
