"""int8: an ONNX file whose convolutions and matrix products take whole numbers of eight bits, by ONNX Runtime's own static
quantiser.

The file is in QDQ form: a QuantizeLinear and a DequantizeLinear around what is multiplied, which runtimes fuse into kernels
of whole numbers. Weights are symmetric with a scale per channel. Norms are folded before, since only what stands between two
convolutions in whole numbers is fast. What it costs is measured on inputs that were not calibrated with, and told.

The same file, data, machine and version of ONNX Runtime give the same bytes; other processors may round a range otherwise.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rescompile import backend as door
from rescompile.diagnostics.errors import CheckFailed, Diagnostic, RescompileError, Unavailable
from rescompile.ir.network import INPUT, LOGITS, Network
from rescompile.quantize.calibration import Data
from rescompile.runtimes.ort_session import PROVIDERS, brief, evaluate, library, opened
from rescompile.weights import Array, Weights

EXTRA = "pip install 'rescompile[quantize]'"


@dataclass(frozen=True, slots=True)
class Scheme:
    """How activations become whole numbers, which operators take them, and what else the quantiser is told."""

    activations: str
    operators: tuple[str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


_MULTIPLYING = ("Conv", "Gemm", "MatMul")
#: Of 256 levels many of a thousand classes would share one.
_LOGITS = {"OpTypesToExcludeOutputQuantization": ["Gemm"]}
#: By name. Only what multiplies is in whole numbers: with merges, pools, concatenations and norms too, DenseNet-121 took half as
#: long again and was off by twice as much, ResNet-50 was slower, and DarkNet-53 by 4% faster (benchmarks/recipes.py).
SCHEMES: Mapping[str, Scheme] = {
    # Kernels of x86 multiply unsigned activations by signed weights; with signed ones ResNet-50 took 2.2 times as long.
    "u8s8": Scheme("QUInt8", _MULTIPLYING, _LOGITS),
    # TensorRT takes zero points that are 0 alone, and biases in floats (its documentation, "Explicit Quantization").
    "s8s8": Scheme(
        "QInt8", _MULTIPLYING, {**_LOGITS, "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cost:
    """What became of the outputs for `inputs` that were kept apart: the worst relative error by root mean square, None where
    there were none; and in how many the first class is that of float32, None for a network whose main output is no vector of
    classes."""

    inputs: int
    error: float | None
    agreed: int | None


def artifact(network: Network, weights: Weights, data: Data, scheme: str, **options: Any) -> door.Artifact:
    """A network whose norms are folded already, as an int8 ONNX file. `options` are those of the target onnx.

    Raises Unavailable where the quantiser is missing, CheckFailed for activations that are not finite."""
    backend: Any = door.load("onnx")
    _quantiser()
    with tempfile.TemporaryDirectory() as folder:
        plain, path = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        backend.emit(network, weights, **{**options, "precision": "fp32", "batch": None}).write(plain)
        if not all(np.isfinite(value).all() for value in evaluate(plain, data.fit[0]()).values()):
            raise _not_finite(network.name)
        model = convert(plain, (make() for make in data.fit), SCHEMES[scheme], network.name)
        path.write_bytes(model.SerializeToString(deterministic=True))
        cost = measured(plain, path, data)
    if cost.error is not None and not math.isfinite(cost.error):
        raise _not_finite(network.name)
    fix(model, options["batch"] or "batch")
    model.producer_name, model.producer_version = backend.PRODUCER
    record = {
        "data": data.kind,
        "inputs": len(data.fit),
        "sha256": data.digest(),
        "scheme": scheme,
        "quantiser": version(),
        **({} if data.seed is None else {"seed": data.seed}),
    }
    facts = {"calibration": record, "int8": {"inputs": cost.inputs, "error": cost.error, "agreed": cost.agreed}}
    made: door.Artifact = backend.rewritten(
        network, weights, model.SerializeToString(deterministic=True), len(model.graph.node), record, facts, **options
    )
    return made


def convert(model: Path, inputs: Iterable[Array], scheme: Scheme, name: str) -> Any:
    """The quantised ModelProto of an ONNX file, ours or another's whose input is called alike, without metadata. Each of
    `inputs` is a whole batch of the file. `name` is for messages."""
    onnx, quantiser = _quantiser()
    proto = onnx.load(str(model))
    del proto.metadata_props[:]
    # It would advise to fold what the quantiser needs folded, which is done.
    proto.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        try:
            quantiser.quantize_static(
                proto, str(path), _Reader(inputs), quant_format=quantiser.QuantFormat.QDQ, per_channel=True,
                op_types_to_quantize=list(scheme.operators), weight_type=quantiser.QuantType.QInt8,
                activation_type=quantiser.QuantType[scheme.activations], extra_options=dict(scheme.extra),
            )  # fmt: skip
            made = onnx.load(str(path))
        except RescompileError:
            raise
        except Exception as error:  # its exceptions share no base class but Exception
            message = f"the quantiser of ONNX Runtime does not take {name}: {brief(error)}"
            raise CheckFailed(Diagnostic("E0740", message)) from None
    del made.metadata_props[:], made.graph.value_info[:]
    return made


def fix(model: Any, batch: int | str) -> None:
    """Set the batch of a ModelProto: a size, or the name of a free one."""
    for value in (*model.graph.input, *model.graph.output):
        size = value.type.tensor_type.shape.dim[0]
        if isinstance(batch, int):
            size.dim_value = batch
        else:
            size.dim_param = batch


def measured(plain: Path, quantised: Path, data: Data) -> Cost:
    """How far a quantised file is from the one in float32, on the inputs that were kept apart."""
    if not data.held:
        return Cost(0, None, None)
    ort = library()
    sessions = [opened(ort, path, ort.SessionOptions(), PROVIDERS["ort-cpu"]) for path in (plain, quantised)]
    names = [value.name for value in sessions[0].get_outputs()]
    classes = len(sessions[0].get_outputs()[names.index(LOGITS)].shape) == 2
    sums = dict.fromkeys(names, (0.0, 0.0))
    agreed = 0
    for make in data.held:
        x = make()
        exact, given = (dict(zip(names, session.run(names, {INPUT: x}), strict=True)) for session in sessions)
        for name, (off, size) in sums.items():
            wanted = exact[name].astype(np.float64)
            sums[name] = off + float(np.sum((given[name] - wanted) ** 2)), size + float(np.sum(wanted**2))
        agreed += classes and int(exact[LOGITS].argmax()) == int(given[LOGITS].argmax())
    errors = [math.sqrt(off / size) if size else math.sqrt(off) for off, size in sums.values()]
    worst = math.nan if any(math.isnan(error) for error in errors) else max(errors)
    return Cost(len(data.held), worst, agreed if classes else None)


def simulated(path: Path, x: Array) -> dict[str, Array]:
    """The outputs of an int8 file as it is written: every number rounded to its whole number, and all sums taken in floats."""
    ort = library()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = opened(ort, path, options, PROVIDERS["ort-cpu"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: x}), strict=True))


def version() -> str:
    """The quantiser and its version."""
    return f"onnxruntime {library().__version__}"


class _Reader:
    """Inputs in the form in which the quantiser asks for them."""

    def __init__(self, inputs: Iterable[Array]) -> None:
        self._inputs: Iterator[Array] = iter(inputs)

    def get_next(self) -> dict[str, Array] | None:
        """The next input, or None after the last."""
        found = next(self._inputs, None)
        return None if found is None else {INPUT: found}


def _quantiser() -> tuple[Any, Any]:
    """onnx, and ONNX Runtime's quantiser, which is written with it. Raises Unavailable where one is missing."""
    try:
        import onnx
        import onnxruntime.quantization as quantiser
    except ImportError as error:
        message = f"int8 is made by ONNX Runtime's quantiser, which cannot be loaded: {error}"
        raise Unavailable(Diagnostic("E0902", message, help=EXTRA)) from None
    return onnx, quantiser


def _not_finite(name: str) -> CheckFailed:
    message = f"{name} cannot be quantised: it has activations that are not finite"
    return CheckFailed(Diagnostic("E0740", message, help="quantise trained weights: --weights FILE"))
