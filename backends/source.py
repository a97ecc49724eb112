"""PyTorch source: one standalone file that imports only torch, with one class per kind of block.

This module only declares the target, so that the options of `build` are known at once; `torch.source_file` writes the file.
"""

from __future__ import annotations

from rescompile.backend import Option, lazily

SUFFIX = ".py"
OPTIONS = (
    Option(
        "style",
        str,
        "classes",
        "Style of source: classes (default), or flat: one class per block.",
        choices=("classes", "flat"),
    ),
    Option("dynamic", str, None, "Axes of the image to leave free: height,width, or one of them.", metavar="AXES"),
)
REQUIRES: dict[str, str] = {}
EVALUATION_REQUIRES = {"torch": "pip install 'rescompile[torch]'"}
IGNORES_WEIGHTS = FILLS_ZEROS = "the source draws its own weights"
RECIPE_OPTIONS: tuple[str, ...] = ()
extract = rewritten = None

__getattr__ = lazily("rescompile.backends.torch.source_file")
