# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks of VMs share: a daemon with a kernel and an image, and bare QEMUs beside it.

A bare guest is vm_bare.c as /init of an initrd made by hand, on the kernel and the modules that banger imported.
"""
import contextlib
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time

from pairs import harness, tool
import kernels

WAIT = 300
# In the order in which they need each other.
MODULES = ('virtio_ring', 'virtio', 'virtio_mmio', 'virtio_blk', 'virtio_console')
# What people type, and what was found to be fastest (BASELINES; vm_boot.py tries them again).
PLAIN = ('-M', 'pc', '-m', '256M', '-nographic', '-no-reboot')
FAST = ('-M', 'microvm,acpi=on,rtc=on,pic=on,pit=on,usb=off,memory-backend=ram', '-object', 'memory-backend-memfd,id=ram,size={memory},share=on',
        '-m', '{memory}', '-accel', 'tcg', '-cpu', 'max,la57=off,erms=off,fsrm=off', '-nodefaults', '-no-user-config', '-no-reboot',
        '-display', 'none', '-bios', 'qboot.rom')
FAST_WORDS = 'console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests noreplace-smp norandmaps'


def cache():
    """Where the kernel package and the root filesystem are kept from run to run."""
    path = pathlib.Path(os.environ.get('BANGER_BENCH_CACHE', pathlib.Path(tempfile.gettempdir()) / 'banger-bench-vm'))
    path.mkdir(parents=True, exist_ok=True)
    return path


def host(base):
    """A Banger, not started yet, and how to fill it."""
    kept = cache()
    small, root = kept / 'vm-kernel.tar', kernels.bootable_ext4(kept)
    if not small.exists():
        kernels.small_tar(kernels.find_deb(kept), small)
    banger = harness.Banger(base).start()
    banger.ctl('kernel', 'import', small, '--name', 'k')
    banger.ctl('image', 'import', root, '--name', 'web')
    return banger


def kernel_of(banger):
    """(vmlinux, vmlinuz, modules) of the imported kernel."""
    [path] = (banger.state / 'kernels').iterdir()
    modules = [next((path / 'modules').rglob(f'{name}.ko*'), None) for name in MODULES]
    return path / 'vmlinux', path / 'vmlinuz', [m for m in modules if m]


def initrd(path, modules=(), tree=None):
    """An initrd made by hand: vm_bare as /init, modules, perhaps programs."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=path.parent))
    if tree:
        shutil.copytree(tree, folder, dirs_exist_ok=True)
    shutil.copy(tool('vm_bare'), folder / 'init')
    for module in modules:
        shutil.copy(module, folder / module.name)
    (folder / 'modules.list').write_text(''.join(f'/{m.name}\n' for m in modules))
    names = '\n'.join(str(p.relative_to(folder)) for p in [folder, *sorted(folder.rglob('*'))])
    with open(path, 'wb') as out:
        subprocess.run(['cpio', '-o', '-H', 'newc', '--quiet'], cwd=folder, input=names.encode(), stdout=out, check=True)
    shutil.rmtree(folder)
    return path


def clock_words(banger):
    """What keeps the kernel from calibrating its clock against an emulated one, as banger says it."""
    path = banger.state / 'clock-words'
    if not path.exists():
        said = banger.ctl('vm', 'run', '--accel', 'tcg', 'web', '--', 'cat', '/proc/cmdline', timeout=WAIT).out
        path.write_text(' '.join(word for word in said.split() if word.startswith('tsc')))
    return path.read_text()


def fast(memory='256M'):
    return [a.format(memory=memory) for a in FAST]


def disk(image):
    """A VM's own disk over an image's, as banger has it where the filesystem cannot clone."""
    return ['-drive', f'file={image},if=none,id=disk,format=raw,snapshot=on', '-device', 'virtio-blk-device,drive=disk']


@contextlib.contextmanager
def qemu(*args, **popen):
    process = subprocess.Popen(['qemu-system-x86_64', *map(str, args)], **{'stdin': subprocess.DEVNULL, 'stdout': subprocess.DEVNULL, **popen})
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


class Port:
    """A bare guest's end of a virtio-serial port (vm_bare.c)."""
    ECHO, SINK, SOURCE, SPAWN = 1, 2, 3, 4

    def __init__(self, sock):
        self.sock = sock

    def ask(self, what, size, count):
        self.sock.sendall(struct.pack('<III', what, size, count))

    def take(self, n):
        data = bytearray(n)
        view = memoryview(data)
        while n:
            got = self.sock.recv_into(view, n)
            assert got, 'the bare guest went away'
            view, n = view[got:], n - got
        return bytes(data)

    def drop(self, n):
        data = bytearray(1 << 18)
        while n:
            got = self.sock.recv_into(data, min(n, len(data)))
            assert got, 'the bare guest went away'
            n -= got

    def echo_time(self):
        """Milliseconds of 8 bytes there and back."""
        self.ask(self.ECHO, 8, 1)
        start = time.perf_counter()
        self.sock.sendall(b'12345678')
        self.take(8)
        return (time.perf_counter() - start) * 1000

    def spawn_times(self, how, count):
        """Milliseconds of /bin/true (0: fork, 1: vfork) or of a static program that ends at once (2)."""
        self.ask(self.SPAWN, how, count)
        return [ns / 1e6 for ns in struct.unpack(f'<{count}Q', self.take(8 * count))]

    def rate(self, what, size, total):
        """MB/s of `total` bytes in, out, or there and back (ECHO), in messages of `size`."""
        count = total // size
        start = time.perf_counter()
        self.ask(what, size, count)
        sender = None
        if what != self.SOURCE:
            sender = threading.Thread(target=self.send, args=(size, count))
            sender.start()
        self.drop(8 if what == self.SINK else size * count)
        if sender:
            sender.join()
        return size * count / 1e6 / (time.perf_counter() - start)

    def send(self, size, count):
        data = bytes(size)
        for _ in range(count):
            self.sock.sendall(data)


@contextlib.contextmanager
def bare_port(banger, base, image, memory='256M'):
    """A bare guest on the fastest machine, its root on the image's disk, its port."""
    vmlinux, _, modules = kernel_of(banger)
    path = base / 'port.sock'
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        listener.bind(str(path))
        listener.listen(1)
        with qemu(*fast(memory), '-kernel', vmlinux, '-initrd', initrd(base / 'port.cpio', modules),
                  '-append', f'{FAST_WORDS} {clock_words(banger)} bare.root=/dev/vda', *disk(image),
                  '-serial', f'file:{base}/port.console', '-chardev', f'socket,id=port,path={path}',
                  '-device', 'virtio-serial-device,max_ports=2', '-device', 'virtserialport,chardev=port,name=bare'):
            sock, _ = listener.accept()
            sock.settimeout(WAIT)
            port = Port(sock)
            port.echo_time()
            yield port
            sock.close()
