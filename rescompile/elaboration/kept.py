"""The kept values that steps may use at some place: their shapes, and where they may be kept again.

A branch sees the values around it; what it keeps is known in that branch alone. A block sees only those that it names.
"""

from __future__ import annotations

from collections.abc import Collection

from rescompile.ir.network import Key
from rescompile.ir.ops import Shape


class Kept:
    """The values of the network, of one use of a block, or of one branch; `names` are those that a block shares with
    `around`, None for a branch, which sees all of them. `ever` are the values kept so far, in branches too."""

    def __init__(self, around: Kept | None = None, names: Collection[str] | None = ()) -> None:
        self.around, self.names = around, names
        self.own: dict[Key, Shape] = {}
        self.written: dict[Key, Shape] = {}  # into `around`
        self.ever: set[Key] = around.ever if around is not None and names is None else set()

    def branch(self) -> Kept:
        """Return the values in a branch that begins here."""
        return Kept(self, None)

    def shape(self, key: Key) -> Shape | None:
        """Return the shape of a value; None if it is not known here."""
        if key in self.own:
            return self.own[key]
        return self.around.shape(key) if self.around is not None and self._sees(key) else None

    def keeps_outside(self, key: Key) -> bool:
        """Return whether a value was kept outside the current branch, so that it cannot be kept again
        here."""
        if self.around is None or not self._sees(key):
            return False
        if self.names is not None:
            return self.around.keeps_outside(key)
        return key not in self.own and self.around.shape(key) is not None

    def keep(self, key: Key, shape: Shape) -> None:
        """Keep a value from here on."""
        self.ever.add(key)
        if self.around is not None and self.names is not None and self._sees(key):
            self.written[key] = shape
            self.around.keep(key, shape)
        else:
            self.own[key] = shape

    def shared(self, names: Collection[str]) -> dict[Key, Shape]:
        """Return the values with these names that are known here."""
        if not names:
            return {}
        found = {key: shape for key, shape in self.own.items() if key[0] in names}
        if self.around is not None:
            seen = names if self.names is None else [name for name in names if name in self.names]
            found = {**self.around.shared(seen), **found} if seen else found
        return found

    def known(self) -> list[Key]:
        """Return the values that are known here."""
        around = self.around
        seen = [] if around is None else [key for key in around.known() if self._sees(key)]
        return [*seen, *self.own]

    def _sees(self, key: Key) -> bool:
        return self.names is None or key[0] in self.names
