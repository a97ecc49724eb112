"""`bench` and `compare`: statistics of data with known answers, and every case in which a figure must not be
reported."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

import rescompile
from rescompile.bench import (
    comparing,
    equivalent_commands,
    json_files,
    peers,
    preparing,
    profiling,
    report,
    results,
    statistics,
    timed_models,
)
from rescompile.bench.benchmark import Bench
from rescompile.bench.contenders import Request
from rescompile.bench.measuring import Plan, Timing, measure
from rescompile.bench.reference import Reference
from rescompile.bench.results import BenchRow, Control, Missing, Result, Roofline, Share
from rescompile.bench.statistics import Interval, WarmUp
from rescompile.cli import app
from rescompile.diagnostics.errors import UsageError
from rescompile.diagnostics.text_table import text_table
from rescompile.runtimes import RUNTIMES, Job, Runtime, device, roofline

ROOT = Path(__file__).parents[2]
NET = "resnet20_cifar"


pytest.importorskip("scipy", reason="intervals need SciPy: pip install 'rescompile[bench]'")


def times(median: float, seed: int = 0, rounds: int = 30, runs: int = 3, noise: float = 0.01) -> list[list[float]]:
    """Return random samples around a median."""
    drawn = np.random.default_rng(seed).normal(0, noise, (rounds, runs))
    return [[float(value) for value in row] for row in median * np.exp(drawn)]


# --- statistics -------------------------------------------------------------------------------------------------------


def test_percentiles_are_those_of_numpy() -> None:
    """Percentiles are numpy's, and the throughput is the batch over the median."""
    samples = np.random.default_rng(1).lognormal(size=(40, 5))
    found = statistics.summarise(samples.tolist(), 8)
    assert [found.p50, found.p90, found.p95, found.p99] == pytest.approx(np.percentile(samples, (50, 90, 95, 99)))
    assert found.median.value == found.p50
    assert found.throughput == pytest.approx(8 / np.median(samples))
    assert (found.count, found.minimum, found.mean) == pytest.approx((200, samples.min(), samples.mean()))


def test_quantiles_of_student() -> None:
    """The quantiles of Student's t match published tables."""
    for freedom, quantile in (
        (1, 12.706),
        (2, 4.303),
        (3, 3.182),
        (4, 2.776),
        (9, 2.262),
        (29, 2.045),
        (np.inf, 1.960),
    ):
        assert statistics._student(freedom) == pytest.approx(quantile, abs=5e-4)


def coverage(monkeypatch: pytest.MonkeyPatch, rounds: int, correlation: float) -> tuple[float, float]:
    """Return the fractions of intervals, of a median and of a ratio, that contain the true value of 1 when each
    round depends on the previous one."""
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    generator = np.random.default_rng(7)
    trials = 200

    def drawn() -> Any:
        steps = generator.standard_normal(rounds + 30)
        for at in range(1, len(steps)):
            steps[at] += correlation * steps[at - 1]
        scale = 0.05 * np.sqrt(1 - correlation**2)
        return np.exp(scale * steps[30:, None] + 0.02 * generator.standard_normal((rounds, 2)))

    hits = np.zeros(2)
    for seed in range(trials):
        ours, base = drawn(), drawn()
        for at, found in enumerate((statistics.median(ours, seed), statistics.ratio(ours, base, seed))):
            hits[at] += found.low <= 1 <= found.high
    return tuple(hits / trials)


@pytest.mark.parametrize(("rounds", "correlation", "least"), [(10, 0.0, 0.92), (30, 0.0, 0.92), (30, 0.5, 0.85)])
def test_intervals_contain_the_true_value(
    rounds: int, correlation: float, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intervals contain the true value about as often as they claim, and are narrow enough to be useful."""
    for share in coverage(monkeypatch, rounds, correlation):
        assert least <= share
    if rounds == 30:
        assert statistics.median(statistics.table(times(1.0, noise=0.05))).half_width < 0.02


def test_intervals_of_sessions_contain_the_true_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each preparation shifts a contender by about 1%, intervals over five sessions contain the true values as
    often as they claim, and intervals of the same rounds in one session do not."""
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    generator = np.random.default_rng(5)
    trials, hits = 300, np.zeros(4)

    def drawn(value: float, together: Any) -> Any:
        apart = generator.normal(0, 0.01, (5, 1, 1))
        return value * np.exp(together + apart + generator.normal(0, 0.002, (5, 8, 2)))

    for _ in range(trials):
        together = generator.normal(0, 0.05, (5, 1, 1))  # affects both, as the clock frequency does
        ours, base, other = (
            drawn(1.02, together),
            drawn(1.0, together),
            drawn(1.0, generator.normal(0, 0.05, (5, 1, 1))),
        )
        paired, single = statistics.ratio(ours, base), statistics.ratio(*(t.reshape(40, 2) for t in (ours, base)))
        found = (statistics.median(ours), paired, statistics.unpaired_ratio(ours, other), single)
        for at, (interval, value) in enumerate(zip(found, (1.02, 1.02, 1.02, 1.02), strict=True)):
            hits[at] += interval.low <= value <= interval.high
    assert (abs(hits[:3] / trials - 0.95) < 0.04).all(), hits / trials
    assert hits[3] / trials < 0.9
    assert paired.half_width < 0.04 < found[2].half_width


def test_a_speed_up_of_sessions_that_drift() -> None:
    """A difference of 2% is reported where each session shows it, however far the sessions drift apart, and not where
    only some do."""
    generator = np.random.default_rng(11)
    together = generator.normal(0, 0.05, (5, 1, 1))
    ours, base = (m * np.exp(together + generator.normal(0, 0.002, (5, 8, 2))) for m in (1.0, 1.02))
    assert statistics.median(ours).overlaps(statistics.median(base))
    assert statistics.speed_up(ours, base) == pytest.approx(1.02, rel=0.005)
    mixed = ours * np.array([1.02, 0.99, 1.01, 0.98, 1.0]).reshape(5, 1, 1)
    assert statistics.speed_up(mixed, ours) is None


def test_rounds_must_be_divisible_into_sessions() -> None:
    """The number of rounds must be divisible by that of sessions, and paired ratios need equally many rounds."""
    made = times(1.0, rounds=30)
    assert statistics.table(made, 5).shape == (5, 6, 3)
    assert (statistics.table(made, 5).reshape(30, 3) == statistics.table(made)).all()
    with pytest.raises(ValueError, match="30 rounds cannot be divided into 4"):
        statistics.table(made, 4)
    with pytest.raises(ValueError, match="the same number of rounds"):
        statistics.ratio(statistics.table(made, 5), statistics.table(made, 6))
    mixed = statistics.unpaired_ratio(statistics.table(made, 5), statistics.table(made))
    assert mixed == statistics.unpaired_ratio(statistics.table(made), statistics.table(made))


def test_a_paired_ratio_cancels_differences_between_rounds() -> None:
    """Rounds that differ by half leave a paired ratio of 1.1 accurate to a percent; the unpaired interval is far
    wider."""
    generator = np.random.default_rng(3)
    slow = np.exp(generator.normal(0, 0.5, (30, 1)))
    ours, base = (m * slow * np.exp(generator.normal(0, 0.005, (30, 2))) for m in (1.1, 1.0))
    paired, apart = statistics.ratio(ours, base), statistics.unpaired_ratio(ours, base)
    assert paired.low <= 1.1 <= paired.high
    assert paired.half_width < 0.08
    assert apart.half_width > 3 * paired.half_width
    with pytest.raises(ValueError, match="the same number of rounds"):
        statistics.ratio(ours, base[1:])


def test_an_interval_of_a_ratio_is_within_the_ratios_of_all_samples() -> None:
    """With five rounds, one of them six times as fast, the interval is within the smallest and largest ratio of two samples."""
    times = np.array([[14.36], [14.73], [14.43], [14.49], [2.38]])
    for found in (statistics.unpaired_ratio(times, times), statistics.unpaired_ratio(times[::-1], times)):
        assert 2.38 / 14.73 <= found.low <= found.value == 1 <= found.high <= 14.73 / 2.38
    paired = statistics.ratio(times[::-1], times)
    assert 2.38 / 14.73 <= paired.low <= 1 <= paired.high <= 14.73 / 2.38


def test_the_same_samples_give_the_same_interval() -> None:
    """The same seed gives the same interval, and different seeds give different ones."""
    made = statistics.table(times(1.0))
    assert statistics.median(made, 3) == statistics.median(made, 3)
    assert len({statistics.median(made, seed) for seed in range(8)}) > 1


@pytest.mark.parametrize(
    ("ours", "control", "wanted"),
    [
        (1.0, None, 2.0),
        (1.0, Interval(1.0, 0.99, 1.01), 2.0),
        (1.0, Interval(1.0, 0.9, 1.1), None),  # too wide
        (1.0, Interval(1.04, 1.03, 1.05), None),  # too far from 1
        (1.999, None, None),  # within the noise
        (4.0, None, 0.5),  # a slow-down
    ],
)
def test_a_speed_up_is_reported_only_if_significant(ours: float, control: Any, wanted: float | None) -> None:
    """No speed-up is reported where intervals overlap or the control is poor."""
    found = statistics.speed_up(statistics.table(times(ours, 1)), statistics.table(times(2.0, 2)), control)
    assert found == (None if wanted is None else pytest.approx(wanted, rel=0.02))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([[1.0]] * 4, "at least 5"),
        ([[1.0]] * 5 + [[1.0, 2.0]], "the same number of runs"),
        ([[]] * 6, "at least one"),
        ([[1.0]] * 5 + [[0.0]], "positive"),
        ([[1.0]] * 5 + [[float("inf")]], "finite"),
    ],
)
def test_invalid_samples_are_refused(samples: Sequence[Sequence[float]], message: str) -> None:
    """Samples that allow no statistics (too few, ragged, or not positive and finite) are refused."""
    with pytest.raises(ValueError, match=message):
        statistics.table(samples)


