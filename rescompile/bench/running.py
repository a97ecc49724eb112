"""From what was asked for to rows: prepare, hold to float64, time in turns, and give each row what it needs to be believed.

A group is what shares its rounds: one spec with its peers, at one batch, on all runtimes in all precisions. A row whose
outputs are wrong is not made; what is refused is told at the end, after the rows that are right.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rescompile import backend
from rescompile.bench import equivalent, peers, profiling, statistics, tuning
from rescompile.bench.measuring import Clock, Plan, Runs, Timing, measure
from rescompile.bench.models import Model, Reference, digest, form_of, inputs, of_peer, of_spec
from rescompile.bench.results import FORMAT, Control, Missing, Result, Roofline, Row, Tuning, rows_of
from rescompile.diagnostics.errors import CheckFailed, Diagnostic, RescompileError, Unavailable, UsageError, one_of
from rescompile.ir.network import Network
from rescompile.ir.ops import Shape
from rescompile.quantize import quantizer
from rescompile.runtimes import PRECISIONS, RUNTIMES, Job, Prepared, Runtime, device, find, roofline
from rescompile.runtimes.ort_session import brief
from rescompile.runtimes.verify import BITS
from rescompile.version import __version__
from rescompile.weights import Array


@dataclass(frozen=True, slots=True)
class Asked:
    """What to measure: networks with passes, and peers, on runtimes, in precisions and batches. With `tune`, these are the ways
    to try, all of them where there are none."""

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
    tune: tuning.Tune | None = None
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    clock: Clock = time.perf_counter


@dataclass(frozen=True, slots=True)
class Way:
    """A runtime with its options, in a precision."""

    text: str
    runtime: Runtime = field(compare=False)
    options: Mapping[str, str] = field(compare=False)
    precision: str


def ways(asked: Asked) -> tuple[list[Way], list[Missing]]:
    """The combinations of runtimes and precisions that can be measured, and those that cannot, with the reason.

    Raises UsageError for words that are not known, and Unavailable where a runtime cannot be used here, or where a runtime
    or a precision that was asked for would be left without any row.
    """
    given, precisions = asked.runtimes, asked.precisions
    if asked.tune is not None:
        given, precisions = tuning.expanded(given or tuning.here()), precisions or PRECISIONS
    for precision in precisions:
        if precision not in PRECISIONS:
            message = f"there is no precision '{precision}'"
            raise UsageError(Diagnostic("E0802", message, help=f"the precisions are {one_of(PRECISIONS)}"))
    for listed, what in ((asked.runtimes, "runtime"), (asked.precisions, "precision"), (asked.batches, "batch")):
        for item in listed:
            if list(listed).count(item) > 1:
                raise UsageError(Diagnostic("E0802", f"the {what} {item} is given twice"))
    found = [(text, *find(text)) for text in given]
    lacking = {}
    for _, runtime, _ in found:
        reason = runtime.missing()
        if reason is not None:
            message = f"{runtime.name} cannot run here: {reason}"
            lacking[runtime.name] = Diagnostic("E0901", message, help=runtime.how())
    if lacking:
        raise Unavailable(lacking.values())
    there, missing = [], []
    for text, runtime, options in found:
        for precision in precisions:
            why = _unfit(runtime, precision)
            if why is None:
                there.append(Way(text, runtime, options, precision))
            elif precision in asked.precisions:
                missing.append(Missing(text, precision, why))
    bare = [text for text in asked.runtimes if all(way.text != text for way in there)]
    bare += [precision for precision in asked.precisions if all(way.precision != precision for way in there)]
    if bare:
        why = next(each.why for each in missing if bare[0] in (each.runtime, each.precision))
        raise Unavailable(Diagnostic("E0901", f"nothing can be measured for {bare[0]}: {why}"))
    return there, missing


def _unfit(runtime: Runtime, precision: str) -> str | None:
    """Why a runtime does not run a precision."""
    if precision not in runtime.precisions:
        return f"{runtime.name} has {one_of(runtime.precisions)}"
    return None


@dataclass(slots=True)
class Entry:
    """A contender: a model prepared for a way to run it. `passes` are those of what runs: an int8 file has those of its recipe.
    `build` and `first` are the seconds that its first preparation and its first run took, `error` is the largest so far."""

    model: Model
    way: Way
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


class Bench:
    """A benchmark under way. `result` has the rows so far at any time; `problems` are the errors behind missing ones."""

    def __init__(self, asked: Asked, say: Callable[[str], None]) -> None:
        self._asked = asked
        self._ways, missing = ways(asked)
        self._roofs: dict[tuple[str, str, int | None], roofline.Roofline] = {}
        for each in missing:
            say(f"{each.runtime} in {each.precision} is left out: {each.why}")
        self.problems: list[RescompileError] = []
        plan = asked.plan
        self.result = Result(
            FORMAT, __version__, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), list(asked.command), device.describe(),
            {"sittings": plan.sittings, "rounds": plan.rounds, "turn_seconds": plan.turn, "most_runs": plan.runs, "seed": plan.seed,
             "threads": asked.threads, "level": statistics.LEVEL, "resamples": statistics.RESAMPLES,
             "clock": asked.clock.__name__},
            [], [], missing,
        )  # fmt: skip

    def titles(self) -> dict[str, list[str]]:
        """What the rows of each network may be called, as MODEL@RUNTIME: with `tune`, those of all ways that are tried."""
        asked, ways = self._asked, list(self._ways)
        if asked.tune is not None and asked.threads is None:
            ways += [other for way in self._ways for other in tuning.threaded(way, device.usable())]
        runtimes = list(dict.fromkeys(way.text for way in ways))
        found = {}
        for network in asked.networks:
            models = [network.name, *(f"{network.name} {label}" for label in asked.beside), *self._peers(network)]
            found[network.name] = [f"{model}@{runtime}" for model in models for runtime in runtimes]
        return found

    def run(self) -> Generator[str, None, None]:
        """Measure group by group; yields what is going on. When this is left, by an interruption too, `result` holds the
        rows that were finished."""
        asked = self._asked
        made: dict[tuple[str, Shape], Model] = {}
        for text in asked.peers:
            peers.found(text)
        try:
            with ExitStack() as stack:
                folder = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
                for network in asked.networks:
                    yield f"{network.name}: weights and references"
                    seed, shape = asked.plan.seed, network.input
                    models = [of_spec(network, asked.passes, seed)]
                    models += [
                        of_spec(network, {**asked.passes, **more}, seed, label) for label, more in asked.beside.items()
                    ]
                    for text in self._peers(network):
                        try:
                            if (text, shape) not in made:
                                made[text, shape] = of_peer(text, shape, seed, asked.exporter)
                            models.append(made[text, shape])
                        except UsageError as problem:  # it takes other inputs; the other specs may be for them
                            self._refused(problem, [(way.text, way.precision) for way in self._ways])
                    for batch in asked.batches:
                        yield from self._group(models, batch, folder)
        except (KeyboardInterrupt, GeneratorExit):
            self.result = replace(self.result, interrupted=True)
            raise

    def _peers(self, network: Network) -> list[str]:
        """The peers of a spec: those of its name, and those that have the name of no spec that was asked for."""
        others = {each.name for each in self._asked.networks} - {network.name}
        return [text for text in self._asked.peers if text.partition(":")[2] not in others]

    def _group(self, models: Sequence[Model], batch: int, folder: Path) -> Iterator[str]:
        """Measure all contenders of a group in the same rounds, and make their rows."""
        group, plan = models[0].name, self._asked.plan
        x = inputs(models[0].input, batch, plan.seed)
        entries: dict[str, Entry] = {}
        timing = Timing()
        with ExitStack() as stack:
            race = None
            for model in models:
                reference = self._reference(model, x)
                if reference is None:
                    continue
                if self._asked.tune is not None:
                    race = self._race(self._asked.tune, model, x, reference, folder, stack)
                    for doing in self._guarded(race.run(), group, batch):
                        yield f"{group}, batch {batch}: {doing}"
                    entries = {f"{model.name} on {w.text}, {w.precision}": e for w, e in race.entries.items()}
                    continue
                for way in self._ways:
                    yield f"{group}, batch {batch}: {model.name} on {way.text}, {way.precision}"
                    try:
                        entry = self._entry(model, way, x, reference, folder, stack)
                    except (CheckFailed, Unavailable) as problem:
                        self._refused(problem, [(way.text, way.precision)])
                    else:
                        entries[f"{model.name} on {way.text}, {way.precision}"] = entry
            if not entries:
                if race is not None:
                    self.problems.extend(race.problems[:1])
                    self._tuned(race, group, batch)
                return
            limits = {title: self._limit(entry, batch) for title, entry in entries.items()}
            before = device.state()
            try:
                for done in self._guarded(self._sittings(entries, timing, stack), group, batch):
                    yield f"{group}, batch {batch}: {done}"
            except (KeyboardInterrupt, GeneratorExit):
                self._rows(group, batch, entries, timing, before, limits)
                raise
            self._rows(group, batch, entries, timing, before, limits)
            if race is not None:
                self._tuned(race, group, batch)
            if self._asked.profile:
                yield f"{group}, batch {batch}: profiles"
                self._profile(group, batch, entries)

    def _sittings(self, entries: dict[str, Entry], timing: Timing, stack: ExitStack) -> Iterator[str]:
        """Time contenders that are prepared, and as often as there are more sittings prepare them anew, in another order, and time
        them again. What was prepared is closed by `stack`; who is refused this time is taken out of `entries`."""
        plan = self._asked.plan
        titles = [*entries, *([_CONTROL] if self._asked.control else [])]
        draw = random.Random(plan.seed)
        contenders: dict[str, Runs] = {title: entry.prepared for title, entry in entries.items()}
        for sitting in range(plan.sittings):
            if sitting:
                stack.close()
                contenders.clear()
                draw.shuffle(titles)
            for title in [title for title in titles if title not in contenders]:
                if title not in titles:  # a control whose first copy was refused
                    continue
                entry = entries.get(title) or next(iter(entries.values()))
                try:
                    prepared = stack.enter_context(closing(entry.way.runtime.prepare(entry.job, entry.way.options)))
                except (CheckFailed, Unavailable) as problem:
                    self._leaves(title, problem, titles, entries, timing)
                    continue
                contenders[title] = prepared
                if title in entries:
                    entry.prepared = prepared
            if not entries:
                return
            which = f"sitting {sitting + 1} of {plan.sittings}, " if plan.sittings > 1 else ""
            try:
                for done in measure({title: contenders[title] for title in titles}, plan, timing, self._asked.clock):
                    yield f"{which}round {done} of {plan.rounds}"
            except (KeyboardInterrupt, GeneratorExit):
                _hold(entries.values())
                raise
            _hold(entries.values())

    def _leaves(
        self, title: str, problem: RescompileError, titles: list[str], entries: dict[str, Entry], timing: Timing
    ) -> None:
        """Take out a contender that could not be prepared again. Without one of its two copies there is no control."""
        way = entries[title].way if title in entries else None
        self._refused(problem, [] if way is None else [(way.text, way.precision)])
        gone = {title, *([_CONTROL] if title == next(iter(entries)) else [])}
        titles[:] = [each for each in titles if each not in gone]
        entries.pop(title, None)
        for turns in timing.rounds:
            for each in gone:
                turns.pop(each, None)

    def _guarded(self, steps: Iterator[Any], group: str, batch: int) -> Iterator[Any]:
        """Steps in which others' code is timed: raises Unavailable where that fails."""
        try:
            yield from steps
        except (RescompileError, MemoryError):
            raise
        except Exception as error:  # somebody else's code: a device that is gone, a kernel that fails
            message = f"a runtime failed while {group} was timed at batch {batch}: {brief(error)}"
            raise Unavailable(Diagnostic("E0901", message)) from None

    def _race(
        self, tune: tuning.Tune, model: Model, x: Array, reference: Reference, folder: Path, stack: ExitStack
    ) -> tuning.Race:
        """The search for the fastest way of a network."""

        def enter(way: Way) -> Entry:
            return self._entry(model, way, x, reference, folder, stack)

        def command(way: Way) -> str:
            return tune.command(model.name, way.text, way.precision, len(x))

        asked = self._asked
        title = f"{model.name} at batch {len(x)}"
        return tuning.Race(title, tune, self._ways, enter, command, asked.plan, asked.clock, asked.threads)

    def _tuned(self, race: tuning.Race, group: str, batch: int) -> None:
        """What came out of a search: the rows that were measured to the end, and all that was dropped before."""
        tune = self._asked.tune
        assert tune is not None
        rows = rows_of(self.result, group, batch)
        control = self.result.control(rows[0]) if rows else None
        found = tuning.finished(
            rows, control, lambda row: tune.command(row.model, row.runtime, row.precision, row.batch)
        )
        best = found[0] if len(tuning.fastest(rows, control)) == 1 else None
        self.result.tunings.append(Tuning(group, batch, tune.accuracy, race.base, best, [*found, *race.dropped]))

    def _reference(self, model: Model, x: Array) -> Reference | None:
        try:
            return Reference(model, x)
        except CheckFailed as error:
            self._refused(error, [(way.text, way.precision) for way in self._ways])
            return None

    def _entry(self, model: Model, way: Way, x: Array, reference: Reference, folder: Path, stack: ExitStack) -> Entry:
        """A contender that is held to float64. Raises CheckFailed where its outputs are wrong, and Unavailable where it does
        not run as it was asked to."""
        runtime, precision = way.runtime, way.precision
        reference.hold(precision)
        file = model.write(folder, x, form_of(runtime.name, precision)) if runtime.takes == "onnx" else None
        job = Job(model.name, file, model.module, x, precision, self._asked.threads)
        self._measure_of(precision, runtime.device, reference, job)
        prepared = stack.enter_context(closing(runtime.prepare(job, way.options)))
        error, bound = reference.error(prepared.outputs()), reference.bound(precision)
        if not error <= bound:
            raise CheckFailed(_wrong(model.name, way, error, bound))
        recorded = None if file is None else backend.extract(file)
        return Entry(
            model, way, prepared, reference, file, digest(file) if file else None,
            model.passes if recorded is None else recorded.passes, job, error, bound,
            prepared.build_seconds, prepared.first_seconds,
        )  # fmt: skip

    def _measure_of(self, precision: str, where: str, reference: Reference, job: Job) -> None:
        """Run what tells which error is to be expected in a precision: eager torch, where it has it, or an int8 file with its
        sums taken in floats."""
        if precision == "int8" and not reference.knows(precision):
            assert job.model is not None
            reference.known(precision, quantizer.simulated(job.model, job.input))
        eager = RUNTIMES[f"torch-{where}"]
        if reference.knows(precision) or precision not in eager.precisions or eager.missing() is not None:
            return
        with closing(eager.prepare(job, {})) as prepared:
            reference.known(precision, prepared.outputs())

    def _refused(self, error: RescompileError, which: Sequence[tuple[str, str]]) -> None:
        self.problems.append(error)
        why = error.diagnostics[0].message
        self.result.missing.extend(Missing(text, precision, why) for text, precision in which)

    def _limit(self, entry: Entry, batch: int) -> Roofline | None:
        """The least time of a network of ours on this device, which is measured once for each precision."""
        if entry.model.network is None:
            return None
        key = entry.way.runtime.device, entry.way.precision, entry.prepared.facts.get("threads")
        if key not in self._roofs:
            self._roofs[key] = roofline.measure(*key)
        roof = self._roofs[key]
        found = roofline.limit(entry.model.network, batch, roof)
        if found is None or roof.product is None:
            return None
        return Roofline(found.seconds, 0.0, roof.copies[max(roof.copies)].best, roof.product.best)

    def _rows(
        self, group: str, batch: int, entries: Mapping[str, Entry], timing: Timing, before: dict[str, Any],
        limits: Mapping[str, Roofline | None],
    ) -> None:  # fmt: skip
        """The rows of a group whose outputs stayed right. An interrupted one with too few rounds for an interval has none."""
        sittings = timing.whole(self._asked.plan)
        if len(timing.rounds) < statistics.LEAST_ROUNDS:
            return
        after, seed = device.state(), self._asked.plan.seed
        for title, entry in entries.items():
            if not entry.error <= entry.bound:
                wrong = CheckFailed(_wrong(entry.model.name, entry.way, entry.error, entry.bound))
                self._refused(wrong, [(entry.way.text, entry.way.precision)])
                continue
            samples = timing.samples(title)
            summary = statistics.summarise(samples, batch, seed, sittings)
            model, way, facts, limit = (
                entry.model,
                entry.way,
                {**entry.model.facts, **entry.prepared.facts},
                limits[title],
            )
            self.result.rows.append(
                Row(
                    group, model.name, way.text, way.precision, batch, model.sha256, entry.artifact, list(entry.passes),
                    model.parameters, model.macs, entry.build, entry.first,
                    len(timing.warm_up[title]), timing.settled[title], samples, summary, entry.error, entry.bound, facts, before, after,
                    None if limit is None else replace(limit, fraction=limit.limit / summary.p50), None,
                    equivalent.lines(way.runtime.name, way.precision, entry.file, facts), sittings,
                )
            )  # fmt: skip
        if _CONTROL in timing.rounds[0]:
            first, second = (
                statistics.table(timing.samples(title), sittings) for title in (next(iter(entries)), _CONTROL)
            )
            found = statistics.ratio(second, first, seed)
            self.result.controls.append(Control(group, batch, next(iter(entries)), found, timing.samples(_CONTROL)))

    def _profile(self, group: str, batch: int, entries: Mapping[str, Entry]) -> None:
        """Give the rows of our own networks the shares of their blocks."""
        for at, row in enumerate(self.result.rows):
            entry = entries.get(f"{row.model} on {row.runtime}, {row.precision}")
            if entry is None or entry.model.network is None or (row.group, row.batch) != (group, batch):
                continue
            try:
                nodes = entry.way.runtime.profile(entry.job, entry.way.options)
            except Unavailable as problem:  # the row is right without its shares
                self.problems.append(problem)
                continue
            self.result.rows[at] = replace(row, profile=profiling.shares(entry.model.network, nodes))


#: The name of the control among contenders.
_CONTROL = "the control"


def _hold(entries: Iterable[Entry]) -> None:
    """Hold the outputs of the last timed run to float64 as well."""
    for entry in entries:
        entry.error = max(entry.error, entry.reference.error(entry.prepared.outputs()))


def _wrong(name: str, way: Way, error: float, bound: float) -> Diagnostic:
    message = (
        f"{name} on {way.text} in {way.precision} computes something else: its error against float64 is {error:.2g}, "
        f"and at most {bound:.2g} is rounding"
    )
    help = "its time says nothing"
    if way.precision in BITS:
        help += "; 'rescompile verify' finds the first part that differs"
    return Diagnostic("E0721", message, help=help)
