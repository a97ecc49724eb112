"""`schema`: prints the JSON Schema of spec files."""

from __future__ import annotations

import sys
from pathlib import Path

from rescompile.cli.command import command
from rescompile.cli.options import ForceOption, OutputOption


@command
def print_schema(
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Print the JSON Schema (draft 7) of spec files, for editors."""
    from rescompile.files.atomic_write import write_text
    from rescompile.lang.json_schema import text

    if output in (None, "-"):
        sys.stdout.write(text())
    else:
        write_text(text(), Path(str(output)), force)
