"""int8: ONNX files whose convolutions and matrix products compute with 8-bit integers, by ONNX Runtime's static quantiser.

The files are in QDQ form: QuantizeLinear and DequantizeLinear around each product, which runtimes fuse into integer kernels.
Weights are symmetric with a scale per channel. Normalisation is folded first, since anything between two convolutions breaks
the integer path. The error is measured on validation inputs and reported.

The same file, data, machine and version of ONNX Runtime give the same bytes; other CPUs may round a range differently.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

import numpy as np

from rescompile.backend import Artifact, Backend
from rescompile.diagnostics.errors import CheckFailed, RescompileError, Unavailable, UsageError
from rescompile.ir.interpreter import first_not_finite
from rescompile.ir.network import INPUT, LOGITS, Network
from rescompile.quantize.calibration import Data, Input
from rescompile.records import record
from rescompile.runtimes.ort_session import PROVIDERS, brief, evaluate, library, opened
from rescompile.version import __version__
from rescompile.weights import Array, Weights

#: Yields items, given their number and their name.
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
EXTRA = "pip install 'rescompile[quantize]'"


@record
class Scheme:
    """A quantisation scheme: the integer type of activations, the quantised operators, and other options of the quantiser."""

    activations: str
    operators: tuple[str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


_MULTIPLYING = ("Conv", "Gemm", "MatMul")
#: With 256 levels, many of a thousand classes would share a value.
_LOGITS = {"OpTypesToExcludeOutputQuantization": ["Gemm"]}
#: Schemes by name. Only products are quantised: with merges, pools, concatenations and norms too, DenseNet-121 took 1.5 times as
#: long with twice the error, ResNet-50 was slower, and DarkNet-53 was 4% faster (benchmarks/recipes.py).
SCHEMES: Mapping[str, Scheme] = {
    # x86 kernels multiply unsigned activations by signed weights; with signed activations ResNet-50 took 2.2 times as long.
    "u8s8": Scheme("QUInt8", _MULTIPLYING, _LOGITS),
    # TensorRT requires zero points of 0 and float biases (its documentation, "Explicit Quantization").
    "s8s8": Scheme(
        "QInt8", _MULTIPLYING, {**_LOGITS, "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    ),
}  # fmt: skip


@record
class QuantizationError:
    """The error on the validation inputs: the largest relative error of an output by root mean square, None without such inputs;
    and the number of inputs with the same first class as in float32, None if the main output is not a vector of classes."""

    inputs: int
    error: float | None
    agreed: int | None


def artifact(
    backend: Backend,
    network: Network,
    weights: Weights,
    data: Data,
    scheme: str,
    track: Track = lambda items, total, unit: items,
    **options: Any,
) -> Artifact:
    """Return the int8 ONNX file of a network whose norms are already folded. `options` are those of the backend, which writes
    ONNX files; `track` shows how many inputs were run.

    Raises Unavailable if the quantiser is missing, CheckFailed for activations that are not finite."""
    assert backend.rewritten is not None
    for flag in ("--training", "--normalize", "--softmax"):
        given = options[flag[2:]]
        if given or options["input"] != "float":  # calibration data are inputs of the network
            message = f"{flag if given else '--input'} and --precision int8 cannot be used together"
            raise UsageError.of("E0802", message, help="normalise images before the file, or use --precision fp16")
    _quantiser()
    with tempfile.TemporaryDirectory() as folder:
        plain, path = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        backend.emit(network, weights, **{**options, "precision": "fp32", "batch": None}).write(plain)
        if not all(np.isfinite(value).all() for value in evaluate(plain, data.calibration[0]()).values()):
            raise _not_finite(network, weights, data.calibration[:1])
        inputs = track(data.calibration, len(data.calibration), "calibration inputs")
        model = convert(plain, (make() for make in inputs), SCHEMES[scheme], network.name)
        path.write_bytes(model.SerializeToString(deterministic=True))
        validation = validate(plain, path, data)
    if validation.error is not None and not math.isfinite(validation.error):
        raise _not_finite(network, weights, data.validation)
    fix(model, options["batch"] or "batch")
    model.producer_name, model.producer_version = "rescompile", __version__
    record = {
        "data": data.description,
        "inputs": len(data.calibration),
        "sha256": data.digest(),
        "scheme": scheme,
        "quantiser": f"onnxruntime {library().__version__}",
        **({} if data.seed is None else {"seed": data.seed}),
    }
    facts = {"calibration": record, "int8": asdict(validation)}
    content = model.SerializeToString(deterministic=True)
    return backend.rewritten(network, weights, content, len(model.graph.node), record, facts, **options)


def convert(model: Path, inputs: Iterable[Array], scheme: Scheme, name: str) -> Any:
    """Return the quantised ModelProto of an ONNX file whose input has our name, without metadata. Each of `inputs` is a
    batch of the file's size. `name` is for messages. Raises CheckFailed for a file without a product."""
    onnx, quantiser = _quantiser()
    proto = onnx.load(str(model))
    if not any(node.op_type in scheme.operators for node in proto.graph.node):
        message = f"{name} has nothing to quantise: neither a convolution nor a linear layer"
        raise CheckFailed.of("E0740", message, help="use --precision fp32 or fp16")
    del proto.metadata_props[:]
    # Otherwise the quantiser would recommend preprocessing, which is already done.
    proto.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        try:
            quantiser.quantize_static(
                proto, str(path), _Reader(inputs), quant_format=quantiser.QuantFormat.QDQ, per_channel=True,
                op_types_to_quantize=list(scheme.operators), weight_type=quantiser.QuantType.QInt8,
                activation_type=quantiser.QuantType[scheme.activations], extra_options=dict(scheme.extra),
            )  # fmt: skip
            quantised = onnx.load(str(path))
        except RescompileError:
            raise
        except Exception as error:  # its exceptions have no common base class except Exception
            raise CheckFailed.of("E0740", f"ONNX Runtime cannot quantise {name}: {brief(error)}") from None
    del quantised.metadata_props[:], quantised.graph.value_info[:]
    return quantised


