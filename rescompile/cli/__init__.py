"""The command line: a file per command.

Data goes to standard output, everything else to standard error; exit codes are stable.

Commands import what they use when they run, so that each loads only what it needs.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal

import typer
from typer.core import TyperGroup

EXIT_CODES = (
    "Exit codes: 0 done; 1 a check failed; 2 wrong usage or no such input; 3 invalid spec; "
    "4 target, runtime or extra not available; 5 output not written; 129 terminal closed; 130 interrupted; 143 terminated."
)


#: The environment variable in which a script of `--show-completion` passes the command line; `rescompile` prints
#: completions.
COMPLETE = "_RESCOMPILE_COMPLETE"


class Commands(TyperGroup):
    """Imports and builds commands on demand, since building all of them takes longer than most take to run."""

    #: The function or the group of each command, in the order of the help.
    table: ClassVar[Mapping[str, str]]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = dict.fromkeys(self.table)  # type: ignore[assignment]  # for "did you mean"

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return [*self.table]  # the module `list` of this package shadows the built-in function here

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a name, or None."""
        if cmd_name not in self.table:
            return None
        module, _, attribute = self.table[cmd_name].rpartition(".")
        return _command(cmd_name, getattr(import_module(module), attribute))


class WeightsCommands(Commands):
    """Inspect, convert and transfer checkpoints."""

    table: ClassVar = {
        "inspect": "rescompile.cli.weights.inspect",
        "convert": "rescompile.cli.weights.convert",
        "transfer": "rescompile.cli.weights.transfer",
    }


class AllCommands(Commands):
    """The commands of rescompile."""

    table: ClassVar = {
        "build": "rescompile.cli.build.build",
        "verify": "rescompile.cli.verify.verify",
        "validate": "rescompile.cli.validate.validate",
        "show": "rescompile.cli.show.show",
        "draw": "rescompile.cli.draw.draw",
        "report": "rescompile.cli.report.report",
        "explain": "rescompile.cli.explain.explain",
        "paths": "rescompile.cli.paths.paths",
        "list": "rescompile.cli.list.list_zoo",
        "schema": "rescompile.cli.schema.print_schema",
        "extract": "rescompile.cli.extract.extract",
        "lsp": "rescompile.cli.lsp.lsp",
        "run": "rescompile.cli.run.run_model",
        "bench": "rescompile.cli.bench.bench",
        "compare": "rescompile.cli.compare.compare",
        "predict": "rescompile.cli.predict.predict",
        "doctor": "rescompile.cli.doctor.doctor",
        "weights": "rescompile.cli.WeightsCommands",
    }


_PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}


def _command(name: str, thing: Any) -> Any:
    """Return the command of a function, or of a class of commands."""
    if isinstance(thing, type):
        group = typer.Typer(name=name, cls=thing, no_args_is_help=True, help=thing.__doc__, epilog=EXIT_CODES, **_PLAIN)
        group.callback()(lambda: None)  # a callback makes it a group
        return typer.main.get_command(group)
    alone = typer.Typer(**_PLAIN)
    alone.command(name, epilog=EXIT_CODES)(thing)
    return typer.main.get_command(alone)


app = typer.Typer(
    name="rescompile", cls=AllCommands, no_args_is_help=True, epilog=EXIT_CODES,
    help="Compile YAML specs of residual networks to ONNX graphs and framework source.", **_PLAIN,
)  # fmt: skip


def main() -> None:
    """Run the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if COMPLETE in os.environ:
        from rescompile.cli import completion

        sys.exit(completion.answer(os.environ[COMPLETE], typer.main.get_command(app)))
    app()


def _version(wanted: bool) -> None:
    if wanted:
        from rescompile.version import __version__

        print(f"rescompile {__version__}")
        raise typer.Exit


def _show_completion(shell: str | None) -> None:
    if shell is not None:
        from rescompile.cli.completion_scripts import SCRIPTS

        print(SCRIPTS[shell], end="")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    shell: Annotated[
        Literal["bash", "zsh", "fish"] | None,
        typer.Option(
            "--show-completion",
            callback=_show_completion,
            is_eager=True,
            help="Print the completion script of a shell.",
        ),
    ] = None,
) -> None:
    pass
