"""What a network is, in words, and where it departs from another one: from the form of its paper, from that of the common
implementations, or from the closest network of the zoo.

    stages        a network as stages of blocks
    facts         the table of what is said of a network
    overlay       two networks laid over one another
    merger        the same for two blocks, step by step
    topics        what a difference between them is about
    distances     how unlike parts of two networks are
    differences   what differs, and what each difference costs alone
    references    what a network is held against
    words         ops in words
    report        all of it as data
    prose         the text of that
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
    """A network held against a reference. `closest` says that the reference was found, not chosen."""

    reference: Reference
    comparison: Comparison
    closest: bool = False
    renamed: bool = False


@dataclass(frozen=True)
class Explanation:
    """A network, and what it was held against."""

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
        found = closest(subject, network.name if known else None)
        others.append(Against(found, compare(found.structure, subject), closest=True))
    return Explanation(network, subject, tuple(_named(each, network) for each in others))


def _named(other: Against, network: Network) -> Against:
    """With whether the parameters are called otherwise than those of the reference."""
    old, new = ({name for name, _ in parameters(each)} for each in (other.reference.network, network))
    return replace(other, renamed=old != new)
