# SPDX-License-Identifier: Apache-2.0
"""A client of the wire, written from the documented protocol alone.

One JSON object a line over a Unix stream socket; descriptors travel as SCM_RIGHTS with the line that
names them. Nothing is shared with banger's own client, so a misunderstanding cannot hide in both ends.
"""
import array
import json
import os
import re
import socket

OP_ID = re.compile(r'op-[0-9a-f]{12}')
VERSION = 1
LINE_MAX = 1 << 20

ERRNO = {
    'bad_request': 'EINVAL', 'bad_version': 'EPROTO', 'unknown_method': 'ENOSYS', 'not_found': 'ENOENT',
    'ambiguous': 'ENOTUNIQ', 'exists': 'EEXIST', 'busy': 'EBUSY', 'incomplete': 'ENODATA',
    'corrupt': 'EUCLEAN', 'immutable': 'EROFS', 'denied': 'EACCES', 'not_permitted': 'EPERM',
    'no_space': 'ENOSPC', 'too_large': 'EFBIG', 'name_too_long': 'ENAMETOOLONG',
    'unavailable': 'EHOSTDOWN', 'cancelled': 'ECANCELED', 'timeout': 'ETIMEDOUT',
    'unsupported': 'EOPNOTSUPP', 'internal': 'EIO',
}


class WireError(Exception):
    """{"ok":false}: what the peer refused, and why."""

    def __init__(self, reply):
        error = reply['error']
        self.code, self.message, self.op_id = error['code'], error['message'], error.get('op_id')
        super().__init__(f'{self.code}: {self.message} ({self.op_id})')


class Client:
    """One connection. call() for a request and its reply; send() and receive() for anything odd."""

    def __init__(self, path, timeout=30):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect(str(path))
        self.buffer = b''
        self.fds = []

    def close(self):
        self.sock.close()
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def send(self, data, fds=()):
        """Bytes as they are; a str or a dict becomes one line."""
        if isinstance(data, dict):
            data = json.dumps(data)
        if isinstance(data, str):
            data = data.encode() + b'\n'
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))]
            sent = self.sock.sendmsg([data], rights)
            data = data[sent:]
        if data:
            self.sock.sendall(data)

    def fill(self):
        """Read once from the socket; False at its end. Descriptors go to self.fds."""
        data, ancillary, _flags, _addr = self.sock.recvmsg(65536, socket.CMSG_SPACE(16 * 4))
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array('i')
                fds.frombytes(payload[:len(payload) - len(payload) % 4])
                self.fds.extend(fds)
        self.buffer += data
        return bool(data)

    def receive(self):
        """The next document, or None at the end of the stream."""
        while b'\n' not in self.buffer:
            if not self.fill():
                assert not self.buffer, f'the stream ended in half a line: {self.buffer[:200]!r}'
                return None
        line, self.buffer = self.buffer.split(b'\n', 1)
        assert len(line) < LINE_MAX
        return json.loads(line.decode('utf-8', 'strict'))

    def take_fds(self):
        fds, self.fds = self.fds, []
        return fds

    def reply(self, method, params=None, op_id=None, fds=(), **more):
        """Ask, and give the whole reply document, whatever it is."""
        request = {'version': VERSION, 'method': method, **more}
        if params is not None:
            request['params'] = params
        if op_id is not None:
            request['op_id'] = op_id
        self.send(request, fds)
        return self.receive()

    def call(self, method, params=None, op_id=None, fds=(), **more):
        """Ask, and give the result; WireError for a refusal."""
        reply = self.reply(method, params, op_id, fds, **more)
        if reply is None:
            raise ConnectionResetError('the peer closed the connection')
        if not reply['ok']:
            raise WireError(reply)
        return reply['result']

    def watch(self, **params):
        """registry.watch: the reply's result; then iterate over events with receive()."""
        return self.call('registry.watch', params)
