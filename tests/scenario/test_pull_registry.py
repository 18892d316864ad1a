# SPDX-License-Identifier: Apache-2.0
"""Registries that misbehave, and who is told what: resets, stalls, lies about lengths and ranges, refusals, redirects,
tokens and credentials, TLS, proxies; one blob for two pulls; cancelled and interrupted pulls that go on where they were.

All of it runs in a network of loopback only, with three more addresses that stand for other hosts; what reaches whom is
read from the logs of the servers there.
"""
import base64
import json
import os
import pathlib
import random
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

import harness
import images
import pulls
import registry
import registry_h2
from archives import archive, member
from harness import PROGRAM, until
from images import FOREIGN, Image, Layer, Store, Tree, f
from registry import (Basic, Bearer, Registry, Tokens, chunked, endless, garbage, gated, lie, long, other_content, redirect, reset,
                      short, silent, stall, status, throttle, whole, wrong_range)

pytestmark = [pytest.mark.needs('banger-unpack', 'e2fsck', 'ip', 'nsenter', 'openssl'), pytest.mark.limit(90),
              pytest.mark.skipif(os.geteuid() != 0, reason='needs root for a network of its own')]
MIB = 1 << 20
HERE, THERE, ELSEWHERE = '10.9.8.7', '10.9.8.8', '10.9.8.9'
NOISE = random.Random(7).randbytes(3 * MIB)
USER, PASSWORD = 'robot$reader', 'pass:with:colons'
CREDENTIALS = f'{USER}:{PASSWORD}'


@pytest.fixture(scope='module')
def net():
    network = registry.Network(HERE, THERE, ELSEWHERE)
    yield network
    network.close()


@pytest.fixture
def servers(net):
    """servers(…): Registry, or another kind of server, in the network; closed after the test."""
    made = []

    def make(kind=Registry, *args, **kwargs):
        made.append(kind(*args, network=net, **kwargs))
        return made[-1]
    yield make
    for server in made:
        server.close()


@pytest.fixture
def host(worlds, net, base):
    """host(registries={}, env={}, **config): a daemon in the network."""
    def make(registries=None, env=None, name='', **config):
        world = worlds(name, setpriv=net.prefix)
        settings = {'fetch_retries': 3, 'fetch_stall_ms': 600, 'headroom': 4 * MIB, 'registries': registries or {}, **config}
        (world.base / 'config.json').write_text(json.dumps(settings))
        world.env.update({'BANGER_CONFIG': str(world.base / 'config.json'), 'XDG_RUNTIME_DIR': str(world.base / 'home/run'), **(env or {})})
        (world.base / 'home/run').mkdir(exist_ok=True)
        return world.start()
    return make


def image_of(*contents):
    """Each layer one file of noise: "0", "1", …"""
    return Image(*(archive(member(str(n), content)) for n, content in enumerate(contents)))


class Served:
    """An image in a registry: one layer of noise, 3 MB, unless it is said otherwise."""

    def __init__(self, server, repository='test/it', image=None):
        self.store = Store()
        self.image = image or image_of(NOISE)
        self.said = self.image.put(self.store)
        self.server, self.repository = server, repository
        server.add(repository, self.store, {'it': self.said})
        self.reference = f'{server.host}/{repository}:it'
        self.blob = self.image.layers[0].digest if self.image.layers else None
        self.size = len(self.store[self.blob]) if self.blob else 0
        self.tree = Tree({str(n): f(NOISE) for n in range(len(self.image.layers))})

    def gets(self):
        """Requests for the first layer."""
        return self.server.asked(f'^GET .*{self.blob}')

    def pulled(self, banger, *options, name='it', tree=None):
        pulls.pull(banger, self.reference, name, *options)
        pulls.assert_tree(banger, name, self.tree if tree is None else tree)
        pulls.assert_cache_sound(banger)
        assert not pulls.cached(banger, whole=False), 'a partial blob after a success'


@pytest.fixture
def served(servers):
    return Served(servers())


# ---- transfers that break off

@pytest.mark.parametrize('act', [reset(1_000_000), short(1_000_000), stall(1_000_000)], ids=['reset', 'short', 'stall'])
def test_broken_off_and_resumed(served, host, act):
    """The next attempt asks for the rest; nothing that came is asked for again but what was not yet written."""
    served.server.on(f'GET .*{served.blob}', act)
    served.pulled(host())
    first, second = served.gets()
    assert first.range_start is None and 0 < second.range_start <= 1_000_000
    assert second.sent == served.size - second.range_start


def test_broken_off_again_and_again(served, host):
    """Each attempt goes on where the one before had come to."""
    served.server.on(f'GET .*{served.blob}', *[reset(400_000)] * 3)
    served.pulled(host())
    starts = [r.range_start or 0 for r in served.gets()]
    # A reset takes away what the client had not read yet.
    assert starts == sorted(set(starts)) and len(starts) == 4


@pytest.mark.parametrize('act', [silent(), garbage, reset(0), status(500), status(502), status(503), status(429)],
                         ids=['silent', 'garbage', 'reset', '500', '502', '503', '429'])
@pytest.mark.parametrize('what', ['manifests/it', 'blobs/'])
def test_nothing_comes_at_first(served, host, what, act):
    if what == 'manifests/it' and act.__qualname__.startswith('reset'):
        pytest.skip('there is no blob to begin with')
    served.server.on(f'GET .*{what}', act)
    served.pulled(host())


def test_never_comes(served, host):
    """After all attempts: what the last one said, the registry, the layer; the manifest was not asked for again and again."""
    served.server.always(f'GET .*{served.blob}', status(500))
    message = pulls.refused(host(), served.reference, 'it', codes='unavailable', words='500')
    assert served.blob[:19] in message and served.server.host in message
    assert len(served.gets()) == 4
    assert len(served.server.asked('GET .*/manifests/it')) == 1


def test_stalls_for_ever(served, host):
    served.server.always(f'GET .*{served.blob}', stall(200_000))
    message = pulls.refused(host(fetch_retries=1), served.reference, 'it', codes=('timeout', 'unavailable'))
    assert served.blob[:19] in message


def test_a_trickle_is_no_stall(served, host):
    """Slow is not stalled: bytes come all the time."""
    small = Served(served.server, 'test/small', image_of(NOISE[:40_000]))
    small.server.always(f'GET .*{small.blob}', throttle(20_000))
    small.pulled(host(), tree=Tree({'0': f(NOISE[:40_000])}))
    assert len(small.gets()) == 1


@pytest.mark.parametrize('act, codes', [(long(), ('corrupt', 'too_large')), (long(b'x' * (8 * MIB)), ('corrupt', 'too_large')),
                                        (endless(), ('corrupt', 'too_large'))], ids=['long', 'much longer', 'endless'])
def test_more_than_was_said(served, host, act, codes):
    """The descriptor's size is a hard limit: the transfer is cut there, and the blob is not kept as good."""
    served.server.always(f'GET .*{served.blob}', act)
    banger = host(fetch_retries=1)
    message = pulls.refused(banger, served.reference, 'it', codes=codes)
    assert served.blob[:19] in message
    assert not [n for n in pulls.cached(banger, whole=True) if n.endswith(served.blob[7:])]
    served.server.behave()
    served.pulled(banger)


