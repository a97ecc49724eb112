"""The output of a command: data on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rescompile.diagnostics.errors import Diagnostic


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


def say(text: str) -> None:
    """Print a message to standard error. If that fails, as after a terminal was closed, the work goes on."""
    if sys.stderr is not None:
        try:
            print(text, file=sys.stderr)
        except OSError:
            discard(sys.stderr)


def print_json(data: Any) -> None:
    """Print the data of a command with --json. JSON has no infinity and no NaN: they become null."""
    print(json.dumps(_finite(data), indent=2, allow_nan=False))


def _finite(data: Any) -> Any:
    """The data with None in place of numbers that are not finite."""
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def discard(stream: Any) -> None:
    """Discard what is still buffered for a stream: the interpreter would fail on it again at exit."""
    with contextlib.suppress(AttributeError, OSError):  # closed, or no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
