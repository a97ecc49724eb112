"""The result file: JSON with every sample, and with all that is needed to doubt a figure or to measure it again.

The dataclasses below are the format: pydantic reads files by them and makes the schema from them (docs/bench.schema.json).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rescompile.bench import documents, statistics
from rescompile.bench.documents import Wrong
from rescompile.bench.statistics import Interval, Samples, Summary

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Share:
    """What one part of the network takes: of the time of a profiled run, and of all multiply-adds."""

    part: str
    seconds: float
    time: float
    macs: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """The least time that the device allows for the layers of a network, in seconds, and how much of it the median reaches;
    by its measured bandwidth for large copies in bytes per second, and its rate of matrix products in operations per second.
    """

    limit: float
    fraction: float
    bandwidth: float
    rate: float


@dataclass(frozen=True, slots=True)
class Row:
    """One network on one runtime, in one precision and batch. Times are in seconds.

    `sha256` is that of the spec, `artifact` that of the ONNX file which ran, if one did. `samples` are rounds of runs, in
    the order in which they were measured, of one sitting after the other; rows of one group shared these rounds. `error` is the relative error of what
    was timed against float64, and `bound` what it may be. `before` and `after` are the state of the device.
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
        """What a row is of: rows of two files with one key are of the same work."""
        return self.group, self.model, self.runtime, self.precision, self.batch

    @property
    def title(self) -> str:
        """`resnet50 on ort-cpu, fp32, batch 8`."""
        return f"{self.model} on {self.runtime}, {self.precision}, batch {self.batch}"

    @property
    def times(self) -> Samples:
        """The samples as an array."""
        return statistics.table(self.samples, self.sittings)


@dataclass(frozen=True, slots=True)
class Control:
    """A contender against a second copy of itself, prepared and timed like any other: the ratio of their medians, which
    nothing but noise moves from 1."""

    group: str
    batch: int
    row: str
    ratio: Interval
    samples: list[list[float]]


@dataclass(frozen=True, slots=True)
class Missing:
    """What was asked for and has no row, and why."""

    runtime: str
    precision: str
    why: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a network that was tried. `fate` says what became of it, `seconds` is the median of its last rounds, or
    the shortest of a few runs where it had none; `command` measures it again."""

    runtime: str
    precision: str
    fate: str
    command: str
    rounds: int = 0
    seconds: float | None = None
    error: float | None = None


@dataclass(frozen=True, slots=True)
class Tuning:
    """The search for the fastest way of a group, whose relative error against float64 is at most `accuracy`. `base` is the
    runtime whose eager run in fp32 speed-ups are over. `best` is None where several cannot be told apart. The candidates
    that were measured to the end come first, the fastest before all."""

    group: str
    batch: int
    accuracy: float
    base: str | None
    best: Candidate | None
    candidates: list[Candidate]


@dataclass(frozen=True, slots=True)
class Result:
    """What one command measured. `interrupted` says that it was stopped before its end; the rows that it had are here."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = documents.CONFIG

    bench: int
    version: str
    measured: str
    command: list[str]
    machine: dict[str, Any]
    options: dict[str, Any]
    rows: list[Row]
    controls: list[Control] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    interrupted: bool = False
    tunings: list[Tuning] = field(default_factory=list)

    def control(self, row: Row) -> Interval | None:
        """The control of the group that a row belongs to."""
        found = (c.ratio for c in self.controls if (c.group, c.batch) == (row.group, row.batch))
        return next(found, None)


def read(path: Path) -> Result:
    """Read a result file. Raises UsageError with every place that is wrong."""
    help = "rescompile bench -o FILE writes result files"
    return documents.read(path, Result, "bench", FORMAT, "result file", help, _check_samples)


def _check_samples(result: Result, wrong: Wrong) -> None:
    """Report samples that have no statistics."""
    for number, row in enumerate(result.rows):
        try:
            statistics.table(row.samples, row.sittings)
        except ValueError as error:
            wrong(("rows", number, "samples"), str(error))


def schema() -> dict[str, Any]:
    """The JSON Schema of result files, in draft 7."""
    made = documents.schema(Result)
    made["properties"]["bench"] = {"const": FORMAT, "description": "the version of this format"}
    made["properties"]["$comment"] = {"type": "string"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **made,
        "title": f"result of rescompile bench, format {FORMAT}",
    }


def schema_text() -> str:
    """The text of the schema file."""
    return json.dumps(schema(), indent=2) + "\n"


def rows_of(result: Result, group: str, batch: int) -> Sequence[Row]:
    """The rows that were measured in the same rounds."""
    return [row for row in result.rows if (row.group, row.batch) == (group, batch)]


def groups(result: Result) -> list[tuple[str, int]]:
    """The groups of a result, in order: what was compiled, and the batch."""
    return list(dict.fromkeys((row.group, row.batch) for row in result.rows))
