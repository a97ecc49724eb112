"""Weights as a mapping from parameter name to array, apart from the tree; an array is made when it is asked for."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # numpy takes longer to import than the rest of `build -t source`, which writes no weights
    from numpy.typing import NDArray

    Array = NDArray[Any]
else:
    Array = Any
#: The most bytes in arrays that are made ahead of the one being written.
AHEAD = 32 << 20
#: An array with fewer bytes is made by the caller: handing it to a thread would take longer.
SMALL = 16 << 10


class Weights(Mapping[str, Array]):
    """Arrays by parameter name, each computed anew on access. `seed` is the one that they were drawn from, or None for weights
    that were given."""

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
        """Return these weights with some makers replaced and some names dropped, as a pass changes them."""
        gone = set(dropped)
        kept = {name: make for name, make in self._makers.items() if name not in gone}
        return Weights({**kept, **makers}, self.seed)

    def in_order(
        self, names: Iterable[str], sizes: Callable[[str], int], threads: int | None = None
    ) -> Iterator[Array]:
        """Yield the arrays of `names` in order; several threads make them, but never far ahead of their use."""
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
