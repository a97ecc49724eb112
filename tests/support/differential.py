"""Comparison of the ONNX file of a network in ONNX Runtime with the interpreter in float64, with random weights.

Scales and running statistics differ from all defaults, scales have random signs, and the statistics match the
activations, so that none overflows or vanishes. An output passes if its relative RMSE against float64 is at most three
times that of the interpreter in float32, but at least 2e-7. A larger error must be within the bound of `verify`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import rescompile
from rescompile import backend
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, Op, walk
from rescompile.ir.op_evaluation import OPS
from rescompile.ir.ops import Norm
from rescompile.runtimes.accuracy import Reference
from rescompile.weights import from_arrays

Array = NDArray[Any]

SAMPLE = 60
FLOOR = 2e-7
INPUTS = 16
#: The opsets of the files, by seed.
OPSETS = range(13, 27)
BATCHES = (3, 1)


def seeds() -> list[int]:
    """Return the seeds to run: the first RESCOMPILE_RANDOM, or those that it lists with commas."""
    asked = os.environ.get("RESCOMPILE_RANDOM", str(SAMPLE))
    return [int(seed) for seed in asked.split(",") if seed] if "," in asked else list(range(int(asked)))


class Wrong(AssertionError):
    """An error in a compiled file; `how` is the stage that found it: `build`, `file`, `shapes`, `run` or `numbers`."""

    def __init__(self, how: str, message: str) -> None:
        super().__init__(message)
        self.how = how


# --- weights and expected outputs -------------------------------------------------------------------------------------


def random_weights(network: Network, x: Array, seed: int) -> dict[str, Array]:
    """Return float32 weights for every tensor; the statistics of each norm are near those of its input for `x`."""
    rng = np.random.default_rng([seed, 1])
    weights: dict[str, Array] = {}
    for path, node in walk(network.root):
        if not isinstance(node, Op):
            continue
        for parameter in node.kind.parameters(node.input):
            name, shape = f"{path}.{parameter.name}", parameter.shape
            if parameter.dtype == "int64":
                weights[name] = np.array(rng.integers(1, 1000))
            elif parameter.name == "running_var" or (parameter.name == "weight" and not parameter.fan_in):
                sign = rng.choice([-1, 1], shape) if parameter.name == "weight" else 1
                weights[name] = sign * rng.uniform(0.5, 1.5, shape)
            elif parameter.name == "weight":
                weights[name] = rng.standard_normal(shape) * np.sqrt(1.5 / parameter.fan_in)
            else:
                weights[name] = 0.5 * rng.standard_normal(shape)

    def calibrated(op: Norm, values: Array, own: Mapping[str, Array]) -> Array:
        if op.kind != "batch":  # other norms have no statistics
            return norm(op, values, own)
        axes = (0, *range(2, values.ndim))
        mean, spread = values.mean(axes), values.std(axes)
        own["running_mean"][:] = mean + 0.5 * spread * rng.standard_normal(mean.shape)
        own["running_var"][:] = spread**2 * rng.uniform(0.5, 2, mean.shape) + 0.1 * mean**2 + 0.01
        return norm(op, values, own)

    norm = OPS[Norm]
    with mock.patch.dict(OPS, {Norm: calibrated}):  # it writes into the float64 arrays above
        interpret(network, weights, x)
    return {name: value if value.dtype.kind == "i" else value.astype(np.float32) for name, value in weights.items()}


def rms(values: Array) -> float:
    """Return the root mean square, in float64."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


