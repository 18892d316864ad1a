# SPDX-License-Identifier: Apache-2.0
"""What pulled images hold: entry by entry what umoci unpack makes of the same image, what a model of the merge rules says
where umoci is at fault, and a filesystem that the kernel mounts, fills and grows.
"""
import copy
import hashlib
import json
import os
import random
import shutil

import pytest

import harness
import images
import pulls
import test_import
import trees
from archives import acl, archive, directory, hardlink, header, member, pax, symlink
from conftest import QUICK
from images import Image, Store

pytestmark = [pytest.mark.needs('banger-unpack', 'e2fsck'), pytest.mark.limit(180),
              pytest.mark.skipif(os.geteuid() != 0, reason='needs root to mount images')]
MIB = 1 << 20
ACL = acl((1, 7, 0xffffffff), (2, 5, 1234), (4, 4, 0xffffffff), (16, 7, 0xffffffff), (32, 0, 0xffffffff))


# ---- random images whose layers change each other

class Writer:
    """Layers over one another, with no more than umoci 0.4.7 does right: whiteouts come first in a layer, parents are
    described when they are new, names do not lead through symlinks."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.kinds = {}     # path: 'dir', 'file', 'other' as the layers so far leave it
        self.there = set()  # of this layer

    def fields(self, kind):
        dice = self.dice
        fields = {'uid': dice.choice((0, 0, 33, 1000, 4_000_000_000)), 'gid': dice.choice((0, 5, 65536)), 'pax': {}}
        fields['pax']['mtime'] = dice.choice(('1700000000', '1700000000.000000001', '1234567890.987654321', '-5', '4102444800.5', '0'))
        if kind != 'link':
            fields['mode'] = dice.choice((0o644, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0, 0o7777))
        if kind in ('file', 'dir') and dice.random() < 0.3:
            fields['pax']['SCHILY.xattr.user.note'] = str(dice.random())
        if kind == 'file' and dice.random() < 0.1:
            fields['pax']['SCHILY.xattr.security.capability'] = images.capability()
        if kind == 'file' and dice.random() < 0.1:
            fields['pax']['SCHILY.xattr.system.posix_acl_access'] = ACL
            fields['mode'] = 0o770
        return fields

    def forget(self, path):
        for other in [p for p in self.kinds if p == path or p.startswith(path + '/')]:
            del self.kinds[other]

    def path(self):
        """A new or old name whose parents are directories; what is missing of them comes first."""
        parts = [self.dice.choice('abcdefghij') for _ in range(self.dice.choice((1, 2, 2, 3, 3, 4)))]
        out = []
        for n in range(1, len(parts)):
            folder = '/'.join(parts[:n])
            kind = self.kinds.get(folder)
            if kind is None:
                out.append(directory(folder + '/', **self.fields('dir')))
                self.kinds[folder] = 'dir'
                self.there.add(folder)
            elif kind != 'dir':
                return [], None
        return out, '/'.join(parts)

    def entry(self):
        out, path = self.path()
        if path is None:
            return out
        dice = self.dice
        kind = dice.choice(('file', 'file', 'file', 'dir', 'dir', 'dir', 'link', 'hard', 'fifo', 'device'))
        links = [p for p, k in self.kinds.items() if k != 'dir' and p != path and not p.startswith(path + '/')]
        if self.kinds.get(path) == 'dir' and kind != 'dir' and (kind == 'hard' or dice.random() < 0.8):
            return out
        if kind == 'hard' and not links:
            return out
        if kind != 'dir' or self.kinds.get(path) != 'dir':
            self.forget(path)
        self.kinds[path] = 'dir' if kind == 'dir' else 'file'
        fields = self.fields(kind)
        if kind == 'file':
            out.append(member(path, dice.randbytes(dice.choice((0, 1, 500, 4096, 20_000))), **fields))
        elif kind == 'dir':
            out.append(directory(path, **fields))
        elif kind == 'link':
            out.append(symlink(path, dice.choice(('x', '/', '../..', 't' * 59, 't' * 60, 't' * 300)), **fields))
        elif kind == 'hard':
            out.append(hardlink(path, dice.choice(links)))
        else:
            extra = fields.pop('pax')
            out.append(pax(extra) + header(path, b'6' if kind == 'fifo' else b'3', **fields, **({} if kind == 'fifo' else {'major': 4, 'minor': 70})))
        return out

    def layer(self, entries=60):
        out = []
        if self.kinds:
            for path in self.dice.sample(sorted(self.kinds), min(len(self.kinds), self.dice.randrange(4))):
                if path in self.kinds and self.parents_are_there(path):
                    folder, _, name = path.rpartition('/')
                    out.append(member((folder + '/' if folder else '') + '.wh.' + name))
                    self.forget(path)
            folders = [p for p, k in self.kinds.items() if k == 'dir']
            if folders and self.dice.random() < 0.5:
                folder = self.dice.choice(folders)
                out += [directory(folder, **self.fields('dir')), member(folder + '/.wh..wh..opq')]
                for path in [p for p in self.kinds if p.startswith(folder + '/')]:
                    del self.kinds[path]
        for _ in range(entries):
            out += self.entry()
        return archive(*out)

    def parents_are_there(self, path):
        parts = path.split('/')
        return all(self.kinds.get('/'.join(parts[:n])) == 'dir' for n in range(1, len(parts)))


def random_image(seed):
    writer = Writer(seed)
    first = archive(directory('./', mode=0o755, mtime=1_600_000_000))
    return Image(first, *(writer.layer() for _ in range(1 + seed % 5)))


def umoci(layout, bundle):
    harness.run('umoci', 'unpack', '--image', f'{layout}:it', bundle, timeout=300)
    return bundle / 'rootfs'


def plain_facts(root, drop=()):
    """facts() without what the two sides cannot share: the root's own times and links, mount points made for booting."""
    found = trees.facts(root)
    for name in drop:
        found.pop(name, None)
    found[b'.'] = {k: found[b'.'][k] for k in ('mode', 'owner')}
    return found


