# SPDX-License-Identifier: Apache-2.0
"""Following the registry: registry.watch on the wire, the stream `events` in the tree, `banger-ctl events`."""
import errno
import json
import os
import select
import signal
import subprocess
import threading
import time

import pytest

import harness
from harness import until


def snapshot(client):
    """Read up to "ready": all images by id, all kernels, the generation."""
    images, kernels = {}, {}
    while True:
        event = client.receive()
        if event['event'] == 'ready':
            return images, kernels, event['generation']
        assert event['event'] == 'snapshot'
        for image in event.get('images', []):
            assert image['id'] not in images
            images[image['id']] = image
        for kernel in event.get('kernels', []):
            kernels[kernel['id']] = kernel


def apply(images, event):
    for image in event['images']:
        if image['state'] == 'deleted':
            del images[image['id']]
        else:
            images[image['id']] = image


def test_snapshot_then_changes(banger, published):
    published('a')
    with banger.wire() as watcher, banger.wire() as client:
        result = watcher.watch()
        assert result['directories'] == ['images', 'drafts', 'kernels', 'vms']
        fds = []
        images, _, generation = snapshot(watcher)
        fds = watcher.take_fds()
        assert len(fds) == 4
        assert generation == client.call('status')['generation']
        assert {i['name'] for i in images.values()} == {'a'}
        [image] = images.values()
        assert os.listdir(f'/proc/self/fd/{fds[0]}') == [image['id']]
        for fd in fds:
            os.close(fd)

        expected = []

        def change(method, params, kind):
            reply = client.reply(method, params)
            assert reply['ok'], reply
            expected.append((kind, reply['result']['generation'], reply.get('op_id')))
            return reply['result']

        change('image.register', {'name': 'b'}, 'registered')
        change('image.register', {'name': 'c'}, 'registered')
        change('image.swap', {'a': 'drafts/b', 'b': 'drafts/c'}, 'swapped')
        change('image.rename', {'image': 'drafts/b', 'name': 'd'}, 'renamed')
        change('image.configure', {'image': 'drafts/d', 'document': {'cmd': ['/bin/sh']}}, 'configured')
        change('image.rename', {'image': 'images/a', 'name': 'b'}, 'renamed')
        change('image.delete', {'image': 'drafts/c'}, 'deleted')
        for kind, generation, op_id in expected:
            event = watcher.receive()
            assert (event['event'], event['change'], event['generation']) == ('image', kind, generation)
            assert op_id is None or event['op_id'] == op_id
            assert event['ts'].endswith('Z')
            assert len(event['images']) == (2 if kind == 'swapped' else 1)
            apply(images, event)
        now = {i['id']: i for i in banger.images().values()}
        assert images == now


def test_two_watchers_see_one_order(banger):
    """Under load from several clients: each watcher has every change once, in the order of generations."""
    watchers = [banger.wire() for _ in range(3)]
    for watcher in watchers:
        watcher.watch()
        snapshot(watcher)

    def work(tag):
        with banger.wire() as client:
            for i in range(20):
                client.call('image.register', {'name': f'{tag}{i}'})
                if i % 3 == 0:
                    client.call('image.delete', {'image': f'drafts/{tag}{i}'})

    threads = [threading.Thread(target=work, args=(tag,)) for tag in 'abcd']
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = banger.call('status')['generation']
    seen = []
    for watcher in watchers:
        events = [watcher.receive()]
        while events[-1]['generation'] < last:
            events.append(watcher.receive())
        assert [e['generation'] for e in events] == list(range(last - len(events) + 1, last + 1))
        seen.append(events)
        watcher.close()
    assert seen[0] == seen[1] == seen[2]


def test_a_snapshot_taken_under_load_is_consistent(banger):
    """Snapshot and the changes after it always add up to the registry, whenever it is taken."""
    done = threading.Event()

    def work():
        with banger.wire() as client:
            i = 0
            while not done.is_set():
                i += 1
                client.call('image.register', {'name': f'n{i}'})
                if i > 5:
                    client.call('image.delete', {'image': f'drafts/n{i - 5}'})

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(15):
            with banger.wire() as watcher:
                watcher.watch()
                images, _, generation = snapshot(watcher)
                for _ in range(10):
                    event = watcher.receive()
                    assert event['generation'] == generation + 1
                    generation += 1
                    for image in event['images']:  # it must fit what the snapshot said
                        assert (image['id'] in images) == (event['change'] != 'registered')
                    apply(images, event)
                for fd in watcher.take_fds():
                    os.close(fd)
    finally:
        done.set()
        thread.join()


