# SPDX-License-Identifier: Apache-2.0
"""meson install puts things where a distribution expects them, and they work from there."""
import os
import pathlib
import shutil
import subprocess

import pytest

import harness
from harness import run


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """DESTDIR, and the prefix inside it."""
    if not (harness.BUILD / 'build.ninja').exists():
        pytest.skip('BANGER_BUILD is no build directory')
    destdir = tmp_path_factory.mktemp('destdir')
    run('meson', 'install', '-C', harness.BUILD, '--no-rebuild', '--destdir', destdir, timeout=120)
    prefix = run('meson', 'introspect', harness.BUILD, '--buildoptions').json
    prefix = next(o['value'] for o in prefix if o['name'] == 'prefix')
    return destdir / prefix.lstrip('/')


def files(prefix):
    return {str(p.relative_to(prefix)) for p in prefix.rglob('*') if not p.is_dir()}


def test_places(installed):
    found = files(installed)
    for name in ('bin/bangerd', 'bin/bangerfs', 'bin/banger-ctl', 'sbin/banger-helper', 'include/banger/wire.h', 'include/banger/error.h',
                 'share/doc/banger/README.md', 'share/doc/banger/LICENSE'):
        assert name in found, f'{name} is not in {sorted(found)}'
    assert {'share/man/man1/banger-ctl.1', 'share/man/man1/banger-ctl.1.gz'} & found
    assert 'share/bash-completion/completions/banger-ctl' in found
    for name in ('banger-unpack', 'banger-agent'):
        assert f'libexec/banger/{name}' in found, f'{name} is not in libexec/banger'
    # Nothing of the tests, and no fault points, in an ordinary place.
    assert not [n for n in found if 'test' in n or 'fuzz' in n or 'replay' in n or 'bench' in n]
    assert 'include/banger/fault.h' not in found


def test_modes(installed):
    for path in installed.rglob('*'):
        mode = path.lstat().st_mode & 0o7777
        if path.is_symlink():
            continue
        want = (0o755,) if path.is_dir() or 'bin/' in str(path) or 'libexec/' in str(path) else (0o644,)
        assert mode in want, f'{path}: {mode:o}'


def test_headers_stand_alone(installed, tmp_path):
    """Each installed header compiles by itself, with nothing but what is installed."""
    cflags = run('pkg-config', '--cflags', 'json-c').out.split()
    for header in sorted((installed / 'include/banger').glob('*.h')):
        source = tmp_path / f'{header.stem}.c'
        source.write_text(f'#include <banger/{header.name}>\nint main(void)\n{{\n\treturn 0;\n}}\n')
        run('gcc', '-std=gnu17', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Wno-sign-compare', '-fsyntax-only',
            f'-I{installed / "include"}', *cflags, source)


def test_they_run_from_there(installed, base):
    """Started by name, from a prefix, without the build tree's help."""
    env = {'PATH': f'{installed}/bin:{os.environ["PATH"]}', 'HOME': str(base), 'BANGER_STATE_DIR': str(base / 'state'),
           'BANGER_RUNTIME_DIR': str(base / 'run'), 'LC_ALL': 'C.UTF-8', 'BANGER_LIBEXEC_DIR': str(installed / 'libexec/banger')}
    for program in ('bangerd', 'bangerfs', 'banger-ctl'):
        assert '0.1.0' in run(program, '--version', env=env).out
        assert 'sage' in run(program, '--help', env=env).out
    with open(base / 'log', 'wb') as log:
        daemon = subprocess.Popen(['bangerd'], env=env, stderr=log, stdin=subprocess.DEVNULL)
    try:
        harness.until(lambda: run('banger-ctl', 'ping', check=False, env=env).code == 0, 'bangerd')
        run('banger-ctl', 'image', 'register', 'a', env=env)
        assert 'a' in run('banger-ctl', 'image', 'ls', env=env).out
    finally:
        daemon.terminate()
        assert daemon.wait(20) == 0


def test_man_page(installed):
    """It is a manual page, which man can render where there is a man."""
    [page] = (installed / 'share/man/man1').glob('banger-ctl.1*')
    assert pathlib.Path(page).read_text().count('.SH') >= 4
    if shutil.which('man'):
        assert 'banger-ctl' in run('man', '-l', page, env={**os.environ, 'MANPAGER': 'cat', 'MANWIDTH': '80'}).out
