"""Weights: a mapping from parameter name to array, separate from the tree and computed on demand. A network needs only
kilobytes until its weights are written.

A checkpoint passes through `file_formats`, the file of its format, `key_prefixes` and `key_matching`.
"""

from rescompile.weights.initialisation import draw
from rescompile.weights.key_matching import from_arrays
from rescompile.weights.mapping import Array, Weights

__all__ = ["Array", "Weights", "draw", "from_arrays"]
