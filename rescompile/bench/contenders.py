"""The participants of a benchmark: the request, the configurations that can run here, and the contenders."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rescompile.bench.measuring import Clock, Plan
from rescompile.bench.reference import Reference
from rescompile.bench.results import Missing
from rescompile.bench.timed_models import BenchModel
from rescompile.diagnostics.errors import Unavailable, UsageError, one_of
from rescompile.ir.network import Network
from rescompile.ir.precision import PRECISIONS
from rescompile.records import record
from rescompile.runtimes import RUNTIMES, Job, Prepared, Runtime, find
from rescompile.runtimes.device import usable

#: Options of a runtime that a search tries besides none: memory layout, compilation, CUDA graphs.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "ort-cuda": ("graph", "nhwc", "graph:nhwc"),
    "ort-tensorrt": ("graph",),
    "torch-cpu": ("channels_last", "compile", "compile:channels_last"),
    "torch-cuda": (
        "channels_last", "compile:channels_last", "compile=reduce-overhead:channels_last", "compile=max-autotune:channels_last",
    ),
    "mlx": ("compile",),
}  # fmt: skip


@record
class TuneRequest:
    """A search for the fastest configuration: the largest relative error allowed, and for each network the words of the
    command that measures it, without a configuration."""

    accuracy: float
    again: Mapping[str, Sequence[str]]

    def command(self, network: str, runtime: str, precision: str, batch: int) -> str:
        """Return the command that measures a network in one configuration."""
        words = ["--runtime", runtime, "--precision", precision, "--batch", str(batch)]
        return shlex.join([*self.again[network], *words])


@record
class Request:
    """What to measure: networks after passes, and peers, on runtimes, in precisions and batches.

    `variants` are further sets of passes for the same networks, by label. With `tune`, runtimes and precisions restrict the
    search; if they are empty, it tries all of them.
    """

    networks: Sequence[Network]
    passes: Mapping[str, Any]
    peers: Sequence[str]
    runtimes: Sequence[str]
    precisions: Sequence[str]
    batches: Sequence[int]
    plan: Plan = field(default_factory=Plan)
    control: bool = False
    profile: bool = False
    threads: int | None = None
    exporter: str = "legacy"
    keep: Path | None = None
    command: Sequence[str] = ()
    tune: TuneRequest | None = None
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    clock: Clock = time.perf_counter

    def peers_of(self, network: Network) -> list[str]:
        """Return the peers of a network: those with its name, and those whose name is not that of another requested network."""
        others = {each.name for each in self.networks} - {network.name}
        return [peer for peer in self.peers if peer.partition(":")[2] not in others]


@record
class Configuration:
    """A runtime with its options, in a precision. `text` is the runtime as the user writes it: `torch-cpu:compile`."""

    text: str
    runtime: Runtime = field(compare=False)
    options: Mapping[str, Any] = field(compare=False)
    precision: str

    def __str__(self) -> str:
        return f"{self.text} in {self.precision}"


@dataclass(slots=True)
class Contender:
    """A model prepared to run in a configuration.

    `passes` are those of the executed artifact: an int8 file adds those of its recipe. `build` and `first` are the seconds of
    the first preparation and the first run, `error` is the largest error so far, and `bound` the largest allowed one.
    """

    model: BenchModel
    configuration: Configuration
    prepared: Prepared
    reference: Reference
    file: Path | None
    artifact: str | None
    passes: Sequence[str]
    job: Job
    error: float
    bound: float
    build: float
    first: float


def available_runtimes() -> list[str]:
    """Return the runtimes that can be used on this machine."""
    return [name for name, runtime in RUNTIMES.items() if runtime.missing() is None]


def with_options(runtimes: Iterable[str]) -> list[str]:
    """Return runtimes, each followed by itself with every set of options worth trying; a runtime given with options stays as
    it is."""
    return list(
        dict.fromkeys(
            text
            for runtime in runtimes
            for text in (runtime, *(f"{runtime}:{options}" for options in OPTIONS.get(runtime, ())))
        )
    )


def with_fewer_threads(configuration: Configuration) -> list[Configuration]:
    """Return a configuration limited to one thread and to half of the cores; all cores are the default of every runtime."""
    if all(option.name != "threads" for option in configuration.runtime.options) or "threads" in configuration.options:
        return []
    cores = usable()
    texts = [f"{configuration.text}:threads={count}" for count in sorted({1, cores // 2}) if 0 < count < cores]
    return [replace(configuration, text=text, options=find(text)[1]) for text in texts]


def configurations(request: Request) -> tuple[list[Configuration], list[Missing]]:
    """Return the configurations that can be measured, and those that cannot, with the reason.

    Raises UsageError for unknown or repeated names, and Unavailable if a runtime cannot be used here, or if a requested
    runtime or precision would be left without a row.
    """
    runtimes, precisions = request.runtimes, request.precisions
    if request.tune is not None:
        runtimes, precisions = with_options(runtimes or available_runtimes()), precisions or tuple(PRECISIONS)
    _check_names(request, precisions)
    parsed = [(text, *find(text)) for text in runtimes]
    absent = {runtime.name: problem for _, runtime, _ in parsed if (problem := runtime.problem()) is not None}
    if absent:
        raise Unavailable(absent.values())
    fit, missing = [], []
    for text, runtime, options in parsed:
        for precision in precisions:
            if precision in runtime.precisions:
                fit.append(Configuration(text, runtime, options, precision))
            elif precision in request.precisions:
                missing.append(Missing(text, precision, f"{runtime.name} supports {one_of(runtime.precisions)}"))
    for name in _without_rows(request, fit):
        why = next(each.why for each in missing if name in (each.runtime, each.precision))
        raise Unavailable.of("E0901", f"nothing can be measured for {name}: {why}")
    return fit, missing


def _check_names(request: Request, precisions: Sequence[str]) -> None:
    for precision in precisions:
        if precision not in PRECISIONS:
            message = f"unknown precision '{precision}'"
            raise UsageError.of("E0802", message, help=f"the precisions are {one_of(PRECISIONS)}")
    for items, what in ((request.runtimes, "runtime"), (request.precisions, "precision"), (request.batches, "batch")):
        for item in items:
            if list(items).count(item) > 1:
                raise UsageError.of("E0802", f"the {what} {item} is given twice")


def _without_rows(request: Request, fit: Sequence[Configuration]) -> Iterator[str]:
    """The requested runtimes and precisions that no configuration has."""
    yield from (text for text in request.runtimes if all(each.text != text for each in fit))
    yield from (precision for precision in request.precisions if all(each.precision != precision for each in fit))
