"""Fault injection at the n-th system call: an error, an interrupt or the end of the process."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from rescompile.diagnostics.errors import OutputError
from rescompile.files import temporary_file

#: The faults. An error or an interrupt replaces the call; a killed process makes no further calls. `make faults` injects the
#: same faults into real processes.
FAULTS = ("EIO", "ENOSPC", "EACCES", "EMFILE", "EROFS", "Ctrl-C", "kill -9")
#: The calls that write files, except those that open and close file descriptors.
_CALLS = ("fstat", "stat", "lstat", "listdir", "access", "replace", "unlink")
_OPEN, _DUP, _CLOSE, _WRITE = os.open, os.dup, os.close, os.write


class Killed(BaseException):
    """The end of a process by SIGKILL."""


class _Faults:
    """A counter of system calls that injects `fault` at number `point`; `handles` are the open file descriptors."""

    def __init__(self, fault: str, point: int) -> None:
        self.fault, self.point, self.calls = fault, point, 0
        self.handles: set[int] = set()

    def count(self) -> None:
        """Count one call, and inject the fault if this is its number."""
        self.calls += 1
        if self.fault == "kill -9" and self.calls >= self.point:
            raise Killed
        if self.calls != self.point:
            return
        if self.fault == "Ctrl-C":
            raise KeyboardInterrupt
        number = getattr(errno, self.fault)
        raise OSError(number, os.strerror(number))

    def wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a counted version of a call."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count()
            return call(*args, **kwargs)

        return counted

    def open(self, *args: Any) -> int:
        """Open a file, or duplicate a file descriptor."""
        self.count()
        handle = (_OPEN if len(args) > 1 else _DUP)(*args)
        self.handles.add(handle)
        return handle

    def close(self, handle: int) -> None:
        """Close a file descriptor, even if the call fails."""
        try:
            self.count()
        finally:
            if self.fault != "kill -9" or self.calls < self.point:
                self.handles.remove(handle)
                _CLOSE(handle)


class _Stream:
    """A file whose writes and closes are counted. A failing write writes a part first, as on a full disk."""

    def __init__(self, handle: int, faults: _Faults) -> None:
        self.handle, self.faults = handle, faults

    def write(self, data: Any) -> None:
        """Write all of the bytes, or half of them if the call fails."""
        if self.faults.calls + 1 == self.faults.point:
            _WRITE(self.handle, memoryview(data)[: len(data) // 2])
        self.faults.count()
        _WRITE(self.handle, data)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.faults.close(self.handle)


@contextlib.contextmanager
def injected(fault: str, point: int) -> Iterator[_Faults]:
    """Count system calls, and inject a fault at the one with this number."""
    faults, locking = _Faults(fault, point), temporary_file.fcntl
    replaced = {name: faults.wrapped(getattr(os, name)) for name in _CALLS}
    replaced |= {"open": faults.open, "dup": faults.open, "close": faults.close}
    with contextlib.ExitStack() as stack:
        for name, call in replaced.items():
            stack.enter_context(mock.patch.object(os, name, call))
        stack.enter_context(mock.patch.object(os, "fdopen", lambda handle, *_, **__: _Stream(handle, faults)))
        stack.enter_context(mock.patch.object(io, "open", faults.wrapped(io.open)))
        stack.enter_context(mock.patch.object(locking, "flock", faults.wrapped(locking.flock)))
        try:
            yield faults
        finally:
            for handle in faults.handles:  # the end of a process closes its files, which releases its locks
                _CLOSE(handle)


def outcome(work: Callable[[], None]) -> int:
    """Return the exit code that this work would give a command: 5 for an OutputError, 130 for Ctrl-C, 137 for SIGKILL."""
    try:
        work()
    except OutputError:
        return 5
    except KeyboardInterrupt:
        return 130
    except Killed:
        return 137
    return 0


def forked(work: Callable[[], None]) -> int:
    """Run work in a child process, whose exit code is the outcome, and return its process ID."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = outcome(work)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def exit_code(child: int) -> int:
    """Wait for a process and return its exit code as a shell reports it."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code
