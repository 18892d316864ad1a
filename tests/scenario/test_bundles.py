# SPDX-License-Identifier: Apache-2.0
"""Bundles and catalogs: an image leaves as one file and comes back as it was, by import and by pull; what lies about
itself is refused and leaves nothing. Imports of disk images of other programs. Servers are on loopback."""
import functools
import hashlib
import http.server
import io
import json
import os
import pathlib
import platform
import pty
import signal
import struct
import subprocess
import tarfile
import threading
import time

import pytest

import archives
import harness
import kernels
from harness import PROGRAM, run, until

ARCH = {'x86_64': 'amd64', 'aarch64': 'arm64'}[platform.machine()]
CONFIG = {'cmd': ['/bin/sh', '-c', 'true'], 'env': ['A=b'], 'user': 'nobody', 'working_dir': '/srv', 'labels': {'k': 'v w'}}


def sha256(data):
    return hashlib.sha256(data if isinstance(data, bytes) else pathlib.Path(data).read_bytes()).hexdigest()


def zstd(data):
    return subprocess.run(['zstd', '-q', '-c'], input=data, capture_output=True, check=True).stdout


def image(banger, name):
    return banger.images()['published', name]


def rootfs(banger, name):
    return banger.state / 'images' / image(banger, name)['id'] / 'rootfs.ext4'


def files(banger, name):
    """The image's files, {name: content}."""
    return {p.name: p.read_bytes() for p in (banger.state / 'images' / image(banger, name)['id']).iterdir()}


def assert_nothing_new(banger, names):
    """Only these images, and nothing half-made anywhere."""
    assert {n for s, n in banger.images()} == set(names)
    banger.assert_consistent()


def publish(banger, name, source, more=None, **document):
    """An image of a draft: with a configuration and other files."""
    with banger.wire() as client:
        made = client.call('image.register', {'name': name})['image']
        for file, data in {'rootfs.ext4': pathlib.Path(source).read_bytes(), **(more or {})}.items():
            client.call('draft.open', {'id': made['id'], 'file': file, 'write': True, 'create': True})
            with os.fdopen(client.take_fds()[0], 'wb') as out:
                out.write(data)
        if document:
            client.call('image.configure', {'image': name, 'document': document})
        return client.call('image.promote', {'draft': name})['image']


@pytest.fixture
def web(banger, ext4):
    """An image with everything that a bundle carries."""
    return publish(banger, 'web', ext4(), {'README': b'read me\n', 'work-seed.ext4': bytes(1 << 20) + b'seed' + bytes(100),
                                           'empty': b'', 'initrd': b'i' * 5000, 'zeros': bytes(70000)}, kernel='deb-6.1', **CONFIG)


# ---- out and in again

def test_round_trip(banger, web, worlds, base):
    """Export, import elsewhere: the same files, digest, configuration and kernel; and the same bundle again."""
    said = banger.ctl('image', 'export', 'web', base / 'web.tar.zst').out
    bundle = (base / 'web.tar.zst').read_bytes()
    assert said == f'exported web to {base}/web.tar.zst: {said.split(": ")[1].split(" ")[0]} ({len(bundle)} bytes), sha256:{sha256(bundle)}\n'
    other = worlds('other').start()
    other.ctl('image', 'import', base / 'web.tar.zst', '--name', 'web')
    made = image(other, 'web')
    assert made['digest'] == web['digest'] and made['size'] == web['size']
    assert made['config'] == CONFIG and made['kernel'] == 'deb-6.1'
    assert files(other, 'web') == files(banger, 'web')
    assert rootfs(other, 'web').stat().st_blocks <= rootfs(banger, 'web').stat().st_blocks
    assert banger.ctl('image', 'verify', 'web').code == 0
    other.ctl('image', 'export', 'web', base / 'again.tar.zst')
    assert (base / 'again.tar.zst').read_bytes() == bundle
    assert_nothing_new(other, ['web'])


def test_other_programs_read_it(banger, web, base):
    """tar and bsdtar take a bundle apart, holes and all."""
    banger.ctl('image', 'export', 'web', base / 'web.tar.zst')
    for program in (['tar', '--zstd', '-xf'], ['bsdtar', '-xf']):
        out = base / program[0]
        out.mkdir()
        run(*program, base / 'web.tar.zst', '-C', out)
        found = {p.name: p.read_bytes() for p in out.iterdir()}
        document = json.loads(found.pop('bundle.json'))
        assert found == files(banger, 'web')
        assert [f['name'] for f in document['files']] == ['rootfs.ext4', 'README', 'empty', 'initrd', 'work-seed.ext4', 'zeros']
        assert all(f['digest'] == 'sha256:' + sha256(found[f['name']]) and f['size'] == len(found[f['name']]) for f in document['files'])
        assert (out / 'rootfs.ext4').stat().st_blocks * 512 < len(found['rootfs.ext4'])


def test_pipes(banger, web, base):
    """"-" is standard output and standard input; a terminal is not written to."""
    banger.ctl('image', 'export', 'web', base / 'web.tar.zst')
    out = subprocess.run([PROGRAM['banger-ctl'], 'image', 'export', 'web', '-'], env=banger.env, capture_output=True, check=True)
    assert out.stdout == (base / 'web.tar.zst').read_bytes() and out.stderr == b''
    subprocess.run([PROGRAM['banger-ctl'], 'image', 'import', '-', '--name', 'piped'], env=banger.env, input=out.stdout, check=True,
                   capture_output=True)
    assert image(banger, 'piped')['digest'] == web['digest']
    done = banger.ctl('--json', 'image', 'export', 'web', base / 'json.tar.zst').json
    assert done['bundle'] == {'size': len(out.stdout), 'digest': 'sha256:' + sha256(out.stdout)} and done['image'] == image(banger, 'web')
    main, terminal = pty.openpty()
    done = subprocess.run([PROGRAM['banger-ctl'], 'image', 'export', 'web', '-'], env=banger.env, stdout=terminal, stderr=subprocess.PIPE)
    assert done.returncode == 2 and b'terminal' in done.stderr
    os.close(main)
    os.close(terminal)


