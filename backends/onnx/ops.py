"""The nodes of each op and each merge: one table row each, `RULES` and `MERGES` at the end.

A rule adds its nodes to the graph and returns the name of the value that they compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rescompile.ir import ops
from rescompile.ir.network import Op, Parallel
from rescompile.weights import Array

from .convolutions import conv, conv_transpose
from .model import Graph
from .norms import batch_norm, group_norm, layer_norm, scaled
from .rearranging import border, depth_to_space, lrn, part, reduce, shuffle, softmax, space_to_depth, unflatten

Rule = Callable[[Graph, str, Op, Any, str], str]


def _linear(graph: Graph, name: str, op: Op, kind: ops.Linear, value: str) -> str:
    weights = graph.weights(name, op, "weight", "bias")
    return graph.call(name, "Gemm", [value, *weights], op.output, transB=1)


def _affine(graph: Graph, name: str, op: Op, kind: ops.Affine, value: str) -> str:
    """Add one node for values per channel, which ONNX Runtime folds into a convolution before it; for a single
    value, a product and a sum."""
    names = [part for part, learned in (("weight", kind.scale), ("bias", kind.shift)) if learned]
    own = dict(zip(names, graph.weights(name, op, *names), strict=True))
    if kind.per == "channel":
        scale = own.get("weight") or graph.numbers(f"{name}.no_scale", op.input[0], 1)
        shift = own.get("bias") or graph.numbers(f"{name}.no_shift", op.input[0], 0)
        return scaled(graph, name, op, value, scale, shift)
    if kind.scale:
        value = graph.call(f"{name}.scaled" if kind.shift else name, "Mul", [value, own["weight"]], op.output)
    return graph.call(name, "Add", [value, own["bias"]], op.output) if kind.shift else value


def _weighted_sum(graph: Graph, name: str, op: Op, kind: ops.WeightedSum, value: str) -> str:
    """Add the shares, which depend on no input, and the sum of their products with the ranges."""
    weight, count = graph.weights(name, op, "weight")[0], (kind.ranges,)
    first = graph.integers(f"{name}.first", [0])
    weight = graph.call(f"{name}.row", "Unsqueeze", [weight, first], count)
    if kind.kind == "softmax":
        shares = graph.call(f"{name}.shares", "Softmax", [weight], count, axis=1)
    else:
        weight = graph.call(f"{name}.positive", "Relu", [weight], count)
        axes = graph.integers(f"{name}.axes", [1])
        total = graph.call(f"{name}.total", "ReduceSum", [weight, axes], (1,), keepdims=1)
        total = graph.call(f"{name}.shifted", "Add", [total, graph.number(f"{name}.eps", kind.eps)], (1,))
        shares = graph.call(f"{name}.shares", "Div", [weight, total], count)
    ranges = graph.split(f"{name}.ranges", value, [op.output] * kind.ranges)
    pairs = zip(ranges, graph.split(f"{name}.each", shares, [(1,)] * kind.ranges), strict=True)
    products = [graph.call(f"{name}.product.{at}", "Mul", pair, op.output) for at, pair in enumerate(pairs)]
    return _pairwise("Add")(graph, name, op, products)


def _by_kind(table: Mapping[str, Rule]) -> Rule:
    """Return the rule in a table for the op's `kind`."""
    return lambda graph, name, op, kind, value: table[kind.kind](graph, name, op, kind, value)


def _operator(operator: str, **attributes: str) -> Rule:
    """Return a rule that adds one node; `attributes` maps attributes of the node to those of the op."""

    def rule(graph: Graph, name: str, op: Op, kind: ops.Kind, value: str) -> str:
        given = {there: getattr(kind, here) for there, here in attributes.items()}
        return graph.call(name, operator, [value], op.output, **given)

    return rule


