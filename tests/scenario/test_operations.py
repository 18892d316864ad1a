# SPDX-License-Identifier: Apache-2.0
"""Every row of the contract's table of operations, through the real mount with ordinary tools.

A row is: what is there before, a command in the mount's directory (sh, or a function), and what must come
of it. A refusal is followed through everything that must know of it: the tool's own message, last-error,
the xattr on the root and on the directory that refused, the log of bangerfs, the log of bangerd, op show
on the wire and on the command line, ops/OP_ID in the tree. Some refusals are the kernel's own (mkdir of a
name that it has just looked up): there banger is not asked, and only the errno is checked.
"""
import ctypes
import dataclasses
import errno
import json
import os
import re
import subprocess
import typing

import pytest

from harness import run, until

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
AT_FDCWD = -100
libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old, new, flags):
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@dataclasses.dataclass
class Row:
    do: typing.Union[str, typing.Callable]      # in the mount's directory; $IMG is a root filesystem
    given: str = ''                             # "draft:a image:b" and so on; see prepare()
    errno: str = ''                             # '' for success
    code: str = ''                              # on the wire
    method: str = ''                            # the operation's
    message: str = ''                           # a pattern in the sentence
    where: str = ''                             # the directory that refuses, for its xattr
    kernel: bool = False                        # the kernel refuses without asking
    after: str = ''                             # a shell test of what must be there


def exchange(a, b):
    return lambda: renameat2(a, b, RENAME_EXCHANGE)


def noreplace(a, b):
    return lambda: renameat2(a, b, RENAME_NOREPLACE)


# GNU mv has words of its own for two errno of rename(2).
GNU_MV = {'to a subdirectory of itself': 'EINVAL', 'cannot overwrite non-directory': 'EEXIST'}

LONG = 'n' * 128
TOO_LONG = 'n' * 129

