"""Weights as a mapping from parameter name to array, apart from the tree; an array is made when it is asked for."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
#: Arrays that are drawn ahead of the one being written hold at most so many bytes.
AHEAD = 32 << 20
#: An array of fewer bytes is made where it is used: handing it to a thread would take longer.
SMALL = 16 << 10


class Weights(Mapping[str, Array]):
    """Arrays by parameter name, each made anew when asked for. `seed` is the one that they were drawn from, None where they
    were given."""

    def __init__(self, makers: Mapping[str, Callable[[], Array]], seed: int | None = None) -> None:
        self._makers = dict(makers)
        self.seed = seed

    def __getitem__(self, name: str) -> Array:
        return self._makers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def replaced(self, makers: Mapping[str, Callable[[], Array]], dropped: Iterable[str] = ()) -> Weights:
        """These weights with some made differently and some left out; what a pass does to them."""
        gone = set(dropped)
        kept = {name: make for name, make in self._makers.items() if name not in gone}
        return Weights({**kept, **makers}, self.seed)

    def in_order(
        self, names: Iterable[str], sizes: Callable[[str], int], threads: int | None = None
    ) -> Iterator[Array]:
        """The arrays of `names` in order, made on several threads but never far ahead of their use."""
        workers = threads or os.cpu_count() or 1
        pending: deque[tuple[int, Callable[[], Array]]] = deque()
        ahead = 0
        with ThreadPoolExecutor(workers) as pool:
            try:
                for name in names:
                    size = sizes(name)
                    while pending and (ahead + size > AHEAD or len(pending) > 64):
                        done, array = pending.popleft()
                        ahead -= done
                        yield array()
                    make = self._makers[name]
                    pending.append((size, make if size < SMALL else pool.submit(make).result))
                    ahead += size
                while pending:
                    yield pending.popleft()[1]()
            finally:
                pool.shutdown(cancel_futures=True)
