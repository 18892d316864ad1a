# SPDX-License-Identifier: Apache-2.0
"""banger-helper, in a network namespace of the test's own.

    world ---- host ---- bridge ---- guest
    w0         h0   d0   bngr0       g0        192.0.2.0/24 between world and host, 198.51.100.0/24 behind the host
                    |
                    behind

A guest is a network namespace whose veth is put on the bridge next to the TAP that the helper made, with that TAP's
address: what the helper set up is for the address, so rules and routes are tried with the kernel's own TCP.
"""
import array
import fcntl
import json
import os
import pathlib
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time

import pytest

import harness
from harness import until
from wire import OP_ID, Client, WireError

pytestmark = [pytest.mark.needs('ip', 'nft', 'nsenter', 'busybox')]
HELPER = next((p for p in sorted(harness.BUILD.rglob('banger-helper')) if p.is_file() and os.access(p, os.X_OK)), None)
UID = 54321
VMS = ['0123456789abcdef', 'fedcba9876543210', '00000000000000aa']
TUNSETPERSIST = 0x400454cb


class Namespace:
    """A network namespace that lives as long as a process."""

    def __init__(self):
        self.process = subprocess.Popen(['unshare', '-n', 'sh', '-c', 'echo; exec sleep 1000'], stdout=subprocess.PIPE)
        self.process.stdout.read(1)
        self.process.stdout.close()
        self.sh('ip link set lo up')

    def command(self, *args):
        return ['nsenter', '-t', str(self.process.pid), '-n', *map(str, args)]

    def run(self, *args, **kwargs):
        return harness.run(*self.command(*args), **kwargs)

    def sh(self, script, **kwargs):
        return self.run('sh', '-ec', script, **kwargs).out

    def links(self):
        return {link['ifname']: link for link in json.loads(self.sh('ip -j -d link'))}

    def picture(self):
        """All that was configured; not whether a carrier was noticed, which the kernel does in its own time."""
        text = self.sh('ip link; ip addr; ip route; nft list ruleset')
        return re.sub(r'NO-CARRIER,| state [A-Z]+| linkdown', '', text)

    def ours(self):
        return {name for name in self.links() if name.startswith('bngr')}

    def table(self):
        """Banger's table, {name: set, map or chain's rules}; None when there is none."""
        listed = self.run('nft', '-j', 'list', 'table', 'ip', 'banger', check=False)
        return json.loads(listed.out)['nftables'] if listed.code == 0 else None

    def elements(self, name):
        for item in self.table() or ():
            for kind in ('set', 'map'):
                if item.get(kind, {}).get('name') == name:
                    return item[kind].get('elem', [])
        return None

    def sysctl(self, name):
        return self.sh(f'cat /proc/sys/net/ipv4/{name}').strip()

    def python(self, script, *args, **popen):
        return subprocess.Popen(self.command(sys.executable, '-c', textwrap.dedent(script), *args),
                                stdout=subprocess.PIPE, text=True, **popen)

    def server(self, port, word, address='0.0.0.0'):
        """Answers each TCP connection with a word and the address that it sees."""
        process = self.python('''
            import socket, sys
            s = socket.create_server((sys.argv[1], int(sys.argv[2])))
            print(flush=True)
            while True:
                c, peer = s.accept()
                c.sendall(f'{sys.argv[3]} {peer[0]}'.encode())
                c.close()
            ''', address, str(port), word)
        process.stdout.readline()
        return process

    def ask(self, address, port, timeout=2):
        """What a server says; None when there is no way to it."""
        process = self.python('''
            import socket, sys
            try:
                s = socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))
                print(s.recv(100).decode())
            except OSError:
                pass
            ''', address, str(port), str(timeout))
        return process.communicate()[0].strip() or None

    def ping(self, address, *options):
        return self.run('busybox', 'ping', '-c1', '-W1', *options, address, check=False).code == 0

    def end(self):
        self.process.kill()
        self.process.wait()


