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
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rescompile.ir.network import LOGITS, Network, Op, Parallel, Side
from rescompile.ir.op_evaluation import MERGES, OPS, moments
from rescompile.ir.ops import WEIGHTED, Conv, Kind, Norm, Shape
from rescompile.ir.precision import PRECISIONS
from rescompile.ir.traversal import ThreadRules, thread
from rescompile.ir.window_evaluation import Array, Tensors, with_plain_weights
from rescompile.records import record

Round = Callable[[Array], Array]


@record
class Noise:
    """Random numbers of a seed that perturb an evaluation by at most `units` units of rounding; see `_stochastic`."""

    seed: int
    units: int


def interpret(
    network: Network,
    weights: Mapping[str, NDArray[Any]],
    x: NDArray[Any],
    precision: str = "fp64",
    noise: Noise | None = None,
) -> dict[str, Array]:
    """Return the outputs for a batch `x`: `logits`, then those of side branches that are always computed, in execution order.

    `weights` has the full names of `rescompile.ir.network.parameters`; those that evaluation does not read may be missing.
    `precision` is one of ARITHMETIC; `noise` perturbs the values. For images of the network's own size every declared shape is
    checked.
    """
    arithmetic = ARITHMETIC[precision] if noise is None else _stochastic(precision, noise)

    return _evaluate(network, x, arithmetic, lambda name, op, _: _stored(name, op, weights, arithmetic))


def first_not_finite(
    network: Network, weights: Mapping[str, NDArray[Any]], x: NDArray[Any], precision: str = "fp64"
) -> str | None:
    """Return the first value in execution order that is NaN or infinite: `the input`, `the weight conv1.weight` or `the output
    of layer1.0.add`; None where all are finite."""
    arithmetic = ARITHMETIC[precision]

    def watch(what: str, value: Array) -> None:
        if not np.isfinite(value).all():
            raise _NotFiniteError(what)

    def read(name: str, op: Op, x: Array) -> Tensors:
        tensors = _stored(name, op, weights, arithmetic)
        for key, value in tensors.items():
            watch(f"the weight {name}.{key}", value)
        return tensors

    try:
        with np.errstate(all="ignore"):
            _evaluate(network, x, arithmetic, read, watch)
    except _NotFiniteError as found:
        return str(found)
    return None


class _NotFiniteError(Exception):
    """The value that ends an evaluation."""


def calibrated(network: Network, weights: Mapping[str, NDArray[Any]], x: NDArray[Any]) -> dict[str, Array]:
    """Return the running statistics, by full name, of all batch norms that evaluation computes, taken from the batch `x`.

    Before its scale and shift, each channel of a norm's output then has mean 0 and variance 1 over this batch, or less for a
    channel that hardly varies (see `alive`). In float32: whatever statistics come out are the weights from then on.
    """
    statistics: dict[str, Array] = {}

    def read(name: str, op: Op, x: Array) -> Tensors:
        tensors = dict(_tensors(name, op, weights, np.float32))
        if isinstance(op.kind, Norm) and op.kind.kind == "batch":
            tensors |= dict(zip(("running_mean", "running_var"), _statistics(x), strict=True))
            statistics.update({f"{name}.{key}": tensors[key] for key in ("running_mean", "running_var")})
        return tensors

    _evaluate(network, x, ARITHMETIC["fp32"], read)
    return statistics


#: The least variance of a channel, as a share of the mean over the channels of its norm.
ALIVE = 0.25
#: Channels whose variance is a smaller share of their mean square are constant: the rest is rounding.
CONSTANT = 1e-10


def _statistics(x: Array) -> tuple[Array, Array]:
    """Return the mean and the variance of each channel over a batch, the latter as `alive` has it."""
    others = tuple(axis for axis in range(x.ndim) if axis != 1)
    mean = x.mean(others)
    return mean, alive(x.var(others), mean)


def alive(variance: Array, mean: Array) -> Array:
    """Return the variances of the channels of one norm, ALIVE times their mean at least; where all channels are constant, their
    mean square.

    A channel that a ReLU leaves dead in the batch of the statistics has variance 0, and would be multiplied by 1 / sqrt(eps)
    where it is alive: a few such norms in a row enlarge rounding errors without limit, and overflow in another batch.
    """
    typical, square = float(variance.mean(dtype=np.float64)), float(np.square(mean, dtype=np.float64).mean())
    if typical <= CONSTANT * square or not typical:
        return np.full_like(variance, square or 1)
    return np.maximum(variance, np.asarray(ALIVE * typical, variance.dtype))


@record
class Arithmetic:
    """The numbers of a precision: the type that numpy computes with, and how values are rounded when they are stored
    and when convolutions and linear layers read them, and their weights, to multiply. `average` changes means; its
    other arguments are the magnitude of the averaged numbers and their count."""

    dtype: DTypeLike
    store: Round = lambda values: values
    multiply: Round = lambda values: values
    weigh: Round | None = None
    average: Callable[[Array, Array, int], Array] = lambda means, magnitude, count: means


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


