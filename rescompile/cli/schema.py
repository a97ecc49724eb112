"""`schema`: the JSON Schema of spec files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rescompile.cli.command import command
from rescompile.cli.options import ForceOption


@command
def print_schema(
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="PATH", help="Where to write. Default: standard output.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Print the JSON Schema of spec files (draft 7), for editors."""
    from rescompile.files.output import write_text
    from rescompile.lang.json_schema import text

    if output in (None, "-"):
        sys.stdout.write(text())
    else:
        write_text(text(), Path(str(output)), force)
