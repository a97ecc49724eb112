"""The nodes that each op and each merge becomes: one table row each, `RULES` and `MERGES` at the end.

A rule adds its nodes to the graph and returns the name of the value that they compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rescompile.ir import ops
from rescompile.ir.network import Op, Parallel
from rescompile.ir.ops import Shape
from rescompile.weights import Array

from .model import Graph

Rule = Callable[[Graph, str, Op, Any, str], str]
#: ONNX Runtime sums up an instance in one pass. Beyond this many values the rounding of that sum shows: at 2^19 it is about
#: fifty times torch's. Means of rows, and then means of these, avoid it, in twice the time.
LONG_SUM = 1 << 15


def _conv(graph: Graph, name: str, op: Op, kind: ops.Conv, value: str) -> str:
    weights = graph.weights(name, op, "weight", *(("bias",) if kind.bias else ()))
    return graph.call(
        name, "Conv", [value, *weights], op.output,
        kernel_shape=kind.kernel, strides=kind.stride, pads=(*kind.pads, *kind.pads), dilations=kind.dilation, group=kind.groups,
    )  # fmt: skip


def _linear(graph: Graph, name: str, op: Op, kind: ops.Linear, value: str) -> str:
    weights = graph.weights(name, op, "weight", *(("bias",) if kind.bias else ()))
    return graph.call(name, "Gemm", [value, *weights], op.output, transB=1)


def _batch_norm(graph: Graph, name: str, op: Op, kind: ops.Norm, value: str) -> str:
    weights = graph.weights(name, op, "weight", "bias", "running_mean", "running_var")
    return graph.call(name, "BatchNormalization", [value, *weights], op.output, epsilon=kind.eps)


def _group_norm(graph: Graph, name: str, op: Op, kind: ops.Norm, value: str) -> str:
    """Instance normalisation of whole groups, then a scale and a shift for each channel in one pass over the map.

    GroupNormalization of opset 18 differs from that of 21, and ONNX Runtime has a kernel for neither. The shapes leave height
    and width open: 0 keeps a size, -1 infers it. A free size may be large, so it counts as inexact.
    """
    channels, groups, width = op.input[0], kind.groups, op.input[2:]
    scale, shift = graph.weights(name, op, "weight", "bias")
    exact = len(op.input) == 1 or (math.prod(op.input) // groups <= LONG_SUM and not any(graph.free(name)))
    if groups == channels and exact:
        return graph.call(name, "InstanceNormalization", [value, scale, shift], op.output, epsilon=kind.eps)
    grouped = (groups, math.prod(op.input[:2]) // groups, *width)
    apart = graph.constant(f"{name}.apart", np.array([0, groups, -1, *(0 for _ in width)], np.int64))
    together = [0, channels, *(-1 for _ in op.input[1:2]), *(0 for _ in width)]
    back = graph.constant(f"{name}.together", np.array(together, np.int64))
    value = graph.call(f"{name}.groups", "Reshape", [value, apart], grouped)
    if exact:
        unit = graph.numbers(f"{name}.ones", groups, 1), graph.numbers(f"{name}.zeros", groups, 0)
        value = graph.call(f"{name}.normal", "InstanceNormalization", [value, *unit], grouped, epsilon=kind.eps)
    else:
        mean = _mean_by_rows(graph, f"{name}.mean", value, grouped)
        value = graph.call(f"{name}.centered", "Sub", [value, mean], grouped)
        square = graph.call(f"{name}.square", "Mul", [value, value], grouped)
        spread = _mean_by_rows(graph, f"{name}.variance", square, grouped)
        spread = graph.call(f"{name}.positive", "Add", [spread, graph.number(f"{name}.eps", kind.eps)], (groups, 1, 1))
        spread = graph.call(f"{name}.deviation", "Sqrt", [spread], (groups, 1, 1))
        value = graph.call(f"{name}.normal", "Div", [value, spread], grouped)
    value = graph.call(f"{name}.channels", "Reshape", [value, back], op.output)
    unit = graph.numbers(f"{name}.no_mean", channels, 0), graph.numbers(f"{name}.no_variance", channels, 1)
    return graph.call(name, "BatchNormalization", [value, scale, shift, *unit], op.output, epsilon=0.0)


def _mean_by_rows(graph: Graph, name: str, value: str, shape: Shape) -> str:
    """The mean of each group of a map [groups, rows, width], as a map of 1x1."""
    groups, rows, width = shape
    apart = graph.constant(f"{name}.apart", np.array([0, -1, 1, 0], np.int64))
    together = graph.constant(f"{name}.together", np.array([0, groups, -1, 1], np.int64))
    value = graph.call(f"{name}.rows", "Reshape", [value, apart], (groups * rows, 1, width))
    value = graph.call(f"{name}.of_rows", "GlobalAveragePool", [value], (groups * rows, 1, 1))
    value = graph.call(f"{name}.column", "Reshape", [value, together], (groups, rows, 1))
    return graph.call(name, "GlobalAveragePool", [value], (groups, 1, 1))


def _by_kind(table: Mapping[str, Rule]) -> Rule:
    """The rule that a table has for the op's `kind`."""
    return lambda graph, name, op, kind, value: table[kind.kind](graph, name, op, kind, value)


