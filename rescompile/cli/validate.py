"""`validate`: checks whether specs are valid and meet their expectations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from rescompile.cli.command import command
from rescompile.cli.options import FormatOption, JsonOption, SetOption, SpecsArgument
from rescompile.cli.progress import track
from rescompile.cli.reporting import clear, print_json, report, say
from rescompile.cli.specs import elaborated, spec_files
from rescompile.diagnostics.errors import Diagnostic, SpecError, UsageError


@command
def validate(
    specs: SpecsArgument,
    set: SetOption = None,
    as_json: JsonOption = False,
    format: FormatOption = "text",
) -> None:
    """Check the syntax, shapes and expected figures of specs."""
    from rescompile.analysis.cost import cost
    from rescompile.diagnostics.rendering import as_data
    from rescompile.elaboration.expect import unmet

    results: list[dict[str, Any]] = []
    problems: list[Diagnostic] = []
    invalid = failed = missing = 0
    files = list(spec_files(specs))
    for path in track(files, len(files), "specs"):
        diagnostics: Sequence[Diagnostic] = ()
        entry: dict[str, Any] = {"spec": path, "ok": False}
        try:
            spec, network = elaborated(path, set)
        except (SpecError, UsageError) as error:
            invalid += isinstance(error, SpecError)
            missing += isinstance(error, UsageError)
            diagnostics = error.diagnostics
        else:
            total = cost(network)
            diagnostics = [] if set else unmet(spec, network)
            failed += bool(diagnostics)
            entry |= {
                "ok": not diagnostics,
                "name": network.name,
                "parameters": total.parameters,
                "macs": total.macs,
                "sha256": network.sha256,
            }
        problems += [diagnostic for diagnostic in diagnostics if diagnostic not in problems]
        results.append(entry | {"diagnostics": [as_data(diagnostic) for diagnostic in diagnostics]})
        if format == "text" and not as_json and not diagnostics:
            clear()
            print(f"{path}: ok, {entry['parameters']:,} parameters, {entry['macs'] / 1e9:.4g} GMACs")
    if as_json:
        print_json({"specs": results})
    elif problems or format != "text":
        report(problems, format)
    if format == "text" and not as_json and len(results) > 1:
        not_there = f", {missing} not found" if missing else ""
        say(f"{len(results)} specs, {invalid} invalid, {failed} with failed expectations{not_there}")
    if invalid or failed or missing:
        raise typer.Exit(SpecError.exit_code if invalid else UsageError.exit_code if missing else 1)
