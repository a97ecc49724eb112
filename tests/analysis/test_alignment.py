"""The alignment of two sequences has the minimum cost, by exhaustive search."""

from __future__ import annotations

import math
import random
from functools import cache

import pytest

from rescompile.analysis.alignment import NotAligned, align


def distance(one: int, other: int) -> float:
    return 0 if one == other else math.inf if (one + other) % 5 == 0 else abs(one - other)


def alone(one: int) -> float:
    return 1 + one % 3


def minimum_cost(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """Return the minimum cost over all alignments."""

    @cache
    def cost(i: int, j: int) -> float:
        ways = []
        if i < len(first) and j < len(second):
            ways.append(distance(first[i], second[j]) + cost(i + 1, j + 1))
        if i < len(first):
            ways.append(alone(first[i]) + cost(i + 1, j))
        if j < len(second):
            ways.append(alone(second[j]) + cost(i, j + 1))
        return min(ways, default=0)

    return cost(0, 0)


@pytest.mark.parametrize("seed", range(40))
def test_the_cost_is_minimal(seed: int) -> None:
    """The cost is the minimum, and the pairs are in order, contain every element once, and add up to it."""
    rng = random.Random(seed)
    first, second = (tuple(rng.choices(range(6), k=rng.randrange(7))) for _ in range(2))
    cost, pairs = align(first, second, distance, alone)
    assert cost == minimum_cost(first, second)
    assert [i for i, _ in pairs if i is not None] == list(range(len(first)))
    assert [j for _, j in pairs if j is not None] == list(range(len(second)))
    total = 0.0
    for i, j in pairs:
        if i is not None and j is not None:
            total += distance(first[i], second[j])
        else:
            total += alone(first[i] if i is not None else second[j or 0])
    assert total == cost


def test_of_equal_elements_the_first_are_paired() -> None:
    """Of equal elements the first are paired, so that the blocks of a row keep their indices if the row becomes longer."""
    assert align("abb", "cbbb", distance_of_letters, lambda _: 1)[1] == [
        (0, None),
        (None, 0),
        (1, 1),
        (2, 2),
        (None, 3),
    ]


def distance_of_letters(one: str, other: str) -> float:
    return 0 if one == other else math.inf


def test_long_sequences_are_refused_unless_their_ends_agree() -> None:
    first, second = [*range(100)], [*range(50), -1, *range(50, 100)]
    assert align(first, second, distance, alone, limit=10)[1][50:52] == [(None, 50), (50, 51)]
    with pytest.raises(NotAligned):
        align(first, second[::-1], distance, alone, limit=10)
