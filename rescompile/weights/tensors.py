"""A tensor of a checkpoint, whatever the format of its file; values are read on demand."""

from __future__ import annotations

from collections.abc import Callable

from rescompile.records import record
from rescompile.weights.mapping import Array


@record
class Tensor:
    """A tensor of a checkpoint: its shape, its type in the notation of safetensors (`F32`, `BF16`), and a function that reads
    its values.

    `make` widens float16 and bfloat16 to float32, which is exact; all other types stay as they are.
    """

    shape: tuple[int, ...]
    dtype: str
    make: Callable[[], Array]

    @classmethod
    def of(cls, array: Array) -> Tensor:
        """Return the tensor of an array."""
        return cls(array.shape, DTYPES.get(array.dtype.name, array.dtype.name), lambda: array)

    def array(self, dtype: str) -> Array:
        """Return the values as a contiguous array of a type."""
        import numpy as np

        # ascontiguousarray adds an axis to a scalar
        return np.ascontiguousarray(self.make(), dtype).reshape(self.shape)


#: The types of safetensors by their names in numpy; `bfloat16` comes from ml_dtypes.
DTYPES = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8",
}  # fmt: skip
#: The types that float32 represents exactly; values are never narrowed silently.
FLOATS = ("F32", "F16", "BF16")
#: The accepted types for a parameter of each type; a counter may have any of them.
ACCEPTED = {"float32": FLOATS, "int64": tuple(DTYPES.values())}
