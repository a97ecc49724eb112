"""What all commands share: their options, and how errors become diagnostics and exit codes."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rescompile.diagnostics.errors import (
    Diagnostic,
    OutputError,
    Place,
    RescompileError,
    Source,
    SpecError,
    UsageError,
    clipped,
)

if TYPE_CHECKING:
    from rescompile.ir.network import Network
    from rescompile.lang.spec import Spec
    from rescompile.passes import Pass


class Format(StrEnum):
    """How diagnostics are written."""

    text = "text"
    json = "json"
    github = "github"
    sarif = "sarif"


#: Signals that end a command as Ctrl-C does, and what is said then: of a scheduler or `timeout`, and of a closed terminal.
STOPS = {"SIGTERM": "terminated", "SIGHUP": "the terminal was closed"}
#: Seconds that a command has to end itself after such a signal.
GRACE = 10.0

SpecArgument = Annotated[
    str, typer.Argument(metavar="SPEC", help="A spec file (with a / or .yaml), or a name of the zoo.")
]
SpecsArgument = Annotated[
    list[str], typer.Argument(metavar="SPEC...", help="Spec files, folders of them, or names of the zoo.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change the spec, such as layer3.depth=23. Repeatable."),
]
FeaturesOption = Annotated[
    str | None,
    typer.Option(
        "--features", metavar="PARTS", help="Parts whose maps become outputs too, such as layer2,layer3,layer4."
    ),
]
DynamicOption = Annotated[
    str | None,
    typer.Option(metavar="AXES", help="Axes of the image to leave free: height,width, or one of them."),
]
FormatOption = Annotated[Format, typer.Option("--format", help="How diagnostics are written.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the command's data as JSON; implies --format json.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Overwrite a file that rescompile did not write, or that was changed since.")
]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose errors become diagnostics and exit codes, never tracebacks."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            with _stoppable(), _unlocked():
                function(*args, **kwargs)
                if sys.stdout is None:
                    raise OutputError(Diagnostic("E1002", "standard output is closed"))
                sys.stdout.flush()
        except RescompileError as error:
            form = "json" if kwargs.get("as_json") else kwargs.get("format", Format.text).value
            report(error.diagnostics, form)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as stop:
            number, word = stop.args if isinstance(stop, Stopped) else (signal.SIGINT, "interrupted")
            say(word)
            raise typer.Exit(128 + number) from None
        except BrokenPipeError:
            _forget(sys.stdout)  # the reader went away, as in `rescompile list | head`: nothing is wrong
            raise typer.Exit(0) from None
        except MemoryError:
            report([Diagnostic("E0901", "there is not enough memory for this")], "text")
            raise typer.Exit(4) from None
        except OSError as error:
            _forget(sys.stdout)
            where = f": {error.filename}" if error.filename else ""
            report([Diagnostic("E1002", f"{error.strerror or error}{where}")], "text")
            raise typer.Exit(OutputError.exit_code) from None

    return wrapped


class Stopped(KeyboardInterrupt):
    """A signal of STOPS, with its number and what it says: as Ctrl-C does, it leaves what is finished, and nothing torn."""


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
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
def _unlocked() -> Iterator[None]:
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


def _forget(stream: Any) -> None:
    """Send what is still buffered for a stream nowhere: the interpreter would fail on it again at exit."""
    with contextlib.suppress(AttributeError, OSError):  # closed, or no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def with_passes(function: Callable[..., None]) -> Callable[..., None]:
    """A command that takes the options of the pass table; they arrive in its `passes`."""
    from rescompile.passes import PASSES

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        chosen = {step.keyword: kwargs.pop(step.keyword) for step in PASSES}
        function(
            *args,
            passes={key: value for key, value in chosen.items() if value is not None},
            **kwargs,
        )

    signature = inspect.signature(function, eval_str=True)
    kept = [parameter for parameter in signature.parameters.values() if parameter.name != "passes"]
    added = [
        inspect.Parameter(
            step.keyword, inspect.Parameter.KEYWORD_ONLY, default=None,
            annotation=Annotated[step.type | None, typer.Option(_flags(step), help=step.help)],
        )
        for step in PASSES
    ]  # fmt: skip
    wrapped.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in [*kept, *added]}
    del wrapped.__wrapped__
    return wrapped


def _flags(step: Pass) -> str:
    """The option of a pass; one that is on or off can be turned off where a recipe turns it on."""
    return f"--{step.option}/--no-{step.option}" if step.type is bool else f"--{step.option}"


def report(diagnostics: Sequence[Diagnostic], form: str) -> None:
    """Write diagnostics where their form belongs: text is for people, the rest is data."""
    from rescompile.diagnostics.rendering import render

    if form == "text":
        say(render(diagnostics, form, colour=_colour(sys.stderr)))
    elif sys.stdout is not None:
        print(render(diagnostics, form), file=sys.stdout)


def _colour(stream: Any) -> bool:
    return (
        stream is not None and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def say(text: str) -> None:
    """Tell people something: on standard error, where it is in no program's way. Where nobody can be told, as after a terminal
    was closed, the work goes on."""
    if sys.stderr is not None:
        try:
            print(text, file=sys.stderr)
        except OSError:
            _forget(sys.stderr)


class Progress:
    """A bar on a terminal, once the work has taken a second."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.started, self.shown = total, 0, time.monotonic(), False
        self.wanted = total > 0 and sys.stderr is not None and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def advance(self, size: int) -> None:
        """So much more is done."""
        self.done += size
        if self.wanted and time.monotonic() - self.started > 1:
            self.shown = True
            share = min(self.done / self.total, 1.0)
            sys.stderr.write(f"\r[{'#' * int(share * 40):<40}] {share:4.0%}")
            sys.stderr.flush()

    def wipe(self) -> None:
        """Take the bar off the terminal, where something else is to be written."""
        if self.shown:
            sys.stderr.write("\r" + " " * 50 + "\r")
            sys.stderr.flush()
            self.shown = False

    def __exit__(self, *_: object) -> None:
        self.wipe()


