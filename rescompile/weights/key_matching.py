"""The keys of a checkpoint matched to the parameters of a network: what fits, and a table of everything that does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from rescompile.diagnostics.errors import CheckFailed, Diagnostic, UsageError, clipped, nearest, one_of
from rescompile.ir.network import Network, parameters
from rescompile.weights.mapping import Array, Weights
from rescompile.weights.tensors import ACCEPTED, FLOATS, Tensor

STATUSES = ("differs", "missing", "unexpected", "other type")


@dataclass(frozen=True, slots=True)
class Misfit:
    """A tensor that a checkpoint and a network do not agree on; `found` and `wanted` are its shapes there and here."""

    name: str
    status: Literal["differs", "missing", "unexpected", "other type"]
    found: tuple[int, ...] | None
    wanted: tuple[int, ...] | None
    dtype: str | None = None

    def __str__(self) -> str:
        shape = list((self.wanted if self.found is None else self.found) or ())
        more = {"differs": f" instead of {list(self.wanted or ())}", "other type": f" of {self.dtype}"}
        return f"{self.status:<10}  {self.name}  {shape}{more.get(self.status, '')}"


def from_arrays(arrays: Mapping[str, Any], network: Network) -> Weights:
    """Weights from arrays in memory, such as a state_dict, wherever its tensors are. Raises CheckFailed with every name, shape
    or type that does not fit, by the rules of `fitted`, and UsageError for what is no array."""
    made = {name: _in_memory(name, array) for name, array in arrays.items()}
    return fitted({name: Tensor.of(array) for name, array in made.items()}, network, "what was given")


def _in_memory(name: str, value: Any) -> Array:
    """The array that somebody gave, who may have tensors of torch: numpy takes none that are trained or on another device,
    and none of bfloat16."""
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"the weight '{clipped(name)}' is no array: {str(error).splitlines()[0]}"
        raise UsageError(Diagnostic("E0802", message)) from None


def fitted(tensors: Mapping[str, Tensor], network: Network, what: str) -> Weights:
    """The weights that a network is given by tensors, which must be all of its own and nothing else.

    Counters (`num_batches_tracked`) may be missing. Raises CheckFailed with every name, shape or type that does not fit;
    `what` is the subject of that message.
    """
    refuse(misfits(tensors, network), network, what)
    wanted = dict(parameters(network))
    return Weights({name: partial(tensor.array, wanted[name].dtype) for name, tensor in tensors.items()})


def misfits(tensors: Mapping[str, Tensor], network: Network) -> list[Misfit]:
    """What does not fit: tensors of another shape, missing, not of the network, of a type that float32 cannot hold."""
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
    """Raise CheckFailed with misfits in one table, if there are any."""
    if not rows:
        return
    listed = "".join(f"\n  {row}" for row in rows[:20]) + (f"\n  and {len(rows) - 20} more" if len(rows) > 20 else "")
    message = f"{what} does not fit {network.name}: {counted(rows)}{listed}"
    raise CheckFailed(Diagnostic("E0702", message, help=help or _near(rows)))


def counted(rows: list[Misfit]) -> str:
    """How many misfits there are of each kind, as a sentence has it."""
    numbers = {status: sum(row.status == status for row in rows) for status in STATUSES}
    words = {"differs": "differ", "other type": "of another type"}
    return ", ".join(f"{number} {words.get(status, status)}" for status, number in numbers.items() if number)


def _near(rows: list[Misfit]) -> str | None:
    """What may be meant by a name that is not wanted; or what to do about types."""
    if all(row.status == "other type" for row in rows):
        return f"convert them to float32 first: only {one_of(FLOATS)} are taken as they are"
    missing = [row.name for row in rows if row.status == "missing"]
    return next((nearest(row.name, missing) for row in rows if row.status == "unexpected" and missing), None)
