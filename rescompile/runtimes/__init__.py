"""What can run a network, and what each of them says about itself: asked for and obtained, where its nodes ran, how exactly.

A runtime is a row of a table here, and a module beside it that imports its library when it is asked to. `missing` says why a
runtime cannot be used on this machine; `prepare` loads a network, puts its input where the runtime computes, and runs it
once. Whatever is prepared is what was asked for: a provider that was silently replaced, a node that went to the processor,
or a network that computes in another precision is refused, and no number can be taken from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError, nearest, one_of
from rescompile.options import Option, assignment, read
from rescompile.weights import Array

#: The targets whose artifacts runtimes run: files, or live modules. The core has the name of no target elsewhere.
FILE_TARGET, MODULE_TARGET = "onnx", "torch"


@dataclass(frozen=True, slots=True)
class Job:
    """What a runtime is asked to run: an ONNX file for those that take one, or what makes a module, for torch.

    `module` makes a new torch.nn.Module in evaluation mode at each call: a runtime may change it in place. The file of a
    job in fp16 or int8 is in that precision already; torch's modules are converted by the runtime. `input` is float32 of
    [batch, channels, height, width]. `threads` are those of the processor; None leaves their number to the runtime.
    """

    name: str
    model: Path | None
    module: Callable[[], Any] | None
    input: Array
    precision: str = "fp32"
    threads: int | None = None


class Prepared(Protocol):
    """A network in a runtime's hands: loaded, its input on the device, run once.

    `facts` say how it runs: among them `device`, `precision`, `tf32`, `options`, `versions`, and for runtimes that place
    nodes `requested` and `obtained` (providers) and `placement` (how many nodes ran on each). `build_seconds` is loading
    and compiling, `first_seconds` the first run.
    """

    facts: Mapping[str, Any]
    build_seconds: float
    first_seconds: float

    def run(self) -> None:
        """One inference; the device has finished when this returns."""

    def outputs(self) -> Mapping[str, Array]:
        """What the last run gave, by name: float32 on the host."""

    def close(self) -> None:
        """Let go of the network and its memory."""


class Library(Protocol):
    """The module behind a runtime."""

    def missing(self, runtime: Runtime) -> str | None: ...
    def prepare(self, runtime: Runtime, job: Job, options: Mapping[str, Any]) -> Prepared: ...
    def profile(self, runtime: Runtime, job: Job, options: Mapping[str, Any], runs: int) -> list[tuple[str, float]]: ...


@dataclass(frozen=True, slots=True)
class Runtime:
    """A row of the table. `device` is cpu or cuda; `takes` is the target whose artifacts it runs; `extra` is the optional
    part of rescompile that installs its library, and `beside` what it needs beside that; `options` say what may follow its
    name after a colon; `apart` marks a library that has been seen to end the process that it ran in, so that each network is
    tried in another process first."""

    name: str
    summary: str
    device: str
    takes: str
    precisions: tuple[str, ...]
    extra: str
    module: str
    options: tuple[Option, ...]
    beside: str = ""
    apart: bool = False

    def missing(self) -> str | None:
        """Why this runtime cannot be used here, in words; None if nothing is known to be missing."""
        try:
            return self.library().missing(self)
        except Exception as error:  # what is installed and broken raises anything when it is imported
            return f"its library cannot be loaded ({type(error).__name__}: {str(error)[:300]})"

    def prepare(self, job: Job, options: Mapping[str, Any]) -> Prepared:
        """Load a network, and run it once. Raises Unavailable where a library or device is missing, where the runtime
        gave another provider or placed nodes elsewhere, where it computes in another precision, and where it would have ended
        this process; UsageError where the options or the job are not its own."""
        options = read(options.items(), self.options, self.name)
        if job.precision not in self.precisions:
            help = f"it has {one_of(self.precisions)}"
            raise Unavailable(Diagnostic("E0901", f"{self.name} does not run {job.precision}", help=help))
        if (job.model if self.takes == FILE_TARGET else job.module) is None:
            kind = "a module of torch" if self.takes == MODULE_TARGET else "an ONNX file"
            raise UsageError(Diagnostic("E0802", f"{self.name} runs {kind}, and {job.name} is none"))
        reason = self.missing()
        if reason is not None:
            raise Unavailable(Diagnostic("E0901", f"{self.name} cannot run here: {reason}", help=self.how()))
        if self.apart:
            from rescompile.runtimes import apart

            apart.survive(self, job, options)
        return self.library().prepare(self, job, options)

    def profile(self, job: Job, options: Mapping[str, Any], runs: int = 5) -> list[tuple[str, float]]:
        """The nodes or modules of a network by their names, in the order in which they ran, with the median of their seconds
        in instrumented runs, or the mean where the runtime tells no more. Those are slower than others, so the shares are what counts. Raises as `prepare` does."""
        return self.library().profile(self, job, options, runs)

    def how(self) -> str:
        """How to get what this runtime needs."""
        return f"pip install 'rescompile[{self.extra}]'" + (f", and {self.beside}" if self.beside else "")

    def library(self) -> Library:
        """The module behind it, which imports what it needs when it is asked to do something."""
        library: Any = import_module(f"rescompile.runtimes.{self.module}")
        return library  # type: ignore[no-any-return]


def find(text: str) -> tuple[Runtime, dict[str, Any]]:
    """The runtime and its options of what a user wrote: `ort-cpu`, `ort-cpu:threads=1`, `torch-cpu:compile:channels_last`.

    Raises Unavailable for an unknown runtime, UsageError for an unknown option or a wrong value.
    """
    name, *parts = text.strip().split(":")
    if name not in RUNTIMES:
        help = nearest(name, RUNTIMES) or f"the runtimes are {one_of(RUNTIMES)}"
        raise Unavailable(Diagnostic("E0901", f"there is no runtime '{name}'", help=help))
    runtime = RUNTIMES[name]
    return runtime, read(map(assignment, parts), runtime.options, name)


_DRIVER = "an NVIDIA GPU with its driver"
_CUDA = f"{_DRIVER}, CUDA and cuDNN (pip install 'onnxruntime-gpu[cuda,cudnn]')"
_THREADS = Option("threads", int, None, "CPU threads that one inference uses", 1, (1 << 16) - 1)
_CHANNELS_LAST = Option("channels_last", bool, False, "maps whose channels come last")
_COMPILE = Option(
    "compile", str, None, "torch.compile in this mode; on a GPU the last two replay a CUDA graph",
    choices=("default", "reduce-overhead", "max-autotune"),
)  # fmt: skip
_GRAPH = Option("graph", bool, False, "capture the inference as a CUDA graph, and replay it")

RUNTIMES: Mapping[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        Runtime(
            "ort-cpu", "ONNX Runtime on the processor", "cpu", FILE_TARGET, ("fp32", "int8"), "run", "onnxruntime", (_THREADS,),
        ),
        Runtime(
            "ort-cuda", "ONNX Runtime on an NVIDIA GPU", "cuda", FILE_TARGET, ("fp32", "tf32", "fp16"), "run", "onnxruntime",
            (
                _GRAPH,
                Option("nhwc", bool, False, "convolutions on maps whose channels come last"),
                Option(
                    "search", str, "exhaustive", "how the algorithm of a convolution is chosen",
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
            "openvino", "OpenVINO on the processor", "cpu", FILE_TARGET, ("fp32", "bf16", "int8"), "openvino", "openvino",
            (_THREADS,), apart=True,
        ),
        Runtime(
            "torch-cpu", "PyTorch on the processor", "cpu", MODULE_TARGET, ("fp32", "bf16"), "torch", "torch",
            (_THREADS, _CHANNELS_LAST, _COMPILE),
        ),
        Runtime(
            "torch-cuda", "PyTorch on an NVIDIA GPU", "cuda", MODULE_TARGET, ("fp32", "tf32", "fp16", "bf16"), "torch", "torch",
            (_CHANNELS_LAST, _COMPILE), f"{_DRIVER}, and the PyTorch built for it",
        ),
    )
}  # fmt: skip
