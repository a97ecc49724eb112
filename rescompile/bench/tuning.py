"""The fastest way to run a network here: which ways are tried, which are dropped early, and what may be said at the end.

Ways are dropped by successive halving (Jamieson and Talwalkar 2016): all have a few rounds, the better half has more. Who is
among the slower half stays all the same where its interval overlaps with that of the fastest, so that none is lost to noise.
Numbers of threads are tried for those that are left: which kernels suit a network hardly depends on them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rescompile.bench import statistics
from rescompile.bench.measuring import Clock, Plan, Runs, Timing, measure
from rescompile.bench.results import Candidate, Row
from rescompile.bench.statistics import Interval, WarmUp
from rescompile.diagnostics.errors import CheckFailed, Diagnostic, RescompileError, Unavailable
from rescompile.runtimes import RUNTIMES, find
from rescompile.runtimes.device import usable

if TYPE_CHECKING:
    from rescompile.bench.running import Entry, Way

#: The options of a runtime that may pay, beside none: where maps lie, what is compiled or captured.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "ort-cuda": ("graph", "nhwc", "graph:nhwc"),
    "ort-tensorrt": ("graph",),
    "torch-cpu": ("channels_last", "compile", "compile:channels_last"),
    "torch-cuda": (
        "channels_last", "compile:channels_last", "compile=reduce-overhead:channels_last", "compile=max-autotune:channels_last",
    ),
}  # fmt: skip
#: The relative error against float64 that is allowed unless another is asked for: bfloat16 keeps it in most networks.
ACCURACY = 1e-2
#: Whose times speed-ups are over: what a user has who does nothing, on the better device of those tried.
BASES = ("torch-cuda", "torch-cpu")
#: Rounds of one halving after the other.
RUNGS = (statistics.LEAST_ROUNDS, 2 * statistics.LEAST_ROUNDS, 4 * statistics.LEAST_ROUNDS)
#: So many are measured to the end.
FINALISTS = 3
#: An error in a lower precision is mostly that of its numbers, whoever computes: where the first way with it was off by so many
#: times what is allowed, no other is tried. Those of torch and OpenVINO in bfloat16 differed by at most 2.1 in 16 networks.
FAR = 3.0
#: Who takes so many times as long as another at first sight is not raced: far beyond any noise.
HOPELESS = 3.0
#: A halving needs no settled clocks: its rounds are interleaved.
WARM_UP = WarmUp(window=2, tolerance=0.05, runs=20, seconds=2.0)


@dataclass(frozen=True, slots=True)
class Tune:
    """What a way must keep to, and for each network the words of the command that measures it, without a way."""

    accuracy: float
    again: Mapping[str, Sequence[str]]

    def command(self, network: str, runtime: str, precision: str, batch: int) -> str:
        """The command that measures a network in one way."""
        words = ["--runtime", runtime, "--precision", precision, "--batch", str(batch)]
        return shlex.join([*self.again[network], *words])


def here() -> list[str]:
    """The runtimes that this machine has."""
    return [name for name, runtime in RUNTIMES.items() if runtime.missing() is None]


def expanded(runtimes: Iterable[str]) -> list[str]:
    """Runtimes with all options that may pay; those that were given with options stay as they are."""
    ways = (
        text
        for runtime in runtimes
        for text in (runtime, *(f"{runtime}:{options}" for options in OPTIONS.get(runtime, ())))
    )
    return list(dict.fromkeys(ways))


def threaded(way: Way, cores: int) -> list[Way]:
    """A way with fewer threads than there are cores: one, and half of them. All of them are what it has by itself."""
    if "threads" not in way.runtime.options or "threads" in way.options:
        return []
    texts = [f"{way.text}:threads={count}" for count in sorted({1, cores // 2}) if 0 < count < cores]
    return [replace(way, text=text, options=find(text)[1]) for text in texts]


def base(runtimes: Sequence[str]) -> str | None:
    """The runtime whose eager run in fp32 speed-ups are over."""
    return next((name for name in BASES if name in runtimes), None)


def look(contender: Runs, clock: Clock) -> float:
    """The shortest of a few runs, in seconds."""

    def run() -> float:
        start = clock()
        contender.run()
        return clock() - start

    return min(run() for _ in range(5))


def hopeless(looks: Mapping[Way, float], spared: Way | None) -> list[Way]:
    """Who took HOPELESS times as long as the shortest; never the base."""
    least = min(looks.values(), default=0.0)
    return [way for way, seconds in looks.items() if seconds > HOPELESS * least and way != spared]


def halved(timing: Timing, titles: Iterable[str], spared: str | None) -> tuple[list[str], dict[str, float]]:
    """Who goes on after a rung, the fastest first: the faster half, who cannot be told apart from the fastest, and the base. And
    the medians of all."""
    samples = {title: statistics.table(timing.samples(title)) for title in titles}
    medians = {title: statistics.median(found) for title, found in samples.items()}
    order = sorted(samples, key=lambda title: medians[title].value)
    raced = [title for title in order if title != spared]
    half = raced[: max((len(raced) + 1) // 2, min(FINALISTS, len(raced)))]
    kept = [t for t in order if t in half or t == spared or medians[t].overlaps(medians[order[0]])]
    return kept, {title: median.value for title, median in medians.items()}


class Race:
    """The ways of one network at one batch, from all that there are to the few that are measured to the end."""

    def __init__(
        self, title: str, tune: Tune, ways: Sequence[Way], enter: Callable[[Way], Entry], command: Callable[[Way], str],
        plan: Plan, clock: Clock, threads: int | None,
    ) -> None:  # fmt: skip
        """`title` says what is run: `resnet50 at batch 1`. `enter` prepares a way and holds it to float64; `threads` is a number that was asked for, of which then none else is
        tried."""
        self._title, self._tune, self._ways, self._enter, self._command = title, tune, ways, enter, command
        self._plan, self._clock, self._threads = plan, clock, threads
        self.base = base([way.text for way in ways])
        self._spared = next((way for way in ways if (way.text, way.precision) == (self.base, "fp32")), None)
        self._looks: dict[Way, float] = {}
        self._least: dict[str, float] = {}
        self.entries: dict[Way, Entry] = {}
        self.dropped: list[Candidate] = []
        self.problems: list[RescompileError] = []

    def run(self) -> Generator[str, None, None]:
        """Leave the best of the ways in `entries`, and the others in `dropped`; yields what is going on."""
        yield from self._tried(self._ways)
        if not self.entries:
            self._explain()
            return
        yield from self._raced()
        if self._threads is None:
            more = [other for way in self.entries for other in threaded(way, usable()) if way != self._spared]
            if more:
                yield from self._tried(more)
                yield from self._raced()

    def _tried(self, ways: Sequence[Way]) -> Generator[str, None, None]:
        """Prepare ways, and let go of those that are refused, not accurate, or hopeless."""
        for way in ways:
            least = self._least.get(way.precision, 0.0)
            if way.precision != "fp32" and least > FAR * self._tune.accuracy:
                self._drop(way, f"not tried: {way.precision} had an error of {least:.1e}")
                continue
            yield f"tries {way.text} in {way.precision}"
            try:
                entry = self._enter(way)
            except (CheckFailed, Unavailable) as problem:
                self.problems.append(problem)
                self._drop(way, f"refused: {problem.diagnostics[0].message}")
                continue
            self.entries[way] = entry
            self._least[way.precision] = min(entry.error, self._least.get(way.precision, entry.error))
            if not entry.error <= self._tune.accuracy:  # eager torch as well: who is not exact enough is nobody's best
                self._drop(way, f"error above {self._tune.accuracy:g}")
                continue
            self._looks[way] = look(entry.prepared, self._clock)
            for lost in hopeless(self._looks, self._spared):
                times = self._looks[lost] / min(self._looks.values())
                self._drop(lost, f"hopeless: {times:.1f} times the shortest at first sight", self._looks[lost])

    def _raced(self) -> Generator[str, None, None]:
        """Halve those that are left until there are few."""
        for rounds in RUNGS:
            if len([way for way in self.entries if way != self._spared]) <= FINALISTS:
                break
            titles = {f"{way.text}, {way.precision}": way for way in self.entries}
            contenders = {title: self.entries[way].prepared for title, way in titles.items()}
            timing, plan = Timing(), replace(self._plan, rounds=rounds, warm_up=WARM_UP)
            for done in measure(contenders, plan, timing, self._clock):
                yield f"{len(contenders)} ways, round {done} of {rounds}"
            spared = next((title for title, way in titles.items() if way == self._spared), None)
            kept, medians = halved(timing, titles, spared)
            for title in (title for title in sorted(titles, key=medians.__getitem__) if title not in kept):
                self._drop(titles[title], f"dropped after {rounds} rounds", medians[title], rounds)
            self.entries = {titles[title]: self.entries[titles[title]] for title in kept}

    def _explain(self) -> None:
        """Why no way is left: none was exact enough, or else whatever the problems were."""
        errors = [each.error for each in self.dropped if each.error is not None]
        if errors:
            message = f"no way to run {self._title} keeps a relative error of {self._tune.accuracy:g}: the smallest is {min(errors):.2g}"
            help = f"--accuracy {2 * min(errors):.1g} lets it pass"
            self.problems.insert(0, CheckFailed(Diagnostic("E0723", message, help=help)))

    def _drop(self, way: Way, fate: str, seconds: float | None = None, rounds: int = 0) -> None:
        entry = self.entries.pop(way, None)
        self._looks.pop(way, None)
        error = None
        if entry is not None:
            entry.prepared.close()
            error = entry.error
        self.dropped.append(Candidate(way.text, way.precision, fate, self._command(way), rounds, seconds, error))


def fastest(rows: Sequence[Row], control: Interval | None) -> list[Row]:
    """The row of the smallest median, and those that cannot be told apart from it, in the order of their medians."""
    order = sorted(rows, key=lambda row: row.summary.p50)
    if not order:
        return []
    first, *others = order
    return [first, *(row for row in others if statistics.speed_up(first.times, row.times, control) is None)]


def finished(rows: Sequence[Row], control: Interval | None, command: Callable[[Row], str]) -> list[Candidate]:
    """What is said of those that were measured to the end, the fastest first."""
    best = fastest(rows, control)
    words = {id(row): "cannot be told apart from the fastest" for row in best[1:]}
    if best:
        words[id(best[0])] = "fastest" if len(best) == 1 else "smallest median"
    return [
        Candidate(
            row.runtime, row.precision, words.get(id(row), "slower"), command(row), len(row.samples), row.summary.p50,
            row.error,
        )
        for row in sorted(rows, key=lambda row: row.summary.p50)
    ]  # fmt: skip
