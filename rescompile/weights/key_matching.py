"""The keys of a checkpoint matched to the parameters of a network: what fits, and a table of everything that does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from rescompile.diagnostics.errors import CheckFailed, Diagnostic, UsageError, clipped, nearest, one_of
from rescompile.ir.network import Network, parameters
from rescompile.weights.mapping import Array, Weights
from rescompile.weights.tensors import ACCEPTED, FLOATS, Tensor

STATUSES = ("differs", "missing", "unexpected", "other type")


@dataclass(frozen=True, slots=True)
class Misfit:
    """A tensor in which a checkpoint and a network differ; `found` and `wanted` are its shapes in the file and in the network."""

    name: str
    status: Literal["differs", "missing", "unexpected", "other type"]
    found: tuple[int, ...] | None
    wanted: tuple[int, ...] | None
    dtype: str | None = None

    def __str__(self) -> str:
        shape = list((self.wanted if self.found is None else self.found) or ())
        more = {"differs": f" instead of {list(self.wanted or ())}", "other type": f" with type {self.dtype}"}
        return f"{self.status:<10}  {self.name}  {shape}{more.get(self.status, '')}"


def from_arrays(arrays: Mapping[str, Any], network: Network) -> Weights:
    """Return weights from arrays in memory, such as a state dict on any device.

    Raises CheckFailed with every name, shape or type that does not fit, by the rules of `fitted`, and UsageError for a value
    that is not an array.
    """
    tensors = {name: Tensor.of(_array(name, value)) for name, value in arrays.items()}
    return fitted(tensors, network, "the mapping of weights")


def _array(name: str, value: Any) -> Array:
    """Return a value as an array. numpy does not convert torch tensors that require gradients, are on another device, or are
    bfloat16, so these are converted first."""
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        import numpy as np

        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"the weight '{clipped(name)}' is not an array: {str(error).splitlines()[0]}"
        raise UsageError(Diagnostic("E0802", message)) from None


def fitted(tensors: Mapping[str, Tensor], network: Network, what: str) -> Weights:
    """Return the tensors as the weights of a network: they must be all its parameters and nothing else.

    Counters (`num_batches_tracked`) may be missing. Raises CheckFailed with every name, shape or type that does not fit;
    `what` is the subject of that message.
    """
    refuse(misfits(tensors, network), network, what)
    wanted = dict(parameters(network))
    return Weights({name: partial(tensor.array, wanted[name].dtype) for name, tensor in tensors.items()})


def misfits(tensors: Mapping[str, Tensor], network: Network) -> list[Misfit]:
    """Return what does not fit: tensors with another shape, missing or unexpected ones, and types that float32 cannot represent."""
    wanted = dict(parameters(network))
    both = [(name, tensor, wanted[name]) for name, tensor in tensors.items() if name in wanted]
    return [
        *(Misfit(n, "differs", t.shape, w.shape, t.dtype) for n, t, w in both if t.shape != w.shape),
        *(Misfit(n, "missing", None, w.shape) for n, w in wanted.items() if n not in tensors and w.dtype != "int64"),
        *(Misfit(n, "unexpected", t.shape, None, t.dtype) for n, t in tensors.items() if n not in wanted),
        *(
            Misfit(n, "other type", t.shape, w.shape, t.dtype)
            for n, t, w in both
            if t.shape == w.shape and t.dtype not in ACCEPTED[w.dtype]
        ),
    ]


def refuse(rows: list[Misfit], network: Network, what: str, help: str | None = None) -> None:
    """Raise CheckFailed with all misfits in one table, if there are any."""
    if not rows:
        return
    listed = "".join(f"\n  {row}" for row in rows[:20]) + (f"\n  and {len(rows) - 20} more" if len(rows) > 20 else "")
    message = f"{what} does not fit {network.name}: {counted(rows)}{listed}"
    raise CheckFailed(Diagnostic("E0702", message, help=help or _near(rows)))


def counted(rows: list[Misfit]) -> str:
    """Return the number of misfits by status as a phrase: `2 differ, 12 unexpected`."""
    numbers = {status: sum(row.status == status for row in rows) for status in STATUSES}
    words = {"differs": "differ", "other type": "with another type"}
    return ", ".join(f"{number} {words.get(status, status)}" for status, number in numbers.items() if number)


def _near(rows: list[Misfit]) -> str | None:
    """Return the help for misfits: the missing name closest to an unexpected one, or what to do about types."""
    if all(row.status == "other type" for row in rows):
        return f"convert them to float32 first; a parameter must be {one_of(FLOATS)}"
    missing = [row.name for row in rows if row.status == "missing"]
    return next((nearest(row.name, missing) for row in rows if row.status == "unexpected" and missing), None)
