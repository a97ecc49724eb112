"""MLX: source that imports only MLX, with one class per kind of block, and live modules.

The package itself only declares the target, so that the options of `build` are known without imports; `source_file`
writes the file, which does not require MLX.
"""

from __future__ import annotations

from rescompile.backend import Option, lazily

SUFFIX = "_mlx.py"
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
        "unbiased",
        "Running variance of norms: biased (Flax, Keras) or unbiased (PyTorch, MLX).",
        choices=("biased", "unbiased"),
    ),
)
REQUIRES: dict[str, str] = {}
EVALUATION_REQUIRES = {"mlx.core": "pip install 'rescompile[mlx]'", "mlx.nn": "pip install 'rescompile[mlx]'"}
IGNORES_WEIGHTS = ""
FILLS_ZEROS = "which training would overwrite"
RECIPE_OPTIONS: tuple[str, ...] = ()
wrapping = extract = rewritten = None

__getattr__ = lazily(f"{__name__}.source_file")
