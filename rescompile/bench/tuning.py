"""Searches for the fastest configuration of a network: the candidates, the elimination of slow ones, and the final ranking.

Configurations are dropped by successive halving (Jamieson and Talwalkar 2016): all get a few rounds, the faster half gets more.
A slower configuration remains if its interval overlaps that of the fastest, so that noise eliminates none. Numbers of threads
are tried for the remaining ones only, since they hardly affect which kernels are best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace

from rescompile.bench import statistics
from rescompile.bench.contenders import Configuration, Contender, Request, with_fewer_threads
from rescompile.bench.measuring import Step, Timing, measure, timed
from rescompile.bench.results import BenchRow, Candidate
from rescompile.bench.statistics import Interval, WarmUp
from rescompile.diagnostics.errors import CheckFailed, RescompileError, Unavailable

#: The default limit of the relative error against float64; bfloat16 stays below it in most networks.
ACCURACY = 1e-2
#: Runtimes whose eager fp32 run is the baseline of speed-ups, the preferred one first.
BASES = ("torch-cuda", "torch-cpu")
#: The rounds of each halving.
RUNGS = (statistics.LEAST_ROUNDS, 2 * statistics.LEAST_ROUNDS, 4 * statistics.LEAST_ROUNDS)
#: The number of configurations that are measured to the end.
FINALISTS = 3
#: The error in a lower precision comes mostly from the precision itself: once the smallest error is this many times the allowed
#: one, the precision is not tried again. torch and OpenVINO in bfloat16 differed by at most 2.1 in 16 networks.
FAR = 3.0
#: The number of runs of a candidate before the rounds; the shortest one counts.
FIRST_RUNS = 5
#: Drop candidates this many times slower than the fastest first run: far more than any noise.
HOPELESS = 3.0
#: Halving does not need a stable clock speed, since its rounds are interleaved.
WARM_UP = WarmUp(window=2, tolerance=0.05, runs=20, seconds=2.0)


def base(runtimes: Sequence[str]) -> str | None:
    """Return the runtime whose eager fp32 run is the baseline of speed-ups."""
    return next((name for name in BASES if name in runtimes), None)


def hopeless(first_times: Mapping[Configuration, float], spared: Configuration | None) -> list[Configuration]:
    """Return the configurations that took HOPELESS times as long as the fastest, except the baseline."""
    least = min(first_times.values(), default=0.0)
    return [each for each, seconds in first_times.items() if seconds > HOPELESS * least and each != spared]


def halved(timing: Timing, titles: Iterable[str], spared: str | None) -> tuple[list[str], dict[str, float]]:
    """Return the titles that continue after a halving, the fastest first: the faster half, those whose interval overlaps
    that of the fastest, and the baseline. The medians of all titles are returned as well."""
    medians = {title: statistics.median(statistics.table(timing.samples(title))) for title in titles}
    order = sorted(medians, key=lambda title: medians[title].value)
    raced = [title for title in order if title != spared]
    half = raced[: max((len(raced) + 1) // 2, min(FINALISTS, len(raced)))]
    kept = [t for t in order if t in half or t == spared or medians[t].overlaps(medians[order[0]])]
    return kept, {title: median.value for title, median in medians.items()}


class Race:
    """The search among the configurations of one network at one batch, from all candidates to the few that are measured to
    the end."""

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
        self._first_times: dict[Configuration, float] = {}
        self._least_errors: dict[str, float] = {}
        self.contenders: dict[Configuration, Contender] = {}
        self.dropped: list[Candidate] = []
        self.problems: list[RescompileError] = []

    def run(self) -> Generator[Step, None, None]:
        """Leave the best configurations in `contenders` and the others in `dropped`; yields the progress."""
        yield from self._try(self._configurations)
        if not self.contenders:
            self._explain()
            return
        yield from self._halve()
        if self._threads is None:
            more = [fewer for each in self.contenders for fewer in with_fewer_threads(each) if each != self._spared]
            if more:
                yield from self._try(more)
                yield from self._halve()

    def _try(self, configurations: Sequence[Configuration]) -> Generator[Step, None, None]:
        """Prepare configurations, and drop those that are refused, not accurate, or hopeless."""
        for at, each in enumerate(configurations):
            least = self._least_errors.get(each.precision, 0.0)
            if each.precision != "fp32" and least > FAR * self._accuracy:
                self._drop(each, f"skipped: {each.precision} error is {least:.1e}")
                continue
            yield Step(f"trying {each}", at, len(configurations))
            try:
                contender = self._prepare(each)
            except (CheckFailed, Unavailable) as problem:
                self.problems.append(problem)
                self._drop(each, f"failed: {problem.diagnostics[0].message}")
                continue
            self.contenders[each] = contender
            self._least_errors[each.precision] = min(contender.error, self._least_errors.get(each.precision, math.inf))
            if not contender.error <= self._accuracy:  # also for the baseline, which could not be the best
                self._drop(each, f"error above {self._accuracy:g}")
                continue
            self._first_times[each] = min(timed(contender.prepared, self._clock) for _ in range(FIRST_RUNS))
            for slow in hopeless(self._first_times, self._spared):
                times = self._first_times[slow] / min(self._first_times.values())
                self._drop(slow, f"dropped: first run {times:.1f}x slower than the fastest", self._first_times[slow])

    def _halve(self) -> Generator[Step, None, None]:
        """Halve the remaining configurations until there are few."""
        for rounds in RUNGS:
            if len([each for each in self.contenders if each != self._spared]) <= FINALISTS:
                break
            titles = {f"{each.text}, {each.precision}": each for each in self.contenders}
            raced = {title: self.contenders[each].prepared for title, each in titles.items()}
            timing, plan = Timing(), replace(self._plan, rounds=rounds, warm_up=WARM_UP)
            for done in measure(raced, plan, timing, self._clock):
                yield Step(f"{len(raced)} configurations, round {done} of {rounds}", done, rounds)
            spared = next((title for title, each in titles.items() if each == self._spared), None)
            kept, medians = halved(timing, titles, spared)
            for title in (title for title in sorted(titles, key=medians.__getitem__) if title not in kept):
                self._drop(titles[title], f"dropped after {rounds} rounds", medians[title], rounds)
            self.contenders = {titles[title]: self.contenders[titles[title]] for title in kept}

    def _explain(self) -> None:
        """Report that no configuration is accurate enough, if this is why none is left; other reasons are already among the
        problems."""
        errors = [each.error for each in self.dropped if each.error is not None]
        if errors:
            message = (
                f"no configuration of {self._title} has a relative error of at most {self._accuracy:g}: "
                f"the smallest is {min(errors):.2g}"
            )
            help = f"--accuracy {2 * min(errors):.1g} would accept it"
            self.problems.insert(0, CheckFailed.of("E0723", message, help=help))

    def _drop(self, configuration: Configuration, fate: str, seconds: float | None = None, rounds: int = 0) -> None:
        contender = self.contenders.pop(configuration, None)
        self._first_times.pop(configuration, None)
        if contender is not None:
            contender.prepared.close()
        error = None if contender is None else contender.error
        text, precision, command = configuration.text, configuration.precision, self._command(configuration)
        self.dropped.append(Candidate(text, precision, fate, command, rounds, seconds, error))


def fastest(rows: Sequence[BenchRow], control: Interval | None) -> list[BenchRow]:
    """Return the row with the smallest median, and those whose difference from it is not significant, in the order of their
    medians."""
    order = sorted(rows, key=lambda row: row.summary.p50)
    if not order:
        return []
    first, *others = order
    return [first, *(row for row in others if statistics.speed_up(first.times, row.times, control) is None)]


def finished(rows: Sequence[BenchRow], control: Interval | None, command: Callable[[BenchRow], str]) -> list[Candidate]:
    """Return the candidates that were measured to the end, the fastest first."""
    best = fastest(rows, control)
    fates = {id(row): "no significant difference from the fastest" for row in best[1:]}
    if best:
        fates[id(best[0])] = "fastest" if len(best) == 1 else "smallest median"
    return [
        Candidate(
            row.runtime, row.precision, fates.get(id(row), "slower"), command(row), len(row.samples), row.summary.p50,
            row.error,
        )
        for row in sorted(rows, key=lambda row: row.summary.p50)
    ]  # fmt: skip
