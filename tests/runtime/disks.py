"""Disks that fail, that are the last thing a process does, and that forget what was not flushed."""

import errno
import os
import random
import shutil
from pathlib import Path

import numpy as np

from runtime.memory.files import Files

FULL, BROKEN = errno.ENOSPC, errno.EIO


class Killed(BaseException):
    """The process ends here: no handler may go on as if nothing had happened."""


class Disk(Files):
    """Counts file operations, and at a chosen one does something else.

    Flushing takes no time here: whoever is killed keeps what was written, and who loses power has a ``Forgetful`` disk.

    Args:
        number: Which operation; 0 for none.
        way: What happens: ``kill`` before it, ``half`` of it and then kill, ``short`` for a write that takes half and
            goes on, or an errno.
        times: How often in a row an errno comes; a full disk stays full.
    """

    def __init__(self, number=0, way="kill", times=1):
        self.number, self.way, self.times = number, way, times
        self.count = 0
        self.at = ""
        self.names = []
        self.dead = False
        self.acts = {}
        self._handles = set()

    def step(self, name, half=None):
        """Before an operation; True if it is not to be done any more."""
        if self.dead:
            raise Killed
        self.count += 1
        self.names.append(name)
        if act := self.acts.get(self.count):
            act()
        if not self.number <= self.count < self.number + self.times or not self.number:
            return False
        self.at = self.at or name
        if self.way == "short":
            return half is not None and half()
        if isinstance(self.way, int):
            raise OSError(self.way, os.strerror(self.way))
        if self.way == "half" and half is not None:
            half()
        self.die()
        raise Killed

    def die(self):
        self.dead = True
        for handle in self._handles:  # the kernel closes them, and with them the lock
            os.close(handle)
        self._handles.clear()

    def make_folder(self, path):
        self.step("make_folder")
        super().make_folder(path)

    def lock(self, path):
        self.step("lock")
        return self._kept(super().lock(path))

    def read(self, path, limit):
        self.step("read")
        return super().read(path, limit)

    def create(self, path):
        self.step("create")
        return self._kept(super().create(path))

    def open(self, path):
        self.step("open")
        return self._kept(super().open(path))

    def write_some(self, handle, data, offset):
        half = data[: len(data) // 2]
        if self.step("write", lambda: super(Disk, self).write_some(handle, half, offset)):
            return len(half)
        return super().write_some(handle, data, offset)

    def sync(self, handle):
        self.step("sync")

    def rename(self, old, new):
        self.step("rename")
        super().rename(old, new)

    def remove(self, path):
        self.step("remove")
        super().remove(path)

    def remove_tree(self, path):
        inside = sorted(path.rglob("*"), reverse=True) if path.exists() else []
        for one in inside[: len(inside) // 2]:
            if self.step("remove_tree", None) is False and not one.is_dir():
                one.unlink()
        self.step("remove_tree")
        super().remove_tree(path)

    def free_bytes(self, path):
        self.step("free_bytes")
        return super().free_bytes(path)

    def sync_folder(self, path):
        self.step("sync_folder")

    def close(self, handle):
        if handle in self._handles:
            self._handles.discard(handle)
            super().close(handle)

    def map(self, handle, size):
        self.step("map")
        return super().map(handle, size)

    def store(self, cells, values):
        half = len(values) // 2
        self.step("store", lambda: super(Disk, self).store(cells[:half], values[:half]) or True)
        super().store(cells, values)

    def flush(self, memory, begin, end):
        self.step("flush")

    def _kept(self, handle):
        if handle is not None:
            self._handles.add(handle)
        return handle


class Crowded(Disk):
    """A disk that others fill: once it is ``full``, only what was removed makes room."""

    full, room = False, 0

    def write_some(self, handle, data, offset):
        size = os.fstat(handle).st_size
        grows = max(0, offset + len(data) - size)
        if self.full and grows > self.room:
            raise OSError(FULL, os.strerror(FULL))
        self.room = max(0, self.room - grows)
        return super().write_some(handle, data, offset)

    def remove(self, path):
        self._gone(path)
        super().remove(path)

    def rename(self, old, new):
        self._gone(new)
        super().rename(old, new)

    def _gone(self, path):
        if path.exists():
            self.room += path.stat().st_size


class Forgetful(Disk):
    """A disk that loses power: what was not flushed is there, or not, or in part, and names likewise.

    ``cut`` rewrites the directory to one of the contents that it may then have.
    """

    def __init__(self, folder, number=0, seed=0):
        super().__init__(number)
        self.folder = Path(folder)
        self._random = random.Random(seed)
        self._names, self._safe, self._pending = {}, {}, {}
        self._named = []  # renames, creations and removals since the directory was flushed
        self._maps = []
        for path in self.folder.glob("*"):
            inode = path.stat().st_ino
            self._names[path.name], self._safe[inode] = inode, path.read_bytes()

    def create(self, path):
        there = path.exists()
        handle = super().create(path)
        inode = os.fstat(handle).st_ino
        if not there:
            self._named.append((path.name, inode))
            self._safe[inode] = b""
        self._pending.setdefault(inode, []).append((None, b""))  # emptied
        return handle

    def write_some(self, handle, data, offset):
        self._pending.setdefault(os.fstat(handle).st_ino, []).append((offset, bytes(data)))
        return super().write_some(handle, data, offset)

    def sync(self, handle):
        super().sync(handle)
        inode = os.fstat(handle).st_ino
        self._safe[inode] = os.pread(handle, os.fstat(handle).st_size, 0)
        self._pending[inode] = []

    def rename(self, old, new):
        super().rename(old, new)
        self._named.append((old.name, None, new.name, new.stat().st_ino))

    def remove(self, path):
        super().remove(path)
        self._named.append((path.name, None))

    def sync_folder(self, path):
        super().sync_folder(path)
        self._apply(self._named)
        self._named = []

    def map(self, handle, size):
        memory = super().map(handle, size)
        self._maps.append((np.frombuffer(memory, np.uint8), os.fstat(handle).st_ino))
        return memory

    def store(self, cells, values):
        address = cells.__array_interface__["data"][0]
        for whole, inode in self._maps:
            base = whole.__array_interface__["data"][0]
            if base <= address < base + whole.nbytes:
                self._pending.setdefault(inode, []).append((address - base, np.ascontiguousarray(values).tobytes()))
        super().store(cells, values)

    def flush(self, memory, begin, end):
        super().flush(memory, begin, end)
        address = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
        inode = next(number for whole, number in self._maps if whole.__array_interface__["data"][0] == address)
        kept = []
        content = bytearray(self._safe[inode])
        for offset, data in self._pending.get(inode, []):
            if offset is not None and begin <= offset < end:
                content[offset : offset + len(data)] = data
            else:
                kept.append((offset, data))
        self._safe[inode], self._pending[inode] = bytes(content), kept

    def _apply(self, changes):
        for name, inode, *new in changes:
            if inode is not None:
                self._names[name] = inode
            else:
                self._names.pop(name, None)
            if new:
                self._names[new[0]] = new[1]

    def cut(self):
        """The power goes."""
        self.dead = True
        self._apply(self._named[: self._random.randint(0, len(self._named))])
        contents = {}
        for name, inode in self._names.items():
            contents[name] = self._content(inode)
        for path in self.folder.glob("*"):
            path.unlink()
        for name, content in contents.items():
            (self.folder / name).write_bytes(content)

    def _content(self, inode):
        """One of the contents that a file may have."""
        content = bytearray(self._safe[inode])
        for offset, data in self._pending.get(inode, []):
            whole, share = data, self._random.choice((0.0, 1.0, self._random.random()))
            data = whole[: int(len(whole) * share)]
            if data and self._random.random() < 0.3:  # the size was kept and the content was not
                data += bytes(len(whole) - len(data))
            if offset is None:
                content = content if self._random.random() < 0.5 else bytearray()
            elif data:
                content.extend(bytes(max(0, offset + len(data) - len(content))))
                content[offset : offset + len(data)] = data
        return bytes(content)


class ForgetfulTree(Forgetful):
    """A disk with folders in folders that loses power: a name is safe once its own folder was flushed.

    Of the names that were not, each is there or not, whatever became of those before it.
    """

    def __init__(self, folder, number=0, seed=0):
        Disk.__init__(self, number)
        self.folder = Path(folder)
        self._random = random.Random(seed)
        self._names, self._safe, self._pending = {}, {}, {}
        self._named, self._maps = [], []
        for path in self.folder.rglob("*"):
            inode = None if path.is_dir() else path.stat().st_ino
            self._names[self._own(path)] = inode
            if inode is not None:
                self._safe[inode] = path.read_bytes()

    def _own(self, path):
        return path.relative_to(self.folder).as_posix()

    def make_folder(self, path):
        there = path.exists()
        super().make_folder(path)
        if not there and path != self.folder:
            self._named.append(("add", self._own(path), None))

    def create(self, path):
        there = path.exists()
        handle = Disk.create(self, path)
        inode = os.fstat(handle).st_ino
        if not there:
            self._named.append(("add", self._own(path), inode))
            self._safe[inode] = b""
        self._pending.setdefault(inode, []).append((None, b""))
        return handle

    def rename(self, old, new):
        Disk.rename(self, old, new)
        self._named.append(("move", self._own(old), self._own(new)))

    def remove(self, path):
        Disk.remove(self, path)
        self._named.append(("gone", self._own(path), None))

    def remove_tree(self, path):
        inside = [*path.rglob("*"), path] if path.exists() else []
        Disk.remove_tree(self, path)
        self._named += [("gone", self._own(one), None) for one in inside]

    def sync_folder(self, path):
        Disk.sync_folder(self, path)
        mine = [one for one in self._named if (self.folder / one[1]).parent == path]
        self._apply(mine)
        self._named = [one for one in self._named if one not in mine]

    def _apply(self, changes):
        for what, name, other in changes:
            if what == "add":
                self._names[name] = other
            elif what == "gone":
                self._names.pop(name, None)
            elif name in self._names:
                for key in [one for one in self._names if one == name or one.startswith(f"{name}/")]:
                    self._names[other + key[len(name) :]] = self._names.pop(key)
            # What was named inside before its folder moved stays to be flushed where it is now.
            if what == "move":
                self._named = [
                    (kind, other + old[len(name) :] if old.startswith(f"{name}/") else old, new)
                    for kind, old, new in self._named
                ]

    def cut(self):
        """The power goes."""
        self.dead = True
        self._apply([one for one in list(self._named) if self._random.random() < 0.5])
        contents = {name: self._content(inode) for name, inode in self._names.items() if inode is not None}
        folders = [name for name, inode in self._names.items() if inode is None]
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        for name in sorted(folders):
            if (self.folder / name).parent.is_dir():
                (self.folder / name).mkdir()
        for name, content in contents.items():
            if (self.folder / name).parent.is_dir():
                (self.folder / name).write_bytes(content)
