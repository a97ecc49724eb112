"""Two sequences, aligned by least cost (Needleman and Wunsch 1970)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

#: Sequences of which one has more than this by the other are not aligned: it would take too long.
MOST_PAIRS = 400_000

T = TypeVar("T")


class NotAligned(Exception):
    """Two sequences, or two networks, have too little in common to say what became of what."""


def least(
    first: Sequence[T], second: Sequence[T], cost: Callable[[T, T], float], alone: Callable[[T], float]
) -> list[tuple[int | None, int | None]]:
    """The alignment of two sequences of least cost, as pairs of places; None where one has nothing. What both begin and
    end with alike is paired first. Raises NotAligned where the rest is too long."""
    start, ends = 0, (len(first), len(second))
    while start < min(ends) and first[start] == second[start]:
        start += 1
    while min(ends) > start and first[ends[0] - 1] == second[ends[1] - 1]:
        ends = ends[0] - 1, ends[1] - 1
    rows, columns = ends[0] - start, ends[1] - start
    if rows * columns > MOST_PAIRS:
        raise NotAligned("they are too long to be aligned")
    best = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows - 1, -1, -1):
        best[i][columns] = best[i + 1][columns] + alone(first[start + i])
    for j in range(columns - 1, -1, -1):
        best[rows][j] = best[rows][j + 1] + alone(second[start + j])
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            best[i][j] = min(
                best[i + 1][j + 1] + cost(first[start + i], second[start + j]),
                best[i + 1][j] + alone(first[start + i]),
                best[i][j + 1] + alone(second[start + j]),
            )
    steps: list[tuple[int | None, int | None]] = [(at, at) for at in range(start)]
    i = j = 0
    while i < rows or j < columns:
        if i < rows and j < columns and best[i][j] == best[i + 1][j + 1] + cost(first[start + i], second[start + j]):
            steps.append((start + i, start + j))
            i, j = i + 1, j + 1
        elif i < rows and best[i][j] == best[i + 1][j] + alone(first[start + i]):
            steps.append((start + i, None))
            i += 1
        else:
            steps.append((None, start + j))
            j += 1
    steps += zip(range(ends[0], len(first)), range(ends[1], len(second)), strict=True)
    return steps