DONE = {
    'mkdir registers': Row('mkdir drafts/a', method='image.register',
                           after='[ -d drafts/a ] && [ "$(ls -A drafts/a)" = image.json ]'),
    'mkdir with the longest name': Row(f'mkdir drafts/{LONG}', method='image.register', after=f'[ -d drafts/{LONG} ]'),
    'os.mkdir': Row(lambda: os.mkdir('drafts/a'), method='image.register', after='[ -d drafts/a ]'),
    'a draft and an image of one name': Row('mkdir drafts/a', 'image:a', method='image.register',
                                            after='[ -d drafts/a ] && [ -d images/a ]'),
    'cp into a draft': Row('cp "$IMG" drafts/a/rootfs.ext4', 'empty:a', after='cmp "$IMG" drafts/a/rootfs.ext4'),
    'rsync, temporary file and rename': Row('rsync -a "$IMG" drafts/a/rootfs.ext4',
                                            'empty:a', after='cmp "$IMG" drafts/a/rootfs.ext4'),
    'cp -r derives': Row('cp -r images/a drafts/b', 'image:a', after='cmp images/a/rootfs.ext4 drafts/b/rootfs.ext4'),
    'tar out of an image into a draft': Row('tar -C images/a -c --exclude=image.json . | tar -C drafts/b --no-overwrite-dir -x',
                                            'image:a empty:b', after='cmp images/a/rootfs.ext4 drafts/b/rootfs.ext4'),
    'rm of a file in a draft': Row('rm drafts/a/rootfs.ext4', 'draft:a', after='[ ! -e drafts/a/rootfs.ext4 ]'),
    'mv in a draft': Row('mv drafts/a/rootfs.ext4 drafts/a/other', 'draft:a',
                         after='[ -f drafts/a/other ] && [ ! -e drafts/a/rootfs.ext4 ]'),
    'ln -s by reference': Row('ln -s "$IMG" drafts/a/rootfs.ext4', 'empty:a', after='[ "$(readlink drafts/a/rootfs.ext4)" = "$IMG" ]'),
    'mv promotes': Row('mv drafts/a images/a', 'draft:a', method='image.promote',
                       after='[ ! -e drafts/a ] && cmp "$IMG" images/a/rootfs.ext4 && [ -e rootfs/a/etc/os-release ]'),
    'mv promotes under another name': Row('mv drafts/a images/b', 'draft:a', method='image.promote',
                                          after='[ ! -e drafts/a ] && [ -d images/b ]'),
    'mv into images/ promotes': Row('mv drafts/a images/', 'draft:a', method='image.promote', after='[ -d images/a ]'),
    'mv -T promotes': Row('mv -T drafts/a images/a', 'draft:a', method='image.promote', after='[ -d images/a ]'),
    'os.rename promotes': Row(lambda: os.rename('drafts/a', 'images/a'), 'draft:a', method='image.promote',
                              after='[ -d images/a ]'),
    'RENAME_NOREPLACE promotes': Row(noreplace('drafts/a', 'images/a'), 'draft:a', method='image.promote',
                                     after='[ -d images/a ]'),
    'promotion copies a reference in': Row('ln -s "$IMG" drafts/a/rootfs.ext4 && mv drafts/a images/a', 'empty:a',
                                           method='image.promote',
                                           after='[ ! -L images/a/rootfs.ext4 ] && cmp "$IMG" images/a/rootfs.ext4'),
    'other files are published too': Row('echo hello > drafts/a/SBOM && mv drafts/a images/a', 'draft:a', method='image.promote',
                                         after='[ "$(cat images/a/SBOM)" = hello ]'),
    'mv renames a draft': Row('mv drafts/a drafts/b', 'draft:a', method='image.rename',
                              after='[ ! -e drafts/a ] && cmp "$IMG" drafts/b/rootfs.ext4'),
    'mv renames an image': Row('mv images/a images/b', 'image:a', method='image.rename',
                               after='[ ! -e images/a ] && [ -d images/b ] && [ -d rootfs/b/etc ] && [ ! -e rootfs/a ]'),
    'mv -T renames an image': Row('mv -T images/a images/b', 'image:a', method='image.rename', after='[ -d images/b ]'),
    'RENAME_NOREPLACE renames': Row(noreplace('images/a', 'images/b'), 'image:a', method='image.rename', after='[ -d images/b ]'),
    'rename to itself': Row(lambda: os.rename('images/a', 'images/a'), 'image:a', after='[ -d images/a ]'),
    'RENAME_EXCHANGE of images': Row(exchange('images/a', 'images/b'), 'image:a other:b', method='image.swap',
                                     after='grep -q other rootfs/a/etc/hostname && grep -q small rootfs/b/etc/hostname'),
    'RENAME_EXCHANGE of drafts': Row(exchange('drafts/a', 'drafts/b'), 'draft:a empty:b', method='image.swap',
                                     after='[ -e drafts/b/rootfs.ext4 ] && [ ! -e drafts/a/rootfs.ext4 ]'),
    'rmdir deletes an image': Row('rmdir images/a', 'image:a', method='image.delete',
                                  after='[ ! -e images/a ] && [ ! -e rootfs/a ] && [ -z "$(ls by-id)" ]'),
    'rmdir deletes a draft': Row('rmdir drafts/a', 'draft:a', method='image.delete', after='[ ! -e drafts/a ]'),
    'os.rmdir': Row(lambda: os.rmdir('images/a'), 'image:a', method='image.delete', after='[ ! -e images/a ]'),
    'rm -r of a draft': Row('rm -r drafts/a', 'draft:a', method='image.delete', after='[ ! -e drafts/a ]'),
}

