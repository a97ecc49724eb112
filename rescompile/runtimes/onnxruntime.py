"""ONNX Runtime as a runtime: on the processor, on CUDA, and through TensorRT.

The input and the outputs are bound to the device, so that what is timed is the network and no copies. Where the nodes ran, and
in which type they multiplied, is read from the profile of a second session with the same options: the session that is timed
carries no profiler. Options of providers are those of the ONNX Runtime documentation of its execution providers.
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

from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError
from rescompile.runtimes import Job, Runtime, apart
from rescompile.runtimes.ort_session import PROVIDERS, brief, lacking, library, opened
from rescompile.version import __version__
from rescompile.weights import Array

#: What the multiplying nodes of a network in some precision take in. Without a row, a profile shows no such nodes.
_TYPES = {"fp32": ("float",), "tf32": ("float",), "fp16": ("float16",), "int8": ("int8", "uint8")}
#: Types of numbers that networks compute with; nodes on all else keep account of shapes, which belongs on the processor.
_NUMBERS = {"float", "float16", "bfloat16", "double", "int8", "uint8"}
#: What tells CUDA to wait for each launch.
_BLOCKING = "CUDA_LAUNCH_BLOCKING"
_ARRAYS = {"tensor(float)": "float32", "tensor(float16)": "float16"}


def missing(runtime: Runtime) -> str | None:
    """Why the provider of this runtime cannot be used here."""
    try:
        ort = library()
    except Unavailable:
        return "ONNX Runtime is not installed"
    return lacking(ort, PROVIDERS[runtime.name])


def prepare(runtime: Runtime, job: Job, options: Mapping[str, Any]) -> Session:
    """The model of a job in a session, run once, and proven to run where and how it was asked to."""
    provider = PROVIDERS[runtime.name]
    _tf32_allowed(runtime, job)
    with _device_errors(runtime, job):
        return Session(library(), runtime, job, provider, options)


@contextlib.contextmanager
def _device_errors(runtime: Runtime, job: Job) -> Iterator[None]:
    """What fails on a GPU is not available there: memory that does not suffice, a graph that cannot be captured, a kernel
    that the provider lacks. On the processor such an error is one of the file."""
    try:
        yield
    except Unavailable:
        raise
    except Exception as error:  # its exceptions share no base class but Exception
        if runtime.device == "cpu" or (isinstance(error, UsageError) and error.diagnostics[0].code != "E0801"):
            raise
        why = error.diagnostics[0].message if isinstance(error, UsageError) else brief(error)
        raise Unavailable(Diagnostic("E0901", f"{runtime.name} cannot run {job.name}: {why}")) from None


class Session:
    """A session whose input and outputs lie on its device."""

    def __init__(self, ort: Any, runtime: Runtime, job: Job, provider: str, options: Mapping[str, Any]) -> None:
        assert job.model is not None
        threads = options.get("threads", job.threads)
        given = _provider_options(ort, runtime, job, options)
        if runtime.name == "ort-tensorrt":
            with contextlib.suppress(ImportError):
                import_module("tensorrt_libs")  # loads the libraries of the package, which the loader does not look for
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
            raise Unavailable(Diagnostic("E0901", f"{runtime.name} cannot run {job.name}: {brief(error)}")) from None
        self.first_seconds = time.perf_counter() - started
        nodes = _profiled(ort, job, _session_options(ort, threads), provider, given)
        placement, multiplied = placed(nodes, provider), types(nodes)
        _hold(runtime, job, provider, nodes, multiplied)
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
        """One inference; the device has finished when this returns."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def outputs(self) -> Mapping[str, Array]:
        """What the last run gave, by name."""
        names = (value.name for value in self._session.get_outputs())
        arrays = (value.numpy() for value in self._binding.get_outputs())
        return {name: array.astype(np.float32) for name, array in zip(names, arrays, strict=True)}

    def close(self) -> None:
        """Let go of the session and what is bound to it."""
        self._binding = self._bound = self._session = None  # what is bound was allocated by the session

    def _bind(self, ort: Any, runtime: Runtime, job: Job, graph: bool) -> None:
        """Put the input on the device, and say where the outputs shall be: at fixed addresses for a graph of CUDA, which
        holds the addresses that it was captured with."""
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _ARRAYS:
            listed = ", ".join(f"{value.name}: {value.type}" for value in inputs[:3])
            raise UsageError(Diagnostic("E0802", f"{job.name} does not take one tensor of numbers, but {listed}"))
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
                raise UsageError(
                    Diagnostic("E0802", f"a CUDA graph needs fixed shapes, and output {output.name} is {output.shape}")
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
    # Threads that go on spinning after a run would take the processor from whatever is measured next.
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
    """Raise Unavailable where the environment decides about TF32 otherwise than the job.

    NVIDIA's libraries read NVIDIA_TF32_OVERRIDE once a process. TensorRT multiplies in TF32 unless it is 0, and its
    provider has no option for it.
    """
    override = os.environ.get("NVIDIA_TF32_OVERRIDE")
    if runtime.device == "cpu" or job.precision not in ("fp32", "tf32"):
        return
    if job.precision == "tf32" and override == "0":
        raise Unavailable(Diagnostic("E0901", "NVIDIA_TF32_OVERRIDE=0 turns TF32 off", help="unset it to run tf32"))
    if job.precision == "fp32" and (override == "1" or (override != "0" and runtime.name == "ort-tensorrt")):
        message = f"{runtime.name} would multiply in TF32, and fp32 was asked for"
        raise Unavailable(Diagnostic("E0901", message, help="set NVIDIA_TF32_OVERRIDE=0 in the environment"))


def _cache(ort: Any, job: Job) -> Path:
    """The folder of a model's engines. An engine holds weights, and ONNX Runtime's own key does not: ours is the content of
    the model, its batch and precision, and all versions."""
    assert job.model is not None
    digest = hashlib.sha256(
        json.dumps([__version__, ort.__version__, _tensorrt(), job.precision, job.input.shape]).encode()
    )
    for path in sorted(job.model.parent.glob(f"{job.model.name}*")):  # the model, and the data beside it
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    folder = Path(home) / "rescompile" / "tensorrt" / digest.hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tensorrt() -> str | None:
    """The version of the TensorRT package, where there is one."""
    from importlib.metadata import PackageNotFoundError, version

    for name in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


# --- where nodes ran ---------------------------------------------------------------------------------------------------

Node = Mapping[str, Any]


def _profiled(
    ort: Any, job: Job, options: Any, provider: str, given: Mapping[str, str], runs: int = 1
) -> Sequence[Node]:
    """What the profile of some runs says of each node, run after run, in a session of its own: the facts of ONNX Runtime,
    its `name` and its `seconds`. Nodes of a captured graph are not profiled, so it captures none."""
    assert job.model is not None
    plain = {
        key: "0" if key in ("enable_cuda_graph", "trt_cuda_graph_enable") else value for key, value in given.items()
    }
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
    """The nodes of a model by name, with the median of their seconds. Each run has the same nodes in the same order; the
    first run also finds memory and kernels, so it does not count.

    A profile knows when a node was launched and not when a GPU had done it, unless each launch waits for its end: CUDA is told
    so by the environment, once a process, so a process of its own profiles. Raises Unavailable for TensorRT, which makes one
    node of a network.
    """
    if runtime.name == "ort-tensorrt":
        message = f"TensorRT runs {job.name} as one node, so there are no parts to tell the time of"
        raise Unavailable(Diagnostic("E0901", message, help="--profile with ort-cuda or torch-cuda"))
    if runtime.device == "cuda" and os.environ.get(_BLOCKING) != "1":
        return apart.profile(runtime, job, options, runs, {_BLOCKING: "1"})
    with _device_errors(runtime, job):
        return _medians(runtime, job, options, runs)


def _medians(runtime: Runtime, job: Job, options: Mapping[str, Any], runs: int) -> list[tuple[str, float]]:
    ort, provider = library(), PROVIDERS[runtime.name]
    threads = options.get("threads", job.threads)
    given = _provider_options(ort, runtime, job, options)
    nodes = _profiled(ort, job, _session_options(ort, threads), provider, given, 1 + runs)
    count = len(nodes) // (1 + runs)
    return [
        (nodes[at]["name"], statistics.median(node["seconds"] for node in nodes[count + at :: count]))
        for at in range(count)
    ]


def placed(nodes: Iterable[Node], provider: str) -> dict[str, int]:
    """How many nodes ran on each provider, that which was asked for first."""
    counts = Counter(node["provider"] for node in nodes)
    return {name: counts[name] for name in sorted(counts, key=lambda name: (name != provider, name))}


def types(nodes: Iterable[Node]) -> dict[str, int]:
    """How many of the nodes that multiply (convolutions and matrix products) took their input in each type."""
    counts: Counter[str] = Counter()
    for node in nodes:
        if any(part in node["op_name"] for part in ("Conv", "Gemm", "MatMul")):
            counts[next(iter(node["input_type_shape"][0]), "?")] += 1
    return dict(counts)


def elsewhere(nodes: Iterable[Node], provider: str) -> list[str]:
    """The operators of nodes that compute and ran on another provider than the one asked for."""
    return sorted(
        {
            node["op_name"]
            for node in nodes
            if node["provider"] != provider
            and any(kind in _NUMBERS for value in node.get("output_type_shape", ()) for kind in value)
        }
    )


def _hold(runtime: Runtime, job: Job, provider: str, nodes: Sequence[Node], multiplied: Mapping[str, int]) -> None:
    """Raise Unavailable unless all that computes ran on the provider asked for, in the precision asked for."""
    if not nodes:
        raise Unavailable(
            Diagnostic("E0901", f"the profile of {job.name} shows no node, so nothing proves where it ran")
        )
    strange = elsewhere(nodes, provider)
    if strange:
        listed = ", ".join(strange[:5]) + (", ..." if len(strange) > 5 else "")
        message = f"asked for {provider}, and nodes of {job.name} ran elsewhere: {listed}"
        raise Unavailable(Diagnostic("E0901", message))
    wanted = _TYPES[job.precision]
    right, total = sum(multiplied.get(kind, 0) for kind in wanted), sum(multiplied.values())
    # A quantised network may keep many layers in floats, and its facts say how many; any other precision is that of all.
    if multiplied and (not right if job.precision == "int8" else right != total):
        found = " and ".join(f"{count} in {kind}" for kind, count in multiplied.items())
        message = f"asked for {job.precision}, and of the multiplying nodes of {job.name} {runtime.name} ran {found}"
        raise Unavailable(Diagnostic("E0901", message))
