"""OpenVINO as a runtime, on the CPU: one stream, tuned for latency, in the precision that its nodes report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import Unavailable, UsageError
from rescompile.runtimes import Job, Runtime, check_precision
from rescompile.weights import Array

#: OpenVINO's names of the types in which float networks compute. The other ops of a quantised network compute in float32; by
#: default OpenVINO would use bfloat16 if the CPU supports it.
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_TYPES = {"fp32": ("f32",), "bf16": ("bf16",), "int8": ("i8", "u8")}
_MULTIPLYING = ("Convolution", "FullyConnected", "MatMul")
#: Multiplying ops of the original model. Consecutive linear layers are fused into a Subgraph node, which records their names.
_PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
_FACTS = ("layerType", "originalLayersNames", "primitiveType", "runtimePrecision")


def missing(runtime: Runtime) -> str | None:
    """Return the reason why OpenVINO cannot run on this CPU."""
    try:
        import openvino
    except ImportError:
        return "OpenVINO is not installed"
    return None if "CPU" in openvino.Core().available_devices else "OpenVINO has no plugin for this CPU"


def prepare(runtime: Runtime, job: Job, options: Mapping[str, Any]) -> Request:
    """Return the model of a job, compiled for the CPU and run once."""
    return Request(job, options)


def profile(runtime: Runtime, job: Job, options: Mapping[str, Any], runs: int) -> list[tuple[str, float]]:
    """Return the nodes of a model with their mean seconds, by the name of the last original node in each, or "" for an added
    layout change.

    OpenVINO reports the mean of all runs so far. The first run also generates kernels, which takes milliseconds, so its share is
    removed from the mean; medians are not available.
    """
    import openvino

    config = {**_config(job, options), "PERF_COUNT": True}
    core = openvino.Core()
    model = core.read_model(str(job.model))
    model.reshape(list(job.input.shape))
    given = {op.get_friendly_name() for op in model.get_ops()}
    compiled = core.compile_model(model, "CPU", config)
    origins = {}
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if "originalLayersNames" in facts:
            names = facts["originalLayersNames"].astype(str).split(",")
            origins[node.get_friendly_name()] = ([name for name in names if name in given] or names)[-1]
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(job.input), shared_memory=True))

    def means() -> dict[str, float]:
        return {node.node_name: node.real_time.total_seconds() for node in request.get_profiling_info()}

    request.infer()
    first = means()
    for _ in range(runs):
        request.infer()
    ran = {name: mean for name, mean in means().items() if mean > 0}
    # Means are rounded to microseconds, so a short node after a long first run could have a negative time.
    return [(origins.get(name, name), max(0.0, (1 + runs) * mean - first[name]) / runs) for name, mean in ran.items()]


class Request:
    """An inference request whose input tensor shares the array of the job."""

    def __init__(self, job: Job, options: Mapping[str, Any]) -> None:
        import openvino

        core = openvino.Core()
        native = tuple(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        config = _config(job, options)
        started = time.perf_counter()
        try:
            model = core.read_model(str(job.model))
        except RuntimeError as error:
            raise UsageError.of("E0801", f"{job.name} cannot be loaded by OpenVINO: {_last(error)}") from None
        try:
            model.reshape(list(job.input.shape))
            products = {op.get_friendly_name() for op in model.get_ops() if op.get_type_name() in _PRODUCTS}
            # The compiled model adds the names of removed ops to an output.
            self._names = [output.get_any_name() for output in model.outputs]
            compiled = core.compile_model(model, "CPU", config)
            self._request: Any = compiled.create_infer_request()
            self._input: Any = np.ascontiguousarray(job.input)
            self._request.set_input_tensor(openvino.Tensor(self._input, shared_memory=True))
            self.build_seconds = time.perf_counter() - started
            started = time.perf_counter()
            self.run()
        except RuntimeError as error:  # OpenVINO reads this network but cannot run it; others may still be measured
            raise Unavailable.of("E0901", f"openvino cannot run {job.name}: {_last(error)}") from None
        self.first_seconds = time.perf_counter() - started
        nodes = compiled.get_runtime_model().get_ops()
        multiplied = counted(nodes, "runtimePrecision", products)
        check_precision("OpenVINO", job, multiplied, _TYPES[job.precision], f"this CPU supports {', '.join(native)}")
        self.facts: Mapping[str, Any] = {
            "device": "cpu",
            "precision": job.precision,
            "tf32": False,
            "threads": compiled.get_property("INFERENCE_NUM_THREADS"),
            "multiplied": multiplied,
            "kernels": counted(nodes, "primitiveType", products),
            "native": list(native),
            "options": dict(options),
            "versions": {"openvino": openvino.__version__},
        }

    def run(self) -> None:
        """Run one inference."""
        self._request.infer()

    def outputs(self) -> Mapping[str, Array]:
        """Return the outputs of the last run by name."""
        tensors = (self._request.get_output_tensor(index) for index in range(len(self._names)))
        return {name: tensor.data.astype(np.float32) for name, tensor in zip(self._names, tensors, strict=True)}

    def close(self) -> None:
        """Release the request and its model."""
        self._request = self._input = None


def _config(job: Job, options: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_PRECISION_HINT": HINTS[job.precision],
    }
    if (threads := options.get("threads", job.threads)) is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    return config


def counted(nodes: Any, fact: str, products: Set[str]) -> dict[str, int]:
    """Return the number of multiplying nodes for each value of a fact of the compiled model: `runtimePrecision` is the type
    that a node computes in, `primitiveType` its kernel, whose name contains the instruction set. `products` are the names of
    the original multiplying ops, which identify fused nodes."""
    counts: Counter[str] = Counter()
    for node in nodes:
        facts = {key: value.astype(str) for key, value in node.get_rt_info().items() if key in _FACTS}
        kind, names = facts.get("layerType"), facts.get("originalLayersNames", "").split(",")
        if kind in _MULTIPLYING or (kind == "Subgraph" and not products.isdisjoint(names)):
            counts[facts[fact]] += 1
    return dict(counts)


def _last(error: Exception) -> str:
    """Return the last line of an error of OpenVINO, which is the message; the first lines are its source location."""
    return ([line for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1][:300]