REFUSED = {
    # mkdir
    'mkdir of a draft that is there': Row('mkdir drafts/a', 'draft:a', 'EEXIST', kernel=True),
    'mkdir with a bad name': Row('mkdir drafts/.a', errno='EINVAL', code='bad_request', method='image.register',
                                 message='"\\.a"', where='drafts'),
    'mkdir with a space': Row('mkdir "drafts/a b"', errno='EINVAL', code='bad_request', method='image.register',
                              message='"a b"', where='drafts'),
    'mkdir with a name that is not UTF-8': Row(lambda: os.mkdir(b'drafts/a\xff'), errno='EINVAL', code='bad_request',
                                               method='image.register', where='drafts'),
    'mkdir with a long name': Row(f'mkdir drafts/{TOO_LONG}', errno='ENAMETOOLONG', code='name_too_long',
                                  method='image.register', message='128', where='drafts'),
    # promotion
    'mv onto an image that is there': Row('mv drafts/a images/a', 'draft:a image:a', 'EEXIST', 'exists',
                                          message='images/a', where='images/a'),
    'mv -T onto an image that is there': Row('mv -T drafts/a images/a', 'draft:a image:a', 'EEXIST', 'exists', 'image.promote',
                                             '"a" is taken', 'images'),
    'os.rename onto an image that is there': Row(lambda: os.rename('drafts/a', 'images/b'), 'draft:a image:b', 'EEXIST',
                                                 'exists', 'image.promote', '"b" is taken', 'images'),
    'RENAME_NOREPLACE onto an image that is there': Row(noreplace('drafts/a', 'images/a'), 'draft:a image:a', 'EEXIST', kernel=True),
    'promotion of an empty draft': Row('mv drafts/a images/a', 'empty:a', 'ENODATA', 'incomplete', 'image.promote',
                                       'rootfs.ext4', 'images'),
    'promotion of what is no filesystem': Row('mv drafts/a images/a', 'broken:a', 'EUCLEAN', 'corrupt', 'image.promote',
                                              'rootfs.ext4', 'images'),
    'promotion of a cut-off filesystem': Row('mv drafts/a images/a', 'cut:a', 'EUCLEAN', 'corrupt', 'image.promote',
                                             'rootfs.ext4', 'images'),
    'promotion with a bad name': Row('mv drafts/a images/.a', 'draft:a', 'EINVAL', 'bad_request', 'image.promote', '"\\.a"', 'images'),
    'promotion with a long name': Row(f'mv drafts/a images/{TOO_LONG}', 'draft:a', 'ENAMETOOLONG', 'name_too_long',
                                      'image.promote', '128', 'images'),
    'promotion of a dangling reference': Row('mv drafts/a images/a', 'dangling:a', 'ENODATA', 'incomplete', 'image.promote',
                                             'rootfs.ext4', 'images'),
    # references
    'a relative reference': Row('ln -s ../x drafts/a/rootfs.ext4', 'empty:a', 'EINVAL', 'bad_request', message='absolute',
                                where='drafts/a'),
    # rename
    'mv of an image onto another': Row('mv -T images/a images/b', 'image:a other:b', 'EEXIST', 'exists', 'image.rename',
                                       '"b" is taken', 'images'),
    'mv of an image into another': Row('mv images/a images/b', 'image:a other:b', 'EEXIST', 'exists', where='images/b'),
    'mv of a draft onto another': Row('mv -T drafts/a drafts/b', 'draft:a empty:b', 'EEXIST', 'exists', 'image.rename',
                                      '"b" is taken', 'drafts'),
    'rename to a bad name': Row('mv images/a images/-a', 'image:a', 'EINVAL', 'bad_request', 'image.rename', '"-a"', 'images'),
    'rename to a long name': Row(f'mv images/a images/{TOO_LONG}', 'image:a', 'ENAMETOOLONG', 'name_too_long', 'image.rename',
                                 '128', 'images'),
    # exchange
    'exchange of an image and a draft': Row(exchange('images/a', 'drafts/b'), 'image:a draft:b', 'EINVAL', 'bad_request',
                                            where='images'),
    'exchange of a directory and a file': Row(exchange('images/a', 'drafts/b/rootfs.ext4'), 'image:a draft:b', 'EINVAL', 'bad_request'),
    'another rename flag': Row(lambda: renameat2('drafts/a', 'images/a', RENAME_WHITEOUT), 'draft:a', 'EINVAL', 'bad_request'),
    # what is published does not change
    'create in an image': Row('touch images/a/x', 'image:a', 'EROFS', 'immutable', where='images/a', message='"a"|images/a'),
    'write to a published file': Row('echo x >> images/a/rootfs.ext4', 'image:a', 'EROFS', 'immutable', where='images/a'),
    'truncate a published file': Row('truncate -s 0 images/a/rootfs.ext4', 'image:a', 'EROFS', 'immutable', where='images/a'),
    'write image.json of an image': Row('echo {} > images/a/image.json', 'image:a', 'EROFS', 'immutable', where='images/a'),
    'rm of a published file': Row('rm -f images/a/rootfs.ext4', 'image:a', 'EROFS', 'immutable', where='images/a'),
    'rm -r of an image': Row('rm -rf images/a', 'image:a', 'EROFS', 'immutable', where='images/a'),
    'chmod of a published file': Row('chmod u+w images/a/rootfs.ext4', 'image:a', 'EROFS', 'immutable', where='images/a'),
    'chown of an image': Row('chown 1 images/a', 'image:a', 'EROFS', 'immutable', where='images/a'),
    'touch of a published file': Row('touch images/a/rootfs.ext4', 'image:a', 'EROFS', 'immutable', where='images/a'),
    'mv inside an image': Row('mv images/a/rootfs.ext4 images/a/x', 'image:a', 'EROFS', 'immutable', where='images/a'),
    'mv out of an image': Row('mv images/a/rootfs.ext4 drafts/b/', 'image:a empty:b', 'EROFS', 'immutable'),
    'ln -s in an image': Row('ln -s /x images/a/x', 'image:a', 'EROFS', 'immutable', where='images/a'),
    'mkdir in an image': Row('mkdir images/a/x', 'image:a', 'EROFS', 'immutable', where='images/a'),
    'setfattr on an image': Row('setfattr -n user.x -v y images/a', 'image:a', 'EROFS', 'immutable', where='images/a'),
    # anywhere else
    'mkdir in images/': Row('mkdir images/x', errno='EPERM', code='not_permitted', where='images'),
    'mkdir in the root': Row('mkdir x', errno='EPERM', code='not_permitted', where='.'),
    'mkdir in kernels/': Row('mkdir kernels/x', errno='EPERM', code='not_permitted', where='kernels'),
    'mkdir in vms/': Row('mkdir vms/x', errno='EPERM', code='not_permitted', where='vms'),
    'mkdir in ops/': Row('mkdir ops/x', errno='EPERM', code='not_permitted', where='ops'),
    'mkdir in by-id/': Row('mkdir by-id/x', errno='EPERM', code='not_permitted', where='by-id'),
    'mkdir in a draft': Row('mkdir drafts/a/x', 'draft:a', 'EPERM', 'not_permitted', where='drafts/a'),
    'mkfifo in a draft': Row('mkfifo drafts/a/x', 'draft:a', 'EPERM', 'not_permitted', where='drafts/a'),
    'hard link in a draft': Row('ln drafts/a/rootfs.ext4 drafts/a/x', 'draft:a', 'EPERM', 'not_permitted', where='drafts/a'),
    'create in the root': Row('touch x', errno='EPERM', code='not_permitted', where='.'),
    'create in drafts/': Row('touch drafts/x', errno='EPERM', code='not_permitted', where='drafts'),
    'create in images/': Row('touch images/x', errno='EPERM', code='not_permitted', where='images'),
    'ln -s in by-id/': Row('ln -s ../images/a by-id/x', 'image:a', 'EPERM', 'not_permitted', where='by-id'),
    'rm of last-error': Row('rm -f last-error', errno='EPERM', code='not_permitted', where='.'),
    'rm of a by-id link': Row('rm -f by-id/*', 'image:a', 'EPERM', 'not_permitted', where='by-id'),
    'rmdir of images/': Row('rmdir images', errno='EPERM', code='not_permitted', where='.'),
    'mv of an image to drafts/': Row('mv images/a drafts/b', 'image:a', 'EPERM', 'not_permitted'),
    'mv of an image to kernels/': Row('mv images/a kernels/a', 'image:a', 'EPERM', 'not_permitted'),
    'mv of a draft to the root': Row('mv drafts/a x', 'draft:a', 'EPERM', 'not_permitted'),
    'mv of drafts/ itself': Row('mv drafts elsewhere', errno='EPERM', code='not_permitted', where='.'),
    # names that are not there: the kernel knows from its lookup
    'rmdir of nothing': Row('rmdir images/a', errno='ENOENT', kernel=True),
    'mv of nothing': Row('mv drafts/a images/a', errno='ENOENT', kernel=True),
    # rootfs/ is read-only as a filesystem
    'write in a root filesystem': Row('touch rootfs/a/etc/x', 'image:a', 'EROFS', kernel=True),
    'rm in a root filesystem': Row('rm -f rootfs/a/etc/hostname', 'image:a', 'EROFS', kernel=True),
}


