"""The results of a benchmark so far: a `Result` can be taken at any time, also after an interruption."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rescompile.bench import statistics
from rescompile.bench.contenders import Configuration, Request
from rescompile.bench.results import FORMAT, BenchRow, Control, Missing, Result, Tuning
from rescompile.diagnostics.errors import RescompileError
from rescompile.runtimes import device
from rescompile.version import __version__


@dataclass(slots=True)
class Recorder:
    """The finished rows, and `problems`, the errors behind missing ones."""

    request: Request
    missing: list[Missing]
    measured: str = field(default_factory=device.now)
    machine: dict[str, Any] = field(default_factory=device.describe)
    rows: list[BenchRow] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    tunings: list[Tuning] = field(default_factory=list)
    problems: list[RescompileError] = field(default_factory=list)
    interrupted: bool = False

    def refuse(self, error: RescompileError, configurations: Iterable[Configuration]) -> None:
        """Record an error, and that these configurations have no row because of it."""
        self.problems.append(error)
        why = error.diagnostics[0].message
        self.missing.extend(Missing(each.text, each.precision, why) for each in configurations)

    def result(self) -> Result:
        """Return the rows that are finished."""
        request, plan = self.request, self.request.plan
        options = {
            "sessions": plan.sessions, "rounds": plan.rounds, "slot_seconds": plan.slot, "most_runs": plan.runs,
            "seed": plan.seed, "threads": request.threads, "level": statistics.LEVEL, "resamples": statistics.RESAMPLES,
            "clock": request.clock.__name__,
        }  # fmt: skip
        return Result(
            FORMAT, __version__, self.measured, list(request.command), self.machine, options, list(self.rows),
            list(self.controls), list(self.missing), self.interrupted, list(self.tunings),
        )  # fmt: skip
