# SPDX-License-Identifier: Apache-2.0
"""VMs on a bridge: bangerd and QEMU without any privilege that matters, the helper in a network namespace of the test's
own, so that the bridge, its rules and the host's side are there and not on this machine."""
import os
import shutil
import signal

import pytest

import harness
import kernels
from harness import until
from test_helper import HELPER, Helper, Namespace
from test_vms import call, create, execute, state
from wire import WireError

pytestmark = [pytest.mark.needs('qemu-system-x86_64', 'banger-agent', 'ip', 'nft', 'nsenter', 'busybox'), pytest.mark.limit(300),
              pytest.mark.skipif(HELPER is None, reason='needs banger-helper')]


@pytest.fixture
def ns(base):
    ns = Namespace()
    yield ns
    ns.end()


@pytest.fixture(scope='session')
def networker(cache):
    """An image with the network's tools."""
    tree = kernels.bootable_tree(cache / 'networker-tree')
    shutil.copy(shutil.which('busybox'), tree / 'bin/busybox')
    return harness.make_ext4(cache / 'networker.ext4', tree, '64M')


@pytest.fixture
def host(ns, banger, networker, cache):
    banger.ctl('kernel', 'import', kernels.small_tar(kernels.find_deb(cache), cache / 'vm-kernel.tar'), '--name', 'k')
    banger.ctl('image', 'import', networker, '--name', 'web')
    yield banger
    for vm in call(banger, 'vm.ls')['vms']:
        call(banger, 'vm.rm', vm=vm['name'], force=True)


@pytest.fixture
def helper(ns, host):
    helper = Helper(ns, host.run_dir).start()
    yield helper
    if helper.process.alive():
        helper.process.end()


def address(ns, vm):
    return next(link['ifalias'].split()[1] for link in ns.links().values() if vm['id'] in link.get('ifalias', ''))


def refused(host, **params):
    with pytest.raises(WireError) as caught:
        create(host, 'c', **params)
    return caught.value


def test_without_the_helper(host):
    refusal = refused(host, network='bridge')
    assert refusal.code == 'unavailable' and 'banger-helper --uid' in refusal.message
    check = {c['name']: c for c in host.call('doctor')['checks']}['bridge']
    assert not check['ok'] and 'banger-helper' in str(check)


def test_two_vms(host, helper, ns):
    a = create(host, 'a', network='bridge', publish=['18080:80'])
    b = create(host, 'b', network='bridge')
    there = {'a': address(ns, a), 'b': address(ns, b)}
    server = ns.server(7000, 'host')
    try:
        assert execute(host, 'a', 'busybox', 'ping', '-c1', '-W5', there['b'])[0] == 0
        code, out, err = execute(host, 'b', 'busybox', 'nc', '-w', '5', '10.141.0.1', '7000')
        assert out == f'host {there["b"]}', (code, out, err)
    finally:
        server.kill()
        server.communicate()
    assert execute(host, 'a', 'sh', '-c', 'mkdir -p /tmp/w; echo hello > /tmp/w/x; busybox httpd -p 80 -h /tmp/w')[0] == 0
    got = ns.run('busybox', 'wget', '-qO-', 'http://127.0.0.1:18080/x')
    assert got.out == 'hello\n'
    # One op_id in what the user sees, in the daemon's log and in the helper's.
    refusal = refused(host, network='bridge', publish=['18080:80'])
    assert refusal.code == 'exists' and '18080' in refusal.message
    assert any(r['msg'] == 'operation failed' for r in host.records(refusal.op_id))
    failed, = [r for r in helper.calls(refusal.op_id) if r['msg'] == 'helper rpc failed']
    assert failed['method'] == 'net.publish' and failed['code'] == 'exists'
    created = {r['method'] for r in helper.calls(a['op_id'])}
    assert created == {'net.bridge.ensure', 'net.tap.create', 'net.publish'}
    until(lambda: len(ns.ours()) == 3, 'the TAP of the one that failed to go')
    # The helper's death is nothing to VMs, a VM's death takes what was its own.
    helper.process.end(signal.SIGKILL)
    assert execute(host, 'a', 'busybox', 'ping', '-c1', '-W5', there['b'])[0] == 0
    helper.start()
    os.kill(state(host, 'a')['pid'], signal.SIGKILL)
    until(lambda: state(host, 'a')['state'] == 'failed' and ns.elements('tcp_at') == [], 'its port to go')
    assert len(ns.ours()) == 2
    call(host, 'vm.start', vm='a')
    assert address(ns, a) == there['a'] and len(ns.elements('tcp_at')) == 1
    for vm in 'ab':
        call(host, 'vm.rm', vm=vm, force=True)
    until(lambda: ns.ours() == set() and ns.table() is None, 'all to go')
    assert harness.read_log(helper.log)
