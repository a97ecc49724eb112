"""A network in words, and its differences to another one: to the form of its paper, to the common implementations, or to the
closest network of the zoo.

    stages        the structure of a network: stages of blocks
    facts         the table of facts about a network
    overlay       two networks laid over one another
    merger        two units merged step by step
    topics        the topics of differences
    distances     the distance and the alignment of parts of two networks
    differences   the differences by topic, with the cost of each alone
    references    the references that a network is compared with
    words         ops in words
    report        the explanation as data
    prose         the explanation as text
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rescompile.explain.differences import Comparison, compare
from rescompile.explain.references import Reference, closest, is_of_zoo, of_spec, references_of
from rescompile.explain.stages import Structure, structure
from rescompile.ir.network import Network, parameters


@dataclass(frozen=True)
class Against:
    """A network compared with a reference. `closest`: the reference was found, not given. `renamed`: parameter names differ."""

    reference: Reference
    comparison: Comparison
    closest: bool
    renamed: bool


@dataclass(frozen=True)
class Explanation:
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
    references = given or [closest(subject, network.name if known else None)]
    comparisons = tuple(
        Against(each, compare(each.structure, subject), not given, _names(each.network) != names) for each in references
    )
    return Explanation(network, subject, comparisons)


def _names(network: Network) -> set[str]:
    return {name for name, _ in parameters(network)}