def test_without_snapshot(banger, published):
    published('a')
    with banger.wire() as watcher:
        result = watcher.watch(snapshot=False)
        assert result['generation'] == banger.call('status')['generation']
        banger.call('image.register', {'name': 'b'})
        assert watcher.receive()['change'] == 'registered'


def test_operations_too(banger):
    """With "ops": how each operation ended, failures too."""
    with banger.wire() as watcher, banger.wire() as client:
        watcher.watch(ops=True)
        while watcher.receive()['event'] != 'ready':
            pass
        client.call('image.register', {'name': 'a'}, op_id='op-00000000000a')
        client.reply('image.register', {'name': 'a'}, op_id='op-00000000000b')
        ended = {}
        while len(ended) < 2:
            event = watcher.receive()
            if event['event'] == 'op':
                ended[event['op']['op_id']] = event['op']
        assert ended['op-00000000000a']['outcome'] == 'completed'
        assert ended['op-00000000000b']['code'] == 'exists'


@pytest.mark.slow
@pytest.mark.limit(120)
def test_a_watcher_that_does_not_read_is_cut_off(banger):
    """Its backlog is bounded; the others and the writers do not wait for it."""
    image = banger.call('image.register', {'name': 'a'})['image']['id']
    with banger.wire() as stuck, banger.wire() as client:
        stuck.watch(snapshot=False)
        document = {'labels': {f'k{i}': 'v' * 1000 for i in range(50)}}
        start = time.monotonic()
        for i in range(300):  # 15 MB of events
            document['labels']['k0'] = str(i)
            client.call('image.configure', {'image': image, 'document': document})
        assert time.monotonic() - start < 60
        until(lambda: client.call('status')['watchers'] == 0, 'the watcher to be cut off', 40)
        # What it reads now ends; it is not told that all is well.
        count = 0
        try:
            while stuck.receive() is not None:
                count += 1
        except (AssertionError, ConnectionResetError):
            pass
        assert count < 300


# ---- the stream in the tree

def read_lines(fd, seconds=10):
    """One read() of the stream, as documents. It gives whole lines."""
    ready, _, _ = select.select([fd], [], [], seconds)
    assert ready, 'nothing to read'
    data = os.read(fd, 1 << 20)
    assert data.endswith(b'\n')
    return [json.loads(line) for line in data.splitlines()]


def next_image(fd):
    """Read on to the next change of an image; operations are in the stream too."""
    while True:
        for event in read_lines(fd):
            if event['event'] == 'image':
                return event


def drain(fd):
    """Read until nothing has come for a moment."""
    while select.select([fd], [], [], 0.3)[0]:
        os.read(fd, 1 << 20)


def test_events_blocks_and_polls(mnt):
    fd = os.open(mnt / 'events', os.O_RDONLY)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        assert poll.poll(50) == []
        seen = []
        reader = threading.Thread(target=lambda: seen.append(os.read(fd, 1 << 20)))
        reader.start()
        reader.join(0.2)
        assert reader.is_alive(), 'the read did not block'
        os.mkdir(mnt / 'drafts/a')
        reader.join(10)
        event = json.loads(seen[0].splitlines()[0])
        assert event['change'] == 'registered' and event['images'][0]['name'] == 'a'
        drain(fd)
        assert poll.poll(50) == []
        mnt.banger.call('image.register', {'name': 'b'})
        assert poll.poll(5000), 'poll did not wake'
        assert next_image(fd)['images'][0]['name'] == 'b'
    finally:
        os.close(fd)