class Helper:
    def __init__(self, ns, base):
        self.ns, self.socket, self.log = ns, base / 'helper.sock', base / 'helper.log'
        self.process = None

    def start(self, *options):
        self.process = harness.Process(
            self.ns.command(HELPER, '--uid', UID, '--socket', self.socket, *options),
            {**os.environ, 'BANGER_CONFIG': ''}, self.log)
        until(lambda: self.socket.exists() and self.started(), 'the helper', 20)
        return self

    def started(self):
        return any(r['msg'] == 'helper started' and r['ts'] for r in self.records()) and self.answers()

    def answers(self):
        try:
            with Client(self.socket) as client:
                return client.call('helper.ping')
        except (OSError, WireError):
            return None

    @property
    def pid(self):
        return self.process.popen.pid if hasattr(self.process, 'popen') else self.process.pid

    def client(self):
        return Client(self.socket)

    def records(self, op_id=None):
        return harness.read_log(self.log, op_id)

    def calls(self, op_id=None):
        return [r for r in self.records(op_id) if r['msg'].startswith('helper rpc')]


@pytest.fixture
def namespaces(base):
    made = []

    def make():
        made.append(Namespace())
        return made[-1]
    yield make
    for ns in made:
        ns.end()


@pytest.fixture
def host(namespaces):
    return namespaces()


@pytest.fixture
def helper(host, base):
    helper = Helper(host, base).start()
    yield helper
    if helper.process.alive():
        helper.process.end()
    harness.read_log(helper.log)  # each line a record
    assert not harness.SANITIZER.search(helper.log.read_text())


@pytest.fixture
def client(helper):
    with helper.client() as client:
        yield client


def tap(client, vm=VMS[0], bridge='bngr0'):
    result = client.call('net.tap.create', {'bridge': bridge, 'vm': vm})
    fds = client.take_fds()
    assert len(fds) == 1
    return result, fds[0]


def status(pid):
    text = pathlib.Path(f'/proc/{pid}/status').read_text()
    return dict(line.split(':\t', 1) for line in text.splitlines() if ':\t' in line)


# ---- who, and what is said


def test_what_is_left_of_root(helper, host):
    found = status(helper.pid)
    only_net_admin = f'{1 << 12:016x}'
    assert {k: found[k].strip() for k in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'Seccomp', 'NoNewPrivs')} == {
        'CapInh': '0' * 16, 'CapPrm': only_net_admin, 'CapEff': only_net_admin, 'CapBnd': only_net_admin,
        'CapAmb': '0' * 16, 'Seccomp': '2', 'NoNewPrivs': '1'}
    limits = pathlib.Path(f'/proc/{helper.pid}/limits').read_text()
    assert [line.split()[4] for line in limits.splitlines() if line.startswith('Max core')] == ['0']
    # Not dumpable: its memory is not for others of its uid.
    assert (pathlib.Path(f'/proc/{helper.pid}') / 'mem').stat().st_uid == 0


def test_another_user_is_refused(helper):
    """The socket answers, so that the caller is told and the log has it; nothing is done."""
    asked = 'op-00000000cafe'
    script = f'''
import sys
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
from wire import Client
import json
client = Client({str(helper.socket)!r})
print(json.dumps(client.reply('net.bridge.ensure', {{'name': 'bngr0'}}, op_id={asked!r}, actor={{'uid': 0, 'gid': 0}})))
print(client.receive())
'''
    run = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, user=65534, group=65534,
                         extra_groups=[])
    reply, after = run.stdout.splitlines()
    error = json.loads(reply)['error']
    assert error['code'] == 'denied' and error['op_id'] == asked and '65534' in error['message'], reply
    assert after == 'None'
    record, = helper.calls(asked)
    assert (record['msg'], record['uid'], record['method'], record['code']) == \
        ('helper rpc failed', 65534, 'net.bridge.ensure', 'denied')
    assert record['pid'] > 0 and record['elapsed_ms'] >= 0
    assert helper.ns.ours() == set() and helper.ns.table() is None


def test_the_configured_user_is_served(helper):
    script = f'''
import sys
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
from wire import Client
print(Client({str(helper.socket)!r}).call('helper.ping')['uid'])
'''
    run = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, user=UID, group=UID, extra_groups=[])
    assert run.stdout == f'{UID}\n', run.stderr