def _operator(operator: str, **attributes: str) -> Rule:
    """The rule for one node; `attributes` maps attributes of the node to those of the op."""

    def rule(graph: Graph, name: str, op: Op, kind: ops.Kind, value: str) -> str:
        given = {there: getattr(kind, here) for there, here in attributes.items()}
        return graph.call(name, operator, [value], op.output, **given)

    return rule


def _relu6(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    limits = [graph.number(f"{name}.{key}", number) for key, number in (("min", 0), ("max", 6))]
    return graph.call(name, "Clip", [value, *limits], op.output)


def _silu(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    gate = graph.call(f"{name}.sigmoid", "Sigmoid", [value], op.output)
    return graph.call(name, "Mul", [value, gate], op.output)


def _gelu(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    """0.5 x (1 + erf(x / sqrt 2)), in the order that ONNX Runtime fuses into one kernel. The operator Gelu exists from opset
    20 on only."""
    root = graph.number(f"{name}.root", math.sqrt(2))
    part = graph.call(f"{name}.divided", "Div", [value, root], op.output)
    return _gaussian(graph, name, op, value, graph.call(f"{name}.erf", "Erf", [part], op.output))


def _gelu_tanh(graph: Graph, name: str, op: Op, kind: ops.Act, value: str) -> str:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    three, share = graph.number(f"{name}.three", 3), graph.number(f"{name}.share", 0.044715)
    factor = graph.number(f"{name}.factor", math.sqrt(2 / math.pi))
    part = graph.call(f"{name}.cube", "Pow", [value, three], op.output)
    part = graph.call(f"{name}.cubic", "Mul", [part, share], op.output)
    part = graph.call(f"{name}.sum", "Add", [value, part], op.output)
    part = graph.call(f"{name}.scaled", "Mul", [part, factor], op.output)
    return _gaussian(graph, name, op, value, graph.call(f"{name}.tanh", "Tanh", [part], op.output))


def _gaussian(graph: Graph, name: str, op: Op, value: str, inner: str) -> str:
    """0.5 x (1 + inner)."""
    one, half = graph.number(f"{name}.one", 1), graph.number(f"{name}.half", 0.5)
    part = graph.call(f"{name}.plus", "Add", [inner, one], op.output)
    part = graph.call(f"{name}.product", "Mul", [value, part], op.output)
    return graph.call(name, "Mul", [part, half], op.output)


def _end_pads(op: Op, kind: ops.MaxPool) -> tuple[int, ...]:
    """Padding at the end that makes rounding down give the output size, ceil or not, on maps of any size."""
    return tuple(
        axis.plus - p + k - s
        for axis, k, s, p in zip(kind.axes(op.input), kind.kernel, kind.steps, kind.padding, strict=True)
    )


def _maxpool(graph: Graph, name: str, op: Op, kind: ops.MaxPool, value: str) -> str:
    return graph.call(
        name, "MaxPool", [value], op.output,
        kernel_shape=kind.kernel, strides=kind.steps, pads=(*kind.padding, *_end_pads(op, kind)),
    )  # fmt: skip


def _avgpool(graph: Graph, name: str, op: Op, kind: ops.AvgPool, value: str) -> str:
    pads, end, counted = kind.padding, _end_pads(op, kind), kind.count_pad and any(kind.padding)
    if counted and any(e > p for e, p in zip(end, pads, strict=True)):
        # Zeros of the padding count in the mean, and positions beyond it do not: so the padding becomes a node.
        padded = (op.input[0], *(n + 2 * p for n, p in zip(op.input[1:], pads, strict=True)))
        amounts = graph.constant(f"{name}.pads", np.array([0, 0, *pads, 0, 0, *pads], np.int64))
        value = graph.call(f"{name}.padding", "Pad", [value, amounts], padded)
        end, pads, counted = tuple(e - p for e, p in zip(end, pads, strict=True)), (0, 0), False
    return graph.call(
        name, "AveragePool", [value], op.output,
        kernel_shape=kind.kernel, strides=kind.steps, pads=(*pads, *end), count_include_pad=int(counted),
    )  # fmt: skip


def _adaptive_avgpool(graph: Graph, name: str, op: Op, kind: ops.AdaptiveAvgPool, value: str) -> str:
    """An average pool where the bins are equal; otherwise one matrix product per axis, since means are linear."""
    sizes, free = op.input[1:], graph.free(name)
    if any(free) and kind.size == (1, 1):
        return graph.call(name, "GlobalAveragePool", [value], op.output)
    if any(free):
        rows, columns = (
            _bins_at_run_time(graph, f"{name}.{word}", value, 2 + at, out) if free[at]
            else graph.constant(f"{name}.{word}", _bins(sizes[at], out))
            for at, (word, out) in enumerate(zip(("rows", "columns"), kind.size, strict=True))
        )  # fmt: skip
        columns = graph.call(f"{name}.columns.turned", "Transpose", [columns], (sizes[1], kind.size[1]), perm=(1, 0))
        half = graph.call(f"{name}.height", "MatMul", [rows, value], (op.input[0], kind.size[0], sizes[1]))
        return graph.call(name, "MatMul", [half, columns], op.output)
    if kind.size == sizes:
        return value
    if all(n % out == 0 for n, out in zip(sizes, kind.size, strict=True)):
        window = tuple(n // out for n, out in zip(sizes, kind.size, strict=True))
        return graph.call(name, "AveragePool", [value], op.output, kernel_shape=window, strides=window)
    rows = graph.constant(f"{name}.rows", _bins(sizes[0], kind.size[0]))
    columns = graph.constant(f"{name}.columns", np.ascontiguousarray(_bins(sizes[1], kind.size[1]).T))
    half = graph.call(f"{name}.height", "MatMul", [rows, value], (op.input[0], kind.size[0], sizes[1]))
    return graph.call(name, "MatMul", [half, columns], op.output)


def _bins(n: int, out: int) -> Array:
    """The matrix of means over torch's adaptive bins: row i covers floor(i n / out) to ceil((i + 1) n / out)."""
    matrix = np.zeros((out, n), np.float32)
    for i in range(out):
        start, end = i * n // out, -(-(i + 1) * n // out)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def _bins_at_run_time(graph: Graph, name: str, value: str, axis: int, out: int) -> str:
    """The matrix of `_bins` for an axis of any size n: column j is in row i where i n - out < j * out < (i + 1) n."""

    def number(key: str, given: object) -> str:
        return graph.constant(f"{name}.{key}", np.array(given, np.int64))

    def call(key: str, operator: str, *inputs: str, **attributes: int) -> str:
        return graph.call(f"{name}.{key}", operator, inputs, (), **attributes)

    size = call("size", "Shape", value, start=axis, end=axis + 1)
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
    limits = {"starts": [0, 0], "ends": [2**62, 2**62], "axes": [2, 3], "steps": list(kind.stride)}
    constants = [graph.constant(f"{name}.{key}", np.array(numbers, np.int64)) for key, numbers in limits.items()]
    return graph.call(name, "Slice", [value, *constants], op.output)


def _upsample(graph: Graph, name: str, op: Op, kind: ops.Upsample, value: str) -> str:
    """By scales rather than sizes, so that height and width can stay open."""
    scales = graph.constant(f"{name}.scales", np.array([1, 1, *kind.factor], np.float32))
    return graph.call(name, "Resize", [value, "", scales], op.output, **_UPSAMPLES[kind.kind])


def _pad_channels(graph: Graph, name: str, op: Op, kind: ops.PadChannels, value: str) -> str:
    if op.input == op.output:
        return value
    pads = np.array([0, 0, 0, 0, 0, kind.channels - op.input[0], 0, 0], np.int64)
    return graph.call(name, "Pad", [value, graph.constant(f"{name}.pads", pads)], op.output)


_NORMS: dict[str, Rule] = {"batch": _batch_norm, "group": _group_norm}
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
    "hardswish": _operator("HardSwish"),
}
#: Attributes of Resize that make it torch's interpolate.
_UPSAMPLES = {
    "nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
}
RULES: dict[type[ops.Kind], Rule] = {
    ops.Conv: _conv,
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
}


# --- merges -----------------------------------------------------------------------------------------------------------

MergeRule = Callable[[Graph, str, Parallel, list[str]], str]


def merge(graph: Graph, name: str, node: Parallel, branches: list[str]) -> str:
    """Add what merges the branches of a node, the test-time survival factor of the first one included."""
    if node.survival is not None and node.survival.rescale == "test":
        factor = graph.number(f"{name}.survival.factor", node.survival.probability)
        scaled = graph.call(f"{name}.survival", "Mul", [branches[0], factor], node.branches[0].output)
        branches = [scaled, *branches[1:]]
    return MERGES[node.merge](graph, name, node, branches)


def _concat(graph: Graph, name: str, node: Parallel, branches: list[str]) -> str:
    return graph.call(name, "Concat", branches, node.output, axis=1)


def _gate(graph: Graph, name: str, node: Parallel, branches: list[str]) -> str:
    """g b + (1 - g) s = s + g (b - s)."""
    branch, gate, shortcut = branches
    difference = graph.call(f"{name}.difference", "Sub", [branch, shortcut], node.output)
    gated = graph.call(f"{name}.gated", "Mul", [gate, difference], node.output)
    return graph.call(name, "Add", [gated, shortcut], node.output)


def _pairwise(operator: str) -> MergeRule:
    """One branch after the other; the last node has the name of the merge."""

    def rule(graph: Graph, name: str, node: Parallel, branches: list[str]) -> str:
        value, last = branches[0], len(branches) - 1
        for at, branch in enumerate(branches[1:], 1):
            value = graph.call(name if at == last else f"{name}.{at}", operator, [value, branch], node.output)
        return value

    return rule


MERGES: dict[str, MergeRule] = {"add": _pairwise("Add"), "mul": _pairwise("Mul"), "concat": _concat, "gate": _gate}
