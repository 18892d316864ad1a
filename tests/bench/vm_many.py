#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Many small VMs at once: until the last of them is up, against as many bare QEMUs of the fastest kind started at once, and
what each costs the daemon in memory.

A bare one is up when its init has said so on its port; banger's, when vm.create says that its agent is ready.
"""
import concurrent.futures
import contextlib
import socket
import time

from pairs import arguments, compare, directory, number, row, running, title
import vms

options = arguments(__doc__, vms=16, rounds=2, memory=96)


def create_all(banger, first):
    def create(i):
        with banger.wire(timeout=vms.WAIT) as client:
            client.call('vm.create', {'name': f'v{first + i}', 'image': 'web', 'accel': 'tcg', 'memory': options.memory << 20})
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(options.vms) as pool:
        list(pool.map(create, range(options.vms)))
    return time.perf_counter() - start


def remove_all(banger, first):
    for i in range(options.vms):
        banger.call('vm.rm', {'vm': f'v{first + i}', 'force': True})


def bare_all(banger, base, image):
    """Seconds until the last of the bare guests answers on its port."""
    vmlinux, _, modules = vms.kernel_of(banger)
    initrd, words = vms.initrd(base / 'many.cpio', modules), f'{vms.FAST_WORDS} {vms.clock_words(banger)} bare.root=/dev/vda'
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(options.vms)]
        start = time.perf_counter()
        for ours, theirs in pairs:
            stack.callback(ours.close)
            ours.settimeout(vms.WAIT)
            stack.enter_context(vms.qemu(
                *vms.fast(f'{options.memory}M'), '-kernel', vmlinux, '-initrd', initrd, '-append', words, *vms.disk(image), '-serial', 'null',
                '-chardev', f'socket,id=port,fd={theirs.fileno()}', '-device', 'virtio-serial-device,max_ports=2',
                '-device', 'virtserialport,chardev=port,name=bare', pass_fds=[theirs.fileno()]))
            theirs.close()
        for ours, _ in pairs:
            vms.Port(ours).echo_time()
        return time.perf_counter() - start


with directory(options.dir) as base, contextlib.ExitStack() as stack:
    banger = stack.enter_context(running(vms.host(base), start=False))
    [image] = (banger.state / 'images').iterdir()
    vms.clock_words(banger)
    create_all(banger, 0)  # what is made once: the initrd, threads, what malloc keeps
    remove_all(banger, 0)
    ours, bare, memory = [], [], []
    # Without its children, the QEMUs.
    own = lambda: next(int(l.split()[1]) for l in open(f'/proc/{banger.daemon.pid}/smaps_rollup') if l.startswith('Rss'))  # noqa: E731
    for round_ in range(1, options.rounds + 1):
        before = own()
        ours.append(create_all(banger, round_ * options.vms))
        memory.append((own() - before) / 1024 / options.vms)
        remove_all(banger, round_ * options.vms)
        bare.append(bare_all(banger, base, image / 'rootfs.ext4'))
    title(f'{options.vms} VMs of {options.memory} MB at once, seconds until the last is up')
    row('', 'banger', 'bare', 'ratio', 'wanted')
    compare('vm.create / bare QEMU', ours, bare, 'at most 1.2')
    title("the daemon's memory, MB")
    row('for each VM', number(max(memory)), '', '', 'under 1')
    row('all of it', number(own() / 1024))