MALFORMED = [
    (b'\n', 'bad_request'), (b'nonsense\n', 'bad_request'), (b'{\n', 'bad_request'), (b'[]\n', 'bad_request'),
    (b'\xff\xfe\n', 'bad_request'), (b'{"version":1}\n', 'bad_request'), (b'{"method":"helper.ping"}\n', 'bad_version'),
    (b'{"version":2,"method":"helper.ping"}\n', 'bad_version'), (b'{"version":1,"method":"net.exec"}\n', 'unknown_method'),
    (b'{"version":1,"method":"helper.ping","params":7}\n', 'bad_request'),
    (b'{"version":1,"method":"helper.ping"}' + b' ' * 65536 + b'\n', 'too_large'),
    (b'[' * 1000 + b'\n', 'bad_request'),
]


def test_malformed_requests(helper, client):
    before = len(helper.calls())
    for line, code in MALFORMED:
        client.send(line)
        error = client.receive()['error']
        assert error['code'] == code and OP_ID.fullmatch(error['op_id']), (line[:60], error)
        record, = helper.calls(error['op_id'])
        assert (record['msg'], record['code'], record['uid']) == ('helper rpc failed', code, 0)
    assert len(helper.calls()) == before + len(MALFORMED)
    assert client.call('helper.ping')  # the connection is as good as before


def test_lost_streams(helper):
    for line, code in ((b'x' * (2 << 20), 'too_large'), (b'{"version":1', 'bad_request')):
        with helper.client() as client:
            try:
                client.send(line)
                client.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        until(lambda: any(r.get('code') == code for r in helper.calls()), f'{code} in the log')
    assert helper.answers()


OUTSIDE = [
    ('net.bridge.ensure', {'name': 'eth0'}, 'denied'), ('net.bridge.ensure', {'name': '../x'}, 'denied'),
    ('net.bridge.ensure', {'name': 'bngr0;reboot'}, 'denied'), ('net.bridge.ensure', {'name': 'bngr%d'}, 'denied'),
    ('net.bridge.ensure', {'name': VMS[0]}, 'denied'), ('net.bridge.ensure', {'name': ['bngr0']}, 'bad_request'),
    ('net.bridge.ensure', {'name': 'bngr1', 'subnet': '192.168.0.0/24'}, 'denied'),
    ('net.bridge.ensure', {'name': 'bngr1', 'subnet': '10.0.0.0/8'}, 'denied'),
    ('net.bridge.ensure', {'name': 'bngr1', 'subnet': '10.141.0.1/24'}, 'bad_request'),
    ('net.bridge.remove', {'name': 'lo'}, 'denied'), ('net.bridge.remove', {'name': 'bngr9'}, 'not_found'),
    ('net.tap.create', {'bridge': 'lo', 'vm': VMS[0]}, 'denied'), ('net.tap.create', {'bridge': 'bngr9', 'vm': VMS[0]}, 'not_found'),
    ('net.tap.create', {'bridge': 'bngr0', 'vm': 'x'}, 'denied'), ('net.tap.create', {'bridge': 'bngr0'}, 'bad_request'),
    ('net.tap.remove', {'name': 'h0'}, 'denied'), ('net.tap.remove', {'name': 'bngrt0123456789'}, 'not_found'),
    ('net.publish', {'address': '192.0.2.1', 'proto': 'tcp', 'host_port': 8080, 'guest_port': 80}, 'denied'),
    ('net.publish', {'address': '10.141.0.1', 'proto': 'tcp', 'host_port': 8080, 'guest_port': 80}, 'denied'),
    ('net.publish', {'address': '10.141.0.9', 'proto': 'tcp', 'host_port': 22, 'guest_port': 22}, 'denied'),
    ('net.publish', {'address': '10.141.0.9', 'proto': 'tcp', 'host_port': 8080, 'guest_port': 80}, 'not_found'),
    ('net.publish', {'address': '10.141.0.9', 'proto': 'gre', 'host_port': 8080, 'guest_port': 80}, 'bad_request'),
    ('net.unpublish', {'proto': 'tcp', 'host_port': 8080}, 'not_found'),
]


