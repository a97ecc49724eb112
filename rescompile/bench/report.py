"""The report of a result: a Markdown table for each group, in which a speed-up is shown only if it is significant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rescompile.bench import profiling, statistics
from rescompile.bench.comparing import Comparison
from rescompile.bench.results import BenchRow, Candidate, Result, Tuning, groups, rows_of
from rescompile.bench.statistics import WORST_CONTROL, Interval
from rescompile.diagnostics.errors import UsageError, clipped, nearest
from rescompile.diagnostics.text_table import Table, markdown_table

COLUMNS = (
    "network", "runtime", "precision", "P50 ms", "95% interval", "P90", "P95", "P99", "images/s", "speed-up", "of roofline",
    "error", "build s", "first ms",
)  # fmt: skip
#: The text for a difference that is not significant.
NOTHING = "~"


def markdown(result: Result, baseline: str | None = None, table: Table = markdown_table) -> str:
    """Return the tables of a result, each printed by `table`. `baseline` names the row that speed-ups are relative to, as `resnet50@torch-cpu`;
    without it, or if it was not measured to the end, this is the first peer of a group on its first runtime, or else the
    first row."""
    parts = [_machine(result)]
    for group, batch in groups(result):
        parts.append(_group(result, group, batch, baseline, table))
    parts += [_tuning(result, tuning, table) for tuning in result.tunings]
    parts += _throughput(result)
    if result.missing:
        parts.append("\n".join(["Not measured:", "", *(f"- {each}" for each in result.missing)]))
    if result.interrupted:
        parts.append("Interrupted: the rows above are complete.")
    return "\n\n".join(parts) + "\n"


def check_baseline(baseline: str, titles: Mapping[str, Sequence[str]]) -> None:
    """Raise UsageError if a baseline is not a title of a group; checked before measuring, which takes long."""
    for group, names in titles.items():
        if baseline not in names:
            help = nearest(baseline, names) or f"the rows are {', '.join(sorted(names))}"
            raise UsageError.of("E0802", f"--baseline {clipped(baseline)} is not a row of {group}", help=help)


def _base_of(result: Result, rows: Sequence[BenchRow], baseline: str | None) -> BenchRow:
    """Return the row with which the others of its group are compared."""
    names = {f"{row.model}@{row.runtime}": row for row in reversed(rows)}
    peers = [row for row in rows if row.sha256 is None]
    wanted = (baseline, _eager(result, rows[0].group, rows[0].batch))
    return next((names[name] for name in wanted if name in names), peers[0] if peers else rows[0])


def _eager(result: Result, group: str, batch: int) -> str | None:
    """Return the baseline of a search: eager torch in fp32, if it was tried."""
    bases = (
        f"{group}@{each.base}" for each in result.tunings if each.base and (each.group, each.batch) == (group, batch)
    )
    names = {f"{row.model}@{row.runtime}" for row in rows_of(result, group, batch) if row.precision == "fp32"}
    return next((base for base in bases if base in names), None)


def _tuning(result: Result, tuning: Tuning, table: Table) -> str:
    """Return the ranking of a search, and the command for its best."""
    lines = [
        f"### Fastest configuration for {tuning.group}, batch {tuning.batch}",
        "",
        f"Among those with a relative error of at most {tuning.accuracy:g} against float64:",
        "",
    ]
    tried: list[Sequence[str]] = [("", "runtime", "precision", "ms", "rounds", "error", "")]
    tried += [_candidate(at, each) for at, each in enumerate(tuning.candidates, 1)]
    lines += table(tried, "><<>>><")
    rows = rows_of(result, tuning.group, tuning.batch)
    if not rows:
        return "\n".join([*lines, "", "No configuration completed all rounds."])
    first = tuning.candidates[0]
    equal = [each for each in tuning.candidates[: len(rows)] if each.fate.startswith("no significant")]
    best = f"{first.runtime} in {first.precision}"
    if tuning.best is None:
        listed = ", ".join(f"{each.runtime} in {each.precision}" for each in equal)
        lines += [
            "",
            f"No best: {best} has the smallest median, without a significant difference from {listed}. Measure it again with",
        ]
    else:
        lines += ["", f"Best: {best}. Measure it again with"]
    return "\n".join([*lines, "", f"    {first.command}"])


def _candidate(at: int, each: Candidate) -> list[str]:
    seconds = "-" if each.seconds is None else ms(each.seconds)
    error = "-" if each.error is None else f"{each.error:.1e}"
    return [str(at), each.runtime, each.precision, seconds, str(each.rounds), error, each.fate]


def _throughput(result: Result) -> Iterator[str]:
    """For networks that were tuned at several batches, the batch with the most images per second."""
    for group in dict.fromkeys(tuning.group for tuning in result.tunings):
        fastest = [
            min(rows_of(result, group, batch), key=lambda row: row.summary.p50)
            for name, batch in groups(result)
            if name == group
        ]
        if len(fastest) < 2:
            continue
        order = sorted(fastest, key=lambda row: -row.summary.throughput)
        # Batches are measured one after the other, so the times per image are compared with their own intervals.
        spans = [row.summary.median.scaled(1 / row.batch) for row in order]
        listed = ", ".join(f"{row.batch}: {_digits(row.summary.throughput)}" for row in order)
        equal = spans[0].overlaps(spans[1])
        verdict = (
            f"no significant difference between batches {order[0].batch} and {order[1].batch}"
            if equal
            else f"highest at batch {order[0].batch}"
        )
        yield f"Images per second of {group} by batch, each in its fastest configuration: {listed}; {verdict}."


def _machine(result: Result) -> str:
    cpu = result.machine.get("processor") or {}
    gpus = [gpu.get("name", "?") for gpu in result.machine.get("gpus") or []]
    libraries = ", ".join(f"{name} {version}" for name, version in (result.machine.get("libraries") or {}).items())
    threads = cpu.get("usable", "?")
    named = f"{cpu.get('name', 'unknown CPU')}, {threads} thread{'' if threads == 1 else 's'}"
    where = ", ".join([named, *gpus])
    return f"{where}\n{libraries}"


def _group(result: Result, group: str, batch: int, baseline: str | None, table: Table) -> str:
    rows = rows_of(result, group, batch)
    base, control = _base_of(result, rows, baseline), result.control(rows[0])
    gone = baseline is not None and baseline != f"{base.model}@{base.runtime}"
    why = f"{baseline} did not finish, so speed-ups" if gone else "Speed-ups"
    lines = [
        f"### {group}, batch {batch}",
        "",
        f"{why} are relative to {base.model} on {base.runtime} in {base.precision}.",
    ]
    if rows[0].sittings > 1:
        rounds = len(rows[0].samples) // rows[0].sittings
        lines.append(f"Each row was timed in {rows[0].sittings} sessions of {rounds} rounds.")
    if control is not None:
        lines.append(_control(control))
    lines += ["", *table([COLUMNS, *(_row(row, base, control) for row in rows)], "<<<>")]
    pairs = list(_pairs(rows, control))
    if pairs:
        lines += ["", *pairs]
    for caveat in caveats(rows):
        lines += ["", caveat]
    for row in rows:
        if row.profile:
            lines += ["", f"{row.title}:", "", *(f"    {line}" for line in profiling.table(row.profile))]
    again = list(dict.fromkeys(line for row in rows for line in row.again))
    if again:
        lines += ["", "Equivalent commands using the runtimes' own tools (`--keep FOLDER` keeps the files):", ""]
        lines += [f"    {line}" for line in again]
    return "\n".join(lines)


def caveats(rows: Iterable[BenchRow]) -> Iterator[str]:
    """Yield what makes figures of some rows doubtful: a sentence for each reason, with the rows that it applies to."""
    rows = list(rows)
    reasons = {
        "Not stable after the warm-up: {}.": [row for row in rows if not row.settled],
        "Faster than the roofline allows: {}: its rates were measured on a busy machine, or kernels compute several layers at once.": [
            row for row in rows if row.roofline is not None and row.roofline.fraction > 1
        ],
    }
    for reason, doubtful in reasons.items():
        if doubtful:
            yield reason.format(", ".join(dict.fromkeys(f"{row.model} on {row.runtime}" for row in doubtful)))


def _row(row: BenchRow, base: BenchRow, control: Interval | None) -> list[str]:
    summary = row.summary
    return [
        row.model, row.runtime, row.precision, ms(summary.p50), f"{ms(summary.median.low)}-{ms(summary.median.high)}",
        ms(summary.p90), ms(summary.p95), ms(summary.p99), _digits(summary.throughput),
        "base" if row is base else speed_up(row, base, control),
        "-" if row.roofline is None else f"{row.roofline.fraction:.0%}", f"{row.error:.1e}", f"{row.build:.2f}", ms(row.first),
    ]  # fmt: skip


def speed_up(row: BenchRow, base: BenchRow, control: Interval | None) -> str:
    """Return `1.91x`, or NOTHING if the difference is not significant."""
    factor = statistics.speed_up(row.times, base.times, control)
    return NOTHING if factor is None else f"{factor:.2f}x"


def _pairs(rows: Sequence[BenchRow], control: Interval | None) -> Iterator[str]:
    """Yield a line for each compiled network and each peer on the same runtime in the same precision: the same work with the
    same kernels."""
    for ours in (row for row in rows if row.sha256 is not None):
        for peer in (row for row in rows if row.sha256 is None):
            if (ours.runtime, ours.precision) == (peer.runtime, peer.precision):
                ratio = statistics.ratio(ours.times, peer.times)
                factor = speed_up(ours, peer, control)
                verdict = "no significant difference" if factor == NOTHING else f"{factor} as fast"
                yield (
                    f"{ours.model} and {peer.model} on {ours.runtime} in {ours.precision}: {verdict} "
                    f"(time ratio {ratio.value:.3f}, {ratio.low:.3f}-{ratio.high:.3f})."
                )


def _control(control: Interval) -> str:
    text = f"Control, a second copy of the first row: {control.value:.3f} ({control.low:.3f}-{control.high:.3f})"
    if statistics.decides(control):
        return f"{text}."
    what = "from 1" if abs(control.value - 1) > WORST_CONTROL else "of uncertainty"
    return f"{text}, more than {WORST_CONTROL:.0%} {what}: this group is inconclusive."


def changes(comparison: Comparison, limit: float, table: Table = markdown_table) -> str:
    """Return a comparison of two results as a table, printed by `table`."""
    head = ("network", "runtime", "precision", "batch", "old ms", "new ms", "new / old", "95% interval", "verdict")
    rows: list[Sequence[str]] = [head]
    for change in comparison.changes:
        new, ratio = change.new, change.ratio
        verdict = f"REGRESSION (more than {100 * limit:.3g}%)" if change.regressed(limit) else change.verdict
        rows.append(
            [new.model, new.runtime, new.precision, str(new.batch), ms(change.old.summary.p50), ms(new.summary.p50),
             f"{ratio.value:.3f}", f"{ratio.low:.3f}-{ratio.high:.3f}", verdict]
        )  # fmt: skip
    lines = table(rows, "<<<<>>>><")
    lines += [f"\nOnly in the old file: {title}" for title in comparison.gone]
    lines += [f"\nOnly in the new file: {title}" for title in comparison.added]
    return "\n".join(lines)


def ms(seconds: float) -> str:
    """Return a time in milliseconds, without its unit."""
    return _digits(seconds * 1e3)


def _digits(value: float) -> str:
    """Return three significant digits, or all digits before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
