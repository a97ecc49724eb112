"""Running a model in ONNX Runtime: which provider was really obtained, the shapes that came out, and how long it took."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rescompile.analysis.dynamic_shapes import AXES, Free
from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError
from rescompile.files import file_types
from rescompile.weights import Array

#: The execution provider behind each runtime.
PROVIDERS = {
    "ort-cpu": "CPUExecutionProvider", "ort-cuda": "CUDAExecutionProvider", "ort-tensorrt": "TensorrtExecutionProvider",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave."""

    provider: str
    inputs: dict[str, list[int]]
    outputs: dict[str, Array]
    load_seconds: float
    first_seconds: float
    seconds: float


def run(
    path: str | os.PathLike[str],
    runtime: str = "auto",
    seed: int = 0,
    batch: int | None = None,
    repeats: int = 5,
    size: tuple[int, int] | None = None,
) -> Run:
    """Run a model on seeded standard-normal input; `seconds` is the median of `repeats` runs after the first.

    `size` is height and width where those are free; without it, a model of ours runs at the size of its spec.

    `runtime` is ort-cpu, ort-cuda, ort-tensorrt, or auto: the fastest that is there. Raises Unavailable where ONNX Runtime or the
    provider is missing or the session silently fell back to another one, and UsageError where the model cannot be run.
    """
    model = Model(path, runtime)
    free = model.free
    generator = np.random.default_rng(seed)
    feeds = {
        value.name: generator.standard_normal(_sizes(value, batch, size, free), np.float32) for value in model.inputs
    }
    times = []
    outputs: dict[str, Array] = {}
    for _ in range(1 + repeats):
        started = time.perf_counter()
        outputs = model.run(feeds)
        times.append(time.perf_counter() - started)
    rest = sorted(times[1:]) or times
    return Run(
        model.provider, {name: list(array.shape) for name, array in feeds.items()}, outputs,
        model.load_seconds, times[0], rest[len(rest) // 2],
    )  # fmt: skip


class Model:
    """A model in a session, on the provider that was obtained.

    `inputs` and `outputs` are ONNX Runtime's own descriptions (`name`, `type`, `shape`), `metadata` what the file records.
    Raises what `run` does.
    """

    def __init__(self, path: str | os.PathLike[str], runtime: str = "auto") -> None:
        ort = library()
        self.path = os.fspath(path)
        wanted = _provider(ort, runtime)
        started = time.perf_counter()
        self._session = opened(ort, path, ort.SessionOptions(), wanted, strict=runtime != "auto")
        self.load_seconds = time.perf_counter() - started
        self.provider: str = self._session.get_providers()[0]
        self.inputs: Sequence[Any] = self._session.get_inputs()
        self.outputs: Sequence[Any] = self._session.get_outputs()
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        if len(self.inputs) > 1 and "rescompile.spec" in self.metadata:
            raise UsageError(Diagnostic("E0802", f"{self.path} holds no weights, only the structure of the network"))
        for value in self.outputs:
            if value.type == "tensor(string)" or not value.type.startswith("tensor("):
                message = (
                    f"output '{value.name}' of {self.path} is a {value.type}, and only tensors of numbers are shown"
                )
                raise UsageError(Diagnostic("E0801", message))

    @property
    def sizes(self) -> list[int | str]:
        """The sizes of the first input; those that are free are text."""
        return list(self.inputs[0].shape)

    @property
    def free(self) -> dict[str, Free]:
        """What the file records of free axes of the image, by their names."""
        try:
            recorded = json.loads(self.metadata.get("rescompile.dynamic", "{}"))
            return {name: Free.of(name, facts) for name, facts in recorded.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            message = f"what {self.path} records under rescompile.dynamic cannot be read"
            raise UsageError(Diagnostic("E0801", message)) from None

    @property
    def batch(self) -> int | None:
        """The size that the batch is fixed to, or None where it is free."""
        return _fixed(self.inputs[0])

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name. Raises UsageError where the model does not run on these inputs."""
        try:
            outputs = self._session.run(None, dict(feeds))
        except Exception as error:
            raise UsageError(Diagnostic("E0801", f"{self.path} cannot be run: {brief(error)}")) from None
        return dict(zip((value.name for value in self.outputs), outputs, strict=True))


def evaluate(path: str | os.PathLike[str], x: Array) -> dict[str, Array]:
    """The outputs of a model for one input, by name, on the CPU. Raises Unavailable where ONNX Runtime is missing."""
    ort = library()
    session = opened(ort, path, ort.SessionOptions(), PROVIDERS["ort-cpu"])
    outputs = session.run(None, {session.get_inputs()[0].name: x})
    return dict(zip((value.name for value in session.get_outputs()), outputs, strict=True))


def library() -> Any:
    """ONNX Runtime. Raises Unavailable where it is missing."""
    try:
        import onnxruntime
    except ImportError:
        help = "pip install 'rescompile[run]'"
        raise Unavailable(
            Diagnostic("E0902", "running a model needs ONNX Runtime, which is not installed", help=help)
        ) from None
    return onnxruntime


def lacking(ort: Any, provider: str) -> str | None:
    """Why a provider cannot be used here, as far as can be known without trying; None if nothing speaks against it."""
    if provider not in ort.get_available_providers():
        return f"this ONNX Runtime has no {provider}"
    if provider != PROVIDERS["ort-cpu"] and not has_gpu():
        return f"{provider} needs an NVIDIA GPU, and none is here"
    return None


def opened(
    ort: Any, path: str | os.PathLike[str], options: Any, provider: str,
    provider_options: Mapping[str, str] | None = None, strict: bool = True,
) -> Any:  # fmt: skip
    """A session on a provider, with the processor behind it. Raises UsageError where the model cannot be loaded, and with
    `strict` Unavailable where the session fell back to another provider, which ONNX Runtime does without an error."""
    shown = os.fspath(path)
    file_types.check_file(path)
    options.log_severity_level = 3
    chosen: list[Any] = [(provider, dict(provider_options or {}))]
    if provider != PROVIDERS["ort-cpu"]:
        chosen.append(PROVIDERS["ort-cpu"])
    said = io.StringIO()  # it prints why it falls back, and where CUDA is not, into what may be a command's data
    try:
        with contextlib.redirect_stdout(said):
            if provider != PROVIDERS["ort-cpu"] and hasattr(ort, "preload_dlls"):
                ort.preload_dlls()  # CUDA and cuDNN of the packages beside it, which the loader does not look for
            session = ort.InferenceSession(shown, options, providers=chosen)
    except Exception as error:  # its exceptions share no base class but Exception
        raise UsageError(Diagnostic("E0801", f"{shown} cannot be loaded by ONNX Runtime: {brief(error)}")) from None
    obtained = session.get_providers()[0]
    if strict and obtained != provider:
        why = next((line for line in said.getvalue().splitlines() if line.startswith("EP Error")), None)
        message = f"asked for {provider}, and ONNX Runtime gave {obtained}"
        raise Unavailable(Diagnostic("E0901", message, notes=(why[:300],) if why else ()))
    return session


def has_gpu() -> bool:
    """Whether a CUDA device can be there at all: ONNX Runtime itself falls back to the CPU without saying so."""
    return os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg") or os.name == "nt"


def brief(error: Exception) -> str:
    """The first line of somebody else's error."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def _provider(ort: Any, name: str) -> str:
    if name == "auto":
        # TensorRT compiles for minutes, so it is only used when asked for.
        fast = lacking(ort, PROVIDERS["ort-cuda"]) is None and ort.get_device() == "GPU"
        return PROVIDERS["ort-cuda" if fast else "ort-cpu"]
    reason = lacking(ort, PROVIDERS[name])
    if reason is not None:
        there = ", ".join(ort.get_available_providers())
        help = f"see 'pip install rescompile[run]'; it has {there}" if PROVIDERS[name] not in there else None
        raise Unavailable(Diagnostic("E0901", reason, help=help))
    return PROVIDERS[name]


def _sizes(value: Any, batch: int | None, size: tuple[int, int] | None, free: Mapping[str, Free]) -> list[int]:
    """The sizes of an input: a free first dimension is the batch, the last two of four are height and width."""
    if value.type != "tensor(float)":
        raise UsageError(
            Diagnostic("E0801", f"input '{value.name}' is a {value.type}, and only float32 inputs are drawn")
        )
    fixed = _fixed(value)
    if batch is not None and fixed is not None and fixed != batch:
        raise UsageError(Diagnostic("E0802", f"the batch of this model is fixed to {fixed}"))
    shape = [n if isinstance(n, int) else batch or 1 for n in value.shape]
    if size is not None and len(shape) != 4:
        raise UsageError(Diagnostic("E0802", f"input '{value.name}' is {value.shape}: it has no height and no width"))
    for at, name in enumerate(AXES if len(shape) == 4 else ()):
        if isinstance(value.shape[2 + at], int):
            if size is not None and size[at] != shape[2 + at]:
                help = "a model that was built with --dynamic takes other sizes, and so does a spec that is run with --dynamic"
                raise UsageError(
                    Diagnostic("E0802", f"the {name} of this model is fixed to {shape[2 + at]}", help=help)
                )
        elif size is not None or name in free:
            shape[2 + at] = free[name].size if size is None else size[at]
            if name in free:
                free[name].check(shape[2 + at])
    return shape


def _fixed(value: Any) -> int | None:
    """The size of an input's batch axis, where it is fixed."""
    return value.shape[0] if value.shape and isinstance(value.shape[0], int) else None
