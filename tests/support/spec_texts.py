"""Networks of specs that a test writes as text."""

from __future__ import annotations

from pathlib import Path

import rescompile
from rescompile.ir.network import Network


def elaborated(text: str, folder: Path, name: str = "spec") -> Network:
    """Return the network of the text of a spec, which is written to a file of this name."""
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return rescompile.elaborate(rescompile.load(path))
