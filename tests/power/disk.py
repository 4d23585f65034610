"""The recorded disk, and the states in which a power cut can leave it.

What a disk may do with writes that were not flushed: keep some, lose others, in any order,
and tear one at a sector's border. So a crash state at entry `at` of the log is: everything up
to the last flush before it, and of the writes since then a random half, one in ten of them
torn.
"""

import os
import random
import shutil
import struct
import subprocess
import time
from pathlib import Path

ENTRY = struct.Struct("<cQIId")
SIZE = 48 << 20


def run(*command, **more):
    done = subprocess.run([str(c) for c in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stdout}")
    return done.stdout.strip()


def wait_until(what, ready, seconds=20):
    end = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds} s for {what}")
        time.sleep(0.02)
    return found


class RecordedDisk:
    """An ext4 file system at `mount`, each of whose writes and flushes is in a log."""

    def __init__(self, work: Path, mount: Path):
        self.work, self.mount = work, mount
        self.image, self.base, self.log = work / "disk.raw", work / "disk.base", work / "disk.log"
        with open(self.image, "wb") as f:
            f.truncate(SIZE)
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)
        copy_sparse(self.image, self.base)
        plugin = Path(__file__).with_name("recording_disk.py")
        self.server = subprocess.Popen(["nbdkit", "-f", "-U", work / "nbd", "python", plugin, f"file={self.image}", f"wlog={self.log}"])
        wait_until("nbdkit", (work / "nbd").exists)
        self.shown = work / "shown"
        self.shown.write_bytes(b"")
        self.fuse = subprocess.Popen(["nbdfuse", self.shown, "--unix", work / "nbd"])
        wait_until("nbdfuse", lambda: self.shown.stat().st_size == SIZE)
        self.loop = run("losetup", "-f", "--show", self.shown)
        mount.mkdir()
        run("mount", "-o", "noatime", self.loop, mount)

    def close(self):
        """In this order: whoever holds the one before goes first."""
        for command in (["umount", self.mount], ["losetup", "-d", self.loop], ["fusermount3", "-u", self.shown]):
            wait_until(command[0], lambda: subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0)
        self.fuse.wait()
        self.server.terminate()
        self.server.wait()


class Log:
    """The entries of a recording, and the states between them."""

    def __init__(self, base: Path, log: Path, dice: random.Random):
        self.dice, self.rolling = dice, base.with_name("rolling.raw")
        copy_sparse(base, self.rolling)
        self.data = log.read_bytes()
        self.entries, at = [], 0
        while at + ENTRY.size <= len(self.data):
            kind, offset, length, zeroed, when = ENTRY.unpack_from(self.data, at)
            at += ENTRY.size
            self.entries.append((kind, offset, at, length, zeroed, when))
            at += length
        self.done = 0

    def time(self, at):
        """Of the entry before `at`: what was promised by then has to hold."""
        return self.entries[at - 1][5]

    def state(self, at, image: Path):
        """Makes `image` a disk whose power went just before entry `at`. `at` may only grow."""
        flushed = max((i for i in range(self.done, at) if self.entries[i][0] == b"F"), default=self.done)
        with open(self.rolling, "r+b") as f:
            for entry in self.entries[self.done : flushed]:
                self._apply(f, entry)
        self.done = flushed
        copy_sparse(self.rolling, image)
        with open(image, "r+b") as f:
            for entry in self.entries[flushed:at]:
                if self.dice.random() < 0.5:
                    self._apply(f, entry, torn=self.dice.random() < 0.1)

    def _apply(self, f, entry, torn=False):
        kind, offset, begin, length, zeroed, _ = entry
        if kind == b"F":
            return
        data = self.data[begin : begin + length] if kind == b"W" else bytes(zeroed)
        if torn:
            data = data[: 512 * self.dice.randrange(0, len(data) // 512 + 1)]
        f.seek(offset)
        f.write(data)


class Mounted:
    """A crash state as the next boot would see it: ext4 replays its journal on mounting."""

    def __init__(self, image: Path, mount: Path):
        self.image, self.mount = image, mount

    def __enter__(self):
        run("mount", "-o", "loop,noatime", self.image, self.mount)
        return self.mount

    def __exit__(self, *_):
        wait_until("umount", lambda: subprocess.run(["umount", self.mount], stderr=subprocess.DEVNULL).returncode == 0)


def copy_sparse(source: Path, target: Path):
    """Only what is written takes time."""
    with open(source, "rb") as a, open(target, "wb") as b:
        size, at = os.fstat(a.fileno()).st_size, 0
        b.truncate(size)
        while at < size:
            try:
                at = os.lseek(a.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(a.fileno(), at, os.SEEK_HOLE)
            while at < end:
                at += os.copy_file_range(a.fileno(), b.fileno(), end - at, at, at)


def clean(work: Path):
    shutil.rmtree(work, ignore_errors=True)