def same_trees(ours, theirs):
    added = [n for n in images.BOOT if n in ours and n not in theirs]
    for name in added:
        assert ours[name]['type'] == '0o40000'
        del ours[name]
    assert trees.difference(theirs, ours) == []


@pytest.fixture(scope='module')
def shared(scratch):
    with pulls.shared_world(scratch) as world:
        config = world.base / 'config.json'
        config.write_text(json.dumps({'headroom': 8 * MIB}))
        world.env['BANGER_CONFIG'] = str(config)
        world.start()
        world.tree = world.mount()
        yield world


@pytest.fixture
def pulled(shared):
    """pulled(source): pulls it as "it"; gone after the test."""
    made = []

    def make(source, name='it', *options, **kwargs):
        pulls.pull(shared, source, name, *options, **kwargs)
        made.append(name)
        harness.until((shared.tree / 'images' / name).is_dir, f'images/{name} to show', 5)
        return pulls.rootfs(shared, name)
    yield make
    for name in made:
        pulls.remove(shared, name)


@pytest.mark.needs('umoci')
def test_as_umoci_random(shared, pulled, tmp_path):
    """Through rootfs/NAME and through the kernel, 30 images of up to six layers."""
    for seed in range(8 if QUICK else 30):
        store = Store()
        said = random_image(seed).put(store)
        layout = images.write_layout(tmp_path / f'l{seed}', store, {'it': said})
        theirs = plain_facts(umoci(layout, tmp_path / f'b{seed}'))
        image = pulled(f'oci:{layout}:it', f'random-{seed}')
        pulls.fsck(image)
        try:
            same_trees(plain_facts(shared.tree / 'rootfs' / f'random-{seed}'), copy.deepcopy(theirs))
            with pulls.mounted(image, tmp_path / 'mnt') as root:
                same_trees(plain_facts(root), theirs)
        except AssertionError as error:
            raise AssertionError(f'seed {seed}: {error}') from None


@pytest.mark.needs('umoci', 'tar')
def test_as_umoci_everything(shared, pulled, tmp_path):
    """What GNU tar makes of a tree with one of everything, and a second layer of changes."""
    tree = tmp_path / 'tree'
    test_import.make_everything(tree)
    (tree / 'all hole').unlink()
    for name in os.listdir(os.fsencode(tree)):
        if name.startswith(b'time-'):  # umoci takes half a second before the epoch for one after it
            os.unlink(os.path.join(os.fsencode(tree), name))
    tar = tmp_path / 'a.tar'
    harness.run('tar', '-C', tree, '--xattrs', '--xattrs-include=*', '--acls', '--numeric-owner', '--format=posix', '-S', '-cf', tar, '.')
    second = archive(member('.wh.owned'), member('deep/.wh.0123456789'), member('size-1', b'new', mtime=77), hardlink('hard3', 'size-4097'),
                     directory('many', mode=0o750, mtime=78), member('many/.wh..wh..opq'), member('many/only', b'x'), symlink('sticky', 'many'))
    store = Store()
    layout = images.write_layout(tmp_path / 'l', store, {'it': Image(tar.read_bytes(), second).put(store)})
    theirs = plain_facts(umoci(layout, tmp_path / 'bundle'))
    image = pulled(f'oci:{layout}:it')
    pulls.fsck(image)
    # umoci leaves out attributes that are empty.
    ours = plain_facts(shared.tree / 'rootfs/it')
    for fact in ours.values():
        fact['xattrs'] = {k: v for k, v in fact.get('xattrs', {}).items() if v}
    for fact in theirs.values():
        fact.setdefault('xattrs', {})
    same_trees(ours, theirs)
    with pulls.mounted(image, tmp_path / 'mnt') as root:
        assert os.stat(root / 'sparse').st_blocks < 100


