"""Turns errors of commands into diagnostics and exit codes, never tracebacks."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer

from rescompile.cli.options import with_options
from rescompile.cli.reporting import discard, progress_shown, report, say
from rescompile.cli.signals import Stopped, interruption_restored, stoppable
from rescompile.diagnostics.errors import Diagnostic, OutputError, RescompileError


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command with its options, whose errors become diagnostics and exit codes, never tracebacks."""
    function = with_options(function)

    @functools.wraps(function)
    def wrapped(**kwargs: Any) -> None:
        try:
            with stoppable(), interruption_restored(), progress_shown(not kwargs.get("as_json")):
                function(**kwargs)
                if sys.stdout is None:
                    raise OutputError.of("E1002", "standard output is closed")
                sys.stdout.flush()
        except RescompileError as error:
            form = "json" if kwargs.get("as_json") else kwargs.get("format", "text")
            report(error.diagnostics, form)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as stop:
            number, word = stop.args if isinstance(stop, Stopped) else (signal.SIGINT, "interrupted")
            say(word)
            raise typer.Exit(128 + number) from None
        except BrokenPipeError:
            discard(sys.stdout)  # the reader closed the pipe, as in `rescompile list | head`
            raise typer.Exit(0) from None
        except MemoryError:
            report([Diagnostic("E0901", "out of memory")], "text")
            raise typer.Exit(4) from None
        except OSError as error:
            discard(sys.stdout)
            where = f": {error.filename}" if error.filename else ""
            report([Diagnostic("E1002", f"{error.strerror or error}{where}")], "text")
            raise typer.Exit(OutputError.exit_code) from None

    return wrapped
