"""`extract`: prints the spec that a model was built from."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from rescompile.cli.command import command
from rescompile.cli.options import ForceOption, FormatOption, JsonOption, OutputOption
from rescompile.cli.reporting import is_same_file, print_json, say
from rescompile.cli.specs import recorded as recorded_origin
from rescompile.diagnostics.errors import UsageError


@command
def extract(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="ONNX model or torch.export program, built by rescompile.")
    ],
    output: OutputOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    format: FormatOption = "text",
) -> None:
    """Print the spec that a model was built from.

    The build options go to standard error.
    """
    from rescompile.files import file_types
    from rescompile.files.atomic_write import write_text
    from rescompile.files.checksum import with_checksum
    from rescompile.runtimes import recipes

    wanted = "only ONNX models and torch.export programs record their spec"
    file_types.refuse(str(model), wanted, file_types.ONNX, file_types.PROGRAM)
    file_types.check_file(model)
    if output not in (None, "-") and is_same_file(Path(str(output)), model):
        raise UsageError.of("E0802", f"-o {output} would overwrite the model itself")
    recorded = recorded_origin(model)
    options = list(recorded.options)
    given = dict(option.split("=", 1) for option in options if "=" in option)
    if "for" in given:  # otherwise the recipe would turn these passes on again
        options += recipes.turned_off(given["for"], given.get("precision"), recorded.passes)
    if as_json:
        facts = {"passes": list(recorded.passes), "options": options}
        print_json({"spec": recorded.text, "sha256": recorded.sha256, **facts})
        return
    if output in (None, "-"):
        sys.stdout.write(recorded.text)
    else:
        # Users edit this text, so it has a checksum trailer like a model.
        text = b"".join(with_checksum([recorded.text.encode()], b"# ", b": ", b"\n")).decode()
        write_text(text, Path(str(output)), force)
    if with_these := (*recorded.passes, *options):
        say(f"built with {shlex.join(f'--{step}' for step in with_these)}")  # users may paste these words into a shell
