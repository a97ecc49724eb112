"""Removes invalid parts of a document, so that a single run also reports the mistakes in the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from rescompile.diagnostics.errors import Diagnostic, Place, clipped
from rescompile.lang.yaml_reader import Items, Located, Mapping, Scalar, entries


def empties(node: Located) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each key and list entry without a value, which YAML reads as null."""
    for name, place, value in entries(node):
        if _is_null(value) and name is None:
            yield Diagnostic("E0104", "empty list entry", place, help="for a step that does nothing, write 'identity'")
        elif name is not None and _is_null(value):
            help = "give it a value, or remove the key"
            yield Diagnostic("E0104", f"'{clipped(name)}' has no value", place, help=help)
        yield from empties(value)


def without_empties(node: Located) -> Located:
    """Return a copy without the keys and entries that have no value."""
    match node:
        case Mapping():
            kept = {
                name: (key, without_empties(value))
                for name, (key, value) in node.entries.items()
                if not _is_null(value)
            }
            return Mapping(kept, node.place)
        case Items():
            return Items(tuple(without_empties(item) for item in node.items if not _is_null(item)), node.place)
    return node


def _is_null(node: Located) -> bool:
    return isinstance(node, Scalar) and node.value is None


def without_forms(document: Mapping, wrong: Sequence[Sequence[str | int]]) -> Mapping:
    """Return the document without the rows (or, outside the network, the keys) that have errors of form."""
    rows = {loc[1] for loc in wrong if loc[:1] == ("network",) and len(loc) > 1}
    keys = {loc[0] for loc in wrong if loc} - {"network"}
    document = Mapping({key: entry for key, entry in document.entries.items() if key not in keys}, document.place)
    network = document.get("network")
    if isinstance(network, Items):
        kept = tuple(item for at, item in enumerate(network.items) if at not in rows)
        document = document.put("network", Items(kept, network.place) if kept else None)
    return document


def without_places(document: Mapping, wrong: Collection[Place]) -> Mapping | None:
    """Return the document without the rows that contain one of these places, or None if no row remains."""
    network = document.get("network")
    if not isinstance(network, Items):
        return None
    bad = {(place.source.name, place.line, place.column) for place in wrong}
    kept = tuple(i for i in network.items if not bad & {(p.source.name, p.line, p.column) for p in _places(i)})
    return document.put("network", Items(kept, network.place)) if kept else None


def _places(node: Located) -> Iterator[Place]:
    yield node.place
    for _, place, value in entries(node):
        yield place
        yield from _places(value)