def print_json(data: Any) -> None:
    """Print the data of a command with --json. JSON has no infinity, which an error is where an output is missing: it is null."""
    print(json.dumps(_finite(data), indent=2, allow_nan=False))


def _finite(data: Any) -> Any:
    """Data with null in place of numbers that are none."""
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def words(option: str, text: str) -> list[str]:
    """The words of an option's list with commas. Raises UsageError where one is empty or stands there twice."""
    found = [word.strip() for word in text.split(",")]
    shown = clipped(text)
    if not all(found):
        raise UsageError(Diagnostic("E0802", f"--{option} '{shown}' has an empty entry"))
    for word in found:
        if found.count(word) > 1:
            raise UsageError(Diagnostic("E0802", f"--{option} '{shown}' names {clipped(word)} twice"))
    return found


def spec_files(arguments: list[str]) -> Iterator[str]:
    """The specs that arguments name, those of a folder in the order of their names. Raises UsageError for an empty folder."""
    for argument in arguments:
        if os.path.isdir(argument):
            found = sorted(path for pattern in ("*.yaml", "*.yml") for path in Path(argument).rglob(pattern))
            if not found:
                raise UsageError(Diagnostic("E0801", f"the folder {argument} holds no .yaml file"))
            yield from (str(path) if "/" in str(path) else f"./{path}" for path in found)
        else:
            yield argument


def elaborated(spec: str, settings: list[str] | None, features: str | None = None) -> tuple[Spec, Network]:
    """A spec and its tree, with settings from the command line and parts whose maps become outputs."""
    from rescompile.elaboration import elaborate, more_problems
    from rescompile.lang.load import load

    if features is not None and not features.strip():
        raise UsageError(
            Diagnostic("E0802", "--features names no part", help="write one or more, such as layer2,layer3")
        )
    setting = f"features=[{features}]" if features else None
    try:
        loaded = load(spec, [*(settings or ()), *([setting] if setting else ())])
        return loaded, elaborate(loaded)
    except SpecError as error:
        more = [] if error.rest is None else more_problems(error.rest)
        found = dict.fromkeys([*error.diagnostics, *more])
        raise SpecError([_of_features(diagnostic, setting, features) for diagnostic in found]) from None


def _of_features(diagnostic: Diagnostic, setting: str | None, features: str | None) -> Diagnostic:
    """A diagnostic that points into what --features became, pointing into what the user wrote."""
    place = diagnostic.place
    if place is None or features is None or place.source != Source("--set", setting or ""):
        return diagnostic
    column = min(max(place.column - len("features=["), 1), len(features))
    return replace(diagnostic, place=Place(Source("--features", features), 1, column, column + 1))
