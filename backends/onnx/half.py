"""float16: a float32 graph and its weights, converted; input and outputs remain float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rescompile.diagnostics.errors import CheckFailed
from rescompile.ir.network import INPUT, Network, Op, walk
from rescompile.ir.ops import Norm
from rescompile.weights import Array, Weights

from .file import TYPES
from .model import Call, Graph, Tensor


def half_graph(graph: Graph, network: Network) -> None:
    """Convert a float32 graph to float16 in place, between casts of its input and its outputs."""
    taken = graph.taken | {call.output for call in graph.calls}

    def inner(name: str) -> str:
        while (name := f"{name}_half") in taken:
            pass
        return name

    outputs = network.outputs
    renamed = {name: inner(name) for name in (INPUT, *outputs)}
    graph.rename(renamed)
    first = Call(renamed[INPUT], "Cast", [INPUT], renamed[INPUT], network.input, {"to": TYPES["float16"]})
    last = [
        Call(f"{name}.cast", "Cast", [renamed[name]], name, shape, {"to": TYPES["float32"]})
        for name, shape in outputs.items()
    ]
    graph.calls = [first, *graph.calls, *last]
    scales = {call.inputs[2] for call in graph.calls if call.operator == "Resize"}  # which are float32 in any graph
    graph.tensors |= {name: _half_tensor(tensor) for name, tensor in graph.tensors.items() if name not in scales}


def _half_tensor(tensor: Tensor) -> Tensor:
    if tensor.dtype != "float32":
        return tensor
    constant = None if tensor.constant is None else _halved(tensor.name, tensor.constant, zeros=False)
    return replace(tensor, dtype="float16", constant=constant)


def half_weights(weights: Weights, network: Network) -> Weights:
    """Return the weights in float16; reading one that float16 cannot represent raises CheckFailed."""
    # Without eps, a variance that rounds to zero would be a divisor.
    divided = {
        f"{name}.running_var"
        for name, node in walk(network.root)
        if isinstance(node, Op) and isinstance(node.kind, Norm) and node.kind.eps < _SMALLEST
    }
    return weights.replaced({name: _reader(weights, name, name not in divided) for name in weights})


def _reader(weights: Weights, name: str, zeros: bool) -> Callable[[], Array]:
    return lambda: _halved(name, weights[name], zeros)


def _halved(name: str, value: Array, zeros: bool) -> Array:
    """Return values in float16. Raises CheckFailed if one becomes infinite or, unless `zeros` are allowed, if one
    becomes zero."""
    if value.dtype != np.float32:
        return value
    with np.errstate(over="ignore", under="ignore"):
        half = value.astype(np.float16)
    if np.isinf(half).any():
        message = f"{name} has values up to {np.abs(value).max():.3g}, but the largest float16 value is 65504"
        raise CheckFailed.of("E0707", message, help="fold norms, or build in fp32")
    lost = (half == 0) & (value != 0)
    if not zeros and lost.any():
        message = f"{name} has values down to {np.abs(value[lost]).min():.3g}, which float16 rounds to 0"
        raise CheckFailed.of("E0707", message, help="fold norms, or build in fp32")
    return half


#: The smallest positive float16 number.
_SMALLEST = 2.0**-24
