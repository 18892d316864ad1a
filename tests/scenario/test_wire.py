# SPDX-License-Identifier: Apache-2.0
"""The wire, spoken by a client that shares no code with banger: wire.py, written from the contract alone."""
import json
import os
import socket
import threading
import time

import pytest

import wire
from harness import run, until

GIVEN = 'op-5b0c7e21d9aa'


def refused(reply, code, given=None):
    """Is the reply a refusal as the contract has it? Gives its op_id."""
    assert reply is not None, 'the connection was closed without an answer'
    assert reply['ok'] is False and 'result' not in reply
    error = reply['error']
    assert error['code'] == code, error
    assert code in wire.ERRNO
    assert error['message'] and not error['message'].endswith('.') and '\n' not in error['message']
    assert wire.OP_ID.fullmatch(error['op_id'])
    assert given is None or error['op_id'] == given
    return error['op_id']


def failed_record(banger, op_id):
    """The record with which the daemon logged the refusal."""
    return until(lambda: [r for r in banger.records(op_id) if r['msg'] == 'operation failed'],
                 f'operation failed with {op_id} in the log')[0]


def descriptors(banger):
    return len(os.listdir(f'/proc/{banger.daemon.pid}/fd'))


def settled_descriptors(banger, most):
    until(lambda: descriptors(banger) <= most, f'at most {most} descriptors', 10)


# ---- refusals

REQUESTS = {
    'unknown method': ({'version': 1, 'method': 'image.frobnicate'}, 'unknown_method'),
    'no method': ({'version': 1}, 'bad_request'),
    'method is a number': ({'version': 1, 'method': 7}, 'bad_request'),
    'method is empty': ({'version': 1, 'method': ''}, None),
    'method is long': ({'version': 1, 'method': 'm' * 5000}, None),
    'version 2': ({'version': 2, 'method': 'ping'}, 'bad_version'),
    'version 0': ({'version': 0, 'method': 'ping'}, 'bad_version'),
    'version is text': ({'version': '1', 'method': 'ping'}, None),
    'no version': ({'method': 'ping'}, None),
    'params is a list': ({'version': 1, 'method': 'ping', 'params': []}, 'bad_request'),
    'params is text': ({'version': 1, 'method': 'ping', 'params': 'x'}, 'bad_request'),
    'a parameter is missing': ({'version': 1, 'method': 'image.register'}, 'bad_request'),
    'a parameter has another type': ({'version': 1, 'method': 'image.register', 'params': {'name': 1}}, 'bad_request'),
    'a bad name': ({'version': 1, 'method': 'image.register', 'params': {'name': '../x'}}, 'bad_request'),
    'an empty name': ({'version': 1, 'method': 'image.register', 'params': {'name': ''}}, 'bad_request'),
    'a long name': ({'version': 1, 'method': 'image.register', 'params': {'name': 'n' * 129}}, 'name_too_long'),
    'a name with NUL': ({'version': 1, 'method': 'image.register', 'params': {'name': 'a\0b'}}, 'bad_request'),
    'no such image': ({'version': 1, 'method': 'image.show', 'params': {'image': 'nope'}}, 'not_found'),
    'an empty word': ({'version': 1, 'method': 'image.show', 'params': {'image': ''}}, 'bad_request'),
    'no such draft': ({'version': 1, 'method': 'image.promote', 'params': {'draft': 'nope'}}, 'not_found'),
    'no such kernel': ({'version': 1, 'method': 'kernel.show', 'params': {'kernel': 'nope'}}, 'not_found'),
    'no such operation': ({'version': 1, 'method': 'op.show', 'params': {'op_id': 'op-ffffffffffff'}}, 'not_found'),
    'cancel nothing': ({'version': 1, 'method': 'op.cancel', 'params': {'op_id': 'op-ffffffffffff'}}, 'not_found'),
    'no such draft id': ({'version': 1, 'method': 'draft.open', 'params': {'id': 'f' * 16, 'file': 'x'}}, 'not_found'),
    'import without a descriptor': ({'version': 1, 'method': 'image.import', 'params': {'name': 'a', 'format': 'raw'}},
                                    'bad_request'),
    'a number out of range': ({'version': 1, 'method': 'image.ls', 'params': {'limit': -5}}, 'bad_request'),
    'a number that is no integer': ({'version': 1, 'method': 'image.ls', 'params': {'limit': 1.5}}, 'bad_request'),
}


