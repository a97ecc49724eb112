"""Columns: corresponding nodes of all instances, and the properties that they share."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rescompile.codegen.columns import Column, Misfit, aligned
from rescompile.ir import ops
from rescompile.ir.network import Node, Op
from rescompile.ir.provenance import Origin


def relu(line: int, name: str = "relu") -> Op:
    """Return an op that originates from a line of a definition."""
    return Op(name, ops.Act("relu"), (4,), (4,), origin=Origin("net.yaml", line, ""))


def test_only_returns_a_shared_property() -> None:
    column = Column({0: relu(1), 2: relu(1)})
    assert column.only(lambda op: op.name) == "relu"
    column[5] = relu(1, "other")
    assert not column.share(lambda op: op.name)
    with pytest.raises(Misfit):
        column.only(lambda op: op.name)


def test_a_column_keeps_the_numbers_of_its_instances() -> None:
    column = Column({1: relu(1), 4: relu(1, "other")})
    assert column.map(lambda op: op.name) == {1: "relu", 4: "other"}
    assert column.of([4]).first.name == "other"


def lines(*lists: Sequence[int]) -> list[list[int]]:
    """Return the instances in each column of lists of ops that originate from these lines."""
    nodes: dict[int, Sequence[Node]] = {at: [relu(line) for line in listed] for at, listed in enumerate(lists)}
    return [list(column) for column in aligned(nodes)]


def test_nodes_of_one_step_correspond() -> None:
    assert lines([1, 2, 3], [1, 3]) == [[0, 1], [0], [0, 1]]


def test_a_step_that_the_first_instance_lacks_follows_the_one_before_it() -> None:
    assert lines([1, 4], [1, 2, 3, 4], [4, 5]) == [[0, 1], [1], [1], [0, 1, 2], [2]]


def test_nodes_of_one_step_correspond_by_position() -> None:
    assert lines([1, 1, 1], [1, 1]) == [[0, 1], [0, 1], [0]]


def test_contradicting_orders_are_a_misfit() -> None:
    with pytest.raises(Misfit):
        lines([1, 2], [2, 1])
