"""PyTorch: the spellings of its source, live modules, and programs that load without rescompile.

The package itself only declares the target `torch`, so that the options of `build` are known without torch; the target
`source`, whose spellings are here, does not require it either.
"""

from __future__ import annotations

from rescompile.backend import Option, lazily

SUFFIX = ".pt2"
OPTIONS = (
    Option("batch", int, None, "Fix the batch to this size. Default: dynamic.", 1, 1 << 16),
    Option("dynamic", str, None, "Make axes dynamic: height,width or one; length; depth.", metavar="AXES"),
)
REQUIRES = {"torch": "pip install 'rescompile[torch]'"}
EVALUATION_REQUIRES: dict[str, str] = {}
IGNORES_WEIGHTS = ""
FILLS_ZEROS = "which training would overwrite"
RECIPE_OPTIONS: tuple[str, ...] = ()
wrapping = rewritten = None

__getattr__ = lazily(f"{__name__}.module")