def _to_levels(values: Array) -> Array:
    """Values rounded to the 256 levels between their least and their largest, zero among them."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    step = np.asarray((high - low) / 255 or 1, values.dtype)
    return np.asarray(np.round(values / step) * step)


def _weights_to_levels(weight: Array) -> Array:
    """Weights rounded to 255 levels about zero, for each output channel."""
    step = np.abs(weight).max(tuple(range(1, weight.ndim)), keepdims=True) / weight.dtype.type(127)
    step[step == 0] = 1
    return np.asarray(np.round(weight / step) * step)


#: What each precision does, by its name. Sums are taken in float32 in all but the first, as runtimes take them; int8 takes the
#: range of an activation from the batch itself.
ARITHMETIC: dict[str, Arithmetic] = {
    "fp64": Arithmetic(np.float64),
    "fp32": Arithmetic(np.float32),
    "tf32": Arithmetic(np.float32, multiply=_to_bits(11)),
    "fp16": Arithmetic(np.float32, store=_to_half),
    "bf16": Arithmetic(np.float32, store=_to_bits(8)),
    "int8": Arithmetic(np.float32, multiply=_to_levels, weigh=_weights_to_levels),
}


def _stochastic(precision: str, noise: Noise) -> Arithmetic:
    """Return the arithmetic of a precision with random rounding (Parker 1997; CESTAC, Vignes 1993): every value is perturbed
    before it is stored, and every mean of n numbers that a norm takes by as much as the rounding of their sum, which grows
    with the square root of n (Higham and Mary 2019)."""
    generator, arithmetic = np.random.default_rng(noise.seed), ARITHMETIC[precision]
    summed = float(np.finfo(arithmetic.dtype).eps) / 2
    stored = PRECISIONS[precision].unit if precision in PRECISIONS else summed

    def perturbed(values: Array, magnitude: Array, unit: float) -> Array:
        share = noise.units * unit * (2 * generator.random(values.shape, np.float32) - 1)
        return np.asarray(values + magnitude * share, values.dtype)

    return replace(
        arithmetic,
        store=lambda values: arithmetic.store(perturbed(values, values, stored)),
        average=lambda means, magnitude, count: perturbed(means, magnitude, summed * count**0.5),
    )


def _evaluate(
    network: Network,
    x: NDArray[Any],
    arithmetic: Arithmetic,
    read: Callable[[str, Op, Array], Tensors],
    watch: Callable[[str, Array], None] = lambda what, value: None,
) -> dict[str, Array]:
    """Return the outputs of a network by name. `read` gives the tensors of an op by its full name; it may look at the op's
    input. `watch` sees each value, with words for what it is."""
    sides: dict[str, Array] = {}
    declared_size = x.shape[1:] == network.input

    def op(name: str, node: Op, x: Array) -> Array:
        check(name, "input", node.input, x)
        y = _computed(node.kind, x, read(name, node, x), arithmetic)
        check(name, "output", node.output, y)
        watch(f"the output of {name}", y)
        return y

    def split(_: str, node: Parallel, x: Array) -> Sequence[Array]:
        if not node.split:
            return [x] * len(node.branches)
        ends = np.cumsum([shape[0] for shape in node.given])
        return np.split(x, ends[:-1], axis=1)  # the first branch sees the first channels

    def merge(name: str, node: Parallel, values: list[Array]) -> Array:
        if node.survival and node.survival.rescale == "test":
            # In training the branch was there only with this probability, so in evaluation it counts by as much.
            # With "train" it was divided by the probability in training, and evaluation leaves it alone.
            values[0] = node.survival.probability * values[0]
        y = arithmetic.store(MERGES[node.merge](values))
        check(name, "output", node.output, y)
        watch(f"the output of {name}", y)
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
    watch("the input", start)
    logits = thread(network.root, start, ThreadRules(op, merge, side, split))
    check(network.name, "output", network.root.output, logits)
    assert LOGITS not in sides, f"a side branch may not be called {LOGITS}"
    return {LOGITS: logits, **sides}


def _computed(kind: Kind, x: Array, tensors: Tensors, arithmetic: Arithmetic) -> Array:
    """Return the output of an op for an input."""
    if isinstance(kind, Conv):
        kind, tensors = with_plain_weights(kind, tensors)
    if isinstance(kind, WEIGHTED):
        weigh = arithmetic.weigh or arithmetic.multiply
        x, tensors = arithmetic.multiply(x), {**tensors, "weight": weigh(tensors["weight"])}
    if isinstance(kind, Norm) and kind.kind != "batch":
        mean, variance = moments(kind, x)
        count, magnitude = x.size // mean.size, np.hypot(mean, np.sqrt(variance))
        mean, variance = arithmetic.average(mean, magnitude, count), arithmetic.average(variance, variance, count)
        tensors = {**tensors, "mean": mean, "variance": variance}
    return arithmetic.store(OPS[type(kind)](kind, x, tensors))


def _stored(name: str, op: Op, weights: Mapping[str, NDArray[Any]], arithmetic: Arithmetic) -> Tensors:
    """Return the tensors of one op as a precision stores them."""
    return {key: arithmetic.store(value) for key, value in _tensors(name, op, weights, arithmetic.dtype).items()}


def _tensors(name: str, op: Op, weights: Mapping[str, NDArray[Any]], dtype: DTypeLike) -> Tensors:
    """Return the tensors of one op. The one integer among them, a norm's count of batches, takes no part in evaluation."""
    tensors = {}
    for parameter in op.kind.parameters(op.input):
        if parameter.dtype != "int64":
            tensors[parameter.name] = value = np.asarray(weights[f"{name}.{parameter.name}"], dtype)
            # Checked, because numpy would broadcast a wrong shape silently.
            assert value.shape == parameter.shape, f"{name}.{parameter.name}: {value.shape} is not {parameter.shape}"
    return tensors
