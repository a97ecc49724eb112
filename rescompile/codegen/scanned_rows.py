"""Rows of the network itself whose equal copies may run in one scan: one module with their weights stacked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from rescompile.codegen.class_plan import ClassPlan, Group, Item, Join, Row, Scan, Tap, body_items
from rescompile.ir.network import Node, Parallel, Series, join, walk
from rescompile.ir.traversal import rewrite


def with_scans(plan: ClassPlan) -> ClassPlan:
    """Return the plan of a network with the equal copies marked in each of its rows. Rows inside blocks, and rows whose
    copies receive kept values, are unchanged."""
    root = plan.root
    tree = {path: node for path, node in walk(root.sample) if isinstance(node, Series)}
    return replace(plan, classes=[*plan.classes[:-1], replace(root, items=_marked(root.items, "", tree))])


def scans(plan: ClassPlan) -> tuple[Scan, ...]:
    """Return the marked copies, in the order of the network."""
    return tuple(row.scan for row in _rows(plan.root.items) if row.scan is not None)


def _marked(items: Sequence[Item], path: str, tree: Mapping[str, Series]) -> list[Item]:
    """Return items in the scope `path` with the equal copies in rows marked."""
    marked: list[Item] = []
    for item in items:
        match item:
            case Group():
                item = replace(item, items=_marked(item.items, join(path, item.name), tree))
            case Tap():
                item = replace(item, items=_marked(item.items, path, tree))
            case Join():
                item = replace(item, branches=[_marked(branch, path, tree) for branch in item.branches])
            case Row() if not item.values:
                full = join(path, item.name)
                item = replace(item, scan=_scan(full, tree[full]))
        marked.append(item)
    return marked


def _rows(items: Sequence[Item]) -> Iterator[Row]:
    """Yield the rows among items, including those inside items that do not become classes."""
    for item in body_items(items):
        if isinstance(item, Row):
            yield item
        elif isinstance(item, Group):
            yield from _rows(item.items)


def _scan(path: str, row: Series) -> Scan | None:
    """Return the longest run of at least two equal neighbours among the copies of a row; None if there is none."""
    names = tuple(str(copy.name) for copy in row.children if isinstance(copy, Series))
    changes = (one != other for one, other in itertools.pairwise(map(_shared, row.children)))
    numbers = list(itertools.accumulate(changes, initial=0))  # equal neighbours have one number
    longest = max((list(run) for _, run in itertools.groupby(range(len(names)), numbers.__getitem__)), key=len)
    if len(longest) < 2 or row.children[longest[0]].input != row.children[longest[0]].output:
        return None
    return Scan(path, names, longest[0], longest[-1] + 1)


def _shared(copy: Node) -> Node:
    """Return what equal copies share: all except their names and their survival probabilities in training."""

    def shared(_: str, node: Node) -> Node:
        if isinstance(node, Series):
            return replace(node, call=None)
        if isinstance(node, Parallel) and node.survival is not None:
            return replace(node, survival=replace(node.survival, probability=1.0))
        return node

    assert isinstance(copy, Series)
    return replace(rewrite(copy, shared), name=None, call=None)
