# SPDX-License-Identifier: Apache-2.0
"""A state directory that the daemon must not take: another daemon's, a newer banger's, a damaged one."""
import errno
import hashlib
import json
import os
import signal
import sqlite3

import pytest

import harness
from harness import run, until


def refuse(banger):
    """Start; it must end by itself with a failure. The last error that it logged."""
    banger.start(wait=False)
    code = banger.daemon.wait(20)
    assert code not in (0, None) and code > 0, f'exit {code}\n{harness.tail(banger.log)}'
    errors = [r for r in banger.records() if r['level'] == 'error']
    assert errors, harness.tail(banger.log)
    return errors[-1]


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob('registry.db*')}


@pytest.fixture
def stopped(banger, published):
    """A state directory with an image in it, and no daemon."""
    published('a')
    banger.stop()
    return banger


def test_it_is_what_it_says(stopped):
    """STRICT tables, foreign keys, WAL."""
    with sqlite3.connect(stopped.state / 'registry.db') as db:
        assert db.execute('PRAGMA journal_mode').fetchone() == ('wal',)
        assert db.execute('PRAGMA user_version').fetchone()[0] >= 1
        assert db.execute('PRAGMA integrity_check').fetchone() == ('ok',)
        strict = db.execute("SELECT name, strict FROM pragma_table_list WHERE schema='main' AND type='table'").fetchall()
        assert len(strict) >= 4
        assert all(flag for name, flag in strict if not name.startswith('sqlite_')), strict


def test_a_newer_database(stopped):
    with sqlite3.connect(stopped.state / 'registry.db') as db:
        db.execute('PRAGMA user_version = 9999')
        db.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    db.close()
    before = digests(stopped.state)
    error = refuse(stopped)
    assert 'newer' in error['error'] and '9999' in error['error'], error
    assert digests(stopped.state)['registry.db'] == before['registry.db']
    assert len(os.listdir(stopped.state / 'images')) == 1


def test_not_a_database(stopped):
    for path in stopped.state.glob('registry.db*'):
        path.unlink()
    (stopped.state / 'registry.db').write_bytes(b'this is no database at all\n' * 1000)
    error = refuse(stopped)
    assert error['code'] == 'corrupt' and 'registry.db' in error['error'], error
    assert (stopped.state / 'registry.db').read_bytes().startswith(b'this is no')


def test_another_programs_database(stopped):
    for path in stopped.state.glob('registry.db*'):
        path.unlink()
    with sqlite3.connect(stopped.state / 'registry.db') as db:
        db.execute('CREATE TABLE bookmarks (url TEXT)')
        db.execute("INSERT INTO bookmarks VALUES ('x')")
    db.close()
    error = refuse(stopped)
    assert 'registry.db' in error['error'], error
    with sqlite3.connect(stopped.state / 'registry.db') as db:
        assert db.execute('SELECT url FROM bookmarks').fetchall() == [('x',)]
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
    assert len(os.listdir(stopped.state / 'images')) == 1


def test_a_damaged_database(stopped):
    path = stopped.state / 'registry.db'
    with sqlite3.connect(path) as db:
        db.execute('PRAGMA wal_checkpoint(TRUNCATE)')
        size = db.execute('PRAGMA page_size').fetchone()[0]
    db.close()
    with open(path, 'r+b') as f:
        f.seek(0, os.SEEK_END)
        pages = f.tell() // size
        for page in range(1, pages):  # all but the header's
            f.seek(page * size)
            f.write(os.urandom(size))
    before = path.read_bytes()
    error = refuse(stopped)
    assert error['code'] == 'corrupt', error
    assert path.read_bytes() == before
    assert len(os.listdir(stopped.state / 'images')) == 1


def test_a_second_daemon(banger, base):
    """On the same state directory, with another socket: refused, and the first goes on."""
    second = harness.Banger(base, env={'BANGER_RUNTIME_DIR': str(base / 'run2')})
    second.log = base / 'logs' / 'second.log'
    error = refuse(second)
    assert error['code'] == 'busy' and str(banger.state) in error['error'], error
    assert banger.call('image.register', {'name': 'a'})['image']['name'] == 'a'


def test_a_second_daemon_on_the_socket(banger, base):
    """Another state directory, the same socket: refused, and the socket still is the first one's."""
    second = harness.Banger(base, env={'BANGER_STATE_DIR': str(base / 'state2')})
    second.log = base / 'logs' / 'second.log'
    error = refuse(second)
    assert error['code'] == 'busy' and str(banger.socket) in error['error'], error
    assert banger.call('status')['state_dir'] == str(banger.state)


def test_the_lock_goes_with_its_daemon(banger):
    banger.kill()
    banger.start()
    assert banger.call('ping') is not None


