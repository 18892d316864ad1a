# SPDX-License-Identifier: Apache-2.0
"""Everything dies by kill -9 at any moment, while VMs are made, started, used and stopped: bangerd, QEMU, the agent in the
guest, bangerfs, banger-helper, and virtiofsd where VMs see the registry. Afterwards states are true, nothing is left of
what died, and the next command works.

    BANGER_CRASH_OPS=N     so many operations (default 50; 16 in a quick run)
    BANGER_CRASH_SEED=N    the dice of an earlier run
"""
import collections
import os
import random
import re
import signal
import stat
import threading
import time

import pytest

import harness
import kernels
from harness import until
from test_helper import HELPER, Helper, Namespace
from test_vms import alive, call
from wire import OP_ID, WireError

QUICK = bool(os.environ.get('BANGER_QUICK'))
OPS = int(os.environ.get('BANGER_CRASH_OPS', 16 if QUICK else 50))
SEED = int(os.environ.get('BANGER_CRASH_SEED', time.time_ns() % 1000000))
pytestmark = [pytest.mark.needs('qemu-system-x86_64', 'banger-agent', 'bangerfs', 'ip', 'nft', 'nsenter'), pytest.mark.slow,
              pytest.mark.limit(120 + 8 * OPS), pytest.mark.skipif(HELPER is None, reason='needs banger-helper')]
AT_REST = {'created', 'running', 'paused', 'stopped', 'failed'}
# What an operation may be told when others die around it.
REFUSALS = {'busy', 'bad_request', 'not_found', 'exists', 'unavailable', 'cancelled', 'corrupt', 'timeout', 'internal'}
# An init that does nothing: beside it the agent is a process that can be killed.
INIT = '#!/bin/sh\ntrap "echo o > /proc/sysrq-trigger" INT\nwhile :; do sleep 1; done\n'
CHANNELS = 3
# What a VM with the registry has beside its VMM, by what is in their command lines.
INSIDE = {'virtiofsd': 'virtiofsd', 'bangerfs of a VM': '--vm='}


@pytest.fixture
def cleanup():
    steps = []
    yield steps
    for step in steps:
        step()


@pytest.fixture
def ns(base):
    ns = Namespace()
    yield ns
    ns.end()


@pytest.fixture(scope='session')
def with_init(cache):
    tree = kernels.bootable_tree(cache / 'init-tree')
    (tree / 'sbin').mkdir()
    (tree / 'sbin/idle').write_text(INIT)
    (tree / 'sbin/idle').chmod(0o755)
    (tree / 'sbin/init').symlink_to('idle')
    return harness.make_ext4(cache / 'init.ext4', tree, '64M')


def of_registries(mark):
    return [p for p, c in harness.children().items() if mark in c]