def test_outside_the_allow_lists(helper, host, client):
    """Refused, logged, and nothing has changed."""
    client.call('net.bridge.ensure', {'name': 'bngr0'})
    before = host.picture()
    for method, params, code in OUTSIDE:
        error = client.reply(method, params)['error']
        assert error['code'] == code, (method, params, error)
        record, = helper.calls(error['op_id'])
        assert (record['msg'], record['method'], record['code']) == ('helper rpc failed', method, code)
    assert host.picture() == before


def test_descriptors_are_not_wanted(helper, host, client):
    read, write = os.pipe()
    for n in (1, 8):
        error = client.reply('net.bridge.ensure', {'name': 'bngr0'}, fds=[write] * n)['error']
        assert error['code'] == 'bad_request' and f'{n} descriptors' in error['message']
        assert helper.calls(error['op_id'])[0]['msg'] == 'helper rpc failed'
    os.close(write)
    assert os.read(read, 1) == b''  # the helper kept none
    os.close(read)
    assert host.ours() == set()
    assert client.call('helper.ping')


def test_op_id_is_adopted(helper, host, client):
    asked = 'op-5b0c7e21d9aa'
    assert client.reply('net.bridge.ensure', {'name': 'bngr0'}, op_id=asked)['op_id'] == asked
    client.reply('net.tap.create', {'bridge': 'bngr0', 'vm': VMS[0]}, op_id=asked)
    fd, = client.take_fds()
    records = helper.calls(asked)
    assert [(r['msg'], r['method'], r['uid'], r['pid']) for r in records] == [
        ('helper rpc completed', m, 0, os.getpid()) for m in ('net.bridge.ensure', 'net.tap.create')]
    assert all(r['elapsed_ms'] >= 0 for r in records)
    assert asked in host.links()['bngrt0123456789']['ifalias']
    minted = client.reply('helper.ping', op_id='op-NOTONE')['op_id']
    assert OP_ID.fullmatch(minted) and len(helper.calls(minted)) == 1
    os.close(fd)


# ---- bridges and TAPs


def test_bridge_and_rules(helper, host, client):
    first = client.call('net.bridge.ensure', {'name': 'bngr0'})
    assert first == {'name': 'bngr0', 'subnet': '10.141.0.0/16', 'gateway': '10.141.0.1', 'created': True}
    rules = host.sh('nft list table ip banger')
    assert client.call('net.bridge.ensure', {'name': 'bngr0'})['created'] is False
    assert host.sh('nft list table ip banger') == rules  # nothing twice
    link = host.links()['bngr0']
    assert link['linkinfo']['info_kind'] == 'bridge' and 'UP' in link['flags'] and link['ifalias'] == 'banger 10.141.0.0/16'
    address, = json.loads(host.sh('ip -j addr show bngr0'))[0]['addr_info']
    assert (address['local'], address['prefixlen']) == ('10.141.0.1', 16)
    assert 'masquerade' in rules and host.elements('bridges') == ['bngr0']
    assert host.sysctl('ip_forward') == '0' and host.sysctl('conf/bngr0/forwarding') == '1'
    client.call('net.bridge.remove', {'name': 'bngr0'})
    assert host.ours() == set() and host.table() is None


def test_frames_between_taps(helper, host, client):
    client.call('net.bridge.ensure', {'name': 'bngr0'})
    (a, a_fd), (b, b_fd) = tap(client, VMS[0]), tap(client, VMS[1])
    assert a['name'] == 'bngrt0123456789' and b['name'] == 'bngrtfedcba9876' and a['address'] != b['address']
    assert host.links()[a['name']]['master'] == 'bngr0'
    flags = host.links()[a['name']]['linkinfo']['info_data']
    assert (flags['type'], flags['vnet_hdr'], flags['persist'], flags['pi']) == ('tap', True, False, False)
    assert os.get_blocking(a_fd) is False
    source = bytes.fromhex(a['mac'].replace(':', ''))
    frame = b'\xff' * 6 + source + b'\x88\xb5' + b'from one VM to all'.ljust(46, b'\0')
    assert os.write(a_fd, b'\0' * 10 + frame) == 10 + len(frame)
    assert receive(b_fd, b'\x88\xb5') == frame
    back = source + bytes.fromhex(b['mac'].replace(':', '')) + b'\x88\xb5' + b'and back'.ljust(46, b'\0')
    os.write(b_fd, b'\0' * 10 + back)
    assert receive(a_fd, b'\x88\xb5') == back
    error = client.reply('net.tap.create', {'bridge': 'bngr0', 'vm': VMS[0]})['error']
    assert error['code'] == 'exists' and VMS[0] in error['message']
    error = client.reply('net.bridge.remove', {'name': 'bngr0'})['error']
    assert error['code'] == 'busy'
    os.close(a_fd)
    until(lambda: a['name'] not in host.links(), 'the TAP to go with its descriptor')
    # The same VM gets the same address again.
    again, a_fd = tap(client, VMS[0])
    assert again['address'] == a['address'] and again['mac'] == a['mac']
    client.call('net.tap.remove', {'name': b['name']})  # although it is held
    assert b['name'] not in host.links()
    os.close(a_fd)
    os.close(b_fd)


