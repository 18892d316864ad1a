# SPDX-License-Identifier: Apache-2.0
"""The same manifest gives the same bytes on every machine, whatever was there before; and is as large as it was configured."""
import json
import os
import random

import pytest

import images
import pulls
import trees
from archives import archive, directory, hardlink, member, symlink
from images import Image, Store

pytestmark = [pytest.mark.needs('banger-unpack', 'e2fsck'), pytest.mark.limit(120),
              pytest.mark.skipif(os.geteuid() != 0, reason='needs root to mount images')]
MIB = 1 << 20


def digest(path):
    return 'sha256:' + trees.digest(path)


def test_reproducible(worlds, tmp_path):
    """Two state directories, one after another; with lower layers flattened before or not; pulled twice in one place; the
    published digest is the file's."""
    dice = random.Random(3)
    lower = [archive(directory('./'), *(member(f'lib/{n}', dice.randbytes(30_000), mtime=n) for n in range(100)), hardlink('lib/h', 'lib/1')),
             archive(member('lib/.wh.5'), member('etc/x', b'x'), symlink('l', 'lib'))]
    store = Store()
    tags = {'lower': Image(*lower).put(store), 'it': Image(*lower, archive(member('top', b'top'), member('lib/.wh.7'))).put(store),
            'other': Image(*lower, archive(member('top', b'other'))).put(store)}
    layout = images.write_layout(tmp_path / 'l', store, tags)
    digests = {}
    for name, before in (('fresh', []), ('again', []), ('over-lower', ['lower']), ('over-other', ['other', 'lower'])):
        world = worlds(name).start()
        for tag in before:
            pulls.pull(world, f'oci:{layout}:{tag}', tag)
        for copy_name in ('it', 'twice'):
            pulls.pull(world, f'oci:{layout}:it', copy_name)
            image = pulls.rootfs(world, copy_name)
            pulls.fsck(image)
            digests[name, copy_name] = digest(image)
            assert pulls.digest_of(world, copy_name) == digests[name, copy_name]
        world.stop()
    assert len(set(digests.values())) == 1, digests


def test_headroom(worlds, tmp_path):
    """The image is as large as what it holds and the configured free space; sparse."""
    store = Store()
    layout = images.write_layout(tmp_path / 'l', store, {'it': Image(archive(directory('./'), member('a', os.urandom(10 * MIB)))).put(store)})
    for name, headroom in (('small', 4 * MIB), ('large', 2048 * MIB)):
        world = worlds(name)
        (world.base / 'config.json').write_text(json.dumps({'headroom': headroom, 'headroom_percent': 0}))
        world.env['BANGER_CONFIG'] = str(world.base / 'config.json')
        world.start()
        pulls.pull(world, f'oci:{layout}:it', 'it')
        image = pulls.rootfs(world, 'it')
        pulls.fsck(image)
        with pulls.mounted(image, tmp_path / 'mnt') as root:
            free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
            assert headroom * 0.9 <= free <= headroom * 1.3 + 2 * MIB, free
        assert image.stat().st_blocks * 512 < 10 * MIB + 0.1 * headroom + 4 * MIB
        world.stop()
