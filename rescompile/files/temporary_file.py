"""Temporary files that do not remain even if their process is killed: the next process that writes to the folder removes them.

A process locks its temporary files with flock. The lock ends with the process, however it ends, and also works between
containers that share a folder, unlike process IDs. Without such locks, as on Windows, files of other processes are never
removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"\.rescompile-\d+-[0-9a-f]{8}")


class TemporaryFile:
    """A file in a folder, under a temporary `path` until it is complete. `remove` is safe at any time, even before `create`,
    so an interruption at any point leaves no file behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: int | None = None
        self._rename()

    def _rename(self) -> None:
        self.path = self.folder / f".rescompile-{os.getpid()}-{os.urandom(4).hex()}"

    def create(self) -> BinaryIO:
        """Create the file and return a stream that writes to it. Closing the stream keeps the lock."""
        while self._lock is None:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            if fcntl is None:  # where open files cannot be renamed
                return os.fdopen(handle, "wb", buffering=1 << 16)
            self._lock = handle
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not os.fstat(handle).st_nlink:  # another process removed it before it was locked
                self._release()
                self._rename()
        return os.fdopen(os.dup(self._lock), "wb", buffering=1 << 16)

    def rename(self, target: Path) -> None:
        """Rename the complete file to its final name."""
        os.replace(self.path, target)

    def remove(self) -> None:
        """Remove the file if it still has its temporary name, and release its lock."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            handle, self._lock = self._lock, None
            with contextlib.suppress(OSError):
                os.close(handle)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of processes that have ended."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        for name in filter(_NAME.fullmatch, os.listdir(folder)):
            with (
                contextlib.suppress(OSError),
                _opened(folder / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK) as handle,
            ):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process is running
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    os.unlink(folder / name)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder, if its file system supports this, so that processes rename their files one after another."""
    if fcntl is None or not os.access(folder, os.R_OK):
        yield
        return
    with _opened(folder, os.O_RDONLY) as handle:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # if closing fails, the next file of this process would wait forever
                fcntl.flock(handle, fcntl.LOCK_UN)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags)
    try:
        yield handle
    finally:
        with contextlib.suppress(OSError):  # nothing was written through this descriptor
            os.close(handle)
