"""Handles signals like Ctrl-C: finished results are kept, and no file is left partially written."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Collection, Iterator

#: Signals that end a command like Ctrl-C, with their messages: from a scheduler or `timeout`, and from a closed
#: terminal.
STOPS = {"SIGTERM": "terminated", "SIGHUP": "the terminal was closed"}
#: Seconds in which a command must end after such a signal.
GRACE = 10.0


class Stopped(KeyboardInterrupt):
    """A signal of STOPS, with its number and its message."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """End a command on a signal of STOPS, unless the signal is already handled or ignored, as with `nohup`."""

    taken: dict[int, str] = {}

    def stop(number: int, frame: object) -> None:
        for each in taken:  # results are already being saved, and `timeout` sends its signal twice
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number, taken[number])

    if threading.current_thread() is threading.main_thread():  # Python handles signals only in the main thread
        for name, word in STOPS.items():
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                taken[number] = word
                signal.signal(number, stop)
    _handled.update(taken)
    try:
        with _hard_deadline(taken):
            yield
    finally:
        _handled.difference_update(taken)
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def interruption_restored() -> Iterator[None]:
    """Raise an interruption that arrived between the two steps of a lock: threading then releases a lock that it no
    longer owns, and its RuntimeError hides the interruption."""
    try:
        yield
    except RuntimeError as error:
        stop: BaseException | None = error
        while stop is not None and not isinstance(stop, KeyboardInterrupt):
            stop = stop.__context__
        if stop is None:
            raise
        raise stop from None


#: The signals that a command of this process handles.
_handled: set[int] = set()


def _restore_defaults() -> None:
    """Restore the default signals in a forked child, which shares the pipe of the parent: a pool ends its workers by
    SIGTERM, which would end the command too."""
    if _handled:
        signal.set_wakeup_fd(-1)
    for number in _handled:
        signal.signal(number, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restore_defaults)


@contextlib.contextmanager
def _hard_deadline(numbers: Collection[int]) -> Iterator[None]:
    """End the process GRACE seconds after one of these signals. Python handles a signal between two bytecodes, and a
    native kernel may run for hours within one."""
    if not numbers or os.name == "nt":  # where SIGTERM ends a process immediately
        yield
        return
    ended = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        while byte := os.read(reading, 1):
            if byte[0] in numbers and not ended.wait(GRACE):
                os._exit(128 + byte[0])
        os.close(reading)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(writing)  # closing the pipe ends the loop