def test_a_warm_up_ends_when_it_is_stable() -> None:
    """A warm-up ends once times are stable, and gives up after its limits if they never are."""
    until = WarmUp(window=5, tolerance=0.02, runs=100)
    falling = [1 + 0.5 ** (at / 3) for at in range(100)]
    end = next(count for count in range(100) if until.stable(falling[:count]))
    assert 15 < end < 40
    assert falling[end] < 1.05
    rising = [1.2**at for at in range(100)]
    assert not any(until.stable(rising[:count]) for count in range(100))
    assert until.over(rising)
    assert until.over([20.0])  # a single run of 20 seconds
    assert not until.over([1e-3] * 5)


# --- measuring --------------------------------------------------------------------------------------------------------


class Scripted:
    """Contenders with given times and a clock that only their runs advance; `log` records the order of runs."""

    def __init__(self, lengths: Mapping[str, float]) -> None:
        self.now, self.log = 0.0, []  # type: float, list[str]
        self.contenders = {name: SimpleNamespace(run=self._runner(name, length)) for name, length in lengths.items()}

    def _runner(self, name: str, length: float) -> Callable[[], None]:
        def run() -> None:
            self.log.append(name)
            self.now += length

        return run

    def clock(self) -> float:
        """Return the total time of the runs so far."""
        return self.now


@pytest.mark.slow
def test_rounds() -> None:
    """Every contender has one slot in each round, in a changing order, with one untimed run and some timed ones."""
    made, timing = Scripted({"a": 0.001, "b": 0.003, "c": 0.1}), Timing()
    plan = Plan(rounds=20, slot=0.01, runs=8)
    steps = measure(made.contenders, plan, timing, made.clock)
    assert next(steps) == 0
    assert timing.settled == {"a": True, "b": True, "c": True}
    made.log.clear()
    assert list(steps) == list(range(1, 21))
    for name, count, length in (("a", 8, 0.001), ("b", 4, 0.003), ("c", 1, 0.1)):
        assert np.allclose(timing.samples(name), length)
        assert np.shape(timing.samples(name)) == (20, count)
        assert made.log.count(name) == 20 * (count + 1)
    orders = [tuple(turns) for turns in timing.rounds]
    assert len(set(orders)) > 3
    assert all(orders[at] == orders[at + 1][::-1] for at in range(0, 20, 2))
    again = Timing()
    other = Scripted({"a": 0.001, "b": 0.003, "c": 0.1})
    list(measure(other.contenders, plan, again, other.clock))
    assert [tuple(turns) for turns in again.rounds] == orders


def test_an_interruption_leaves_whole_rounds() -> None:
    """After an interruption, the samples consist of complete rounds, and garbage collection is enabled again."""
    made, timing = Scripted({"a": 0.001, "b": 0.001}), Timing()
    right, left = made.contenders["b"].run, 60

    def stopped() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        right()

    made.contenders["b"].run = stopped
    with pytest.raises(KeyboardInterrupt):
        list(measure(made.contenders, Plan(rounds=50, slot=0.002), timing, made.clock))
    assert 5 < len(timing.rounds) < 50
    assert len(timing.samples("a")) == len(timing.samples("b")) == len(timing.rounds)
    import gc

    assert gc.isenabled()


# --- result files -----------------------------------------------------------------------------------------------------


def row(runtime: str = "ort-cpu", median: float = 0.01, seed: int = 0, **facts: Any) -> BenchRow:
    """Return a row with samples around a median."""
    samples = times(median, seed)
    made = BenchRow(
        NET, NET, runtime, "fp32", 8, "0" * 64, None, [], 269722, 40551040, 0.1, 0.02, 10, True, samples,
        statistics.summarise(samples, 8), 1e-6, 3e-6, {"versions": {"x": "1"}}, {}, {}, Roofline(0.004, 0.4, 1e10, 1e11),
        [Share("layer1", 0.001, 0.5, 0.6)], ["onnxruntime_perf_test"],
    )  # fmt: skip
    return dataclasses.replace(made, **facts)


def result(*rows: BenchRow, name: str = "CPU 9000", **facts: Any) -> Result:
    """Return a result with these rows."""
    machine = {"processor": {"name": name, "usable": 8}, "gpus": [], "libraries": {"numpy": "2"}}
    return Result(1, "0.1.0", "2026-01-01T00:00:00Z", ["rescompile", "bench"], machine, {}, list(rows), **facts)


