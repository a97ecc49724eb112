"""Refuses weights with values that no network can compute with: NaN, infinities and negative variances."""

from __future__ import annotations

from collections.abc import Callable

from rescompile.diagnostics.errors import CheckFailed
from rescompile.ir.ops import Parameter
from rescompile.weights.mapping import Array

_FINITE = "it comes from a training run that diverged, or the file is damaged: use an earlier checkpoint"
_VARIANCE = (
    "the tensor is not a variance, or the file is damaged: compare it with the checkpoint that it was converted from"
)


def checked(name: str, parameter: Parameter, make: Callable[[], Array], what: str) -> Callable[[], Array]:
    """Return a function that reads a tensor of a file and checks its values; `what` names the file. It raises CheckFailed."""

    def read() -> Array:
        values = make()
        if problem := _problem(values, parameter):
            message, help = problem
            raise CheckFailed.of("E0706", f"{what}: {name} has {message}", help=help)
        return values

    return read


def _problem(values: Array, parameter: Parameter) -> tuple[str, str] | None:
    """Return what is wrong with the values of a parameter and what to do about it, or None for valid ones."""
    import numpy as np

    if values.dtype.kind != "f" or not values.size:
        return None
    if not np.isfinite(values).all():
        count = int(values.size - np.isfinite(values).sum())
        return f"{count:,} of {values.size:,} values that are NaN or infinite", _FINITE
    if (least := float(values.min())) < parameter.least:
        wanted = "above 0, since the norm has eps 0" if parameter.least else "at least 0"
        return f"values down to {least:.3g}, but a variance must be {wanted}", _VARIANCE
    return None