@dataclass(frozen=True)
class Case:
    """A network with weights and inputs, and its expected outputs: exact, and with the rounding of float32."""

    network: Network
    weights: dict[str, Array]
    x: Array
    wanted: dict[str, Array]
    rounded: tuple[dict[str, Array], ...]

    @cached_property
    def reference(self) -> Reference:
        """The bound of `verify`, which estimates how much norms amplify the rounding of the sums of their means."""
        return Reference(self.network, from_arrays(self.weights, self.network), self.x)

    def allowed(self, name: str, error: float = 0.0) -> float:
        """Return the largest allowed error of an output, relative to its RMS: three times the worst rounding error of
        any input, or the bound of `verify` if a measured `error` is larger, since runtimes sum means in other orders.

        A few numbers are sometimes exact by chance, so one evaluation of one input is not enough.
        """
        errors = [
            rms(value - wanted)
            for values in self.rounded
            for value, wanted in zip(values[name], self.wanted[name], strict=True)
        ]
        bound = max(3 * max(errors) / self.scale(name), FLOOR)
        return bound if error <= bound else max(bound, self.reference.bound("fp32", name, error))

    def scale(self, name: str) -> float:
        """Return the RMS of an output, or 1 if it is zero everywhere, after dead activations."""
        return rms(self.wanted[name]) or 1.0


def prepared(path: Path, seed: int) -> Case:
    """Return the case of a spec file; only the interpreter runs, and nothing is compiled."""
    network = rescompile.elaborate(rescompile.load(path))
    rng = np.random.default_rng([seed, 2])
    x = rng.standard_normal((INPUTS, *network.input)).astype(np.float32)
    weights = random_weights(network, x, seed)

    def moved(value: Array) -> Array:
        """Perturb every number by at most half a unit in the last place of float32."""
        return value * (1 + rng.uniform(-(2.0**-24), 2.0**-24, value.shape))

    plain = interpret(network, weights, x, "fp32")
    others = (interpret(network, {k: moved(v) for k, v in weights.items()}, moved(x)) for _ in range(2))
    return Case(network, weights, x, interpret(network, weights, x), (plain, *others))


# --- comparing --------------------------------------------------------------------------------------------------------


def compare(case: Case, **options: Any) -> None:
    """Compile the case, check the file and the shapes that ONNX infers, and run it. Raises Wrong."""
    try:
        artifact = rescompile.build(case.network, "onnx", case.weights, **options)
        data = artifact.to_bytes()
    except Exception as error:
        raise Wrong("build", f"does not build: {error!r}") from error
    check_file(data, artifact.network)
    for batch in BATCHES:
        found = run(data, case.x[:batch])
        if found.keys() != case.wanted.keys():
            raise Wrong("shapes", f"outputs {sorted(found)} instead of {sorted(case.wanted)}")
        for name, value in found.items():
            wanted = case.wanted[name][:batch]
            if value.shape != wanted.shape:
                raise Wrong("shapes", f"{name}: {value.shape} instead of {wanted.shape}")
            off = rms(value - wanted) / case.scale(name)
            allowed = case.allowed(name, off)
            if not off <= allowed:
                raise Wrong("numbers", f"{name}, batch {batch}: relative RMSE {off:.2g}, {allowed:.2g} allowed")


def check_file(data: bytes, network: Network) -> None:
    """Check that the ONNX file is valid, and that ONNX infers our shape for every value. Raises Wrong."""
    try:
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    except Exception as error:
        raise Wrong("file", f"not a valid model: {error}") from error
    shapes = {
        value.name: [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.output)
    }
    calls = backend.load("onnx").graph_of(network).calls  # type: ignore[attr-defined]
    if len(calls) != len(model.graph.node):
        raise Wrong("file", f"{len(model.graph.node)} nodes for {len(calls)} calls")
    resized = any(call.operator == "Resize" for call in calls)
    for call in calls:
        batch, *sizes = shapes.get(call.output, [None])
        # Resize multiplies every size by its scale, the batch by 1, and ONNX does not multiply a name.
        lost = resized and str(batch).startswith("unk__")
        if sizes != [*call.shape] or not (batch == "batch" or lost):
            raise Wrong("shapes", f"{call.output}: ONNX infers {shapes.get(call.output)}, the tree has {call.shape}")


def run(data: bytes, x: Array) -> dict[str, Array]:
    """Return the outputs of a model in ONNX Runtime on the CPU. Raises Wrong."""
    runtime = pytest.importorskip("onnxruntime")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    try:
        session = runtime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"input": x}), strict=True))
    except Exception as error:
        raise Wrong("run", f"does not run: {error}") from error
