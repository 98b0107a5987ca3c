"""A disk on which one file operation fails, or is interrupted."""

import os
from contextlib import contextmanager
from pathlib import Path


class Disk:
    """File operations of which one fails, before or after it is done.

    Args:
        number: Which of them fails.
        error: How.
        done: Whether it is done and then fails.
    """

    def __init__(self, number, error, done):
        self.number, self.error, self.done = number, error, done
        self.count = 0
        self.at = ""

    def guard(self, name, operation):
        def guarded(*args, **kwargs):
            self.count += 1
            fails = self.count == self.number
            if fails:
                self.at = name
            if fails and not self.done:
                raise self.error
            result = operation(*args, **kwargs)
            if fails:
                raise self.error
            return result

        return guarded

    @contextmanager
    def failing(self, monkeypatch):
        opened = Path.open

        def open_guarded(path, mode="r"):
            handle = opened(path, mode)
            if mode != "xb":
                return handle
            handle = handle.detach()  # unbuffered, so that a write is a write
            return _Guarded(handle, self.guard("write", handle.write))

        with monkeypatch.context() as patch:
            for name in ("mkdir", "rename", "fsync"):
                patch.setattr(os, name, self.guard(name, getattr(os, name)))
            patch.setattr(Path, "open", self.guard("open", open_guarded) if not self.done else open_guarded)
            if isinstance(self.error, KeyboardInterrupt):  # one that fails for good would leave what it cannot delete
                for name in ("unlink", "rmdir"):
                    patch.setattr(os, name, self.guard(name, getattr(os, name)))
            yield


class _Guarded:
    def __init__(self, handle, write):
        self._handle, self.write = handle, write

    def flush(self):
        pass

    def fileno(self):
        return self._handle.fileno()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._handle.close()
