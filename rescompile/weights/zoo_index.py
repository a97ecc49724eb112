"""Finds the zoo networks that tensors fit, by digests of names and shapes, without reading any spec.

`zoo_index.json` has an entry for each network; `docs/make_zoo_index.py` writes it, and a test compares it with the zoo.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

from rescompile.analysis.heads import heads
from rescompile.ir.network import Network, parameters
from rescompile.ir.ops import Shape
from rescompile.records import record

FILE = Path(__file__).with_suffix(".json")


@record
class Entry:
    """A network: the first parts of its names, its classifiers, its number of classes, and the digests of its tensors, where
    classifiers count without their number of classes, and without classifiers."""

    rows: tuple[str, ...]
    heads: tuple[str, ...]
    classes: int
    whole: str
    body: str

    @classmethod
    def of(cls, network: Network) -> Entry:
        """Return the entry of a network."""
        shapes = {name: parameter.shape for name, parameter in parameters(network)}
        ends = dict(heads(network))
        rows = tuple(sorted({name.partition(".")[0] for name in shapes}))
        classes = max((op.output[0] for op in ends.values()), default=0)
        own = tuple(sorted(ends))
        return cls(rows, own, classes, _digest(shapes, own), _digest(_without(shapes, own), ()))


def fitting(shapes: Mapping[str, Shape]) -> dict[str, int | None]:
    """Return the networks that tensors fit, the shortest name first, each with the number of classes of the tensors if that
    is another one. Tensors outside the rows of a network and prefixes of its names are ignored; its classifier may be
    missing."""
    for some in _below_prefixes(shapes):
        tensors = cache(lambda rows, some=some: {k: shape for k, shape in some.items() if k.partition(".")[0] in rows})
        digest = cache(lambda rows, heads, tensors=tensors: _digest(tensors(rows), heads))
        found: dict[str, int | None] = {}
        for name, entry in _entries().items():
            if entry.whole == digest(entry.rows, entry.heads):
                ends = {
                    shape[0]
                    for k, shape in tensors(entry.rows).items()
                    if k.rpartition(".")[0] in entry.heads and shape
                }
                found[name] = None if ends <= {entry.classes} else max(ends)
            elif entry.body == digest(entry.rows, ()):
                found[name] = None
        if found:
            return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))
    return {}


def _below_prefixes(shapes: Mapping[str, Shape]) -> Iterator[Mapping[str, Shape]]:
    """Yield the tensors, then those under the prefix that most of them have, and so on."""
    for _ in range(8):
        yield shapes
        first = Counter(key.partition(".")[0] for key in shapes if "." in key).most_common(1)
        if not first or first[0][1] * 2 < len(shapes):
            return
        head = f"{first[0][0]}."
        shapes = {key.removeprefix(head): shape for key, shape in shapes.items() if key.startswith(head)}


def _without(shapes: Mapping[str, Shape], heads: Collection[str]) -> dict[str, Shape]:
    return {name: shape for name, shape in shapes.items() if name.rpartition(".")[0] not in heads}


def _digest(shapes: Mapping[str, Shape], heads: Collection[str]) -> str:
    """Return a digest of names and shapes, without counters and without the first axis of classifiers."""
    rows = (
        (name, list(shape[1:] if name.rpartition(".")[0] in heads else shape))
        for name, shape in shapes.items()
        if not name.endswith(".num_batches_tracked")
    )
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()[:16]


@cache
def _entries() -> dict[str, Entry]:
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        name: Entry(tuple(e["rows"]), tuple(e["heads"]), e["classes"], e["whole"], e["body"])
        for name, e in content.items()
    }
