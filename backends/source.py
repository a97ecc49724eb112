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
        "Style of source: classes, or flat: one class per block. Default: classes.",
        choices=("classes", "flat"),
    ),
    Option("dynamic", str, None, "Leave image axes free: height, width, or height,width.", metavar="AXES"),
)
REQUIRES: dict[str, str] = {}
EVALUATION_REQUIRES = {"torch": "pip install 'rescompile[torch]'"}
FILLS_ZEROS = "the source initialises its own weights"
IGNORES_WEIGHTS = f"{FILLS_ZEROS}; load yours into its module by load_state_dict"
RECIPE_OPTIONS: tuple[str, ...] = ()
extract = rewritten = None

__getattr__ = lazily("rescompile.backends.torch.source_file")