def _relu6(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    limits = [graph.number(f"{name}.{key}", number) for key, number in (("min", 0), ("max", 6))]
    return graph.call(name, "Clip", [value, *limits], op.output)


def _hard_sigmoid(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    return graph.call(name, "HardSigmoid", [value], op.output, alpha=1 / 6, beta=0.5)


def _prelu(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    (slopes,) = graph.weights(name, op, "weight")
    if kind.per == "channel" and len(op.input) > 1:
        inner = range(1, len(op.input))
        axes = graph.integers(f"{name}.axes", inner)
        slopes = graph.call(f"{name}.slopes", "Unsqueeze", [slopes, axes], (op.input[0], *(1 for _ in inner)))
    return graph.call(name, "PRelu", [value, slopes], op.output)


def _hardswish(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    """Add x min(max(x / 6 + 1/2, 0), 1), which is an operator from opset 14 on."""
    if graph.opset >= 14:
        return graph.call(name, "HardSwish", [value], op.output)
    gate = _hard_sigmoid(graph, f"{name}.hardsigmoid", op, kind, value)
    return graph.call(name, "Mul", [value, gate], op.output)


def _silu(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    gate = graph.call(f"{name}.sigmoid", "Sigmoid", [value], op.output)
    return graph.call(name, "Mul", [value, gate], op.output)


def _gelu(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    """Add 0.5 x (1 + erf(x / sqrt 2)), in the order that ONNX Runtime fuses into one kernel. The operator Gelu exists
    only from opset 20 on."""
    root = graph.number(f"{name}.root", math.sqrt(2))
    part = graph.call(f"{name}.divided", "Div", [value, root], op.output)
    return _gaussian(graph, name, op, value, graph.call(f"{name}.erf", "Erf", [part], op.output))


def _gelu_tanh(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    """Add 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    three, share = graph.number(f"{name}.three", 3), graph.number(f"{name}.share", 0.044715)
    factor = graph.number(f"{name}.factor", math.sqrt(2 / math.pi))
    part = graph.call(f"{name}.cube", "Pow", [value, three], op.output)
    part = graph.call(f"{name}.cubic", "Mul", [part, share], op.output)
    part = graph.call(f"{name}.sum", "Add", [value, part], op.output)
    part = graph.call(f"{name}.scaled", "Mul", [part, factor], op.output)
    return _gaussian(graph, name, op, value, graph.call(f"{name}.tanh", "Tanh", [part], op.output))


def _gaussian(graph: Graph, name: str, op: Op, value: str, inner: str) -> str:
    """Add 0.5 x (1 + inner)."""
    one, half = graph.number(f"{name}.one", 1), graph.number(f"{name}.half", 0.5)
    part = graph.call(f"{name}.plus", "Add", [inner, one], op.output)
    part = graph.call(f"{name}.product", "Mul", [value, part], op.output)
    return graph.call(name, "Mul", [part, half], op.output)


def _end_pads(op: Op, kind: ops.MaxPool) -> tuple[int, ...]:
    """Return the padding at the end with which rounding down gives the output size, ceil or not, on maps of any
    size."""
    return tuple(
        axis.plus - p + k - s
        for axis, k, s, p in zip(kind.axes(op.input), kind.kernel, kind.steps, kind.padding, strict=True)
    )


def _maxpool(graph: Graph, name: str, op: Op, kind: ops.MaxPool, value: str) -> str:
    """Add one node. ONNX Runtime would fuse a Pad of zeros into it, where padding is minus infinity, unless the
    zeros are negative: it compares bytes."""
    before = graph.calls[-1] if graph.calls else None
    if before is not None and before.output == value and before.operator == "Pad" and len(before.inputs) == 2:
        before.inputs.append(graph.number(f"{before.name}.zero", -0.0))
    return graph.call(
        name, "MaxPool", [value], op.output,
        kernel_shape=kind.kernel, strides=kind.steps, pads=(*kind.padding, *_end_pads(op, kind)),
    )  # fmt: skip


def _avgpool(graph: Graph, name: str, op: Op, kind: ops.AvgPool, value: str) -> str:
    pads, end, counted = kind.padding, _end_pads(op, kind), kind.count_pad and any(kind.padding)
    if counted and any(e > p for e, p in zip(end, pads, strict=True)):
        # Zeros of the padding count in the mean, and positions beyond it do not, so a separate node pads.
        padded = (op.input[0], *(n + 2 * p for n, p in zip(op.input[1:], pads, strict=True)))
        amounts = graph.integers(f"{name}.pads", [0, 0, *pads, 0, 0, *pads])
        value = graph.call(f"{name}.padding", "Pad", [value, amounts], padded)
        end, pads, counted = tuple(e - p for e, p in zip(end, pads, strict=True)), (0,) * len(pads), False
    return graph.call(
        name, "AveragePool", [value], op.output,
        kernel_shape=kind.kernel, strides=kind.steps, pads=(*pads, *end), count_include_pad=int(counted),
    )  # fmt: skip


def _adaptive_avgpool(graph: Graph, name: str, op: Op, kind: ops.AdaptiveAvgPool, value: str) -> str:
    """Add an average pool if the bins are equal; otherwise one matrix product per axis, since means are
    linear."""
    sizes, free = op.input[1:], graph.free(name)
    if any(free) and set(kind.size) == {1}:
        return graph.call(name, "GlobalAveragePool", [value], op.output)
    if any(free):
        matrices = [
            _bins_at_run_time(graph, f"{name}.{word}", value, 2 + at, out) if free[at]
            else graph.constant(f"{name}.{word}", _bins(sizes[at], out))
            for at, (word, out) in enumerate(zip(_BINS[-len(sizes) :], kind.size, strict=True))
        ]  # fmt: skip
        turned = (sizes[-1], kind.size[-1])
        matrices[-1] = graph.call(f"{name}.columns.turned", "Transpose", [matrices[-1]], turned, perm=(1, 0))
        return _means(graph, name, op, kind, value, matrices)
    if kind.size == sizes:
        return value
    if all(n % out == 0 for n, out in zip(sizes, kind.size, strict=True)):
        window = tuple(n // out for n, out in zip(sizes, kind.size, strict=True))
        return graph.call(name, "AveragePool", [value], op.output, kernel_shape=window, strides=window)
    bins = [_bins(n, out) for n, out in zip(sizes, kind.size, strict=True)]
    bins[-1] = np.ascontiguousarray(bins[-1].T)
    named = zip(_BINS[-len(sizes) :], bins, strict=True)
    return _means(graph, name, op, kind, value, [graph.constant(f"{name}.{word}", bin) for word, bin in named])


#: The names of the matrices of bins, by axes.
_BINS = ("slices", "rows", "columns")


def _means(graph: Graph, name: str, op: Op, kind: ops.AdaptiveAvgPool, value: str, matrices: list[str]) -> str:
    """Add the products of a map with a matrix for each axis; a matrix product applies to the last two, so the first of
    three is transposed."""
    channels, *sizes = op.input
    *others, columns = matrices
    *slices, rows = others or [""]
    if slices:
        (depth, high, wide), order = sizes, (0, 1, 3, 2, 4)
        value = graph.call(f"{name}.turned", "Transpose", [value], (channels, high, depth, wide), perm=order)
        shape = (channels, high, kind.size[0], wide)
        value = graph.call(f"{name}.depth", "MatMul", [slices[0], value], shape)
        value = graph.call(f"{name}.back", "Transpose", [value], (channels, kind.size[0], high, wide), perm=order)
    if rows:
        value = graph.call(f"{name}.height", "MatMul", [rows, value], (channels, *kind.size[:-1], sizes[-1]))
    return graph.call(name, "MatMul", [value, columns], op.output)


def _bins(n: int, out: int) -> Array:
    """Return the matrix of means over torch's adaptive bins: row i covers floor(i n / out) to ceil((i + 1) n / out)."""
    matrix = np.zeros((out, n), np.float32)
    for i in range(out):
        start, end = i * n // out, -(-(i + 1) * n // out)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def _bins_at_run_time(graph: Graph, name: str, value: str, axis: int, out: int) -> str:
    """Add the matrix of `_bins` for an axis of any size n: column j is in row i if i n - out < j * out < (i + 1)
    n."""

    def number(key: str, given: ArrayLike) -> str:
        return graph.integers(f"{name}.{key}", given)

    def call(key: str, operator: str, *inputs: str, **attributes: int) -> str:
        return graph.call(f"{name}.{key}", operator, inputs, (), **attributes)

    if graph.opset >= 15:
        size = call("size", "Shape", value, start=axis, end=axis + 1)
    else:
        size = call("size", "Gather", call("shape", "Shape", value), number("axis", [axis]))
    count = number("count", [out])
    limit = call("limit", "Squeeze", call("scaled", "Mul", size, count))
    positions = call("positions", "Range", number("first", 0), limit, number("step", out))
    starts = call("starts", "Mul", number("bins", [[i] for i in range(out)]), size)
    below = call("below", "Less", positions, call("ends", "Add", starts, size))
    above = call("above", "Greater", positions, call("before", "Sub", starts, count))
    both = call("both", "And", above, below)
    inside = call("inside", "Where", both, graph.number(f"{name}.one", 1), graph.number(f"{name}.zero", 0))
    return call("means", "Div", inside, call("sums", "ReduceSum", inside, number("across", [1]), keepdims=1))


def _flatten(graph: Graph, name: str, op: Op, kind: ops.Flatten, value: str) -> str:
    return value if len(op.input) == 1 else graph.call(name, "Flatten", [value], op.output, axis=1)


def _pass_by(graph: Graph, name: str, op: Op, kind: ops.Kind, value: str) -> str:
    return value


def _scale(graph: Graph, name: str, op: Op, kind: ops.Scale, value: str) -> str:
    factor = graph.number(f"{name}.factor", kind.factor)
    return graph.call(name, "Mul", [value, factor], op.output)


def _subsample(graph: Graph, name: str, op: Op, kind: ops.Subsample, value: str) -> str:
    axes = [2 + at for at in range(len(kind.stride))]
    limits = {"starts": [0 for _ in axes], "ends": [2**62 for _ in axes], "axes": axes, "steps": list(kind.stride)}
    constants = [graph.integers(f"{name}.{key}", numbers) for key, numbers in limits.items()]
    return graph.call(name, "Slice", [value, *constants], op.output)


def _upsample(graph: Graph, name: str, op: Op, kind: ops.Upsample, value: str) -> str:
    """Add a resize by scales rather than sizes, so that the size of the map can stay dynamic."""
    scales = graph.constant(f"{name}.scales", np.array([1, 1, *kind.factor], np.float32))
    return graph.call(name, "Resize", [value, "", scales], op.output, **_UPSAMPLES[kind.kind])


def _pad_channels(graph: Graph, name: str, op: Op, kind: ops.PadChannels, value: str) -> str:
    if op.input == op.output:
        return value
    none = [0 for _ in op.input[1:]]
    pads = graph.integers(f"{name}.pads", [0, 0, *none, 0, kind.channels - op.input[0], *none])
    return graph.call(name, "Pad", [value, pads], op.output)


_NORMS: dict[str, Rule] = {"batch": batch_norm, "group": group_norm, "instance": group_norm, "layer": layer_norm}
_ACTS: dict[str, Rule] = {
    "relu": _operator("Relu"),
    "sigmoid": _operator("Sigmoid"),
    "tanh": _operator("Tanh"),
    "leaky_relu": _operator("LeakyRelu", alpha="slope"),
    "elu": _operator("Elu", alpha="alpha"),
    "relu6": _relu6,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "hardswish": _hardswish,
    "hardsigmoid": _hard_sigmoid,
    "prelu": _prelu,
}
#: Attributes with which Resize equals torch's interpolate.
_UPSAMPLES = {
    "nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
}
RULES: dict[type[ops.Kind], Rule] = {
    ops.Conv: conv,
    ops.Linear: _linear,
    ops.Norm: _by_kind(_NORMS),
    ops.Act: _by_kind(_ACTS),
    ops.MaxPool: _maxpool,
    ops.AvgPool: _avgpool,
    ops.GlobalAvgPool: _operator("GlobalAveragePool"),
    ops.AdaptiveAvgPool: _adaptive_avgpool,
    ops.Flatten: _flatten,
    ops.Dropout: _pass_by,
    ops.Scale: _scale,
    ops.Subsample: _subsample,
    ops.Upsample: _upsample,
    ops.PadChannels: _pad_channels,
    ops.Identity: _pass_by,
    ops.ConvTranspose: conv_transpose,
    ops.Lrn: lrn,
    ops.Softmax: softmax,
    ops.GlobalMaxPool: _operator("GlobalMaxPool"),
    ops.Reduce: reduce,
    ops.Affine: _affine,
    ops.WeightedSum: _weighted_sum,
    ops.Border: border,
    ops.Shuffle: shuffle,
    ops.Part: part,
    ops.Unflatten: unflatten,
    ops.DepthToSpace: depth_to_space,
    ops.SpaceToDepth: space_to_depth,
}


# --- merges -----------------------------------------------------------------------------------------------------------

MergeRule = Callable[[Graph, str, Parallel, list[str]], str]


def merge(graph: Graph, name: str, node: Parallel, branches: list[str]) -> str:
    """Add the merge of the branches of a node, including the test-time survival factor of the first one."""
    if node.survival is not None and node.survival.rescale == "test":
        factor = graph.number(f"{name}.survival.factor", node.survival.probability)
        scaled = graph.call(f"{name}.survival", "Mul", [branches[0], factor], node.branches[0].output)
        branches = [scaled, *branches[1:]]
    return MERGES[node.merge](graph, name, node, branches)


def _concat(graph: Graph, name: str, node: Parallel, branches: list[str]) -> str:
    return graph.call(name, "Concat", branches, node.output, axis=1)


def _gate(graph: Graph, name: str, node: Parallel, branches: list[str]) -> str:
    """Add g b + (1 - g) s = s + g (b - s)."""
    branch, gate, shortcut = branches
    difference = graph.call(f"{name}.difference", "Sub", [branch, shortcut], node.output)
    gated = graph.call(f"{name}.gated", "Mul", [gate, difference], node.output)
    return graph.call(name, "Add", [gated, shortcut], node.output)


def _pairwise(operator: str) -> Callable[[Graph, str, Parallel | Op, list[str]], str]:
    """Return a rule that merges one branch after the other; the last node has the name of the merge."""

    def rule(graph: Graph, name: str, node: Parallel | Op, branches: list[str]) -> str:
        value, last = branches[0], len(branches) - 1
        for at, branch in enumerate(branches[1:], 1):
            value = graph.call(name if at == last else f"{name}.{at}", operator, [value, branch], node.output)
        return value

    return rule


def _mean(graph: Graph, name: str, node: Parallel, branches: list[str]) -> str:
    """Add the sum divided by the number of branches."""
    if len(branches) == 1:
        return branches[0]
    total = _pairwise("Add")(graph, f"{name}.sum", node, branches)
    return graph.call(name, "Div", [total, graph.number(f"{name}.count", len(branches))], node.output)


MERGES: dict[str, MergeRule] = {
    "add": _pairwise("Add"),
    "mul": _pairwise("Mul"),
    "concat": _concat,
    "gate": _gate,
    "mean": _mean,
    "shake": _mean,
}