def fix(model: Any, batch: int | str) -> None:
    """Set the batch of a ModelProto: a size, or the name of a dynamic one."""
    for value in (*model.graph.input, *model.graph.output):
        size = value.type.tensor_type.shape.dim[0]
        if isinstance(batch, int):
            size.dim_value = batch
        else:
            size.dim_param = batch


def validate(plain: Path, quantised: Path, data: Data) -> QuantizationError:
    """Return the error of a quantised file against the float32 file on the validation inputs."""
    if not data.validation:
        return QuantizationError(0, None, None)
    ort = library()
    sessions = [opened(ort, path, ort.SessionOptions(), PROVIDERS["ort-cpu"]) for path in (plain, quantised)]
    names = [value.name for value in sessions[0].get_outputs()]
    classes = len(sessions[0].get_outputs()[names.index(LOGITS)].shape) == 2
    sums = dict.fromkeys(names, (0.0, 0.0))
    agreed = 0
    for make in data.validation:
        x = make()
        exact, given = (dict(zip(names, session.run(names, {INPUT: x}), strict=True)) for session in sessions)
        for name, (off, size) in sums.items():
            wanted = exact[name].astype(np.float64)
            sums[name] = off + float(np.sum((given[name] - wanted) ** 2)), size + float(np.sum(wanted**2))
        agreed += classes and int(exact[LOGITS].argmax()) == int(given[LOGITS].argmax())
    errors = [math.sqrt(off / size) if size else math.sqrt(off) for off, size in sums.values()]
    worst = math.nan if any(math.isnan(error) for error in errors) else max(errors)
    return QuantizationError(len(data.validation), worst, agreed if classes else None)


def simulated(path: Path, x: Array) -> dict[str, Array]:
    """Return the outputs of an int8 file evaluated node by node: values rounded to integers, and sums in floats."""
    ort = library()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return evaluate(path, x, options)


class _Reader:
    """Inputs as the quantiser reads them."""

    def __init__(self, inputs: Iterable[Array]) -> None:
        self._inputs: Iterator[Array] = iter(inputs)

    def get_next(self) -> dict[str, Array] | None:
        """Return the next input, or None after the last."""
        value = next(self._inputs, None)
        return None if value is None else {INPUT: value}


def _quantiser() -> tuple[Any, Any]:
    """Return the modules onnx and onnxruntime.quantization. Raises Unavailable if one is missing."""
    try:
        import onnx
        import onnxruntime.quantization as quantiser
    except ImportError as error:
        message = f"int8 needs ONNX Runtime's quantiser, which cannot be loaded: {error}"
        raise Unavailable.of("E0902", message, help=EXTRA) from None
    return onnx, quantiser


def _not_finite(network: Network, weights: Weights, inputs: Iterable[Input]) -> CheckFailed:
    """Return the error, with the first value that is not finite for any of the inputs."""
    values = (first_not_finite(network, weights, make(), "fp32") for make in inputs)
    first = next((value for value in values if value is not None), "an activation of the int8 file")
    message = f"{network.name} cannot be quantised: {first} is not finite"
    return CheckFailed.of("E0740", message, help="quantise trained weights: --weights FILE")
