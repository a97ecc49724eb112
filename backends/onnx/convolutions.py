"""The nodes of convolutions, including standardised weights."""

from __future__ import annotations

import math

from rescompile.ir import ops
from rescompile.ir.network import Op

from .model import Graph
from .norms import centered
from .rearranging import reduced


def conv(graph: Graph, name: str, op: Op, kind: ops.Conv, value: str) -> str:
    """Add one node; separate nodes compute standardised weights, so that a file contains the weights of the
    network. Runtimes compute them once, at load time."""
    weight, *bias = graph.weights(name, op, "weight", "bias")
    if not kind.is_plain:
        weight = _standardised(graph, name, op, kind, weight)
    return graph.call(
        name, "Conv", [value, weight, *bias], op.output,
        kernel_shape=kind.kernel, strides=kind.stride, pads=(*kind.pads, *kind.pads), dilations=kind.dilation, group=kind.groups,
    )  # fmt: skip


def _standardised(graph: Graph, name: str, op: Op, kind: ops.Conv, weight: str) -> str:
    """Add (weight - mean) / sqrt(variance + eps) per output channel, times gain * gamma / sqrt(fan-in) if there is a
    gain."""
    shape = kind.parameters(op.input)[0].shape
    one, axes = (1, *(1 for _ in shape[2:])), tuple(range(1, len(shape)))

    def mean(name: str, value: str) -> str:
        return reduced(graph, name, "ReduceMean", value, one, axes)

    weight, spread = centered(graph, f"{name}.weight", weight, shape[1:], one, kind.eps, mean)
    if kind.is_scaled:
        (gain,) = graph.weights(name, op, "gain")
        factor = graph.number(f"{name}.weight.gamma", kind.gamma / math.sqrt(math.prod(shape[1:])))
        factor = graph.call(f"{name}.weight.gain", "Mul", [gain, factor], one)
        weight = graph.call(f"{name}.weight.scaled", "Mul", [weight, factor], shape[1:])
    return graph.call(f"{name}.weight.standardised", "Div", [weight, spread], shape[1:])


def conv_transpose(graph: Graph, name: str, op: Op, kind: ops.ConvTranspose, value: str) -> str:
    """Add one node."""
    weights = graph.weights(name, op, "weight", "bias")
    return graph.call(
        name, "ConvTranspose", [value, *weights], op.output, kernel_shape=kind.kernel, strides=kind.stride,
        pads=(*kind.padding, *kind.padding), output_padding=kind.output_padding, dilations=kind.dilation, group=kind.groups,
    )  # fmt: skip
