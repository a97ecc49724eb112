"""`explain`: what a network is, in words, and where it departs from others."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated, Any

import typer

from rescompile.cli.command import command
from rescompile.cli.options import Format, FormatOption, JsonOption, SetOption, SpecArgument, with_passes
from rescompile.cli.reporting import print_json
from rescompile.cli.specs import elaborated
from rescompile.diagnostics.errors import Diagnostic, UsageError

#: Longer lines are hard to read, however wide the terminal.
WIDTH = 100


@with_passes
@command
def explain(
    spec: SpecArgument,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="What to compare with: a spec file or a name of the zoo. Repeatable. Default: the form of its paper and of the "
            "common implementations, or the closest network of the zoo.",
        ),
    ] = None,
    set: SetOption = None,
    as_json: JsonOption = False,
    format: FormatOption = Format.text,
    *,
    passes: dict[str, Any],
) -> None:
    """Say in words what a network is and where it departs from others, with what each difference costs."""
    from rescompile.explain import explain as explained
    from rescompile.explain import prose
    from rescompile.explain.report import report
    from rescompile.passes import PASSES, apply

    for step in PASSES:
        if step.made_of_weights and passes.get(step.keyword):
            message = (
                f"--{step.name} puts zeros among the weights, and those are nothing of the network that is explained"
            )
            raise UsageError(Diagnostic("E0802", message, help=f"leave --{step.name} out"))
    loaded, network = elaborated(spec, set)
    network, _ = apply(network, None, passes)
    found = explained(network, against or ())
    about = {key: getattr(loaded, key) for key in ("family", "description", "reference", "notes", "unverified")}
    if as_json:
        print_json(report(found, about))
        return
    for line in prose.lines(found, about, _width()):
        print(line)


def _width() -> int:
    """How long lines may be: as wide as the terminal, as far as there is one."""
    columns = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    return max(40, min(WIDTH, columns))
