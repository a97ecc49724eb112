"""`explain`: describes a network in words, and its differences from others."""

from __future__ import annotations

from typing import Annotated

import typer

from rescompile.cli.command import command
from rescompile.cli.options import FormatOption, JsonOption, Passes, SetOption, SpecArgument
from rescompile.cli.reporting import columns, print_json
from rescompile.cli.specs import elaborated
from rescompile.diagnostics.errors import UsageError

#: The longest line, since longer ones are hard to read.
WIDTH = 100


@command
def explain(
    spec: SpecArgument,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="Spec file or zoo network to compare with; repeatable. Default: its references.",
        ),
    ] = None,
    set: SetOption = None,
    as_json: JsonOption = False,
    format: FormatOption = "text",
    *,
    passes: Passes,
) -> None:
    """Describe a network in words, and how it differs from others."""
    from rescompile.explain import explain as explained
    from rescompile.explain import text_report
    from rescompile.explain.report import ABOUT, report
    from rescompile.passes import PASSES, apply

    for step in PASSES:
        if step.made_of_weights and passes.get(step.keyword):
            message = f"explain does not take --{step.name}, which only adds zeros to weights"
            raise UsageError.of("E0802", message, help=f"omit --{step.name}")
    loaded, network = elaborated(spec, set)
    network, _ = apply(network, None, passes)
    explanation = explained(network, against or ())
    about = {key: getattr(loaded, key) for key in ABOUT}
    if as_json:
        print_json(report(explanation, about))
        return
    width = max(40, min(WIDTH, columns() or WIDTH))
    for line in text_report.lines(explanation, about, width, columns()):
        print(line)
