"""Describes a network in words, and its differences from another one: the version of its paper, common implementations, or
the closest network of the zoo."""

from __future__ import annotations

from collections.abc import Sequence

from rescompile.diagnostics.errors import UsageError
from rescompile.diagnostics.notebook_views import NotebookView
from rescompile.explain.differences import Comparison, compare
from rescompile.explain.references import Reference, are_comparable, closest, is_of_zoo, of_spec, references_of
from rescompile.explain.stages import Structure, structure
from rescompile.ir.network import Network, parameters
from rescompile.records import record


@record(slots=False)
class Against:
    """A network compared with a reference. `closest`: the reference was found, not given. `renamed`: parameter names differ."""

    reference: Reference
    comparison: Comparison
    closest: bool
    renamed: bool


@record(slots=False)
class Explanation(NotebookView):
    """A network, its structure, and the comparisons with references."""

    network: Network
    structure: Structure
    against: tuple[Against, ...]


def explain(network: Network, against: Sequence[str] = ()) -> Explanation:
    """Compare a network with the specs in `against`, which are files or zoo networks; by default with its references in
    references.yaml, or if there are none with the closest network of the zoo.

    Raises SpecError and UsageError for a wrong `against`.
    """
    subject, names = structure(network), _names(network)
    known = is_of_zoo(network)
    given = [of_spec(spec) for spec in against] or (references_of(network.name) if known else [])
    for each in given:
        if not are_comparable(each.structure, subject):
            inputs = f"{each.structure.name} has an input of {list(each.structure.input)}, {network.name} one of {list(network.input)}"
            raise UsageError.of("E0802", f"{inputs}: only networks with the same number of axes can be compared")
    references = given or [each for each in [closest(subject, network.name if known else None)] if each]
    comparisons = tuple(
        Against(each, compare(each.structure, subject), not given, _names(each.network) != names) for each in references
    )
    return Explanation(network, subject, comparisons)


def _names(network: Network) -> set[str]:
    return {name for name, _ in parameters(network)}
