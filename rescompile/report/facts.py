"""What a report of one network contains, gathered before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from rescompile import backend
from rescompile.analysis.conventions import Count, counts
from rescompile.analysis.cost import Cost, cost
from rescompile.analysis.memory import Moment, memory
from rescompile.analysis.paths import Paths, Surviving, paths, surviving
from rescompile.analysis.tree_table import rows
from rescompile.bench.profiling import owners
from rescompile.diagnostics.errors import RescompileError, Source, UsageError
from rescompile.elaboration import elaborate
from rescompile.explain import Explanation, explain, text_report
from rescompile.explain.report import ABOUT, report
from rescompile.ir.network import Network, Parallel, Side, walk
from rescompile.ir.ops.op import size_text
from rescompile.lang.load import load_text
from rescompile.passes import apply, options
from rescompile.records import record
from rescompile.report.layers import Layer, data, layers
from rescompile.report.picture import Picture, picture
from rescompile.report.results import Measurements, Timing
from rescompile.version import __version__

#: A network with more merges is not asked for its paths, whose number would have as many digits.
MOST_MERGES = 5000
#: The most bars of a chart of memory, of which each shows the largest value of as many ops as needed.
MOST_BARS = 900
#: The most profiles that the table of rows has columns for.
PROFILES = 3


@record
class Subject:
    """A network to report on, and the keys of ABOUT that its spec has."""

    network: Network
    about: Mapping[str, Any]


@record
class RowFacts:
    """A row of the spec; `times` are its seconds in each profile, or None where the profile has no such row."""

    name: str
    what: str
    level: int
    output: str
    cost: Cost
    part: int
    times: tuple[float | None, ...]

    @property
    def title(self) -> str:
        """The name of the row, or that of its block or op."""
        return self.name or self.what.partition("(")[0]


@record
class Lengths:
    """The paths of a network by their number of residual branches, and the expected ones in training where branches are dropped."""

    paths: Paths
    shares: tuple[float, ...]
    expected: Surviving | None


@record
class Comparison:
    """The differences from a reference: a heading, and for each difference its words and its cost."""

    heading: str
    differences: tuple[tuple[str, str], ...]
    total: str


@record
class Words:
    """The explanation of a network: sentences, the table of stages, and comparisons with references."""

    sentences: str
    stages: tuple[Mapping[str, Any], ...]
    comparisons: tuple[Comparison, ...]


@record
class Report:
    """Everything that the page of one network shows. `undrawn` is the reason why there is no picture, or empty; `data` is what the
    script of the page gets; `sources` are the generated source files by target."""

    network: Network
    about: Mapping[str, Any]
    version: str
    total: Cost
    depth: tuple[int, int]
    outputs: tuple[tuple[str, str], ...]
    picture: Picture | None
    undrawn: str
    rows: tuple[RowFacts, ...]
    profiles: tuple[Timing, ...]
    layers: tuple[Layer, ...]
    words: Words
    lengths: Lengths | None
    memory: tuple[Moment, ...]
    counts: tuple[Count, ...]
    sources: tuple[tuple[str, str], ...]
    measurements: Measurements
    data: Mapping[str, Any]

    @property
    def peak(self) -> Moment | None:
        """The moment with the most bytes alive."""
        return max(self.memory, key=lambda moment: moment.live, default=None)

    @property
    def bars(self) -> tuple[int, list[float], list[tuple[int, str]]]:
        """The memory for a chart: the number of ops in one bar, the MiB of each bar, and the bar where each row begins."""
        size = -(-len(self.memory) // MOST_BARS) or 1
        live = [moment.live / 2**20 for moment in self.memory]
        tops = [max(live[at : at + size]) for at in range(0, len(live), size)]
        row_of = {layer.name: layer.row for layer in self.layers}
        marks: dict[str, int] = {}
        for at, moment in enumerate(self.memory):
            if moment.name in row_of:
                marks.setdefault(row_of[moment.name], at // size)
        return size, tops, [(at, name) for name, at in marks.items()]


def facts(subject: Subject, measurements: Measurements) -> Report:
    """Gather the report of a network. Raises SpecError and UsageError."""
    network = canonical(subject.network)
    spec = network.text.splitlines()
    shown, undrawn = _picture(network)
    listed = layers(network, spec)
    profiles = tuple(each for each in measurements.timings if each.row.profile)[:PROFILES]
    about = {key: subject.about.get(key) for key in ABOUT}
    longest = paths(network, "layers") if is_countable(network) else None
    return Report(
        network, about, __version__, cost(network), (longest.longest, longest.shortest) if longest else (0, 0),
        tuple((name, size_text(sizes)) for name, sizes in network.outputs.items()),
        shown, undrawn, tuple(_rows(network, shown, profiles)), profiles, tuple(listed), words(explain(network), about),
        _lengths(network), tuple(memory(network)), tuple(counts(network)), tuple(_sources(network)), measurements,
        data(network, shown, listed, spec),
    )  # fmt: skip


def canonical(network: Network) -> Network:
    """Return the same network, elaborated from its canonical text, so that its nodes know their lines there."""
    found = elaborate(load_text(Source("canonical spec", network.text)))
    found, _ = apply(found, None, options(network.passes))
    assert found.root == network.root
    return replace(found, name=network.name)


def _picture(network: Network) -> tuple[Picture | None, str]:
    try:
        return picture(network), ""
    except UsageError as error:
        return None, error.diagnostics[0].message


def _rows(network: Network, shown: Picture | None, profiles: Sequence[Timing]) -> Iterator[RowFacts]:
    """Yield the rows of the spec in order, with the part of the picture that shows each."""
    part_of, _ = owners(network)
    seconds = [{share.part: share.seconds for share in each.row.profile or ()} for each in profiles]
    parts = () if shown is None else shown.parts  # those of rows come first
    numbers = {id(node): at for at, part in reversed([*enumerate(parts)]) for _, node in part}
    names = {id(node): name for name, node in walk(network.root)}
    for row in rows(network, 1):
        own = names[id(row.node)]
        inside = [part_of[name] for name, _ in walk(row.node, own.rpartition(".")[0]) if name in part_of]
        times = tuple(each.get(inside[0]) if inside else None for each in seconds)
        last = row.node.child if isinstance(row.node, Side) else row.node
        at = next((numbers[id(node)] for _, node in walk(row.node) if id(node) in numbers), -1)
        yield RowFacts(row.name, row.what, row.level, size_text(last.output), row.cost, at, times)


def is_countable(network: Network) -> bool:
    """Return whether a network has few enough merges for its paths to be counted."""
    return sum(isinstance(node, Parallel) for _, node in walk(network.root)) <= MOST_MERGES


def _lengths(network: Network) -> Lengths | None:
    """Return the distribution of paths; None for a network with too many merges, or without a path."""
    if not is_countable(network):
        return None
    found = paths(network)
    if not found.total:
        return None
    shares = tuple(float(Fraction(number, found.total)) for number in found.counts)
    return Lengths(found, shares, surviving(network))


def _sources(network: Network) -> Iterator[tuple[str, str]]:
    """Yield the source file of each target that generates Python and can be loaded here."""
    for target in backend.targets():
        try:
            loaded = backend.load(target)
            if loaded.SUFFIX.endswith(".py"):
                yield target, loaded.emit(network, None).to_bytes().decode()
        except RescompileError:
            continue  # a package is missing, or the target cannot express this network; `build` says why


def words(explanation: Explanation, about: Mapping[str, Any]) -> Words:
    """Return an explanation in the words of `explain`."""
    found = report(explanation, about)
    comparisons = tuple(
        Comparison(
            text_report.heading(other),
            tuple((each["words"], text_report.figures(each)) for each in other["differences"]),
            "" if other["aligned"] and not other["differences"] else text_report.figures(other),
        )
        for other in found["against"]
    )
    return Words(" ".join(text_report.sentences(found, explanation)), tuple(found["stages"]), comparisons)
