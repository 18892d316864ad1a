# SPDX-License-Identifier: Apache-2.0
"""What a directory tree holds, in a form that can be compared: facts(path) gives for each name below it type,
mode, owner, size, mtime, link target, device number, extended attributes, content, and which other names are the
same file."""
import hashlib
import os
import stat


def digest(path):
    h = hashlib.sha256()
    with open(path, 'rb') as f:
        while chunk := f.read(1 << 20):
            h.update(chunk)
    return h.hexdigest()


def xattrs(path):
    return {name: os.getxattr(path, name, follow_symlinks=False)
            for name in sorted(os.listxattr(path, follow_symlinks=False))}


def fact(path, nanoseconds=True, content=True):
    st = os.lstat(path)
    kind = stat.S_IFMT(st.st_mode)
    out = {'type': oct(kind), 'mode': oct(stat.S_IMODE(st.st_mode)), 'owner': (st.st_uid, st.st_gid),
           'mtime': st.st_mtime_ns if nanoseconds else st.st_mtime_ns // 1_000_000_000, 'xattrs': xattrs(path)}
    if kind == stat.S_IFREG:
        out['size'] = st.st_size
        out['links'] = st.st_nlink
        if content:
            out['content'] = digest(path) if st.st_size < 1 << 32 else None
    elif kind == stat.S_IFLNK:
        out['target'] = os.readlink(path)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        out['device'] = (os.major(st.st_rdev), os.minor(st.st_rdev))
    elif kind == stat.S_IFDIR:
        out['links'] = st.st_nlink
    return out, (st.st_dev, st.st_ino)


def facts(root, **options):
    """{path relative to root (bytes): facts}; the root itself is b'.'."""
    root = os.fsencode(root)
    found, first = {}, {}
    for folder, dirs, files in os.walk(root):
        for name in [b'.'] if folder == root else []:
            found[name] = fact(folder, **options)[0]
        for name in dirs + files:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, root)
            found[relative], inode = fact(path, **options)
            first.setdefault(inode, []).append(relative)
    for names in first.values():
        if len(names) > 1:
            for name in names:
                found[name]['same'] = sorted(names)
    return found


def difference(a, b, limit=20):
    """Lines that say where two facts() differ; empty when they do not."""
    lines = []
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b:
            lines.append(f'{name!r}: only in the {"second" if name not in a else "first"}')
        elif a[name] != b[name]:
            keys = [k for k in a[name].keys() | b[name].keys() if a[name].get(k) != b[name].get(k)]
            lines += [f'{name!r}: {k}: {a[name].get(k)!r} / {b[name].get(k)!r}' for k in sorted(keys)]
    return lines[:limit]
