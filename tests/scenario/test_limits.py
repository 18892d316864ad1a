# SPDX-License-Identifier: Apache-2.0
"""Names at their limits, and command lines, environments and configurations that make no sense."""
import errno
import os
import resource

import pytest

import harness
from harness import PROGRAM, run

GOOD = ['a', 'A', '0', 'a.b', 'a-b', 'a_b', 'web-1.2_3', 'n' * 128, '9' * 128, 'a..', 'a--', 'con', 'images', 'drafts']
BAD = ['.', '..', '.a', '-a', '_a', 'a b', 'a/b', 'a\n', 'a\t', 'é', 'a*', 'a:b', 'a@b', 'a\\b', '~a', 'n' * 129, 'n' * 255]


def test_names(mnt):
    for name in GOOD:
        os.mkdir(mnt / 'drafts' / name)
        assert os.path.isdir(mnt / 'drafts' / name)
    assert sorted(os.listdir(mnt / 'drafts')) == sorted(GOOD)
    with mnt.banger.wire() as client:
        for name in BAD:
            reply = client.reply('image.register', {'name': name})
            want = 'name_too_long' if len(name.encode()) > 128 else 'bad_request'
            assert reply['error']['code'] == want, name
    for name in BAD:
        if '/' in name or name in ('.', '..'):
            continue
        with pytest.raises(OSError) as error:
            os.mkdir(mnt / 'drafts' / name)
        assert error.value.errno in (22, 36), name
    assert sorted(os.listdir(mnt / 'drafts')) == sorted(GOOD)


def test_names_longer_than_any_file(mnt):
    for length in (255, 256, 1000):
        with pytest.raises(OSError) as error:
            os.mkdir(mnt / 'drafts' / ('n' * length))
        assert error.value.errno == 36
        assert not os.path.exists(mnt / 'images' / ('n' * min(length, 255)))


def test_file_names_in_a_draft(mnt):
    (mnt / 'drafts/a').mkdir()
    for name in ('x' * 255, 'with space', '-rf', '…', 'ünï', '.hidden', 'a:b', '*'):
        (mnt / 'drafts/a' / name).write_text(name)
        assert (mnt / 'drafts/a' / name).read_text() == name
    for name in (b'\xff', b'a\nb', b'a\x01', b'\xed\xa0\x80'):
        with pytest.raises(OSError) as error:
            os.open(bytes(mnt / 'drafts/a') + b'/' + name, os.O_CREAT | os.O_WRONLY)
        assert error.value.errno == 22, name
    with pytest.raises(OSError) as error:
        (mnt / 'drafts/a' / ('x' * 256)).write_text('')
    assert error.value.errno == 36


def test_documents_that_are_open_at_once(mnt):
    """What is made for whoever opens it takes memory until it is closed: so many, and no more."""
    (mnt / 'drafts/a').mkdir()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, max(before[1], 8192)))
    opened = []
    try:
        with pytest.raises(OSError) as error:
            for i in range(5000):
                opened.append(os.open(mnt / 'drafts/a/image.json', os.O_RDWR if i % 2 else os.O_RDONLY))
        assert error.value.errno == errno.ENFILE and len(opened) == 4096
        with pytest.raises(OSError) as error:
            os.open(mnt / 'events', os.O_RDONLY)
        assert error.value.errno == errno.ENFILE
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    harness.until(lambda: '"draft"' in (mnt / 'drafts/a/image.json').read_text(), 'room for another')


def test_finding_an_image(banger, published):
    """Exact name, exact id, a prefix of either that only one has."""
    image = published('debian-12')
    other = banger.call('image.register', {'name': 'debian-13'})['image']

    def show(word):
        with banger.wire() as client:
            reply = client.reply('image.show', {'image': word})
            return reply['result']['image']['name'] if reply['ok'] else (reply['error']['code'], reply['error']['message'])

    assert show('debian-12') == show(image['id']) == show(image['id'][:10]) == show('debian-12'[:9]) == 'debian-12'
    assert show('debian-13') == show(other['id']) == 'debian-13'
    assert show('debian') == ('ambiguous', 'multiple images match "debian"')
    assert show('nope') == ('not_found', 'image "nope" not found')
    assert show('') == ('bad_request', 'image id or name is required')
    banger.call('image.register', {'name': 'debian-12'})
    assert show('debian-12')[0] == 'ambiguous'
    assert show('images/debian-12') == show('drafts/debian-12') == 'debian-12'
    # An exact name wins over a prefix, whatever it is a prefix of.
    banger.call('image.register', {'name': 'deb'})
    assert show('deb') == 'deb'
    banger.call('image.register', {'name': image['id'][:4]})
    assert show(image['id'][:4]) == image['id'][:4]
    done = banger.ctl('image', 'show', 'nope', check=False)
    assert done.code == 1 and 'image "nope" not found' in done.err and done.op_id


