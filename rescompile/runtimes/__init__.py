"""Runtimes: what can run a network, in which precisions, and with which options.

Each runtime has a row in the table here, and a module that imports its library on demand. `missing` gives the reason
why a runtime cannot be used on this machine; `prepare` loads a network, puts its input on the device, and runs it once.
A prepared network is what was requested: a provider that was silently replaced, a node that fell back to the CPU, and
another precision are errors, so that they cannot be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError, nearest, one_of
from rescompile.options import Option, assignment, read
from rescompile.records import record
from rescompile.weights import Array

#: The targets whose artifacts runtimes run: files, or live modules of one framework each; MODULE_TARGET is also the
#: target of the modules of peers. Nothing else in the core names a target.
FILE_TARGET, MODULE_TARGET, JAX_TARGET, KERAS_TARGET, MLX_TARGET = "onnx", "torch", "flax", "keras", "mlx"


@record
class Job:
    """A network to run: an ONNX file, or a function that returns a live module of the runtime's target.

    `module` returns a new module in evaluation mode at each call, since a runtime may change it in place. The file of
    a job in fp16 or int8 is in that precision already; the runtime converts modules. `input` is float32 of [batch,
    channels, height, width]. `threads` is the number of CPU threads; None leaves it to the runtime.
    """

    name: str
    model: Path | None
    module: Callable[[], Any] | None
    input: Array
    precision: str = "fp32"
    threads: int | None = None


class Prepared(Protocol):
    """A network that a runtime has loaded and run once, with its input on the device.

    `facts` describe how it runs: `device`, `precision`, `tf32`, `options`, `versions`, and for runtimes that place
    nodes the `requested` and `obtained` providers and their `placement` (number of nodes on each). `build_seconds` is
    the time to load and compile, `first_seconds` that of the first run.
    """

    facts: Mapping[str, Any]
    build_seconds: float
    first_seconds: float

    def run(self) -> None:
        """Run one inference, and wait until the device has finished."""

    def outputs(self) -> Mapping[str, Array]:
        """Return the outputs of the last run by name: float32 on the host."""

    def close(self) -> None:
        """Release the network and its memory."""


class Library(Protocol):
    """The module behind a runtime."""

    def missing(self, runtime: Runtime) -> str | None: ...
    def prepare(self, runtime: Runtime, job: Job, options: Mapping[str, Any]) -> Prepared: ...
    def profile(self, runtime: Runtime, job: Job, options: Mapping[str, Any], runs: int) -> list[tuple[str, float]]: ...


@record
class Runtime:
    """A runtime and its properties. `device` is cpu or cuda; `takes` is the target whose artifacts it runs; `extra` is
    the extra of rescompile that installs its library, `requires` describes further requirements; `options` may follow
    its name after a colon; `isolated` marks a library that is known to crash its process, so that each network is tried
    in a child process first."""

    name: str
    summary: str
    device: str
    takes: str
    precisions: tuple[str, ...]
    extra: str
    module: str
    options: tuple[Option, ...]
    requires: str = ""
    isolated: bool = False

    def missing(self) -> str | None:
        """Return the reason why this runtime cannot be used here; None if nothing is known to be missing."""
        try:
            return self.library().missing(self)
        except Exception as error:  # a broken installation raises anything on import
            return f"its library cannot be loaded ({type(error).__name__}: {str(error)[:300]})"

    def problem(self) -> Diagnostic | None:
        """Return what `missing` reports as a diagnostic, with how to install this runtime."""
        reason = self.missing()
        if reason is None:
            return None
        return Diagnostic("E0901", f"{self.name} cannot run here: {reason}", help=self.how())

    def prepare(self, job: Job, options: Mapping[str, Any]) -> Prepared:
        """Load a network and run it once. Raises Unavailable if a library or device is missing, if the provider, the
        placement or the precision is not the requested one, and if the library would crash; UsageError if the options
        or the job do not suit this runtime."""
        options = read(options.items(), self.options, self.name)
        if job.precision not in self.precisions:
            help = f"supported precisions: {', '.join(self.precisions)}"
            raise Unavailable.of("E0901", f"{self.name} does not support {job.precision}", help=help)
        if (job.model if self.takes == FILE_TARGET else job.module) is None:
            kind = "an ONNX file" if self.takes == FILE_TARGET else f"a live module of the target {self.takes}"
            raise UsageError.of("E0802", f"{self.name} needs {kind}, but {job.name} has none")
        if (problem := self.problem()) is not None:
            raise Unavailable(problem)
        if self.isolated:
            from rescompile.runtimes import child_process

            child_process.survive(self, job, options)
        return self.library().prepare(self, job, options)

    def profile(self, job: Job, options: Mapping[str, Any], runs: int = 5) -> list[tuple[str, float]]:
        """Return the nodes or modules of a network in execution order: names and median seconds in instrumented runs,
        or means if the runtime reports only these. Instrumented runs are slower, so only the shares matter. Raises as
        `prepare` does."""
        return self.library().profile(self, job, read(options.items(), self.options, self.name), runs)

    def how(self) -> str:
        """Return how to install this runtime."""
        return f"pip install 'rescompile[{self.extra}]'" + (f", and {self.requires}" if self.requires else "")

    def library(self) -> Library:
        """Return the module behind it, which imports its library on demand."""
        return cast(Library, import_module(f"rescompile.runtimes.{self.module}"))


def find(text: str) -> tuple[Runtime, dict[str, Any]]:
    """Return the runtime and the options of `ort-cpu`, `ort-cpu:threads=1` or `torch-cpu:compile:channels_last`.

    Raises Unavailable for an unknown runtime, UsageError for an unknown option or a wrong value.
    """
    name, *parts = text.strip().split(":")
    if name not in RUNTIMES:
        help = nearest(name, RUNTIMES) or f"the runtimes are {one_of(RUNTIMES)}"
        raise Unavailable.of("E0901", f"there is no runtime '{name}'", help=help)
    runtime = RUNTIMES[name]
    return runtime, read(map(assignment, parts), runtime.options, name)


def check_precision(
    library: str, job: Job, multiplied: Mapping[str, int], types: tuple[str, ...], help: str | None = None
) -> None:
    """Raise Unavailable unless the multiplying nodes of a network, counted by type, ran in the types of the requested
    precision. A quantised network may keep many layers in floats, which its facts show."""
    right, total = sum(multiplied.get(kind, 0) for kind in types), sum(multiplied.values())
    if right if job.precision == "int8" else right == total:
        return
    nodes = f"convolution and matmul nodes of {job.name}"
    others = " and ".join(f"{count} as {kind}" for kind, count in multiplied.items() if kind not in types)
    ran = f"ran the {nodes} in other types: {others}" if others else f"ran no {nodes}"
    raise Unavailable.of("E0901", f"{job.precision} was requested, but {library} {ran}", help=help)


_DRIVER = "an NVIDIA GPU with its driver"
_CUDA = f"{_DRIVER}, CUDA and cuDNN (pip install 'onnxruntime-gpu[cuda,cudnn]')"
_THREADS = Option("threads", int, None, "CPU threads of one inference", 1, (1 << 16) - 1)
_CHANNELS_LAST = Option("channels_last", bool, False, "feature maps with channels last")
_COMPILE = Option(
    "compile", str, None, "torch.compile in this mode; on a GPU the last two replay a CUDA graph",
    choices=("default", "reduce-overhead", "max-autotune"),
)  # fmt: skip
_GRAPH = Option("graph", bool, False, "capture the inference as a CUDA graph and replay it")

RUNTIMES: Mapping[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        Runtime(
            "ort-cpu", "ONNX Runtime on the CPU", "cpu", FILE_TARGET, ("fp32", "int8"), "run", "onnxruntime", (_THREADS,),
        ),
        Runtime(
            "ort-cuda", "ONNX Runtime on an NVIDIA GPU", "cuda", FILE_TARGET, ("fp32", "tf32", "fp16"), "run", "onnxruntime",
            (
                _GRAPH,
                Option("nhwc", bool, False, "convolutions with channels last"),
                Option(
                    "search", str, "exhaustive", "how convolution algorithms are selected",
                    choices=("exhaustive", "heuristic", "default"),
                ),
            ),
            _CUDA,
        ),
        Runtime(
            "ort-tensorrt", "TensorRT through ONNX Runtime", "cuda", FILE_TARGET, ("fp32", "tf32", "fp16", "int8"), "run",
            "onnxruntime", (_GRAPH,),
            f"{_CUDA}, and the TensorRT that ONNX Runtime was built with (pip install 'tensorrt-cu13<11' for 1.31)",
        ),
        Runtime(
            "openvino", "OpenVINO on the CPU", "cpu", FILE_TARGET, ("fp32", "bf16", "int8"), "openvino", "openvino",
            (_THREADS,), isolated=True,
        ),
        Runtime(
            "torch-cpu", "PyTorch on the CPU", "cpu", MODULE_TARGET, ("fp32", "bf16"), "torch", "torch",
            (_THREADS, _CHANNELS_LAST, _COMPILE),
        ),
        Runtime(
            "torch-cuda", "PyTorch on an NVIDIA GPU", "cuda", MODULE_TARGET, ("fp32", "tf32", "fp16", "bf16"), "torch", "torch",
            (_CHANNELS_LAST, _COMPILE), f"{_DRIVER}, and the PyTorch built for it",
        ),
        Runtime("jax-cpu", "JAX on the CPU, a Flax module under jit", "cpu", JAX_TARGET, ("fp32",), "flax", "jax", ()),
        Runtime(
            "jax-cuda", "JAX on an NVIDIA GPU, a Flax module under jit", "cuda", JAX_TARGET, ("fp32", "tf32"), "flax", "jax", (),
            f"{_DRIVER} (pip install 'jax[cuda13]')",
        ),
        Runtime(
            "keras", "Keras on the CPU, a model's predict_on_batch", "cpu", KERAS_TARGET, ("fp32",), "keras", "keras", (),
            "jax, torch or tensorflow; KERAS_BACKEND names one",
        ),
        Runtime(
            "mlx", "MLX on the CPU", "cpu", MLX_TARGET, ("fp32",), "mlx", "mlx",
            (Option("compile", bool, False, "under mx.compile, which needs a C++ compiler"),),
        ),
    )
}  # fmt: skip
