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

        NOTEBOOK_VIEWS.update({"Network": _network_html, "Explanation": _explanation_html, "Artifact": _artifact_html})
    return value


def _network_html(network: Any) -> str:
    """Return the picture of a network with its table, or only the table if the network has too many parts to draw."""
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


def _explanation_html(explanation: Any) -> str:
    """Return what `explain` prints."""
    from html import escape

    from rescompile.explain import text_report

    return f"<pre>{escape(chr(10).join(text_report.lines(explanation, {}, 100)))}</pre>"


def _artifact_html(artifact: Any) -> str:
    """Return a summary of the network of an artifact, and a table of its facts."""
    from html import escape

    from rescompile.analysis import tree_table
    from rescompile.diagnostics.text_table import html_table

    facts = [(name, str(value)) for name, value in {"suffix": artifact.suffix, **artifact.facts}.items()]
    return f"<pre>{escape(tree_table.summary(artifact.network))}</pre>{html_table([('artifact', ''), *facts])}"


def __dir__() -> list[str]:
    return __all__
