"""The output of a command: data on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rescompile.diagnostics.errors import Diagnostic, UsageError

if TYPE_CHECKING:
    from rescompile.diagnostics.text_table import Rows


def report(diagnostics: Sequence[Diagnostic], form: str) -> None:
    """Write diagnostics: text to standard error, the other formats to standard output."""
    from rescompile.diagnostics.rendering import render

    if form == "text":
        say(render(diagnostics, form, colour=_colour(sys.stderr)))
    elif sys.stdout is not None:
        print(render(diagnostics, form), file=sys.stdout)


def _colour(stream: Any) -> bool:
    return (
        stream is not None and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def columns() -> int | None:
    """Return the width of standard output's terminal; None if it is not a terminal, so that nothing is wrapped
    there."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def table(rows: Rows, align: str) -> list[str]:
    """Return the lines of a table with a head: aligned within the window of a terminal, elsewhere Markdown."""
    from rescompile.diagnostics.text_table import markdown_table, text_table

    width = columns()
    return markdown_table(rows, align) if width is None else text_table(rows, align, width)


#: Whether progress is shown on a terminal: not if the result is for a program.
shows_progress = True
#: Removes the progress bar, if one is shown.
wipe: Callable[[], None] | None = None


@contextlib.contextmanager
def progress_shown(shown: bool) -> Iterator[None]:
    """Show progress, or hide it, until the end of a command."""
    global shows_progress
    before, shows_progress = shows_progress, shown
    try:
        yield
    finally:
        shows_progress = before


def clear() -> None:
    """Remove the progress bar, before something is printed to standard output while it is shown."""
    if wipe is not None:
        wipe()


def say(text: str) -> None:
    """Print a message to standard error. If that fails, for example because the terminal was closed, the work
    continues."""
    if sys.stderr is not None:
        clear()
        try:
            print(text, file=sys.stderr)
        except OSError:
            discard(sys.stderr)


def print_json(data: Any) -> None:
    """Print the data of a command with --json. Infinities and NaN, which JSON lacks, become null."""
    print(json.dumps(_finite(data), indent=2, allow_nan=False))


def _finite(data: Any) -> Any:
    """Return the data with None in place of numbers that are not finite."""
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def check_output(path: Path, force: bool, inputs: Iterable[str] = (), role: str = "") -> None:
    """Raise OutputError if a file cannot be written, and UsageError if it is one of the inputs, whose role is in the message."""
    from rescompile.files.atomic_write import check_folder, check_ours

    for file in inputs:
        if is_same_file(path, file):
            raise UsageError.of("E0802", f"-o {path} would overwrite {file}, which it {role}")
    check_folder(path)
    check_ours(path, force)


def is_same_file(one: Path, other: str | Path) -> bool:
    """Return whether two paths name one file, which exists."""
    return one.exists() and os.path.exists(other) and one.samefile(other)


def discard(stream: Any) -> None:
    """Discard the buffered output of a stream, on which the interpreter would fail again at exit."""
    with contextlib.suppress(AttributeError, OSError):  # closed, or not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
