"""MLX: source that imports only MLX, with one class per kind of block, and live modules.

The package itself only declares the target, so that the options of `build` are known without imports; `source_file`
writes the file, which does not require MLX.
"""

from __future__ import annotations

from rescompile.backend import lazily

from .._options import DYNAMIC, STYLE, running_variance

SUFFIX = "_mlx.py"
OPTIONS = (STYLE, DYNAMIC, running_variance("unbiased"))
EVALUATION_REQUIRES = {"mlx.core": "pip install 'rescompile[mlx]'", "mlx.nn": "pip install 'rescompile[mlx]'"}
FILLS_ZEROS = "which training would overwrite"

__getattr__ = lazily(f"{__name__}.source_file")