def receive(fd, kind):
    """The next frame of that type, without the header."""
    def one():
        try:
            frame = os.read(fd, 2048)[10:]
        except BlockingIOError:
            return None
        return frame if frame[12:14] == kind else None
    return until(one, 'a frame')


def test_addresses_do_not_collide(helper, client):
    """Two VMs whose ids lead to the same address."""
    client.call('net.bridge.ensure', {'name': 'bngr1', 'subnet': '10.141.8.0/29'})
    made = [tap(client, f'{i:010x}000000', 'bngr1') for i in range(1, 6)]
    assert len({t['address'] for t, _ in made}) == 5
    error = client.reply('net.tap.create', {'bridge': 'bngr1', 'vm': 'f' * 16})['error']
    assert error['code'] == 'no_space'
    for _, fd in made:
        os.close(fd)


def test_what_is_not_ours_stays(helper, host, client):
    host.sh('ip link add bngr5 type bridge; ip link set bngr5 up; ip link add d0 type bridge; ip link set d0 up; '
            'ip addr add 10.141.64.1/24 dev d0; ip tuntap add bngrt0123456789 mode tap; nft add table ip other')
    for method, params, code, word in (
            ('net.bridge.ensure', {'name': 'bngr5', 'subnet': '10.141.9.0/24'}, 'exists', 'bngr5'),
            ('net.bridge.remove', {'name': 'bngr5'}, 'not_found', 'bngr5'),
            ('net.tap.remove', {'name': 'bngrt0123456789'}, 'not_found', 'bngrt0123456789'),
            ('net.bridge.ensure', {'name': 'bngr0'}, 'busy', '10.141.64.0/24')):
        error = client.reply(method, params)['error']
        assert error['code'] == code and word in error['message'], error
    assert 'd0' in client.reply('net.bridge.ensure', {'name': 'bngr0'})['error']['message']
    client.call('net.bridge.ensure', {'name': 'bngr0', 'subnet': '10.141.9.0/24'})
    error = client.reply('net.bridge.ensure', {'name': 'bngr0', 'subnet': '10.141.10.0/24'})['error']
    assert error['code'] == 'exists'
    assert client.call('net.cleanup') == {'taps': 0, 'published': 0, 'bridges': 1}
    assert host.ours() == {'bngr5', 'bngrt0123456789'}
    assert 'table ip other' in host.sh('nft list tables')


# ---- through the rules


