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
    return value


def __dir__() -> list[str]:
    return __all__
