"""Which parts of a tree a picture draws as one: rows of copies, and blocks with the same ops."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from rescompile.ir.network import Node, Op, Parallel, Series, Side, walk
from rescompile.ir.ops import Identity
from rescompile.ir.traversal import FoldRules, fold


def kept(node: Node) -> bool:
    """Return whether a node is drawn: identities are lines. Outputs of features have an empty child and stay."""
    return isinstance(node, Side | Parallel) or not is_empty(node)


def is_empty(node: Node) -> bool:
    """Return whether a node is the identity, however it is written."""
    return all(
        isinstance(each, Series) or (isinstance(each, Op) and isinstance(each.kind, Identity)) for _, each in walk(node)
    )


def is_row(node: Series) -> bool:
    """Return whether a node is a row of copies of a block."""
    return node.call is None and bool(node.children) and all(map(is_copy, node.children))


def is_copy(node: Node) -> bool:
    """Return whether a node is one of the copies of a block."""
    return isinstance(node, Series) and node.call is not None and node.call.index is not None


def _joined(_: str, node: Series, inside: Sequence[str]) -> str:
    """Return the words of a list; equal copies of a block are one."""
    listed = [
        text for at, text in enumerate(inside) if not (at and is_copy(node.children[at]) and text == inside[at - 1])
    ]
    return " ".join(filter(None, listed))


def _merged(_: str, node: Parallel, branches: Sequence[str]) -> str:
    listed = branches if len(set(branches)) > 1 or len(branches) < 3 else [*branches[:1], "..."]
    return f"{node.merge}({' | '.join(listed)})"


#: The words of ops and merges, without numbers.
_SKELETON: FoldRules[str] = FoldRules(
    op=lambda _, op: "" if isinstance(op.kind, Identity) else op.kind.word,
    series=_joined,
    parallel=_merged,
    side=lambda _, node, inside: f"{node.mode}({inside})",
    again=lambda _, __, inside: f"again({inside})",
)


def skeleton(node: Series) -> str:
    """Return the structure of a block without its numbers; blocks with the same one are opened once."""
    return f"{node.call.block if node.call else ''}: {fold(node, _SKELETON)}"


_SAME: FoldRules[Hashable] = FoldRules(
    op=lambda _, op: None if isinstance(op.kind, Identity) else (op.kind, op.zeros),
    series=lambda _, __, inside: tuple(each for each in inside if each not in (None, ())),
    parallel=lambda _, node, branches: (node.merge, node.unit, node.split, node.survival is None, tuple(branches)),
    side=lambda _, node, inside: (node.mode, node.output_name, inside),
    again=lambda _, node, __: ("again", node.name),
)


def same(node: Node) -> Hashable:
    """Return what copies of a block must share to be drawn as one: every op with its numbers and every merge, but not shapes,
    names and survival probabilities."""
    return fold(node, _SAME)


def shortcut_merge(node: Series) -> str | None:
    """Return the merge of a block that adds or appends to its own input, or lets a part of it pass; None where there is
    none."""
    merges = (each for _, each in walk(node) if isinstance(each, Parallel) and each.merge != "mul")
    return next((each.merge for each in merges if each.residual or any(map(is_empty, each.branches))), None)


def survivals(copies: Iterable[Series]) -> list[float]:
    """Return the survival probabilities of the branches in copies, in order."""
    nodes = (each for copy in copies for _, each in walk(copy))
    return [each.survival.probability for each in nodes if isinstance(each, Parallel) and each.survival]
