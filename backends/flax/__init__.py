"""Flax NNX: source that imports only JAX and Flax, with one class per kind of block, and live modules.

The package itself only declares the target, so that the options of `build` are known without imports; `source_file`
writes the file, which requires neither JAX nor Flax.
"""

from __future__ import annotations

from rescompile.backend import Option, lazily

from .._options import DYNAMIC, STYLE, running_variance

SUFFIX = "_flax.py"
OPTIONS = (
    STYLE,
    DYNAMIC,
    running_variance("biased"),
    Option("scan", bool, False, "Run equal blocks of a row in one scan, which compiles faster (Flax)."),
)
EVALUATION_REQUIRES = {"jax": "pip install 'rescompile[flax]'", "flax.nnx": "pip install 'rescompile[flax]'"}
FILLS_ZEROS = "which training would overwrite"

__getattr__ = lazily(f"{__name__}.source_file")