# ---- the rules that umoci does not keep: against a model

class Layers(test_import.Model):
    """The model of one archive (test_import), and layers: a whiteout hides what lower layers have, never what its own has,
    wherever it stands. `names` of a directory are marked by the layer that put them there or described them."""

    def __init__(self):
        super().__init__()
        self.number, self.mine = 0, set()

    def next_layer(self):
        self.number += 1
        self.mine = set()

    def mark(self, path):
        """This layer has something at path: it and its parents stay."""
        at, parts = self.root, []
        for part in path.split('/'):
            self.mine.add((id(at), part))
            at = at['names'].get(part, {})
            if at.get('kind') != 'dir':
                break

    def apply(self, kind, path, argument):
        good = super().apply(kind, path, argument)
        if good:
            self.mark(path)
        return good

    def hide(self, folder, name):
        node = folder['names'].get(name)
        if node is None:
            return
        if (id(folder), name) not in self.mine:
            del folder['names'][name]
        elif node['kind'] == 'dir':
            self.hide_all(node)

    def hide_all(self, folder):
        for name in list(folder['names']):
            self.hide(folder, name)


def plain_path(model, path):
    """No symlink in the way: what is marked and hidden is then where the name says."""
    at = model.root
    for part in path.split('/')[:-1]:
        at = at['names'].get(part)
        if at is None:
            return True
        if at['kind'] != 'dir':
            return False
    return True


def node_of(model, path):
    *parents, last = path.split('/')
    folder = model.walk(parents, False)
    return folder and folder['names'].get(last)


def random_layer(dice, model):
    def path():
        return '/'.join(dice.choice('abcd') for _ in range(dice.choice((1, 1, 2, 2, 3, 4))))

    model.next_layer()
    out = []
    for n in range(dice.randrange(3, 40)):
        kind = dice.choice(('file', 'file', 'dir', 'link', 'hard', 'whiteout', 'opaque'))
        name = path()
        if not plain_path(model, name):
            continue
        if kind in ('whiteout', 'opaque'):
            folder = model.walk(name.split('/')[:-1], False)
            if folder is None:
                continue
            if kind == 'whiteout':
                model.hide(folder, name.split('/')[-1])
                parts = name.rpartition('/')
                out.append(member(parts[0] + parts[1] + '.wh.' + parts[2]))
            else:
                node = folder['names'].get(name.split('/')[-1])
                if node is None or node['kind'] != 'dir':
                    continue
                model.hide_all(node)
                out.append(member(name + '/.wh..wh..opq'))
            continue
        argument = {'file': b'%d' % n * dice.choice((0, 1, 5000)), 'dir': None, 'hard': path(), 'link': dice.choice(('', '/', '../')) + path()}[kind]
        if kind == 'hard' and node_of(model, name) is not None and node_of(model, name) is node_of(model, argument):
            continue  # what is so already: does the layer have it?
        snapshot = copy_model(model)
        if model.apply(kind, name, argument):
            out.append({'file': lambda: member(name, argument), 'dir': lambda: directory(name), 'hard': lambda: hardlink(name, argument),
                        'link': lambda: symlink(name, argument)}[kind]())
        else:
            restore_model(model, snapshot)
    return archive(*out)


def copy_model(model):
    """Everything by identity: marks are by id()."""
    found, queue = [], [model.root]
    seen = set()
    while queue:
        node = queue.pop()
        if id(node) in seen or node['kind'] != 'dir':
            continue
        seen.add(id(node))
        found.append((node, dict(node['names'])))
        queue += node['names'].values()
    return found, set(model.mine)


def restore_model(model, snapshot):
    found, model.mine = snapshot
    for node, names in found:
        node['names'] = names


