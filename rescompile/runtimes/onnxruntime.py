"""ONNX Runtime as a runtime: on the CPU, on CUDA, and through TensorRT.

The input and the outputs are bound to the device, so that timings include no copies. The placement of nodes and the types that
they multiply come from the profile of a second session with the same options: the timed session has no profiler. Provider options
are those of ONNX Runtime's documentation of execution providers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import Unavailable, UsageError
from rescompile.runtimes import Job, Runtime, check_precision, child_process
from rescompile.runtimes.onnx_graph import digest
from rescompile.runtimes.ort_session import PROVIDERS, brief, lacking, library, opened
from rescompile.version import __version__
from rescompile.weights import Array

#: The input types of multiplying nodes in each precision; profiles in other precisions contain no such nodes.
_TYPES = {"fp32": ("float",), "tf32": ("float",), "fp16": ("float16",), "int8": ("int8", "uint8")}
#: The types of feature maps. Nodes with other types compute shapes and belong on the CPU.
_NUMBERS = {"float", "float16", "bfloat16", "double", "int8", "uint8"}
#: The environment variable that makes CUDA wait for each launch.
_BLOCKING = "CUDA_LAUNCH_BLOCKING"
_ARRAYS = {"tensor(float)": "float32", "tensor(float16)": "float16"}


def missing(runtime: Runtime) -> str | None:
    """Return the reason why the provider of this runtime cannot be used here."""
    try:
        ort = library()
    except Unavailable:
        return "ONNX Runtime is not installed"
    return lacking(ort, PROVIDERS[runtime.name])


def prepare(runtime: Runtime, job: Job, options: Mapping[str, Any]) -> Session:
    """Return the model of a job in a session, run once, with placement and precision checked."""
    _tf32_allowed(runtime, job)
    with _device_errors(runtime, job):
        return Session(runtime, job, options)


@contextlib.contextmanager
def _device_errors(runtime: Runtime, job: Job) -> Iterator[None]:
    """Report errors of a GPU as Unavailable: too little memory, a graph that cannot be captured, a missing kernel. On the CPU such
    an error is one of the file."""
    try:
        yield
    except Unavailable:
        raise
    except Exception as error:  # its exceptions have no other common base class
        if runtime.device == "cpu" or (isinstance(error, UsageError) and error.diagnostics[0].code != "E0801"):
            raise
        why = error.diagnostics[0].message if isinstance(error, UsageError) else brief(error)
        raise Unavailable.of("E0901", f"{runtime.name} cannot run {job.name}: {why}") from None


class Session:
    """A session whose input and outputs are on its device."""

    def __init__(self, runtime: Runtime, job: Job, options: Mapping[str, Any]) -> None:
        assert job.model is not None
        ort, provider = library(), PROVIDERS[runtime.name]
        threads = options.get("threads", job.threads)
        given = _provider_options(ort, runtime, job, options)
        if runtime.name == "ort-tensorrt":
            with contextlib.suppress(ImportError):
                import_module("tensorrt_libs")  # loads the libraries of the package, where the loader does not search
        started = time.perf_counter()
        self._session: Any = opened(ort, job.model, _session_options(ort, threads), provider, given)
        self._session.disable_fallback()
        self._binding: Any = None
        self._bound: Any = None
        self._bind(ort, runtime, job, options.get("graph", False))
        self.build_seconds = time.perf_counter() - started
        started = time.perf_counter()
        try:
            self.run()
        except Exception as error:
            raise Unavailable.of("E0901", f"{runtime.name} cannot run {job.name}: {brief(error)}") from None
        self.first_seconds = time.perf_counter() - started
        nodes = _profiled(ort, job, threads, provider, given)
        placement, multiplied = placed(nodes, provider), types(nodes)
        _check(runtime, job, provider, nodes, multiplied)
        self.facts: Mapping[str, Any] = {
            "device": runtime.device,
            "precision": job.precision,
            "tf32": job.precision == "tf32",
            "threads": threads,
            "requested": provider,
            "obtained": self._session.get_providers()[0],
            "placement": placement,
            "multiplied": multiplied,
            "options": dict(options),
            "provider_options": {key: value for key, value in given.items() if not key.endswith("_path")},
            "versions": {"onnxruntime": ort.__version__},
        }

    def run(self) -> None:
        """Run one inference, and wait until the device has finished."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def outputs(self) -> Mapping[str, Array]:
        """Return the outputs of the last run by name."""
        names = (value.name for value in self._session.get_outputs())
        arrays = (value.numpy() for value in self._binding.get_outputs())
        return {name: array.astype(np.float32) for name, array in zip(names, arrays, strict=True)}

    def close(self) -> None:
        """Release the session and the bound tensors."""
        self._binding = self._bound = self._session = None  # the session allocated the bound tensors

    def _bind(self, ort: Any, runtime: Runtime, job: Job, graph: bool) -> None:
        """Put the input on the device, and bind the outputs: to fixed addresses for a CUDA graph, which replays with the addresses
        that it was captured with."""
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _ARRAYS:
            listed = ", ".join(f"{value.name}: {value.type}" for value in inputs[:3])
            raise UsageError.of("E0802", f"{job.name} must have one numeric input, but has {listed}")
        self._input = job.input.astype(_ARRAYS[inputs[0].type])
        value = ort.OrtValue.ortvalue_from_numpy(self._input, runtime.device, 0)
        self._bound = [value]
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(inputs[0].name, value)
        for output in self._session.get_outputs():
            if not graph:
                self._binding.bind_output(output.name, runtime.device)
                continue
            shape = [len(job.input), *output.shape[1:]]
            if not all(isinstance(size, int) for size in shape) or output.type not in _ARRAYS:
                raise UsageError.of(
                    "E0802", f"a CUDA graph needs fixed shapes, but output {output.name} is {output.shape}"
                )
            kind = np.dtype(_ARRAYS[output.type]).type
            value = ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, runtime.device, 0)
            self._bound.append(value)
            self._binding.bind_ortvalue_output(output.name, value)


