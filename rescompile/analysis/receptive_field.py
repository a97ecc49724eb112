"""The receptive field: how much of the input one position of a map can see, exactly, padding included.

Position i of a map sees the input from `jump * i + first` to `jump * i + last` in each direction. A sliding window of kernel k,
stride s, padding p and dilation d makes of that `jump * s`, `first - jump * p` and `last + jump * (d (k - 1) - p)`; branches
see together what each of them sees (Araujo et al. 2019, Computing Receptive Fields of Convolutional Neural Networks).

The statistics of a group norm come from the whole map, yet say nothing of a place in it; so it counts as looking at one
position, as other norms do.
"""

from __future__ import annotations

from dataclasses import dataclass

from rescompile.ir.network import Node, Op, Parallel, Series, Side
from rescompile.ir.ops import Conv, MaxPool, Shape, Size, Subsample


@dataclass(frozen=True, slots=True)
class Span:
    """What one position sees in one direction."""

    first: int = 0
    last: int = 0
    jump: int = 1

    @property
    def size(self) -> int:
        """The number of positions of the input from the first to the last that is seen."""
        return self.last - self.first + 1

    def through(self, kernel: int, stride: int, padding: int, dilation: int) -> Span:
        """What a position behind a sliding window sees."""
        last = self.last + self.jump * (dilation * (kernel - 1) - padding)
        return Span(self.first - self.jump * padding, last, self.jump * stride)


#: Height and width; None where a position sees the whole map, or positions do not see alike.
View = tuple[Span, Span] | None


def of_input(shape: Shape) -> View:
    """What a position of the input sees: itself. None for an input that is no map."""
    return (Span(), Span()) if len(shape) == 3 else None


def view(node: Node, given: View) -> View:
    """What a position of the node's output sees, where one of its input sees `given`."""
    match node:
        case Series():
            for child in node.children:
                given = view(child, given)
            return given
        case Parallel():
            return _together([view(branch, given) for branch in node.branches])
        case Side():
            return given
        case Op():
            return _behind(node, given)


def _behind(node: Op, given: View) -> View:
    kind = node.kind
    if given is None:
        return None
    match kind:
        case Conv():
            return _window(given, kind.kernel, kind.stride, kind.pads, kind.dilation)
        case MaxPool():
            return _window(given, kind.kernel, kind.steps, kind.padding)
        case Subsample():
            return _window(given, (1, 1), kind.stride, (0, 0))
        case _ if node.input[1:] == node.output[1:]:  # every position is computed from the same one
            return given
        case _:
            return None


def _window(given: tuple[Span, Span], kernel: Size, stride: Size, padding: Size, dilation: Size = (1, 1)) -> View:
    high, wide = (
        span.through(k, s, p, d) for span, k, s, p, d in zip(given, kernel, stride, padding, dilation, strict=True)
    )
    return high, wide


def _together(views: list[View]) -> View:
    found = [each for each in views if each is not None]
    if len(found) < len(views) or len({(high.jump, wide.jump) for high, wide in found}) > 1:
        return None
    high, wide = (
        Span(min(s.first for s in spans), max(s.last for s in spans), spans[0].jump)
        for spans in zip(*found, strict=True)
    )
    return high, wide