@pytest.mark.parametrize('args', [['--frobnicate'], ['extra'], ['--socket'], ['--config', '/nonexistent/config.json']])
def test_bangerd_arguments(worlds, args):
    banger = worlds()
    done = run(PROGRAM['bangerd'], *args, check=False, env=banger.env, timeout=10)
    assert done.code in (1, 2) and done.err.strip()
    if 'config' in args[0]:
        assert '/nonexistent/config.json' in done.err


@pytest.mark.parametrize('text, word', [('{', 'config.json'), ('[]', 'config.json'), ('{"frobnicate":1}', 'frobnicate'),
                                        ('{"ops_kept":"many"}', 'ops_kept'), ('{"state_dir":7}', 'state_dir'),
                                        ('{"socket_group":"no-such-group-here"}', 'no-such-group-here'),
                                        ('{"accel":"warp"}', 'accel'), ('{"connections":-1}', 'connections')])
def test_configuration(worlds, base, text, word):
    config = base / 'config.json'
    config.write_text(text)
    banger = worlds(env={'BANGER_CONFIG': str(config)})
    done = run(PROGRAM['bangerd'], check=False, env=banger.env, timeout=10)
    assert done.code in (1, 2) and word in done.err, done.err


def test_a_socket_path_that_is_too_long(worlds, base):
    banger = worlds(env={'BANGER_SOCKET': str(base / ('d' * 100) / 'bangerd.sock')})
    done = run(PROGRAM['bangerd'], check=False, env=banger.env, timeout=10)
    assert done.code == 1 and 'd' * 30 in done.err


def test_flag_beats_environment_beats_file(worlds, base):
    """For the socket and the state directory."""
    config = base / 'config.json'
    config.write_text(f'{{"state_dir": "{base}/from-file", "runtime_dir": "{base}/run"}}')
    banger = worlds(env={'BANGER_CONFIG': str(config)})
    del banger.env['BANGER_STATE_DIR']
    banger.state = base / 'from-file'
    banger.start()
    assert banger.call('status')['state_dir'] == str(base / 'from-file')
    banger.stop()
    banger.state = base / 'from-env'
    banger.env['BANGER_STATE_DIR'] = str(banger.state)
    banger.start()
    assert banger.call('status')['state_dir'] == str(base / 'from-env')
    banger.stop()
    elsewhere = banger.run_dir / 'elsewhere.sock'
    banger.env['BANGER_SOCKET'] = str(elsewhere)
    banger.socket = elsewhere
    banger.start()
    assert run(PROGRAM['banger-ctl'], '--socket', elsewhere, 'ping', env=os.environ).code == 0


def test_bangerfs_arguments(banger, base):
    """Each refusal says what is wrong, and mounts nothing."""
    (base / 'file').write_text('x')
    (base / 'full').mkdir()
    (base / 'empty').mkdir()
    (base / 'full' / 'x').write_text('x')
    for args, word in (([], 'sage'), (['--frobnicate', base / 'empty'], 'frobnicate'), ([base / 'nothing'], 'nothing'), ([base / 'file'], 'file'),
                       (['-o', 'frobnicate', base / 'empty'], 'frobnicate'), ([base / 'empty', base / 'full'], 'full')):
        done = run(PROGRAM['bangerfs'], '-f', *args, check=False, env=banger.env, timeout=10)
        assert done.code not in (0, -11, -6), (args, done)
        assert word in done.err, (args, done.err)
        assert harness.mounts_under(base) == []


def test_read_only_mount(banger, published):
    """-o ro: everything can be read, nothing changed, the kernel says so."""
    published('a')
    mount = banger.mount('ro', '-o', 'ro')
    assert (mount / 'rootfs/a/etc/hostname').read_text() == 'small\n'
    for command in (['mkdir', mount / 'drafts/x'], ['rmdir', mount / 'images/a'], ['touch', mount / 'x']):
        assert 'Read-only file system' in run(*command, check=False).err


def test_ctl_exit_codes(banger, worlds, base):
    """0 done, 1 refused, 2 usage, 3 nobody there; errors on stderr, with their op_id."""
    assert banger.ctl('ping').code == 0
    done = banger.ctl('image', 'rm', 'nope', check=False)
    assert done.code == 1 and done.out == '' and done.op_id
    for args in (['frobnicate'], ['image', 'frobnicate'], ['image', 'show'], ['--frobnicate'], ['image', 'show', 'a', 'b'], ['image']):
        done = banger.ctl(*args, check=False)
        assert done.code == 2 and done.out == '' and done.err, args
    banger.stop()
    for args in (['ping'], ['image', 'ls'], ['--json', 'status']):
        done = banger.ctl(*args, check=False)
        assert done.code == 3 and str(banger.socket) in done.err and done.out == '', args