def test_holes_do_not_show(banger, ext4, base):
    """How the filesystem stores zeros makes no difference to the bundle."""
    sparse, full = base / 'sparse.ext4', base / 'full.ext4'
    run('cp', '--sparse=always', ext4(), sparse)
    run('cp', '--sparse=never', ext4(), full)
    assert sparse.stat().st_blocks < full.stat().st_blocks
    for name, file in (('a', sparse), ('b', full)):
        publish(banger, name, file)
    # publish() writes through Python: make sure that the two differ on the disk
    out = []
    for name in 'ab':
        banger.ctl('image', 'rename', name, 'same')
        banger.ctl('image', 'export', 'same', base / f'{name}.zst')
        banger.ctl('image', 'rename', 'same', name)
        out.append((base / f'{name}.zst').read_bytes())
    assert out[0] == out[1]


def test_target_file(banger, web, base):
    """What is there is replaced when the bundle is whole; what cannot be written is said before anything happens."""
    target, link = base / 'web.tar.zst', base / 'link'
    target.write_text('old')
    link.symlink_to(target)
    banger.ctl('image', 'export', 'web', link)
    assert link.is_symlink() and target.stat().st_size > 1000
    assert banger.ctl('image', 'export', 'web', '/dev/null').code == 0
    for path, why in ((base, 'Is a directory'), (base / 'none' / 'x', 'No such file')):
        done = banger.ctl('image', 'export', 'web', path, check=False)
        assert done.code == 1 and why in done.err
    done = banger.ctl('image', 'export', 'nope', base / 'nope', check=False)
    assert done.code == 1 and 'image "nope" not found' in done.err
    banger.ctl('image', 'register', 'draft')
    assert 'not found' in banger.ctl('image', 'export', 'draft', base / 'nope', check=False).err
    assert not (base / 'nope').exists() and not [p for p in base.iterdir() if p.name.startswith('.')]


def test_export_finds_damage(banger, web, base):
    """An image that is not what was published is not exported."""
    path = rootfs(banger, 'web')
    os.chmod(path, 0o644)
    with open(path, 'r+b') as f:
        f.seek(5000)
        f.write(b'x')
    done = banger.ctl('image', 'export', 'web', base / 'out', check=False)
    assert done.code == 1 and 'is not what was published' in done.err and not (base / 'out').exists()


@pytest.fixture
def noise(banger, cache):
    """An image that takes a while to compress."""
    path = cache / 'noise.ext4'
    if not path.exists():
        tree = cache / 'noise'
        tree.mkdir()
        with open(tree / 'noise', 'wb') as f:
            for _ in range(300):
                f.write(os.urandom(1 << 20))
        harness.make_ext4(path, tree, '400M')
    banger.ctl('image', 'import', path, '--name', 'noise')


def in_background(banger, *args, **popen):
    return subprocess.Popen([PROGRAM['banger-ctl'], *map(str, args)], env=banger.env, stdin=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, **{'stdout': subprocess.PIPE, **popen})


def running(banger, method):
    return [o for o in banger.call('status')['operations'] if o['method'] == method]


@pytest.mark.parametrize('how', ['SIGINT', 'SIGKILL', 'op cancel', 'pipe closed'])
def test_export_cancelled(how, banger, noise, base):
    """Whatever ends an export, no file is left and the daemon is well."""
    out = base / 'out'
    out.mkdir()
    if how == 'pipe closed':
        client = in_background(banger, 'image', 'export', 'noise', '-')
        client.stdout.read(100_000)
        client.stdout.close()
        assert client.wait(20) == 1
    else:
        client = in_background(banger, 'image', 'export', 'noise', out / 'x.zst')
        op = until(lambda: running(banger, 'image.export'), 'the export to run')[0]
        if how == 'op cancel':
            until(lambda: banger.op(op['op_id']).get('progress', {}).get('phase') == 'writing', 'it to write')
            banger.ctl('op', 'cancel', op['op_id'])
            assert client.wait(20) == 1 and b'cancel' in client.stderr.read()
        else:
            client.send_signal(getattr(signal, how))
            assert client.wait(20) == -getattr(signal, how)
        until(lambda: not running(banger, 'image.export'), 'the export to end')
        assert banger.op(op['op_id'])['code'] == 'cancelled'
    client.stderr.close()
    if client.stdout and not client.stdout.closed:
        client.stdout.close()
    assert list(out.iterdir()) == []
    assert_nothing_new(banger, ['noise'])


def test_slow_reader_can_be_cancelled(banger, noise):
    """A pipe that nobody reads holds up neither the cancellation nor the daemon."""
    read, write = os.pipe()
    client = in_background(banger, 'image', 'export', 'noise', '-', stdout=write)
    os.close(write)
    op = until(lambda: running(banger, 'image.export'), 'the export to run')[0]
    until(lambda: banger.op(op['op_id']).get('progress', {}).get('phase') == 'writing', 'it to write')
    began = time.monotonic()
    client.send_signal(signal.SIGINT)
    assert client.wait(10) == -signal.SIGINT and time.monotonic() - began < 5
    client.stderr.close()
    os.close(read)


