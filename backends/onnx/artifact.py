"""The artifact of the target `onnx`: a network as an ONNX model, and its outputs in ONNX Runtime."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rescompile.backend import Artifact, Wrapping
from rescompile.diagnostics.errors import UsageError
from rescompile.ir.network import INPUT, TRAINING, Network
from rescompile.weights import Array, Weights

from . import OPTIONS, SUFFIX, deployment, training
from .file import described, files
from .graph import graph_of
from .half import half_graph, half_weights
from .metadata import CALIBRATION, extract, facts, metadata
from .model import Model, Value
from .versions import lowest_ir

if TYPE_CHECKING:
    from rescompile.analysis.dynamic_shapes import Sizes

__all__ = ["emit", "evaluate", "evaluate_file", "extract", "graph_of", "rewritten", "wrapping"]


def emit(network: Network, weights: Weights | None, **options: Any) -> Artifact:
    """Return the network as an ONNX model: input `input`, output `logits`, then the outputs of side branches that are
    always computed. Without weights the parameters are inputs of the graph. In the training form, new running
    statistics follow as outputs, named like the old ones with `.new` appended.

    In fp16, weights and nodes are float16, and the input and the outputs remain float32, so that the file can replace
    the float32 one. Writing it raises CheckFailed for a weight that float16 cannot represent. Raises UsageError for
    int8, which requires calibration data: use `rescompile.build`."""
    if options["precision"] == "int8":
        raise UsageError.of("E0802", "int8 needs calibration data", help="use rescompile.build")
    if options["training"]:
        training.check(network, options)
    sizes = _sizes(network, options["dynamic"])
    graph = graph_of(network, sizes, options["opset"], options["training"])
    if options["precision"] == "fp16":
        half_graph(graph, network)
        weights = None if weights is None else half_weights(weights, network)
    deployment.add(graph, network, options)
    batch = options["batch"] or "batch"
    inputs = [deployment.input_value(sizes.input if sizes else network.input, batch, options)]
    outputs = {
        deployment.output_name(name, options): shape for name, shape in _outputs(network, sizes, options).items()
    }
    updates, tensors = training.updates(graph), [*graph.tensors.values()]
    if weights is None:
        inputs += [Value(tensor.name, tensor.shape, tensor.dtype) for tensor in tensors if tensor.constant is None]
        tensors = [tensor for tensor in tensors if tensor.constant is not None]
    model = Model(
        network.name,
        graph.calls,
        tensors,
        inputs,
        [Value(name, (batch, *shape)) for name, shape in outputs.items()]
        + [Value(name, shape) for name, shape in updates.items()],
        options["opset"],
        options["ir"] or lowest_ir(options["opset"]),
        metadata(network, weights, sizes, _changed(options)),
    )
    return Artifact(
        network,
        SUFFIX,
        lambda name: files(model, weights, name),
        facts(network, sizes, outputs, len(graph.calls), options)
        | ({"updates": list(graph.updates.values())} if updates else {}),
    )


def evaluate(network: Network, weights: Weights, x: Array, **options: Any) -> dict[str, Array]:
    """Return the outputs of the model in ONNX Runtime on the CPU, by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        emit(network, weights, **options).write(path)
        return evaluate_file(path, network, weights, x, **options)


def evaluate_file(path: Path, network: Network, weights: Weights, x: Array, **options: Any) -> dict[str, Array]:
    """Return the outputs of a file in ONNX Runtime on the CPU, by name.

    An int8 file is evaluated node by node with float sums: on CPUs without VNNI, the integer kernels saturate."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if options["precision"] == "int8":
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT: deployment.pixels(x, network, options)}), strict=True))


def wrapping(network: Network, **options: Any) -> Wrapping:
    """Return the normalisation and the softmax that the options add around the network. Raises UsageError for the
    training form."""
    if options["training"]:
        message = "--verify and --training cannot be used together: the interpreter evaluates networks"
        raise UsageError.of("E0802", message, help="verify the file without --training")
    return Wrapping(
        lambda x: deployment.nearest(x, network, options), lambda outputs: deployment.outputs(outputs, options)
    )


def rewritten(
    network: Network, weights: Weights, model: bytes, nodes: int, calibration: Mapping[str, Any], more: Mapping[str, Any],
    **options: Any,
) -> Artifact:  # fmt: skip
    """Return an artifact of a model that another tool made from one of these: the bytes of a ModelProto without
    metadata, followed by the metadata of the network, the calibration it was made with, and the checksum. `more`
    contains further facts."""
    sizes = _sizes(network, options["dynamic"])
    record = {CALIBRATION: json.dumps(calibration, sort_keys=True)}
    entries = {**metadata(network, weights, sizes, _changed(options)), **record}
    return Artifact(
        network,
        SUFFIX,
        lambda name: [described(model, entries, name)],
        {**facts(network, sizes, _outputs(network, sizes, options), nodes, options), **more},
    )


def _outputs(network: Network, sizes: Sizes | None, options: Mapping[str, Any]) -> Mapping[str, Sequence[int | str]]:
    """Return the outputs of the network in this form, with their shapes."""
    if options["training"]:
        return network.outputs_of(TRAINING)
    return sizes.outputs if sizes else network.outputs


def _changed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that differ from their defaults."""
    return {option.name: options[option.name] for option in OPTIONS if options[option.name] != option.default}


def _sizes(network: Network, dynamic: str | None) -> Sizes | None:
    """Return the dynamic sizes of the image. Raises UsageError if a part of the network fixes them."""
    if dynamic is None:
        return None
    from rescompile.analysis.dynamic_shapes import sizes  # most files have a fixed size

    return sizes(network, dynamic)