@pytest.mark.parametrize('name', REQUESTS)
def test_refusals_have_an_op_id(banger, name):
    """With an id that was given, and with one that dispatch minted; both in the log."""
    request, code = REQUESTS[name]
    with banger.wire() as client:
        client.send(request)
        minted = client.receive()
        if code is None:  # which of them is banger's to say
            code = minted['error']['code']
            assert code in ('bad_request', 'bad_version', 'unknown_method')
        first = refused(minted, code)
        client.send({**request, 'op_id': GIVEN})
        refused(client.receive(), code, GIVEN)
        # the connection goes on
        assert client.call('ping') is not None
    for op_id in (first, GIVEN):
        record = failed_record(banger, op_id)
        assert record['code'] == code and record['error'] and record['elapsed_ms'] >= 0
    assert first != GIVEN


LINES = {
    'not JSON': b'hello\n',
    'empty line': b'\n',
    'half a document': b'{"version":1,\n',
    'two documents': b'{"version":1,"method":"ping"} {"version":1,"method":"ping"}\n',
    'a list': b'[1,2]\n',
    'null': b'null\n',
    'text': b'"ping"\n',
    'a number': b'1\n',
    'single quotes': b"{'version':1,'method':'ping'}\n",
    'a comment': b'{"version":1,/* hm */"method":"ping"}\n',
    'a trailing comma': b'{"version":1,"method":"ping",}\n',
    'NaN': b'{"version":NaN,"method":"ping"}\n',
    'broken UTF-8': b'{"version":1,"method":"ping","x":"\xff\xfe"}\n',
    'a surrogate in UTF-8': b'{"version":1,"method":"ping","x":"\xed\xa0\x80"}\n',
    'an overlong form': b'{"version":1,"method":"ping","x":"\xc0\xaf"}\n',
    'cut-off UTF-8': b'{"version":1,"method":"ping","x":"\xe2\x82"}\n',
    'a NUL byte': b'{"version":1,"method":"ping","x":"\x00"}\n',
    'a raw control character': b'{"version":1,"method":"ping","x":"\x01"}\n',
    '33 levels': b'{"version":1,"method":"ping","x":' + b'[' * 33 + b']' * 33 + b'}\n',
    '100,000 levels': b'{"version":1,"method":"ping","x":' + b'[' * 100000 + b']' * 100000 + b'}\n',
    'TLS': b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n',
    'HTTP': b'GET / HTTP/1.1\r\n',
}


@pytest.mark.parametrize('name', LINES)
def test_malformed_lines(banger, name):
    with banger.wire() as client:
        client.send(LINES[name])
        op_id = refused(client.receive(), 'bad_request')
        assert client.call('ping') is not None
    assert failed_record(banger, op_id)['code'] == 'bad_request'


def test_a_malformed_request_keeps_its_op_id(banger):
    """Where the id can be read, the refusal has it, whatever else is wrong."""
    for bad, code in (({'version': 9, 'op_id': GIVEN}, 'bad_version'), ({'version': 1, 'method': [], 'op_id': GIVEN}, 'bad_request'),
                      ({'version': 1, 'method': 'ping', 'params': 7, 'op_id': GIVEN}, 'bad_request')):
        with banger.wire() as client:
            client.send(bad)
            refused(client.receive(), code, GIVEN)


@pytest.mark.parametrize('given', ['', 'op-5B0C7E21D9AA', 'op-5b0c7e21d9a', 'op-5b0c7e21d9aab', 'xx-5b0c7e21d9aa', 7, None, {},
                                   'op-5b0c7e21d9aa\n', "op-5b0c7e21d9a'"])
def test_a_bad_op_id_is_replaced(banger, given):
    with banger.wire() as client:
        client.send({'version': 1, 'method': 'image.show', 'params': {'image': 'nope'}, 'op_id': given})
        op_id = refused(client.receive(), 'not_found')
        assert op_id != given


