"""The nodes of normalisation over the batch, over groups of channels and over the channels of a position."""

from __future__ import annotations

import math

import numpy as np

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
    apart = graph.constant(f"{name}.apart", np.array(apart_sizes, np.int64))
    together = [0, channels, *(-1 for _ in op.input[1:2]), *(0 for _ in last)]
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
        one = (groups, *(1 for _ in grouped[1:]))
        spread = graph.call(f"{name}.positive", "Add", [spread, graph.number(f"{name}.eps", kind.eps)], one)
        spread = graph.call(f"{name}.deviation", "Sqrt", [spread], one)
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
    mean = reduced(graph, f"{name}.mean", "ReduceMean", value, one)
    value = graph.call(f"{name}.centered", "Sub", [value, mean], op.input)
    square = graph.call(f"{name}.square", "Mul", [value, value], op.input)
    spread = reduced(graph, f"{name}.variance", "ReduceMean", square, one)
    spread = graph.call(f"{name}.positive", "Add", [spread, graph.number(f"{name}.eps", kind.eps)], one)
    spread = graph.call(f"{name}.deviation", "Sqrt", [spread], one)
    value = graph.call(f"{name}.normal", "Div", [value, spread], op.input)
    return scaled(graph, name, op, value, scale, shift)


def scaled(graph: Graph, name: str, op: Op, value: str, scale: str, shift: str) -> str:
    """Add a scale and a shift per channel, in one pass over the map."""
    unit = graph.numbers(f"{name}.no_mean", op.input[0], 0), graph.numbers(f"{name}.no_variance", op.input[0], 1)
    return graph.call(name, "BatchNormalization", [value, scale, shift, *unit], op.output, epsilon=0.0)


def _mean_by_rows(graph: Graph, name: str, value: str, shape: Shape) -> str:
    """Add the mean of each group of a map [groups, rows, ...], as a map of one position."""
    groups, rows, *row = shape
    one = [1 for _ in row]
    apart = graph.constant(f"{name}.apart", np.array([0, -1, 1, *(0 for _ in row)], np.int64))
    together = graph.constant(f"{name}.together", np.array([0, groups, -1, *one], np.int64))
    value = graph.call(f"{name}.rows", "Reshape", [value, apart], (groups * rows, 1, *row))
    value = graph.call(f"{name}.of_rows", "GlobalAveragePool", [value], (groups * rows, 1, *one))
    value = graph.call(f"{name}.column", "Reshape", [value, together], (groups, rows, *one))
    return graph.call(name, "GlobalAveragePool", [value], (groups, 1, *one))
