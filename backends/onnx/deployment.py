"""A graph for deployment without preprocessing: its input is pixels, and its output is probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import UsageError
from rescompile.ir.network import INPUT, LOGITS, Network
from rescompile.ir.ops import Shape
from rescompile.weights import Array

from .file import TYPES
from .model import Graph, Value

PROBABILITIES = "probabilities"
_ENDS = ("Softmax", "Sigmoid")


def takes_images(options: Mapping[str, Any]) -> bool:
    """Return whether the graph normalises its input."""
    return bool(options["normalize"] or options["input"] != "float")


def add(graph: Graph, network: Network, options: Mapping[str, Any]) -> None:
    """Add what the options request. Raises UsageError if the network does not record mean and std, or has an
    activation."""
    if takes_images(options):
        _add_normalization(graph, network, options["input"])
    if options["softmax"]:
        _add_softmax(graph, network)


def input_value(shape: Sequence[int | str], batch: int | str, options: Mapping[str, Any]) -> Value:
    """Return the input of the graph for an image of these channels, height and width."""
    if options["input"] == "uint8-nhwc":
        shape = (*shape[1:], shape[0])
    return Value(INPUT, (batch, *shape), "float32" if options["input"] == "float" else "uint8")


def output_name(name: str, options: Mapping[str, Any]) -> str:
    """Return the name of an output of the network in the graph."""
    return PROBABILITIES if name == LOGITS and options["softmax"] else name


def pixels(x: Array, network: Network, options: Mapping[str, Any]) -> Array:
    """Return the input of the graph for an input of the network, rounded to bytes if the graph expects bytes."""
    if not takes_images(options):
        return x
    mean, std, reverses = _statistics(network)
    values = x.astype(np.float64) * std + mean
    values = values[:, ::-1] if reverses else values
    if options["input"] == "float":
        return values.astype(np.float32)
    values = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    return values.transpose(0, 2, 3, 1) if options["input"] == "uint8-nhwc" else values


def nearest(x: Array, network: Network, options: Mapping[str, Any]) -> Array:
    """Return the input of the network for the nearest bytes; the input itself if the graph expects floats."""
    if options["input"] == "float":
        return x
    mean, std, reverses = _statistics(network)
    values = pixels(x, network, options)
    values = values.transpose(0, 3, 1, 2) if options["input"] == "uint8-nhwc" else values
    values = values.astype(np.float32) / np.float32(255)
    return ((values[:, ::-1] if reverses else values) - mean) / std


def outputs(given: Mapping[str, Array], options: Mapping[str, Any]) -> dict[str, Array]:
    """Return the outputs of the graph for the outputs of the network."""
    return {
        output_name(name, options): _softmax(value) if output_name(name, options) != name else value
        for name, value in given.items()
    }


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _statistics(network: Network) -> tuple[Array, Array, bool]:
    """Return mean and std of the channels, ready to broadcast, and whether the channels are reversed first."""
    recorded = network.preprocess or {}
    if len(network.input) != 3:
        message = f"the input of {network.name} is {list(network.input)}, but --normalize and --input uint8 need images"
        raise UsageError.of("E0830", message, help="an image is [channels, height, width]: build without them")
    if not {"mean", "std"} <= recorded.keys():
        message = f"{network.name} does not record mean and std, which --normalize and --input uint8 put into the graph"
        help = "set them: --set preprocess.mean=[0.5,0.5,0.5] --set preprocess.std=[0.5,0.5,0.5]"
        raise UsageError.of("E0830", message, help=help)
    mean, std = (np.array(recorded[name], np.float32).reshape(1, -1, 1, 1) for name in ("mean", "std"))
    return mean, std, recorded.get("channel_order") == "bgr"


def _add_normalization(graph: Graph, network: Network, kind: str) -> None:
    """Insert the normalisation before all other nodes, in the usual order of image preparation, so with the same
    bits."""
    mean, std, reverses = _statistics(network)
    inner, shape = graph.value("normalized"), network.input
    graph.rename({INPUT: inner})
    rest, graph.calls = graph.calls, []
    value = INPUT
    if kind == "uint8-nhwc":
        value = _call(graph, "transposed", "Transpose", [value], shape, perm=(0, 3, 1, 2))
    if kind != "float":
        value = _call(graph, "floats", "Cast", [value], shape, to=TYPES["float32"])
        value = _call(graph, "scaled", "Div", [value, graph.number(graph.value("normalized.255"), 255)], shape)
    if reverses:
        order = graph.integers(graph.value("normalized.order"), np.arange(len(mean[0]))[::-1])
        value = _call(graph, "reversed", "Gather", [value, order], shape, axis=1)
    value = _call(graph, "centred", "Sub", [value, graph.constant(graph.value("normalized.mean"), mean)], shape)
    value = _call(graph, "divided", "Div", [value, graph.constant(graph.value("normalized.std"), std)], shape)
    graph.rename({value: inner})
    graph.calls += rest


def _call(graph: Graph, name: str, operator: str, inputs: list[str], shape: Shape, **attributes: Any) -> str:
    return graph.call(f"normalized.{name}", operator, inputs, shape, **attributes)


def _add_softmax(graph: Graph, network: Network) -> None:
    """Append a softmax over the classes to the logits."""
    if PROBABILITIES in network.outputs:
        raise UsageError.of("E0802", f"{network.name} has an output '{PROBABILITIES}', so --softmax cannot add one")
    last = {call.output: call for call in graph.calls}
    ends = last[LOGITS]
    while ends.operator in ("Cast", "Identity", "Flatten") and ends.inputs[0] in last:
        ends = last[ends.inputs[0]]
    if ends.operator in _ENDS:
        message = f"{network.name} ends in a {ends.operator.lower()} already, so --softmax does not apply"
        raise UsageError.of("E0802", message)
    scores = graph.value("scores")
    graph.rename({LOGITS: scores})
    graph.rename({graph.call(PROBABILITIES, "Softmax", [scores], network.root.output, axis=1): PROBABILITIES})