@pytest.fixture
def prepare(mnt, ext4, published):
    """prepare("draft:a image:b"): puts there what a row needs, by other doors than the one under test."""
    def make(given):
        for word in given.split():
            kind, name = word.split(':')
            if kind in ('image', 'other'):
                published(name, 'other' if kind == 'other' else 'small')
                continue
            mnt.banger.call('image.register', {'name': name})
            until((mnt / 'drafts' / name).is_dir, 'the draft to show', 5)
            file = mnt / 'drafts' / name / 'rootfs.ext4'
            if kind == 'draft':
                run('cp', ext4(), file)
            elif kind == 'broken':
                file.write_bytes(b'not a filesystem' * 4096)
            elif kind == 'cut':
                file.write_bytes(ext4().read_bytes()[:1 << 20])
            elif kind == 'dangling':
                file.symlink_to('/nonexistent/rootfs.ext4')
    return make


def perform(row, mnt, ext4):
    """Do it. The errno's name and the tool's words, ('', '') when it succeeded."""
    if isinstance(row.do, str):
        done = subprocess.run(['bash', '-c', 'set -o pipefail; ' + row.do], cwd=mnt.path, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=60,
                              env={**os.environ, 'LC_ALL': 'C', 'IMG': str(ext4())})
        if done.returncode == 0:
            return '', ''
        for words, name in [*((os.strerror(n), name) for n, name in errno.errorcode.items()), *GNU_MV.items()]:
            if words in done.stderr:
                return name, done.stderr
        return f'exit {done.returncode}', done.stderr
    here = os.getcwd()
    os.chdir(mnt.path)
    try:
        row.do()
        return '', ''
    except OSError as error:
        return errno.errorcode[error.errno], str(error)
    finally:
        os.chdir(here)


