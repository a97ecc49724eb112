"""Keras 3: source that imports only Keras, with one function per kind of block, and live functional models.

The package itself only declares the target, so that the options of `build` are known without imports; `source_file`
writes the file, which does not require Keras.
"""

from __future__ import annotations

from rescompile.backend import Option, lazily

from .._options import DYNAMIC, running_variance

SUFFIX = "_keras.py"
OPTIONS = (
    Option(
        "style",
        str,
        "classes",
        "Source style: classes (one function per kind of block), or flat (one per block). Default: classes.",
        choices=("classes", "flat"),
    ),
    DYNAMIC,
    running_variance("biased"),
)
EVALUATION_REQUIRES = {
    "rescompile.backends.keras.engine": "pip install 'rescompile[keras]' and jax, torch or tensorflow; KERAS_BACKEND names one"
}
FILLS_ZEROS = "which training would overwrite"

__getattr__ = lazily(f"{__name__}.source_file")