# --- options ----------------------------------------------------------------------------------------------------------


def _session_options(ort: Any, threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    # Threads that spin after a run would disturb the next measurement.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _provider_options(ort: Any, runtime: Runtime, job: Job, options: Mapping[str, Any]) -> dict[str, str]:
    graph = "1" if options.get("graph", False) else "0"
    if runtime.name == "ort-cuda":
        return {
            "cudnn_conv_algo_search": options.get("search", "exhaustive").upper(),
            "cudnn_conv_use_max_workspace": "1",
            "enable_cuda_graph": graph,
            "prefer_nhwc": "1" if options.get("nhwc") else "0",
            "use_tf32": "1" if job.precision == "tf32" else "0",
        }
    if runtime.name == "ort-tensorrt":
        folder = _cache(ort, job)
        return {
            "trt_cuda_graph_enable": graph,
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder.parent),
        }
    return {}


def _tf32_allowed(runtime: Runtime, job: Job) -> None:
    """Raise Unavailable if the environment contradicts the TF32 setting of the job.

    NVIDIA's libraries read NVIDIA_TF32_OVERRIDE once a process. TensorRT uses TF32 unless it is 0; its provider has no option.
    """
    override = os.environ.get("NVIDIA_TF32_OVERRIDE")
    if runtime.device == "cpu" or job.precision not in ("fp32", "tf32"):
        return
    if job.precision == "tf32" and override == "0":
        raise Unavailable.of("E0901", "NVIDIA_TF32_OVERRIDE=0 turns TF32 off", help="unset it to run tf32")
    if job.precision == "fp32" and (override == "1" or (override != "0" and runtime.name == "ort-tensorrt")):
        message = f"fp32 was requested, but {runtime.name} would multiply in TF32"
        raise Unavailable.of("E0901", message, help="set NVIDIA_TF32_OVERRIDE=0 in the environment")


def _cache(ort: Any, job: Job) -> Path:
    """Return the folder of a model's TensorRT engines."""
    assert job.model is not None
    key = [__version__, ort.__version__, _tensorrt(), job.precision, job.input.shape, digest(job.model)]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    folder = Path(home) / "rescompile" / "tensorrt" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tensorrt() -> str | None:
    """Return the version of the TensorRT package, or None."""
    from importlib.metadata import PackageNotFoundError, version

    for name in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


