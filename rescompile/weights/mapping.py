"""Weights as a mapping from parameter name to array, separate from the tree; an array is computed on access."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing numpy takes longer than the rest of `build -t source`, which does not need weights
    from numpy.typing import NDArray

    Array = NDArray[Any]
else:
    Array = Any
#: The maximum number of bytes in arrays that are computed ahead of the one being written.
AHEAD = 32 << 20
#: An array with fewer bytes is computed by the caller, since handing it to a thread would take longer.
SMALL = 16 << 10


class Weights(Mapping[str, Array]):
    """Arrays by parameter name, each computed anew on access. `seed` is the one that they were drawn from, or None for
    weights that were given; `calibrated` are drawn ones whose norms have the statistics of a batch. `preprocess` is the
    preprocessing of images in their training, if the file records it."""

    def __init__(
        self,
        makers: Mapping[str, Callable[[], Array]],
        seed: int | None = None,
        preprocess: Mapping[str, Any] | None = None,
        calibrated: bool = False,
    ) -> None:
        self._makers = dict(makers)
        self.seed = seed
        self.preprocess = preprocess
        self.calibrated = calibrated

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
        return Weights({**kept, **makers}, self.seed, self.preprocess, self.calibrated)

    def in_order(self, names: Iterable[str], sizes: Callable[[str], int]) -> Iterator[Array]:
        """Yield the arrays of `names` in order; several threads compute them, but never far ahead of their use."""
        pending: deque[tuple[int, Callable[[], Array]]] = deque()
        ahead = 0
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
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