WHOLE = result(
    row(), row("torch-cpu", 0.02, 1), controls=[Control(NET, 8, "x", Interval(1.0, 0.99, 1.01), times(0.01, 2))],
    missing=[Missing("ort-cpu", "bf16", "why")],
)  # fmt: skip


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Reading a written result gives the same result, bit for bit."""
    path = tmp_path / "result.json"
    json_files.write(WHOLE, path)
    assert results.read(path) == WHOLE


def test_the_schema_describes_result_files(tmp_path: Path) -> None:
    """The schema is up to date, accepts what is written, and rejects what the reader rejects."""
    jsonschema = pytest.importorskip("jsonschema", reason="a development dependency")
    spec = importlib.util.spec_from_file_location("make_bench_schema", ROOT / "docs" / "make_bench_schema.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text("utf-8")
    assert text == module.schema_text(), "run python docs/make_bench_schema.py"
    validator = jsonschema.Draft7Validator(json.loads(text))
    json_files.write(WHOLE, tmp_path / "result.json")
    data = json.loads((tmp_path / "result.json").read_text())
    validator.validate(data)
    for change in ({"rows": [{}]}, {"bench": 2}, {"extra": 1}, {"interrupted": "no"}):
        assert not validator.is_valid({**data, **change})


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ('"bench": 1,', '"bench": 1', "invalid JSON", True),
        ('"bench": 1,', '"bench": 2,', "its format is 2, not 1", False),
        ('"bench": 1,', "", "no key 'bench'", False),
        ('"batch": 8', '"batch": "8"', "must be an integer, but is a string", True),
        ('"batch": 8', '"bacth": 8', "unknown key 'bacth'", True),
        ('"batch": 8,', "", "the key 'batch' is missing", True),
        ('"batch": 8', '"batch": true', "must be an integer, but is a Boolean", True),
        ('"settled": true', '"settled": null', "must be true or false, but is null", True),
        ('"error": 1e-06', '"error": NaN', "NaN", False),
        ('"error": 1e-06', '"error": 1e999', "must be a finite number, but is a float", True),
        ('"batch": 8', '"batch": 8, "batch": 9', "given twice", False),
        ('"rows": [', '"rows": [7, ', "must be a mapping, but is an integer", True),
        ('"version": "', '"version": "\\ud800', "an unpaired surrogate", False),
        ('"batch": 8', f'"batch": {"8" * 5000}', "an integer of 5,000 digits", False),
        ('"rows": [', '"rows": [' + "{}," * json_files.MOST_PARTS, "more than 200,000 lists", False),
        ('"rows": [', '"rows": [' + "7," * 1_000_000, "must be a mapping, but is an integer", True),
        ('"rows": [', " " * json_files.LARGEST + '"rows": [', "larger than 8 MiB", False),
        ('"gone": 0', "", "", False),
    ],
)
def test_broken_result_files(old: str, new: str, message: str, line: bool, tmp_path: Path) -> None:
    """Each mistake in a result file is reported with its location where known, and none gives a traceback."""
    if not message:  # the whole file is broken, not one key
        text = "[" * 100_000
    else:
        text = json_files.text(WHOLE)
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        results.read(path)
    first = caught.value.diagnostics[0]
    assert first.code == "E0820"
    assert message in first.message
    assert (first.place is not None) == line
    if line and "is a string" in message:
        assert first.place is not None
        assert first.place.source.line(first.place.line).strip() == '"batch": "8",'
        assert first.place.column == 7 + len('"batch": ')


def test_samples_of_a_file_are_checked(tmp_path: Path) -> None:
    """Samples with too few rounds are reported with their location in the file."""
    path = tmp_path / "few.json"
    json_files.write(result(row(samples=[[1.0]] * 3)), path)
    with pytest.raises(UsageError, match="at least 5") as caught:
        results.read(path)
    assert caught.value.diagnostics[0].place is not None


# --- comparing --------------------------------------------------------------------------------------------------------


def compared(tmp_path: Path, old: Result, new: Result, *options: str) -> Any:
    """Run `compare` on two results."""
    for name, each in (("old.json", old), ("new.json", new)):
        json_files.write(each, tmp_path / name, force=True)
    return CliRunner().invoke(app, ["compare", str(tmp_path / "old.json"), str(tmp_path / "new.json"), *options])


@pytest.mark.parametrize(
    ("median", "limit", "code", "verdict"),
    [
        (0.0101, "0%", 1, "REGRESSION"),  # 1% is significant in 90 samples with 1% noise
        (0.0101, "5%", 0, "slower"),
        (0.0108, "5%", 1, "REGRESSION"),
        (0.0108, "0.1", 0, "slower"),
        (0.01, "0%", 0, "~"),
        (0.008, "5%", 0, "faster"),
    ],
)
def test_a_regression(median: float, limit: str, code: int, verdict: str, tmp_path: Path) -> None:
    """`compare` exits with 1 if a row is slower by more than the limit and the intervals do not overlap."""
    done = compared(tmp_path, result(row()), result(row(median=median, seed=5)), "--max-regression", limit)
    assert done.exit_code == code, done.output
    assert verdict in done.stdout
    assert ("error[E0722]" in done.stderr) == bool(code)


def test_a_large_difference_within_the_noise_is_not_a_regression(tmp_path: Path) -> None:
    """Distant medians with overlapping intervals are not a regression."""
    noisy = [row(samples=times(median, seed, noise=1.0)) for median, seed in ((0.01, 0), (0.014, 3))]
    assert statistics.unpaired_ratio(noisy[1].times, noisy[0].times).value > 1.05
    done = compared(tmp_path, result(noisy[0]), result(noisy[1]))
    assert (done.exit_code, "| ~ |" in done.stdout) == (0, True)


def test_results_of_different_machines(tmp_path: Path) -> None:
    """Results of different machines are refused or, on request, compared with a warning; different library versions
    are noted."""
    old, new = result(row()), result(row(facts={"versions": {"x": "2"}}), name="CPU 1")
    done = compared(tmp_path, old, new)
    assert done.exit_code == 2
    assert "error[E0821]" in done.stderr
    assert "CPU 9000 and CPU 1" in done.stderr
    done = compared(tmp_path, old, new, "--across-machines")
    assert done.exit_code == 0
    assert "warning: " in done.stderr
    assert "note: ort-cpu: versions x 1 became x 2" in done.stderr


def test_other_changes_are_noted(tmp_path: Path) -> None:
    """`compare` notes what else changed between rows with the same key, such as passes or the exporter of a peer."""
    old = row(
        passes=["drop=layer1.0"], facts={"exporter": "legacy", "exported_with": {"torch": "1"}, "versions": {"x": "1"}}
    )
    new = row(
        median=0.02,
        passes=["drop=layer1.0", "fold-batchnorm"],
        facts={"exporter": "dynamo", "exported_with": {"torch": "2"}, "versions": {"x": "1"}},
    )
    done = compared(tmp_path, result(old, row("torch-cpu")), result(new, row("torch-cpu", 0.02)))
    assert done.exit_code == 1
    assert f"note: {old.title}: passes drop=layer1.0 became drop=layer1.0, fold-batchnorm\n" in done.stderr
    assert "note: ort-cpu: exporter legacy became dynamo\n" in done.stderr
    assert "note: ort-cpu: exported with torch 1 became torch 2\n" in done.stderr
    assert done.stderr.count("note: ") == 3
    assert f"2 of 2 rows are slower by more than 5%: {old.title}; {row('torch-cpu').title}\n" in done.stderr


def test_rows_of_one_file_only(tmp_path: Path) -> None:
    """Rows that only one file has are reported; without a common row `compare` exits with 2."""
    done = compared(tmp_path, result(row(), row("openvino")), result(row(), row("torch-cpu")), "--json")
    data = json.loads(done.stdout)
    assert data["passed"]
    assert len(data["rows"]) == 1
    assert "openvino" in data["gone"][0]
    assert "torch-cpu" in data["added"][0]
    assert compared(tmp_path, result(row()), result(row("openvino"))).exit_code == 2


@pytest.mark.parametrize("text", ["", "x", "-5%", "nan", "inf"])
def test_invalid_limits_are_refused(text: str) -> None:
    """A regression limit must be a finite ratio or percentage of at least 0."""
    with pytest.raises(UsageError):
        comparing.limit(text)


# --- reports ----------------------------------------------------------------------------------------------------------


def test_a_notebook_shows_the_figure_and_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result is displayed as its figure and tables, a comparison as its table, without external resources or unescaped names."""
    pytest.importorskip("matplotlib", reason="figures need the extra 'plot'")
    hostile = dataclasses.replace(row(), model="<script>alert(1)</script>&", runtime="<b>")
    for found in (WHOLE, dataclasses.replace(WHOLE, rows=[hostile], tunings=[])):
        shown = found._repr_html_()
        assert shown.startswith("<svg")
        figure, _, tables = shown.partition("</svg>")
        for part in (f"{figure}</svg>", f"<div>{tables}</div>"):
            root = ElementTree.fromstring(part)
            assert not any(each.tag.endswith("script") for each in root.iter())
            links = [
                value for each in root.iter() for name, value in each.attrib.items() if name.endswith(("href", "src"))
            ]
            assert all(link.startswith("#") for link in links)
        cells = ["".join(cell.itertext()) for cell in ElementTree.fromstring(f"<div>{tables}</div>").iter("td")]
        assert {each.model for each in found.rows} <= set(cells)
        assert report.markdown(found).split("\n")[0] in unescape(tables)
    change = comparing.compare(WHOLE, WHOLE)._repr_html_()
    assert change.startswith("<table><thead><tr><th")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert WHOLE._repr_html_().startswith("<pre")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_fit_a_window(width: int) -> None:
    """On a terminal, tables are narrowed or become lists with a line for each cell, and all their numbers remain."""
    table = functools.partial(text_table, width=width)
    printed = report.markdown(WHOLE, None, table), report.changes(comparing.compare(WHOLE, WHOLE), 0.05, table)
    for text, wide in zip(
        printed, (report.markdown(WHOLE), report.changes(comparing.compare(WHOLE, WHOLE), 0.05)), strict=True
    ):
        cells = {cell.strip() for line in wide.splitlines() if line.startswith("| ") for cell in line.split("|")}
        numbers = {cell for cell in cells if re.fullmatch(r"[\d.,e-]*\d", cell)}
        assert numbers
        assert not {number for number in numbers if number not in text}
        assert all(
            len(line) <= width for line in text.splitlines() if line.startswith((f"{NET}  ", "network  ", "p50 ms  "))
        )


