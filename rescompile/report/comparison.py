"""What a report of several networks contains: their figures side by side, and the differences of each from the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rescompile.analysis.conventions import Count, counts
from rescompile.analysis.cost import Cost, cost
from rescompile.analysis.memory import memory
from rescompile.analysis.paths import paths
from rescompile.diagnostics.errors import UsageError
from rescompile.drawing.beside import beside
from rescompile.drawing.outline import outline
from rescompile.drawing.scene import Scene
from rescompile.explain import Against, Explanation
from rescompile.explain.differences import compare
from rescompile.explain.references import Reference
from rescompile.explain.report import ABOUT
from rescompile.explain.stages import structure
from rescompile.ir.network import Network, parameters
from rescompile.ir.ops.op import size_text
from rescompile.records import record
from rescompile.report.charts import Point
from rescompile.report.facts import Comparison, Subject, is_countable, words
from rescompile.report.results import Measurements, Timing
from rescompile.version import __version__

#: Pictures of more networks than this, each beside the first, are left out.
PICTURES = 3
#: The cards of the two networks that are put beside each other.
CARDS = 60


@record
class Entry:
    """One of the networks: its figures, its measured times, and how it differs from the first; None for the first itself. `beside` is
    its picture beside the first, unless it has too many rows."""

    network: Network
    description: str
    cost: Cost
    peak: int
    layers: int
    counts: tuple[Count, ...]
    measurements: Measurements
    differences: Comparison | None
    beside: Scene | None


@record
class Overview:
    """Several networks, in the order in which they were given."""

    entries: tuple[Entry, ...]
    version: str

    @property
    def settings(self) -> tuple[tuple[str, str, int], ...]:
        """The runtimes, precisions and batches in which networks were timed, in the order of the files."""
        found = (_setting(timing) for entry in self.entries for timing in entry.measurements.timings)
        return tuple(dict.fromkeys(found))

    def timing(self, entry: Entry, setting: tuple[str, str, int]) -> Timing | None:
        """Return the first time of a network in a setting."""
        return next((each for each in entry.measurements.timings if _setting(each) == setting), None)

    def latencies(self, setting: tuple[str, str, int]) -> list[tuple[Entry, float]]:
        """Return the networks that were timed in a setting, with their medians in milliseconds."""
        timed = ((entry, self.timing(entry, setting)) for entry in self.entries)
        return [(entry, 1e3 * found.row.summary.p50) for entry, found in timed if found is not None]


def _setting(timing: Timing) -> tuple[str, str, int]:
    return timing.row.runtime, timing.row.precision, timing.row.batch


def points(pairs: Sequence[tuple[str, float, float]]) -> list[Point]:
    """Return the points of a plot with logarithmic axes, which has no place for zeros."""
    return [Point(name, x, y) for name, x, y in pairs if x > 0 and y > 0]


def overview(subjects: Sequence[Subject], measured: Sequence[Measurements]) -> Overview:
    """Gather the comparison of networks, of which the first is the reference."""
    return Overview(tuple(_entries(subjects, measured)), __version__)


def _entries(subjects: Sequence[Subject], measured: Sequence[Measurements]) -> Iterator[Entry]:
    reference, *_ = (subject.network for subject in subjects)
    for at, (subject, own) in enumerate(zip(subjects, measured, strict=True)):
        network = subject.network
        peak = max((moment.live for moment in memory(network)), default=0)
        layers = paths(network, "layers").longest if is_countable(network) else 0
        yield Entry(
            network, str(subject.about.get("description") or ""), cost(network), peak, layers, tuple(counts(network)), own,
            _differences(reference, network) if at else None,
            _beside(reference, network) if 0 < at <= PICTURES else None,
        )  # fmt: skip


def _differences(reference: Network, network: Network) -> Comparison:
    """Return the differences of a network from the reference, in the words of `explain`."""
    old, new = structure(reference), structure(network)
    names = {name for name, _ in parameters(reference)} != {name for name, _ in parameters(network)}
    against = Against(Reference(reference.name, reference, old), compare(old, new), False, names)
    (found,) = words(Explanation(network, new, (against,)), dict.fromkeys(ABOUT)).comparisons
    return found


def _beside(reference: Network, network: Network) -> Scene | None:
    """Return the picture of two networks, unless they have too many rows for one."""
    try:
        old, new = outline(reference, "rows"), outline(network, "rows")
    except UsageError:
        return None
    return None if max(len(each.rows.items) for each in (old, new)) > CARDS else beside(old, new)


def outputs(network: Network) -> str:
    """Return the outputs of a network with their shapes."""
    return ", ".join(f"{name} {size_text(sizes)}" for name, sizes in network.outputs.items())
