"""`draw`: a network as a picture."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rescompile.cli.command import command
from rescompile.cli.options import FeaturesOption, ForceOption, FormatOption, Passes, SetOption, option
from rescompile.cli.reporting import check_output, say
from rescompile.cli.specs import after_passes
from rescompile.diagnostics.errors import UsageError, clipped, nearest, one_of
from rescompile.records import record

if TYPE_CHECKING:
    from rescompile.drawing import Outline, Painting, Picture
    from rescompile.ir.network import Network


#: The quantities that are read from a file, with the command that writes it.
MEASURED = {
    "time": "rescompile bench SPEC --profile -o FILE",
    "error": "rescompile verify SPEC --parts --json",
}


@record
class Options:
    """The options of `draw` that no other command has."""

    output: str | None = option(
        "File: .svg, .html, .png, .pdf, .mmd or .dot; - for SVG on standard output. Default: NAME.svg.",
        None, "-o", "--output", metavar="PATH",
    )  # fmt: skip
    depth: Literal["rows", "blocks", "ops"] = option(
        "Draw rows, rows with each block opened once, or every op.", "blocks"
    )
    color: Literal["macs", "parameters", "activations", "time", "error"] | None = option(
        "Colour the cards by a quantity. Default: none."
    )
    result: str | None = option("Result file for --color time and error.", metavar="FILE")
    against: str | None = option("Draw another network beside it and mark the differences.", metavar="SPEC")

    def check(self, graphs: Sequence[str], suffix: str) -> None:
        """Raise UsageError for options that cannot be used together."""
        measured = self.color in MEASURED
        if measured and self.result is None:
            help = f"'{MEASURED[self.color]}' writes one"  # type: ignore[index]
            raise UsageError.of("E0802", f"--color {self.color} needs --result FILE", help=help)
        if self.result is not None and not measured:
            raise UsageError.of("E0802", "--result needs --color time or --color error")
        if measured and self.depth == "ops":
            raise UsageError.of("E0802", f"--color {self.color} applies to rows, so it cannot be used with --depth ops")
        if self.against is not None and self.depth != "blocks":
            raise UsageError.of("E0802", "--against compares rows, so it cannot be used with --depth")
        for name in ("color", "against"):
            if getattr(self, name) is not None and suffix in graphs:
                raise UsageError.of("E0802", f"--{name} cannot be used with {suffix} files")
        if self.color is not None and self.against is not None:
            raise UsageError.of("E0802", "--color and --against cannot be used together")


@command
def draw(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="Spec file, zoo name, or a model built by rescompile.")],
    options: Options,
    set: SetOption = None,
    features: FeaturesOption = None,
    force: ForceOption = False,
    format: FormatOption = "text",
    *,
    passes: Passes,
) -> None:
    """Draw a network: blocks, shortcuts, shapes and costs."""
    from rescompile.drawing import FORMATS, GRAPHS
    from rescompile.files.atomic_write import File, write_bytes, write_stdout

    suffix = ".svg" if options.output in (None, "-") else Path(options.output or "").suffix.lower()
    if suffix not in FORMATS:
        endings = one_of(FORMATS)
        help = nearest(suffix, FORMATS)
        raise UsageError.of("E0802", f"-o {clipped(options.output or repr(''))} must end in {endings}", help=help)
    options.check(GRAPHS, suffix)
    _, network = after_passes(spec, set, features, passes)
    path = Path(options.output or f"{network.name}.svg")
    if options.output != "-":
        check_output(path, force, filter(None, (spec, options.result, options.against)), "is drawn from")
    data = FORMATS[suffix](_picture(network, options))
    if options.output == "-":
        write_stdout([File("-", lambda: [data])])
        return
    write_bytes(data, path, force)
    say(f"{path}: {len(data) / 1024:.0f} KiB")


def _picture(network: Network, options: Options) -> Picture:
    """Return the picture to draw."""
    from rescompile.drawing import COUNTS, Picture, by_amount, outline

    if options.against is not None:
        _, other = after_passes(options.against, None, None, {})
        return Picture(outline(network, "rows"), against=outline(other, "rows"))
    opened = outline(network, options.depth)
    if options.color is None:
        return Picture(opened)
    if options.color == "time":
        return Picture(opened, _by_time(network, opened, str(options.result)))
    if options.color == "error":
        return Picture(opened, _by_error(network, opened, str(options.result)))
    return Picture(opened, by_amount(opened, COUNTS[options.color]))


def _by_time(network: Network, opened: Outline, file: str) -> Painting:
    """Return the painting by the time of each row, of the first profiled row of a result file that is this network.
    Raises UsageError if there is none."""
    from rescompile.bench.profiling import owners
    from rescompile.bench.results import read
    from rescompile.drawing import Metric, by_amount
    from rescompile.drawing.outline import Card, cards
    from rescompile.ir.network import walk

    rows = [row for row in read(Path(file)).rows if row.sha256 == network.sha256]
    if not rows:
        message = f"{file} has no row of {network.name} with this spec"
        raise UsageError.of("E0811", message, help=f"'{MEASURED['time']}' measures one")
    profiled = next((row for row in rows if row.profile), None)
    if profiled is None:
        message = f"{file} has no profile of {network.name}"
        raise UsageError.of("E0811", message, help="measure it again with bench --profile")
    seconds = {share.part: share.seconds for share in profiled.profile or ()}
    part_of, _ = owners(network)

    def parts(card: Card) -> list[str]:
        names = (name for path, node in card.parts for name, _ in walk(node, path) if name in part_of)
        return list(dict.fromkeys(part_of[name] for name in names))

    shared = Counter(part for card in cards(opened.rows) for part in parts(card))

    def time(card: Card) -> float | None:
        """Return the time of a card in seconds; None if a part in the file is larger than the card."""
        own = parts(card)
        return None if any(shared[part] > 1 for part in own) else sum(seconds.get(part, 0.0) for part in own)

    total = sum(seconds.values()) or 1.0
    title = f"time on {profiled.runtime}, {profiled.precision}, batch {profiled.batch}, profiled"
    return by_amount(opened, Metric(title, time, lambda value: f"{1e3 * value:.3g} ms ({value / total:.0%})"))


def _by_error(network: Network, opened: Outline, file: str) -> Painting:
    """Return the painting by the worst target in the output of `verify --json`: by the error of each row where the file
    has those of parts, else by the first part that differs. Raises UsageError if it is the output for another
    network."""
    from rescompile.drawing import Metric, by_amount, by_fault
    from rescompile.drawing.outline import Card
    from rescompile.ir.network import LOGITS, walk
    from rescompile.report.results import read_verdicts

    found = read_verdicts(file)
    worst = min(found.verdicts, key=lambda each: (each.passed, -each.error))
    replace(found, verdicts=(worst,)).check(network)
    words = f"relative error {worst.error:.2g}" if worst.error < math.inf else "not finite"
    title = f"{worst.target}, {words}"
    if not worst.parts or not all(map(math.isfinite, worst.parts.values())):
        return by_fault(opened, title, None if worst.passed else worst.first or LOGITS)

    def error(card: Card) -> float | None:
        inside = {path for scope, node in card.parts for path, _ in walk(node, scope)}
        return next((worst.parts[part] for part in reversed([*worst.parts]) if part in inside), None)

    return by_amount(opened, Metric(title, error, lambda value: f"error {value:.2g}"))