def test_a_table_shows_only_significant_speed_ups() -> None:
    """The table names the baseline and the control, and shows only significant speed-ups."""
    alone = dataclasses.replace(result(row()), machine={"processor": {"name": "CPU 9000", "usable": 1}})
    assert report.markdown(alone).startswith("CPU 9000, 1 thread\n")
    text = report.markdown(result(row(), row("torch-cpu", 0.02, 1), row("openvino", 0.02, 2)), f"{NET}@torch-cpu")
    lines = {line.split("|")[2].strip(): line for line in text.splitlines() if line.startswith(f"| {NET}")}
    assert "| 2.00x |" in lines["ort-cpu"] or "| 1.99x |" in lines["ort-cpu"] or "| 2.01x |" in lines["ort-cpu"]
    assert "| base |" in lines["torch-cpu"]
    assert "| ~ |" in lines["openvino"]
    poor = dataclasses.replace(WHOLE, controls=[Control(NET, 8, "x", Interval(1.0, 0.9, 1.1), times(0.01))])
    text = report.markdown(poor, None)
    assert "this group is inconclusive" in text
    assert "2.00x" not in text
    assert "resnet@torch did not finish, so speed-ups are relative to" in report.markdown(WHOLE, "resnet@torch")


@pytest.mark.slow
def test_variants(tmp_path: Path, fake: Any) -> None:
    """Each `--variant` has a row and computes the same function; an unknown pass is refused."""
    fake("good")
    given = [
        "--set",
        "layer1.depth=1",
        "--set",
        "layer2.depth=1",
        "--set",
        "layer3.depth=1",
        "--set",
        "input=[3,16,16]",
    ]
    line = ["bench", "resnext29_8x64d_cifar", "--rounds", "5", "--slot-ms", "0", "--runtime", "good", *given]
    done = CliRunner().invoke(
        app, [*line, "--variant", "form=a", "--variant", "form=b", "-o", str(tmp_path / "result.json")]
    )
    assert done.exit_code == 0, done.output
    found = rows_of(tmp_path)
    name = "resnext29_8x64d_cifar"
    assert [each.model for each in found] == [name, f"{name} form=a", f"{name} form=b"]
    assert len({each.macs for each in found}) == len({each.parameters for each in found}) == 1
    for wrong, message in (
        ("shape=a", "no pass 'shape'"),
        ("form", "needs a value"),
        ("fold-batchnorm=1", "fold-batchnorm must be true or false"),
    ):
        done = CliRunner().invoke(app, [*line, "--variant", wrong])
        assert (done.exit_code, message in done.stderr) == (2, True)


def test_a_peer_has_no_silent_branches() -> None:
    """Peers have no norm weights of zero, as timm initialises the last norm of each block, since an exporter would
    store these as one shared tensor."""
    torch = pytest.importorskip("torch", reason="the peer is a torch module")
    found = peers.make("timm:resnet18", (3, 32, 32), 0)

    def silent(module: Any) -> int:
        norms = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        return sum(not norm.weight.any() for norm in norms)

    assert silent(sys.modules["timm"].create_model("resnet18")) == 8
    assert silent(found) == 0


def test_times_below_the_roofline_are_noted() -> None:
    """The report names networks that are faster than their roofline, since the limit is then doubtful."""
    roofs = [Roofline(limit=0.01 * share, fraction=share, bandwidth=1e10, rate=1e10) for share in (0.9, 1.2)]
    slow, fast = (
        dataclasses.replace(row(runtime), roofline=roof) for runtime, roof in zip(("a", "b"), roofs, strict=True)
    )
    assert "Faster than the roofline" not in report.markdown(result(slow), None)
    assert f"Faster than the roofline allows: {NET} on b:" in report.markdown(result(slow, fast), None)


def test_node_names_belong_to_rows() -> None:
    """The parts of a profile are the rows of the spec, and their shares sum to one."""
    network = rescompile.elaborate(rescompile.load("densenet121"))
    parts, macs = profiling.owners(network)
    assert {"features.transition2", "features.denseblock1", "dense_head"} <= set(macs)
    assert "features" not in macs
    ends = {  # names as ONNX Runtime writes them
        "features.conv0_nchwc": "features.conv0",
        "features.denseblock1.denselayer1.norm1_bn_nchwc": "features.denseblock1",
        "features.transition2.norm": "features.transition2",
        "fused features.conv0": "features.conv0",
        "logits_nchwc": "dense_head",
        "ReorderOutput_token_174": None,
        "": None,
    }
    for name, part in ends.items():
        assert profiling.owner(name, parts) == part
    shares = profiling.shares(network, [("features.transition2.conv", 1.0), ("ReorderInput", 3.0)])
    found = {share.part: share for share in shares}
    assert found["features.transition2"].time == 0.25
    assert found[profiling.OTHER].time == 0.75
    assert sum(share.macs for share in shares) == pytest.approx(1)
    assert found["features.transition2"].macs == pytest.approx(102.8 / 2834, rel=1e-3)


