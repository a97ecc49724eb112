"""PyTorch: how its source is spelled, live modules, and programs that load without rescompile.

The package imports no torch, so that the target `source` needs none; what the target `torch` has comes with `module`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

REQUIRES = ("torch",)


def __getattr__(name: str) -> Any:
    return getattr(import_module(".module", __name__), name)
