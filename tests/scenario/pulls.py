# SPDX-License-Identifier: Apache-2.0
"""What the scenarios of pull share: one daemon for many pulls, what must hold after a success and after a refusal,
images looked at through the kernel."""
import contextlib
import hashlib
import os
import pathlib
import re
import subprocess
import tempfile

import harness
import images
import trees

BLOB = re.compile(r'(sha256/[0-9a-f]{64}|sha512/[0-9a-f]{128})(\.partial)?')


def fsck(image):
    done = subprocess.run(['e2fsck', '-fn', image], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def mounted(image, point, options='ro,noload'):
    point = pathlib.Path(point)
    point.mkdir(parents=True, exist_ok=True)
    harness.loop_mount(image, point, options)
    try:
        yield point
    finally:
        subprocess.run(['umount', point], check=True)
        point.rmdir()


def tree_of(image, point):
    """trees.facts() of an image's file; it must be sound."""
    fsck(image)
    with mounted(image, point) as root:
        return trees.facts(root)


def rootfs(banger, name, file='rootfs.ext4'):
    return banger.state / 'images' / banger.images()['published', name]['id'] / file


def digest_of(banger, name):
    """What image.json says of rootfs.ext4; it is computed behind the publication."""
    return harness.until(lambda: banger.images()['published', name].get('digest'), 'the digest', 30)


def cached(banger, whole=None):
    """Files of the blob cache, {path below blobs/: size}; whole: only such, or only partial ones."""
    top = banger.state / 'cache/blobs'
    found = {str(p.relative_to(top)): p.stat().st_size for p in top.rglob('*') if not p.is_dir()}
    return found if whole is None else {n: s for n, s in found.items() if n.endswith('.partial') != whole}


def assert_cache_sound(banger):
    """Whole blobs that are what their names say, the beginnings of blobs, and nothing else."""
    for name in cached(banger):
        match = BLOB.fullmatch(name)
        assert match, f'cache/blobs/{name}'
        if not match.group(2):
            algorithm, hexdigits = name.split('/')
            data = (banger.state / 'cache/blobs' / name).read_bytes()
            assert hashlib.new(algorithm, data).hexdigest() == hexdigits, f'cache/blobs/{name} has another content'


def assert_nothing_new(banger, before):
    """The registry is as it was, nothing is half-made."""
    banger.settled()
    assert banger.images().keys() == before.keys()
    assert banger.leftovers() == []
    ids = {image['id'] for image in before.values()}
    assert {p.name for folder in ('images', 'drafts') for p in (banger.state / folder).iterdir()} == ids
    assert not [p for p in harness.children(banger.daemon.pid).values() if 'banger-unpack' in p]
    assert_cache_sound(banger)


def pull(banger, source, name, *options, timeout=60, check=True, **kwargs):
    return banger.ctl('image', 'pull', source, '--name', name, *options, timeout=timeout, check=check, **kwargs)


def refused(banger, source, name, *options, codes=(), words='', before=None, **kwargs):
    """Pulls; it must be refused for this reason, with an op_id that leads to the record, and leave nothing. Gives the
    message."""
    codes = {codes} if isinstance(codes, str) else set(codes)
    before = banger.images() if before is None else before
    result = pull(banger, source, name, *options, check=False, **kwargs)
    assert result.code == 1, f'exit {result.code}: {result.out}{result.err}'
    record = banger.op(result.op_id)
    assert record['outcome'] in ('failed', 'cancelled'), record
    assert re.search(words, result.err), f'/{words}/ is not in: {result.err}'
    assert not codes or record['code'] in codes, f'{record["code"]}: {result.err}'
    log = banger.records(result.op_id)
    assert log[-1]['msg'] == 'operation failed' and log[-1]['code'] == record['code'], log[-1]
    assert_nothing_new(banger, before)
    return result.err


@contextlib.contextmanager
def shared_world(scratch, **kwargs):
    """A daemon for a whole module: many small pulls would else mostly wait for starts."""
    base = pathlib.Path(tempfile.mkdtemp(prefix='p', dir=scratch))
    base.chmod(0o755)
    world = harness.Banger(base, **kwargs)
    wrong = ['not ended']
    try:
        yield world
    finally:
        wrong = world.check_clean()
        harness.force_unmount(base)
        if not wrong:
            harness.remove_tree(base)
    assert not wrong, '\n'.join(wrong)


def remove(banger, name):
    banger.call('image.delete', {'image': f'images/{name}'})


def assert_tree(banger, name, expected):
    """The published image is sound and holds exactly this."""
    wrong = images.compare(tree_of(rootfs(banger, name), banger.base / 'look'), expected)
    assert not wrong, '\n'.join(wrong)


def is_root():
    return os.geteuid() == 0
