"""`lsp`: the language server of spec files."""

from __future__ import annotations

from typing import Annotated

import typer

from rescompile.cli.command import command
from rescompile.diagnostics.errors import Unavailable


@command
def lsp(
    stdio: Annotated[
        bool, typer.Option("--stdio", show_default=False, help="Use standard input and output; always on.")
    ] = True,
) -> None:
    """Run the language server of spec files.

    It reads standard input and writes standard output.
    """
    try:
        from rescompile.lsp.server import serve
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("pygls", "lsprotocol"):
            raise
        message = f"the language server needs {package}, which is not installed"
        raise Unavailable.of("E0902", message, help="pip install 'rescompile[lsp]'") from None
    serve()
