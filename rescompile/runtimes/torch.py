"""PyTorch as a runtime: eager or compiled, in inference mode; global flags that affect results are set and restored."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.network import LOGITS
from rescompile.ir.precision import FLOATS, PRECISIONS
from rescompile.runtimes import Job, Runtime
from rescompile.runtimes.ort_session import brief
from rescompile.weights import Array

#: The modes of torch.compile that replay CUDA graphs.
REPLAYING = ("reduce-overhead", "max-autotune")


def missing(runtime: Runtime) -> str | None:
    """Return the reason why torch cannot run on this device."""
    try:
        import torch
    except ImportError as error:
        return f"PyTorch cannot be imported ({error})"
    if runtime.device == "cuda" and not torch.cuda.is_available():
        return "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch finds no NVIDIA GPU"
    return None


def prepare(runtime: Runtime, job: Job, options: Mapping[str, Any]) -> Module:
    """Return the module of a job on the device, run once. Raises Unavailable if it cannot be compiled or run."""
    return Module(runtime, job, options)


class Module:
    """A torch module with its input, in one precision and memory format."""

    def __init__(self, runtime: Runtime, job: Job, options: Mapping[str, Any]) -> None:
        import torch

        assert job.module is not None
        mode, threads = options.get("compile"), options.get("threads", job.threads)
        dtype = getattr(torch, PRECISIONS[job.precision].dtype)
        form = torch.channels_last if options.get("channels_last") else torch.contiguous_format
        self._torch: Any = torch
        self._cuda = runtime.device == "cuda"
        self._settings = partial(settings, torch, self._cuda, job.precision == "tf32", threads)
        self._replays = self._cuda and mode in REPLAYING
        self._module: Any = None
        self._input: Any = None
        started = time.perf_counter()
        try:
            module = job.module().eval().to(device=runtime.device, dtype=dtype, memory_format=form)
            self._module = torch.compile(module, mode=mode, dynamic=False) if mode else module
            self._input = torch.from_numpy(job.input).to(device=runtime.device, dtype=dtype, memory_format=form)
            self._wait()
            self.build_seconds = time.perf_counter() - started
            started = time.perf_counter()
            with _every_compilation(torch) if mode else contextlib.nullcontext():
                self.run()
        except Exception as error:  # such as a missing compiler or too little memory
            self.close()
            raise Unavailable.of("E0901", f"{runtime.name} cannot run {job.name}: {brief(error)}") from None
        self.first_seconds = time.perf_counter() - started
        with self._settings():
            self.facts: Mapping[str, Any] = {
                "device": torch.cuda.get_device_name() if self._cuda else "cpu",
                "precision": job.precision,
                "tf32": job.precision == "tf32",
                "threads": None if self._cuda else torch.get_num_threads(),
                "options": dict(options),
                "versions": {"torch": torch.__version__}
                | ({"cuda": torch.version.cuda, "cudnn": self._torch.backends.cudnn.version()} if self._cuda else {}),
            }

    def run(self) -> None:
        """Run one inference, and wait until the device has finished."""
        with self._settings(), self._torch.inference_mode():
            self._given = self._module(self._input)
            self._wait()

    def outputs(self) -> Mapping[str, Array]:
        """Return the outputs of the last run by name. CUDA graphs share memory, so another module may have overwritten
        the outputs since ("CUDAGraph Trees" in torch's documentation); such a module runs once more."""
        if self._replays:
            self.run()
        named = self._given if isinstance(self._given, Mapping) else {LOGITS: self._given}
        return {name: value.float().cpu().numpy() for name, value in named.items()}

    def profile(self, runs: int) -> list[tuple[str, float]]:
        """Return the modules in the order of their start: names and median seconds, without their submodules."""
        times: dict[str, list[float]] = {}
        #: Name, start and seconds of the submodules of each running module.
        open_: list[tuple[str, float, list[float]]] = []

        def before(name: str) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                self._wait()
                times.setdefault(name, [])
                open_.append((name, time.perf_counter(), []))

            return hook

        def after(*_: Any) -> None:
            self._wait()
            name, started, inside = open_.pop()
            seconds = time.perf_counter() - started
            times[name].append(seconds - sum(inside))
            if open_:
                open_[-1][2].append(seconds)

        with contextlib.ExitStack() as hooks:
            for name, module in self._module.named_modules():
                hooks.enter_context(module.register_forward_pre_hook(before(name)))
                hooks.enter_context(module.register_forward_hook(after))
            for _ in range(runs):
                self.run()
        # A module may be called several times in a run, and all calls count.
        calls = {name: len(taken) // runs for name, taken in times.items()}
        return [
            (name, statistics.median(sum(taken[at : at + calls[name]]) for at in range(0, len(taken), calls[name])))
            for name, taken in times.items()
        ]

    def close(self) -> None:
        """Release the module, and the GPU memory that torch caches."""
        self._module = self._input = self._given = None
        if self._cuda:
            self._torch.cuda.empty_cache()

    def _wait(self) -> None:
        if self._cuda:
            self._torch.cuda.synchronize()


@contextlib.contextmanager
def settings(torch: Any, cuda: bool, tf32: bool, threads: int | None) -> Iterator[None]:
    """Set torch's global state for one job and restore it afterwards, since other jobs run in between."""
    wanted = [
        (torch.backends.cuda.matmul, "allow_tf32", tf32),
        (torch.backends.cudnn, "allow_tf32", tf32),
        (torch.backends.cudnn, "benchmark", True),  # shapes are fixed, so algorithms can be benchmarked
    ]
    before, used = [], torch.get_num_threads()
    try:
        if cuda:
            for owner, name, value in wanted:
                before.append((owner, name, getattr(owner, name)))
                setattr(owner, name, value)
        elif threads not in (None, used):
            torch.set_num_threads(threads)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
        if torch.get_num_threads() != used:
            torch.set_num_threads(used)


def _every_compilation(torch: Any) -> Any:
    """Raise torch.compile's recompilation limit, beyond which it silently runs modules eagerly: the limit is meant for
    one module with changing shapes, and here each module is compiled once. Reaching the raised limit is an error."""
    return torch._dynamo.config.patch(
        recompile_limit=1 << 16, accumulated_recompile_limit=1 << 16, fail_on_recompile_limit_hit=True
    )


# --- for the roofline -------------------------------------------------------------------------------------------------


def products(device: str, precision: str, side: int) -> list[tuple[float, Callable[[], None]]]:
    """Return kernels that multiply on a device, each with its floating-point operations: products of square matrices,
    and on the CPU convolutions too, for which torch uses another library. Empty if torch lacks the precision there."""
    import torch

    if precision not in FLOATS or (device == "cpu" and precision not in ("fp32", "bf16")):
        return []
    kind = getattr(torch, PRECISIONS[precision].dtype)
    generator = torch.Generator(device).manual_seed(0)
    taken: list[tuple[float, Callable[[], None]]] = []
    # A large product keeps many cores busy; a small one is less often interrupted.
    for rows in (side, side // 2) if device == "cpu" else (side,):
        # Random values as in a network: with equal values a GPU needs less power and raises its clock.
        values = torch.randn(rows, rows, generator=generator, device=device).to(kind)
        taken.append((2 * rows**3, _product(torch, values)))
    if device == "cpu":
        channels, extent = side // 4, 28
        maps = torch.ones(2, channels, extent, extent, dtype=kind).to(memory_format=torch.channels_last)
        for kernel in (1, 3):
            weight = torch.ones(channels, channels, kernel, kernel, dtype=kind).to(memory_format=torch.channels_last)
            taken.append((2 * maps.numel() * channels * kernel**2, _convolution(torch, maps, weight)))
    return taken


def _product(torch: Any, a: Any) -> Callable[[], None]:
    out = torch.empty_like(a)

    def run() -> None:
        torch.mm(a, a, out=out)
        if a.is_cuda:
            torch.cuda.synchronize()

    return run


def _convolution(torch: Any, maps: Any, weight: Any) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            torch.conv2d(maps, weight, padding=weight.shape[-1] // 2)

    return run


def copies(size: int, times: int) -> Callable[[], None]:
    """Return a function that copies `size` bytes in GPU memory `times` times."""
    import torch

    source = torch.ones(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def run() -> None:
        for _ in range(times):
            target.copy_(source)
        torch.cuda.synchronize()

    return run


# --- profile ---------------------------------------------------------------------------------------------------


def profile(runtime: Runtime, job: Job, options: Mapping[str, Any], runs: int) -> list[tuple[str, float]]:
    """Return the modules of a network with their median seconds, without their submodules; the functions that a module
    calls count as its own. A compiled network has no modules, so the eager one is profiled."""
    eager = {key: value for key, value in options.items() if key != "compile"}
    with contextlib.closing(prepare(runtime, job, eager)) as prepared:
        return prepared.profile(runs)
