"""The result file: JSON with every sample, and with everything needed to check a figure or to measure it again.

The dataclasses below are the format: pydantic reads files by them, and docs/make_bench_schema.py makes the schema from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar

from rescompile.bench import json_files, statistics
from rescompile.bench.json_files import Wrong
from rescompile.bench.statistics import Interval, Samples, Summary
from rescompile.diagnostics.notebook_views import NotebookView
from rescompile.records import record

FORMAT = 1


@record
class Share:
    """The share of one part of the network in the time of a profiled run, and in all multiply-adds."""

    part: str
    seconds: float
    time: float
    macs: float


@record
class Roofline:
    """The least time that the device allows for the layers of a network in seconds, the fraction of it that the median reaches, and
    the measured rates behind it: bytes per second of large copies, and operations per second of matrix products."""

    limit: float
    fraction: float
    bandwidth: float
    rate: float


@record
class BenchRow:
    """One network on one runtime, in one precision and batch. Times are in seconds.

    `sha256` is the digest of the spec, `artifact` that of the ONNX file, if one ran. `samples` are rounds of runs in the order
    of measurement, through all `sittings` (sessions); the rows of a group share these rounds. `error` is the relative error of
    the outputs against float64, and `bound` the largest allowed. `before` and `after` are states of the device.
    """

    group: str
    model: str
    runtime: str
    precision: str
    batch: int
    sha256: str | None
    artifact: str | None
    passes: list[str]
    parameters: int
    macs: int
    build: float
    first: float
    warm_up: int
    settled: bool
    samples: list[list[float]]
    summary: Summary
    error: float
    bound: float
    facts: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]
    roofline: Roofline | None = None
    profile: list[Share] | None = None
    again: list[str] = field(default_factory=list)
    sittings: int = 1

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """The key of the row: rows of two files with the same key measure the same work."""
        return self.group, self.model, self.runtime, self.precision, self.batch

    @property
    def title(self) -> str:
        """`resnet50 on ort-cpu, fp32, batch 8`."""
        return f"{self.model} on {self.runtime}, {self.precision}, batch {self.batch}"

    @property
    def times(self) -> Samples:
        """The samples as an array."""
        return statistics.table(self.samples, self.sittings)


@record
class Control:
    """A contender against a second copy of itself, prepared and timed like any other: the ratio of their medians, which
    only noise moves away from 1."""

    group: str
    batch: int
    row: str
    ratio: Interval
    samples: list[list[float]]


@record
class Missing:
    """A requested configuration without a row, and the reason."""

    runtime: str
    precision: str
    why: str

    def __str__(self) -> str:
        return f"{self.runtime} in {self.precision}: {self.why}"


@record
class Candidate:
    """A configuration that the search tried. `fate` is its outcome, `seconds` the median of its last rounds, or the shortest of a
    few runs where it had no rounds; `command` measures it again."""

    runtime: str
    precision: str
    fate: str
    command: str
    rounds: int = 0
    seconds: float | None = None
    error: float | None = None


@record
class Tuning:
    """The search for the fastest configuration of a group with a relative error of at most `accuracy` against float64.

    `base` is the runtime whose eager fp32 run is the baseline of speed-ups. `best` is None if the difference between the
    fastest is not significant. The candidates that were measured to the end come first, in the order of their medians.
    """

    group: str
    batch: int
    accuracy: float
    base: str | None
    best: Candidate | None
    candidates: list[Candidate]


@record
class Result(NotebookView):
    """What one command measured; after an interruption, the rows that were finished."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = json_files.CONFIG

    bench: int
    version: str
    measured: str
    command: list[str]
    machine: dict[str, Any]
    options: dict[str, Any]
    rows: list[BenchRow]
    controls: list[Control] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    interrupted: bool = False
    tunings: list[Tuning] = field(default_factory=list)

    def control(self, row: BenchRow) -> Interval | None:
        """Return the control of a row's group."""
        ratios = (c.ratio for c in self.controls if (c.group, c.batch) == (row.group, row.batch))
        return next(ratios, None)


def read(path: Path) -> Result:
    """Read a result file. Raises UsageError with the location of every error."""
    help = "rescompile bench -o FILE writes result files"
    return json_files.read(path, Result, "bench", FORMAT, "result file", help, _check_samples)


def _check_samples(result: Result, wrong: Wrong) -> None:
    """Report samples for which no statistics can be computed."""
    for number, row in enumerate(result.rows):
        try:
            statistics.table(row.samples, row.sittings)
        except ValueError as error:
            wrong(("rows", number, "samples"), str(error))


def rows_of(result: Result, group: str, batch: int) -> Sequence[BenchRow]:
    """Return the rows that were measured in the same rounds."""
    return [row for row in result.rows if (row.group, row.batch) == (group, batch)]


def groups(result: Result) -> list[tuple[str, int]]:
    """Return the groups of a result in order, each a network and a batch."""
    return list(dict.fromkeys((row.group, row.batch) for row in result.rows))