def test_an_id_that_runs_now_is_refused(banger, ext4):
    """Two operations of one id could not be told apart."""
    reader, writer = os.pipe()
    with banger.wire() as slow, banger.wire() as other:
        slow.send({'version': 1, 'method': 'image.import', 'op_id': GIVEN, 'params': {'name': 'a', 'format': 'raw'}}, [reader])
        os.close(reader)
        until(lambda: [o for o in other.call('status')['operations'] if o['op_id'] == GIVEN], 'the import to run')
        refused(other.reply('image.register', {'name': 'b'}, op_id=GIVEN), 'exists', GIVEN)
        assert other.call('op.cancel', {'op_id': GIVEN}) is not None
        refused(slow.receive(), 'cancelled', GIVEN)
        os.close(writer)
    assert banger.images() == {}


# ---- peers of other ages

def test_old_and_new_peers(banger):
    """No op_id, unknown fields, other orders and spaces: all are understood."""
    with banger.wire() as client:
        for line in ('{"version":1,"method":"ping"}',
                     '{"method":"ping","version":1}',
                     '  {\t"version" : 1 , "method" : "ping" }  ',
                     '{"version":1,"method":"ping","params":{},"op_id":""}',
                     '{"version":1,"method":"ping","params":{"later":true},"trace":{"id":"x","parents":[1,2]},"deadline":null}',
                     '{"version":1,"method":"\\u0070ing"}',
                     '{"version":1,"method":"ping","note":"h\u00e9llo \U0001f600"}',
                     '{"version":1,"method":"ping","x":' + '[' * 30 + ']' * 30 + '}'):
            client.send(line)
            reply = client.receive()
            assert reply['ok'] is True and isinstance(reply['result'], dict), (line, reply)


def test_op_id_is_adopted(banger):
    with banger.wire() as client:
        reply = client.reply('image.register', {'name': 'a'}, op_id=GIVEN)
        assert reply['ok'] and reply.get('op_id') == GIVEN
        assert reply['result']['image']['op_id'] == GIVEN
        assert client.call('op.show', {'op_id': GIVEN})['op']['outcome'] == 'completed'
    messages = [r['msg'] for r in banger.records(GIVEN)]
    assert messages[0] == 'operation started' and messages[-1] == 'operation completed'
    assert all(r['method'] == 'image.register' for r in banger.records(GIVEN) if r['msg'].startswith('operation'))


def test_a_carriage_return_is_space(banger):
    with banger.wire() as client:
        client.send(b'{"version":1,"method":"ping"}\r\n')
        assert client.receive()['ok']


# ---- the stream

def test_many_requests_at_once(banger):
    """A hundred lines in one write: a hundred answers, in order."""
    with banger.wire() as client:
        lines = [{'version': 1, 'method': 'image.show', 'params': {'image': f'n{i}'}, 'op_id': f'op-{i:012x}'} for i in range(100)]
        client.send(b''.join(json.dumps(line).encode() + b'\n' for line in lines))
        for i in range(100):
            reply = client.receive()
            assert refused(reply, 'not_found') == f'op-{i:012x}'
            assert f'"n{i}"' in reply['error']['message']


def test_one_byte_at_a_time(banger):
    with banger.wire() as client:
        for byte in b'{"version":1,"method":"ping"}\n{"version":1,"method":"version"}\n':
            client.send(bytes([byte]))
        assert client.receive()['ok'] and client.receive()['result']['protocol'] == 1


def line_of(size):
    """A valid request line of exactly `size` bytes, newline included."""
    head, tail = b'{"version":1,"method":"ping","pad":"', b'"}\n'
    return head + b'x' * (size - len(head) - len(tail)) + tail


def test_the_longest_line(banger):
    with banger.wire() as client:
        client.send(line_of(wire.LINE_MAX))
        assert client.receive()['ok']
        assert client.call('ping') is not None


def test_a_line_that_is_too_long(banger):
    """The stream is lost: an error, then the end."""
    with banger.wire() as client:
        try:
            client.send(line_of(wire.LINE_MAX + 1))
        except (BrokenPipeError, ConnectionResetError):
            pass
        op_id = refused(client.receive(), 'too_large')
        assert client.receive() is None
    assert failed_record(banger, op_id)
    assert banger.call('ping') is not None


def test_an_endless_line(banger):
    """The daemon stops reading; it does not keep what comes."""
    with banger.wire() as client:
        with pytest.raises((BrokenPipeError, ConnectionResetError, TimeoutError)):
            for _ in range(1024):
                client.send(b'x' * wire.LINE_MAX)
    assert banger.call('ping') is not None


