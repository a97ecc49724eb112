"""`fold`, `thread` and `rewrite`, on a tree with named and unnamed nodes of every type; and the verifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rescompile.ir.network import Network, Node, Op, Parallel, Series, Side, children, name_of, walk
from rescompile.ir.ops import Act, Conv, Shape
from rescompile.ir.traversal import FoldRules, ThreadRules, fold, in_series, rewrite, thread, with_branches
from rescompile.ir.verifier import MalformedNetwork, verify

SHAPE: Shape = (4, 8, 8)


def op(name: str, shape: Shape = SHAPE) -> Op:
    return Op(name, Act("relu"), shape, shape)


def series(*nodes: Node, name: str | None = None, shape: Shape = SHAPE) -> Series:
    return Series(nodes, nodes[0].input if nodes else shape, nodes[-1].output if nodes else shape, name)


#: layer1 { a, (b), add { [c, d], [] }, side { e } }, split { [f], [g] }, h
TREE = series(
    series(
        op("a"),
        series(op("b")),
        Parallel("add", (series(op("c"), op("d")), series()), "add", SHAPE, SHAPE),
        Side(series(op("e")), "aux", "always", SHAPE),
        name="layer1",
    ),
    Parallel(
        "split",
        (series(op("f", (2, 8, 8))), series(op("g", (2, 8, 8)))),
        "concat", SHAPE, SHAPE, split=True,
    ),
    op("h"),
)  # fmt: skip
NAMES = "a", "b", "c", "d", "e", "f", "g", "h"


def names(root: Node) -> list[str]:
    return [path for path, node in walk(root) if isinstance(node, Op)]


def test_fold_and_walk_give_the_same_names() -> None:
    seen: list[tuple[str, Node]] = []

    def rule(path: str, node: Node, *_: Any) -> int:
        seen.append((path, node))
        return 1

    fold(TREE, FoldRules(rule, rule, rule, rule))
    assert sorted(seen, key=lambda pair: repr(pair)) == sorted(walk(TREE), key=lambda pair: repr(pair))
    assert seen[-1] == ("", TREE)  # leaves first


def test_fold_combines_values_in_order() -> None:
    text = fold(
        TREE,
        FoldRules[str](
            lambda _, node: node.name,
            lambda _, node, parts: f"({' '.join(parts)})",
            lambda _, node, parts: f"<{' '.join(parts)}>",
            lambda _, node, part: f"[{part}]",
        ),
    )
    assert text == "((a (b) <(c d) ()> [(e)]) <(f) (g)> h)"


def traced(**more: Callable[..., Any]) -> str:
    return thread(
        TREE,
        "x",
        ThreadRules[str](
            lambda path, node, value: f"{node.name}{value}", lambda path, node, values: f"({','.join(values)})", **more
        ),
    )


def test_thread_passes_the_value_on_and_skips_side_branches() -> None:
    assert traced() == "h(f(dcbax,bax),g(dcbax,bax))"


def test_thread_applies_the_rules_of_side_branches_and_splits() -> None:
    ends = {}

    def side(path: str, node: Side, value: str, through: Callable[[str], str]) -> None:
        ends[path, node.output_name] = through(value)

    def split(path: str, node: Parallel, value: str) -> list[str]:
        return [f"{path}{at}" for at in range(len(node.branches))] if node.split else [value] * len(node.branches)

    assert traced(side=side, split=split) == "h(fsplit0,gsplit1)"
    assert ends == {("layer1", "aux"): "e(dcbax,bax)"}


def test_thread_refuses_a_split_into_the_wrong_number() -> None:
    with pytest.raises(ValueError, match="zip"):
        traced(split=lambda path, node, value: [value])


def test_rewrite_without_changes_returns_the_same_object() -> None:
    assert rewrite(TREE, lambda path, node: node) is TREE
    assert rewrite(TREE, lambda path, node: (node,)) is TREE


def test_rewrite_visits_every_node_of_a_series_leaves_first() -> None:
    seen: list[str] = []

    def fn(path: str, node: Node) -> Node:
        seen.append(path)
        return node

    rewrite(TREE, fn)
    assert seen == [
        "layer1.a", "layer1.b", "layer1", "layer1.c", "layer1.d", "layer1.add", "layer1.e", "layer1", "layer1",
        "f", "g", "split", "h",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_rewrite_can_remove_rename_or_duplicate_a_node(name: str) -> None:
    (full,) = (path for path in names(TREE) if path.rpartition(".")[2] == name)

    def into(*made: str) -> Callable[[str, Node], Node | list[Node]]:
        return lambda path, node: (
            [replace(node, name=each) for each in made] if isinstance(node, Op) and path == full else node
        )

    for made in ((), ("new",), ("new", "newer")):
        changed = rewrite(TREE, into(*made))
        expected = [each for path in names(TREE) for each in (made if path == full else [path.rpartition(".")[2]])]
        assert [path.rpartition(".")[2] for path in names(changed)] == expected
        verify(Network("test", changed))
    assert names(TREE) == [*(f"layer1.{each}" for each in "abcde"), *"fgh"]  # the input is unchanged


def test_rewrite_visits_a_node_after_its_children() -> None:
    def fn(path: str, node: Node) -> Node:
        if isinstance(node, Op):
            return replace(node, name=f"{node.name}2")
        if path == "layer1" and name_of(node):
            assert names(node) == ["layer1.a2", "layer1.b2", "layer1.c2", "layer1.d2", "layer1.e2"]
        return node

    assert all(name.endswith("2") for name in names(rewrite(TREE, fn)))


def test_rewrite_updates_shapes() -> None:
    def fn(path: str, node: Node) -> Node | list[Node]:
        wider = Conv(6, (1, 1))
        if isinstance(node, Op) and path == "h":
            return [node, Op("wider", wider, SHAPE, wider.output(SHAPE))]
        return node

    changed = rewrite(TREE, fn)
    assert changed.output == (6, 8, 8)
    verify(Network("test", changed))

    narrow: Shape = (2, 8, 8)
    merge = children(TREE)[1]
    assert isinstance(merge, Parallel)
    three = with_branches(merge, [*merge.branches, series(shape=narrow)])
    assert (three.input, three.output) == ((6, 8, 8), (6, 8, 8))
    assert in_series([op("a", narrow)], TREE).output == narrow


def test_a_part_can_be_traversed_within_a_scope() -> None:
    seen = []
    part = children(TREE)[0]
    assert isinstance(part, Series)

    def fn(path: str, node: Node) -> Node:
        seen.append(path)
        return node

    rewrite(part, fn, "outer")
    assert seen[0] == "outer.layer1.a"
    thread(part, None, ThreadRules(lambda path, node, _: seen.append(path), lambda *_: None), "outer")
    assert seen[-1] == "outer.layer1.d"


def test_many_blocks_do_not_need_a_deep_stack() -> None:
    long = series(*(op(f"r{at}") for at in range(5000)))
    assert thread(long, 0, ThreadRules[int](lambda _, __, n: n + 1, lambda *_: 0)) == 5000
    assert len(rewrite(long, lambda path, node: () if path.endswith("7") else node).children) == 4500


# --- the verifier -----------------------------------------------------------------------------------------------------


def malformed(root: Series, which: str, **changes: Any) -> Network:
    """Return the tree with one node changed and nothing else adapted to it."""

    def fn(path: str, node: Node) -> Node:
        return replace(node, **changes) if isinstance(node, Op | Parallel | Series) and node.name == which else node

    def unchecked(node: Any) -> Any:
        """Rewrite a node without updating the shapes around it."""
        match node:
            case Series():
                node = replace(node, children=tuple(unchecked(child) for child in node.children))
            case Parallel():
                node = replace(node, branches=tuple(unchecked(branch) for branch in node.branches))
            case Side():
                node = replace(node, child=unchecked(node.child))
        return fn("", node)

    return Network("test", unchecked(root))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("b", {"output": (5, 8, 8)}, r"layer1: inferred \(5, 8, 8\), declared \(4, 8, 8\)"),
        ("d", {"input": (5, 8, 8), "output": (5, 8, 8)}, r"d in layer1 expects \(5, 8, 8\) and is given \(4, 8, 8\)"),
        ("e", {"input": (4, 4, 4), "output": (4, 4, 4)}, r"e in layer1 expects"),
        ("add", {"output": (8, 8, 8)}, r"a part in layer1 expects \(4, 8, 8\) and is given \(8, 8, 8\)"),
        ("add", {"merge": "concat"}, r"layer1\.add: inferred \(8, 8, 8\), declared \(4, 8, 8\)"),
        ("split", {"split": False}, r"a part in split expects \(2, 8, 8\) and is given \(4, 8, 8\)"),
        ("split", {"residual": True}, "split cannot split 4 channels among 2 branches"),
        ("split", {"sizes": (1, 3)}, r"a part in split expects \(2, 8, 8\) and is given \(1, 8, 8\)"),
        ("split", {"sizes": (1, 2)}, "split cannot split 4 channels among 2 branches"),
        ("split", {"sizes": (1, 1, 2)}, "split cannot split 4 channels among 2 branches"),
        ("layer1", {"output": (1, 8, 8)}, r"split in the network expects \(4, 8, 8\) and is given \(1, 8, 8\)"),
        ("c", {"name": "a"}, r"two nodes are called layer1\.a"),
        ("g", {"name": "h"}, "two nodes are called h"),
    ],
)
def test_the_verifier_checks_every_shape_and_name(name: str, changes: dict[str, Any], message: str) -> None:
    verify(Network("test", TREE))
    with pytest.raises(MalformedNetwork, match=message):
        verify(malformed(TREE, name, **changes))
