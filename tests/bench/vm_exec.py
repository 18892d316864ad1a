#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""exec in a running VM against a bare guest that does the same by hand, both under TCG: round trips and throughput.

The floor of a round trip is what a bare guest needs to run /bin/true, and 8 bytes to go there and back over its
virtio-serial port; that of throughput what its port carries.
"""
import contextlib
import os
import threading
import time

from pairs import arguments, compare, directory, median, number, row, running, title
import vms
from vms import Port

options = arguments(__doc__, rounds=5, megabytes=32, trues=10)


class Exec:
    """vm.exec over the wire, without a client program between."""

    def __init__(self, banger, vm):
        self.client, self.vm = banger.wire(timeout=vms.WAIT), vm
        self.null = os.open('/dev/null', os.O_RDWR)

    def run(self, argv, stdin=None, stdout=None):
        fds = [self.null if fd is None else fd for fd in (stdin, stdout, None)]
        result = self.client.call('vm.exec', {'vm': self.vm, 'argv': argv}, None, fds)
        assert result['exit_code'] == 0, result

    def time(self, *argv):
        start = time.perf_counter()
        self.run(argv)
        return (time.perf_counter() - start) * 1000

    def rate(self, argv, total, into, out):
        """MB/s of `total` bytes through a command."""
        ends = [os.pipe() if wanted else (None, None) for wanted in (into, out)]
        threads = []
        if into:
            threads.append(threading.Thread(target=send, args=(ends[0][1], total)))
        if out:
            threads.append(threading.Thread(target=drop, args=(ends[1][0], total)))
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        self.run(argv, ends[0][0], ends[1][1])
        for end in (ends[0][0], ends[1][1]):
            if end is not None:
                os.close(end)
        for thread in threads:
            thread.join()
        return total / 1e6 / (time.perf_counter() - start)


def send(fd, total):
    data = bytes(1 << 16)
    while total > 0:
        total -= os.write(fd, data[:total])
    os.close(fd)


def drop(fd, total):
    while total > 0:
        data = os.read(fd, 1 << 18)
        assert data
        total -= len(data)
    os.close(fd)


def measure(program, port):
    times = {key: [] for key in ('true', 'floor', 'vfork', 'static', 'echo')}
    rates = {key: [] for key in ('in', 'bare in', 'out', 'bare out', 'both', 'bare both', 'bare in 4', 'bare out 4')}
    total = options.megabytes << 20
    for _ in range(options.rounds):
        for _ in range(options.trues):
            times['true'].append(program.time('true'))
            times['echo'].append(port.echo_time())
            times['floor'] += port.spawn_times(0, 1)
            times['vfork'] += port.spawn_times(1, 1)
            times['static'] += port.spawn_times(2, 1)
        rates['in'].append(program.rate(['sh', '-c', 'cat >/dev/null'], total, True, False))
        rates['bare in'].append(port.rate(Port.SINK, 32768, total))
        rates['out'].append(program.rate(['head', '-c', str(total), '/dev/zero'], total, False, True))
        rates['bare out'].append(port.rate(Port.SOURCE, 32768, total))
        rates['both'].append(program.rate(['cat'], total, True, True))
        rates['bare both'].append(port.rate(Port.ECHO, 32768, total))
        rates['bare in 4'].append(port.rate(Port.SINK, 4096, total // 4))
        rates['bare out 4'].append(port.rate(Port.SOURCE, 4096, total // 4))
    return times, rates


def report(times, rates):
    title('a round trip, milliseconds')
    row('', 'banger', 'bare', 'ratio', 'wanted')
    both = [a + b for a, b in zip(times['floor'], times['echo'])]
    compare('exec true / fork, exec, wait and an echo', times['true'], both, 'under 10 ms')
    for key, what in (('echo', '8 bytes there and back'), ('floor', 'true by fork'), ('vfork', 'true by vfork'),
                      ('static', 'a static program')):
        row(f'bare: {what}', '', number(median(times[key])))
    title('throughput, MB/s')
    row('', 'banger', 'bare', 'ratio', 'wanted')
    for key, what in (('in', 'stdin to a program'), ('out', 'stdout of a program'), ('both', 'through cat')):
        compare(what, rates[key], rates[f'bare {key}'], '100, or about 1')
    for key, what in (('bare in 4', 'to the guest'), ('bare out 4', 'from the guest')):
        row(f'bare: {what}, 4 KiB at a time', '', number(median(rates[key])))


with directory(options.dir) as base, contextlib.ExitStack() as stack:
    banger = stack.enter_context(running(vms.host(base), start=False))
    banger.call('vm.create', {'name': 'a', 'image': 'web', 'accel': 'tcg'})
    stack.callback(banger.call, 'vm.rm', {'vm': 'a', 'force': True})
    [image] = (banger.state / 'images').iterdir()
    with vms.bare_port(banger, base, image / 'rootfs.ext4') as port:
        report(*measure(Exec(banger, 'a'), port))
