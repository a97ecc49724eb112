"""An outline as nodes, edges and nested groups, for the languages of graphs: Mermaid and DOT lay them out themselves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from rescompile.drawing.merges import SIGNS, WORDS
from rescompile.drawing.op_titles import size_text
from rescompile.drawing.outline import Card, Chain, Frame, Item, Outline, Split, Tap
from rescompile.ir.network import LOGITS
from rescompile.records import record

Form: TypeAlias = Literal["card", "op", "merge", "end", "words"]
Way: TypeAlias = Literal["flow", "skip", "side"]


@record
class GraphNode:
    """A node with its lines of text."""

    id: str
    lines: tuple[str, ...]
    form: Form


@record
class Edge:
    """An edge, and the shape of what flows along it, where it is shown."""

    start: str
    end: str
    way: Way = "flow"
    label: str = ""


@dataclass(slots=True)
class Group:
    """Nodes and groups inside a border with a title."""

    id: str
    title: str
    inside: list[GraphNode | Group] = field(default_factory=list)


@dataclass(slots=True)
class Graph:
    """All groups inside one without a title, and all edges."""

    name: str
    whole: Group
    edges: list[Edge]


#: Where values come from: the node, how, and with which shape.
Sources: TypeAlias = Sequence[tuple[str, Way, str]]


def graph(outline: Outline) -> Graph:
    """Return the graph of an outline: the rows, and each panel as a group of its own."""
    maker = _Maker()
    network = outline.network
    start = maker.node(("input", size_text(network.input)), "end")
    ends = maker.chain(outline.rows, [(start, "flow", "")], every=True)
    maker.edges_to(maker.node((LOGITS, size_text(network.root.output)), "end"), ends)
    for panel in outline.panels:
        maker.enter(" ".join(filter(None, [panel.letter, panel.title, *panel.notes])))
        start = maker.node((size_text(panel.child.input),), "end")
        maker.edges_to(
            maker.node((size_text(panel.child.output),), "end"), maker.chain(panel.child, [(start, "flow", "")])
        )
        maker.leave()
    return Graph(network.name, maker.groups[0], maker.edges)


def _by(way: Way, sources: Sources) -> Sources:
    """Sources whose edges go another way."""
    return [(start, way, text) for start, _, text in sources]


class _Maker:
    """Makes nodes in the innermost of the open groups."""

    def __init__(self) -> None:
        self.groups: list[Group] = [Group("", "")]
        self.edges: list[Edge] = []
        self._numbers = itertools.count(1)

    def node(self, lines: Sequence[str], form: Form) -> str:
        """Make a node; returns its id."""
        made = GraphNode(f"n{next(self._numbers)}", tuple(filter(None, lines)), form)
        self.groups[-1].inside.append(made)
        return made.id

    def enter(self, title: str) -> None:
        """Open a group."""
        made = Group(f"n{next(self._numbers)}", title)
        self.groups[-1].inside.append(made)
        self.groups.append(made)

    def leave(self) -> None:
        """Close the innermost group."""
        self.groups.pop()

    def edges_to(self, end: str, sources: Sources) -> None:
        """Make an edge from each source."""
        self.edges += [Edge(start, end, way, text) for start, way, text in sources]

    def chain(self, chain: Chain, sources: Sources, every: bool = False) -> Sources:
        """Add the items of a chain, and return the source of its value. With `every`, all edges have a label."""
        before = chain.input
        for item in chain.items:
            ends = self._item(item, sources)
            if not isinstance(item, Tap):
                text = size_text(item.output) if every or item.output != before else ""
                sources = [(end, way, text or given) for end, way, given in ends]
                before = item.output
        return sources

    def _item(self, item: Item, sources: Sources) -> Sources:
        match item:
            case Card():
                many = f"{item.count} × " if item.count > 1 else ""
                letters = f" ({', '.join(item.letters)})" if item.letters else ""
                made = self.node((f"{many}{item.title}{letters}", *item.details), "card" if item.is_row else "op")
                self.edges_to(made, sources)
                return [(made, "flow", "")]
            case Frame():
                self.enter(
                    " ".join(filter(None, [f"{item.count} ×" if item.count > 1 else "", item.title, *item.notes]))
                )
                ends = self.chain(item.child, sources)
                self.leave()
                return ends
            case Tap():
                sides: Sources = [(start, "side", "") for start, _, _ in sources]
                ends = self.chain(item.child, sides)
                self.edges_to(self.node((item.label,), "end"), _by("side", ends))
                return sources
            case Split():
                return self._split(item, sources)

    def _split(self, item: Split, sources: Sources) -> Sources:
        ends: list[tuple[str, Way, str]] = []
        for at, branch in enumerate(item.branches):
            if item.copies and at == 1:
                words = self.node((f"{item.copies} paths",), "words")
                self.edges_to(words, [(start, "side", "") for start, _, _ in sources])
                ends.append((words, "side", ""))
            if branch.items and not (item.is_residual and at > 0 and at == len(item.branches) - 1):
                ends += self.chain(branch, sources)
            else:
                ends += _by("skip", self.chain(branch, _by("skip", sources)))
        merge = self.node(((SIGNS | WORDS)[item.merge], *item.notes), "merge")
        self.edges_to(merge, ends)
        return [(merge, "flow", "")]
