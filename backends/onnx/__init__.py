"""Network -> ONNX, written directly: no framework, no tracing, a batch axis that stays free.

ops        which nodes each op and each merge becomes: one table row each
graph      the tree threaded into a graph
half       the graph and its weights in float16
metadata   what a file records of its origin, and how it is read back
file       the model as bytes, written as a stream; protobuf is the wire format below it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rescompile.backend import Artifact, Option
from rescompile.diagnostics.errors import Diagnostic, UsageError
from rescompile.ir.network import INPUT, Network
from rescompile.version import __version__
from rescompile.weights import Weights

from .file import described, files
from .graph import graph_of
from .half import half_graph, half_weights
from .metadata import CALIBRATION, extract, facts, metadata
from .model import Model, Value

if TYPE_CHECKING:
    from rescompile.analysis.dynamic_shapes import Sizes

__all__ = ["OPTIONS", "PRODUCER", "SUFFIX", "emit", "extract", "graph_of", "rewritten"]

SUFFIX = ".onnx"
PRODUCER = ("rescompile", __version__)
#: The first opset that has all operators used here, which most runtimes read.
LEAST = 17
OPTIONS = (
    Option("opset", int, LEAST, "ONNX opset of the graph", LEAST, 21),
    Option("batch", int, None, "fix the batch to this size instead of leaving it free", 1, 1 << 20),
    Option(
        "precision",
        str,
        "fp32",
        "fp16 holds weights and computes in float16; int8 multiplies whole numbers",
        choices=("fp32", "fp16", "int8"),
    ),
    Option("dynamic", str, None, "axes of the image to leave free: height,width"),
    Option("made_for", str, None, "the runtime whose recipe gave the options, to be recorded"),
)


def emit(network: Network, weights: Weights | None, **options: Any) -> Artifact:
    """The network as an ONNX model: input `input`, output `logits`, then the outputs of side branches that are always
    computed. Without weights the parameters are inputs of the graph.

    In fp16 weights and nodes are float16, and the input and the outputs stay float32, so that the file can replace the
    float32 one. Raises CheckFailed, when it is written, for a weight that float16 cannot represent. Raises UsageError for
    int8, which needs calibration data: use `rescompile.build`."""
    if options["precision"] == "int8":
        raise UsageError(Diagnostic("E0802", "a network becomes int8 by data", help="use rescompile.build"))
    sizes = _sizes(network, options["dynamic"])
    graph = graph_of(network, sizes)
    if options["precision"] == "fp16":
        half_graph(graph, network)
        weights = None if weights is None else half_weights(weights)
    batch = options["batch"] or "batch"
    inputs = [Value(INPUT, (batch, *(sizes.input if sizes else network.input)))]
    outputs = sizes.outputs if sizes else network.outputs
    tensors = graph.tensors
    if weights is None:
        inputs += [Value(tensor.name, tensor.shape, tensor.dtype) for tensor in tensors if tensor.constant is None]
        tensors = [tensor for tensor in tensors if tensor.constant is not None]
    model = Model(
        network.name,
        graph.calls,
        tensors,
        inputs,
        [Value(name, (batch, *shape)) for name, shape in outputs.items()],
        options["opset"],
        PRODUCER,
        metadata(network, weights, sizes, _changed(options)),
    )
    return Artifact(
        network, SUFFIX, lambda name: files(model, weights, name), facts(network, sizes, len(graph.calls), options)
    )


def rewritten(
    network: Network, weights: Weights, model: bytes, nodes: int, calibration: Mapping[str, Any], more: Mapping[str, Any],
    **options: Any,
) -> Artifact:  # fmt: skip
    """An artifact of a model that another tool made of one of these: the bytes of a ModelProto without metadata, to which
    that of the network is added, with the calibration it was made with, and the checksum. `more` are further facts."""
    sizes = _sizes(network, options["dynamic"])
    record = {CALIBRATION: json.dumps(calibration, sort_keys=True)}
    entries = {**metadata(network, weights, sizes, _changed(options)), **record}
    return Artifact(
        network,
        SUFFIX,
        lambda name: [described(model, entries, name)],
        {**facts(network, sizes, nodes, options), **more},
    )


def _changed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that do not have their default."""
    return {option.name: options[option.name] for option in OPTIONS if options[option.name] != option.default}


def _sizes(network: Network, dynamic: str | None) -> Sizes | None:
    """The free sizes of the image. Raises UsageError where something fixes them."""
    if dynamic is None:
        return None
    from rescompile.analysis.dynamic_shapes import sizes  # most files are of one size

    return sizes(network, dynamic)