def test_half_a_line(banger):
    with banger.wire() as client:
        client.send(b'{"version":1,"method":"pi')
        client.sock.shutdown(socket.SHUT_WR)
        op_id = refused(client.receive(), 'bad_request')
        assert client.receive() is None
    assert failed_record(banger, op_id)


def test_a_peer_that_goes_away(banger):
    """In the middle of a line, and before its answer."""
    before = descriptors(banger)
    for _ in range(50):
        with banger.wire() as client:
            client.send(b'{"version":1,"meth')
        with banger.wire() as client:
            client.send({'version': 1, 'method': 'status'})
    settled_descriptors(banger, before)
    assert banger.call('ping') is not None


def test_what_was_asked_is_done_though_the_peer_left(banger):
    with banger.wire() as client:
        client.send({'version': 1, 'method': 'image.register', 'params': {'name': 'a'}})
    until(lambda: ('draft', 'a') in banger.images(), 'the registration')


# ---- descriptors

def test_descriptors_are_closed(banger):
    """Those that no method takes, and those over the limit of a line, do not stay open."""
    before = descriptors(banger)
    with banger.wire() as client:
        for count in (1, 8, 1, 8):
            fds = [os.open('/dev/null', os.O_RDONLY) for _ in range(count)]
            for _ in range(20):
                client.reply('ping', fds=fds)
            for fd in fds:
                os.close(fd)
    fds = [os.open('/dev/null', os.O_RDONLY) for _ in range(60)]
    for _ in range(20):
        with banger.wire() as client:
            try:
                client.reply('ping', fds=fds)
            except (ConnectionResetError, BrokenPipeError):
                pass
    for fd in fds:
        os.close(fd)
    settled_descriptors(banger, before)


def test_descriptors_that_are_given(banger):
    """draft.open passes one; what is written through it is the draft's file."""
    with banger.wire() as client:
        draft = client.call('image.register', {'name': 'a'})['image']['id']
        assert client.call('draft.open', {'id': draft, 'file': 'x', 'write': True, 'create': True}) is not None
        [fd] = client.take_fds()
        os.write(fd, b'hello')
        os.close(fd)
        client.call('draft.open', {'id': draft, 'file': 'x'})
        [fd] = client.take_fds()
        assert os.read(fd, 100) == b'hello'
        with pytest.raises(OSError):
            os.write(fd, b'no')
        os.close(fd)
        for bad in ('../x', '.', '..', '', 'a/b', 'n' * 256, 'a\x01'):
            reply = client.reply('draft.open', {'id': draft, 'file': bad, 'write': True, 'create': True})
            assert reply['error']['code'] in ('bad_request', 'name_too_long'), bad
    assert sorted(p.name for p in (banger.state / 'drafts' / draft).iterdir()) == ['x']


# ---- many, and slow

def test_slow_clients_hold_up_nobody(banger):
    """Half a request, no reading of answers, silence: others are served at once."""
    stuck = [banger.wire() for _ in range(40)]
    for i, client in enumerate(stuck):
        client.sock.setblocking(False)
        if i % 3 == 0:
            client.send(b'{"version":1,')
        elif i % 3 == 1:
            try:
                while True:  # asks and never reads, until neither side can write
                    client.sock.send(b'{"version":1,"method":"status"}\n' * 100)
            except BlockingIOError:
                pass
    start = time.monotonic()
    with banger.wire(timeout=10) as client:
        for i in range(20):
            client.call('image.register', {'name': f'n{i}'})
    assert time.monotonic() - start < 5
    for client in stuck:
        client.close()


