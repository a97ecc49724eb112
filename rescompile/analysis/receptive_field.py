"""The receptive field: how much of the input one position of a map can see, exactly, padding included.

Position i of a map sees the input from `jump * i + first` to `jump * i + last` in each direction. A sliding window of kernel k,
stride s, padding p and dilation d makes of that `jump * s`, `first - jump * p` and `last + jump * (d (k - 1) - p)`; branches
see together what each of them sees (Araujo et al. 2019, Computing Receptive Fields of Convolutional Neural Networks).

The statistics of a group norm come from the whole map, but carry no position; so it counts as seeing one position, as other
norms do. A mirrored border counts as one of zeros.
"""

from __future__ import annotations

from rescompile.ir.network import Node, Op, Parallel
from rescompile.ir.ops import Border, Conv, MaxPool, Shape, Size, Subsample, rank
from rescompile.ir.traversal import ThreadRules, thread
from rescompile.records import record


@record
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
        """Return what a position behind a sliding window sees."""
        last = self.last + self.jump * (dilation * (kernel - 1) - padding)
        return Span(self.first - self.jump * padding, last, self.jump * stride)


#: By the axes of the map; None where a position sees the whole map, where positions have different fields, and after
#: a value that was kept before the part.
View = tuple[Span, ...] | None


def of_input(shape: Shape) -> View:
    """Return what a position of the input sees: itself. None for an input that is not a map."""
    return (Span(),) * rank(shape) or None


def view(node: Node, given: View) -> View:
    """Return what a position of the node's output sees, where one of its input sees `given`."""
    return thread(node, given, _RULES)


def _op(_: str, node: Op, given: View) -> View:
    if given is None:
        return None
    one, none = (1,) * len(given), (0,) * len(given)
    match node.kind:
        case Conv() as conv:
            return _window(given, conv.kernel, conv.stride, conv.pads, conv.dilation)
        case MaxPool() as pool:
            return _window(given, pool.kernel, pool.steps, pool.padding, one)
        case Subsample() as kind:
            return _window(given, one, kind.stride, none, one)
        case Border() as border:
            return _window(given, one, one, border.before, one)
    return given if node.input[1:] == node.output[1:] else None  # every position is computed from the same one


def _window(given: tuple[Span, ...], kernel: Size, stride: Size, padding: Size, dilation: Size) -> View:
    windows = zip(given, kernel, stride, padding, dilation, strict=True)
    return tuple(span.through(k, s, p, d) for span, k, s, p, d in windows)


def _merge(_: str, __: Parallel, views: list[View]) -> View:
    spans = [each for each in views if each is not None]
    if len(spans) < len(views) or len({tuple(span.jump for span in each) for each in spans}) > 1:
        return None
    return tuple(
        Span(min(span.first for span in axis), max(span.last for span in axis), axis[0].jump)
        for axis in zip(*spans, strict=True)
    )


_RULES = ThreadRules[View](_op, _merge, outside=lambda *_: None)
