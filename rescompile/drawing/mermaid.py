"""A picture as Mermaid, which GitHub renders in Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from rescompile.diagnostics.errors import printable
from rescompile.drawing.graph import Graph, GraphNode, Group
from rescompile.drawing.palette import VERMILION
from rescompile.files.checksum import GENERATOR

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:/+-_×·–→−")
#: The brackets of each form of node.
_BRACKETS = {"card": ("[", "]"), "op": ("[", "]"), "merge": ("([", "])"), "end": ("([", "])"), "words": ("[", "]")}
_ARROWS = {"flow": "-->", "skip": "==>", "side": "-.->"}


def mermaid(graph: Graph) -> str:
    """Return the graph as the text of a Mermaid diagram."""
    return "\n".join([*_lines(graph), ""])


def quoted(text: str) -> str:
    """Return a text in quotes; every character that could end it or mean something else is an entity of Mermaid."""
    return '"' + "".join(c if c in _PLAIN else f"#{ord(c)};" for c in printable(text)) + '"'


def _lines(graph: Graph) -> Iterator[str]:
    yield f"%% {GENERATOR}"
    yield "flowchart TD"
    yield f"  accTitle: {quoted(graph.name)[1:-1]}"
    for each in graph.whole.inside:
        yield from _inside(each, "  ")
    for edge in graph.edges:
        label = f"|{quoted(edge.label)}|" if edge.label else ""
        yield f"  {edge.start} {_ARROWS[edge.way]}{label} {edge.end}"
    skips = [str(at) for at, edge in enumerate(graph.edges) if edge.way == "skip"]
    if skips:
        yield f"  linkStyle {','.join(skips)} stroke:{VERMILION}"


def _inside(each: GraphNode | Group, indent: str) -> Iterator[str]:
    if isinstance(each, GraphNode):
        opening, closing = _BRACKETS[each.form]
        text = "<br>".join(quoted(line)[1:-1] for line in each.lines)
        yield f'{indent}{each.id}{opening}"{text}"{closing}'
        return
    yield f"{indent}subgraph {each.id}[{quoted(each.title)}]"
    yield f"{indent}  direction TB"
    for inner in each.inside:
        yield from _inside(inner, indent + "  ")
    yield f"{indent}end"