@pytest.mark.parametrize("runtime", ["ort-cpu", "openvino"])
def test_every_node_of_a_profile_is_in_its_row(runtime: str, tmp_path: Path) -> None:
    """Nodes of a profile, fused ones and outputs included, belong to the row of the spec that they come from."""
    pytest.importorskip("torch", reason="calibrates the norms")
    if RUNTIMES[runtime].missing():
        pytest.skip(f"{runtime} is not available")
    spec = tmp_path / "net.yaml"
    rows = (
        "stem: {conv: {channels: 8, kernel: 3}}", "gate: [{residual: {branch: [{conv: {channels: 8, kernel: 3}}]}}, relu]",
        "head: {side: {body: [global_avgpool, flatten, {linear: 5}], output: small, mode: always}}",
        "last: {conv: {channels: 8, kernel: 3}}", "dropout: {rate: 0.5}",
    )  # fmt: skip
    listed = "".join(f"  - {row}\n" for row in rows)
    spec.write_text(f"rescompile: 1\nname: net\ninput: [8, 20, 20]\nfeatures: [stem]\nnetwork:\n{listed}")
    network = rescompile.elaborate(rescompile.load(str(spec)))
    made = timed_models.of_spec(network, {}, 0)
    x = timed_models.inputs(network.input, 1, 0)
    job = Job("net", made.write(tmp_path, x, "fp32"), made.module, x, "fp32", 1)
    nodes = RUNTIMES[runtime].profile(job, {})
    parts, macs = profiling.owners(network)
    assert list(macs) == ["stem", "gate.1", "gate.2", "small", "last", "dropout"]
    assert parts["logits"] == "last"
    assert {"stem", "gate.1", "small", "last"} <= {profiling.owner(name, parts) for name, _ in nodes}
    strange = [name for name, _ in nodes if profiling.owner(name, parts) is None]
    assert all(name.startswith("Reorder") or not name for name in strange), strange


@pytest.mark.parametrize(
    ("runtime", "precision", "facts", "wanted"),
    [
        ("ort-cpu", "fp32", {"threads": 2}, "onnxruntime_perf_test -e cpu -I -m times -r 200 -s -x 2 'a b.onnx'"),
        (
            "ort-cuda", "fp32", {"provider_options": {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}},
            "onnxruntime_perf_test -e cuda -I -m times -r 200 -s -g -i 'use_tf32|0' -d 0 'a b.onnx'",
        ),
        (
            "ort-tensorrt", "fp32", {"options": {"graph": True}},
            "trtexec '--onnx=a b.onnx' --stronglyTyped --noDataTransfers --useSpinWait --iterations=200 --noTF32 --useCudaGraph",
        ),
        (
            "openvino", "bf16", {},
            "benchmark_app -m 'a b.onnx' -d CPU -hint none -nstreams 1 -api sync -niter 200 -infer_precision bf16 -ip f32",
        ),
        (
            "openvino", "int8", {"threads": 2},
            "benchmark_app -m 'a b.onnx' -d CPU -hint none -nstreams 1 -api sync -niter 200 -infer_precision f32 -ip f32 -nthreads 2",
        ),
    ],
)  # fmt: skip
def test_equivalent_commands(runtime: str, precision: str, facts: dict[str, Any], wanted: str) -> None:
    """The equivalent commands of the runtimes' own tools match the options and are quoted for the shell."""
    assert equivalent_commands.lines(runtime, precision, Path("/x/a b.onnx"), facts)[0] == wanted
    assert equivalent_commands.lines("torch-cpu", precision, None, facts) == []


# --- the command ------------------------------------------------------------------------------------------------------


class Fake:
    """A stand-in runtime that computes with torch and has one fault. Runs are counted for batch size `batch` and
    preparation `number` (None counts all), and a fault of a run occurs in run `after`."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong, self.runs, self.after, self.prepared, self.refused = wrong, 0, 10**9, 0, 0
        self.batch: int | None = None
        self.number: int | None = None
        self.absent: str | None = None

    def missing(self, runtime: Runtime) -> str | None:
        return self.absent

    def prepare(self, runtime: Runtime, job: Job, options: Mapping[str, str]) -> Any:
        from rescompile.diagnostics.errors import Diagnostic, Unavailable

        if self.wrong == "provider":
            raise Unavailable(Diagnostic("E0901", "asked for CUDA, and ONNX Runtime gave CPU"))
        self.prepared += 1
        if self.prepared == self.refused:
            raise Unavailable(Diagnostic("E0901", "it ended its process"))
        return Prepared(self, job)

    def profile(self, runtime: Runtime, job: Job, options: Mapping[str, str], runs: int) -> list[tuple[str, float]]:
        return [("layer1.0.conv1", 1.0), ("layer2.0.conv1", 1.0)]


class Prepared:
    """A module of torch that runs once; later runs are only counted."""

    facts: Mapping[str, Any] = {"device": "cpu", "versions": {"fake": "1"}, "threads": 1}
    build_seconds, first_seconds = 0.1, 0.01

    def __init__(self, fake: Fake, job: Job) -> None:
        from rescompile.bench import torch_modules

        assert job.module is not None
        self.fake, self.given = fake, torch_modules.outputs(job.module(), job.input)
        self.counts = fake.batch in (None, len(job.input)) and fake.number in (None, fake.prepared)

    def run(self) -> None:
        self.fake.runs += self.counts
        if self.counts and self.fake.runs == self.fake.after:
            raise KeyboardInterrupt if self.fake.wrong == "interrupt" else RuntimeError("the device is gone")

    def outputs(self) -> Mapping[str, Any]:
        factor = (
            1.01
            if self.fake.wrong == "outputs"
            or (self.fake.wrong == "later" and self.fake.runs > 20)
            or (self.fake.wrong == "anew" and self.fake.prepared > 1)
            else 1.0
        )
        return {name: factor * array for name, array in self.given.items()}

    def close(self) -> None:
        self.given = {}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Fake]]:
    """Return a function that registers a stand-in runtime. The roofline is constant, and torch runs on one thread,
    since these networks are small and two threads would wait for each other on a busy machine."""
    torch = pytest.importorskip("torch", reason="timed outputs are checked against float64 torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(device, "state", dict)
    monkeypatch.setattr(
        roofline, "measure", lambda device, precision, threads: roofline.Roofline(precision, {1 << 20: 1e10}, 1e10)
    )  # fmt: skip

    def put(name: str, wrong: str = "") -> Fake:
        made = Fake(wrong)
        monkeypatch.setitem(sys.modules, f"rescompile.runtimes.{name}", made)
        monkeypatch.setitem(RUNTIMES, name, Runtime(name, "", "cpu", "torch", ("fp32", "bf16"), "run", name, ()))
        return made

    yield put
    torch.set_num_threads(before)


def bench(tmp_path: Path, *arguments: str, rounds: int = 6) -> Any:
    """Run the command on a small network, with a result file."""
    path = str(tmp_path / "result.json")
    return CliRunner().invoke(app, ["bench", NET, "--rounds", str(rounds), "--slot-ms", "0", "-o", path, *arguments])


def rows_of(tmp_path: Path) -> list[BenchRow]:
    """Return the rows of the result file."""
    return results.read(tmp_path / "result.json").rows


def test_bench_writes_rows(tmp_path: Path, fake: Any) -> None:
    """Each runtime and batch has a row with error, roofline, profile and the network's facts."""
    fake("good")
    done = bench(tmp_path, "--runtime", "good", "--batch", "1,6", "--profile", "--control", "--threads", "1")
    assert done.exit_code == 0, done.output
    found = results.read(tmp_path / "result.json")
    assert not found.interrupted
    assert [each.batch for each in found.rows] == [1, 6]
    assert [control.batch for control in found.controls] == [1, 6]
    for each in found.rows:
        assert len(each.samples) == 6
        assert each.sha256 == rescompile.elaborate(rescompile.load(NET)).sha256
        assert each.parameters == 269722
        assert 0 < each.error <= each.bound < 1e-4
        assert each.roofline is not None
        assert each.roofline.fraction == pytest.approx(each.roofline.limit / each.summary.p50)
        assert each.profile is not None
        assert {share.part: share.time for share in each.profile}["layer1"] == 0.5
    assert found.machine["libraries"]
    assert found.machine["processor"]["usable"] >= 1
    assert "layer1:" in done.stdout


