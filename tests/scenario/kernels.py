# SPDX-License-Identifier: Apache-2.0
"""A real kernel and root filesystems that boot, for the scenarios of kernels and VMs.

The kernel is Debian's for clouds: $BANGER_KERNEL_DEB, else what `apt-get download` gives, kept for the session.
Root filesystems are made of this machine's own programs and the libraries that they need.
"""
import fcntl
import io
import os
import pathlib
import re
import shutil
import subprocess
import tarfile

import pytest

import harness

PROGRAMS = ('sh', 'cat', 'echo', 'sleep', 'id', 'env', 'true', 'wc', 'head', 'uname', 'ls', 'mkdir', 'rm', 'seq',
            'sha256sum', 'kill', 'pwd', 'tr', 'yes', 'dd', 'stat', 'nproc', 'grep', 'stty',
            'mv', 'cp', 'rmdir', 'ln', 'mknod', 'touch', 'mount', 'mke2fs', 'chmod', 'getfattr', 'setfattr')
MODULES = ('virtio', 'virtio_ring', 'virtio_mmio', 'virtio_blk', 'virtio_console', 'ext4', 'jbd2', 'mbcache', 'crc16',
           'virtio_net', 'net_failover', 'failover', 'fuse', 'virtiofs')


def find_deb(cache):
    """The package, or the test is skipped."""
    given = os.environ.get('BANGER_KERNEL_DEB')
    if given:
        return pathlib.Path(given)
    depends = subprocess.run(['apt-cache', 'depends', 'linux-image-cloud-amd64'], capture_output=True, text=True)
    match = re.search(r'Depends: (linux-image-\S+)', depends.stdout)
    if match:
        subprocess.run(['apt-get', '-q', 'download', match.group(1)], cwd=cache, capture_output=True)
    found = sorted(cache.glob('linux-image-*.deb'))
    if not found:
        pytest.skip('no kernel package: set BANGER_KERNEL_DEB')
    return found[-1]


def small_tar(deb, path):
    """A tar with the package's kernel and the modules that a VM boots with: imported in a moment. Made once for each path."""
    if path.exists():
        return path
    files = subprocess.run(['dpkg-deb', '--fsys-tarfile', deb], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(files)) as whole, tarfile.open(path, 'w') as small:
        for entry in whole:
            name = pathlib.Path(entry.name)
            wanted = name.name.startswith('vmlinuz-') or name.name == 'modules.builtin' or \
                name.name.split('.ko')[0].replace('-', '_') in MODULES and '.ko' in name.name
            if entry.isfile() and wanted:
                small.addfile(entry, whole.extractfile(entry))
    return path


def libraries(program):
    """The files that a program needs beside itself (ldd)."""
    said = subprocess.run(['ldd', program], capture_output=True, text=True).stdout
    return re.findall(r'(/\S+) \(0x', said)


def bootable_tree(path):
    """A directory that a VM can run shell scripts in."""
    path = pathlib.Path(path)
    for folder in ('bin', 'etc', 'lib', 'root', 'srv', 'tmp', 'proc', 'sys', 'dev', 'run'):
        (path / folder).mkdir(parents=True)
    for name in PROGRAMS:
        program = shutil.which(name)
        shutil.copy(program, path / 'bin' / name)
        for library in libraries(program):
            to = path / library.lstrip('/')
            to.parent.mkdir(parents=True, exist_ok=True)
            if not to.exists():
                shutil.copy(library, to)
    (path / 'etc/passwd').write_text('root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n')
    (path / 'etc/group').write_text('root:x:0:\nweb:x:34:\naudio:x:29:web\n')
    (path / 'etc/os-release').write_text('ID=bootable\n')
    return path


def bootable_ext4(cache):
    path = cache / 'bootable.ext4'
    if not path.exists():
        harness.make_ext4(path, bootable_tree(cache / 'bootable-tree'), '64M')
    return path


def debian_tar(cache):
    """The smallest Debian that has apt's essentials and systemd, as a tar: $BANGER_DEBIAN_TAR, else made once for the session."""
    given = os.environ.get('BANGER_DEBIAN_TAR')
    if given:
        return pathlib.Path(given)
    # Test runs at a time (pytest-xdist) have a directory each in a common one.
    folder = cache.parent.parent if os.environ.get('PYTEST_XDIST_WORKER') else cache
    tar = folder / 'debian.tar'
    with open(folder / 'debian.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tar.exists():
            left_out = [f'--dpkgopt=path-exclude=/usr/share/{d}/*' for d in ('man', 'locale')]
            done = subprocess.run(['mmdebstrap', '--quiet', '--variant=essential', '--mode=root', '--format=tar', '--include=systemd-sysv',
                                   *left_out, 'bookworm', folder / 'debian.making'], capture_output=True, text=True, timeout=300)
            if done.returncode != 0:
                pytest.skip(f'mmdebstrap: {done.stderr[-300:]}')
            (folder / 'debian.making').rename(tar)
    return tar
