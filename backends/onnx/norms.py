"""The nodes of normalisation over the batch, over groups of channels and over the channels of a position."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from rescompile.ir import ops
from rescompile.ir.network import Op
from rescompile.ir.ops import Shape

from .model import Graph
from .rearranging import reduced

#: ONNX Runtime sums an instance in one pass. Beyond this many values the rounding error of that sum shows: at 2^19 it
#: is about fifty times torch's. Means of rows, followed by means of these, avoid it, in twice the time.
LONG_SUM = 1 << 15


def batch_norm(graph: Graph, name: str, op: Op, kind: ops.Norm, value: str) -> str:
    """Add batch normalisation with the running statistics."""
    weights = graph.weights(name, op, "weight", "bias", "running_mean", "running_var")
    return graph.call(name, "BatchNormalization", [value, *weights], op.output, epsilon=kind.eps)


def group_norm(graph: Graph, name: str, op: Op, kind: ops.Norm, value: str) -> str:
    """Add instance normalisation of whole groups, then a scale and a shift per channel in one pass over the map.

    GroupNormalization of opset 18 differs from that of 21, and ONNX Runtime has a kernel for neither. The shapes keep
    the size of the map dynamic: 0 keeps a size, -1 infers it. A dynamic size may be large, so it counts as inexact.
    """
    channels, groups, last = op.input[0], kind.groups_of(op.input), op.input[2:]
    scale, shift = graph.weights(name, op, "weight", "bias")
    exact = len(op.input) == 1 or (math.prod(op.input) // groups <= LONG_SUM and not any(graph.free(name)))
    if groups == channels and exact:
        return graph.call(name, "InstanceNormalization", [value, scale, shift], op.output, epsilon=kind.eps)
    grouped, apart_sizes = (groups, math.prod(op.input[:2]) // groups, *last), [0, groups, -1, *(0 for _ in last)]
    if len(op.input) == 2:  # the channels of a group are its rows
        grouped, apart_sizes = (groups, channels // groups, op.input[1]), [0, groups, channels // groups, -1]
    apart = graph.integers(f"{name}.apart", apart_sizes)
    together = [0, channels, *(-1 for _ in op.input[1:2]), *(0 for _ in last)]
    back = graph.integers(f"{name}.together", together)
    value = graph.call(f"{name}.groups", "Reshape", [value, apart], grouped)
    if exact:
        unit = graph.numbers(f"{name}.ones", groups, 1), graph.numbers(f"{name}.zeros", groups, 0)
        value = graph.call(f"{name}.normal", "InstanceNormalization", [value, *unit], grouped, epsilon=kind.eps)
    else:
        one = (groups, *(1 for _ in grouped[1:]))
        mean = partial(_mean_by_rows, graph, grouped)
        value, spread = centered(graph, name, value, grouped, one, kind.eps, mean)
        value = graph.call(f"{name}.normal", "Div", [value, spread], grouped)
    value = graph.call(f"{name}.channels", "Reshape", [value, back], op.output)
    return scaled(graph, name, op, value, scale, shift)


def layer_norm(graph: Graph, name: str, op: Op, kind: ops.Norm, value: str) -> str:
    """Add LayerNormalization, which applies to the last axes, so a map is transposed before and after. It exists from
    opset 17 on."""
    scale, shift = graph.weights(name, op, "weight", "bias")
    if len(op.input) == 1 and graph.opset >= 17:
        return graph.call(name, "LayerNormalization", [value, scale, shift], op.output, axis=-1, epsilon=kind.eps)
    if graph.opset >= 17:
        last, axes = (*op.input[1:], op.input[0]), len(op.input)
        value = graph.call(f"{name}.turned", "Transpose", [value], last, perm=(0, *range(2, 1 + axes), 1))
        value = graph.call(
            f"{name}.normal", "LayerNormalization", [value, scale, shift], last, axis=-1, epsilon=kind.eps
        )
        return graph.call(name, "Transpose", [value], op.output, perm=(0, axes, *range(1, axes)))
    one = (1, *op.input[1:])

    def mean(name: str, value: str) -> str:
        return reduced(graph, name, "ReduceMean", value, one)

    value, spread = centered(graph, name, value, op.input, one, kind.eps, mean)
    value = graph.call(f"{name}.normal", "Div", [value, spread], op.input)
    return scaled(graph, name, op, value, scale, shift)


def centered(
    graph: Graph, name: str, value: str, shape: Shape, one: Shape, eps: float, mean: Callable[[str, str], str]
) -> tuple[str, str]:
    """Add value - mean, and sqrt(variance + eps), which has the shape `one`. `mean` adds a mean, from its name and a
    value."""
    value = graph.call(f"{name}.centered", "Sub", [value, mean(f"{name}.mean", value)], shape)
    square = graph.call(f"{name}.square", "Mul", [value, value], shape)
    spread = mean(f"{name}.variance", square)
    spread = graph.call(f"{name}.positive", "Add", [spread, graph.number(f"{name}.eps", eps)], one)
    return value, graph.call(f"{name}.deviation", "Sqrt", [spread], one)


def scaled(graph: Graph, name: str, op: Op, value: str, scale: str, shift: str) -> str:
    """Add a scale and a shift per channel, in one pass over the map."""
    unit = graph.numbers(f"{name}.no_mean", op.input[0], 0), graph.numbers(f"{name}.no_variance", op.input[0], 1)
    return graph.call(name, "BatchNormalization", [value, scale, shift, *unit], op.output, epsilon=0.0)


def _mean_by_rows(graph: Graph, shape: Shape, name: str, value: str) -> str:
    """Add the mean of each group of a map [groups, rows, ...], as a map of one position."""
    groups, rows, *row = shape
    one = [1 for _ in row]
    apart = graph.integers(f"{name}.apart", [0, -1, 1, *(0 for _ in row)])
    together = graph.integers(f"{name}.together", [0, groups, -1, *one])
    value = graph.call(f"{name}.rows", "Reshape", [value, apart], (groups * rows, 1, *row))
    value = graph.call(f"{name}.of_rows", "GlobalAveragePool", [value], (groups * rows, 1, *one))
    value = graph.call(f"{name}.column", "Reshape", [value, together], (groups, rows, *one))
    return graph.call(name, "GlobalAveragePool", [value], (groups, 1, *one))
