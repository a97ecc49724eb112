"""Sessions of ONNX Runtime: models on the provider that was actually obtained, their outputs and times."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rescompile.analysis.dynamic_shapes import Free
from rescompile.diagnostics.errors import Unavailable, UsageError, clipped, one_of
from rescompile.files import file_types
from rescompile.ir.ops import AXIS_NAMES, Size
from rescompile.records import record
from rescompile.runtimes import memory, onnx_graph
from rescompile.weights import Array

#: The execution provider behind each runtime.
PROVIDERS = {
    "ort-cpu": "CPUExecutionProvider", "ort-cuda": "CUDAExecutionProvider", "ort-tensorrt": "TensorrtExecutionProvider",
}  # fmt: skip

#: The supported types of model inputs, by their NumPy names.
TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


@record
class Run:
    """The result of a timed run; `drawn` is copied from the model."""

    provider: str
    drawn: str | None
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
    size: Size | None = None,
) -> Run:
    """Run a model on random normal input; `seconds` is the median of `repeats` runs after the first.

    `size` has the size of each axis if they are dynamic; by default a model built by rescompile runs at the size of its
    spec.

    `runtime` is ort-cpu, ort-cuda, ort-tensorrt, or auto, the fastest one present. Raises Unavailable if ONNX Runtime
    or the provider is missing or the session fell back to another provider, and UsageError if the model cannot run.
    """
    model = Model(path, runtime)
    free = model.free
    generator = np.random.default_rng(seed)
    feeds = {
        value.name: _drawn(generator, _sizes(value, batch, size, free), TYPES[value.type]) for value in model.inputs
    }
    times = []
    outputs: dict[str, Array] = {}
    for _ in range(1 + repeats):
        started = time.perf_counter()
        outputs = model.run(feeds)
        times.append(time.perf_counter() - started)
    rest = sorted(times[1:]) or times
    return Run(
        model.provider, model.drawn, {name: list(array.shape) for name, array in feeds.items()}, outputs,
        model.load_seconds, times[0], rest[len(rest) // 2],
    )  # fmt: skip


class Model:
    """A model in a session, on the provider that was obtained.

    `inputs` and `outputs` are ONNX Runtime's descriptions (`name`, `type`, `shape`), `metadata` are the entries of the
    file. Raises the same errors as `run`.
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
        try:
            self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError:
            raise UsageError.of("E0801", f"the metadata of {self.path} is not UTF-8 text") from None
        if len(self.inputs) > 1 and "rescompile.spec" in self.metadata:
            raise UsageError.of("E0802", f"{self.path} has no weights, only the structure of the network")
        for value in self.outputs:
            if value.type == "tensor(string)" or not value.type.startswith("tensor("):
                message = (
                    f"output '{value.name}' of {self.path} is a {value.type}, but only numeric tensors are supported"
                )
                raise UsageError.of("E0801", message)

    @property
    def sizes(self) -> list[int | str]:
        """The shape of the first input; dynamic axes are strings."""
        return list(self.inputs[0].shape)

    @property
    def free(self) -> dict[str, Free]:
        """The dynamic axes of the image that the file records, by name."""
        try:
            recorded = json.loads(self.metadata.get("rescompile.dynamic", "{}"))
            return {name: Free.of(name, facts) for name, facts in recorded.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UsageError.of("E0801", f"the metadata entry rescompile.dynamic of {self.path} is not valid") from None

    @property
    def drawn(self) -> str | None:
        """How the weights of a model built by rescompile were drawn, such as `seed 0`; None if they were given."""
        options = self.metadata.get("rescompile.weights", "").split()
        if "rescompile.spec" not in self.metadata or "weights=FILE" in options:
            return None
        seed = next((each.removeprefix("seed=") for each in options if each.startswith("seed=")), "0")
        return f"seed {seed}" + (", norms calibrated" if "calibrate-norms" in options else "")

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None if it is dynamic."""
        return _fixed(self.inputs[0])

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name. Raises UsageError if the model does not run on these inputs."""
        try:
            outputs = self._session.run(None, dict(feeds))
        except Exception as error:
            raise UsageError.of("E0801", f"{self.path} cannot be run: {brief(error)}") from None
        return dict(zip((value.name for value in self.outputs), outputs, strict=True))


def evaluate(path: str | os.PathLike[str], x: Array, options: Any = None) -> dict[str, Array]:
    """Return the outputs of a model for one input, by name, on the CPU; `options` are ONNX Runtime's of the session.
    Raises Unavailable if ONNX Runtime is missing."""
    ort = library()
    session = opened(ort, path, options or ort.SessionOptions(), PROVIDERS["ort-cpu"])
    outputs = session.run(None, {session.get_inputs()[0].name: x})
    return dict(zip((value.name for value in session.get_outputs()), outputs, strict=True))


def library() -> Any:
    """Return ONNX Runtime. Raises Unavailable if it is missing."""
    try:
        import onnxruntime
    except ImportError:
        help = "pip install 'rescompile[run]'"
        raise Unavailable.of("E0902", "this needs ONNX Runtime, which is not installed", help=help) from None
    return onnxruntime


def lacking(ort: Any, provider: str) -> str | None:
    """Return the reason why a provider cannot be used here, as far as is known without trying it; None if there is
    none."""
    if provider not in ort.get_available_providers():
        return f"ONNX Runtime was built without {provider}"
    if provider != PROVIDERS["ort-cpu"] and not has_gpu():
        return f"{provider} needs an NVIDIA GPU, and this machine has none"
    return None


def opened(
    ort: Any, path: str | os.PathLike[str], options: Any, provider: str,
    provider_options: Mapping[str, str] | None = None, strict: bool = True,
) -> Any:  # fmt: skip
    """Return a session on a provider, with the CPU as fallback. Raises UsageError if the model cannot be loaded and,
    with `strict`, Unavailable if ONNX Runtime silently fell back to another provider."""
    shown = os.fspath(path)
    file_types.check_file(path)
    onnx_graph.check_files(path, onnx_graph.read(path))
    options.log_severity_level = 3
    chosen: list[Any] = [(provider, dict(provider_options or {}))]
    if provider != PROVIDERS["ort-cpu"]:
        chosen.append(PROVIDERS["ort-cpu"])
    printed = io.StringIO()  # it prints the reason for a fallback to standard output, which is reserved for data
    try:
        with contextlib.redirect_stdout(printed):
            if provider != PROVIDERS["ort-cpu"] and hasattr(ort, "preload_dlls"):
                ort.preload_dlls()  # CUDA and cuDNN from packages, where the loader does not search
            session = ort.InferenceSession(shown, options, providers=chosen)
    except Exception as error:  # its exceptions have no other common base class
        raise UsageError.of("E0801", f"{shown} cannot be loaded by ONNX Runtime: {brief(error)}") from None
    obtained = session.get_providers()[0]
    if strict and obtained != provider:
        why = next((line for line in printed.getvalue().splitlines() if line.startswith("EP Error")), None)
        message = f"{provider} was requested, but ONNX Runtime uses {obtained}"
        raise Unavailable.of("E0901", message, notes=(why[:300],) if why else ())
    return session


def has_gpu() -> bool:
    """Return whether a CUDA device may exist at all: without one, ONNX Runtime falls back to the CPU without an
    error."""
    return os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg") or os.name == "nt"


def brief(error: Exception) -> str:
    """Return the first line of an error of another library."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def _provider(ort: Any, name: str) -> str:
    if name == "auto":
        # TensorRT compiles for minutes, so it is used only on request.
        fast = lacking(ort, PROVIDERS["ort-cuda"]) is None and ort.get_device() == "GPU"
        return PROVIDERS["ort-cuda" if fast else "ort-cpu"]
    reason = lacking(ort, PROVIDERS[name])
    if reason is not None:
        there = ", ".join(ort.get_available_providers())
        help = (
            f"available providers: {there}; to install ONNX Runtime, see rescompile[run]"
            if PROVIDERS[name] not in there
            else None
        )
        raise Unavailable.of("E0901", reason, help=help)
    return PROVIDERS[name]


def _drawn(generator: np.random.Generator, shape: Sequence[int], dtype: str) -> Array:
    """Return random input: normal values, or bytes for uint8."""
    if dtype == "uint8":
        return generator.integers(0, 256, shape, np.uint8)
    return generator.standard_normal(shape, np.float32)


def _sizes(value: Any, batch: int | None, size: Size | None, free: Mapping[str, Free]) -> list[int]:
    """Return the shape of an input: a dynamic first axis is the batch, and those after the channels are the axes of a
    map."""
    if value.type not in TYPES:
        message = f"input '{value.name}' is a {value.type}, but only float32 and uint8 inputs are supported"
        raise UsageError.of("E0801", message)
    fixed = _fixed(value)
    if batch is not None and fixed is not None and fixed != batch:
        raise UsageError.of("E0802", f"the batch size of this model is fixed to {fixed}")
    shape = [n if isinstance(n, int) else batch or 1 for n in value.shape]
    axes = AXIS_NAMES.get(len(shape) - 2, ())
    if size is not None and len(size) != len(axes):
        given, has = "x".join(map(str, size)), one_of(axes, "and") if axes else "no map"
        help = (
            f"write {'x'.join(axes).upper()}, such as {'x'.join(['16', '320', '256'][-len(axes) :])}" if axes else None
        )
        raise UsageError.of("E0802", f"--size is {given}, but input '{value.name}' has {has}", help=help)
    first = 1 if len(shape) == 4 and value.shape[3] in (1, 3) and value.shape[1] not in (1, 3) else 2  # channels last
    for at, name in enumerate(axes):
        if isinstance(value.shape[first + at], int):
            if size is not None and size[at] != shape[first + at]:
                help = "build the model, or run the spec, with --dynamic"
                raise UsageError.of("E0802", f"the {name} of this model is fixed to {shape[first + at]}", help=help)
        elif size is not None or name in free:
            shape[first + at] = free[name].size if size is None else size[at]
            if name in free:
                free[name].check(shape[first + at])
    memory.check_array(shape, f"input '{clipped(value.name)}'")
    return shape


def _fixed(value: Any) -> int | None:
    """Return the fixed size of the batch axis of an input, or None."""
    return value.shape[0] if value.shape and isinstance(value.shape[0], int) else None