class Net:
    """world, host and guests, as in the head of this file."""

    def __init__(self, namespaces, host, helper):
        self.namespaces, self.host, self.world = namespaces, host, namespaces()
        self.behind = namespaces()
        self.client = helper.client()
        self.fds, self.servers = [], []
        pid = self.world.process.pid
        host.sh(f'''ip link add h0 type veth peer name w0 netns {pid}
                    ip addr add 192.0.2.1/24 dev h0; ip link set h0 up
                    ip link add d0 type veth peer name b0 netns {self.behind.process.pid}; ip addr add 198.51.100.1/24 dev d0; ip link set d0 up''')
        self.world.sh('ip addr add 192.0.2.2/24 dev w0; ip link set w0 up; '
                      'ip route add 198.51.100.0/24 via 192.0.2.1; ip route add 10.141.0.0/16 via 192.0.2.1')
        self.behind.sh('ip addr add 198.51.100.2/24 dev b0; ip link set b0 up; ip route add default via 198.51.100.1')
        host.sh('ip route add default via 192.0.2.2')
        self.client.call('net.bridge.ensure', {'name': 'bngr0'})

    def guest(self, vm):
        made, fd = tap(self.client, vm)
        self.fds.append(fd)
        guest = self.namespaces()
        guest.address, guest.tap, name = made['address'], made['name'], f'v{vm[:4]}'
        self.host.sh(f'ip link add {name} type veth peer name g0 netns {guest.process.pid}; ip link set {name} master bngr0 up')
        guest.sh(f'ip link set g0 address {made["mac"]} up; ip addr add {made["address"]}/16 dev g0; '
                 f'ip route add default via {made["gateway"]}')
        return guest

    def server(self, ns, *args):
        self.servers.append(ns.server(*args))

    def end(self):
        for process in self.servers:
            process.kill()
            process.communicate()
        for fd in self.fds:
            os.close(fd)
        self.client.close()


@pytest.fixture
def net(namespaces, host, helper):
    net = Net(namespaces, host, helper)
    yield net
    net.end()


def test_nat(net):
    guest, other = net.guest(VMS[0]), net.guest(VMS[1])
    net.server(net.world, 7000, 'world')
    net.server(net.host, 7001, 'host')
    net.server(guest, 7002, 'guest')
    net.server(net.host, 7003, 'local', '127.0.0.1')
    assert guest.ask('192.0.2.2', 7000) == 'world 192.0.2.1'  # with the host's address
    assert guest.ask('10.141.0.1', 7001) == f'host {guest.address}'
    assert other.ask(guest.address, 7002) == f'guest {other.address}'
    assert guest.ping(other.address) and guest.ping('192.0.2.2')
    assert net.host.ask(guest.address, 7002) == 'guest 10.141.0.1'
    # Nobody gets in who is not let in, and the host forwards for nobody else.
    assert net.world.ask(guest.address, 7002, 1) is None
    assert not net.world.ping('198.51.100.2')
    assert net.host.sysctl('conf/h0/forwarding') == '1' and 'h0' in net.host.elements('uplinks')
    # A guest with somebody else's address, or one that asks for the host's loopback, is not heard.
    guest.sh('ip addr add 203.0.113.9/32 dev g0')
    net.host.sh('ip route add 203.0.113.9 dev bngr0')
    net.world.sh('ip route add 203.0.113.9 via 192.0.2.1')
    assert not guest.ping('192.0.2.2', '-I', '203.0.113.9')
    route_loopback(guest, 'g0', '10.141.0.1')
    assert guest.ask('127.0.0.1', 7003, 1) is None


def route_loopback(ns, device, gateway):
    """What an attacker would do: send packets for 127.0.0.1 to a neighbour."""
    ns.sh(f'''for d in all {device}; do echo 1 > /proc/sys/net/ipv4/conf/$d/route_localnet; done
              ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.0/8 via {gateway}''')


