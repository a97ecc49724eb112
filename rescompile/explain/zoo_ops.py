"""Counts the ops of the networks of the zoo, so that a similar one is found without elaborating all of them.

`zoo_ops.json` has an entry for each network; `docs/make_zoo_index.py` writes it, and a test compares it with the zoo.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from rescompile.explain.stages import Structure, kinds, merges
from rescompile.records import record

FILE = Path(__file__).with_suffix(".json")


@record
class Entry:
    """A network: the number of axes of its input, and how often it has each op and merge, by their digests."""

    axes: int
    ops: Counter[str]

    @classmethod
    def of(cls, network: Structure) -> Entry:
        """Return the entry of a network. An op counts twice: with all attributes, and by its word and kernel."""
        counts = Counter[object]((merge.merge, merge.residual, len(merge.branches)) for merge in merges(network.whole))
        for kind in kinds(network.whole):
            counts.update((kind, (kind.word, getattr(kind, "kernel", None))))
        return cls(network.axes, Counter({_digest(each): count for each, count in counts.items()}))

    def unlike(self, other: Entry) -> float:
        """Return the share of ops that only one of two networks has."""
        one, two = self.ops, other.ops
        return ((one - two) + (two - one)).total() / max(1, one.total() + two.total())

    def data(self) -> dict[str, Any]:
        """Return the entry as data of JSON."""
        return {"axes": self.axes, "ops": dict(sorted(self.ops.items()))}


@cache
def entries() -> dict[str, Entry]:
    """Return the entries of the zoo by name."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: Entry(entry["axes"], Counter(entry["ops"])) for name, entry in content.items()}


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]