def test_many_clients_at_once(banger):
    """Two hundred connections, each asking; then they go and their descriptors with them."""
    before = descriptors(banger)
    errors = []

    def ask(i):
        try:
            with banger.wire() as client:
                for j in range(5):
                    client.call('image.register', {'name': f'n{i}-{j}'})
                    client.call('image.show', {'image': f'n{i}-{j}'})
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(40)]
    idle = [banger.wire() for _ in range(160)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(banger.images()) == 200
    for client in idle:
        assert client.call('ping') is not None
        client.close()
    settled_descriptors(banger, before)
    banger.assert_consistent()


def test_more_clients_than_allowed(worlds, base):
    """Those over the limit are told so; room comes back."""
    config = base / 'config.json'
    config.write_text('{"connections": 20}')
    banger = worlds(env={'BANGER_CONFIG': str(config)}).start()
    until(lambda: banger.call('status')['clients'] == 1, 'earlier connections to end')
    clients = [banger.wire() for _ in range(30)]
    served = []
    for client in clients:
        try:
            reply = client.reply('ping')
        except (ConnectionResetError, BrokenPipeError):
            reply = client.receive() if client.buffer else None
        if reply and reply['ok']:
            served.append(client)
        else:
            assert reply is None or reply['error']['code'] in ('busy', 'unavailable')
    # The connection that asked for the status may not have been taken off yet.
    assert len(served) in (19, 20)
    for client in clients:
        client.close()

    def again():
        try:
            return banger.call('ping') is not None
        except (ConnectionResetError, BrokenPipeError, wire.WireError):
            return False
    until(again, 'room for a client')


# ---- strangers

STRANGER = '''
import json, sys
sys.path.insert(0, %r)
import wire
out = {}
with wire.Client(sys.argv[1]) as client:
    for method, params in json.loads(sys.argv[2]):
        out[method] = client.reply(method, params)
        out[method]['fds'] = len(client.take_fds())
        if method == 'registry.watch':
            out['first event'] = client.receive()['event']
            client.close()
            client = wire.Client(sys.argv[1])
print(json.dumps(out))
'''

READS = [['version', {}], ['ping', {}], ['status', {}], ['image.ls', {}], ['image.show', {'image': 'a'}], ['kernel.ls', {}],
         ['op.ls', {}], ['registry.watch', {}]]
CHANGES = [['image.register', {'name': 'x'}], ['image.promote', {'draft': 'a'}], ['image.rename', {'image': 'a', 'name': 'b'}],
           ['image.swap', {'a': 'a', 'b': 'a'}], ['image.delete', {'image': 'a'}], ['image.import', {'name': 'x', 'format': 'raw'}],
           ['image.configure', {'image': 'a', 'document': {}}], ['draft.open', {'id': 'ID', 'file': 'x', 'write': True, 'create': True}],
           ['draft.unlink', {'id': 'ID', 'file': 'x'}], ['draft.rename', {'id': 'ID', 'from': 'x', 'to': 'y'}],
           ['draft.symlink', {'id': 'ID', 'file': 'x', 'target': '/x'}], ['draft.setattr', {'id': 'ID', 'file': 'x', 'mode': 0o777}],
           ['kernel.import', {'name': 'x', 'format': 'auto'}], ['kernel.delete', {'kernel': 'x'}], ['vm.run', {'image': 'a'}],
           ['op.cancel', {'op_id': GIVEN}], ['op.report', {'op': {}}]]


def stranger(banger, calls, group='games', check=True):
    code = STRANGER % os.path.dirname(os.path.abspath(__file__))
    return run('setpriv', '--reuid=12345', f'--regid={group}', '--clear-groups', '/usr/bin/python3', '-c', code, banger.socket,
               json.dumps(calls), check=check)


@pytest.fixture
def shared(worlds, base):
    """A daemon whose socket a group may use."""
    config = base / 'config.json'
    config.write_text('{"socket_group": "games"}')
    return worlds(env={'BANGER_CONFIG': str(config)}).start()


def test_a_stranger_may_read_and_not_change(shared):
    image = shared.call('image.register', {'name': 'a'})['image']
    replies = json.loads(stranger(shared, READS + [[m, {**p, **({'id': image['id']} if 'id' in p else {})}] for m, p in CHANGES]).out)
    for method, _ in READS:
        assert replies[method]['ok'], (method, replies[method])
        assert replies[method]['fds'] == 0
    assert replies['first event'] == 'snapshot' or replies['first event'] == 'ready'
    for method, _ in CHANGES:
        op_id = refused(replies[method], 'denied')
        assert failed_record(shared, op_id)['code'] == 'denied'
    [left] = shared.images().values()
    assert left == image
    op = shared.op(replies['image.delete']['error']['op_id'])
    assert op['actor']['uid'] == 12345


def test_a_stranger_may_not_claim_to_be_another(shared):
    replies = json.loads(stranger(shared, [['image.delete', {'image': 'a'}]]).out)
    assert shared.op(replies['image.delete']['error']['op_id'])['actor']['uid'] == 12345


def test_others_cannot_connect(shared):
    done = stranger(shared, [['ping', {}]], group='12345', check=False)
    assert done.code != 0 and 'PermissionError' in done.err
