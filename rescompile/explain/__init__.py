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
from dataclasses import dataclass, replace

from rescompile.explain.differences import Comparison, compare
from rescompile.explain.references import Reference, closest, is_of_zoo, of_spec, references_of
from rescompile.explain.stages import Structure, structure
from rescompile.ir.network import Network, parameters


@dataclass(frozen=True)
class Against:
    """A network compared with a reference. `closest`: the reference was found, not given. `renamed`: parameter names differ."""

    reference: Reference
    comparison: Comparison
    closest: bool = False
    renamed: bool = False


@dataclass(frozen=True)
class Explanation:
    """A network, its structure, and the comparisons with references."""

    network: Network
    structure: Structure
    against: tuple[Against, ...]


def explain(network: Network, against: Sequence[str] = ()) -> Explanation:
    """Explain a network: against the specs that `against` names (files, or names of the zoo); without any, against the references
    of its row in references.yaml; where it has none, against the closest network of the zoo.

    Raises SpecError and UsageError for a wrong `against`.
    """
    subject = structure(network)
    known = is_of_zoo(network)
    chosen = [of_spec(spec) for spec in against] or (references_of(network.name) if known else [])
    others = [Against(each, compare(each.structure, subject)) for each in chosen]
    if not chosen:
        reference = closest(subject, network.name if known else None)
        others.append(Against(reference, compare(reference.structure, subject), closest=True))
    return Explanation(network, subject, tuple(_named(each, network) for each in others))


def _named(other: Against, network: Network) -> Against:
    """Return the comparison with `renamed`."""
    old, new = ({name for name, _ in parameters(each)} for each in (other.reference.network, network))
    return replace(other, renamed=old != new)