@pytest.mark.parametrize('length', [1_000_000, 3 * MIB + 5_000_000], ids=['too little', 'too much'])
def test_content_length_lies_once(served, host, length):
    served.server.on(f'GET .*{served.blob}', lie(length))
    banger = host()
    result = pulls.pull(banger, served.reference, 'it', check=False)
    if result.code:
        assert banger.op(result.op_id)['code'] in ('corrupt', 'too_large', 'unavailable')
    pulls.remove(banger, 'it') if result.code == 0 else None
    served.pulled(banger, name='again')


def test_chunked(served, host):
    served.server.always(f'GET .*{served.blob}', chunked)
    served.pulled(host())


def test_other_content(served, host):
    """A blob that is not what its digest says: named, and what came is thrown away."""
    served.server.always(f'GET .*{served.blob}', other_content)
    banger = host()
    message = pulls.refused(banger, served.reference, 'it', codes='corrupt', words='digest')
    assert served.blob[:19] in message
    assert not [n for n in pulls.cached(banger) if served.blob[7:] in n]
    served.server.behave()
    served.pulled(banger)
    assert served.gets()[0].range_start is None


# ---- ranges

def test_no_range(served, host):
    """A server that gives the whole blob however it is asked."""
    served.server.on(f'GET .*{served.blob}', reset(1_000_000), whole)
    served.pulled(host())


@pytest.mark.parametrize('header, start', [('bytes 0-3145727/3145728', 0), ('bytes 5-9/10', 0), (f'bytes 1-{3 * MIB}/{3 * MIB}', 1), ('nonsense', 0), (None, 0)],
                         ids=['from the start', 'short', 'shifted', 'nonsense', 'none'])
def test_wrong_content_range(served, host, header, start):
    """206 with something else than was asked for: never mixed into the blob."""
    served.server.on(f'GET .*{served.blob}', reset(1_000_000), wrong_range(header, start))
    banger = host()
    result = pulls.pull(banger, served.reference, 'it', check=False)
    if result.code == 0:
        pulls.assert_tree(banger, 'it', served.tree)
        pulls.remove(banger, 'it')
    else:
        assert banger.op(result.op_id)['code'] in ('corrupt', 'unavailable', 'too_large'), result.err
    pulls.assert_cache_sound(banger)
    served.pulled(banger, name='again')


def test_range_not_satisfiable(served, host):
    served.server.on(f'GET .*{served.blob}', reset(1_000_000), status(416))
    served.pulled(host())


# ---- asked to wait

def test_retry_after(served, host):
    served.server.on(f'GET .*{served.blob}', status(429, Retry_After='2'))
    started = time.monotonic()
    served.pulled(host())
    first, second = served.gets()
    assert 1.9 <= second.at - first.at <= 5 and time.monotonic() - started < 20


@pytest.mark.parametrize('value', ['86400', '99999999999999999999', 'Fri, 31 Dec 2100 23:59:59 GMT'])
def test_absurd_retry_after(served, host, value):
    """Nobody waits for a day: refused at once, or tried again soon."""
    served.server.always(f'GET .*{served.blob}', status(429, Retry_After=value))
    started = time.monotonic()
    pulls.refused(host(fetch_retries=2), served.reference, 'it', codes='unavailable', words='429|too many|wait')
    assert time.monotonic() - started < 15


def test_nonsense_retry_after(served, host):
    served.server.on(f'GET .*{served.blob}', status(503, Retry_After='-5'), status(503, Retry_After='soon'))
    served.pulled(host())


# ---- refusals that are final

@pytest.mark.parametrize('what, code, codes', [('manifests/it', 404, 'not_found'), ('manifests/it', 403, 'denied'), ('manifests/it', 401, 'denied'),
                                               ('blobs/', 404, 'not_found'), ('blobs/', 403, 'denied'), ('manifests/it', 400, ()),
                                               ('manifests/it', 204, ()), ('manifests/it', 100, ())])
def test_final_refusals(served, host, what, code, codes):
    """Said once, with the reference, not tried again and again."""
    served.server.always(f'GET .*{what}', status(code, b'' if code == 204 else b'{"errors":[]}'))
    message = pulls.refused(host(fetch_retries=1), served.reference, 'it', codes=codes)
    assert 'test/it' in message
    if codes:
        assert len([r for r in served.server.asked(what) if r.status == code]) <= 2 + 2 * (what == 'blobs/')


@pytest.mark.parametrize('headers, good', [({'Content-Type': 'text/html'}, None), ({'Content-Type': images.INDEX}, False),
                                           ({'Content-Type': images.MANIFEST + '; charset=utf-8'}, True), ({'Content-Type': 'application/json'}, None)],
                         ids=['html', 'index', 'parameters', 'json'])
def test_content_type_of_manifest(served, host, headers, good):
    data = served.store[served.said['digest']]

    def act(handler, _):
        handler.answer(200, data, headers)
        return True
    served.server.always('manifests/', act)
    result = pulls.pull(host(), served.reference, 'it', check=False)
    assert good is None or (result.code == 0) == good, result.err


def test_manifest_of_another_digest(served, host):
    """By digest: what comes must be it. The header is believed as little as the body."""
    other = Image(archive(member('evil'))).put(served.store)

    def act(handler, _):
        handler.answer(200, served.store[other['digest']], {'Content-Type': images.MANIFEST, 'Docker-Content-Digest': served.said['digest']})
        return True
    served.server.always('manifests/', act)
    banger = host()
    reference = f'{served.server.host}/test/it@{served.said["digest"]}'
    pulls.refused(banger, reference, 'it', codes='corrupt', words=served.said['digest'][:19])
    served.server.behave()
    pulls.pull(banger, reference, 'it')
    assert [r.path for r in served.server.asked('manifests')] == [f'/v2/test/it/manifests/{served.said["digest"]}']


def test_endless_manifest(served, host):
    def act(handler, _):
        handler.head(200, {'Content-Type': images.MANIFEST, 'Connection': 'close'})
        try:
            while True:
                handler.send(b' ' * 65536)
        finally:
            handler.close_connection = True
    served.server.always('manifests/', act)
    banger = host(fetch_retries=1)
    pulls.refused(banger, served.reference, 'it', codes='too_large')
    assert all(r.sent < 64 * MIB for r in served.server.asked('manifests'))


def test_endless_headers(served, host):
    def act(handler, _):
        handler.seen.status = 200
        handler.send(b'HTTP/1.1 200 OK\r\n')
        try:
            for n in range(1_000_000):
                handler.send(b'X-%d: %s\r\n' % (n, b'y' * 1000))
        finally:
            handler.close_connection = True
    served.server.always('manifests/', act)
    pulls.refused(host(fetch_retries=1), served.reference, 'it')
    assert all(r.sent < 64 * MIB for r in served.server.asked('manifests'))


# ---- redirects

@pytest.fixture
def private(servers, host):
    """A registry that wants a password, which the daemon has."""
    served = Served(servers(access=Basic(USER, PASSWORD)))
    banger = host()
    write_auth(banger, {served.server.host: CREDENTIALS})
    return served, banger


def write_auth(banger, auths, path='.docker/config.json', **more):
    file = banger.base / 'home' / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({'auths': {host: {'auth': base64.b64encode(c.encode()).decode()} for host, c in auths.items()}, **more}))
    return file


