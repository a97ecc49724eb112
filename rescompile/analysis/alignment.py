"""The alignment of two sequences with the least cost (Needleman and Wunsch 1970)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
#: The indices of paired elements; None if an element of the other sequence has no partner.
Pairs = list[tuple[int | None, int | None]]


class NotAligned(Exception):
    """Two sequences are too long, or two networks have too little in common, to be aligned."""


def align(
    first: Sequence[T],
    second: Sequence[T],
    cost: Callable[[T, T], float],
    alone: Callable[[T], float],
    limit: int | None = None,
) -> tuple[float, Pairs]:
    """Return the least cost of turning one sequence into the other, and the pairs of indices in order.

    `cost` is that of a pair, `alone` that of an element without a partner. Equal elements at the start are paired first. If the
    product of the remaining lengths exceeds `limit`, equal elements at the end are paired too; raises NotAligned if it still does.
    """
    start, ends = 0, (len(first), len(second))
    while start < min(ends) and first[start] == second[start]:
        start += 1
    too_long = limit is not None and (ends[0] - start) * (ends[1] - start) > limit
    while too_long and min(ends) > start and first[ends[0] - 1] == second[ends[1] - 1]:
        ends = ends[0] - 1, ends[1] - 1
    a, b = first[start : ends[0]], second[start : ends[1]]
    if limit is not None and len(a) * len(b) > limit:
        raise NotAligned("they are too long to be aligned")
    best = [[0.0] * (len(b) + 1) for _ in range(len(a) + 1)]  # the least cost of a[i:] and b[j:]
    for i in reversed(range(len(a))):
        best[i][-1] = best[i + 1][-1] + alone(a[i])
    for j in reversed(range(len(b))):
        best[-1][j] = best[-1][j + 1] + alone(b[j])
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            best[i][j] = min(
                best[i + 1][j + 1] + cost(a[i], b[j]), best[i + 1][j] + alone(a[i]), best[i][j + 1] + alone(b[j])
            )
    pairs: Pairs = [(at, at) for at in range(start)]
    i = j = 0
    while i < len(a) or j < len(b):
        if i < len(a) and j < len(b) and best[i][j] == best[i + 1][j + 1] + cost(a[i], b[j]):
            pairs.append((start + i, start + j))
            i, j = i + 1, j + 1
        elif i < len(a) and best[i][j] == best[i + 1][j] + alone(a[i]):
            pairs.append((start + i, None))
            i += 1
        else:
            pairs.append((None, start + j))
            j += 1
    return best[0][0], [*pairs, *zip(range(ends[0], len(first)), range(ends[1], len(second)), strict=True)]
