# SPDX-License-Identifier: Apache-2.0
"""Debian images of the sizes that people pull, for benchmarks: made with mmdebstrap and, layer over layer, apt-get in a chroot
on an overlay; what the overlay's upper directory holds then becomes a layer (whiteouts and opaque directories too).

    base    1 layer: minbase                                               63 / 170 MB compressed / unpacked
    multi   4 layers: compiler and Python, nginx, then mostly deletions    184 / 518 MB
    big     6 layers: also boost, Go, kernel headers, git, NumPy, node     556 / 1849 MB, 50,000 files

make(DIR) gives {name: [uncompressed tar of each layer]} and keeps them in DIR: the first time takes minutes and a mirror.
push(DIR, host_port, {'base-gz', …}) fills a registry with NAME-gz and NAME-zst, compressed once and kept too.
"""
import contextlib
import hashlib
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tarfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / 'scenario'))
import images  # noqa: E402

INSTALL = 'apt-get -q -y -o APT::Install-Recommends=false -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=60 install '
CLEAN = 'rm -rf /var/cache/apt/archives/*.deb /var/cache/apt/*.bin'
STAGES = {  # name: (the one below, what is done)
    'tools': ('base', f'apt-get -q update && {INSTALL} gcc libc6-dev python3 && {CLEAN}'),
    'nginx': ('tools', f'{INSTALL} nginx-light iputils-ping sudo less && {CLEAN}'),
    'multi': ('nginx', 'rm -rf /var/lib/apt/lists/* /usr/share/doc/* /usr/share/man && apt-get clean && rm -rf /etc/nginx/sites-enabled && '
                       'mkdir -p /etc/nginx/sites-enabled && rm -rf /usr/lib/python3/dist-packages && mkdir /usr/lib/python3/dist-packages && '
                       'mv /usr/share/nginx /usr/share/nginx2'),
    'boost': ('tools', f'{INSTALL} build-essential libboost1.74-dev && {CLEAN}'),
    'go': ('boost', f'{INSTALL} golang-go && {CLEAN}'),
    'headers': ('go', f'{INSTALL} linux-headers-cloud-amd64 git vim tzdata && {CLEAN}'),
    'big': ('headers', f'{INSTALL} python3-numpy python3-scipy nodejs npm && apt-get clean && rm -rf /var/lib/apt/lists/*'),
    'top': ('big', 'echo changed > /etc/motd && cp /bin/ls /usr/local/bin/mine'),
}
NAMES = ('base', 'multi', 'big', 'top')  # top: a small layer over big
COMMAND = {'Cmd': ['/bin/bash'], 'Env': ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin']}


def chain(name):
    """The stages from the bottom up to `name`."""
    below = []
    while name != 'base':
        below.insert(0, name)
        name = STAGES[name][0]
    return ['base', *below]


def xattrs(path):
    return {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}


def layer(upper, tar):
    """The upper directory of an overlay as a layer."""
    with open(f'{tar}.new', 'wb') as out, tarfile.open(fileobj=out, mode='w', format=tarfile.PAX_FORMAT, encoding='utf-8', errors='surrogateescape') as archive:
        links = {}

        def add(path, name):
            st = os.lstat(path)
            if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
                folder, _, last = name.rpartition('/')
                archive.addfile(tarfile.TarInfo(f'{folder}/.wh.{last}' if folder else f'.wh.{last}'))
                return
            if stat.S_ISSOCK(st.st_mode):
                return
            info = archive.gettarinfo(path, name)
            info.uname = info.gname = ''
            info.mtime = int(st.st_mtime)
            attributes = xattrs(path)
            info.pax_headers = {f'SCHILY.xattr.{k}': v.decode('latin-1') for k, v in attributes.items() if not k.startswith('trusted.overlay.')}
            if stat.S_ISREG(st.st_mode) and st.st_nlink > 1:
                first = links.setdefault(st.st_ino, name)
                info.type, info.linkname = (tarfile.LNKTYPE, first) if first != name else (tarfile.REGTYPE, '')
                info.size = 0 if first != name else st.st_size
            if info.isreg():
                with open(path, 'rb') as file:
                    archive.addfile(info, file)
            else:
                archive.addfile(info)
            if stat.S_ISDIR(st.st_mode):
                if attributes.get('trusted.overlay.opaque') == b'y':
                    archive.addfile(tarfile.TarInfo(f'{name}/.wh..wh..opq'))
                for entry in sorted(os.listdir(path)):
                    add(f'{path}/{entry}', entry if name == './' else f'{name}/{entry}')
        add(str(upper), './')
    os.rename(f'{tar}.new', tar)


@contextlib.contextmanager
def overlay(lower, upper, point):
    work = upper.parent / f'{upper.name}.work'
    for folder in (upper, work, point):
        folder.mkdir(parents=True, exist_ok=True)
    options = f'lowerdir={":".join(str(p) for p in reversed(lower))},upperdir={upper},workdir={work}'
    subprocess.run(['mount', '-t', 'overlay', '-o', options, 'overlay', point], check=True)
    try:
        yield point
    finally:
        subprocess.run(['umount', '-R', point], check=True)
        shutil.rmtree(work, ignore_errors=True)
        point.rmdir()


def run_stage(directory, name):
    stages = chain(name)
    lower = [directory / 'trees' / n for n in stages[:-1]]
    upper = directory / 'trees' / name
    shutil.rmtree(upper, ignore_errors=True)
    with overlay(lower, upper, directory / 'point') as root:
        shutil.copyfile('/etc/resolv.conf', root / 'etc/resolv.conf')
        subprocess.run(['mount', '-t', 'proc', 'proc', root / 'proc'], check=True)
        subprocess.run(['chroot', root, 'sh', '-c', STAGES[name][1]], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                       env={'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'DEBIAN_FRONTEND': 'noninteractive', 'SOURCE_DATE_EPOCH': '1750000000', 'LC_ALL': 'C'})


def make(directory):
    directory = pathlib.Path(directory)
    (directory / 'trees').mkdir(parents=True, exist_ok=True)
    tars = {}
    for name in ('base', *STAGES):
        tars[name] = directory / f'{name}.tar'
        if tars[name].exists():
            continue
        tree = directory / 'trees' / name
        print(f'making {name}', file=sys.stderr, flush=True)
        if name == 'base':
            shutil.rmtree(tree, ignore_errors=True)
            subprocess.run(['mmdebstrap', '--quiet', '--variant=minbase', '--mode=root', '--format=directory', 'bookworm', tree], check=True)
        else:
            run_stage(directory, name)
        layer(tree, tars[name])
    return {name: [tars[stage] for stage in chain(name)] for name in NAMES}


# ---- into a registry

def compressed(tar, kind):
    """The layer's compressed file, made once; a file beside it says the diff_id."""
    out = tar.with_suffix(f'.{kind}')
    if not out.exists():
        print(f'compressing {out.name}', file=sys.stderr, flush=True)
        command = [shutil.which('pigz') or 'gzip', '-6', '-n', '-c', tar] if kind == 'gz' else ['zstd', '-q', '-3', '-T0', '-c', tar]
        with open(f'{out}.new', 'wb') as file:
            subprocess.run(command, stdout=file, check=True)
        os.rename(f'{out}.new', out)
    said = tar.with_suffix('.diff_id')
    if not said.exists():
        said.write_text(digest(tar))
    return out, said.read_text()


def digest(path):
    h = hashlib.sha256()
    with open(path, 'rb') as file:
        while data := file.read(1 << 20):
            h.update(data)
    return 'sha256:' + h.hexdigest()


def push(directory, server, wanted):
    """Gives {repository: [(digest, diff_id, size)] of its layers, bottom first}."""
    pushed = {}
    for name, tars in make(directory).items():
        for kind in (k for k in ('gz', 'zst') if f'{name}-{k}' in wanted):
            layers, store = [], images.Store()
            for tar in tars:
                blob, diff_id = compressed(tar, kind)
                layers.append((images.push_blob(server, f'{name}-{kind}', digest(blob), blob.read_bytes()) or digest(blob), diff_id, blob.stat().st_size))
            config = store.descriptor({**images.AMD64, 'created': '2025-06-15T15:06:40Z', 'config': COMMAND,
                                       'rootfs': {'type': 'layers', 'diff_ids': [d for _, d, _ in layers]}}, images.CONFIG)
            media = images.LAYER + ('+gzip' if kind == 'gz' else '+zstd')
            said = store.descriptor({'schemaVersion': 2, 'mediaType': images.MANIFEST, 'config': config, 'layers': [
                {'mediaType': media, 'digest': d, 'size': s} for d, _, s in layers]}, images.MANIFEST)
            images.push(server, f'{name}-{kind}', store, {'latest': said})
            pushed[f'{name}-{kind}'] = layers
    return pushed


if __name__ == '__main__':
    make(sys.argv[1])