def check_after(row, mnt, ext4):
    if row.after:
        run('bash', '-c', row.after, cwd=mnt.path, env={**os.environ, 'IMG': str(ext4())})


@pytest.mark.parametrize('name', DONE)
def test_done(name, mnt, prepare, ext4, banger):
    row = DONE[name]
    prepare(row.given)
    since = {o['op_id'] for o in banger.call('op.ls')['ops']}
    assert perform(row, mnt, ext4) == ('', '')
    check_after(row, mnt, ext4)
    banger.assert_consistent()
    if not row.method:
        return
    # The operation, as everybody who must know of it has it.
    [op] = [o for o in banger.call('op.ls')['ops'] if o['method'] == row.method and o['op_id'] not in since]
    assert op['outcome'] == 'completed' and op['elapsed_ms'] >= 0
    assert op['actor']['door'] == 'fs' and op['actor']['uid'] == os.getuid()
    until(lambda: mnt.records(op['op_id']), 'the operation in the log of bangerfs')
    messages = [r['msg'] for r in banger.records(op['op_id'])]
    assert messages[0] == 'operation started' and messages[-1] == 'operation completed'
    until((mnt / 'ops' / op['op_id']).exists, 'the record in ops/', 2)
    # The store's record is written with the change itself, so its time is a little shorter than the whole.
    whole = json.loads((mnt / 'ops' / op['op_id']).read_text())
    assert whole['elapsed_ms'] >= op['elapsed_ms'] and {**whole, 'elapsed_ms': 0} == {**op, 'elapsed_ms': 0}
    if row.method != 'image.delete':
        # registration, promotion: the image itself says which operation made it what it is
        images = [i for i in banger.images().values() if i['generation'] == banger.call('status')['generation']]
        for image in images:
            folder = {'draft': 'drafts', 'published': 'images'}[image['state']] + '/' + image['name']
            assert mnt.xattr(folder, 'id') == image['id']
            assert mnt.xattr(folder, 'op_id') == image['op_id']
            assert mnt.xattr(folder, 'state') == image['state']
            assert mnt.xattr(folder, 'generation') == str(image['generation'])
            if row.method in ('image.register', 'image.promote'):
                assert image['op_id'] == op['op_id']


