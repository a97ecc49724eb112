"""`compare`: checks two result files of `bench` for networks that became slower."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rescompile.cli.command import command
from rescompile.cli.options import FormatOption, JsonOption
from rescompile.cli.reporting import print_json, say, table
from rescompile.diagnostics.errors import CheckFailed, UsageError


@command
def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A result file of rescompile bench.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A later result file of the same networks.")],
    max_regression: Annotated[
        str,
        typer.Option("--max-regression", metavar="SHARE", help="Exit 1 if a row is slower by more than this."),
    ] = "5%",
    across_machines: Annotated[
        bool, typer.Option("--across-machines", help="Compare results of different hardware.")
    ] = False,
    as_json: JsonOption = False,
    format: FormatOption = "text",
) -> None:
    """Compare two result files; exit 1 if a row became slower.

    Only statistically significant differences count.
    """
    from dataclasses import asdict

    from rescompile.bench import comparing, report, results

    limit = comparing.limit(max_regression)
    first, second = results.read(old), results.read(new)
    other = list(comparing.differences(first, second))
    if other:
        message = f"the results are from different machines: {'; '.join(other)}"
        if not across_machines:
            raise UsageError.of("E0821", message, help="--across-machines compares them anyway")
        say(f"warning: {message}")
    comparison = comparing.compare(first, second)
    for note in comparing.notes(comparison):
        say(f"note: {note}")
    slower = [change for change in comparison.changes if change.regressed(limit)]
    if as_json:
        rows = [
            {
                "group": each.new.group, "model": each.new.model, "runtime": each.new.runtime,
                "precision": each.new.precision, "batch": each.new.batch, "ratio": asdict(each.ratio),
                "verdict": each.verdict, "regressed": each.regressed(limit),
            }
            for each in comparison.changes
        ]  # fmt: skip
        print_json({"passed": not slower, "rows": rows, "gone": comparison.gone, "added": comparison.added})
        if slower:
            raise typer.Exit(CheckFailed.exit_code)
        return
    print(report.changes(comparison, limit, table))
    if slower:
        listed = "; ".join(change.new.title for change in slower)
        message = f"{len(slower)} of {len(comparison.changes)} rows are slower by more than {max_regression}: {listed}"
        raise CheckFailed.of("E0722", message)
