# SPDX-License-Identifier: Apache-2.0
"""Registries for tests: one of our own that misbehaves as it is told and remembers who asked for what, and Debian's
docker-registry.

    server = Registry()                                   on loopback, plain HTTP
    server.add('repo', store, {'tag': descriptor})
    server.on(r'/blobs/', reset(1000), status(503))       the first answer, the second one; then it behaves
    server.always(r'/blobs/', throttle(1 << 20))
    server.log                                            what was asked, in order: Request

Hostile addresses are tried in a network of their own (Network): loopback and nothing else.
"""
import base64
import ctypes
import http.server
import json
import os
import pathlib
import re
import secrets
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
import time
import urllib.parse

import harness

CLONE_NEWNET = 0x40000000


class Request:
    """One request as it came; `sent` counts bytes of body that were handed to the kernel."""

    def __init__(self, method, path, headers, peer, body=b''):
        self.method, self.path, self.headers, self.peer, self.body = method, path, headers, peer, body
        self.status, self.sent, self.at, self.ended = None, 0, time.monotonic(), None
        self.version = 'http/1.1'

    def __repr__(self):
        said = {k: v for k, v in self.headers.items() if k.lower() in ('authorization', 'range', 'host', 'if-range')}
        return f'{self.method} {self.path} {said} -> {self.status}, {self.sent} bytes'

    @property
    def range_start(self):
        """N of "Range: bytes=N-"; None without one."""
        match = re.fullmatch(r'bytes=(\d+)-\d*', self.headers.get('Range', ''))
        return int(match.group(1)) if match else None

    @property
    def authorization(self):
        return self.headers.get('Authorization')

    @property
    def credentials(self):
        """USER:PASSWORD of a Basic header."""
        kind, _, value = (self.authorization or '').partition(' ')
        return base64.b64decode(value).decode() if kind == 'Basic' else None


# ---- a network of loopback only

class Network:
    """Sockets made inside belong to it; programs are started in it with `prefix`. Addresses beside 127.0.0.1 are on its
    loopback interface: they are other hosts for whoever looks at addresses, and nothing is reached by accident."""

    def __init__(self, *addresses):
        self.fd = None
        self.inside(lambda: None, self.make(addresses))

    def make(self, addresses):
        def prepare():
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), 'unshare')
            self.fd = os.open('/proc/thread-self/ns/net', os.O_RDONLY | os.O_CLOEXEC)
            subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
            for address in addresses:
                subprocess.run(['ip', 'addr', 'add', f'{address}/32', 'dev', 'lo'], check=True)
        return prepare

    def inside(self, do, prepare=None):
        """Run do() on a thread of its own inside and give what it gives."""
        out = []

        def run():
            try:
                if prepare:
                    prepare()
                else:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(self.fd, CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), 'setns')
                out.append((True, do()))
            except BaseException as error:  # handed to the caller
                out.append((False, error))
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        good, value = out[0]
        if not good:
            raise value
        return value

    @property
    def prefix(self):
        return ('nsenter', f'--net=/proc/{os.getpid()}/fd/{self.fd}')

    def close(self):
        os.close(self.fd)


# ---- TLS

def make_authority(path):
    """A certificate authority of the test's own in `path`; gives its certificate's file."""
    path.mkdir(parents=True, exist_ok=True)
    harness.run('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '30',
                '-subj', '/CN=test authority', '-keyout', path / 'ca.key', '-out', path / 'ca.crt')
    return path / 'ca.crt'


def make_certificate(path, name, *addresses):
    """A key and certificate for the addresses (or names), signed by the authority in `path`: an SSL context."""
    names = ','.join(('IP:' if re.fullmatch(r'[\d.]+', a) else 'DNS:') + a for a in addresses)
    (path / f'{name}.ext').write_text(f'subjectAltName={names}\n')
    harness.run('openssl', 'req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-subj', f'/CN={name}',
                '-keyout', path / f'{name}.key', '-out', path / f'{name}.csr')
    harness.run('openssl', 'x509', '-req', '-in', path / f'{name}.csr', '-CA', path / 'ca.crt', '-CAkey', path / 'ca.key', '-CAcreateserial',
                '-days', '30', '-extfile', path / f'{name}.ext', '-out', path / f'{name}.crt')
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path / f'{name}.crt', path / f'{name}.key')
    return context


# ---- ways to answer: each takes (handler, blob or None) and gives True when it was the whole answer

