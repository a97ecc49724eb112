"""A picture as DOT, the language of Graphviz."""

from __future__ import annotations

from collections.abc import Iterator

from rescompile.diagnostics.errors import printable
from rescompile.drawing.graph import Graph, GraphNode, Group
from rescompile.drawing.palette import VERMILION
from rescompile.files.checksum import GENERATOR

_FORMS = {
    "card": 'shape=box style="rounded,bold"',
    "op": 'shape=box style="rounded"',
    "merge": 'shape=box style="rounded,filled" fillcolor="#eef1f5" height=0.3',
    "end": 'shape=box style="rounded,dashed" height=0.3',
    "words": "shape=plaintext",
}
_WAYS = {"flow": "", "skip": f'color="{VERMILION}" penwidth=2', "side": "style=dashed"}


def dot(graph: Graph) -> str:
    """Return the graph as DOT."""
    return "\n".join([*_lines(graph), ""])


def quoted(text: str) -> str:
    """Return a text as a string of DOT. A backslash would begin an escape, so it is doubled; strings in quotes are never
    HTML."""
    return '"' + printable(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _lines(graph: Graph) -> Iterator[str]:
    yield f"// {GENERATOR}"
    yield f"digraph {quoted(graph.name)} {{"
    yield '  node [fontname="Helvetica" fontsize=11]; edge [fontname="Helvetica" fontsize=9];'
    for each in graph.whole.inside:
        yield from _inside(each, "  ")
    for edge in graph.edges:
        facts = " ".join(filter(None, [_WAYS[edge.way], f"label={quoted(edge.label)}" if edge.label else ""]))
        yield f"  {edge.start} -> {edge.end}" + (f" [{facts}];" if facts else ";")
    yield "}"


def _inside(each: GraphNode | Group, indent: str) -> Iterator[str]:
    if isinstance(each, GraphNode):
        label = '"' + "\\n".join(quoted(line)[1:-1] for line in each.lines) + '"'
        yield f"{indent}{each.id} [label={label} {_FORMS[each.form]}];"
        return
    yield f"{indent}subgraph cluster_{each.id} {{"
    yield f'{indent}  label={quoted(each.title)}; fontname="Helvetica"; fontsize=11; color="#c3ccd6";'
    for inner in each.inside:
        yield from _inside(inner, indent + "  ")
    yield f"{indent}}}"
