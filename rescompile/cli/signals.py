"""Signals that end a command as Ctrl-C does: what is finished is kept, and no file is torn."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Collection, Iterator

#: Signals that end a command as Ctrl-C does, and what is said then: of a scheduler or `timeout`, and of a closed terminal.
STOPS = {"SIGTERM": "terminated", "SIGHUP": "the terminal was closed"}
#: Seconds that a command has to end itself after such a signal.
GRACE = 10.0


class Stopped(KeyboardInterrupt):
    """A signal of STOPS, with its number and what it says: as Ctrl-C does, it leaves what is finished, and nothing torn."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Ends a command on a signal of STOPS, unless somebody else has a say in it: `nohup` ignores a closed terminal."""

    taken: dict[int, str] = {}

    def stop(number: int, frame: object) -> None:
        for each in taken:  # what is finished is saved now: `timeout` sends its signal twice, and one is enough
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number, taken[number])

    if threading.current_thread() is threading.main_thread():  # Python has signals nowhere else
        for name, word in STOPS.items():
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                taken[number] = word
                signal.signal(number, stop)
    _heard.update(taken)
    try:
        with _ended_at_last(taken):
            yield
    finally:
        _heard.difference_update(taken)
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def interruption_restored() -> Iterator[None]:
    """Tells an interruption that met a lock between two of its steps: threading gives back what it does not hold any more, and its
    RuntimeError takes the place of the interruption."""
    try:
        yield
    except RuntimeError as error:
        stop: BaseException | None = error
        while stop is not None and not isinstance(stop, KeyboardInterrupt):
            stop = stop.__context__
        if stop is None:
            raise
        raise stop from None


#: The signals that a command of this process waits for.
_heard: set[int] = set()


def _of_its_own() -> None:
    """In a child that a library forked: its signals end it, and are not told to the parent through the pipe that both have. A pool
    ends its workers by SIGTERM, and would end the command too."""
    if _heard:
        signal.set_wakeup_fd(-1)
    for number in _heard:
        signal.signal(number, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_of_its_own)


@contextlib.contextmanager
def _ended_at_last(numbers: Collection[int]) -> Iterator[None]:
    """Ends the process GRACE seconds after one of these signals. Python acts on a signal between two steps of its own, and a
    kernel of somebody else may take hours in one."""
    if not numbers or os.name == "nt":  # where SIGTERM ends a process at once
        yield
        return
    ended = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        while said := os.read(reading, 1):
            if said[0] in numbers and not ended.wait(GRACE):
                os._exit(128 + said[0])
        os.close(reading)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(writing)  # which ends the reading
