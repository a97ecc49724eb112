"""rescompile: a framework-agnostic spec compiler for residual-family networks.

spec = rescompile.load("densenet121")            # a zoo name, or a path such as "specs/my.yaml"
network = rescompile.elaborate(spec)             # the tree, with shapes
rescompile.build(spec, "onnx").write("densenet121.onnx")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rescompile.elaboration import elaborate
    from rescompile.lang.load import load
    from rescompile.pipeline import build
    from rescompile.version import __version__

__all__ = ["__version__", "build", "elaborate", "load"]

# Loaded when first asked for, so that a command that builds nothing imports no numpy.
_HOMES = {"build": "pipeline", "elaborate": "elaboration", "load": "lang.load", "__version__": "version"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rescompile' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(f"rescompile.{_HOMES[name]}"), name)
    globals()[name] = value
    if name in ("elaborate", "load"):
        from rescompile.diagnostics.notebook_views import NOTEBOOK_VIEWS

        NOTEBOOK_VIEWS["Network"] = _shown_in_a_notebook
    return value


def _shown_in_a_notebook(network: Any) -> str:
    """The picture of a network with its table; the table alone where it has too many parts to draw."""
    from html import escape

    from rescompile.analysis import tree_table
    from rescompile.diagnostics.errors import UsageError
    from rescompile.drawing import picture
    from rescompile.drawing.svg import svg

    try:
        drawn = svg(picture(network).scene)
    except UsageError:
        drawn = ""
    table = escape(f"{tree_table.summary(network)}\n\n{tree_table.table(network, 1)}")
    return f"{drawn}<details{'' if drawn else ' open'}><summary>Table</summary><pre>{table}</pre></details>"


def __dir__() -> list[str]:
    return __all__
