"""The artifact of the target `onnx`: a network as an ONNX model, and what ONNX Runtime computes with it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rescompile.backend import Artifact
from rescompile.diagnostics.errors import Diagnostic, UsageError
from rescompile.ir.network import INPUT, Network
from rescompile.version import __version__
from rescompile.weights import Array, Weights

from . import OPTIONS, SUFFIX
from .file import described, files
from .graph import graph_of
from .half import half_graph, half_weights
from .metadata import CALIBRATION, extract, facts, metadata
from .model import Model, Value

if TYPE_CHECKING:
    from rescompile.analysis.dynamic_shapes import Sizes

__all__ = ["PRODUCER", "emit", "evaluate", "extract", "graph_of", "rewritten"]

PRODUCER = ("rescompile", __version__)


def emit(network: Network, weights: Weights | None, **options: Any) -> Artifact:
    """The network as an ONNX model: input `input`, output `logits`, then the outputs of side branches that are always
    computed. Without weights the parameters are inputs of the graph.

    In fp16 weights and nodes are float16, and the input and the outputs stay float32, so that the file can replace the
    float32 one. Raises CheckFailed, when it is written, for a weight that float16 cannot represent. Raises UsageError for
    int8, which needs calibration data: use `rescompile.build`."""
    if options["precision"] == "int8":
        raise UsageError(Diagnostic("E0802", "int8 needs calibration data", help="use rescompile.build"))
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


def evaluate(network: Network, weights: Weights, x: Array, **options: Any) -> dict[str, Array]:
    """The outputs of the model in ONNX Runtime on the CPU, by name."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        emit(network, weights, **options).write(path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {INPUT: x}), strict=True))


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
