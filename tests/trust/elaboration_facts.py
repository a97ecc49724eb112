"""Compare the network that rescompile elaborates from a document with the second reading of the document."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, zip_longest
from typing import Any

from lines import Join, Leaf, Line, Mark, Rerun, leaves
from reading import Reading

from rescompile.analysis.cost import cost
from rescompile.ir.network import (
    Again,
    Keep,
    Key,
    Network,
    Node,
    Op,
    Parallel,
    Recall,
    Series,
    Side,
    join,
    parameters,
)

Fact = tuple[Any, ...]


def of_line(line: Line) -> Iterator[Fact]:
    """Yield the facts of a line in order."""
    for part in line:
        if isinstance(part, Leaf):
            if part.word != "identity":
                name = part.name if part.made.tensors else None
                yield "op", name, part.word, tuple(sorted(part.made.attributes.items())), part.input, part.made.output
        elif isinstance(part, Join):
            yield "merge", part.merge, part.residual, bool(part.split), part.survival, part.unit, len(part.branches)
            for branch in part.branches:
                yield ("branch",)
                yield from of_line(branch)
            yield ("merged",)
        elif isinstance(part, Mark):
            yield part.word, part.name, part.index, part.number, part.shape
        elif isinstance(part, Rerun):
            yield "again", part.name
            yield from of_line(part.line)
            yield ("ran",)
        else:
            yield "side", part.mode, part.output
            yield from of_line(part.line)
            yield "end of side", part.shape


def of_tree(
    node: Node, taken: frozenset[str], kept: dict[Key, int], numbers: Iterator[int], path: str = ""
) -> Iterator[Fact]:
    """Yield the facts of a tree in the same form, without features (`taken`), which are compared by shape. `kept` maps
    the keys of visible values to their numbers."""
    match node:
        case Op(name=name, kind=kind):
            if kind.word != "identity":
                attributes = tuple(sorted(vars(kind).items()))
                owned = join(path, name) if kind.parameters(node.input) else None
                yield "op", owned, kind.word, attributes, node.input, node.output
        case Series(children=children):
            names = None if node.call is None else node.call.values
            known = kept if names is None else {key: at for key, at in kept.items() if key[0] in names}
            for child in children:
                yield from of_tree(child, taken, known, numbers, join(path, node.name))
            kept.update((key, at) for key, at in known.items() if names is None or key[0] in names)
        case Keep(key=key):
            kept[key] = next(numbers)
            yield "keep", *key, kept[key], node.output
        case Recall(key=key):
            yield "use", *key, kept.get(key), node.output
        case Again(name=name, child=child):
            yield "again", name
            yield from of_tree(child, taken, {}, numbers, path)
            yield ("ran",)
        case Parallel(branches=branches, survival=own):
            survival = (own.probability, own.unit, own.rescale) if own else None
            yield "merge", node.merge, node.residual, node.split, survival, node.unit, len(branches)
            for branch in branches:
                yield ("branch",)
                yield from of_tree(branch, taken, dict(kept), numbers, path)
            yield ("merged",)
        case Side() if node.output_name in taken and not node.child.children:
            return
        case Side():
            yield "side", node.mode, node.output_name
            yield from of_tree(node.child, taken, dict(kept), numbers, path)
            yield "end of side", node.child.output


def same(first: Any, second: Any) -> bool:
    """Return whether two facts are equal, with floats up to rounding."""
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float) or isinstance(second, float):
        return isinstance(first, int | float) and isinstance(second, int | float) and math.isclose(first, second)
    return bool(first == second)


def difference(reading: Reading, network: Network) -> str | None:
    """Return the first difference between a reading and a network, or None."""
    taken = frozenset(reading.document.get("features", ()))
    for wanted, found in zip_longest(of_line(reading.line), of_tree(network.root, taken, {}, count())):
        if not same(wanted, found):
            return f"read {wanted}, elaborated {found}"
    total = cost(network)
    facts = {
        "outputs": (reading.outputs, dict(network.outputs)),
        "parameters": (reading.parameters, total.parameters),
        "MACs": (reading.macs, total.macs),
        "tensors": (_tensors(reading.line), [(name, parameter.shape) for name, parameter in parameters(network)]),
    }
    for what, (wanted, found) in facts.items():
        if wanted != found:
            return f"{what}: read {wanted}, elaborated {found}"
    return None


def _tensors(line: Line) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{leaf.name}.{name}", shape) for leaf in leaves(line) for name, shape in leaf.made.tensors]
