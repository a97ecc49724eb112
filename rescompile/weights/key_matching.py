"""Matches the keys of a checkpoint with the parameters of a network, and lists everything that does not fit."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, get_args

from rescompile.diagnostics.errors import CheckFailed, UsageError, clipped, nearest, one_of
from rescompile.ir.network import Network, Op, Side, parameters, walk
from rescompile.records import record
from rescompile.weights.initialisation import draw
from rescompile.weights.mapping import Array, Weights
from rescompile.weights.tensors import ACCEPTED, FLOATS, Tensor
from rescompile.weights.value_check import checked

Status = Literal["differs", "missing", "unexpected", "other type"]
STATUSES: tuple[Status, ...] = get_args(Status)


@record
class Misfit:
    """A tensor in which a checkpoint and a network differ; `found` and `wanted` are its shapes in the file and in the
    network."""

    name: str
    status: Status
    found: tuple[int, ...] | None
    wanted: tuple[int, ...] | None
    dtype: str | None = None

    def __str__(self) -> str:
        shape = list((self.wanted if self.found is None else self.found) or ())
        more = {"differs": f" instead of {list(self.wanted or ())}", "other type": f" with type {self.dtype}"}
        return f"{self.status:<10}  {self.name}  {shape}{more.get(self.status, '')}"


def from_arrays(arrays: Mapping[str, Any], network: Network, say: Callable[[str], None] = warnings.warn) -> Weights:
    """Return weights from arrays in memory, such as a state dict on any device. `say` is called with notes on missing tensors
    that inference does not read.

    Raises CheckFailed with every name, shape or type that does not fit, by the rules of `fitted`, and UsageError for a value
    that is not an array.
    """
    tensors = {name: Tensor.of(_array(name, value)) for name, value in arrays.items()}
    what = "the mapping of weights"
    refuse(required(misfits(tensors, network), tensors, network), network, what)
    for note in notes(tensors, network):
        say(f"{what}: {note}")
    return fitted(tensors, network, what)


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
        raise UsageError.of("E0802", message) from None


def fitted(tensors: Mapping[str, Tensor], network: Network, what: str) -> Weights:
    """Return tensors that fit a network as its weights. Counters (`num_batches_tracked`) may be missing; missing parameters
    that inference does not read are drawn. Invalid values (NaN, infinities, negative variances) are refused when they are
    read; `what` names the file."""
    wanted = dict(parameters(network))
    given = {
        name: checked(name, wanted[name], partial(each.array, wanted[name].dtype), what)
        for name, each in tensors.items()
        if name in wanted
    }
    missing = [name for name in unread(network) if name not in given] if len(given) < len(wanted) else []
    fresh = draw(network)
    return Weights({**given, **{name: partial(fresh.__getitem__, name) for name in missing}})


def unread(network: Network) -> dict[str, str]:
    """Return the parameters that inference does not read, each with the name of its side branch: auxiliary heads."""
    sides = [(path, node) for path, node in walk(network.root) if isinstance(node, Side) and node.mode != "always"]
    names = [
        (f"{path}.{parameter.name}", outer)
        for outer, side in sides
        for path, op in walk(side.child, outer)
        if isinstance(op, Op)
        for parameter in op.kind.parameters(op.input)
    ]
    return {name: ".".join(name.split(".")[: len(outer.split(".")) + 1 if outer else 1]) for name, outer in names}


def required(rows: list[Misfit], tensors: Mapping[str, Tensor], network: Network) -> list[Misfit]:
    """Return the misfits that matter: side branches that inference does not read may be missing as a whole, and a complete
    network may be accompanied by tensors that belong to none of its rows."""
    sides = unread(network)
    partial_sides = {side for name, side in sides.items() if name in tensors}
    rows = [row for row in rows if row.status != "missing" or sides.get(row.name, "") in {"", *partial_sides}]
    if all(row.status == "unexpected" for row in rows):
        own = {_stem(name) for name, _ in parameters(network)}
        return [row for row in rows if _stem(row.name) in own]
    return rows


def _stem(name: str) -> str:
    """Return the first part of a name without digits: `layer5` and `layer4` have the same stem, so `layer5` is another stage
    rather than another module."""
    return re.sub(r"[0-9]+", "", name.partition(".")[0])


def notes(tensors: Mapping[str, Tensor], network: Network) -> list[str]:
    """Return notes on the misfits that do not matter (see `required`)."""
    names = {name for name, _ in parameters(network)}
    beside = dict.fromkeys(name.partition(".")[0] for name in tensors if name not in names)
    sides = unread(network)
    missing = sorted({*sides.values()} - {side for name, side in sides.items() if name in tensors})
    found = []
    if beside:
        found.append(f"ignored, since they are not part of {network.name}: {', '.join(map(clipped, beside))}")
    if missing:
        found.append(f"without {one_of(missing, 'and')}: drawn from seed 0, since inference does not read them")
    return found


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
    raise CheckFailed.of("E0702", message, help=help or _near(rows))


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
