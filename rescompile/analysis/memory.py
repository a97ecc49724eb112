"""Memory of activations along a network: the bytes that are alive while each op runs, in float32 for one input in evaluation.

Ops run one after the other in the order of the tree. A value is alive from the op that computes it to the last one that reads it,
and to the end if it is an output; a range of its channels is a view of it. An op reads its inputs while it writes its output, so
all of them count. Nothing is computed in place or fused: a runtime that does so needs less, and one that reserves memory for its
kernels needs more. Training needs at least all activations together, which `Cost.activations` counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rescompile.ir.network import Network, Op, Parallel, Side
from rescompile.ir.ops import Dropout, Flatten, Identity, Shape, Unflatten
from rescompile.ir.traversal import ThreadRules, thread
from rescompile.records import record

#: Ops whose output is their input, with another shape at most.
VIEWS = (Dropout, Flatten, Identity, Unflatten)
_BYTES = 4


@record
class Moment:
    """One op or merge that runs: its name, and the bytes that are alive while it does."""

    name: str
    live: int


def memory(network: Network) -> list[Moment]:
    """Return the moments of a network in the order of execution; a network that computes nothing has none."""
    trace = _Trace()
    end = thread(network.root, trace.value(network.input), trace.rules)
    steps = trace.steps
    last = [len(steps) if value in (end, *trace.outputs) else 0 for value in range(len(trace.sizes))]
    born = [0] * len(trace.sizes)
    for at, (_, read, written) in enumerate(steps):
        born[written] = at
        for value in (*read, written):
            last[value] = max(last[value], at)
    changes = [0] * (len(steps) + 2)
    for size, start, stop in zip(trace.sizes, born, last, strict=True):
        changes[start] += size
        changes[stop + 1] -= size
    live, found = 0, []
    for (name, _, _), change in zip(steps, changes, strict=False):
        live += change
        found.append(Moment(name, live))
    return found


class _Trace:
    """The values of a network by number with their sizes in bytes, and its steps: a name, the values read, the one written."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.steps: list[tuple[str, Sequence[int], int]] = []
        self.outputs: set[int] = set()
        self.rules = ThreadRules(self._op, self._merge, self._side)

    def value(self, shape: Shape) -> int:
        """Return a new value of this shape."""
        self.sizes.append(_BYTES * math.prod(shape))
        return len(self.sizes) - 1

    def _op(self, full: str, op: Op, value: int) -> int:
        return value if isinstance(op.kind, VIEWS) else self._step(full, [value], op.output)

    def _merge(self, full: str, node: Parallel, ends: list[int]) -> int:
        return self._step(full, ends, node.output)

    def _side(self, _: str, node: Side, value: int, through: Callable[[int], int]) -> None:
        if node.mode == "always":
            self.outputs.add(through(value))

    def _step(self, name: str, read: Sequence[int], shape: Shape) -> int:
        written = self.value(shape)
        self.steps.append((name, read, written))
        return written