def test_events_without_blocking(mnt):
    fd = os.open(mnt / 'events', os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            os.read(fd, 4096)
        os.mkdir(mnt / 'drafts/a')
        assert next_image(fd)['change'] == 'registered'
        drain(fd)
        with pytest.raises(BlockingIOError):
            os.read(fd, 4096)
    finally:
        os.close(fd)


def test_events_gives_whole_lines(mnt):
    """To a small buffer as well; nothing is lost or cut in two for a reader of lines."""
    fd = os.open(mnt / 'events', os.O_RDONLY)
    try:
        for i in range(20):
            os.mkdir(mnt / f'drafts/n{i}')
        data, names = b'', []
        while len(names) < 20:
            piece = os.read(fd, 100)
            assert piece
            data += piece
            events = [json.loads(line) for line in data[:data.rfind(b'\n') + 1].splitlines()]
            names = [e['images'][0]['name'] for e in events if e['event'] == 'image']
        assert names == [f'n{i}' for i in range(20)]
    finally:
        os.close(fd)


def test_two_readers_of_events(mnt):
    fds = [os.open(mnt / 'events', os.O_RDONLY) for _ in range(2)]
    os.mkdir(mnt / 'drafts/a')
    assert next_image(fds[0]) == next_image(fds[1])
    for fd in fds:
        os.close(fd)


def holds(pid, path):
    """Has the process the file open?"""
    def leads_to(fd):
        try:
            return os.readlink(f'/proc/{pid}/fd/{fd}')
        except FileNotFoundError:  # closed meanwhile
            return None
    return str(path) in map(leads_to, os.listdir(f'/proc/{pid}/fd'))


def test_a_blocked_reader_can_be_interrupted(mnt):
    """cat events ends on a signal: the request does not hold its process in the kernel."""
    cat = subprocess.Popen(['cat', mnt / 'events'], stdout=subprocess.PIPE)
    until(lambda: holds(cat.pid, mnt.path / 'events'), 'cat to open it')
    os.mkdir(mnt / 'drafts/a')
    assert json.loads(cat.stdout.readline())['change'] == 'registered'
    cat.send_signal(signal.SIGINT)
    assert cat.wait(5) == -signal.SIGINT
    cat.stdout.close()


def test_events_go_on_after_a_restart(mnt):
    """Readers stay connected to the mount; the daemon's restart is not the end of their stream."""
    fd = os.open(mnt / 'events', os.O_RDONLY)
    try:
        mnt.banger.restart()

        def change():
            try:
                os.mkdir(mnt / 'drafts/later')
                return True
            except OSError as error:
                assert error.errno == errno.EHOSTDOWN
                return False
        until(change, 'bangerfs to reconnect')
        assert next_image(fd)['images'][0]['name'] == 'later'
    finally:
        os.close(fd)


def test_ctl_events(banger):
    """A JSON line for each change with --json; ends quietly on Ctrl-C."""
    process = subprocess.Popen([harness.PROGRAM['banger-ctl'], '--json', 'events'], env=banger.env, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    until(lambda: banger.call('status')['watchers'] == 1, 'the watcher')
    banger.call('image.register', {'name': 'a'})
    while True:
        event = json.loads(process.stdout.readline())
        if event['event'] == 'image':
            break
    assert event['change'] == 'registered'
    process.send_signal(signal.SIGINT)
    process.wait(10)
    process.stdout.close()
    process.stderr.close()


# ---- other doors

def test_other_doors_show_at_once(mnt, published):
    """A change by the command line or another mount is there when the command has ended: also names that were
    looked up before, in vain or not."""
    other = mnt.banger.mount('second')
    ctl = mnt.banger.ctl
    for path in (mnt, other):
        assert not os.path.exists(path / 'drafts/a') and os.listdir(path / 'images') == []
    steps = (
        (lambda: ctl('image', 'register', 'a'), 'drafts', ['a']),
        (lambda: os.mkdir(other / 'drafts/b'), 'drafts', ['a', 'b']),
        (lambda: ctl('image', 'rename', 'drafts/a', 'c'), 'drafts', ['b', 'c']),
        (lambda: published('d'), 'images', ['d']),
        (lambda: os.rename(mnt / 'images/d', mnt / 'images/e'), 'images', ['e']),
        (lambda: os.rmdir(other / 'images/e'), 'images', []),
        (lambda: ctl('image', 'rm', 'drafts/b'), 'drafts', ['c']),
    )
    gone = set()
    for step, folder, names in steps:
        before = set(os.listdir(mnt / folder))
        step()
        for mount in (mnt, other):
            until(lambda: sorted(os.listdir(mount / folder)) == names, f'{names} in {mount.path}/{folder}', 2)
            for name in names:
                assert os.stat(mount / folder / name)
                if folder == 'images':
                    assert os.stat(mount / 'rootfs' / name / 'etc')
            for name in before - set(names):
                gone.add(name)
                until(lambda: not (mount / folder / name).exists(), f'{folder}/{name} to be gone', 2)
    assert gone


def test_swap_shows_in_open_directories(mnt, published):
    """After an exchange by another door, the names lead to the other images at once, cached or not."""
    published('a')
    published('b', 'other')
    for name, tag in (('a', 'small'), ('b', 'other')):
        assert (mnt / f'rootfs/{name}/etc/hostname').read_text() == f'{tag}\n'
        assert mnt.xattr(f'images/{name}', 'id')
    kept = open(mnt / 'rootfs/a/etc/hostname')
    mnt.banger.call('image.swap', {'a': 'images/a', 'b': 'images/b'})
    until(lambda: (mnt / 'rootfs/a/etc/hostname').read_text() == 'other\n', 'the swap to show', 2)
    assert (mnt / 'rootfs/b/etc/hostname').read_text() == 'small\n'
    assert (mnt / 'images/a/image.json').read_text() != (mnt / 'images/b/image.json').read_text()
    assert json.loads((mnt / 'images/a/image.json').read_text())['name'] == 'a'
    assert kept.read() == 'small\n'
    kept.close()