def test_redirect_to_another_host(private, servers):
    """As registries do with blobs: followed, and the password does not go along."""
    served, banger = private
    other = servers(address=THERE)
    other.add('elsewhere', served.store, {})
    served.server.always(f'GET .*{served.blob}', redirect(f'{other.url}/v2/elsewhere/blobs/{served.blob}?signature=x%2Fy'))
    served.pulled(banger)
    [seen] = other.asked()
    assert seen.path.endswith('?signature=x%2Fy')
    assert seen.authorization is None and not [k for k in seen.headers if 'cookie' in k.lower()]
    assert PASSWORD not in str(seen.headers) and base64.b64encode(CREDENTIALS.encode()).decode() not in str(seen.headers)
    assert any(r.credentials == CREDENTIALS for r in served.server.log)


@pytest.mark.parametrize('code', [301, 302, 303, 307, 308])
def test_redirect_codes_and_resume(private, servers, code):
    """Another port is another origin. The rest is asked for through the registry again, or there: with the range."""
    served, banger = private
    other = servers()
    other.add('elsewhere', served.store, {})
    served.server.always(f'GET .*{served.blob}', redirect(f'{other.url}/v2/elsewhere/blobs/{served.blob}', code))
    other.on('GET', reset(1_000_000))
    served.pulled(banger)
    first, second = other.asked()
    assert first.authorization is None and second.authorization is None and second.range_start > 0


def test_redirect_and_back(private, servers):
    """By way of another host to where the password is for: what then comes is asked for by that host, not by us."""
    served, banger = private
    other = servers(address=THERE)
    served.server.on(f'GET .*{served.blob}', redirect(f'{other.url}/x'))
    other.always('GET /x', redirect(f'{served.server.url}/v2/test/it/manifests/secret'))
    pulls.pull(banger, served.reference, 'it', check=False)
    assert not [r for r in served.server.asked('secret') if r.authorization], 'the password was sent on a foreign host\'s word'
    assert not [r for r in other.log if r.authorization]


@pytest.mark.parametrize('what', ['manifests', 'blobs'])
def test_redirect_loop(served, host, what):
    served.server.always(f'GET .*{what}', redirect(lambda path: path + 'x' if len(path) < 3000 else path))
    pulls.refused(host(fetch_retries=1), served.reference, 'it', words='redirect')
    assert len(served.server.log) < 60


def test_redirect_to_what_is_no_web(served, host):
    banger = host(fetch_retries=0)
    for where in ('file:///etc/passwd', 'gopher://127.0.0.1:1/_x', 'ftp://127.0.0.1/x', 'dict://127.0.0.1/d', '//', 'http://', 'http://user:secret@[::1',
                  'scp://127.0.0.1/x', ''):
        served.server.behave()
        served.server.always(f'GET .*{served.blob}', redirect(where))
        pulls.refused(banger, served.reference, 'it', codes=('denied', 'bad_request', 'unavailable', 'unsupported', 'not_permitted', 'not_found'))


def test_relative_redirect(served, host):
    served.server.add('moved/it', served.store, {})
    served.server.on(f'GET .*{served.blob}', redirect(f'/v2/moved/it/blobs/{served.blob}'))
    served.pulled(host())


# ---- credentials

def test_basic(private):
    """Asked for first, then given; for every request of the pull."""
    served, banger = private
    served.pulled(banger)
    assert {r.credentials for r in served.server.log} <= {None, CREDENTIALS}


def test_no_credentials(servers, host):
    served = Served(servers(access=Basic(USER, PASSWORD)))
    message = pulls.refused(host(), served.reference, 'it', codes='denied')
    assert served.server.host in message
    assert not [r for r in served.server.log if r.authorization]


def test_wrong_credentials(servers, host):
    served = Served(servers(access=Basic(USER, PASSWORD)))
    banger = host()
    write_auth(banger, {served.server.host: 'robot:guess'})
    message = pulls.refused(banger, served.reference, 'it', codes='denied')
    assert 'guess' not in message
    assert len([r for r in served.server.log if r.authorization]) <= 2
    assert 'guess' not in banger.log.read_text() and base64.b64encode(b'robot:guess').decode() not in banger.log.read_text()


@pytest.mark.parametrize('path', ['.docker/config.json', '.config/containers/auth.json', 'run/containers/auth.json'])
def test_where_credentials_are(servers, host, path):
    served = Served(servers(access=Basic(USER, PASSWORD)))
    banger = host()
    write_auth(banger, {served.server.host: CREDENTIALS, 'other.example': 'x:y'}, path)
    served.pulled(banger)


def test_keys_of_credentials(servers, host):
    """With a scheme or a path as docker login once wrote, and for one repository as containers' auth.json may."""
    served = Served(servers(access=Basic(USER, PASSWORD)))
    banger = host()
    for n, key in enumerate(('{host}', 'http://{host}', 'https://{host}/v1/', '{host}/test', '{host}/test/it')):
        write_auth(banger, {key.format(host=served.server.host): CREDENTIALS}, '.config/containers/auth.json')
        result = pulls.pull(banger, served.reference, f'n{n}', check=False)
        assert result.code == 0, f'{key}: {result.err}'


def test_the_longest_key_wins(servers, host):
    served = Served(servers(access=Basic(USER, PASSWORD)))
    banger = host()
    name = served.server.host
    write_auth(banger, {name: 'a:b', f'{name}/test': 'c:d', f'{name}/test/it': CREDENTIALS, f'{name}/test/i': 'e:f'}, '.config/containers/auth.json')
    served.pulled(banger)


def test_credentials_of_others_stay(servers, host):
    """What is for another host, another port or a longer name is not sent."""
    served = Served(servers(access=Basic(USER, PASSWORD)))
    banger = host()
    name, _, port = served.server.host.partition(':')
    write_auth(banger, {f'{name}:{int(port) + 1}': CREDENTIALS, name: CREDENTIALS, f'{name}.example.com:{port}': CREDENTIALS, 'docker.io': CREDENTIALS,
                        f'{served.server.host}/another': CREDENTIALS})
    pulls.refused(banger, served.reference, 'it', codes='denied')
    assert not [r for r in served.server.log if r.authorization]


BROKEN_FILES = ['{', '[]', '{"auths":[]}', '{"auths":{"HOST":{"auth":"!!!"}}}', '{"auths":{"HOST":{"auth":"bm9jb2xvbg=="}}}',
                '{"auths":{"HOST":7}}', '{"credHelpers":{"HOST":"../../bin/sh"}}', '{"credHelpers":{"HOST":["x"]}}']


def test_broken_credential_files(servers, host):
    """Said, or passed over; never a crash, and never something else sent."""
    served = Served(servers(access=Basic(USER, PASSWORD)))
    banger = host()
    file = banger.base / 'home/.docker/config.json'
    file.parent.mkdir()
    for text in BROKEN_FILES:
        file.write_text(text.replace('HOST', served.server.host))
        pulls.refused(banger, served.reference, 'it', codes=('denied', 'bad_request', 'corrupt', 'unsupported', 'not_found'))
    assert not [r for r in served.server.log if r.credentials and r.credentials.strip(':')]


HELPER = '''#!/bin/sh
echo "$1 $(cat)" >> "$HOME/helper.log"
[ "$1" = get ] || exit 1
%s
'''


@pytest.mark.parametrize('how', ['credHelpers', 'credsStore'])
def test_credential_helper(servers, host, base, how):
    """docker-credential-NAME get, the registry on stdin."""
    programs = base / 'programs'
    programs.mkdir()
    served = Served(servers(access=Basic(USER, PASSWORD)))
    answer = json.dumps({'ServerURL': served.server.host, 'Username': USER, 'Secret': PASSWORD})
    helper = programs / 'docker-credential-test'
    helper.write_text(HELPER % f"echo '{answer}'")
    helper.chmod(0o755)
    banger = host(env={'PATH': f'{programs}:{os.environ["PATH"]}'})
    write_auth(banger, {}, **{how: {served.server.host: 'test'} if how == 'credHelpers' else 'test'})
    served.pulled(banger)
    assert (banger.base / 'home/helper.log').read_text().split('\n')[0] == f'get {served.server.host}'