def test_full_disk(banger, noise, base):
    """An export to a full disk says so and leaves nothing."""
    mount = base / 'small'
    mount.mkdir()
    run('mount', '-t', 'tmpfs', '-o', 'size=20M', 'tmpfs', mount)
    try:
        done = banger.ctl('image', 'export', 'noise', mount / 'x.zst', check=False)
        assert done.code == 1 and 'No space left' in done.err
        assert list(mount.iterdir()) == []
    finally:
        run('umount', mount)
    assert_nothing_new(banger, ['noise'])


# ---- hostile bundles

def document(**more):
    return {'bundle': 1, **more}


def entry(name, data, **more):
    return {'name': name, 'size': len(data), 'digest': 'sha256:' + sha256(data), **more}


def bundle(doc, *members, end=archives.END):
    text = doc if isinstance(doc, bytes) else json.dumps(doc).encode()
    return archives.archive(archives.member('bundle.json', text), *members, end=end)


def hostile(root):
    """{name: (bytes of a bundle, what the refusal says)}"""
    good = document(files=[entry('rootfs.ext4', root)])
    rootfs_ = archives.member('rootfs.ext4', root)
    whole = zstd(bundle(good, rootfs_))
    flipped = bytearray(root)
    flipped[3000] ^= 1
    evil = entry('rootfs.ext4', root)
    return {
        'another content': (zstd(bundle(good, archives.member('rootfs.ext4', bytes(flipped)))), '"rootfs.ext4" has the digest sha256:'),
        'a wrong digest': (zstd(bundle(document(files=[{**evil, 'digest': 'sha256:' + '0' * 64}]), rootfs_)), 'says sha256:000'),
        'no digest': (zstd(bundle(document(files=[{'name': 'rootfs.ext4', 'size': len(root)}]), rootfs_)), 'files[0].digest'),
        'another size': (zstd(bundle(document(files=[{**evil, 'size': 5}]), rootfs_)), f'has {len(root)} bytes, and bundle.json says 5'),
        'dots': (zstd(bundle(document(files=[evil, entry('..', b'x')]), rootfs_, archives.member('..', b'x'))), 'files[1].name'),
        'a path': (zstd(bundle(document(files=[evil, entry('../../x', b'x')]), rootfs_, archives.member('../../x', b'x'))), 'files[1].name'),
        'an absolute path': (zstd(bundle(document(files=[evil, entry('/tmp/x', b'x')]), rootfs_, archives.member('/tmp/x', b'x'))), 'files[1].name'),
        'a member with dots': (zstd(bundle(good, archives.member('../rootfs.ext4', root))), 'stands where bundle.json lists "rootfs.ext4"'),
        'a link': (zstd(bundle(good, archives.symlink('rootfs.ext4', '/etc/passwd'))), 'is not a regular file'),
        'no root filesystem': (zstd(bundle(document(files=[entry('x', b'x')]), archives.member('x', b'x'))), 'not rootfs.ext4'),
        'it is listed only': (zstd(bundle(good)), 'ends before "rootfs.ext4"'),
        'a file too many': (zstd(bundle(good, rootfs_, archives.member('more', b'x'))), '"more" is not in its bundle.json'),
        'twice': (zstd(bundle(document(files=[evil, evil]), rootfs_, rootfs_)), 'the name of files[0]'),
        'too many': (zstd(bundle(document(files=[evil, *[entry(f'f{i}', b'') for i in range(64)]]), rootfs_)), 'more than 64 files'),
        'order': (zstd(bundle(document(files=[evil, entry('x', b'x')]), archives.member('x', b'x'), rootfs_)), 'stands where'),
        'no document': (zstd(archives.archive(rootfs_)), 'first member is not bundle.json'),
        'a document that is none': (zstd(bundle(b'{"bundle":1', rootfs_)), 'not JSON'),
        'a huge document': (zstd(bundle(b' ' * (2 << 20), rootfs_)), 'more than 1048576 bytes'),
        'deep': (zstd(bundle(b'[' * 100_000, rootfs_)), 'bundle.json'),
        'of the future': (zstd(bundle({**good, 'bundle': 2}, rootfs_)), 'version 2'),
        'cut off': (whole[:-20], 'zstd data ends too early'),
        'cut in the middle': (whole[:len(whole) // 2], ''),
        'no end': (zstd(bundle(good, rootfs_, end=b'')), ''),
        'garbage behind it': (whole + b'garbage', ''),
        'not compressed, damaged': (bundle(good, rootfs_)[:100_000], ''),
        'empty': (b'', ''),
        'not a filesystem': (zstd(bundle(document(files=[entry('rootfs.ext4', b'x' * 10000)]), archives.member('rootfs.ext4', b'x' * 10000))),
                             'not a sound ext4 filesystem'),
    }


def test_hostile(banger, ext4, base):
    """Each lie is told, and nothing is left of any."""
    root = pathlib.Path(ext4()).read_bytes()
    for name, (data, why) in hostile(root).items():
        path = base / 'x.zst'
        path.write_bytes(data)
        done = banger.ctl('image', 'import', path, '--format', 'bundle', '--name', 'evil', check=False)
        assert done.code == 1, f'{name}: taken\n{done.out}'
        assert why in done.err and 'signal' not in done.err, f'{name}: {done.err}'
        assert banger.op(done.op_id)['code'] in ('corrupt', 'incomplete', 'bad_request', 'too_large', 'unsupported'), f'{name}: {done.err}'
    assert_nothing_new(banger, [])
    path.write_bytes(zstd(bundle(document(files=[entry('rootfs.ext4', root)]), archives.member('./rootfs.ext4', root))))
    banger.ctl('image', 'import', path, '--format', 'bundle', '--name', 'good')
    assert files(banger, 'good') == {'rootfs.ext4': root}
    more = {f'.bundle-{i}': b'%d' % i for i in range(1, 9)}
    entries = [entry('rootfs.ext4', root), *[entry(name, data) for name, data in more.items()]]
    path.write_bytes(zstd(bundle(document(files=entries), archives.member('rootfs.ext4', root), *[archives.member(*m) for m in more.items()])))
    banger.ctl('image', 'import', path, '--format', 'bundle', '--name', 'odd')
    assert files(banger, 'odd') == {'rootfs.ext4': root, **more}


def test_a_hole_of_terabytes(banger, base):
    """A few bytes of a bundle are hours of hashing, which can be cancelled."""
    size = 4 << 40
    entries = [{'name': 'rootfs.ext4', 'size': size, 'digest': 'sha256:' + '0' * 64}]
    sparse = {'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': 'rootfs.ext4', 'GNU.sparse.realsize': str(size)}
    path = base / 'x.zst'
    path.write_bytes(zstd(bundle(document(files=entries), archives.member('x', archives.pad(b'1\n%d\n0\n' % size), pax=sparse))))
    client = in_background(banger, 'image', 'import', path, '--format', 'bundle', '--name', 'x', stdout=subprocess.DEVNULL)
    until(lambda: running(banger, 'image.import'), 'the import to run')
    time.sleep(1)
    assert running(banger, 'image.import')
    began = time.monotonic()
    client.send_signal(signal.SIGINT)
    assert client.wait(30) == -signal.SIGINT and time.monotonic() - began < 5
    client.stderr.close()
    until(lambda: not running(banger, 'image.import'), 'the import to end')
    assert_nothing_new(banger, [])


def test_unpacker_is_killed(banger, noise, base):
    """A bundle's import that is cancelled, or whose unpacker dies, leaves nothing."""
    banger.ctl('image', 'export', 'noise', base / 'x.zst')

    def unpackers():
        return [p for p, c in harness.children(banger.daemon.pid).items() if 'banger-unpack' in c]
    client = in_background(banger, 'image', 'import', base / 'x.zst', '--name', 'again')
    os.kill(until(unpackers, 'the unpacker')[0], signal.SIGKILL)
    assert client.wait(20) == 1 and b'signal 9' in client.stderr.read()
    client = in_background(banger, 'image', 'import', base / 'x.zst', '--name', 'again')
    until(unpackers, 'the unpacker')
    client.send_signal(signal.SIGINT)
    assert client.wait(20) == -signal.SIGINT
    client.stderr.close()
    assert_nothing_new(banger, ['noise'])


# ---- disk images of other programs

@pytest.fixture
def qcow2(base, ext4):
    def make(name, *options, source=None):
        run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', *options, source or ext4(), base / name)
        return base / name
    return make


@pytest.mark.needs('qemu-img')
def test_qcow2(banger, qcow2, ext4):
    """Plain, compressed and old ones give the disk that is in them, sparse; also from a pipe."""
    digest = 'sha256:' + sha256(ext4())
    for i, options in enumerate(([], ['-c'], ['-o', 'compat=0.10'], ['-c', '-o', 'compression_type=zstd,cluster_size=128k'])):
        path = qcow2(f'{i}.qcow2', *options)
        banger.ctl('image', 'import', path, '--name', f'q{i}')
        assert image(banger, f'q{i}')['digest'] == digest
        assert rootfs(banger, f'q{i}').stat().st_blocks * 512 < os.stat(ext4()).st_size
        assert rootfs(banger, f'q{i}').stat().st_uid == os.getuid()
    with open(path, 'rb') as source:
        subprocess.run([PROGRAM['banger-ctl'], 'image', 'import', '-', '--name', 'piped'], env=banger.env, stdin=source, check=True,
                       capture_output=True)
    assert image(banger, 'piped')['digest'] == digest
    banger.assert_consistent()


@pytest.mark.needs('qemu-img')
def test_qcow2_names_no_other_file(banger, qcow2, base):
    """An image that builds upon a file of the host, or keeps its data in one, is refused by its header."""
    secret = base / 'secret'
    secret.write_bytes(b'top secret' + bytes(1 << 20))
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', secret, '-F', 'raw', base / 'backed.qcow2')
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', f'data_file={base}/data', base / 'data.qcow2', '1M')
    encrypted = bytearray(qcow2('encrypted.qcow2').read_bytes())
    encrypted[32:36] = struct.pack('>I', 2)
    (base / 'encrypted.qcow2').write_bytes(encrypted)
    patched = bytearray(qcow2('patched.qcow2').read_bytes())
    patched[8:20] = struct.pack('>QI', 104 + 8 * 20, len(str(secret)))
    (base / 'patched.qcow2').write_bytes(patched)
    damaged = bytearray(qcow2('damaged.qcow2').read_bytes())
    damaged[36:40] = struct.pack('>I', 0xffffffff)
    (base / 'damaged.qcow2').write_bytes(damaged)
    for name, why in (('backed', 'backing file'), ('data', 'data in another file'), ('encrypted', 'encrypted'),
                      ('patched', 'backing file'), ('damaged', 'qemu-img cannot read')):
        done = banger.ctl('image', 'import', base / f'{name}.qcow2', '--name', 'x', check=False)
        assert done.code == 1 and why in done.err, f'{name}: {done.err}'
        assert 'secret' not in done.err.replace(str(base), '')
    assert_nothing_new(banger, [])


@pytest.mark.needs('qemu-img', 'sfdisk')
def test_disks_that_are_no_filesystem(banger, qcow2, ext4, base):
    """What banger does not take is named, with what to do about it; the advice is good."""
    disk = base / 'disk.img'
    with open(disk, 'wb') as f:
        f.truncate(32 << 20)
    for label in ('dos', 'gpt'):
        subprocess.run(['sfdisk', '-q', disk], input=f'label: {label}\nstart=2048,size=2048\nstart=4096,size=16384\n', text=True, check=True)
        with open(disk, 'r+b') as f:
            f.seek(4096 * 512)
            f.write(pathlib.Path(ext4()).read_bytes())
        for path in (disk, qcow2(f'{label}.qcow2', source=disk)):
            done = banger.ctl('image', 'import', path, '--name', 'x', check=False)
            assert done.code == 1 and 'partition table' in done.err and 'skip=2097152 count=8388608' in done.err, done.err
        run('dd', f'if={disk}', f'of={base}/rootfs.ext4', 'bs=1M', 'iflag=skip_bytes,count_bytes', 'skip=2097152', 'count=8388608')
        banger.ctl('image', 'import', base / 'rootfs.ext4', '--name', label)
        assert image(banger, label)['digest'] == 'sha256:' + sha256(ext4())
    for kind in ('vmdk', 'vdi', 'vhdx'):
        run('qemu-img', 'convert', '-f', 'raw', '-O', kind, ext4(), base / f'x.{kind}')
        done = banger.ctl('image', 'import', base / f'x.{kind}', '--name', 'x', check=False)
        assert done.code == 1 and f'"qemu-img convert -f {kind} -O qcow2"' in done.err, done.err
    done = banger.ctl('image', 'import', disk, '--name', 'x', '--format', 'vmdk', check=False)
    assert done.code == 2
    done = banger.ctl('image', 'import', qcow2('x.qcow2'), '--name', 'x', '--size', '1G', check=False)
    assert done.code == 1 and 'has a size of its own' in done.err
    assert_nothing_new(banger, ['dos', 'gpt'])


# ---- catalogs

class Server:
    """Files over HTTP: {path: bytes}, with Range, in eight parts `slow` seconds apart; remembers what was asked."""

    def __init__(self, port=0):
        self.files, self.asked, self.starts, self.fail, self.slow = {}, [], [], 0, 0
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def log_message(self, *args):
                pass

            def do_GET(self):
                owner.asked.append(self.path)
                data = owner.files.get(self.path)
                if owner.fail or data is None:
                    self.send_response(owner.fail or 404)
                    self.send_header('Content-Length', '0')
                    self.end_headers()
                    return
                start = int(self.headers['Range'].split('=')[1].split('-')[0]) if 'Range' in self.headers else 0
                owner.starts.append(start)
                self.send_response(206 if start else 200)
                if start:
                    self.send_header('Content-Range', f'bytes {start}-{len(data) - 1}/{len(data)}')
                self.send_header('Content-Length', str(len(data) - start))
                self.end_headers()
                try:
                    step = len(data) // 8 + 1 if owner.slow else 1 << 20
                    for at in range(start, len(data), step):
                        self.wfile.write(data[at:at + step])
                        time.sleep(owner.slow)
                except OSError:
                    pass
        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f'http://127.0.0.1:{self.port}'
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def item(name, data, location, **more):
    return {'name': name, 'arch': ARCH, 'location': location, 'size': len(data), 'sha256': sha256(data), **more}


def catalog(bundles=(), kernels_=()):
    return json.dumps({'version': 1, 'bundles': list(bundles), 'kernels': list(kernels_)}).encode()


def configure(base, *catalogs, **more):
    path = base / 'config.json'
    path.write_text(json.dumps({'catalogs': [{'location': str(c)} if not isinstance(c, dict) else c for c in catalogs], **more}))
    return {'BANGER_CONFIG': str(path)}


@pytest.fixture
def exported(worlds, ext4, base):
    """exported(name, tag, noise=0, **document): the bytes of a bundle; noise: how large it is at least."""
    maker = worlds('maker').start()
    made = []

    def make(name, tag='small', noise=0, **document_):
        publish(maker, name, ext4(tag), {'README': tag.encode(), **({'noise': os.urandom(noise)} if noise else {})}, **document_)
        maker.ctl('image', 'export', name, base / f'{name}.made')
        made.append(name)
        return (base / f'{name}.made').read_bytes()
    return make


def test_pull_from_a_catalog(worlds, exported, server, base):
    """A name that is no reference is a bundle of the catalog: what it was exported as, and where it came from."""
    data = exported('web', **CONFIG)
    server.files = {'/c/catalog.json': catalog([item('web', data, 'bundles/web.zst', description='a web server')]), '/c/bundles/web.zst': data}
    banger = worlds(env=configure(base, f'{server.url}/c/catalog.json')).start()
    listed = banger.ctl('catalog', 'ls').out.splitlines()
    assert listed[1].split()[:3] == ['web', 'bundle', ARCH] and 'a web server' in listed[1]
    said = banger.ctl('image', 'pull', 'web').out
    assert 'web' in said
    made = image(banger, 'web')
    assert made['config'] == CONFIG and made['source'] == f'catalog:web@sha256:{sha256(data)}'
    assert made['digest'] == 'sha256:' + sha256(rootfs(banger, 'web')) and files(banger, 'web')['README'] == b'small'
    banger.ctl('image', 'pull', 'web', '--name', 'web-2')
    assert server.asked.count('/c/bundles/web.zst') == 1 and server.asked.count('/c/catalog.json') == 1
    shown = banger.ctl('--json', 'catalog', 'ls').json
    assert sorted(shown['bundles'][0]['held']) == ['web', 'web-2'] and shown['catalogs'][0]['ok']
    assert shown['bundles'][0]['location'] == f'{server.url}/c/bundles/web.zst'
    done = banger.ctl('image', 'pull', 'web', check=False)
    assert done.code == 1 and '"web" is taken' in done.err
    banger.ctl('catalog', 'ls', '--refresh')
    assert server.asked.count('/c/catalog.json') == 2
    assert_nothing_new(banger, ['web', 'web-2'])


def test_half_written_catalog(worlds, server, base):
    """What a daemon that was killed left of a catalog goes at the next start; what is kept of it stays."""
    server.files = {'/catalog.json': catalog()}
    banger = worlds(env=configure(base, f'{server.url}/catalog.json')).start()
    banger.ctl('catalog', 'ls')
    [kept] = (banger.state / 'cache/catalogs').iterdir()
    kept.with_name(f'{kept.name}.op-0123456789ab').write_bytes(b'{')
    banger.stop()
    banger.start()
    assert list((banger.state / 'cache/catalogs').iterdir()) == [kept]


def test_what_the_catalog_says_must_be_so(worlds, exported, server, base):
    """Another content, another size, a file that is not there, a machine that it is not for: each is said."""
    data = exported('web')
    entries = [item('content', bytes(len(data)), 'web.zst'), item('short', data + b'x', 'web.zst'), item('long', data[:-1], 'web.zst'),
               item('gone', data, 'gone.zst'), {**item('foreign', data, 'web.zst'), 'arch': 's390x'}, item('noise', b'not a bundle', 'noise')]
    server.files = {'/catalog.json': catalog(entries), '/web.zst': data, '/noise': b'not a bundle'}
    banger = worlds(env=configure(base, f'{server.url}/catalog.json', fetch_retries=0)).start()
    for name, code, why in (('content', 'corrupt', ''), ('short', None, ''), ('long', None, ''), ('gone', 'not_found', '404'),
                            ('foreign', 'not_found', 'only for s390x'), ('noise', 'bad_request', ''), ('nope', 'not_found', 'no bundle "nope"')):
        done = banger.ctl('image', 'pull', name, '--name', 'x', check=False)
        assert done.code == 1 and why in done.err, f'{name}: {done.err}'
        assert code in (None, banger.op(done.op_id)['code']), f'{name}: {done.err}'
    assert_nothing_new(banger, [])


def test_server_away(worlds, exported, server, base):
    """What is kept of a catalog is used while its server is away, with a warning; without it there is none."""
    data = exported('web')
    server.files = {'/catalog.json': catalog([item('web', data, 'web.zst')]), '/web.zst': data}
    banger = worlds(env=configure(base, f'{server.url}/catalog.json', fetch_retries=0)).start()
    banger.ctl('image', 'pull', 'web', '--name', 'one')
    kept = list((banger.state / 'cache/catalogs').iterdir())
    assert len(kept) == 1
    server.fail = 503
    hour_ago = time.time() - 3600
    os.utime(kept[0], (hour_ago, hour_ago))
    banger.ctl('image', 'pull', 'web', '--name', 'two')
    assert [r for r in banger.records() if r['level'] == 'warn' and 'is away' in r['msg']]
    assert 3599 < banger.ctl('--json', 'catalog', 'ls').json['catalogs'][0]['age_s'] < 3700
    server.close()
    assert banger.ctl('catalog', 'ls', '-q').out == 'web\n'
    kept[0].write_text('{"version":1,"bundles":[{"na')
    done = banger.ctl('catalog', 'ls', check=False)
    assert done.code == 1 and server.url in done.err
    assert banger.ctl('image', 'pull', 'web', '--name', 'three', check=False).code == 1
    assert_nothing_new(banger, ['one', 'two'])


def test_pinned(worlds, exported, server, base):
    """With a digest in the configuration only that catalog is taken, and once it is here nobody is asked again."""
    data = exported('web')
    good = catalog([item('web', data, 'web.zst')])
    server.files = {'/catalog.json': good + b' ', '/web.zst': data}
    env = configure(base, {'location': f'{server.url}/catalog.json', 'digest': 'sha256:' + sha256(good)})
    banger = worlds(env=env).start()
    done = banger.ctl('image', 'pull', 'web', check=False)
    assert done.code == 1 and 'the configuration pins sha256:' + sha256(good) in done.err and sha256(good + b' ') in done.err
    assert list((banger.state / 'cache/catalogs').iterdir()) == []
    server.files['/catalog.json'] = good
    banger.ctl('image', 'pull', 'web')
    asked = len(server.asked)
    server.files['/catalog.json'] = b'something else'
    banger.ctl('catalog', 'ls', '--refresh')
    assert len(server.asked) == asked
    assert_nothing_new(banger, ['web'])


def test_several_catalogs(worlds, exported, server, base):
    """The first that has a name is asked; one that cannot be read before it is an error, not a reason to go on."""
    one, two = exported('one', 'one'), exported('two', 'two')
    (base / 'one.zst').write_bytes(one)
    (base / 'first.json').write_bytes(catalog([item('web', one, 'one.zst')]))
    server.files = {'/second.json': catalog([item('web', two, 'two.zst'), item('db', two, 'two.zst')]), '/two.zst': two}
    banger = worlds(env=configure(base, base / 'first.json', f'{server.url}/second.json', fetch_retries=0)).start()
    banger.ctl('image', 'pull', 'web')
    banger.ctl('image', 'pull', 'db')
    assert files(banger, 'web')['README'] == b'one' and files(banger, 'db')['README'] == b'two'
    shown = banger.ctl('--json', 'catalog', 'ls').json
    assert [b.get('shadowed_by') for b in shown['bundles']] == [None, str(base / 'first.json'), None]
    assert len(banger.ctl('catalog', 'ls').out.splitlines()) == 3
    (base / 'first.json').write_text('{}')
    done = banger.ctl('catalog', 'ls', check=False)
    assert done.code == 1 and 'first.json' in done.err and 'no version' in done.err and 'db' in done.out
    done = banger.ctl('image', 'pull', 'db', '--name', 'db-2', check=False)
    assert done.code == 1 and 'no version' in done.err
    assert_nothing_new(banger, ['web', 'db'])


def test_a_network_catalog_names_no_files(worlds, exported, server, base):
    """A catalog that came over the network cannot have the daemon read this host's files."""
    data = exported('web')
    (base / 'web.zst').write_bytes(data)
    banger = worlds(env=configure(base, f'{server.url}/catalog.json', fetch_retries=0)).start()
    for location in (f'file://{base}/web.zst', 'ftp://127.0.0.1/x', 'FILE:///etc/passwd'):
        server.files['/catalog.json'] = catalog([item('web', data, location)])
        done = banger.ctl('image', 'pull', 'web', check=False)
        assert done.code == 1 and 'bundles[0].location' in done.err, done.err
    server.files['/catalog.json'] = catalog([item('web', data, f'{base}/web.zst')])
    done = banger.ctl('image', 'pull', 'web', check=False)
    assert done.code == 1 and server.asked[-1] == f'{base}/web.zst'
    assert_nothing_new(banger, [])


@pytest.mark.parametrize('text, why', [('[{"location":"x"}]', 'catalogs[0].location'), ('[{"location":"/x","digest":"1"}]', 'catalogs[0].digest'),
                                       ('[7]', 'catalogs[0] is not an object')])
def test_bad_configuration(text, why, worlds, base):
    """The daemon does not start with catalogs that cannot be."""
    (base / 'config.json').write_text('{"catalogs":%s}' % text)
    banger = worlds(env={'BANGER_CONFIG': str(base / 'config.json')}).start(wait=False)
    assert banger.daemon.wait() == 1
    assert any(why in r.get('error', '') for r in banger.records())


def fetched(banger):
    """What each pull that runs has fetched, in bytes."""
    return [banger.op(o['op_id']).get('progress', {}).get('fetched', 0) for o in running(banger, 'image.pull')]


def test_resumed(worlds, exported, server, base):
    """A fetch that was cancelled goes on where it was."""
    data = exported('web', noise=8 << 20)
    server.files = {'/catalog.json': catalog([item('web', data, 'web.zst')]), '/web.zst': data}
    server.slow = 0.3
    banger = worlds(env=configure(base, f'{server.url}/catalog.json')).start()
    client = in_background(banger, 'image', 'pull', 'web')
    until(lambda: any(fetched(banger)), 'something to be fetched')
    client.send_signal(signal.SIGINT)
    assert client.wait(20) == -signal.SIGINT
    client.stderr.close()
    client.stdout.close()
    assert_nothing_new(banger, [])
    server.slow = 0
    banger.ctl('image', 'pull', 'web')
    assert server.starts[-1] > 0
    assert_nothing_new(banger, ['web'])


def test_two_pulls_fetch_once(worlds, exported, server, base):
    """Two pulls of one bundle ask for it once, and the second goes on when the first is cancelled."""
    data = exported('web', noise=8 << 20)
    server.files = {'/catalog.json': catalog([item('web', data, 'web.zst')]), '/web.zst': data}
    banger = worlds(env=configure(base, f'{server.url}/catalog.json')).start()
    server.slow = 0.2
    both = []
    for name in ('one', 'two'):
        both.append(in_background(banger, 'image', 'pull', 'web', '--name', name))
        until(lambda: len(f := fetched(banger)) == len(both) and all(f), 'something to be fetched')
    assert [c.wait(20) for c in both] == [0, 0] and server.asked.count('/web.zst') == 1
    banger.ctl('image', 'prune', '--all')
    both += [in_background(banger, 'image', 'pull', 'web', '--name', 'three')]
    until(lambda: server.asked.count('/web.zst') == 2, 'the bundle to be asked for again')
    both += [in_background(banger, 'image', 'pull', 'web', '--name', 'four')]
    until(lambda: len(f := fetched(banger)) == 2 and all(f), 'both to wait for it')
    both[2].send_signal(signal.SIGINT)
    assert both[2].wait(20) == -signal.SIGINT
    server.slow = 0
    assert both[3].wait(20) == 0
    for client in both:
        client.stdout.close()
        client.stderr.close()
    assert_nothing_new(banger, ['one', 'two', 'four'])


def test_cache_limit(worlds, exported, server, base):
    """What bundles leave in the cache is held to its limit too."""
    one, two = exported('one', 'one'), exported('two', 'two')
    server.files = {'/catalog.json': catalog([item('one', one, 'one.zst'), item('two', two, 'two.zst')]), '/one.zst': one, '/two.zst': two}
    banger = worlds(env=configure(base, f'{server.url}/catalog.json', cache_max=max(len(one), len(two)))).start()
    for name, data in (('one', one), ('two', two)):
        banger.ctl('image', 'pull', name)
        assert [p.name for p in (banger.state / 'cache/blobs/sha256').iterdir()] == [sha256(data)]


# ---- kernels

@pytest.fixture(scope='session')
def kernel_tar(cache):
    return kernels.small_tar(kernels.find_deb(cache), cache / 'catalog-kernel.tar').read_bytes()


def test_kernel_pull(worlds, kernel_tar, server, base):
    """A kernel by its name in the catalog, under another one too; what is wrong with it is said."""
    server.files = {'/catalog.json': catalog(kernels_=[item('deb', kernel_tar, 'k.tar', version='6.1'), item('bad', b'noise', 'noise')]),
                    '/k.tar': kernel_tar, '/noise': b'noise'}
    banger = worlds(env=configure(base, f'{server.url}/catalog.json')).start()
    assert banger.ctl('kernel', 'pull', 'deb').out.startswith('pulled deb ')
    banger.ctl('kernel', 'pull', 'deb', '--name', 'other')
    held = {k['name']: k for k in banger.call('kernel.ls')['kernels']}
    assert set(held) == {'deb', 'other'} and held['deb']['arch'] == ARCH and held['deb']['modules']
    assert held['deb']['source'] == f'catalog:deb@sha256:{sha256(kernel_tar)}'
    assert server.asked.count('/k.tar') == 1
    assert sorted(banger.ctl('--json', 'catalog', 'ls', 'deb').json['kernels'][0]['held']) == ['deb', 'other']
    for name, why in (('deb', 'is taken'), ('bad', 'kernel "bad" of the catalog'), ('nope', 'no kernel "nope"')):
        done = banger.ctl('kernel', 'pull', name, check=False)
        assert done.code == 1 and why in done.err, done.err
    assert len(banger.call('kernel.ls')['kernels']) == 2
    banger.assert_consistent()


def test_kernels_pulled_at_once(worlds, kernel_tar, server, base):
    """One file in the cache is read by several at once, each from its beginning."""
    server.files = {'/catalog.json': catalog(kernels_=[item('deb', kernel_tar, 'k.tar')]), '/k.tar': kernel_tar}
    banger = worlds(env=configure(base, f'{server.url}/catalog.json')).start()
    banger.ctl('kernel', 'pull', 'deb')
    clients = [in_background(banger, 'kernel', 'pull', 'deb', '--name', f'k{i}', stdout=subprocess.DEVNULL) for i in range(6)]
    for client in clients:
        _, err = client.communicate(timeout=60)
        assert client.returncode == 0, err
    assert len({(k['size'], k['version']) for k in banger.call('kernel.ls')['kernels']}) == 1
    banger.assert_consistent()


def test_bundle_brings_its_kernel(worlds, exported, kernel_tar, server, base):
    """The kernel that a bundle wants is pulled with it, unless it is held, or another one was asked for."""
    data, orphan = exported('web', kernel='deb'), exported('orphan', kernel='nowhere')
    server.files = {'/catalog.json': catalog([item('web', data, 'web.zst'), item('orphan', orphan, 'orphan.zst')], [item('deb', kernel_tar, 'k.tar')]),
                    '/web.zst': data, '/orphan.zst': orphan, '/k.tar': kernel_tar}
    banger = worlds(env=configure(base, f'{server.url}/catalog.json')).start()
    banger.ctl('image', 'pull', 'web')
    assert image(banger, 'web')['kernel'] == 'deb' and [k['name'] for k in banger.call('kernel.ls')['kernels']] == ['deb']
    banger.ctl('image', 'pull', 'web', '--name', 'again')
    assert image(banger, 'again')['kernel'] == 'deb' and server.asked.count('/k.tar') == 1
    banger.ctl('image', 'pull', 'orphan')
    assert 'kernel' not in image(banger, 'orphan')
    assert [r for r in banger.records() if r['level'] == 'warn' and r.get('kernel') == 'nowhere']
    assert_nothing_new(banger, ['web', 'again', 'orphan'])


# ---- what is kept

def test_prune(worlds, exported, server, base):
    """Prune says what it frees and frees it; a dry run frees nothing; images stay."""
    one, two = exported('one', 'one'), exported('two', 'two')
    server.files = {'/catalog.json': catalog([item('one', one, 'one.zst'), item('two', two, 'two.zst')]), '/one.zst': one, '/two.zst': two}
    banger = worlds(env=configure(base, f'{server.url}/catalog.json')).start()
    for name in ('one', 'two'):
        banger.ctl('image', 'pull', name)
    blobs = banger.state / 'cache/blobs/sha256'
    assert {p.name for p in blobs.iterdir()} == {sha256(one), sha256(two)}
    said = banger.ctl('image', 'prune', '--dry-run', '--all').out
    assert said.startswith('would remove 2 fetched') and 'would keep nothing' in said
    assert len(list(blobs.iterdir())) == 2
    assert banger.ctl('image', 'prune').out.startswith('removed nothing')
    shown = banger.ctl('--json', 'image', 'prune', '--max', str(max(len(one), len(two)))).json
    assert shown['removed']['blobs'] == 1 and shown['kept']['blobs'] == 1 and shown['kept']['bytes'] == len(two)
    assert [p.name for p in blobs.iterdir()] == [sha256(two)]
    assert banger.ctl('image', 'prune', '--all', '-q').out == f'{len(two)}\n'
    assert list(blobs.iterdir()) == []
    assert banger.ctl('image', 'prune', '--all', '--max', '1G', check=False).code == 2
    for name in ('one', 'two'):
        banger.ctl('image', 'verify', name)
    assert_nothing_new(banger, ['one', 'two'])
