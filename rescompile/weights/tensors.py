"""A tensor of a checkpoint, whatever the format of its file; values are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rescompile.weights.mapping import Array


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a checkpoint: its shape, its type as safetensors calls it (`F32`, `BF16`), and how to get its values.

    Values of a type narrower than float32 come as float32, which holds them exactly; all others as they are.
    """

    shape: tuple[int, ...]
    dtype: str
    make: Callable[[], Array]

    @classmethod
    def of(cls, array: Array) -> Tensor:
        """A tensor whose values are at hand."""
        return cls(array.shape, DTYPES.get(array.dtype.name, array.dtype.name), lambda: array)

    def array(self, dtype: str) -> Array:
        """The values in a type, contiguous."""
        return np.ascontiguousarray(self.make(), dtype).reshape(self.shape)  # numpy gives a scalar an axis


#: What numpy calls the types; `bfloat16` is that of a package beside it.
DTYPES = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8",
}  # fmt: skip
#: The types that float32 holds: nothing is narrowed silently.
FLOATS = ("F32", "F16", "BF16")
#: The types that are taken for a parameter of each type; counters come in any that counts.
ACCEPTED = {"float32": FLOATS, "int64": tuple(DTYPES.values())}
