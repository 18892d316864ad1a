#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""From `vm run` to the first byte of its command's output, under TCG, against bare QEMU:

(a) what people type: qemu-system-x86_64 -M pc, the distribution's vmlinuz, an initrd made by hand, the same command as init;
(b) the fastest of several bare configurations that does what banger must do: the image's own disk mounted, the command run
    from it, its output on the console. All are tried in this run.

And from vm.create to QEMU's start, the disk included (an overlay or a clone of a small image): by the daemon's log.
"""
import contextlib
import os
import select
import subprocess
import time

from pairs import arguments, compare, directory, harness, median, number, row, running, title
import kernels
import vms

options = arguments(__doc__, rounds=7, memory=256)
MARK = b'first-byte'
QUIET = 'console=ttyS0 quiet panic=-1'
MICROVM = 'microvm,acpi=on,rtc=on,pic=on,pit=on,usb=off'


def until_mark(process):
    """Milliseconds from now until the process has said MARK."""
    start, said, fd = time.perf_counter(), b'', process.stdout.fileno()
    while MARK not in said:
        ready, _, _ = select.select([fd], [], [], vms.WAIT)
        more = os.read(fd, 4096) if ready else b''
        assert more, f'the guest said only {said[-400:]!r}'
        said += more
    return (time.perf_counter() - start) * 1000


def banger_run(banger):
    command = [harness.PROGRAM['banger-ctl'], 'vm', 'run', '--accel', 'tcg', '--memory', f'{options.memory}M', 'web', '--', '/bin/echo', MARK]
    start = time.perf_counter()
    process = subprocess.Popen([str(a) if not isinstance(a, bytes) else a for a in command], env=banger.env, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE)
    begun = (time.perf_counter() - start) * 1000
    took = begun + until_mark(process)
    process.stdout.close()
    assert process.wait() == 0
    return took


def bare_run(args):
    start = time.perf_counter()
    with vms.qemu(*args, stdout=subprocess.PIPE) as process:
        return (time.perf_counter() - start) * 1000 + until_mark(process)


def configurations(banger, base, image):
    """{name: arguments}; the first is what people type."""
    vmlinux, vmlinuz, modules = vms.kernel_of(banger)
    clock, memory = vms.clock_words(banger), f'{options.memory}M'
    run = f'bare.run=/bin/echo bare.arg={MARK.decode()}'
    tree = base / 'tree'
    kernels.bootable_tree(tree)
    by_hand = vms.initrd(base / 'hand.cpio', tree=tree)
    small = vms.initrd(base / 'small.cpio', modules)

    def fast(machine, kernel, words, *more):
        return ['-M', machine, '-m', memory, '-accel', 'tcg', '-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-serial',
                'stdio', '-kernel', kernel, '-initrd', small, '-append', f'{words} {clock} {run} bare.root=/dev/vda', *vms.disk(image), *more]
    memfd = ['-object', f'memory-backend-memfd,id=ram,size={memory},share=on']
    cpu = ['-cpu', 'max,la57=off,erms=off,fsrm=off']
    tuned = vms.FAST_WORDS
    return {
        'typed: -M pc, vmlinuz, initrd': ['-M', 'pc', '-m', memory, '-nographic', '-no-reboot', '-kernel', vmlinuz, '-initrd', by_hand,
                                          '-append', f'{QUIET} {run}'],
        'microvm, vmlinux': fast(MICROVM, vmlinux, QUIET),
        'microvm, vmlinux, words': fast(MICROVM, vmlinux, tuned),
        'microvm, vmlinuz, words': fast(MICROVM, vmlinuz, tuned),
        'microvm, vmlinux, words, qboot': fast(MICROVM, vmlinux, tuned, '-bios', 'qboot.rom'),
        'the same, cpu': fast(MICROVM, vmlinux, tuned, '-bios', 'qboot.rom', *cpu),
        'the same, memfd': fast(MICROVM + ',memory-backend=ram', vmlinux, tuned, '-bios', 'qboot.rom', *cpu, *memfd),
        'the same, tb-size=64': fast(MICROVM + ',memory-backend=ram', vmlinux, tuned, '-bios', 'qboot.rom', *cpu, *memfd, '-accel', 'tcg,tb-size=64'),
    }


def create_times(banger):
    """Milliseconds from vm.create to QEMU's start, by the daemon's log."""
    took = []
    for i in range(options.rounds):
        vm = banger.call('vm.create', {'name': f'c{i}', 'image': 'web', 'accel': 'tcg'})['vm']
        records = {r['msg']: r for r in banger.records(vm['op_id'])}
        begun, born = records['operation started']['ts'], records['VM started']['ts']
        took.append((float(born[17:-1]) - float(begun[17:-1])) % 60 * 1000)
        banger.call('vm.rm', {'vm': f'c{i}', 'force': True})
    return took


with directory(options.dir) as base, contextlib.ExitStack() as stack:
    banger = stack.enter_context(running(vms.host(base), start=False))
    [image] = (banger.state / 'images').iterdir()
    bare = configurations(banger, base, image / 'rootfs.ext4')
    times, ours = {name: [] for name in bare}, []
    banger_run(banger)  # makes the initrd
    for _ in range(options.rounds):
        # banger beside both that it is compared with, because a machine's speed changes from minute to minute.
        ours.append(banger_run(banger))
        for name, args in bare.items():
            times[name].append(bare_run(args))
        ours.append(banger_run(banger))
    typed, *others = bare
    fastest = min(others, key=lambda name: median(times[name]))
    title('to the first byte of output, milliseconds')
    row('', 'banger', 'bare', 'ratio', 'wanted')
    compare(f'vm run / {typed}', ours, times[typed], 'at most 0.62')
    compare(f'vm run / fastest: {fastest}', ours, times[fastest], 'at most 1.10')
    for name in others:
        row(f'bare: {name}', '', number(median(times[name])))
    title('from vm.create to QEMU\'s start, milliseconds')
    created = create_times(banger)
    row('median, with the disk', number(median(created)), '', '', 'under 30 without')
