"""The precisions in which networks are stored and computed."""

from __future__ import annotations

from collections.abc import Mapping

from rescompile.records import record


@record
class Precision:
    """How numbers are stored and multiplied: the bits of their significand, the bytes of one, the largest finite value of
    activations, and the type that arrays have before anything is quantised."""

    name: str
    bits: int
    bytes: int
    largest: float
    dtype: str

    @property
    def unit(self) -> float:
        """The relative error of rounding one number."""
        return 2.0**-self.bits


#: All precisions by name. tf32 is float32 in memory, and NVIDIA's tensor cores multiply 11 bits of it; an int8 file has float32
#: activations between its quantised layers.
PRECISIONS: Mapping[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision("fp32", 24, 4, 3.4e38, "float32"),
        Precision("tf32", 11, 4, 3.4e38, "float32"),
        Precision("fp16", 11, 2, 65504.0, "float16"),
        Precision("bf16", 8, 2, 3.39e38, "bfloat16"),
        Precision("int8", 8, 1, 3.4e38, "float32"),
    )
}
#: Those that need no calibration.
FLOATS: Mapping[str, Precision] = {name: each for name, each in PRECISIONS.items() if name != "int8"}
