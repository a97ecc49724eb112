"""PyTorch: the spellings of its source, live modules, and programs that load without rescompile.

The package itself only declares the target `torch`, so that the options of `build` are known without torch; the target
`source`, whose spellings are here, does not require it either.
"""

from __future__ import annotations

from rescompile.backend import Option, lazily

from .._options import DYNAMIC

SUFFIX = ".pt2"
OPTIONS = (
    Option("batch", int, None, "Fix the batch to this size. Default: dynamic.", 1, 1 << 16),
    DYNAMIC,
)
REQUIRES = {"torch": "pip install 'rescompile[torch]'"}
FILLS_ZEROS = "which training would overwrite"

__getattr__ = lazily(f"{__name__}.module")