def test_published_ports(net, helper):
    guest, other = net.guest(VMS[0]), net.guest(VMS[1])
    # Else the kernel may look into bridged packets, and more works than should without our rules.
    net.host.sh('cd /proc/sys/net/bridge 2>/dev/null && echo 0 > bridge-nf-call-iptables || true')
    net.server(guest, 80, 'guest')
    publish = {'address': guest.address, 'proto': 'tcp', 'guest_port': 80}
    net.client.call('net.publish', {**publish, 'host_port': 8080})
    net.client.call('net.publish', {**publish, 'host_port': 8081, 'host_address': '127.0.0.1'})
    net.client.call('net.publish', {**publish, 'host_port': 8082, 'host_address': '192.0.2.1'})
    assert net.world.ask('192.0.2.1', 8080) == 'guest 192.0.2.2'
    assert net.host.ask('192.0.2.1', 8080).startswith('guest')
    assert net.host.ask('127.0.0.1', 8080).startswith('guest')
    assert net.host.ask('127.0.0.1', 8081).startswith('guest')
    assert net.world.ask('192.0.2.1', 8082) == 'guest 192.0.2.2'
    assert other.ask('192.0.2.1', 8080).startswith('guest')  # and the answer finds back
    assert net.world.ask('192.0.2.1', 8081, 1) is None
    assert net.host.ask('127.0.0.1', 8082, 1) is None
    net.server(net.host, 9000, 'host')
    for params, code in (({'host_port': 8080}, 'exists'), ({'host_port': 9000}, 'busy'),
                         ({'host_port': 9000, 'host_address': '127.0.0.1'}, 'busy'),
                         ({'host_port': 9001, 'host_address': '203.0.113.77'}, 'denied')):
        assert net.client.reply('net.publish', {**publish, **params})['error']['code'] == code, params
    route_loopback(net.world, 'w0', '192.0.2.1')
    assert net.world.ask('127.0.0.1', 8081, 1) is None
    net.client.call('net.unpublish', {'proto': 'tcp', 'host_port': 8080})
    assert net.world.ask('192.0.2.1', 8080, 1) is None
    # What is left goes with the TAP.
    os.close(net.fds.pop(0))
    until(lambda: net.host.elements('tcp_at') == [] and net.host.elements('tcp_any') == [], 'the ports to go')
    assert guest.tap not in net.host.links()
    assert any(r['msg'] == 'helper cleaned up' and r['published'] == 2 for r in helper.records())


def test_a_host_that_becomes_a_router(net):
    assert 'h0' in net.host.elements('uplinks') and not net.world.ping('198.51.100.2')
    net.host.sh('echo 1 > /proc/sys/net/ipv4/ip_forward')
    until(lambda: net.host.elements('uplinks') == [], 'the guard to go')
    assert net.world.ping('198.51.100.2')
    guest = net.guest(VMS[0])
    assert guest.ping('192.0.2.2') and not net.world.ping(guest.address)
    os.close(net.fds.pop())
    net.host.sh('ip link del v0123')
    assert net.client.call('net.cleanup')['bridges'] == 1
    assert net.host.sysctl('conf/h0/forwarding') == '1'  # the administrator's


def test_forwarding_is_taken_back(net):
    assert net.host.sysctl('conf/h0/forwarding') == '1'
    assert net.client.call('net.cleanup')['bridges'] == 1
    assert net.host.sysctl('conf/h0/forwarding') == '0' and net.host.sysctl('ip_forward') == '0'
    assert net.host.ours() == set() and net.host.table() is None


# ---- who dies


def test_the_caller_dies(helper, host):
    script = f'''
import sys, time
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
from wire import Client
client = Client({str(helper.socket)!r})
client.call('net.bridge.ensure', {{'name': 'bngr0'}})
a = client.call('net.tap.create', {{'bridge': 'bngr0', 'vm': '0123456789abcdef'}})['address']
client.call('net.publish', {{'address': a, 'proto': 'tcp', 'host_port': 8080, 'guest_port': 80}})
print('made', flush=True)
time.sleep(1000)
'''
    caller = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, text=True)
    assert caller.stdout.readline() == 'made\n'
    assert host.ours() == {'bngr0', 'bngrt0123456789'} and len(host.elements('tcp_any')) == 1
    caller.send_signal(signal.SIGKILL)
    caller.communicate()
    until(lambda: host.ours() == set() and host.table() is None, 'all to go')


def test_the_helper_dies(helper, host):
    """Killed at any moment: what VMs have goes on, and the next helper knows what is whose."""
    with helper.client() as client:
        client.call('net.bridge.ensure', {'name': 'bngr0'})
        made, fd = tap(client)
        client.call('net.publish', {'address': made['address'], 'proto': 'udp', 'host_port': 5353, 'guest_port': 53})
        helper.process.end(signal.SIGKILL)
    assert host.ours() == {'bngr0', made['name']}
    helper.start()
    assert len(host.elements('udp_any')) == 1 and host.ours() == {'bngr0', made['name']}
    with helper.client() as client:
        assert client.call('net.bridge.ensure', {'name': 'bngr0'})['created'] is False
        other, other_fd = tap(client, VMS[1])
    helper.process.end(signal.SIGKILL)
    os.close(fd)
    os.close(other_fd)
    until(lambda: host.ours() == {'bngr0'}, 'the TAPs to go without anybody')
    helper.start()
    until(lambda: host.ours() == set() and host.table() is None, 'the next helper to take the rest')
    assert helper.process.end() in (0, None) and not helper.socket.exists()