def test_as_the_model_says(shared, pulled, tmp_path):
    """Whiteouts and opaque markers before, between and after what their own layer has."""
    for seed in range(20 if QUICK else 80):
        dice, model = random.Random(seed), Layers()
        layers = [random_layer(dice, model) for _ in range(dice.randrange(2, 6))]
        store = Store()
        layout = images.write_layout(tmp_path / f'l{seed}', store, {'it': Image(*layers).put(store)})
        image = pulled(f'oci:{layout}:it', f'model-{seed}')
        pulls.fsck(image)
        with pulls.mounted(image, tmp_path / 'mnt') as root:
            found, same = test_import.listing_of(root)
        wanted, wanted_same = model.listing()
        for name in images.BOOT:
            if os.fsdecode(name) not in wanted:
                found.pop(os.fsdecode(name), None)
        assert (found, same) == (wanted, wanted_same), f'seed {seed}'


# ---- the filesystem

def digest(path):
    return 'sha256:' + trees.digest(path)


def test_different_images_differ(shared, pulled, tmp_path):
    """UUID and hash seed come from the manifest."""
    store = Store()
    tags = {t: Image(archive(member('a')), config={'author': t}).put(store) for t in 'xy'}
    layout = images.write_layout(tmp_path, store, tags)
    seen = [harness.run('dumpe2fs', '-h', pulled(f'oci:{layout}:{t}', f'different-{t}')).out for t in 'xy']
    for field in ('Filesystem UUID', 'Directory Hash Seed'):
        values = [line.split()[-1] for text in seen for line in text.splitlines() if line.startswith(field)]
        assert len(set(values)) == 2, (field, values)


def test_kernel_fills_and_grows_it(shared, pulled, tmp_path):
    """A clone of the image: written to until it is full, grown unmounted and (where the kernel lets us) mounted."""
    dice = random.Random(1)
    store = Store()
    layers = [archive(directory('./'), *(member(f'd/{n:0100}', dice.randbytes(9000)) for n in range(2000))),
              archive(*(member(f'd/.wh.{n:0100}') for n in range(0, 2000, 3)), *(member(f'e/{n}', b'x') for n in range(2000)))]
    layout = images.write_layout(tmp_path / 'l', store, {'it': Image(*layers).put(store)})
    clone = tmp_path / 'clone.ext4'
    shutil.copyfile(pulled(f'oci:{layout}:it'), clone)
    with pulls.mounted(clone, tmp_path / 'mnt', 'rw') as root:
        for n in range(1, 2000, 3):
            (root / 'd' / f'{n:0100}').unlink()
        with pytest.raises(OSError) as full, open(root / 'fill', 'wb') as file:
            while True:
                file.write(bytes(MIB))
                file.flush()
        assert full.value.errno == 28
        assert (root / 'fill').stat().st_size >= 8 * MIB
    pulls.fsck(clone)
    size = clone.stat().st_size
    os.truncate(clone, size * 3)
    assert harness.run('e2fsck', '-fp', clone, check=False).code in (0, 1)  # 1: it makes a lost+found
    harness.run('resize2fs', clone)
    pulls.fsck(clone)
    os.truncate(clone, size * 6)
    with pulls.mounted(clone, tmp_path / 'mnt', 'rw') as root:
        device = harness.run('findmnt', '-no', 'SOURCE', root).out.strip()
        if test_import.may_resize():
            harness.run('resize2fs', device)
            assert os.statvfs(root).f_blocks * os.statvfs(root).f_frsize > size * 5
        with open(root / 'more', 'wb') as file:
            file.write(bytes(16 * MIB))
        assert len(os.listdir(root / 'e')) == 2000
    pulls.fsck(clone)


def test_image_json(shared, pulled, tmp_path):
    """What the configuration says is kept for the VM; where it came from is said; the draft's life left no trace."""
    command = {'Entrypoint': ['/bin/entry'], 'Cmd': ['a', 'b c'], 'Env': ['PATH=/bin', 'X=é'], 'User': '33:34', 'WorkingDir': '/srv',
               'Labels': {'org.example': 'yes'}, 'ExposedPorts': {'80/tcp': {}}}
    store = Store()
    said = Image(archive(member('a')), command=command).put(store)
    layout = images.write_layout(tmp_path / 'l', store, {'it': said})
    image = pulled(f'oci:{layout}:it')
    pulls.digest_of(shared, 'it')
    document = harness.until(lambda: [d for d in [json.loads((shared.tree / 'images/it/image.json').read_text())] if d.get('digest')], 'the digest')[0]
    config = document['config']
    assert config['entrypoint'] == ['/bin/entry'] and config['cmd'] == ['a', 'b c'] and config['env'] == ['PATH=/bin', 'X=é']
    assert config['user'] == '33:34' and config['working_dir'] == '/srv' and config['labels']['org.example'] == 'yes'
    assert document['digest'] == digest(image) and document['size'] == image.stat().st_size
    assert str(layout) in document['source'] and said['digest'] in document['source']
    record = shared.op(document['op_id'])
    assert record['method'].startswith('image.pull') and record['outcome'] == 'completed'