def test_rows_are_kept_if_profiling_fails(tmp_path: Path, fake: Any) -> None:
    """If a runtime cannot profile, the exit code is 4 and all measured rows are kept."""
    from rescompile.diagnostics.errors import Diagnostic, Unavailable

    def profile(*_: Any) -> Any:
        raise Unavailable(Diagnostic("E0901", "one node"))

    fake("good").profile = profile
    done = bench(tmp_path, "--runtime", "good", "--batch", "1,6", "--profile")
    assert done.exit_code == 4
    assert "error[E0901]: one node" in done.stderr
    assert [(each.batch, each.profile) for each in rows_of(tmp_path)] == [(1, None), (6, None)]


def test_a_runtime_that_fell_back_has_no_row(tmp_path: Path, fake: Any) -> None:
    """A runtime that got another provider has no row and gives exit code 4; the others are measured."""
    fake("good")
    fake("lost", "provider")
    done = bench(tmp_path, "--runtime", "lost,good")
    assert done.exit_code == 4
    assert "error[E0901]: asked for CUDA, and ONNX Runtime gave CPU" in done.stderr
    assert [each.runtime for each in rows_of(tmp_path)] == ["good"]
    assert "| lost |" not in done.stdout
    assert "- lost in fp32: asked for CUDA" in done.stdout


def test_a_missing_runtime_is_reported_before_anything_is_measured(tmp_path: Path, fake: Any) -> None:
    """A missing runtime gives exit code 4 and no file."""
    fake("good")
    fake("gone").absent = "it is not installed"
    done = bench(tmp_path, "--runtime", "good,gone")
    assert done.exit_code == 4
    assert "gone cannot run here: it is not installed" in done.stderr
    assert "pip install" in done.stderr
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("wrong", ["outputs", "later"])
def test_wrong_outputs_have_no_row(wrong: str, tmp_path: Path, fake: Any) -> None:
    """Outputs that are wrong from the start, or only once runs are timed, give exit code 1 and no row."""
    fake("good")
    fake("bad", wrong)
    done = bench(tmp_path, "--runtime", "good,bad", rounds=20)
    assert done.exit_code == 1
    assert "error[E0721]" in done.stderr
    assert [each.runtime for each in rows_of(tmp_path)] == ["good"]
    assert "| bad |" not in done.stdout


@pytest.mark.slow
def test_an_interruption_keeps_what_was_finished(tmp_path: Path, fake: Any) -> None:
    """After Ctrl-C in the second group, the file has the rows of the first and is marked as interrupted."""
    made = fake("good", "interrupt")
    made.batch, made.after = 2, 6  # too few rounds for a row
    done = bench(tmp_path, "--runtime", "good", "--batch", "1,2")
    assert done.exit_code == 130
    found = results.read(tmp_path / "result.json")
    assert found.interrupted
    assert [each.batch for each in found.rows] == [1]
    assert "Interrupted" in done.stdout


def test_a_benchmark_that_is_closed_keeps_whole_rounds(fake: Any) -> None:
    """Closing the steps, as an interruption between two of them does, records the complete rounds."""
    fake("good")
    network = rescompile.elaborate(rescompile.load(NET))
    running = Bench(Request([network], {}, (), ["good"], ["fp32"], [1], Plan(rounds=12, slot=0.0)), lambda text: None)
    steps = running.run()
    assert next(step for step in steps if "round 7 of 12" in step) == f"{NET}, batch 1: round 7 of 12"
    steps.close()
    (only,) = running.result.rows
    assert (running.result.interrupted, len(only.samples)) == (True, 7)


def test_a_baseline_without_a_row_is_replaced(tmp_path: Path, fake: Any) -> None:
    """If the row of the baseline is refused, the report names the baseline that it uses instead."""
    fake("good")
    fake("bad", "outputs")
    done = bench(tmp_path, "--runtime", "good,bad", "--baseline", f"{NET}@bad")
    assert done.exit_code == 1
    assert "error[E0721]" in done.stderr
    assert f"{NET}@bad did not finish, so speed-ups are relative to {NET} on good in fp32." in done.stdout