def status(code, body=b'{"errors":[{"code":"TEST","message":"as the test wants it"}]}', **headers):
    """headers: Retry_After='5'."""
    def act(handler, blob):
        handler.answer(code, body, {k.replace('_', '-'): v for k, v in headers.items()})
        return True
    return act


def redirect(where, code=307):
    """where: an address, or a function of the path."""
    def act(handler, blob):
        handler.answer(code, b'', {'Location': where(handler.path) if callable(where) else where})
        return True
    return act


def body_from(handler, blob, length=None, code=None, **headers):
    """The beginning of a good answer, and where in the blob it starts."""
    start = handler.seen.range_start or 0
    code = code or (206 if start else 200)
    headers = {'Content-Type': 'application/octet-stream', 'Content-Length': str(len(blob) - start if length is None else length),
               **({'Content-Range': f'bytes {start}-{len(blob) - 1}/{len(blob)}'} if code == 206 else {}),
               **{k.replace('_', '-'): v for k, v in headers.items()}}
    handler.head(code, {k: v for k, v in headers.items() if v is not None})
    return start


def reset(after):
    """`after` bytes of what was asked for, then RST."""
    def act(handler, blob):
        start = body_from(handler, blob)
        handler.send(blob[start:start + after])
        handler.cut()
        return True
    return act


def short(after):
    """As reset(), but the connection ends well: only the length says that something is missing."""
    def act(handler, blob):
        start = body_from(handler, blob)
        handler.send(blob[start:start + after])
        handler.close_connection = True
        return True
    return act


def stall(after, seconds=60):
    """`after` bytes, then silence until the client goes away or the server is closed."""
    def act(handler, blob):
        start = body_from(handler, blob)
        handler.send(blob[start:start + after])
        handler.linger(seconds)
        return True
    return act


def silent(seconds=60):
    """Not even a status line."""
    def act(handler, blob):
        handler.linger(seconds)
        return True
    return act


def long(extra=b'x' * 4096):
    """More than the blob has, and a Content-Length that says so."""
    def act(handler, blob):
        start = body_from(handler, blob, len(blob) - (handler.seen.range_start or 0) + len(extra))
        handler.send(blob[start:] + extra)
        return True
    return act


def endless():
    """No Content-Length, and no end."""
    def act(handler, blob):
        body_from(handler, blob, code=200, Content_Length=None, Connection='close')
        try:
            handler.send(blob)
            while True:
                handler.send(bytes(65536))
        finally:
            handler.close_connection = True
    return act


def lie(length):
    """The whole blob under a Content-Length of another size."""
    def act(handler, blob):
        start = body_from(handler, blob, length)
        handler.send(blob[start:])
        handler.close_connection = True
        return True
    return act


def whole(handler, blob):
    """As a server that knows no Range."""
    handler.seen.headers.pop('Range', None)
    body_from(handler, blob, code=200)
    handler.send(blob)
    return True


def wrong_range(header, start=0):
    """206 with this Content-Range and the blob from `start`."""
    def act(handler, blob):
        body_from(handler, blob, len(blob) - start, code=206, Content_Range=header)
        handler.send(blob[start:])
        return True
    return act


def other_content(handler, blob):
    """As long as the blob, and not it."""
    start = body_from(handler, blob)
    handler.send(bytes(b ^ 0x55 for b in blob[start:]))
    return True


def garbage(handler, blob):
    handler.send(b'\x16\x03\x01 this is not HTTP\r\n\r\n')
    handler.close_connection = True
    return True


def chunked(handler, blob):
    """Transfer-Encoding: chunked, no length."""
    start = body_from(handler, blob, Content_Length=None, Transfer_Encoding='chunked')
    for at in range(start, len(blob), 10_000):
        piece = blob[at:at + 10_000]
        handler.send(b'%x\r\n' % len(piece) + piece + b'\r\n')
    handler.send(b'0\r\n\r\n')
    return True


def throttle(rate):
    """Bytes a second."""
    def act(handler, blob):
        start = body_from(handler, blob)
        step = max(1024, int(rate / 200))
        began = time.monotonic()
        for n, at in enumerate(range(start, len(blob), step)):
            handler.send(blob[at:at + step])
            time.sleep(max(0, began + (n + 1) * step / rate - time.monotonic()))
        return True
    return act


