"""The ops of a network as a table, and the details of each part of its picture, as data for the script of a page.

Texts that occur often are listed once, and everything else refers to them by number, so the data of a thousand layers is small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import groupby
from typing import Any

from rescompile.analysis.cost import Cost, cost
from rescompile.analysis.tree_table import describe
from rescompile.drawing.op_titles import op_title
from rescompile.drawing.structure import is_copy, same
from rescompile.ir.network import Again, Network, Node, Op, Series, Side, children, join, name_of, scope
from rescompile.ir.ops import Act
from rescompile.ir.ops.op import size_text
from rescompile.records import record
from rescompile.report.picture import Picture

#: A network with more ops has the copies of a block with the same ops in one line of the table, with their number.
MOST = 5000


@record
class Layer:
    """An op with its full name. `copies` is the number of equal blocks that it stands for; `row` the row of the spec that it is in. An op
    that runs `again` has its parameters elsewhere."""

    name: str
    op: Op
    row: str
    lines: tuple[int, int] | None
    copies: int = 1
    again: bool = False

    @property
    def cost(self) -> Cost:
        """What the op costs here."""
        return replace(cost(self.op), parameters=0) if self.again else cost(self.op)


@dataclass(slots=True)
class Texts:
    """Texts by number."""

    listed: dict[str, int] = field(default_factory=dict)

    def __call__(self, text: str) -> int:
        """Return the number of a text."""
        return self.listed.setdefault(text, len(self.listed))


def layers(network: Network, spec: Sequence[str]) -> list[Layer]:
    """Return the ops of a network in the order of execution. `spec` are the lines of the canonical spec that it was elaborated
    from."""
    every = list(_layers(network.root, "", "", spec, folded=False))
    return every if len(every) <= MOST else list(_layers(network.root, "", "", spec, folded=True))


def _layers(
    node: Node, path: str, row: str, spec: Sequence[str], folded: bool, copies: int = 1
) -> Iterator[Layer]:  # fmt: skip
    """Yield the ops inside a node that lives in the scope `path`."""
    full, inner = join(path, name_of(node)), scope(path, node)
    if isinstance(node, Again):
        for layer in _layers(node.child, path, row or node.name, spec, folded, copies):
            yield replace(layer, name=f"{layer.name} (again)", again=True)
        return
    if isinstance(node, Op):
        yield Layer(full, node, row or full, lines(node, spec), copies)
        return
    if isinstance(node, Series) and (node.call or node.name):
        row = row or full or (node.call.block if node.call else "")
    inside = children(node)
    if folded:
        runs = (list(run) for _, run in groupby(inside, lambda each: same(each) if is_copy(each) else id(each)))
        for run in runs:
            yield from _layers(run[0], inner, row, spec, folded, copies * len(run))
        return
    for child in inside:
        yield from _layers(child, inner, row, spec, folded, copies)


def lines(node: Node, spec: Sequence[str]) -> tuple[int, int] | None:
    """Return the first and the last line of the step that a node came from, counted from 1; None for a node that a pass made. A
    step begins with its name, and ends before the next line that is not indented further."""
    origin = node.origin
    if origin is None or not 0 < origin.line <= len(spec):
        return None
    start = origin.line - 1
    steps = origin.path.split(".")
    if start and len(steps) > 1 and spec[start - 1].strip().removeprefix("- ") == f"{steps[-2]}:":
        start -= 1
    own, last = _indentation(spec[start]), start
    while last + 1 < len(spec) and _indentation(spec[last + 1]) > own:
        last += 1
    return start + 1, last + 1


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def data(network: Network, shown: Picture | None, listed: Sequence[Layer], spec: Sequence[str]) -> dict[str, Any]:
    """Return the table and the parts for the script: `texts`, `layers` and `parts`, whose entries docs/report.md describes."""
    texts, owners = Texts(), {} if shown is None else shown.owners
    rows = [
        [
            layer.name, texts(op_title(layer.op)), texts(size_text(layer.op.input)), texts(size_text(layer.op.output)), *astuple(layer.cost),
            owners.get(layer.name, -1), layer.copies, texts(layer.row), *(layer.lines or (0, 0)),
        ]
        for layer in listed
    ]  # fmt: skip
    parts = [] if shown is None else [_part(part, texts, spec) for part in shown.parts]
    return {"name": network.name, "texts": [*texts.listed], "layers": rows, "parts": parts}


def _part(part: Sequence[tuple[str, Node]], texts: Texts, spec: Sequence[str]) -> list[Any]:
    """Return a part of the picture: its name, what it is, the shapes of its ends, its costs, its number of blocks, and its
    lines."""
    names = list(dict.fromkeys(filter(None, (_name(path, node) for path, node in (part[0], part[-1])))))
    nodes = [node for _, node in part]
    words = list(dict.fromkeys(op_title(node) if isinstance(node, Op) else describe(node) for node in nodes))
    what = " · ".join(words if len(words) < 4 else [*words[:2], "...", words[-1]])
    last = nodes[-1].child if isinstance(nodes[-1], Side) else nodes[-1]
    found = [place for node in nodes if (place := lines(node, spec)) is not None]
    places = [number for place in dict.fromkeys(found) for number in place][:12]
    return [
        " – ".join(names), texts(what), texts(size_text(nodes[0].input)), texts(size_text(last.output)), *_costs(nodes), len(nodes), places
    ]  # fmt: skip


def _name(path: str, node: Node) -> str:
    return (node.output_name or path) if isinstance(node, Side) else join(path, name_of(node))


def _costs(nodes: Iterable[Node]) -> tuple[int, int, int]:
    """Parameters, MACs and bytes of activations of nodes."""
    total: Sequence[Cost] = [cost(node) for node in nodes]
    return sum(c.parameters for c in total), sum(c.macs for c in total), sum(c.activations for c in total)


def counts_by_word(listed: Sequence[Layer]) -> Mapping[str, int]:
    """Return how many ops there are of each word, most frequent first; activations by their own."""
    found: Counter[str] = Counter()
    for layer in listed:
        kind = layer.op.kind
        found[kind.kind if isinstance(kind, Act) else kind.word] += layer.copies
    return dict(found.most_common())
