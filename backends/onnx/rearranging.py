"""The nodes of ops that move values without changing them, and of ops that mix the channels of a position."""

from __future__ import annotations

import math

import numpy as np

from rescompile.ir import ops
from rescompile.ir.network import Op
from rescompile.ir.ops import Shape

from .model import Graph


def unflatten(graph: Graph, name: str, op: Op, kind: ops.Unflatten, value: str) -> str:
    """Append axes of size 1 after the channels; or insert one before, with the other axes after the rows."""
    last = range(2, 2 + kind.rank)
    axes = graph.integers(f"{name}.axes", [1, *last[1:]] if kind.to == "rows" else last)
    return graph.call(name, "Unsqueeze", [value, axes], op.output)


def border(graph: Graph, name: str, op: Op, kind: ops.Border, value: str) -> str:
    """Add one Pad, whose negative amounts remove rows and columns."""
    pads = graph.integers(f"{name}.pads", [0, 0, *kind.before, 0, 0, *kind.after])
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}[kind.kind]
    return graph.call(name, "Pad", [value, pads], op.output, mode=mode)


def shuffle(graph: Graph, name: str, op: Op, kind: ops.Shuffle, value: str) -> str:
    """Gather the channels in their new order, which keeps the size of the map dynamic."""
    return _interleaved(graph, name, op, value, kind.groups)


def part(graph: Graph, name: str, op: Op, kind: ops.Part, value: str) -> str:
    """Add a slice of the channels."""
    bounds = {"starts": kind.number * op.output[0], "ends": (kind.number + 1) * op.output[0], "axes": 1}
    given = [graph.integers(f"{name}.{key}", [number]) for key, number in bounds.items()]
    return graph.call(name, "Slice", [value, *given], op.output)


def depth_to_space(graph: Graph, name: str, op: Op, kind: ops.DepthToSpace, value: str) -> str:
    """Add one node, with channels in the order of torch."""
    return graph.call(name, "DepthToSpace", [value], op.output, blocksize=kind.size, mode="CRD")


def space_to_depth(graph: Graph, name: str, op: Op, kind: ops.SpaceToDepth, value: str) -> str:
    """Rearrange SpaceToDepth's channels: it groups the channels of each block position, torch the positions of each
    channel."""
    value = graph.call(f"{name}.blocks", "SpaceToDepth", [value], op.output, blocksize=kind.size)
    return _interleaved(graph, name, op, value, kind.size**2)


def _interleaved(graph: Graph, name: str, op: Op, value: str, groups: int) -> str:
    """Add a gather of the first channel of each group, then the second of each, and so on."""
    order = np.arange(op.output[0]).reshape(groups, -1).T.ravel()
    return graph.call(name, "Gather", [value, graph.integers(f"{name}.order", order)], op.output, axis=1)


def softmax(graph: Graph, name: str, op: Op, kind: ops.Softmax, value: str) -> str:
    """Add one node over the channels, or over an axis of ranges that is split off from the channels and merged back."""
    if kind.ranges is None:
        return graph.call(name, "Softmax", [value], op.output, axis=1)
    inside = (kind.ranges, math.prod(op.input) // kind.ranges)
    apart = graph.integers(f"{name}.apart", [0, kind.ranges, -1])
    shape = _own_shape(graph, name, op, value)
    ranges = graph.call(f"{name}.ranges", "Reshape", [value, apart], inside)
    ranges = graph.call(f"{name}.shares", "Softmax", [ranges], inside, axis=1)
    return graph.call(name, "Reshape", [ranges, shape], op.output)


def _own_shape(graph: Graph, name: str, op: Op, value: str) -> str:
    """Return the name of the shape of a value, for reshaping another value to it."""
    if any(graph.free(name)):
        return graph.call(f"{name}.shape", "Shape", [value], ())
    sizes = [0, op.input[0], *op.input[1:-1], -1][: 1 + len(op.input)]
    return graph.integers(f"{name}.together", sizes)


def lrn(graph: Graph, name: str, op: Op, kind: ops.Lrn, value: str) -> str:
    """Add one node. ONNX Runtime accepts maps of two axes, so all positions of other maps are moved to the first of
    two."""
    facts = {"size": kind.size, "alpha": kind.alpha, "beta": kind.beta, "bias": kind.k}
    if len(op.input) == 3:
        return graph.call(name, "LRN", [value], op.output, **facts)
    shape, image = _own_shape(graph, name, op, value), (op.input[0], math.prod(op.input[1:]), 1)
    apart = graph.integers(f"{name}.apart", [0, op.input[0], -1, 1])
    value = graph.call(f"{name}.image", "Reshape", [value, apart], image)
    value = graph.call(f"{name}.normal", "LRN", [value], image, **facts)
    return graph.call(name, "Reshape", [value, shape], op.output)


def reduce(graph: Graph, name: str, op: Op, kind: ops.Reduce, value: str) -> str:
    """Add the mean or maximum over the channel axis."""
    return reduced(graph, name, "ReduceMax" if kind.by == "max" else "ReduceMean", value, op.output)


def reduced(graph: Graph, name: str, operator: str, value: str, shape: Shape, axes: tuple[int, ...] = (1,)) -> str:
    """Add a reduction over axes, which are kept; the axes are an input from opset 18 on, and an attribute before."""
    if graph.opset < 18:
        return graph.call(name, operator, [value], shape, axes=axes, keepdims=1)
    given = graph.integers(f"{name}.axes", axes)
    return graph.call(name, operator, [value, given], shape, keepdims=1)