@pytest.mark.parametrize('script', ['exit 1', 'echo not JSON', 'kill -9 $$', 'head -c 10000000 /dev/zero', 'sleep 1000',
                                    """echo '{"Username":"a","Secret":"no-body"}'; exit 1"""],
                         ids=['fails', 'nonsense', 'dies', 'megabytes', 'hangs', 'half a success'])
def test_credential_helper_fails(servers, host, base, script):
    programs = base / 'programs'
    programs.mkdir()
    (programs / 'docker-credential-test').write_text(HELPER % script)
    (programs / 'docker-credential-test').chmod(0o755)
    served = Served(servers(access=Basic(USER, PASSWORD)))
    banger = host(env={'PATH': f'{programs}:{os.environ["PATH"]}'})
    write_auth(banger, {}, credHelpers={served.server.host: 'test'})
    if script.startswith('sleep'):
        process = subprocess.Popen([PROGRAM['banger-ctl'], 'image', 'pull', served.reference, '--name', 'it'], env=banger.env,
                                   stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        until(lambda: any('sleep 1000' in c for c in harness.children(banger.daemon.pid).values()), 'the helper to run')
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert process.returncode == -signal.SIGINT and b'cancelled' in err, err
        until(lambda: not any('sleep 1000' in c for c in harness.children().values()), 'the helper to end', 30)
    else:
        pulls.refused(banger, served.reference, 'it', words='docker-credential-test|401|denied|unauthorized')
        assert 'no-body' not in banger.log.read_text()


# ---- tokens

def test_token(servers, host):
    """One token for the repository, asked for with service and scope, then used for all."""
    tokens = servers(Tokens)
    served = Served(servers(access=Bearer(tokens.url, None)))
    served.server.access.tokens = tokens
    served.pulled(host())
    [asked] = tokens.log
    assert 'service=test%20registry' in asked.path or 'service=test+registry' in asked.path
    assert 'scope=repository%3Atest%2Fit%3Apull' in asked.path or 'scope=repository:test/it:pull' in asked.path
    assert asked.authorization is None


def bearer(servers, tokens, **kwargs):
    return Served(servers(access=Bearer(kwargs.pop('realm', tokens.url), tokens, **kwargs)))


@pytest.mark.parametrize('field', ['token', 'access_token'])
def test_token_with_credentials(servers, host, field):
    """On loopback beside the registry: the password goes to the realm and never to the registry."""
    tokens = servers(Tokens, user=CREDENTIALS, field=field)
    served = bearer(servers, tokens)
    banger = host()
    write_auth(banger, {served.server.host: CREDENTIALS})
    served.pulled(banger)
    assert [r.credentials for r in tokens.log][-1] == CREDENTIALS
    assert not [r for r in served.server.log if r.credentials]


def test_token_that_expires(servers, host):
    """401 in the middle of a pull: another token, and on it goes."""
    tokens = servers(Tokens, uses=1)
    served = bearer(servers, tokens)
    served.pulled(host())
    assert len(tokens.log) >= 3
    assert len(served.gets()) <= 2


def test_token_that_is_never_good(servers, host):
    tokens = servers(Tokens, uses=0)
    served = bearer(servers, tokens)
    tokens.good = lambda *args: False
    pulls.refused(host(), served.reference, 'it', codes='denied')
    assert len(tokens.log) <= 4


def test_realm_elsewhere(servers, host):
    """Plain HTTP on another host: it is not told the password."""
    tokens = servers(Tokens, user=CREDENTIALS, address=THERE)
    served = bearer(servers, tokens)
    banger = host()
    write_auth(banger, {served.server.host: CREDENTIALS})
    pulls.refused(banger, served.reference, 'it', codes='denied')
    assert not [r for r in tokens.log if r.authorization or PASSWORD in r.path or r.body]


def test_realm_that_redirects(servers, host):
    tokens = servers(Tokens, user=CREDENTIALS)
    other = servers(Tokens, user=CREDENTIALS, address=THERE)
    tokens.refuse = redirect(other.url)
    served = bearer(servers, tokens)
    banger = host()
    write_auth(banger, {served.server.host: CREDENTIALS})
    pulls.refused(banger, served.reference, 'it')
    assert not [r for r in other.log if r.authorization or PASSWORD in r.path or r.body]


def test_realm_that_is_none(servers, host):
    tokens, banger = servers(Tokens), host(fetch_retries=0)
    served = bearer(servers, tokens)
    for realm in ('file:///etc/passwd', 'gopher://127.0.0.1/', '', 'not an address', 'http://' + 'x' * 10_000, 'http://127.0.0.1:1/token'):
        served.server.access.realm = realm
        pulls.refused(banger, served.reference, 'it', codes=('denied', 'bad_request', 'unavailable', 'unsupported', 'not_permitted'))


ODD_ANSWERS = [status(200, b'not JSON'), status(200, b'{}'), status(200, b'{"token":7}'), status(200, b'{"token":"a\\r\\nX-Evil: 1"}'),
               status(200, b'{"token":"' + b'x' * 5_000_000 + b'"}'), status(403), status(500)]


def test_realm_misbehaves(servers, host):
    tokens, banger = servers(Tokens), host(fetch_retries=0)
    served = bearer(servers, tokens)
    for tokens.refuse in ODD_ANSWERS:
        pulls.refused(banger, served.reference, 'it')
    assert not [r for r in served.server.log if 'X-Evil' in r.headers]


CHALLENGES = ['', 'Bearer', 'Bearer realm', 'Bearer realm="http://127.0.0.1:1/', 'Negotiate', 'Digest realm="x"', 'B\xe4sic x',
              'Bearer realm="' + 'a' * 20_000 + '"', ',,,', 'Bearer realm="x"' * 500]


def test_challenges(servers, host):
    served, banger = Served(servers(access=Basic('no', 'body'))), host(fetch_retries=0)
    for served.server.access.challenge in CHALLENGES:
        pulls.refused(banger, served.reference, 'it')


def test_two_challenges(servers, host):
    """Basic beside one that nobody here knows."""
    served = Served(servers(access=Basic(USER, PASSWORD, 'Negotiate, Basic realm="a, b", charset="UTF-8"')))
    banger = host()
    write_auth(banger, {served.server.host: CREDENTIALS})
    served.pulled(banger)


# ---- plain HTTP and TLS

def test_plain_http_is_for_loopback(servers, host):
    """Another address is spoken to in TLS, unless the configuration says otherwise: no request reaches it in the clear."""
    served = Served(servers(address=HERE))
    banger = host(fetch_retries=0)
    write_auth(banger, {served.server.host: CREDENTIALS})
    pulls.refused(banger, served.reference, 'it')
    assert served.server.log == []
    allowed = host({served.server.host: {'plain_http': True}}, name='allowed')
    served.pulled(allowed)


@pytest.fixture(scope='module')
def authority(cache):
    registry.make_authority(cache / 'tls')
    registry.make_certificate(cache / 'tls', 'here', HERE)
    return cache / 'tls'


def context(authority, name='here', *addresses):
    return registry.make_certificate(authority, name, *(addresses or (HERE,)))


def test_tls(servers, host, authority):
    """With the registry's own authority."""
    served = Served(servers(address=HERE, tls=context(authority), access=Basic(USER, PASSWORD)))
    banger = host({served.server.host: {'ca_file': str(authority / 'ca.crt')}})
    write_auth(banger, {served.server.host: CREDENTIALS})
    served.server.on(f'GET .*{served.blob}', reset(1_000_000))
    served.pulled(banger)


def test_tls_unknown_authority(servers, host, authority):
    served = Served(servers(address=HERE, tls=context(authority), access=Basic(USER, PASSWORD)))
    banger = host(fetch_retries=2)
    write_auth(banger, {served.server.host: CREDENTIALS})
    pulls.refused(banger, served.reference, 'it', codes='denied', words='certificate|TLS|SSL')
    assert served.server.log == [] and len(served.server.tls_errors) <= 2


def test_tls_another_name(servers, host, authority):
    served = Served(servers(address=HERE, tls=context(authority, 'other', THERE, 'registry.example')))
    banger = host({served.server.host: {'ca_file': str(authority / 'ca.crt')}}, fetch_retries=0)
    pulls.refused(banger, served.reference, 'it', codes='denied')
    assert served.server.log == []


def test_tls_insecure(servers, host, authority):
    served = Served(servers(address=HERE, tls=context(authority)))
    served.pulled(host({served.server.host: {'insecure': True}}))


def test_tls_is_for_that_registry_alone(servers, host, authority):
    """An authority that is trusted for one registry vouches for no other."""
    served = Served(servers(address=HERE, tls=context(authority)))
    banger = host({f'{THERE}:1': {'ca_file': str(authority / 'ca.crt'), 'insecure': True}}, fetch_retries=0)
    pulls.refused(banger, served.reference, 'it', codes='denied')


def test_tls_redirect_to_plain(servers, host, authority):
    """From TLS to plain HTTP elsewhere: without the password at least; what comes is checked by its digest."""
    served = Served(servers(address=HERE, tls=context(authority), access=Basic(USER, PASSWORD)))
    other = servers(address=THERE)
    other.add('x', served.store, {})
    served.server.always(f'GET .*{served.blob}', redirect(f'{other.url}/v2/x/blobs/{served.blob}'))
    banger = host({served.server.host: {'ca_file': str(authority / 'ca.crt')}}, fetch_retries=0)
    write_auth(banger, {served.server.host: CREDENTIALS})
    pulls.pull(banger, served.reference, 'it', check=False)
    assert not [r for r in other.log if r.authorization]


def test_tls_realm_elsewhere(servers, host, authority):
    """As Docker's: token server and registry are two hosts, both in TLS."""
    tokens = servers(Tokens, user=CREDENTIALS, address=THERE, tls=context(authority, 'there', THERE))
    served = Served(servers(address=HERE, tls=context(authority), access=Bearer(tokens.url, tokens)))
    both = {'ca_file': str(authority / 'ca.crt')}
    banger = host({served.server.host: both, tokens.url.split('/')[2]: both}, fetch_retries=0)
    write_auth(banger, {served.server.host: CREDENTIALS})
    result = pulls.pull(banger, served.reference, 'it', check=False)
    assert not [r for r in served.server.log if r.credentials]
    assert result.code == 0 or 'realm' in result.err, result.err


def client_certificate(authority, name='client'):
    """A client's certificate and key; and a server's context that wants one of this authority."""
    registry.make_certificate(authority, name, 'client.example')
    wants = context(authority)
    wants.load_verify_locations(authority / 'ca.crt')
    wants.verify_mode = ssl.CERT_REQUIRED
    return {'cert_file': str(authority / f'{name}.crt'), 'key_file': str(authority / f'{name}.key')}, wants


def test_tls_client_certificate(servers, host, authority):
    """A registry that lets in whoever has a certificate; it is not shown to the storage that the registry redirects to."""
    files, wants = client_certificate(authority)
    served, both = Served(servers(address=HERE, tls=wants)), {'ca_file': str(authority / 'ca.crt')}
    asks = context(authority, 'there', THERE)
    asks.load_verify_locations(authority / 'ca.crt')
    asks.verify_mode = ssl.CERT_OPTIONAL
    storage = servers(address=THERE, tls=asks)
    storage.add('x', served.store, {})
    shown = []

    def storage_asked(handler, blob):
        shown.append(handler.connection.getpeercert())
    storage.always('GET', storage_asked)
    served.server.on(f'GET .*{served.blob}', redirect(f'{storage.url}/v2/x/blobs/{served.blob}'))
    banger = host({served.server.host: {**both, **files}, storage.host: both}, fetch_retries=0)
    served.pulled(banger)
    assert shown and not any(shown)
    assert pathlib.Path(files['key_file']).read_text().splitlines()[1] not in banger.log.read_text()


@pytest.mark.parametrize('how', ['none', 'another authority', 'encrypted', 'gone'])
def test_tls_client_certificate_wrong(servers, host, authority, base, how):
    """Without one, or with one that is of no use: refused, and what to do is said."""
    files, wants = client_certificate(authority)
    served, said = Served(servers(address=HERE, tls=wants)), {'ca_file': str(authority / 'ca.crt')}
    words = 'cert_file' if how == 'none' else 'certificate|key|SSL|TLS'
    if how == 'another authority':
        registry.make_authority(base / 'other')
        registry.make_certificate(base / 'other', 'client', 'client.example')
        files = {'cert_file': str(base / 'other/client.crt'), 'key_file': str(base / 'other/client.key')}
    elif how == 'encrypted':
        harness.run('openssl', 'ec', '-in', files['key_file'], '-aes256', '-passout', 'pass:secret', '-out', base / 'encrypted.key')
        files['key_file'] = str(base / 'encrypted.key')
    elif how == 'gone':
        files['key_file'] = str(base / 'nowhere.key')
        words = 'nowhere.key'
    banger = host({served.server.host: {**said, **({} if how == 'none' else files)}}, fetch_retries=1)
    pulls.refused(banger, served.reference, 'it', codes=('denied', 'unavailable', 'bad_request'), words=words)
    assert served.server.log == []


def test_certs_d(servers, worlds, net, authority, base):
    """/etc/containers/certs.d/HOST as podman has it: *.crt is trusted, NAME.cert and NAME.key are shown."""
    files, wants = client_certificate(authority)
    served = Served(servers(address=HERE, tls=wants))
    place = base / 'certs.d' / served.server.host
    place.mkdir(parents=True)
    for source, name in ((authority / 'ca.crt', 'ca.crt'), (files['cert_file'], 'me.cert'), (files['key_file'], 'me.key')):
        shutil.copy(source, place / name)
    etc = base / 'etc'
    (etc / 'certs.d').mkdir(parents=True)
    mount = f'mkdir -p /etc/containers && mount --bind {etc} /etc/containers && mount --bind {base}/certs.d /etc/containers/certs.d && exec "$@"'
    banger = worlds(setpriv=(*net.prefix, 'unshare', '--mount', '--propagation', 'private', 'sh', '-c', mount, 'sh')).start()
    served.pulled(banger)
    (place / 'me.key').unlink()
    pulls.remove(banger, 'it')
    banger.call('image.prune', {'all': True})
    pulls.refused(banger, served.reference, 'again', codes='bad_request', words='me.key')


# ---- HTTP/2

@pytest.mark.skipif(not registry_h2.h2, reason='needs python3-h2')
def test_http2(servers, host, authority):
    """Where it is offered: manifest, configuration and layers come by it, several at once; a connection that goes away in the
    midst and a stream that is reset are gone on with by Range."""
    tls = context(authority)
    served = Served(servers(registry_h2.Registry2, address=HERE, tls=tls), image=image_of(*(NOISE[n:n + MIB] for n in range(4))))
    first, second, third = (layer.digest for layer in served.image.layers[:3])
    served.server.on(f'GET .*{first}', registry_h2.go_away(400_000))
    served.server.on(f'GET .*{second}', reset(300_000), reset(100_000))
    served.server.on(f'GET .*{third}', stall(200_000))
    banger = host({served.server.host: {'ca_file': str(authority / 'ca.crt')}}, fetch_retries=3)
    served.pulled(banger, tree=Tree({str(n): f(NOISE[n:n + MIB]) for n in range(4)}))
    assert served.server.log and {r.version for r in served.server.log} == {'h2'}
    for digest, attempts in ((first, 2), (second, 3), (third, 2)):
        gets = served.server.asked(f'GET .*{digest}')
        starts = [r.range_start or 0 for r in gets]
        assert len(starts) == attempts and starts == sorted(set(starts)), f'{digest}: {gets}'


@pytest.mark.skipif(not registry_h2.h2, reason='needs python3-h2')
def test_http2_refuses(servers, host, authority):
    """Tokens, redirects and refusals are the same there; a header of HTTP/2 counts like one of HTTP/1."""
    tokens = servers(Tokens, user=CREDENTIALS, address=HERE, tls=context(authority))
    served = Served(servers(registry_h2.Registry2, address=HERE, tls=context(authority), access=Bearer(tokens.url, tokens)))
    trust = {'ca_file': str(authority / 'ca.crt')}
    banger = host({served.server.host: trust, tokens.url.split('/')[2]: trust})
    write_auth(banger, {served.server.host: CREDENTIALS})
    served.server.on(f'GET .*{served.blob}', status(503), status(429, Retry_After='0'))
    served.pulled(banger)
    served.server.behave()
    served.server.always('GET .*/manifests/', status(404))
    pulls.refused(banger, served.reference, 'again', codes='not_found', words=re.escape(served.server.host))
    assert {r.version for r in served.server.log} == {'h2'}


# ---- limits

@pytest.mark.parametrize('second, config, words', [
    (bytes(2 * MIB), {'unpacked_max': 2 * MIB}, 'layer 2 of 3 .*member "1".*unpacked_max'),
    (NOISE[:MIB], {'unpacked_max': MIB + 4096}, 'layer 2 of 3 .*unpacked_max'),
    (b'', {'entries_max': 1000}, 'layer 3 of 3 .*member "d/99[0-9]".*entries_max')], ids=['unpacked', 'compressed', 'entries'])
def test_limits(served, host, second, config, words):
    """What an image may unpack to is configured, and what is over it is said: the layer, the member, the setting. Layers that
    are too large before they are unpacked are not even fetched."""
    image = Image(archive(member('0', NOISE[-MIB:])), archive(member('1', second)), archive(*(member(f'd/{n}') for n in range(1200))))
    item = Served(served.server, 'test/limits', image)
    banger = host(**config)
    message = pulls.refused(banger, item.reference, 'it', codes='too_large', words=words)
    number = int(re.search(r'layer (\d) of', message).group(1))
    assert image.layers[number - 1].digest in message
    assert bool(served.server.asked(f'GET .*{image.layers[0].digest}')) == (second != NOISE[:MIB])


# ---- proxies

def tunnel(handler, _):
    """CONNECT, as a proxy does it."""
    host_name, _, port = handler.path.partition(':')
    # The namespace is the socket's that was accepted; a new one is made in it by the thread of the server.
    other = handler.server.owner.connect((host_name, int(port)))
    handler.seen.status = 200
    handler.send(b'HTTP/1.1 200 Connection established\r\n\r\n')
    pair = [handler.connection, other]
    while True:
        ready, _, _ = select.select(pair, [], [], 20)
        data = ready[0].recv(65536) if ready else b''
        if not data:
            break
        (other if ready[0] is handler.connection else handler.connection).sendall(data)
    other.close()
    handler.close_connection = True
    return True


def test_http_proxy(servers, host, authority):
    """http_proxy for what is plain HTTP: the proxy is asked by whole addresses."""
    proxy = Served(servers())
    name = f'{HERE}:4999'  # nobody is there
    banger = host({name: {'plain_http': True}}, env={'http_proxy': proxy.server.url})
    pulls.pull(banger, f'{name}/test/it:it', 'it')
    assert all(r.path.startswith(f'http://{name}/v2/') for r in proxy.server.log)


def test_https_proxy(servers, host, net, authority):
    """HTTPS_PROXY: CONNECT, and the password stays inside."""
    proxy = servers()
    proxy.connect = lambda to: net.inside(lambda: socket.create_connection(to, 10))
    proxy.always('^CONNECT', tunnel)
    served = Served(servers(address=HERE, tls=context(authority), access=Basic(USER, PASSWORD)))
    banger = host({served.server.host: {'ca_file': str(authority / 'ca.crt')}}, env={'HTTPS_PROXY': proxy.url})
    write_auth(banger, {served.server.host: CREDENTIALS})
    served.pulled(banger)
    assert proxy.log and all(r.method == 'CONNECT' and not r.authorization for r in proxy.log)


def test_no_proxy(servers, host):
    """NO_PROXY, and what is on loopback is not asked of a proxy that is for the world."""
    proxy = servers()
    served = Served(servers(address=HERE))
    banger = host({served.server.host: {'plain_http': True}}, env={'http_proxy': proxy.url, 'no_proxy': f'x.example,{HERE}'})
    served.pulled(banger)
    assert proxy.log == []


# ---- several at once

def start_pull(banger, reference, name, *options):
    return subprocess.Popen([PROGRAM['banger-ctl'], 'image', 'pull', reference, '--name', name, *options], env=banger.env,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def running(banger):
    return [o for o in banger.call('status')['operations'] if o['method'].startswith('image.pull')]


def finish(process, code=0):
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    return out, err


def test_one_blob_for_two_pulls(served, host):
    """Two pulls of one image at once: each blob is fetched once."""
    go = threading.Event()
    served.server.always(f'GET .*{served.blob}', gated(go, 500_000))
    banger = host(fetch_stall_ms=30_000)
    both = [start_pull(banger, served.reference, n) for n in ('a', 'b')]
    until(lambda: len(running(banger)) == 2 and served.gets() and served.gets()[0].sent >= 500_000, 'both to run')
    time.sleep(0.3)
    go.set()
    for process in both:
        finish(process)
    assert len(served.gets()) == 1
    for name in 'ab':
        pulls.assert_tree(banger, name, served.tree)
    assert pulls.digest_of(banger, 'a') == pulls.digest_of(banger, 'b')


def test_the_first_of_two_is_cancelled(served, host):
    """The other one goes on with what there is."""
    go = threading.Event()
    served.server.always(f'GET .*{served.blob}', gated(go, 1_000_000))
    banger = host(fetch_stall_ms=30_000)
    first = start_pull(banger, served.reference, 'a')
    until(lambda: served.gets() and served.gets()[0].sent >= 1_000_000, 'the first')
    second = start_pull(banger, served.reference, 'b')
    until(lambda: len(running(banger)) == 2, 'the second')
    time.sleep(0.3)
    first.send_signal(signal.SIGINT)
    finish(first, -signal.SIGINT)
    go.set()
    finish(second)
    pulls.assert_tree(banger, 'b', served.tree)
    gets = served.gets()
    assert len(gets) <= 2 and sum(r.sent for r in gets) < served.size * 1.6
    assert set(banger.images()) == {('published', 'b')}


def test_both_to_one_name(served, host):
    """One is published; the other is told that the name is taken."""
    banger = host()
    served.server.always(f'GET .*{served.blob}', throttle(3 * MIB))
    both = [start_pull(banger, served.reference, 'it') for _ in range(2)]
    ends = sorted((p.wait(60), p.stderr.read()) for p in both)
    [p.stdout.close() or p.stderr.close() for p in both]
    assert [code for code, _ in ends] == [0, 1] and 'it' in ends[1][1]
    assert banger.call('op.ls', {'failed': True, 'limit': 1})['ops'][0]['code'] in ('exists', 'busy')
    pulls.assert_tree(banger, 'it', served.tree)
    pulls.assert_nothing_new(banger, banger.images())


def test_layers_in_parallel(servers, host):
    """Four of six layers are asked for before the first one is there."""
    served = Served(servers(), image=image_of(*(random.Random(n).randbytes(100_000) for n in range(6))))
    go = threading.Event()
    for layer in served.image.layers:
        served.server.always(f'GET .*{layer.digest}', gated(go))
    banger = host(fetch_stall_ms=30_000)
    process = start_pull(banger, served.reference, 'it')
    asked = lambda: [r for r in served.server.asked('GET .*blobs/') if any(layer.digest in r.path for layer in served.image.layers)]
    until(lambda: len(asked()) >= 4, 'four transfers')
    time.sleep(0.3)
    assert len(asked()) == 4
    go.set()
    finish(process)


def test_what_is_held_is_not_fetched(servers, host):
    """A second image with the same lower layer brings the upper one alone; a second pull brings nothing."""
    server = servers()
    lower, upper = archive(member('0', NOISE)), archive(member('1', b'x'))
    first, second = Served(server, 'a', Image(lower)), Served(server, 'b', Image(lower, upper))
    banger = host()
    first.pulled(banger, name='a')
    second.pulled(banger, name='b', tree=Tree({'0': f(NOISE), '1': f('x')}))
    assert len(server.asked(f'GET .*{first.blob}')) == 1
    before = len(server.asked('blobs/'))
    second.pulled(banger, name='c', tree=Tree({'0': f(NOISE), '1': f('x')}))
    assert len(server.asked('blobs/')) <= before + 1  # the configuration is small enough to be asked for again


def test_no_urls(servers, host):
    """A layer that names addresses of its own: they are never asked."""
    trap = servers()
    served = Served(servers(), image=Image(Layer(archive(member('0', NOISE)), media=FOREIGN, say={'urls': [f'{trap.url}/layer']}), docker=True))
    banger = host(fetch_retries=0)
    served.pulled(banger, name='there')
    pulls.remove(banger, 'there')
    other = Served(served.server, 'test/gone', Image(Layer(archive(member('0', NOISE[:5000])), media=FOREIGN, say={'urls': [f'{trap.url}/layer']}), docker=True))
    del other.store[other.blob]
    pulls.refused(banger, other.reference, 'it', codes=('not_found', 'unsupported'))
    assert trap.log == []


# ---- cancelled, left alone, interrupted

def throttled_until(served, banger, sent, *options, name='it'):
    """A pull that is `sent` bytes into its layer and goes no further; gives the process and the gate."""
    go = threading.Event()
    served.server.on(f'GET .*{served.blob}', gated(go, sent))
    process = start_pull(banger, served.reference, name, *options)
    until(lambda: served.gets() and served.gets()[-1].sent >= sent, 'the transfer')
    time.sleep(0.2)
    return process, go


def resumes(served, banger, name='it', at_most=2_000_000):
    """The next pull asks for the rest alone."""
    before = len(served.gets())
    served.pulled(banger, name=name)
    [seen] = served.gets()[before:]
    assert seen.range_start and 0 < seen.range_start <= at_most, seen
    return seen.range_start


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_client_goes_away(served, host, signum):
    """Ctrl-C and worse: cancelled; what came of the blob is kept, nothing else."""
    banger = host(fetch_stall_ms=30_000)
    process, go = throttled_until(served, banger, 2_000_000)
    process.send_signal(signum)
    out, err = process.communicate(timeout=30)
    assert process.returncode == -signum
    until(lambda: not running(banger), 'the pull to end')
    go.set()
    pulls.assert_nothing_new(banger, {})
    assert list(pulls.cached(banger, whole=False)) == [f'sha256/{served.blob[7:]}.partial']
    [last] = [o for o in banger.call('op.ls', {'limit': 20})['ops'] if o['method'] in ('image.pull', 'image.pull.begin')]
    assert last['code'] == 'cancelled'
    resumes(served, banger)


def test_op_cancel(served, host):
    banger = host(fetch_stall_ms=30_000)
    process, go = throttled_until(served, banger, 2_000_000)
    [operation] = running(banger)
    banger.ctl('op', 'cancel', operation['op_id'])
    _, err = finish(process, 1)
    go.set()
    assert operation['op_id'] in err
    pulls.assert_nothing_new(banger, {})
    resumes(served, banger)


def test_detached(served, host):
    """--detach answers at once with the op_id, by which the pull is followed and which its image carries."""
    banger = host(fetch_stall_ms=30_000)
    go = threading.Event()
    served.server.on(f'GET .*{served.blob}', gated(go, 1_000_000))
    result = banger.ctl('image', 'pull', served.reference, '--name', 'it', '--detach', timeout=20)
    [op_id] = set(re.findall(r'op-[0-9a-f]{12}', result.out + result.err))
    until(lambda: served.gets() and served.gets()[0].sent >= 1_000_000, 'the transfer')
    assert [o['op_id'] for o in running(banger)] == [op_id]
    assert set(banger.images()) == set()
    go.set()
    until(lambda: banger.op(op_id)['outcome'] == 'completed', 'the pull to end', 30)
    assert banger.images()['published', 'it']['op_id'] == op_id
    pulls.assert_tree(banger, 'it', served.tree)


def test_begin_status_cancel(served, host):
    """The three calls of a long operation, by its op_id."""
    banger = host(fetch_stall_ms=30_000)
    go = threading.Event()
    served.server.on(f'GET .*{served.blob}', gated(go, 1_000_000))
    op_id = banger.call('image.pull.begin', {'source': served.reference, 'name': 'it'})['op_id']
    until(lambda: served.gets() and served.gets()[0].sent >= 1_000_000, 'the transfer')
    shown = until(lambda: [s for s in [banger.call('image.pull.status', {'op_id': op_id})] if s['op'].get('progress', {}).get('fetched')], 'progress')[0]
    assert shown['op']['outcome'] == 'running' and 'image' not in shown
    [layer] = shown['op']['progress']['layers']
    assert layer['digest'] == served.blob and layer['size'] == served.size
    banger.call('image.pull.cancel', {'op_id': op_id})
    until(lambda: not running(banger), 'the pull to end')
    go.set()
    status = banger.call('image.pull.status', {'op_id': op_id})
    assert status['op']['code'] == 'cancelled' and 'image' not in status
    op_id = banger.call('image.pull.begin', {'source': served.reference, 'name': 'it'})['op_id']
    status = until(lambda: [s for s in [banger.call('image.pull.status', {'op_id': op_id})] if s['op']['outcome'] != 'running'], 'the end', 30)[0]
    assert status['op']['outcome'] == 'completed' and status['image']['name'] == 'it' and status['image']['op_id'] == op_id
    with banger.wire() as client:
        for method in ('image.pull.status', 'image.pull.cancel'):
            assert client.reply(method, {'op_id': 'op-000000000000'})['error']['code'] == 'not_found'


def test_silent_name_server(worlds, net, base):
    """A name server that never answers: what waits for it ends when it is told to, and so does the daemon."""
    conf = base / 'resolv.conf'
    conf.write_text('nameserver 127.0.0.1\noptions timeout:20 attempts:3\n')
    conf.chmod(0o644)
    mount = f'mount --bind {conf} /etc/resolv.conf && exec "$@"'
    banger = worlds(setpriv=(*net.prefix, 'unshare', '--mount', '--propagation', 'private', 'sh', '-c', mount, 'sh')).start()

    def listen():
        silence = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        silence.bind(('127.0.0.1', 53))
        silence.settimeout(30)
        return silence
    with net.inside(listen) as silence:
        for end in (lambda op_id: banger.call('image.pull.cancel', {'op_id': op_id}), lambda op_id: banger.stop()):
            op_id = banger.call('image.pull.begin', {'source': 'registry.example/a/b', 'name': 'it'})['op_id']
            assert b'registry' in silence.recv(512)
            began = time.monotonic()
            end(op_id)
            until(lambda: banger.records(op_id)[-1]['msg'] == 'operation failed', 'the pull to end')
            assert time.monotonic() - began < 5


@pytest.mark.parametrize('how', ['stop', 'kill'])
def test_daemon_restarts(served, host, how):
    """The partial blob outlives the daemon; its digest is computed anew."""
    banger = host(fetch_stall_ms=30_000)
    process, go = throttled_until(served, banger, 2_000_000)
    began = time.monotonic()
    getattr(banger, how)()
    assert time.monotonic() - began < 4  # a pull is not waited for as other operations are
    process.communicate(timeout=30)
    assert process.returncode != 0
    go.set()
    banger.daemon = None
    # What is left is the beginning of the blob, in whole blocks; the next start has nothing to mend there.
    [(name, size)] = pulls.cached(banger).items()
    assert name.endswith('.partial') and size > 0 and size % 4096 == 0
    assert how == 'kill' or list((banger.state / 'cache/flat').iterdir()) == []
    banger.start()
    assert pulls.cached(banger) == {name: size}
    pulls.assert_nothing_new(banger, {})
    resumes(served, banger)


@pytest.mark.parametrize('damage', ['flip', 'truncate', 'empty', 'longer'])
def test_damaged_partial(served, host, damage):
    """A disk that lied: the digest tells, the next pull begins anew."""
    banger = host(fetch_stall_ms=30_000)
    process, go = throttled_until(served, banger, 2_000_000)
    banger.kill()
    process.communicate(timeout=30)
    go.set()
    [name] = pulls.cached(banger, whole=False)
    partial = banger.state / 'cache/blobs' / name
    data = partial.read_bytes()
    partial.unlink()
    partial.write_bytes({'flip': b'\0' * 4096 + data[4096:], 'truncate': data[:5000], 'empty': b'', 'longer': data + bytes(4 * MIB)}[damage])
    banger.daemon = None
    banger.start()
    result = pulls.pull(banger, served.reference, 'it', check=False)
    if result.code:
        assert damage in ('flip', 'longer'), result.err
        served.pulled(banger)
    else:
        pulls.assert_tree(banger, 'it', served.tree)


def test_damaged_whole_blob(served, host):
    """A whole blob in the cache that is no longer what its name says does not become an image."""
    banger = host()
    served.pulled(banger, name='first')
    pulls.remove(banger, 'first')
    banger.stop()
    for top in ('cache/flat', 'cache/flattened', 'cache/images'):
        if (banger.state / top).exists():
            harness.shutil.rmtree(banger.state / top)
    file = banger.state / 'cache/blobs/sha256' / served.blob[7:]
    data = bytearray(file.read_bytes())
    data[1_000_000] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)
    banger.start()
    result = pulls.pull(banger, served.reference, 'it', check=False)
    if result.code == 0:
        pulls.assert_tree(banger, 'it', served.tree)
    else:
        assert banger.op(result.op_id)['code'] == 'corrupt'
        served.pulled(banger)


# ---- what is seen meanwhile

def test_progress(served, host):
    """--json: a document a line; the operation's record in the tree says how far it is."""
    banger = host(fetch_stall_ms=30_000)
    mount = banger.mount()
    go = threading.Event()
    served.server.on(f'GET .*{served.blob}', gated(go, 1_500_000))
    process = subprocess.Popen([PROGRAM['banger-ctl'], '--json', 'image', 'pull', served.reference, '--name', 'it'], env=banger.env,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: served.gets() and served.gets()[0].sent >= 1_500_000, 'the transfer')
    [operation] = running(banger)
    file = mount / 'ops' / operation['op_id']
    until(lambda: file.exists() and 'layers' in file.read_text(), 'progress in the tree')
    record = until(lambda: [r for r in [json.loads(file.read_text())] if '1' in json.dumps(r.get('progress', r))], 'figures')[0]
    assert served.blob in json.dumps(record) and record['outcome'] == 'running'
    go.set()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines and '"it"' in json.dumps(lines[-1])
    assert json.loads(file.read_text())['outcome'] == 'completed'


def test_names(served, host):
    """Without --name the repository's last part; a name that is taken, or none, is refused before anything is fetched."""
    banger = host()
    banger.ctl('image', 'pull', served.reference)
    assert set(banger.images()) == {('published', 'it')}
    served.server.log.clear()
    pulls.refused(banger, served.reference, 'it', codes='exists', words='"it" is taken')
    pulls.refused(banger, served.reference, 'no/name', codes='bad_request')
    pulls.refused(banger, served.reference, 'n' * 129, codes='name_too_long')
    assert served.server.log == []


NO_REFERENCES = ['127.0.0.1:1/', '127.0.0.1:1/UPPER:x', '127.0.0.1:1/a:', '127.0.0.1:1/a@sha256:12', '127.0.0.1:99999/a', '127.0.0.1:1/a b',
                                       'http://127.0.0.1:1/a', '127.0.0.1:1/../a', '127.0.0.1:1/a//b', '127.0.0.1:1/a@md5:' + 'a' * 32, 'oci:', 'oci:/nonexistent',
                                       '127.0.0.1:1/' + 'a' * 300, '127.0.0.1:1/a:' + 't' * 129, '/abs', 'user@127.0.0.1:1/a', '127.0.0.1:1/a?x=y', '127.0.0.1:1/a#b']


def test_references_that_are_none(host):
    """Said before anything is connected to."""
    banger = host(fetch_retries=0)
    for reference in NO_REFERENCES:
        message = pulls.refused(banger, reference, 'it', codes=('bad_request', 'not_found'))
        assert 'connect' not in message, message


def test_localhost_by_other_names(servers, host):
    """[::1] and localhost are loopback too."""
    served = Served(servers(address='::1'))
    served.pulled(host(), name='six')
    other = Served(servers())
    other.reference = other.reference.replace('127.0.0.1', 'localhost')
    other.pulled(host(name='local'), name='name')