def gated(event, after=0, seconds=60):
    """`after` bytes at once, the rest when the event is set."""
    def act(handler, blob):
        start = body_from(handler, blob)
        handler.send(blob[start:start + after])
        event.wait(seconds)
        handler.send(blob[start + after:])
        return True
    return act


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def handle(self):
        try:
            super().handle()
        except (ConnectionError, ssl.SSLError, TimeoutError, BrokenPipeError, ValueError):
            pass  # the client went away, or we cut it off

    def head(self, code, headers):
        self.seen.status = code
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def answer(self, code, body=b'', headers=None):
        self.head(code, {'Content-Length': str(len(body)), 'Content-Type': 'application/json', **(headers or {})})
        if self.command != 'HEAD':
            self.send(body)

    def send(self, data):
        view = memoryview(data)
        while view:
            sent = self.connection.send(view[:65536])
            self.seen.sent += sent
            view = view[sent:]

    def cut(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.close_connection = True
        self.connection.close()

    def linger(self, seconds):
        """Wait for the client to hang up."""
        self.connection.settimeout(0.1)
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.server.owner.closed:
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        self.close_connection = True

    def setup(self):
        super().setup()
        self.wfile = self.connection.makefile('wb', 0)

    def take(self):
        length = int(self.headers.get('Content-Length') or 0)
        self.seen = Request(self.command, self.path, {k.title(): v for k, v in self.headers.items()}, self.client_address[0],
                            self.rfile.read(length) if length else b'')
        try:
            self.server.owner.serve(self)
        finally:
            self.seen.ended = time.monotonic()

    do_GET = do_HEAD = do_POST = do_PUT = do_CONNECT = take


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def finish_request(self, request, client_address):
        if self.context:
            request.settimeout(20)
            try:
                request = self.context.wrap_socket(request, server_side=True)
            except (OSError, ssl.SSLError) as error:
                self.owner.tls_errors.append(str(error))
                return
            request.settimeout(None)
        super().finish_request(request, client_address)

    def shutdown_request(self, request):
        try:
            super().shutdown_request(request)
        except OSError:
            pass


class Server6(Server):
    address_family = socket.AF_INET6


class Registry:
    """network: a Network to be in; tls: an SSL context; access: Basic(), Bearer(), or None for everybody."""
    server_class = Server

    def __init__(self, address='127.0.0.1', network=None, tls=None, access=None, port=0):
        self.repositories, self.rules, self.log, self.tls_errors = {}, [], [], []
        self.lock, self.closed, self.access = threading.Lock(), False, access

        def make():
            return (Server6 if ':' in address else self.server_class)((address, port), Handler)
        self.server = network.inside(make) if network else make()
        self.server.context, self.server.owner = tls, self
        self.host = f'{f"[{address}]" if ":" in address else address}:{self.server.server_address[1]}'
        self.url = f'{"https" if tls else "http"}://{self.host}'
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self):
        self.closed = True
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    # ---- what it has, and how it shall answer

    def add(self, repository, store, tags):
        self.repositories[repository] = (store, tags)

    def remove(self, repository):
        self.repositories.pop(repository, None)

    def on(self, pattern, *acts):
        """The next answers to requests whose "METHOD path" matches."""
        with self.lock:
            self.rules.append([re.compile(pattern), list(acts), False])

    def always(self, pattern, act):
        with self.lock:
            self.rules.append([re.compile(pattern), [act], True])

    def behave(self):
        with self.lock:
            self.rules, self.log = [], []

    def asked(self, pattern=''):
        with self.lock:
            return [r for r in self.log if re.search(pattern, f'{r.method} {r.path}')]

    def act_for(self, handler):
        with self.lock:
            self.log.append(handler.seen)
            for pattern, acts, lasting in self.rules:
                if acts and pattern.search(f'{handler.command} {handler.path}'):
                    return acts[0] if lasting else acts.pop(0)
        return None

    # ---- the distribution API, as far as a pull needs it

    def serve(self, handler):
        act = self.act_for(handler)
        path = urllib.parse.urlsplit(handler.path).path
        match = re.fullmatch(r'/v2/(.+)/(manifests|blobs)/([^/]+)', path)
        store, tags = self.repositories.get(match.group(1), ({}, {})) if match else ({}, {})
        name = urllib.parse.unquote(match.group(3)) if match else ''
        if act and act(handler, store.get(name)):
            return
        if self.access and not self.access.allows(handler, match.group(1) if match else ''):
            return
        if path in ('/v2/', '/v2'):
            handler.answer(200, b'{}', {'Docker-Distribution-API-Version': 'registry/2.0'})
        elif match and match.group(2) == 'manifests':
            self.manifest(handler, store, tags, name)
        elif match and name in store:
            start = body_from(handler, store[name])
            if handler.command != 'HEAD':
                handler.send(store[name][start:])
        else:
            handler.answer(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}')

    @staticmethod
    def manifest(handler, store, tags, name):
        descriptor = tags.get(name)
        if not descriptor:
            descriptor = {'digest': name, 'mediaType': media_of(store.get(name))}
        data = store.get(descriptor['digest'])
        if data is None:
            handler.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
            return
        handler.answer(200, data, {'Content-Type': descriptor['mediaType'], 'Docker-Content-Digest': descriptor['digest']})


