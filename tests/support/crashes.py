"""A disk that remembers what was done to it, and what a power cut at any point would leave.

Until a file is synced, what was written to it may be lost, torn or zeroed; until its folder is
synced, a creation, a move or a deletion in it may be lost, in any order.
"""

import os
from pathlib import Path


class Recorder:
    """Stands in for the module `os`: does the real thing, and notes it in `operations`."""

    def __init__(self):
        self.operations = []
        self._paths = {}

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, path, flags, mode=0o777):
        handle = os.open(path, flags, mode)
        self._paths[handle] = str(path)
        if flags & os.O_CREAT:
            self.operations.append(("create", str(path)))
        return handle

    def fdopen(self, handle, mode):
        return _File(os.fdopen(handle, mode), self._paths[handle], self.operations)

    def fsync(self, handle):
        os.fsync(handle)
        kind = "sync folder" if os.path.isdir(self._paths[handle]) else "sync"
        self.operations.append((kind, self._paths[handle]))

    def replace(self, source, target):
        os.replace(source, target)
        self.operations.append(("replace", str(source), str(target)))

    def unlink(self, path):
        os.unlink(path)
        self.operations.append(("unlink", str(path)))

    def mkdir(self, path):
        os.mkdir(path)
        self.operations.append(("mkdir", str(path)))


class _File:
    def __init__(self, file, path, operations):
        self._file, self._path, self._operations = file, path, operations

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        self._operations.append(("write", self._path, self._file.tell(), bytes(data)))
        return self._file.write(data)


class _Inode:
    def __init__(self):
        self.synced, self.pending = b"", []

    def content(self, fate):
        """Return what is left: pending writes are "kept", "lost", "torn" or "zeroed"."""
        data, pending = bytearray(self.synced), self.pending
        if fate == "lost":
            pending = []
        elif fate == "torn":
            pending = pending[: (len(pending) + 1) // 2]
        for number, (offset, written) in enumerate(pending):
            if fate == "zeroed":
                written = bytes(len(written))
            elif fate == "torn" and number == len(pending) - 1:
                written = written[: len(written) // 2]
            data.extend(bytes(max(0, offset - len(data))))
            data[offset : offset + len(written)] = written
        return bytes(data)


def disks_after(operations):
    """Yield each disk, {path: bytes}, that a crash after these operations may leave."""
    inodes, names, synced, pending = {}, {}, {}, []
    for operation, path, *rest in operations:
        if operation == "write":
            names[path].pending.append(tuple(rest))
        elif operation == "sync":
            inode = names[path]
            inode.synced, inode.pending = inode.content("kept"), []
        elif operation == "sync folder":
            here = [change for change in pending if Path(change[1]).parent == Path(path)]
            pending = [change for change in pending if change not in here]
            _apply(synced, here)
        elif operation in ("create", "replace", "unlink", "mkdir"):
            if operation in ("create", "mkdir"):
                inodes[path] = _Inode() if operation == "create" else None
                change = (operation, path, inodes[path])
            elif operation == "replace":
                change = (operation, rest[0], path, names[path])
            else:
                change = (operation, path)
            _apply(names, [change])
            pending.append(change)
    count = len(pending)
    survivors = [pending[:n] for n in range(count + 1)] + [[change] for change in pending]
    survivors += [pending[:n] + pending[n + 1 :] for n in range(count)]
    for surviving in survivors:
        left = dict(synced)
        _apply(left, surviving)
        for fate in ("kept", "lost", "torn", "zeroed"):
            yield {
                path: None if inode is None else inode.content(fate)
                for path, inode in left.items()
                if _reachable(path, left, inodes)
            }


def _apply(names, changes):
    for operation, path, *rest in changes:
        if operation in ("create", "mkdir"):
            names[path] = rest[0]
        elif operation == "replace":
            names[path] = rest[1]
            names.pop(rest[0], None)
        else:
            names.pop(path, None)


def _reachable(path, left, inodes):
    """Say whether the folder of `path` is itself still there (or was there before)."""
    parent = str(Path(path).parent)
    return parent not in inodes or (parent in left and _reachable(parent, left, inodes))
