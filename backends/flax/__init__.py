"""Flax NNX: source that imports only JAX and Flax, with one class per kind of block, and live modules.

The package itself only declares the target, so that the options of `build` are known without imports; `source_file`
writes the file, which requires neither JAX nor Flax.
"""

from __future__ import annotations

from rescompile.backend import Option, lazily

SUFFIX = "_flax.py"
OPTIONS = (
    Option(
        "style",
        str,
        "classes",
        "Source style: classes, modules, or flat (one class per block). Default: classes.",
        choices=("classes", "modules", "flat"),
    ),
    Option("dynamic", str, None, "Make axes dynamic: height,width or one; length; depth.", metavar="AXES"),
    Option(
        "running_variance",
        str,
        "biased",
        "Running variance of norms: biased (Flax, Keras) or unbiased (PyTorch, MLX).",
        choices=("biased", "unbiased"),
    ),
    Option("scan", bool, False, "Run equal blocks of a row in one scan, which compiles faster (Flax)."),
)
REQUIRES: dict[str, str] = {}
EVALUATION_REQUIRES = {"jax": "pip install 'rescompile[flax]'", "flax.nnx": "pip install 'rescompile[flax]'"}
IGNORES_WEIGHTS = ""
FILLS_ZEROS = "which training would overwrite"
RECIPE_OPTIONS: tuple[str, ...] = ()
wrapping = extract = rewritten = None

__getattr__ = lazily(f"{__name__}.source_file")
