# SPDX-License-Identifier: Apache-2.0
"""A Debian image from a real registry to a VM that runs the command of the image's own configuration."""
import io
import json
import os
import shutil
import subprocess
import tarfile

import pytest

import harness
import images
import kernels
import pulls
import trees
from images import Image, Layer, Store
from registry import DockerRegistry

pytestmark = [pytest.mark.needs('banger-unpack', 'banger-agent', 'docker-registry', 'mmdebstrap', 'qemu-system-x86_64'), pytest.mark.slow,
              pytest.mark.limit(400), pytest.mark.skipif(os.geteuid() != 0, reason='needs root for mmdebstrap')]


@pytest.fixture(scope='module')
def debian(cache):
    return kernels.debian_tar(cache)


@pytest.fixture(scope='module')
def kernel(cache):
    return kernels.small_tar(kernels.find_deb(cache), cache / 'pull-kernel.tar')


def test_debian(worlds, debian, kernel, base):
    server = DockerRegistry(base / 'registry')
    try:
        upper = io.BytesIO()
        with tarfile.open(fileobj=upper, mode='w', format=tarfile.PAX_FORMAT) as tar:
            script = b'#!/bin/sh\n. /etc/os-release\necho "$ID $VERSION_ID, $1, $GREETING, $(id -u):$(id -g), $PWD, $(cat /srv/own 2>&1)"\nexit 7\n'
            info = tarfile.TarInfo('usr/local/bin/hello')
            info.mode, info.size = 0o755, len(script)
            tar.addfile(info, io.BytesIO(script))
            own = tarfile.TarInfo('srv/own')
            own.uid = own.gid = 33
            own.mode, own.size = 0o600, 4
            tar.addfile(own, io.BytesIO(b'mine'))
            tar.addfile(tarfile.TarInfo('usr/share/.wh.doc'))
        store = Store()
        said = Image(Layer(debian.read_bytes()), Layer(upper.getvalue(), images.zstd), command={
            'Entrypoint': ['hello'], 'Cmd': ['from its configuration'], 'Env': ['PATH=/usr/local/bin:/usr/bin:/bin', 'GREETING=good day'],
            'User': 'www-data', 'WorkingDir': '/srv'}).put(store)
        images.push(server.host, 'debian', store, {'12': said})
        banger = worlds().start()
        banger.ctl('kernel', 'import', kernel, '--name', 'k')
        banger.ctl('image', 'pull', f'{server.host}/debian:12', '--name', 'debian', '--kernel', 'k', timeout=120)
        assert banger.images()['published', 'debian']['kernel'] == 'k'
        pulls.fsck(pulls.rootfs(banger, 'debian'))
        result = banger.ctl('vm', 'run', '--accel', 'tcg', 'debian', check=False, timeout=240)
        assert (result.out, result.code) == ('debian 12, from its configuration, good day, 33:33, /srv, mine\n', 7), result.err
        result = banger.ctl('vm', 'run', '--accel', 'tcg', 'debian', '--user', '0', '--', 'other words', check=False, timeout=240)
        assert 'other words' in result.out and ' 0:0,' in result.out, result.err
        if shutil.which('umoci') and shutil.which('skopeo'):
            as_umoci(banger, server, base)
    finally:
        server.close()


def as_umoci(banger, server, base):
    """Entry by entry, through the mount: a real image, fetched by another program and unpacked by a third one. The zstd
    layer is one of gzip for it."""
    harness.run('skopeo', 'copy', '-q', '--src-tls-verify=false', '--dest-compress-format', 'gzip', f'docker://{server.host}/debian:12',
                f'dir:{base}/dir', timeout=120)
    manifest = json.loads((base / 'dir/manifest.json').read_text())
    store, layers = Store(), []
    for layer in manifest['layers']:
        blob = base / 'dir' / layer['digest'][7:]
        tar = subprocess.run(['zstd', '-qdc', blob] if 'zstd' in layer['mediaType'] else ['gzip', '-dc', blob], capture_output=True, check=True).stdout
        layers.append(Layer(tar))
    layout = images.write_layout(base / 'layout', store, {'it': Image(*layers).put(store)})
    harness.run('umoci', 'unpack', '--image', f'{layout}:it', base / 'bundle', timeout=300)
    theirs = trees.facts(base / 'bundle/rootfs')
    mount = banger.mount()
    ours = trees.facts(mount / 'rootfs/debian')
    for side in (ours, theirs):
        side[b'.'] = {k: side[b'.'][k] for k in ('mode', 'owner')}
    # Directories that no layer describes have the time of unpacking with umoci.
    for name in (b'srv', b'usr/local/bin', b'usr/share', b'usr/local'):
        for side in (ours, theirs):
            side[name].pop('mtime')
    for name in images.BOOT:
        if name in ours and name not in theirs:
            del ours[name]
    assert len(theirs) > 3000
    assert trees.difference(theirs, ours) == []