class Storm:
    """Workers that use VMs, one VM each, and one who kills. What they were told is kept."""

    def __init__(self, host, helper, mount, registry):
        self.host, self.helper, self.mount, self.registry = host, helper, mount, registry
        self.dice = random.Random(SEED)
        self.left, self.lock = OPS, threading.Lock()
        self.wrong, self.told, self.killed = [], collections.Counter(), collections.Counter()

    def take(self):
        with self.lock:
            self.left -= 1
            return self.left >= 0, self.dice.random(), self.dice.random()

    def ask(self, method, **params):
        """Whether it was done. Refusals must be sensible; without an answer the daemon is (being) killed."""
        fds = [os.open(os.devnull, os.O_RDWR)] * 3 if method in ('vm.exec', 'vm.run') else []
        try:
            with self.host.wire(timeout=100) as client:
                reply = client.reply(method, params, fds=fds)
        except OSError:
            reply = None
        finally:
            if fds:
                os.close(fds[0])
        if reply is None:
            self.told[method, 'nothing'] += 1
            time.sleep(0.2)
            return False
        error = reply.get('error', {})
        self.told[method, error.get('code', 'done')] += 1
        if error and (error['code'] not in REFUSALS or not OP_ID.fullmatch(error.get('op_id', '')) or not error['message']):
            self.wrong.append((method, params, error))
        return reply['ok']

    def work(self, name):
        there = False
        while True:
            go, what, how = self.take()
            if not go:
                return
            try:
                if what < 0.1:
                    self.ask('vm.run', image='web', accel='tcg', argv=['sleep', '0.2'], timeout_ms=60000)
                elif not there or what < 0.25:
                    self.ask('vm.rm', vm=name, force=True)
                    there = self.ask('vm.create', name=name, image='web', accel='tcg', network='bridge' if how < 0.4 else 'none',
                                     registry=self.registry if how < 0.6 else 'none')
                elif what < 0.6:
                    self.ask('vm.exec', vm=name, argv=['sh', '-c', 'echo x; sleep 0.3'], timeout_ms=20000)
                elif what < 0.8:
                    self.ask('vm.stop', vm=name, timeout_ms=4000)
                else:
                    self.ask('vm.start', vm=name)
            except Exception as error:  # pylint: disable=broad-except
                self.wrong.append((name, repr(error)))
                return

    # ---- the one who kills

    def qemus(self):
        return [p for p, c in harness.children().items() if 'guest=banger-' in c]

    def strike(self):
        kind = self.dice.choice(['bangerd', 'qemu', 'qemu', 'agent', 'agent', 'bangerfs', 'helper', *INSIDE])
        if kind == 'bangerd':
            self.host.kill()
            time.sleep(self.dice.random() * 0.3)
            self.host.start()
        elif kind == 'bangerfs':
            self.host.unmount_killed(self.mount)
            self.mount = self.host.mount()
        elif kind == 'helper':
            self.helper.process.end(signal.SIGKILL)
            self.helper.start()
        elif kind == 'agent':
            self.ask('vm.exec', vm=f'w{self.dice.randrange(CHANNELS)}', argv=['sh', '-c', 'kill -9 $PPID'], timeout_ms=5000)
        else:
            pids = self.qemus() if kind == 'qemu' else of_registries(INSIDE[kind])
            if not pids:
                return
            try:
                os.kill(self.dice.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                return
        self.killed[kind] += 1

    def rage(self):
        workers = [threading.Thread(target=self.work, args=(f'w{i}',)) for i in range(CHANNELS)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            time.sleep(self.dice.random() * 1.5)
            self.strike()
        for worker in workers:
            worker.join()


def unmount_killed(host, mount):
    """kill -9 of bangerfs leaves dead mounts, which whoever mounted it takes away."""
    mount.process.end(signal.SIGKILL)
    host.mounts.remove(mount)
    harness.force_unmount(mount.path)


def answers(host, vm):
    null = os.open(os.devnull, os.O_RDWR)
    try:
        with host.wire(timeout=60) as client:
            return client.reply('vm.exec', {'vm': vm, 'argv': ['true'], 'timeout_ms': 20000}, fds=[null] * 3)['ok']
    finally:
        os.close(null)


def inside(command):
    """Which VM a QEMU's command line is of."""
    return re.search(r'guest=banger-([^,]+),', command).group(1)


def untrue(host, vms):
    """What the daemon says of VMs that is not so."""
    wrong = [f'{v["name"]} is {v["state"]}' for v in vms if v['state'] not in AT_REST or v.get('transient')]
    for vm in vms:
        if vm['state'] == 'running' and not (alive(vm['pid']) and answers(host, vm['name'])):
            wrong.append(f'{vm["name"]} does not run: {vm}')
        if vm['state'] != 'running' and ('pid' in vm or (vm['state'] == 'failed') != bool(vm.get('failure'))):
            wrong.append(f'{vm["name"]}: {vm}')
    running = sorted(v['name'] for v in vms if v['state'] == 'running')
    found = sorted(inside(c) for c in harness.children().values() if 'guest=banger-' in c)
    dirs, ids = sorted(os.listdir(host.state / 'vms')), sorted(v['id'] for v in vms)
    return wrong + ([f'{found} run, not {running}'] if found != running else []) + ([f'{dirs}, not {ids}'] if dirs != ids else [])


def true_states(host):
    """All VMs, when what the daemon says of each has become so."""
    seen = []

    def settled():
        vms = call(host, 'vm.ls')['vms']
        seen[:] = [vms, untrue(host, vms)]
        return not seen[1]
    try:
        until(settled, 'true states', 60)
    except AssertionError as error:
        raise AssertionError(f'{error}: {seen[1]}') from None
    return seen[0]


def open_files(pid):
    found = []
    for fd in os.listdir(f'/proc/{pid}/fd'):
        try:
            found.append(os.readlink(f'/proc/{pid}/fd/{fd}'))
        except OSError:
            pass
    return found


def cgroups():
    return [d for d, _, _ in os.walk('/sys/fs/cgroup') if '/banger-vm-' in d]


def test_everything_dies(banger, ns, cleanup, with_init, cache):
    host = banger
    print('seed', SEED)
    host.unmount_killed = lambda mount: unmount_killed(host, mount)
    host.ctl('kernel', 'import', kernels.small_tar(kernels.find_deb(cache), cache / 'vm-kernel.tar'), '--name', 'k')
    host.ctl('image', 'import', with_init, '--name', 'web')
    helper = Helper(ns, host.run_dir).start()
    mount = host.mount()
    registry = 'none'
    cleanup.append(lambda: helper.process.alive() and helper.process.end())
    try:
        call(host, 'vm.create', name='probe', image='web', accel='tcg', registry='ro')
        registry = 'ro'
    except WireError as error:
        print('without the registry inside:', error)
    for vm in call(host, 'vm.ls')['vms']:
        call(host, 'vm.rm', vm=vm['name'], force=True)
    host.restart()
    storm = Storm(host, helper, mount, registry)
    began = time.monotonic()
    storm.rage()
    print('in', round(time.monotonic() - began, 1), 's:', dict(storm.told), 'killed', dict(storm.killed))
    assert not storm.wrong, storm.wrong
    true_states(host)
    host.restart()
    for vm in true_states(host):
        call(host, 'vm.rm', vm=vm['name'], force=True)
    # Nothing of them is left.
    assert os.listdir(host.state / 'vms') == [] and not storm.qemus() and not cgroups()
    until(lambda: ns.ours() == set() and ns.table() is None, 'TAPs and bridge to go')
    expected = {host.daemon.pid, storm.mount.process.pid, helper.process.pid, ns.process.pid}
    until(lambda: not any(of_registries(mark) for mark in INSIDE.values()), 'what was for the registry to end')
    mine = {p: c for p, c in harness.children().items() if p not in expected and not any(p in harness.children(e) for e in expected)}
    assert not mine, mine
    before = open_files(host.daemon.pid)
    assert not [p for p in host.run_dir.rglob('*') if stat.S_ISSOCK(p.stat().st_mode) and 'vm' in p.name]
    # The next command works.
    vm = call(host, 'vm.create', name='w0', image='web', accel='tcg', network='bridge')['vm']
    assert vm['state'] == 'running' and answers(host, 'w0')
    assert call(host, 'vm.stop', vm='w0')['vm']['state'] == 'stopped'
    call(host, 'vm.rm', vm='w0')
    until(lambda: ns.ours() == set(), 'its TAP to go')
    more = collections.Counter(open_files(host.daemon.pid)) - collections.Counter(before)
    assert len(open_files(host.daemon.pid)) <= len(before) + 1, more  # the kernel's initrd is kept