@pytest.mark.parametrize('name', REFUSED)
def test_refused(name, mnt, prepare, ext4, banger):
    row = REFUSED[name]
    prepare(row.given)
    images = banger.images()
    got, words = perform(row, mnt, ext4)
    assert got == row.errno, words
    assert banger.images() == images
    check_after(row, mnt, ext4)
    if row.kernel:
        return

    line = mnt.last_error()
    match = re.fullmatch(r'(.+) \((op-[0-9a-f]{12})\)', line)
    assert match, line
    message, op_id = match.groups()
    assert not row.message or re.search(row.message, message), message
    assert mnt.xattr('.', 'last_error') == line
    if row.where:
        assert mnt.xattr(row.where, 'last_error') == line

    failed = until(lambda: [r for r in mnt.records(op_id) if 'error' in r], 'the refusal in the log of bangerfs')
    assert failed[-1]['code'] == row.code and failed[-1]['error'] == message
    failed = until(lambda: [r for r in banger.records(op_id) if r['msg'] == 'operation failed'],
                   'the refusal in the log of bangerd')
    assert failed[-1]['code'] == row.code and failed[-1]['error'] == message and failed[-1]['elapsed_ms'] >= 0

    op = banger.op(op_id)
    assert (op['outcome'], op['code'], op['message']) == ('failed', row.code, message)
    assert not row.method or op['method'] == row.method
    assert op['actor']['door'] == 'fs' and op['actor']['uid'] == os.getuid() and op['actor']['program']
    until((mnt / 'ops' / op_id).exists, 'the record in ops/', 2)
    assert json.loads((mnt / 'ops' / op_id).read_text()) == op
    shown = banger.ctl('op', 'show', op_id)
    assert op_id in shown.out and message in shown.out
    assert op_id in banger.ctl('op', 'ls', '--failed').out
    assert banger.ctl('--json', 'op', 'show', op_id).json['op'] == op
    assert op_id in banger.ctl('op', 'log', op_id).out
    banger.assert_consistent()


def test_away(mnt, published, prepare, ext4):
    """While bangerd is away every change is refused at once with EHOSTDOWN, and what is published is there."""
    prepare('image:a draft:b')
    os.listdir(mnt / 'rootfs/a/etc')
    mnt.banger.kill()
    for do in ('mkdir drafts/c', 'mv drafts/b images/b', 'mv images/a images/c', 'rmdir images/a', 'rmdir drafts/b',
               'rm -f drafts/b/rootfs.ext4', 'touch drafts/b/x', 'ln -s /x drafts/b/y'):
        got, words = perform(Row(do), mnt, ext4)
        assert got == 'EHOSTDOWN', (do, words)
        line = mnt.last_error()
        match = re.fullmatch(r'.+ \((op-[0-9a-f]{12})\)', line)
        assert match, line
        assert until(lambda: mnt.records(match.group(1)), 'the refusal in the log of bangerfs')
        assert mnt.xattr('.', 'last_error') == line
    run('cmp', ext4(), mnt / 'images/a/rootfs.ext4')
    assert 'banger test' in (mnt / 'rootfs/a/etc/os-release').read_text()
    assert os.listdir(mnt / 'images') == ['a']


def test_one_line_for_each_uid(mnt, banger):
    """last-error is the calling uid's; another one's failures do not show."""
    run('mkdir', mnt / 'images/x', check=False)
    mine = mnt.last_error()
    assert mine
    other = run('setpriv', '--reuid=12345', '--regid=12345', '--clear-groups', 'cat', mnt / 'last-error', check=False)
    # Without allow_other the kernel keeps others out of the mount altogether.
    assert other.code != 0 and 'Permission denied' in other.err
    assert mnt.last_error() == mine