def test_mount_points(shared, pulled, tmp_path):
    """What a boot mounts over is there; what an image has of it stays as it is."""
    store = Store()
    tags = {'none': Image(archive(member('a'))).put(store),
            'some': Image(archive(directory('tmp', mode=0o700, uid=5), symlink('run', 'var/run'), directory('var'), directory('var/run'))).put(store)}
    layout = images.write_layout(tmp_path / 'l', store, tags)
    with pulls.mounted(pulled(f'oci:{layout}:none', 'none'), tmp_path / 'mnt') as root:
        found = trees.facts(root)
    for name in images.BOOT:
        assert found[name]['type'] == '0o40000' and found[name]['owner'] == (0, 0), name
    assert found[b'tmp']['mode'] == '0o1777'
    with pulls.mounted(pulled(f'oci:{layout}:some', 'some'), tmp_path / 'mnt') as root:
        found = trees.facts(root)
    assert (found[b'tmp']['mode'], found[b'tmp']['owner']) == ('0o700', (5, 0))
    assert found[b'run']['target'] == b'var/run'


@pytest.mark.parametrize('home, command', [('root', {}), ('root', {'User': '0:0'}), ('home/web', {'User': 'web'}),
                                           ('home/web', {'User': '33:0'})], ids=['no user', 'root', 'user', 'number'])
def test_work_seed(shared, pulled, tmp_path, home, command):
    """The home of whom the image runs as, as a filesystem of its own: the same owner, mode, attributes, content."""
    fields = {'uid': 33, 'gid': 34, 'mtime': 1_234_567_890}
    parts = home.split('/')
    store = Store()
    said = Image(archive(directory('etc'), member('etc/passwd', b'root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n'),
                         *(directory('/'.join(parts[:n])) for n in range(1, len(parts))), directory(home, mode=0o750, **fields),
                         member(f'{home}/.profile', b'lower'), member(f'{home}/gone', b'x')),
                 archive(member(f'{home}/.profile', b'export A=1', pax={'SCHILY.xattr.user.x': 'y'}, **fields), member(f'{home}/.wh.gone'),
                         directory(f'{home}/d', **fields), symlink(f'{home}/l', '.profile')), command=command).put(store)
    layout = images.write_layout(tmp_path / 'l', store, {'it': said})
    pulled(f'oci:{layout}:it')
    seed = pulls.rootfs(shared, 'it', 'work-seed.ext4')
    found = pulls.tree_of(seed, tmp_path / 'mnt')
    assert sorted(found) == [b'.', b'.profile', b'd', b'l']
    assert (found[b'.']['mode'], found[b'.']['owner']) == ('0o750', (33, 34))
    assert found[b'.profile']['content'] == hashlib.sha256(b'export A=1').hexdigest() and found[b'.profile']['xattrs'] == {'user.x': b'y'}
    assert found[b'd']['owner'] == (33, 34) and found[b'l']['target'] == b'.profile'
    assert (shared.tree / 'images/it/work-seed.ext4').stat().st_size == seed.stat().st_size


@pytest.mark.parametrize('passwd', [b'', b'web:x:33:34::/:/bin/sh\n', b'web:x:33:34::relative:\n', b'web\nweb:\n' + b':' * 5000,
                                    b'\0web:x:33:34::/root:/bin/sh', b'web:x:33:34::/nowhere:/bin/sh\n'])
def test_work_seed_of_nobody(shared, pulled, tmp_path, passwd):
    """Whoever has no home in the image has an empty one of his own."""
    store = Store()
    said = Image(archive(directory('etc'), member('etc/passwd', passwd), directory('root'), member('root/x', b'x')),
                 command={'User': 'web'}).put(store)
    pulled(f'oci:{images.write_layout(tmp_path / "l", store, {"it": said})}:it')
    assert sorted(pulls.tree_of(pulls.rootfs(shared, 'it', 'work-seed.ext4'), tmp_path / 'mnt')) == [b'.']
