"""The fastest way to run a network here: which ways are tried, which are dropped early, and what may be said at the end.

Configurations are dropped by successive halving (Jamieson and Talwalkar 2016): all have a few rounds, the better half has more. Who is
among the slower half stays all the same where its interval overlaps with that of the fastest, so that none is lost to noise.
Numbers of threads are tried for those that are left: which kernels suit a network hardly depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace

from rescompile.bench import statistics
from rescompile.bench.contenders import Configuration, Contender, Request, with_fewer_threads
from rescompile.bench.measuring import Clock, Runs, Timing, measure
from rescompile.bench.results import Candidate, Row
from rescompile.bench.statistics import Interval, WarmUp
from rescompile.diagnostics.errors import CheckFailed, Diagnostic, RescompileError, Unavailable

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


def hopeless(looks: Mapping[Configuration, float], spared: Configuration | None) -> list[Configuration]:
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
        self, title: str, request: Request, accuracy: float, configurations: Sequence[Configuration],
        prepare: Callable[[Configuration], Contender], command: Callable[[Configuration], str],
    ) -> None:  # fmt: skip
        """`title` names what runs: `resnet50 at batch 1`. `prepare` makes a contender whose outputs are checked; `command` is
        the command that measures a configuration. Numbers of threads are tried unless `request` has one."""
        self._title, self._accuracy, self._configurations = title, accuracy, configurations
        self._prepare, self._command = prepare, command
        self._plan, self._clock, self._threads = request.plan, request.clock, request.threads
        self.base = base([each.text for each in configurations])
        spared = (each for each in configurations if (each.text, each.precision) == (self.base, "fp32"))
        self._spared = next(spared, None)
        self._looks: dict[Configuration, float] = {}
        self._least: dict[str, float] = {}
        self.contenders: dict[Configuration, Contender] = {}
        self.dropped: list[Candidate] = []
        self.problems: list[RescompileError] = []

    def run(self) -> Generator[str, None, None]:
        """Leave the best of the ways in `entries`, and the others in `dropped`; yields what is going on."""
        yield from self._tried(self._configurations)
        if not self.contenders:
            self._explain()
            return
        yield from self._raced()
        if self._threads is None:
            more = [other for way in self.contenders for other in with_fewer_threads(way) if way != self._spared]
            if more:
                yield from self._tried(more)
                yield from self._raced()

    def _tried(self, ways: Sequence[Configuration]) -> Generator[str, None, None]:
        """Prepare ways, and let go of those that are refused, not accurate, or hopeless."""
        for way in ways:
            least = self._least.get(way.precision, 0.0)
            if way.precision != "fp32" and least > FAR * self._accuracy:
                self._drop(way, f"not tried: {way.precision} had an error of {least:.1e}")
                continue
            yield f"tries {way.text} in {way.precision}"
            try:
                contender = self._prepare(way)
            except (CheckFailed, Unavailable) as problem:
                self.problems.append(problem)
                self._drop(way, f"refused: {problem.diagnostics[0].message}")
                continue
            self.contenders[way] = contender
            self._least[way.precision] = min(contender.error, self._least.get(way.precision, contender.error))
            if not contender.error <= self._accuracy:  # eager torch as well: who is not exact enough is nobody's best
                self._drop(way, f"error above {self._accuracy:g}")
                continue
            self._looks[way] = look(contender.prepared, self._clock)
            for lost in hopeless(self._looks, self._spared):
                times = self._looks[lost] / min(self._looks.values())
                self._drop(lost, f"hopeless: {times:.1f} times the shortest at first sight", self._looks[lost])

    def _raced(self) -> Generator[str, None, None]:
        """Halve those that are left until there are few."""
        for rounds in RUNGS:
            if len([way for way in self.contenders if way != self._spared]) <= FINALISTS:
                break
            titles = {f"{way.text}, {way.precision}": way for way in self.contenders}
            contenders = {title: self.contenders[way].prepared for title, way in titles.items()}
            timing, plan = Timing(), replace(self._plan, rounds=rounds, warm_up=WARM_UP)
            for done in measure(contenders, plan, timing, self._clock):
                yield f"{len(contenders)} ways, round {done} of {rounds}"
            spared = next((title for title, way in titles.items() if way == self._spared), None)
            kept, medians = halved(timing, titles, spared)
            for title in (title for title in sorted(titles, key=medians.__getitem__) if title not in kept):
                self._drop(titles[title], f"dropped after {rounds} rounds", medians[title], rounds)
            self.contenders = {titles[title]: self.contenders[titles[title]] for title in kept}

    def _explain(self) -> None:
        """Why no way is left: none was exact enough, or else whatever the problems were."""
        errors = [each.error for each in self.dropped if each.error is not None]
        if errors:
            message = f"no way to run {self._title} keeps a relative error of {self._accuracy:g}: the smallest is {min(errors):.2g}"
            help = f"--accuracy {2 * min(errors):.1g} lets it pass"
            self.problems.insert(0, CheckFailed(Diagnostic("E0723", message, help=help)))

    def _drop(self, way: Configuration, fate: str, seconds: float | None = None, rounds: int = 0) -> None:
        contender = self.contenders.pop(way, None)
        self._looks.pop(way, None)
        error = None
        if contender is not None:
            contender.prepared.close()
            error = contender.error
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
