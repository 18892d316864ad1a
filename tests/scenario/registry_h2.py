# SPDX-License-Identifier: Apache-2.0
"""The registry of registry.py over HTTP/2: the same rules, ways to answer and log, spoken by python3-h2.

    server = Registry2(tls=context)                        TLS that offers h2 alone
    server.on(r'/blobs/', go_away(1000), reset(1000))      GOAWAY and the end of the connection; RST_STREAM

One thread a connection, which answers one stream after the other; while it sends it hears what the client says, so flow
control and cancelled streams are as they should be.
"""
import contextlib
import socket
import ssl
import time

try:
    import h2.config
    import h2.connection
    import h2.errors
    import h2.events
    import h2.exceptions
except ImportError:  # who needs it is skipped
    h2 = None

import registry


class Gone(ConnectionError):
    """The stream, or the whole connection, is no more."""


def go_away(after):
    """`after` bytes of what was asked for, GOAWAY, and the connection ends."""
    def act(handler, blob):
        start = registry.body_from(handler, blob)
        handler.send(blob[start:start + after])
        handler.connection.go_away()
        return True
    return act


class Stream:
    """What ways to answer know as the handler, of one stream."""

    def __init__(self, connection, number, headers):
        said = dict(headers)
        self.connection, self.number, self.owner = connection, number, connection.owner
        self.command, self.path = said[':method'], said[':path']
        self.seen = registry.Request(self.command, self.path, {k.title(): v for k, v in said.items() if k[0] != ':'}, connection.peer)
        self.seen.version, self.ended = 'h2', False
        self.close_connection = False

    def head(self, code, headers):
        self.seen.status = code
        told = [(k.lower(), v) for k, v in headers.items() if k.lower() not in ('connection', 'transfer-encoding')]
        self.connection.h2.send_headers(self.number, [(':status', str(code)), *told])
        self.connection.flush()

    def send(self, data):
        view = memoryview(data)
        while view:
            room = self.connection.room(self.number)
            self.connection.h2.send_data(self.number, bytes(view[:room]))
            self.connection.flush()
            self.seen.sent += len(view[:room])
            view = view[room:]

    def answer(self, code, body=b'', headers=None):
        self.head(code, {'Content-Length': str(len(body)), 'Content-Type': 'application/json', **(headers or {})})
        if self.command != 'HEAD':
            self.send(body)

    def cut(self):
        self.connection.h2.reset_stream(self.number, h2.errors.ErrorCodes.INTERNAL_ERROR)
        self.connection.flush()
        self.ended = True

    def linger(self, seconds):
        """Wait for the client to give the stream up."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.owner.closed:
            self.connection.hear(0.1)
            self.connection.check(self.number)

    def end(self):
        if not self.ended:
            self.connection.h2.end_stream(self.number)
            self.connection.flush()


class Connection:
    def __init__(self, owner, sock, peer):
        self.owner, self.socket, self.peer = owner, sock, peer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding='utf-8'))
        self.asked, self.gone, self.over = [], set(), False

    def run(self):
        self.h2.initiate_connection()
        self.flush()
        while not self.over and not self.owner.closed:
            if self.asked:
                self.answer(*self.asked.pop(0))
            else:
                self.hear(0.1)

    def answer(self, number, headers):
        stream = Stream(self, number, headers)
        try:
            self.owner.serve(stream)
            stream.end()
        except (Gone, h2.exceptions.ProtocolError):
            pass  # the client did not want to hear more
        finally:
            stream.seen.ended = time.monotonic()

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.socket.sendall(data)

    def hear(self, seconds):
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return
        finally:
            self.socket.settimeout(20)
        if not data:
            self.over = True
            return
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.asked.append((event.stream_id, event.headers))
            elif isinstance(event, h2.events.StreamReset):
                self.gone.add(event.stream_id)
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.over = True
        self.flush()

    def check(self, number):
        if self.over or number in self.gone:
            raise Gone

    def room(self, number):
        """How much may be sent now; waits for some."""
        while True:
            self.check(number)
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if room > 0:
                return room
            self.hear(1)

    def go_away(self):
        self.h2.close_connection(h2.errors.ErrorCodes.NO_ERROR, last_stream_id=0)
        self.flush()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.over = True
        raise Gone


class Server2(registry.Server):
    def finish_request(self, request, client_address):
        request.settimeout(20)
        try:
            request = self.context.wrap_socket(request, server_side=True)
            Connection(self.owner, request, client_address[0]).run()
        except (OSError, ssl.SSLError, h2.exceptions.ProtocolError) as error:
            self.owner.tls_errors.append(str(error))
        finally:
            request.close()


class Registry2(registry.Registry):
    server_class = Server2

    def __init__(self, tls, **kwargs):
        tls.set_alpn_protocols(['h2'])
        super().__init__(tls=tls, **kwargs)
