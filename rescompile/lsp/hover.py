"""Hover: the documentation of what is under the cursor, and what the network knows of it."""

from __future__ import annotations

from collections.abc import Iterator

from lsprotocol.types import Hover, MarkupContent, MarkupKind, Position

from rescompile.ir.expressions import show
from rescompile.ir.network import Node
from rescompile.lsp.docs import about, heading
from rescompile.lsp.documents import Document
from rescompile.lsp.facts import Facts, described, listed
from rescompile.lsp.names import Entity
from rescompile.lsp.value_walker import Mention

_STEPS = ("step", "op", "block")
#: What the values of these places are values of.
_VALUES_OF = {"op value": "attribute", "block value": "parameter"}


def hover(document: Document, position: Position) -> Hover | None:
    """Return what is known of the thing at a position, or None."""
    mention = document.at(position)
    if mention is None:
        return None
    documentation = next(filter(None, (about(entity, document.index.names) for entity in subjects(mention))), "")
    facts = document.facts
    known = known_of(mention, facts) if facts is not None else []
    parts = [part for part in (documentation, *known) if part]
    if not parts:
        return None
    content = MarkupContent(MarkupKind.Markdown, "\n\n".join(parts))
    return Hover(content, document.lines.range(mention.place))


def subjects(mention: Mention) -> Iterator[Entity]:
    """Yield what a hover is about: the thing that is mentioned, or else the attribute or parameter that has this value."""
    if mention.entity is not None:
        yield mention.entity
    for offer, owner in mention.offers:
        if offer in _VALUES_OF:
            word, _, name = owner.partition(".")
            yield Entity(_VALUES_OF[offer], name, word)


def known_of(mention: Mention, facts: Facts) -> list[str]:
    """Return the nodes and values of the network that belong to a mention."""
    entity = mention.entity
    found: list[str] = []
    if entity is not None and entity.kind in _STEPS and (nodes := nodes_of(mention, facts)):
        found += [heading(entity.name) if entity.kind == "step" else "", described(nodes)]
    if entity is not None and entity.kind == "parameter" and (values := parameter_values(entity, facts)):
        found.append(f"Here: {listed(values)}")
    if mention.text is not None and (values := facts.values(mention.text, mention)):
        told = entity is not None and entity.kind == "parameter" and entity.name == mention.text
        if not told and [mention.text] != [show(value) for value in values]:
            found.append(f"`{mention.text}` = {listed(values)}")
    return found


def nodes_of(mention: Mention, facts: Facts) -> list[Node]:
    """Return the nodes of a step, at its own place or by its name."""
    entity = mention.entity
    assert entity is not None
    nodes = facts.nodes(mention)
    if not nodes and entity.kind == "step" and not entity.owner and entity.name in facts.by_name:
        nodes = [facts.by_name[entity.name]]
    return nodes


def parameter_values(entity: Entity, facts: Facts) -> list[object]:
    """Return the values that a parameter or let has in this network."""
    if not entity.owner:
        return [facts.parameters[entity.name]] if entity.name in facts.parameters else []
    values: list[object] = []
    for node in facts.by_block.get(entity.owner, {}).values():
        value = facts.scope_of(node).get(entity.name)
        if value is not None and value not in values:
            values.append(value)
    return values
