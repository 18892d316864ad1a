# SPDX-License-Identifier: Apache-2.0
"""Eight processes race register, promote, rename, swap and delete over twenty names, through two mounts and
the command line at once.

What happened is known three times: each process records its own successes, registry.watch gives every change
in the order in which it was committed, and the store, the directories and the trees say how it ended. The
changes are replayed on a model in which a name has one owner; then each process's successes must be, one by
one and in order, the changes that the daemon ascribes to that process. So no name ever had two owners, and no
success was lost or invented.
"""
import collections
import hashlib
import json
import os
import subprocess
import sys
import threading

import pytest

import harness
from conftest import QUICK
from harness import until

NAMES = [f'n{i:02}' for i in range(20)]
SECONDS = 5 if QUICK else 30

# What a racing change may be refused with, and nothing else. EBUSY: a promotion holds the image. (ESTALE
# would be the kernel's: a directory that another door renamed must not be the same one to it.)
ALLOWED = {
    'register': {'EEXIST'},
    'fill': {'EEXIST', 'ENOENT', 'EROFS', 'EBUSY'},
    'promote': {'ENOENT', 'EEXIST', 'ENODATA', 'EBUSY'},
    'rename': {'ENOENT', 'EEXIST', 'EBUSY'},
    'swap': {'ENOENT', 'EBUSY'},
    'delete': {'ENOENT', 'EBUSY'},
}
CHANGE = {'registered': 'register', 'promoted': 'promote', 'renamed': 'rename', 'swapped': 'swap', 'deleted': 'delete'}


class Watcher(threading.Thread):
    """Every change, in order, as registry.watch tells it."""

    def __init__(self, banger):
        super().__init__(daemon=True)
        self.client = banger.wire(timeout=None)
        self.events, self.ops = [], {}
        self.client.watch(ops=True)
        self.start()

    def run(self):
        try:
            while (event := self.client.receive()) is not None:
                if event['event'] == 'image':
                    self.events.append(event)
                elif event['event'] == 'op':
                    self.ops[event['op']['op_id']] = event['op']
        except (OSError, AssertionError):
            pass


class Model:
    """Names and their owners. Applying an event that would give a name two owners fails."""

    def __init__(self):
        self.images = {}

    def owner(self, state, name):
        owners = [i for i, (s, n) in self.images.items() if (s, n) == (state, name)]
        assert len(owners) <= 1
        return owners[0] if owners else None

    def apply(self, event):
        """The change as its process would describe it: (change, names)."""
        change, images = event['change'], event['images']
        before = [self.images.get(i['id']) for i in images]
        for image in images:
            if image['state'] == 'deleted':
                del self.images[image['id']]
            else:
                self.images[image['id']] = (image['state'], image['name'])
        for image in images:
            if image['state'] != 'deleted':
                assert self.owner(image['state'], image['name']) == image['id'], event
        folder = {'draft': 'drafts', 'published': 'images'}
        if change == 'registered':
            assert before == [None]
            return 'register', [images[0]['name']]
        if change == 'promoted':
            assert before[0][0] == 'draft' and images[0]['state'] == 'published'
            return 'promote', [before[0][1], images[0]['name']]
        if change == 'renamed':
            assert before[0][0] == images[0]['state']
            return 'rename', [folder[before[0][0]], before[0][1], images[0]['name']]
        if change == 'swapped':
            assert [b[1] for b in before] == [i['name'] for i in reversed(images)]
            return 'swap', [folder[before[0][0]], *sorted(b[1] for b in before)]
        assert change == 'deleted', event
        return 'delete', [folder[before[0][0]], before[0][1]]


def tree(mount):
    """What a mount shows: {(state, name): id}."""
    found = {}
    for folder, state in (('images', 'published'), ('drafts', 'draft')):
        for name in os.listdir(mount / folder):
            found[state, name] = mount.xattr(f'{folder}/{name}', 'id')
    return found


@pytest.mark.slow
@pytest.mark.limit(SECONDS * 2 + 120)
def test_race(worlds, base, cache):
    config = base / 'config.json'
    config.write_text('{"ops_kept": 1000000}')
    banger = worlds(env={'BANGER_CONFIG': str(config)}).start()
    mounts = [banger.mount('one'), banger.mount('two')]
    watcher = Watcher(banger)
    until(lambda: banger.call('status')['watchers'] >= 3, 'the watchers')
    image = cache / 'race.ext4'
    harness.run('mke2fs', '-q', '-F', '-t', 'ext4', '-O', '^has_journal', image, '512k')
    digest = 'sha256:' + hashlib.sha256(image.read_bytes()).hexdigest()

    doors = [mounts[0].path] * 3 + [mounts[1].path] * 3 + [harness.PROGRAM['banger-ctl']] * 2
    racers = [subprocess.Popen([sys.executable, os.path.join(os.path.dirname(__file__), 'racer.py'), str(door), str(seed), str(SECONDS),
                                str(image), ','.join(NAMES)], env={**os.environ, **banger.env}, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE) for seed, door in enumerate(doors)]
    records = []
    for racer in racers:
        out, err = racer.communicate(timeout=SECONDS + 90)
        assert racer.returncode == 0, err
        records.append([json.loads(line) for line in out.splitlines()])
    banger.settled()

    # Refusals: only with what a race explains.
    for record in (record for record in sum(records, []) if record['error']):
        assert record['error'] in ALLOWED[record['change']], record

    # The changes in order: a name has one owner at each step, generations grow by one.
    last = banger.call('status')['generation']
    until(lambda: watcher.events and watcher.events[-1]['generation'] >= last, 'the last event')
    model, by_pid = Model(), collections.defaultdict(list)
    until(lambda: all(e['op_id'] in watcher.ops for e in watcher.events), 'the operations of all events')
    for previous, event in zip([None, *watcher.events], watcher.events):
        assert previous is None or event['generation'] == previous['generation'] + 1
        by_pid[watcher.ops[event['op_id']]['actor']['pid']].append(model.apply(event))

    # Each process's successes are the daemon's, one by one.
    done = collections.Counter()
    for record in sum(records, []):
        if record['error'] or record['change'] == 'fill':
            continue
        names = list(record['names'])
        if record['change'] == 'swap':
            names = [names[0], *sorted(names[1:])]
        assert by_pid[record['pid']], f'a success that the registry never saw: {record}'
        assert by_pid[record['pid']].pop(0) == (record['change'], names), record
        done[record['change']] += 1
    left = {pid: changes for pid, changes in by_pid.items() if changes}
    assert not left, f'changes that nobody made: {left}'
    for change in CHANGE.values():
        assert done[change] >= 5, f'the race did too little to prove anything: {done}'

    # The end: store, directories, both trees and the model agree; what is published is whole.
    banger.assert_consistent()
    images = {key: image['id'] for key, image in banger.images().items()}
    assert images == {key: i for i, key in model.images.items()}
    for mount in mounts:
        assert tree(mount) == images
    for (state, name), image_id in images.items():
        if state == 'published':
            content = (mounts[0] / 'images' / name / 'rootfs.ext4').read_bytes()
            assert mounts[1].xattr(f'images/{name}', 'digest') == digest
            assert 'sha256:' + hashlib.sha256(content).hexdigest() == digest
    print(f'{sum(done.values())} changes in {SECONDS} s: {dict(done)}')