def media_of(data):
    try:
        document = json.loads(data)
        return document.get('mediaType') or ('application/vnd.oci.image.index.v1+json' if 'manifests' in document
                                             else 'application/vnd.oci.image.manifest.v1+json')
    except (ValueError, TypeError, AttributeError, RecursionError):
        return 'application/vnd.oci.image.manifest.v1+json'


# ---- who may

class Basic:
    """One user and password."""

    def __init__(self, user, password, challenge='Basic realm="test"'):
        self.right, self.challenge = f'{user}:{password}', challenge

    def allows(self, handler, repository):
        if handler.seen.credentials == self.right:
            return True
        handler.answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', {'WWW-Authenticate': self.challenge})
        return False


class Bearer:
    """Tokens of a realm. `tokens` made by Tokens; realm: the address that the challenge names."""

    def __init__(self, realm, tokens, service='test registry', extra=''):
        self.realm, self.tokens, self.service, self.extra = realm, tokens, service, extra

    def allows(self, handler, repository):
        kind, _, token = (handler.seen.authorization or '').partition(' ')
        if kind == 'Bearer' and self.tokens.good(token, repository):
            return True
        handler.answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', {
            'WWW-Authenticate': f'Bearer realm="{self.realm}",service="{self.service}",scope="repository:{repository}:pull"{self.extra}'})
        return False


class Tokens:
    """A realm. user: "NAME:PASSWORD" that it wants, None: anonymous; uses: after so many requests a token is no good any
    more; field: "token" or "access_token"."""

    def __init__(self, user=None, uses=None, field='token', address='127.0.0.1', network=None, tls=None):
        self.user, self.uses, self.field, self.issued, self.log, self.refuse = user, uses, field, {}, [], None
        self.tls_errors, self.closed = [], False

        def make():
            return Server((address, 0), Handler)
        self.server = network.inside(make) if network else make()
        self.server.context, self.server.owner = tls, self
        self.url = f'{"https" if tls else "http"}://{address}:{self.server.server_address[1]}/token'
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self):
        self.closed = True
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def serve(self, handler):
        self.log.append(handler.seen)
        if self.refuse:
            self.refuse(handler, None)
            return
        if self.user and handler.seen.credentials != self.user:
            handler.answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}')
            return
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(handler.path).query)
        token = secrets.token_urlsafe(24)
        self.issued[token] = [query.get('scope', [''])[0], self.uses]
        handler.answer(200, json.dumps({self.field: token, 'expires_in': 300, 'issued_at': '2024-01-01T00:00:00Z'}).encode())

    def good(self, token, repository):
        """A token is for what was asked of it, so often as was wanted."""
        known = self.issued.get(token)
        if not known or known[0] != f'repository:{repository}:pull' or known[1] == 0:
            return False
        if known[1]:
            known[1] -= 1
        return True


# ---- Debian's

class DockerRegistry:
    """docker-registry on a loopback port, its storage in `path`."""

    def __init__(self, path, log=None):
        path = pathlib.Path(path)
        path.mkdir(parents=True, exist_ok=True)
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        self.host = f'127.0.0.1:{port}'
        (path / 'config.yml').write_text(
            f'version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {path}/storage\n'
            f'  delete:\n    enabled: true\nhttp:\n  addr: {self.host}\n  secret: test\n')
        with open(path / 'log', 'wb') as err:
            self.process = subprocess.Popen(['docker-registry', 'serve', path / 'config.yml'], stdin=subprocess.DEVNULL, stdout=err, stderr=err,
                                            env={'PATH': os.environ['PATH'], 'OTEL_TRACES_EXPORTER': 'none'})

        def answers():
            assert self.process.poll() is None, (path / 'log').read_text()
            try:
                socket.create_connection(('127.0.0.1', port), 1).close()
                return True
            except OSError:
                return False
        harness.until(answers, 'docker-registry to listen', 20)

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