#: The command with a constant roofline, and with progress printed although standard error is not a terminal.
_PROGRAM = """
import sys
from rescompile.runtimes import roofline
from rescompile.cli import main
roofline.measure = lambda device, precision, threads: roofline.Roofline(precision, {1 << 20: 1e10}, 1e10)
sys.stderr.isatty = lambda: True
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send SIGTERM to one process")
@pytest.mark.slow
def test_a_terminated_benchmark_keeps_what_was_finished(tmp_path: Path) -> None:
    """After the SIGTERM of a scheduler, as after Ctrl-C, the rows are in the file."""
    pytest.importorskip("torch", reason="timed outputs are checked against float64 torch")
    path = tmp_path / "result.json"
    words = ["bench", NET, "--set", "parameters.n=1", "--runtime", "torch-cpu", "--threads", "1", "--rounds", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *words, "--slot-ms", "0", "-o", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    stderr = b""
    while piece := os.read(process.stderr.fileno(), 1 << 16):
        stderr += piece
        if re.search(rb"round [1-9]\d+ of 100000", stderr):
            process.send_signal(signal.SIGTERM)
            break
    stdout, rest = process.communicate(timeout=60)
    assert (process.returncode, rest.splitlines()[-1]) == (143, b"terminated"), stderr + rest
    assert b"Interrupted" in stdout
    found = results.read(path)
    assert found.interrupted
    (only,) = found.rows
    assert 5 <= len(only.samples) < 100_000


def test_an_interrupted_group_keeps_whole_rounds(tmp_path: Path, fake: Any) -> None:
    """The complete rounds of an interrupted group become a row if there are enough for an interval."""
    fake("good", "interrupt").after = 600  # a warm-up is over after 200 runs, stable or not
    done = bench(tmp_path, "--runtime", "good", rounds=1000)
    assert done.exit_code == 130
    (only,) = rows_of(tmp_path)
    assert 5 <= len(only.samples) < 1000


@pytest.mark.slow
def test_sessions_prepare_all_anew(tmp_path: Path, fake: Any) -> None:
    """Each session prepares every contender and the control again, and every time is recorded once."""
    made = fake("good")
    done = bench(tmp_path, "--runtime", "good", "--sessions", "3", "--control")
    assert done.exit_code == 0, done.output
    result = results.read(tmp_path / "result.json")
    (only,), (control,) = result.rows, result.controls
    assert made.prepared == 3 * 2
    assert (only.sittings, len(only.samples), len(control.samples)) == (3, 18, 18)
    assert only.times.shape == (3, 6, len(only.samples[0]))
    assert only.summary.median == statistics.median(only.times)
    assert "Each row was timed in 3 sessions of 6 rounds." in done.stdout


@pytest.mark.parametrize("after", [1, 600], ids=["in its warm-up", "in its rounds"])
@pytest.mark.slow
def test_an_interrupted_session_is_left_out(after: int, tmp_path: Path, fake: Any) -> None:
    """An interrupted session is discarded and the complete ones are kept. A warm-up has at most 200 runs, and 300
    rounds have at least 600."""
    made = fake("good", "interrupt")
    made.number, made.after = 3, after
    done = bench(tmp_path, "--runtime", "good", "--sessions", "4", rounds=300)
    assert done.exit_code == 130
    (only,) = rows_of(tmp_path)
    assert (only.sittings, len(only.samples)) == (2, 600)


@pytest.mark.slow
def test_outputs_that_go_wrong_in_a_later_session(tmp_path: Path, fake: Any) -> None:
    """Outputs are checked again in every session, so a runtime that goes wrong later has no row."""
    made = fake("good", "anew")
    done = bench(tmp_path, "--runtime", "good", "--sessions", "2")
    assert (done.exit_code, rows_of(tmp_path)) == (1, [])
    assert made.prepared > 1


@pytest.mark.parametrize(("refused", "rows"), [(2, ["flaky", "good"]), (3, ["good"]), (4, ["flaky", "good"])])
@pytest.mark.slow
def test_a_contender_that_is_refused_in_a_later_session_has_no_row(
    refused: int, rows: list[str], tmp_path: Path, fake: Any
) -> None:
    """A contender that is refused in a later session has no row, but the others and later groups do; if it was the
    copy for the control, only the control is missing. The copy is the second preparation of the first session (2)
    and, in the drawn order, follows its original in the next one (3, 4)."""
    fake("flaky").refused = refused
    fake("good")
    done = bench(tmp_path, "--runtime", "flaky,good", "--sessions", "3", "--batch", "1,2", "--control")
    assert done.exit_code == 4
    assert "error[E0901]: it ended its process" in done.stderr
    result = results.read(tmp_path / "result.json")
    found = [(row.runtime, row.batch) for row in result.rows]
    assert found == [*((name, 1) for name in rows), ("flaky", 2), ("good", 2)]
    assert [control.batch for control in result.controls] == [2]
    assert all((row.sittings, len(row.samples)) == (3, 18) for row in result.rows)
    assert result.missing == ([] if "flaky" in rows else [results.Missing("flaky", "fp32", "it ended its process")])


def test_a_device_that_is_lost_in_the_middle(tmp_path: Path, fake: Any) -> None:
    """A lost device gives exit code 4 without a traceback, and the rows of earlier groups are kept."""
    made = fake("good")
    made.batch, made.after = 2, 6
    done = bench(tmp_path, "--runtime", "good", "--batch", "1,2")
    assert done.exit_code == 4
    assert "the device is gone" in done.stderr
    assert [each.batch for each in rows_of(tmp_path)] == [1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--runtime", "good", "--precision", "fp23"], 2, "unknown precision 'fp23'"),
        (["--runtime", "good", "--precision", "int8"], 4, "nothing can be measured for good: good supports fp32 or bf16"),
        (["--runtime", "goof"], 4, "there is no runtime 'goof'"),
        (["--runtime", "good,good"], 2, "--runtime 'good,good' contains good twice"),
        (["--runtime", "good", "--batch", "1,01"], 2, "the batch 1 is given twice"),
        (["--runtime", "good", "--batch", "9" * 5000], 2, "must be sizes from 1"),
        (["--runtime", "good", "--variant", f"join-groups={'9' * 5000}"], 2, "join-groups must be an integer"),
        (["--runtime", "good", "--variant", "form=a", "--variant", "form=a"], 2, "--variant form=a is given twice"),
        (["--runtime", "good", "--compare", "timm:a,timm:b", "--compare", "timm:a"], 2, "contains timm:a twice"),
        (["--runtime", "good", "--baseline", f"{NET}@godo"], 2, f"did you mean '{NET}@good'?"),
        (["--runtime", "good", "--baseline", "foo", "--variant", "form=a"], 2, f"{NET} form=a@good, {NET}@good"),
        (["--runtime", "good", "--compare", "timm:x", "--baseline", NET], 2, f"is not a row of {NET}"),
        (["--runtime", "good", "--tune", "--baseline", "foo"], 2, "--baseline foo is not a row"),
        (["--runtime", "good,"], 2, "an empty entry"),
        (["--runtime", "good", "--batch", "0"], 2, "must be sizes from 1"),
        (["--runtime", "good", "--batch", "one"], 2, "must be sizes from 1"),
        (["--runtime", "good", "--compare", "resnet50"], 2, "peers must come from torchvision or timm"),
        (["--runtime", "good", "--exporter", "legcy"], 2, "did you mean 'legacy'?"),
        (["--runtime", "good", "--plot", "x.pdf"], 2, ".svg or .png"),
        (["--runtime", "good", "--keep", "nowhere"], 5, "does not exist"),
        (["--runtime", "good", "--keep", __file__], 5, "is not a folder"),
        (["--runtime", "good", "-o", "x.svg", "--plot", "./x.svg"], 2, "-o and --plot both name x.svg"),
        (["--runtime", "good", "-o", "-"], 2, "--json writes the result to standard output"),
        (["--runtime", "good", "--tune", "--accuracy", "inf"], 2, "--accuracy must be finite"),
        (["--runtime", "good", NET], 2, f"two of the specs are named {NET}"),
    ],
)  # fmt: skip
def test_wrong_usage(arguments: list[str], code: int, message: str, tmp_path: Path, fake: Any) -> None:
    """Wrong options are reported before anything is measured."""
    made = fake("good")
    done = bench(tmp_path, *arguments)
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert made.runs == 0


def test_without_scipy(tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both commands name the extra to install, and bench does so before anything is measured."""
    made = fake("good")
    assert bench(tmp_path, "--runtime", "good").exit_code == 0
    runs = made.runs
    monkeypatch.setitem(sys.modules, "scipy", None)
    result = str(tmp_path / "result.json")
    for done in (bench(tmp_path, "--runtime", "good"), CliRunner().invoke(app, ["compare", result, result])):
        assert done.exit_code == 4
        assert "error[E0902]: intervals and fits need SciPy" in done.stderr
        assert "pip install 'rescompile[bench]'" in done.stderr
    assert made.runs == runs


@pytest.mark.slow
def test_a_foreign_file_is_refused_before_measuring(tmp_path: Path, fake: Any) -> None:
    """An existing file that rescompile did not write is refused before the measurement, which may take hours."""
    made = fake("good")
    (tmp_path / "result.json").write_text('{"mine": true}\n')
    done = bench(tmp_path, "--runtime", "good")
    assert (done.exit_code, made.runs) == (5, 0)
    assert (tmp_path / "result.json").read_text() == '{"mine": true}\n'
    assert bench(tmp_path, "--runtime", "good", "--force").exit_code == 0
    assert bench(tmp_path, "--runtime", "good").exit_code == 0  # rescompile wrote it this time


