"""The definition of what a network computes: the tree evaluated by numpy in float64, one rule per op.

Every target is compared with it, in `verify`, in `bench` and in the tests. Each op is written down once more from torch's
documented meaning, not from any backend, so that a mistake shared by all backends still shows. Output sizes too are derived
here, and every value is checked against the shape that the tree declares for it.

Evaluation mode only: dropout is the identity, norms use their running statistics.

Clarity goes before speed, but convolutions are matrix products of BLAS and pools work on views, so that the largest networks
of the zoo take seconds. In a narrower precision the same evaluation measures what rounding alone does to an output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rescompile.ir.network import LOGITS, Network, Op, Parallel, Side
from rescompile.ir.op_evaluation import MERGES, OPS, Array, Tensors
from rescompile.ir.ops import Conv, Linear, Norm, Shape
from rescompile.ir.traversal import ThreadRules, thread

Round = Callable[[Array], Array]


def interpret(
    network: Network, weights: Mapping[str, NDArray[Any]], x: NDArray[Any], precision: str = "fp64"
) -> dict[str, Array]:
    """The outputs for a batch `x`: `logits`, then those of side branches that are always computed, in execution order.

    `weights` has the full names of `rescompile.ir.network.parameters`; those that evaluation does not read may be missing.
    `precision` is one of ARITHMETIC. For images of the network's own size every declared shape is checked.
    """
    arithmetic = ARITHMETIC[precision]

    def read(name: str, op: Op, x: Array) -> Tensors:
        tensors = _tensors(name, op, weights, arithmetic.dtype)
        return {key: arithmetic.store(value) for key, value in tensors.items()}

    return _evaluate(network, x, arithmetic, read)


def calibrated(network: Network, weights: Mapping[str, NDArray[Any]], x: NDArray[Any]) -> dict[str, Array]:
    """The running statistics, by full name, of all batch norms that evaluation computes, taken from the batch `x`.

    Before its scale and shift, each channel of a norm's output then has mean 0 and variance 1 over this batch. In float32:
    whatever statistics come out are the weights from then on.
    """
    statistics: dict[str, Array] = {}

    def read(name: str, op: Op, x: Array) -> Tensors:
        tensors = dict(_tensors(name, op, weights, np.float32))
        if isinstance(op.kind, Norm) and op.kind.kind == "batch":
            others = tuple(axis for axis in range(x.ndim) if axis != 1)
            tensors |= {"running_mean": x.mean(others), "running_var": x.var(others)}
            statistics.update({f"{name}.{key}": tensors[key] for key in ("running_mean", "running_var")})
        return tensors

    _evaluate(network, x, ARITHMETIC["fp32"], read)
    return statistics


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """The numbers of a precision: the type that numpy computes with, and how values are rounded when they are stored
    and when convolutions and linear layers read them to multiply."""

    dtype: DTypeLike
    store: Round = lambda values: values
    multiply: Round = lambda values: values


def _to_bits(bits: int) -> Round:
    """Rounds float32 to so many bits of mantissa, the leading one included (Dekker 1971)."""
    factor = np.float32(2 ** (24 - bits) + 1)

    def rounded(values: Array) -> Array:
        scaled = values * factor
        return np.asarray(scaled - (scaled - values))

    return rounded


def _to_half(values: Array) -> Array:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


#: What each precision does, by its name. Sums are taken in float32 in all but the first, as runtimes take them.
ARITHMETIC: dict[str, Arithmetic] = {
    "fp64": Arithmetic(np.float64),
    "fp32": Arithmetic(np.float32),
    "tf32": Arithmetic(np.float32, multiply=_to_bits(11)),
    "fp16": Arithmetic(np.float32, store=_to_half),
    "bf16": Arithmetic(np.float32, store=_to_bits(8)),
}


def _evaluate(
    network: Network, x: NDArray[Any], arithmetic: Arithmetic, read: Callable[[str, Op, Array], Tensors]
) -> dict[str, Array]:
    """The outputs of a network by name. `read` gives the tensors of an op by its full name; it may look at the op's input."""
    sides: dict[str, Array] = {}
    declared_size = x.shape[1:] == network.input

    def op(name: str, node: Op, x: Array) -> Array:
        check(name, "input", node.input, x)
        tensors = read(name, node, x)
        if isinstance(node.kind, Conv | Linear):
            x, tensors = arithmetic.multiply(x), {**tensors, "weight": arithmetic.multiply(tensors["weight"])}
        y = arithmetic.store(OPS[type(node.kind)](node.kind, x, tensors))
        check(name, "output", node.output, y)
        return y

    def split(_: str, node: Parallel, x: Array) -> Sequence[Array]:
        count = len(node.branches)
        return np.split(x, count, axis=1) if node.split else [x] * count  # the first branch sees the first channels

    def merge(name: str, node: Parallel, values: list[Array]) -> Array:
        if node.survival and node.survival.rescale == "test":
            # In training the branch was there only with this probability, so in evaluation it counts by as much.
            # With "train" it was divided by the probability in training, and evaluation leaves it alone.
            values[0] = node.survival.probability * values[0]
        y = arithmetic.store(MERGES[node.merge](values))
        check(name, "output", node.output, y)
        return y

    def side(path: str, node: Side, x: Array, carry: Callable[[Array], Array]) -> None:
        if node.mode == "always":
            output = node.output_name or path
            assert output not in sides, f"two side branches are called {output}"
            sides[output] = carry(x)

    def check(name: str, which: str, shape: Shape, value: Array) -> None:
        assert value.dtype == arithmetic.dtype, f"{name}: {arithmetic.dtype} became {value.dtype}"
        if declared_size:
            assert value.shape == (len(x), *shape), f"{name}: declared {which} {shape}, computed {value.shape[1:]}"

    start = arithmetic.store(np.asarray(x, arithmetic.dtype))
    logits = thread(network.root, start, ThreadRules(op, merge, side, split))
    check(network.name, "output", network.root.output, logits)
    assert LOGITS not in sides, f"a side branch may not be called {LOGITS}"
    return {LOGITS: logits, **sides}


def _tensors(name: str, op: Op, weights: Mapping[str, NDArray[Any]], dtype: DTypeLike) -> Tensors:
    """The tensors of one op. The one integer among them, a norm's count of batches, takes no part in evaluation."""
    tensors = {}
    for parameter in op.kind.parameters(op.input):
        if parameter.dtype != "int64":
            tensors[parameter.name] = value = np.asarray(weights[f"{name}.{parameter.name}"], dtype)
            # Checked, because numpy would broadcast a wrong shape silently.
            assert value.shape == parameter.shape, f"{name}.{parameter.name}: {value.shape} is not {parameter.shape}"
    return tensors
