"""OpenVINO as a runtime, on the processor: one stream, tuned for latency, in the precision that its nodes report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError
from rescompile.runtimes import Job, Runtime
from rescompile.weights import Array

#: What OpenVINO calls the type that a float network computes in. A quantised one keeps float32 for what is not quantised:
#: left to itself, OpenVINO takes bfloat16 for that wherever the processor has it.
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_TYPES = {"fp32": ("f32",), "bf16": ("bf16",), "int8": ("i8", "u8")}
_MULTIPLYING = ("Convolution", "FullyConnected", "MatMul")
#: What multiplies in a model as it was read. Linear layers in a row are fused into a node of the type Subgraph, which keeps names.
_PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
_FACTS = ("layerType", "originalLayersNames", "primitiveType", "runtimePrecision")


def missing(runtime: Runtime) -> str | None:
    """Why OpenVINO cannot run on this processor."""
    try:
        import openvino
    except ImportError:
        return "OpenVINO is not installed"
    return None if "CPU" in openvino.Core().available_devices else "OpenVINO has no plugin for this processor"


def prepare(runtime: Runtime, job: Job, options: Mapping[str, Any]) -> Request:
    """The model of a job, compiled for the processor and run once."""
    return Request(runtime, job, options, options.get("threads", job.threads))


def profile(runtime: Runtime, job: Job, options: Mapping[str, Any], runs: int) -> list[tuple[str, float]]:
    """The nodes of a model by the name of the last one of those in the file that OpenVINO made it of, "" for a change of layout that
    it added, with the mean of their seconds.

    What it reports of a node is the mean of all runs so far. The first is not like the others: some kernels are made in it, which
    takes milliseconds. So its share is taken out of the mean; medians cannot be had.
    """
    import openvino

    config = {**_config(job, options.get("threads", job.threads)), "PERF_COUNT": True}
    core = openvino.Core()
    model = core.read_model(str(job.model))
    model.reshape(list(job.input.shape))
    given = {op.get_friendly_name() for op in model.get_ops()}
    compiled = core.compile_model(model, "CPU", config)
    made = {}
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if "originalLayersNames" in facts:
            names = facts["originalLayersNames"].astype(str).split(",")
            made[node.get_friendly_name()] = ([name for name in names if name in given] or names)[-1]
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(job.input), shared_memory=True))

    def means() -> dict[str, float]:
        return {node.node_name: node.real_time.total_seconds() for node in request.get_profiling_info()}

    request.infer()
    first = means()
    for _ in range(runs):
        request.infer()
    ran = {name: mean for name, mean in means().items() if mean > 0}
    # Means are whole microseconds, so that a short node behind a long first run would have taken less than nothing.
    return [(made.get(name, name), max(0.0, (1 + runs) * mean - first[name]) / runs) for name, mean in ran.items()]


class Request:
    """An inference request whose input tensor is the array of the job itself."""

    def __init__(self, runtime: Runtime, job: Job, options: Mapping[str, Any], threads: int | None) -> None:
        import openvino

        core = openvino.Core()
        native = tuple(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        config = _config(job, threads)
        started = time.perf_counter()
        try:
            model = core.read_model(str(job.model))
        except RuntimeError as error:
            raise UsageError(Diagnostic("E0801", f"{job.name} cannot be loaded by OpenVINO: {_last(error)}")) from None
        try:
            model.reshape(list(job.input.shape))
            products = {op.get_friendly_name() for op in model.get_ops() if op.get_type_name() in _PRODUCTS}
            # The compiled model also calls an output by the name of the input of what it left out.
            self._names = [output.get_any_name() for output in model.outputs]
            compiled = core.compile_model(model, "CPU", config)
            self._request: Any = compiled.create_infer_request()
            self._input: Any = np.ascontiguousarray(job.input)
            self._request.set_input_tensor(openvino.Tensor(self._input, shared_memory=True))
            self.build_seconds = time.perf_counter() - started
            started = time.perf_counter()
            self.run()
        except RuntimeError as error:  # a network that it reads and cannot run: others may be measured all the same
            raise Unavailable(Diagnostic("E0901", f"openvino cannot run {job.name}: {_last(error)}")) from None
        self.first_seconds = time.perf_counter() - started
        nodes = compiled.get_runtime_model().get_ops()
        multiplied = counted(nodes, "runtimePrecision", products)
        _hold(job, multiplied, native)
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
        """One inference; it has finished when this returns."""
        self._request.infer()

    def outputs(self) -> Mapping[str, Array]:
        """What the last run gave, by name."""
        tensors = (self._request.get_output_tensor(index) for index in range(len(self._names)))
        return {name: tensor.data.astype(np.float32) for name, tensor in zip(self._names, tensors, strict=True)}

    def close(self) -> None:
        """Let go of the request, and with it of the model."""
        self._request = self._input = None


def _config(job: Job, threads: int | None) -> dict[str, Any]:
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_PRECISION_HINT": HINTS[job.precision],
    }
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    return config


def counted(nodes: Any, fact: str, products: Set[str]) -> dict[str, int]:
    """The nodes that multiply, counted by what the compiled model reports of them: `runtimePrecision` is the type that they
    compute in, `primitiveType` the kernel, whose name says with which instructions. `products` are the names of what
    multiplies in the model, by which nodes that are several of its ops at once are known."""
    counts: Counter[str] = Counter()
    for node in nodes:
        facts = {key: value.astype(str) for key, value in node.get_rt_info().items() if key in _FACTS}
        kind, names = facts.get("layerType"), facts.get("originalLayersNames", "").split(",")
        if kind in _MULTIPLYING or (kind == "Subgraph" and not products.isdisjoint(names)):
            counts[facts[fact]] += 1
    return dict(counts)


def _last(error: Exception) -> str:
    """The line that says what is wrong: OpenVINO's errors begin with where they were raised."""
    return ([line for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1][:300]


def _hold(job: Job, multiplied: Mapping[str, int], native: tuple[str, ...]) -> None:
    """Raise Unavailable unless the network computes in the precision asked for: OpenVINO takes it as a hint."""
    right, total = sum(multiplied.get(kind, 0) for kind in _TYPES[job.precision]), sum(multiplied.values())
    if right if job.precision == "int8" else right == total:
        return
    found = " and ".join(f"{count} in {kind}" for kind, count in multiplied.items()) or "none that multiply"
    message = f"asked for {job.precision}, and of the multiplying nodes of {job.name} OpenVINO ran {found}"
    raise Unavailable(Diagnostic("E0901", message, help=f"this processor has {', '.join(native)}"))
