# SPDX-License-Identifier: Apache-2.0
"""One racing process of test_race.py, run as a program.

    racer.py DOOR SEED SECONDS IMAGE NAMES     DOOR: a mount, or the banger-ctl to run

Does random changes over the names until the time is up, by the mount's system calls or by banger-ctl, and
prints one JSON line for each: {"pid", "change", "names", "error"}. pid is the process that asked: this
one, or the banger-ctl that it ran.
"""
import ctypes
import errno
import json
import os
import random
import re
import subprocess
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)


class Mount:
    """Changes by system calls under the mount."""

    def __init__(self, path, image):
        os.chdir(path)
        self.image = image

    def attempt(self, call, *args):
        try:
            call(*args)
            return os.getpid(), ''
        except OSError as error:
            return os.getpid(), errno.errorcode[error.errno]

    def register(self, name):
        return self.attempt(os.mkdir, f'drafts/{name}')

    def fill(self, name):
        return self.attempt(os.symlink, self.image, f'drafts/{name}/rootfs.ext4')

    def promote(self, draft, name):
        return self.attempt(os.rename, f'drafts/{draft}', f'images/{name}')

    def rename(self, folder, old, new):
        return self.attempt(os.rename, f'{folder}/{old}', f'{folder}/{new}')

    def swap(self, folder, a, b):
        def exchange():
            if libc.renameat2(-100, f'{folder}/{a}'.encode(), -100, f'{folder}/{b}'.encode(), 2) < 0:
                raise OSError(ctypes.get_errno(), 'renameat2')
        return self.attempt(exchange)

    def delete(self, folder, name):
        return self.attempt(os.rmdir, f'{folder}/{name}')


class Ctl:
    """The same by the command line. Its refusals are known by their message."""

    MESSAGES = (('is taken', 'EEXIST'), ('not found', 'ENOENT'), ('has no rootfs.ext4', 'ENODATA'), ('is being', 'EBUSY'),
                ('are being changed', 'EBUSY'), ('was changed while', 'EBUSY'), ('open for writing', 'EBUSY'))

    def __init__(self, program, image):
        self.program, self.image = program, image

    def run(self, *args):
        process = subprocess.Popen([self.program, *args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        words = process.communicate()[1]
        if process.returncode == 0:
            return process.pid, ''
        assert process.returncode == 1 and re.search(r'\(op-[0-9a-f]{12}\)$', words.strip()), words
        return process.pid, next((name for text, name in self.MESSAGES if text in words), words.strip())

    def register(self, name):
        return self.run('image', 'register', name)

    def fill(self, name):
        return os.getpid(), 'EEXIST'

    def promote(self, draft, name):
        return self.run('image', 'promote', f'drafts/{draft}', name)

    def rename(self, folder, old, new):
        return self.run('image', 'rename', f'{folder}/{old}', new)

    def swap(self, folder, a, b):
        return self.run('image', 'swap', f'{folder}/{a}', f'{folder}/{b}')

    def delete(self, folder, name):
        return self.run('image', 'rm', f'{folder}/{name}')


def main():
    door, seed, seconds, image, names = sys.argv[1:]
    dice, names = random.Random(int(seed)), names.split(',')
    world = Mount(door, image) if os.path.isdir(door) else Ctl(door, image)
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        a, b = dice.sample(names, 2)
        folder = dice.choice(('images', 'drafts'))
        change, args = dice.choice((('register', (a,)), ('register', (a,)), ('fill', (a,)), ('fill', (a,)), ('promote', (a, a)),
                                    ('promote', (a, b)), ('rename', (folder, a, b)), ('swap', (folder, a, b)),
                                    ('delete', (folder, a))))
        pid, error = getattr(world, change)(*args)
        print(json.dumps({'pid': pid, 'change': change, 'names': args, 'error': error}))


if __name__ == '__main__':
    main()