def test_read_only_state(banger, base):
    """A state directory that cannot be written says so."""
    banger.stop()
    run('mount', '--bind', banger.state, banger.state)
    try:
        run('mount', '-o', 'remount,bind,ro', banger.state)
        error = refuse(banger)
        assert str(banger.state) in error['error'], error
    finally:
        run('umount', banger.state)
    banger.start()


def test_operations_are_bounded(worlds, base):
    """The newest ops_kept records stay, with their log lines."""
    config = base / 'config.json'
    config.write_text('{"ops_kept": 50}')
    banger = worlds(env={'BANGER_CONFIG': str(config)}).start()
    with banger.wire() as client:
        ids = [client.reply('image.show', {'image': f'n{i}'})['error']['op_id'] for i in range(200)]
        until(lambda: len(client.call('op.ls', {'limit': 1000})['ops']) <= 60, 'old records to go')
        kept = [o['op_id'] for o in client.call('op.ls', {'limit': 1000})['ops']]
        assert kept[:40] == ids[::-1][:40]
        assert client.reply('op.show', {'op_id': ids[0]})['error']['code'] == 'not_found'


def test_recovery_logs_each_repair(stopped):
    """Directories without a row, a row without a directory, left-overs: put right, and said."""
    stray = 'f' * 16
    (stopped.state / 'images' / stray).mkdir()
    (stopped.state / 'images' / stray / 'rootfs.ext4').write_bytes(b'x')
    (stopped.state / 'drafts' / ('e' * 16)).mkdir()
    for folder in ('staging', 'trash'):
        (stopped.state / folder).mkdir(exist_ok=True)
        (stopped.state / folder / 'left').mkdir()
        (stopped.state / folder / 'left' / 'file').write_bytes(b'x' * 5000)
    stopped.start()
    stopped.settled()
    said = json.dumps([r for r in stopped.records() if r['level'] in ('warn', 'info')])
    assert stray in said and 'e' * 16 in said
    assert not (stopped.state / 'images' / stray).exists()
    stopped.assert_consistent()
    assert [name for _, name in stopped.images()] == ['a']


def test_an_image_whose_files_are_gone(stopped):
    """Somebody removed an artifact by hand: the daemon starts, says so, and the rest is served."""
    [image] = (stopped.state / 'images').iterdir()
    harness.run('rm', '-rf', image)
    stopped.start()
    assert image.name in json.dumps([r for r in stopped.records() if r['level'] in ('warn', 'error')])
    assert stopped.call('image.register', {'name': 'b'})
    verdict = stopped.wire()
    reply = verdict.reply('image.verify', {'image': 'a'})
    verdict.close()
    assert not reply['ok'] or not reply['result']['ok']


def test_kill_leaves_a_database_that_opens(banger):
    with banger.wire() as client:
        for i in range(50):
            client.call('image.register', {'name': f'n{i}'})
    os.kill(banger.daemon.pid, signal.SIGKILL)
    banger.daemon.wait()
    banger.start()
    assert len(banger.images()) == 50


def test_files_of_a_published_image_that_are_gone(stopped):
    """The image stays, says that it is damaged, refuses to be opened, is whole again with its files, and can be deleted."""
    image, = os.listdir(stopped.state / 'images')
    files = stopped.state / 'images' / image
    aside = stopped.base / 'aside'
    files.rename(aside)
    stopped.start()
    mount = stopped.mount()
    shown = mount / 'images' / 'a'
    assert [i.get('damaged') for i in stopped.ctl('image', 'ls', '--json').json['images']] == [True]
    assert stopped.ctl('image', 'show', 'a', '--json').json['image']['damaged'] is True
    assert json.loads((shown / 'image.json').read_text())['damaged'] is True
    assert os.getxattr(shown, 'user.banger.damaged') == b'true'
    with pytest.raises(OSError) as e:
        (shown / 'rootfs.ext4').read_bytes()
    assert e.value.errno == errno.EUCLEAN
    refused = stopped.ctl('image', 'verify', 'a', check=False)
    assert refused.code == 1 and f'images/{image}' in refused.err and refused.op_id, refused
    assert stopped.op(refused.op_id)['code'] == 'corrupt'
    assert stopped.ctl('doctor', '--check', check=False).code == 1
    # Put back, it is whole without a restart of the daemon.
    aside.rename(files)
    assert not any(i.get('damaged') for i in stopped.ctl('image', 'ls', '--json').json['images'])
    stopped.ctl('image', 'verify', 'a')
    # Gone while the daemon runs: found out by the first who opens it.
    files.rename(aside)
    assert stopped.ctl('image', 'verify', 'a', check=False).code == 1
    assert stopped.ctl('image', 'show', 'a', '--json').json['image']['damaged'] is True
    os.rmdir(shown)
    assert os.listdir(mount / 'images') == []
    assert stopped.ctl('image', 'ls', '--json').json['images'] == []
    stopped.assert_consistent()
