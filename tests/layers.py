#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Layers include downward only.

The list of layers is read from daemon/ARCHITECTURE.md, section "Layers", so that the document and the
check cannot disagree: folders on one line of its table are peers and do not know each other; a folder
may include from itself and from every line above its own. fs/, ctl/, daemon/agent and daemon/helper see
include/banger alone. The same holds for what meson.build files link: a variable that a folder's meson.build defines may
be used only in folders above it.

    layers.py SOURCE_ROOT        exit 1 and one line for each wrong include or link
"""
import pathlib
import re
import sys

ROOT_LAYER = 'include/banger'
BASE = 'daemon/base'
# Programs of their own: they link daemon/base and include nothing of the daemon but include/banger.
OUTSIDE = ('fs', 'ctl', 'daemon/agent', 'daemon/helper')

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
DEFINES = re.compile(r'^\s*(\w+)\s*=\s*(?:static_library|shared_library|declare_dependency|executable|'
                     r'include_directories)\s*\(', re.M)


def read_layers(root):
    """{folder: rank}, rank 0 the lowest. Peers have equal ranks."""
    text = (root / 'daemon/ARCHITECTURE.md').read_text()
    section = text.split('\n## Layers\n', 1)[1].split('\n## ', 1)[0]
    ranks = {}
    rank = 0
    for line in section.splitlines():
        if not line.startswith('    '):
            continue
        folders = re.findall(r'\b(include/banger|daemon/\w+)\b', line)
        for folder in folders:
            ranks[folder] = rank
        rank += bool(folders)
    if ROOT_LAYER not in ranks or BASE not in ranks:
        raise SystemExit('layers: daemon/ARCHITECTURE.md lists no layers')
    return ranks


def folder_of(path, ranks):
    """The layer (or outside program) that a path relative to the root belongs to, or None."""
    text = path.as_posix()
    for folder in (*OUTSIDE, *ranks):
        if text.startswith(folder + '/'):
            return folder
    return None


def resolve(root, source, name):
    """The file of the tree that #include "name" in source means, relative to the root, or None."""
    for base in (source.parent, root / source.relative_to(root).parts[0]):
        candidate = (base / name).resolve()
        if candidate.is_file() and root in candidate.parents:
            return candidate.relative_to(root)
    return None


def allowed(user, used, ranks):
    """May `user` (a folder) include from `used`?"""
    if used == user or used == ROOT_LAYER:
        return True
    if user in OUTSIDE or used in OUTSIDE:
        return False
    return ranks[used] < ranks[user]


def check_includes(root, ranks):
    for source in sorted([*root.glob('include/**/*.[ch]'), *root.glob('daemon/**/*.[ch]'),
                          *root.glob('fs/**/*.[ch]'), *root.glob('ctl/**/*.[ch]')]):
        relative = source.relative_to(root)
        folder = folder_of(relative, ranks)
        if folder is None:
            yield f'{relative}: in no layer of daemon/ARCHITECTURE.md'
            continue
        text = source.read_text(errors='replace')
        for match in INCLUDE.finditer(text):
            quote, name = match.groups()
            line = text.count('\n', 0, match.start(2)) + 1
            if quote == '<':
                if name.startswith('banger/') and not (root / 'include' / name).is_file():
                    yield f'{relative}:{line}: <{name}> is not in include/banger'
                continue
            target = resolve(root, source, name)
            if target is None:
                yield f'{relative}:{line}: "{name}" is no file of the tree'
                continue
            used = folder_of(target, ranks)
            if used is None or not allowed(folder, used, ranks):
                yield f'{relative}:{line}: {folder} may not include {target}'


def check_links(root, ranks):
    """A variable defined by a layer's meson.build is used in higher layers only."""
    owner = {}
    files = [f for d in ('daemon', 'fs', 'ctl') for f in sorted(root.glob(f'{d}/**/meson.build'))]
    for file in files:
        folder = folder_of(file.relative_to(root), ranks)
        for name in DEFINES.findall(file.read_text()):
            # daemon/meson.build itself defines the base library and the daemon's include path.
            owner.setdefault(name, folder or (BASE if name.startswith('base') else 'daemon'))
    for file in files:
        relative = file.relative_to(root)
        folder = folder_of(relative, ranks)
        if folder is None:
            continue
        text = re.sub(r"#.*|'[^'\n]*'", '', file.read_text())
        for name in sorted(set(re.findall(r'\b[A-Za-z_]\w*\b', text)) & set(owner)):
            used = owner[name]
            if used == folder or used == BASE:
                continue
            if used == 'daemon':
                if folder in OUTSIDE:
                    yield f'{relative}: {folder} may not see the insides of the daemon ({name})'
            elif not allowed(folder, used, ranks):
                yield f'{relative}: {folder} may not link {name} of {used}'


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else '.').resolve()
    ranks = read_layers(root)
    wrong = [*check_includes(root, ranks), *check_links(root, ranks)]
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


if __name__ == '__main__':
    main()