def test_a_persistent_tap_is_swept(helper, host):
    """Whoever holds a TAP may make it persistent; it goes all the same."""
    with helper.client() as client:
        client.call('net.bridge.ensure', {'name': 'bngr0'})
        made, fd = tap(client)
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
        assert client.call('net.cleanup')['taps'] == 0  # it is held
        os.close(fd)
        assert made['name'] in host.links()
        assert client.call('net.cleanup') == {'taps': 1, 'published': 0, 'bridges': 1}
    assert host.ours() == set()


def test_many_connections(helper):
    """Strangers do not keep the daemon out."""
    script = f'''
import socket, time
held = []
for _ in range(200):
    s = socket.socket(socket.AF_UNIX)
    s.connect({str(helper.socket)!r})
    held.append(s)
print('held', flush=True)
time.sleep(1000)
'''
    strangers = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, text=True, user=65534, group=65534,
                                 extra_groups=[])
    try:
        assert strangers.stdout.readline() == 'held\n'
        strangers_are_refused(helper)
    finally:
        strangers.kill()
        strangers.communicate()
    clients = [helper.client() for _ in range(64)]
    for client in clients:
        client.call('helper.ping')
    with helper.client() as late:
        assert late.receive()['error']['code'] == 'busy'
    for client in clients:
        client.close()
    until(helper.answers, 'a place')


def strangers_are_refused(helper):
    until(helper.answers, 'an answer', 1)  # before the first of them has had his time
    refused = lambda: [r for r in helper.calls() if r.get('code') == 'denied' and r['uid'] == 65534]  # noqa: E731
    until(lambda: len(refused()) == 200, 'each to be refused', 15)


def test_a_caller_that_does_not_read(helper):
    """Its answers are not waited for; others get theirs."""
    with helper.client() as deaf:
        deaf.sock.setblocking(False)
        line = b'{"version":1,"method":"helper.ping"}\n' * 1000
        with pytest.raises(OSError):
            for _ in range(1000):
                deaf.sock.send(line)
        assert until(helper.answers, 'an answer', 20)


def test_it_must_be_root_and_alone(helper, base):
    second = helper.ns.run(HELPER, '--socket', helper.socket, check=False)
    assert second.code == 1 and 'another banger-helper listens' in second.err
    user = subprocess.run([HELPER, '--socket', base / 'x.sock'], capture_output=True, text=True, user=65534, group=65534,
                          extra_groups=[], env={'HOME': '/nonexistent'})
    assert user.returncode == 1 and 'must be started by root' in user.stderr
    assert helper.ns.run(HELPER, '--subnet', '10.0.0.0/31', check=False).code == 1
    assert helper.ns.run(HELPER, '--uid', 'no-such-user', check=False).code == 1
    assert helper.ns.run(HELPER, '--nonsense', check=False).code == 2


def test_killed_at_any_moment(helper, host):
    """Half-made things are finished or removed by the next helper."""
    chance = random.Random(4)
    for i in range(kill_rounds()):
        with helper.client() as client:
            client.send({'version': 1, 'method': 'net.bridge.ensure', 'params': {'name': 'bngr0'}})
            client.send({'version': 1, 'method': 'net.tap.create', 'params': {'bridge': 'bngr0', 'vm': VMS[0]}})
            client.send({'version': 1, 'method': 'net.publish', 'params': {
                'address': '10.141.250.78', 'proto': 'tcp', 'host_port': 8080, 'guest_port': 80}})
            time.sleep(chance.uniform(0, 0.005))
            helper.process.end(signal.SIGKILL)
        helper.start()
        with helper.client() as client:
            client.call('net.bridge.ensure', {'name': 'bngr0'})
            made, fd = tap(client)
            client.call('net.publish', {'address': made['address'], 'proto': 'tcp', 'host_port': 8080, 'guest_port': 80})
            os.close(fd)
        until(lambda: host.ours() == set() and host.table() is None, f'all to go, round {i}')


def kill_rounds():
    return 8 if os.environ.get('BANGER_QUICK') else 25
