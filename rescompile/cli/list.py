"""`list`: lists the networks of the zoo."""

from __future__ import annotations

from typing import Annotated

import typer

from rescompile.cli.command import command
from rescompile.cli.options import FormatOption, JsonOption
from rescompile.cli.progress import track
from rescompile.cli.reporting import columns, print_json
from rescompile.diagnostics.errors import UsageError, nearest
from rescompile.diagnostics.text_table import text_table


@command
def list_zoo(
    family: Annotated[str | None, typer.Option(help="List this family only.")] = None,
    as_json: JsonOption = False,
    format: FormatOption = "text",
) -> None:
    """List the networks of the zoo."""
    from rescompile.lang import library, zoo_aliases
    from rescompile.lang.inheritance import zoo_document
    from rescompile.lang.yaml_reader import plain

    entries = []
    for name, path in track(library.zoo().items(), len(library.zoo()), "networks"):
        document = plain(zoo_document(path))
        entries.append(
            {
                "name": name,
                "family": document.get("family"),
                "description": document.get("description"),
                "reference": document.get("reference"),
                "aliases": zoo_aliases.of(name),
            }
        )
    if family is not None:
        families = {str(entry["family"]) for entry in entries}
        if family not in families:
            help = nearest(family, families) or f"the families are {', '.join(sorted(families))}"
            raise UsageError.of("E0801", f"there is no family '{family}' in the zoo", help=help)
        entries = [entry for entry in entries if entry["family"] == family]
    if as_json:
        print_json({"networks": entries})
        return
    rows = [
        [entry["name"], entry["family"] or "", "; ".join(filter(None, (entry["description"], _also(entry["aliases"]))))]
        for entry in entries
    ]
    print("\n".join(text_table(rows, width=columns(), head=False)))


def _also(aliases: list[str]) -> str:
    return f"also {', '.join(aliases)}" if aliases else ""