# --- placement ---------------------------------------------------------------------------------------------------------

Node = Mapping[str, Any]


def _profiled(
    ort: Any, job: Job, threads: int | None, provider: str, given: Mapping[str, str], runs: int = 1
) -> Sequence[Node]:
    """Return the profile of some runs in a separate session, node by node and run after run: ONNX Runtime's facts, `name`
    and `seconds`. It does not capture a CUDA graph, since the profiler does not report its nodes."""
    assert job.model is not None
    plain = {
        key: "0" if key in ("enable_cuda_graph", "trt_cuda_graph_enable") else value for key, value in given.items()
    }
    options = _session_options(ort, threads)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = opened(ort, job.model, options, provider, plain)
        session.disable_fallback()
        (taken,) = session.get_inputs()
        x = job.input.astype(_ARRAYS[taken.type])
        for _ in range(runs):
            session.run(None, {taken.name: x})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [
        {**event["args"], "name": event["name"].removesuffix("_kernel_time"), "seconds": event["dur"] / 1e6}
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    ]


def profile(runtime: Runtime, job: Job, options: Mapping[str, Any], runs: int) -> list[tuple[str, float]]:
    """Return the nodes of a model with their median seconds. Each run has the same nodes in the same order; the first run,
    which also allocates memory and selects kernels, is left out.

    On a GPU a profile records launches, not execution, unless each launch waits. CUDA reads that setting from the environment once
    a process, so a child process profiles. Raises Unavailable for TensorRT, which runs a network as one node.
    """
    if runtime.name == "ort-tensorrt":
        message = f"TensorRT runs {job.name} as one node, so it has no profile"
        raise Unavailable.of("E0901", message, help="use --profile with ort-cuda or torch-cuda")
    if runtime.device == "cuda" and os.environ.get(_BLOCKING) != "1":
        return child_process.profile(runtime, job, options, runs, {_BLOCKING: "1"})
    with _device_errors(runtime, job):
        ort, threads = library(), options.get("threads", job.threads)
        given = _provider_options(ort, runtime, job, options)
        nodes = _profiled(ort, job, threads, PROVIDERS[runtime.name], given, 1 + runs)
    count = len(nodes) // (1 + runs)
    return [
        (nodes[at]["name"], statistics.median(node["seconds"] for node in nodes[count + at :: count]))
        for at in range(count)
    ]


def placed(nodes: Iterable[Node], provider: str) -> dict[str, int]:
    """Return the number of nodes on each provider, the requested one first."""
    counts = Counter(node["provider"] for node in nodes)
    return {name: counts[name] for name in sorted(counts, key=lambda name: (name != provider, name))}


def types(nodes: Iterable[Node]) -> dict[str, int]:
    """Return the number of multiplying nodes (convolutions and matrix products) for each input type."""
    counts: Counter[str] = Counter()
    for node in nodes:
        if any(part in node["op_name"] for part in ("Conv", "Gemm", "MatMul")):
            counts[next(iter(node["input_type_shape"][0]), "?")] += 1
    return dict(counts)


def elsewhere(nodes: Iterable[Node], provider: str) -> list[str]:
    """Return the operators of computing nodes that ran on a provider other than the requested one."""
    return sorted(
        {
            node["op_name"]
            for node in nodes
            if node["provider"] != provider
            and any(kind in _NUMBERS for value in node.get("output_type_shape", ()) for kind in value)
        }
    )


def _check(runtime: Runtime, job: Job, provider: str, nodes: Sequence[Node], multiplied: Mapping[str, int]) -> None:
    """Raise Unavailable unless all computing nodes ran on the requested provider in the requested precision."""
    if not nodes:
        raise Unavailable.of("E0901", f"the profile of {job.name} has no nodes, so their placement is unknown")
    others = elsewhere(nodes, provider)
    if others:
        listed = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        raise Unavailable.of("E0901", f"{provider} was requested, but nodes of {job.name} ran elsewhere: {listed}")
    if multiplied:  # a profile of TensorRT shows no multiplying nodes
        check_precision(runtime.name, job, multiplied, _TYPES[job.precision])