@pytest.mark.parametrize(
    ("scale", "message"), [(1e30, "non-finite"), (1e-20, "denormals")], ids=["overflows", "vanishes"]
)
def test_degenerate_activations_are_not_timed(
    scale: float, message: str, tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network whose feature maps overflow or vanish, without a norm to correct them, is refused."""
    fake("good")
    spec = tmp_path / "deep.yaml"
    layers = "".join(f"  - conv{at}: {{conv: {{channels: 4, kernel: 1, bias: false}}}}\n" for at in range(2))
    spec.write_text(f"rescompile: 1\nname: deep\ninput: [4, 4, 4]\nnetwork:\n{layers}  - global_avgpool\n  - flatten\n")

    right = timed_models.trial
    monkeypatch.setattr(
        timed_models, "trial", lambda network, seed, first: right(network, seed, first).replaced(
            {name: (lambda array=array: array * np.float32(scale)) for name, array in right(network, seed, first).items()}
        ),
    )  # fmt: skip
    done = CliRunner().invoke(app, ["bench", str(spec), "--runtime", "good", "--rounds", "5"])
    assert done.exit_code == 1
    assert "error[E0720]" in done.stderr
    assert message in done.stderr


# --- real runtimes ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_network_and_its_peers(tmp_path: Path, fake: Any) -> None:
    """ONNX Runtime and torch measure a compiled network and peers: outputs, profile, figure and kept files are
    right."""
    pytest.importorskip("onnxruntime", reason="one of the runtimes")
    pytest.importorskip("peers", reason="the peer is a network of torchvision")
    pytest.importorskip("matplotlib", reason="draws the figure")
    kept = tmp_path / "kept"
    kept.mkdir()
    done = bench(
        tmp_path, "--runtime", "ort-cpu,torch-cpu", "--threads", "1", "--compare", "torchvision:squeezenet1_1,timm:resnet18",
        "--profile", "--plot", str(tmp_path / "figure.svg"), "--keep", str(kept), "--fold-batchnorm", "--set", "input=[3, 64, 64]",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = rows_of(tmp_path)
    assert [(each.model, each.runtime) for each in found] == [
        (model, runtime)
        for model in (NET, "torchvision:squeezenet1_1", "timm:resnet18")
        for runtime in ("ort-cpu", "torch-cpu")
    ]
    ours, _, squeezenet = found[0], found[1], found[2]
    assert ours.passes == ["fold-batchnorm"]
    assert ours.facts["obtained"] == ours.facts["requested"] == "CPUExecutionProvider"
    assert sum(ours.facts["placement"].values()) > 20
    assert squeezenet.parameters == 1_235_496  # as documented by torchvision
    assert squeezenet.facts["exporter"].startswith("torch.onnx.export, legacy")
    assert squeezenet.profile is None
    for each in found[:2]:
        assert each.profile is not None
        assert {"layer1", "layer2", "layer3"} <= {share.part for share in each.profile}
        shares = {share.part: share.time for share in each.profile}
        assert shares["layer1"] + shares["layer2"] + shares["layer3"] > 0.5
    assert "and timm:resnet18 on ort-cpu in fp32" in done.stdout
    assert (tmp_path / "figure.svg").read_text().count("ort-cpu fp32") >= 2
    assert {path.name for path in kept.iterdir()} == {
        f"{NET}_batch1.onnx", "torchvision_squeezenet1_1_batch1.onnx", "timm_resnet18_batch1.onnx",
    }  # fmt: skip


@pytest.mark.slow
def test_a_peer_of_specs_with_different_inputs(tmp_path: Path, fake: Any) -> None:
    """A peer is exported for each input size, and one that does not accept an input does not affect other rows."""
    pytest.importorskip("onnxruntime", reason="one of the runtimes")
    pytest.importorskip("peers", reason="the peer is a network of torchvision")
    small, grey, kept = tmp_path / "small.yaml", tmp_path / "grey.yaml", tmp_path / "kept"
    small.write_text(f"rescompile: 1\nname: small\nextends: {NET}\nset: {{parameters.n: 1}}\ninput: [3, 48, 48]\n")
    grey.write_text(f"rescompile: 1\nname: grey\nextends: {NET}\nset: {{parameters.n: 1}}\ninput: [1, 48, 48]\n")
    kept.mkdir()
    peer = "torchvision:squeezenet1_1"
    done = bench(
        tmp_path, str(grey), str(small), "--runtime", "ort-cpu", "--threads", "1", "--keep", str(kept), "--compare", peer,
        rounds=5,
    )  # fmt: skip
    assert done.exit_code == 2, done.output
    found = rows_of(tmp_path)
    assert [each.model for each in found] == [NET, peer, "grey", "small", peer]
    assert f"error[E0802]: {peer} does not accept an input of 1x48x48" in done.stderr
    assert f"- ort-cpu in fp32: {peer} does not accept an input of 1x48x48" in done.stdout
    files = [preparing.digest(kept / f"torchvision_squeezenet1_1_batch1{end}.onnx") for end in ("", "_2")]
    assert [each.artifact for each in found if each.model == peer] == files
    assert found[4].again[0].endswith("torchvision_squeezenet1_1_batch1_2.onnx")


def test_an_unknown_peer_is_reported_before_measuring(tmp_path: Path, fake: Any) -> None:
    """An unknown peer is reported before anything is measured, even if a later spec needs it."""
    pytest.importorskip("peers", reason="needs torchvision")
    made = fake("good")
    spec = tmp_path / "resnet188.yaml"
    spec.write_text(f"rescompile: 1\nname: resnet188\nextends: {NET}\n")
    done = bench(tmp_path, str(spec), "--runtime", "good", "--compare", "torchvision:resnet188")
    assert (done.exit_code, made.runs) == (2, 0)
    assert "error[E0801]: torchvision has no network 'resnet188'" in done.stderr
    assert "did you mean 'resnet18'?" in done.stderr


def test_a_failed_export_keeps_the_other_rows(tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed export gives exit code 4 and keeps the rows of all others."""
    torch = pytest.importorskip("torch", reason="exports the peer")
    pytest.importorskip("onnxruntime", reason="one of the runtimes")
    pytest.importorskip("peers", reason="the peer is a network of torchvision")

    def export(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such operator\nand a page of graph")

    monkeypatch.setattr(torch.onnx, "export", export)
    fake("good")
    peer = "torchvision:squeezenet1_1"
    done = bench(tmp_path, "--runtime", "ort-cpu,good", "--compare", peer, "--set", "input=[3, 64, 64]", rounds=5)
    assert done.exit_code == 4, done.output
    assert f"error[E0901]: torch.onnx.export cannot export {peer}: no such operator\n" in done.stderr
    assert [(each.model, each.runtime) for each in rows_of(tmp_path)] == [
        (NET, "ort-cpu"),
        (NET, "good"),
        (peer, "good"),
    ]


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
@pytest.mark.slow
def test_exporters(exporter: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each exporter writes the opset that the row records, computes the right outputs, and prints nothing."""
    onnx = pytest.importorskip("onnx", reason="reads the file")
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs the file")
    pytest.importorskip("peers", reason="the peer is a network of torchvision")
    pytest.importorskip("onnxscript", reason="needed by the dynamo exporter")

    made = timed_models.of_peer("torchvision:squeezenet1_1", (3, 64, 64), 0, exporter)
    x = timed_models.inputs((3, 64, 64), 2, 0)
    path = made.write(tmp_path, x, "fp32")
    assert capfd.readouterr() == ("", "")
    (opset,) = (each.version for each in onnx.load(path).opset_import if not each.domain)
    assert made.facts["exporter"] == f"torch.onnx.export, {exporter}, opset {opset}"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert taken.shape == [2, 3, 64, 64]
    reference = Reference(made, x)
    (given,) = session.run(None, {taken.name: x})
    assert reference.error({"logits": given}) <= reference.bound("fp32")


@pytest.mark.parametrize("model", [NET, "torchvision:squeezenet1_1"])
def test_files_in_float16(model: str, tmp_path: Path) -> None:
    """float16 files of compiled networks and of peers compute the right outputs, on CPUs too."""
    pytest.importorskip("torch", reason="exports the peer and is the reference")
    pytest.importorskip("peers", reason="the peer is a network of torchvision")
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs the files")

    network = rescompile.elaborate(rescompile.load(NET, set=["input=[3, 64, 64]"]))
    made = (
        timed_models.of_spec(network, {}, 0)
        if model == NET
        else timed_models.of_peer(model, network.input, 0, "legacy")
    )
    x = timed_models.inputs(network.input, 6, 0)
    assert np.array_equal(x[4:], x[:2])
    reference = Reference(made, x)
    path = made.write(tmp_path, x, "fp16")
    assert "fp16" in path.name
    assert path.stat().st_size < 2.2 * made.parameters + 100_000
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16}[taken.type]
    (given,) = session.run(None, {taken.name: x.astype(dtype)})
    error = reference.error({"logits": given.astype(np.float32)})
    assert reference.bound("fp32") < error <= reference.bound("fp16")
