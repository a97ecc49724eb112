"""What every operator declares: its attributes, its shapes, its parameters and its cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, field
from typing import Any, ClassVar, NamedTuple, TypeVar

from rescompile.diagnostics.errors import ShapeError, Unavailable
from rescompile.records import record

Rule = TypeVar("Rule")
Shape = tuple[int, ...]
#: One number for each axis of a map, so as many as its shape has entries after the channels.
Size = tuple[int, ...]
#: Positions along one side of an input, or of an enlarged map.
MAX_SIDE = 1 << 16


class Draw(NamedTuple):
    """A rule that draws initial values, and the factor by which these are multiplied."""

    rule: str
    factor: float = 1.0


#: The initial values of a tensor: a constant, or drawn.
Fill = float | Draw


@record
class Parameter:
    """A tensor that an op owns, with its initial values; rules draw from the fans. No value is below `least`."""

    name: str
    shape: Shape
    fill: Fill
    fan_in: int = 0
    fan_out: int = 0
    trainable: bool = True
    dtype: str = "float32"
    least: float = -math.inf

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)


@record
class Attribute:
    """What a spec may write for one attribute of an op.

    `type` is `int`, `real`, `bool` or `size` (a number for all axes of the map, or one for each); `words` are allowed beside it.
    `main` marks the attribute that is meant when the value is not a mapping (`dropout: 0.5`). `only` are the values of the
    op's attribute `Kind.chooser` with which the attribute has a meaning; none listed: all. `needs` is a bool of the op, without
    which the attribute has no meaning.
    """

    type: str
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    words: tuple[str, ...] = ()
    main: bool = False
    only: tuple[str, ...] = ()
    needs: str = ""


def attribute(type: str, doc: str, default: Any = MISSING, **facts: Any) -> Any:
    """Return a dataclass field that carries its `Attribute`."""
    return field(default=default, metadata={"attribute": Attribute(type, doc, **facts)})


@record
class Axis:
    """The size of one axis after an op: floor((times * n + plus) / by), for every n from `least` on."""

    times: int = 1
    plus: int = 0
    by: int = 1
    least: int = 1

    def __call__(self, n: int) -> int:
        """Return the size after the op."""
        return (self.times * n + self.plus) // self.by


Axes = tuple[Axis, ...]
#: The names of the axes of a map, by how many it has: a series, an image, a volume or video.
AXIS_NAMES: dict[int, tuple[str, ...]] = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def rank(shape: Shape) -> int:
    """Return the number of axes of a map; 0 for a vector."""
    return len(shape) - 1


def same(shape: Shape) -> Axes:
    """Return the axes of an op that keeps the size of its map."""
    return (Axis(),) * rank(shape)


@record(slots=False)
class Kind:
    """Base of the operators: an identity without parameters or cost, unless a subclass overrides it. A subclass that changes the
    size of maps overrides `axes` too."""

    word: ClassVar[str]
    #: The attribute that decides which others have a meaning.
    chooser: ClassVar[str] = "kind"

    def axes(self, shape: Shape) -> Axes | None:
        """Return what becomes of each axis of any size, where the input otherwise has this shape; None where the op takes maps
        of one size only."""
        return same(shape)

    def output(self, shape: Shape) -> Shape:
        """Return the shape after the op. Raises ShapeError where the input does not fit."""
        return shape

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """Return the tensors that the op owns when its input has this shape."""
        return ()

    def macs(self, shape: Shape) -> int:
        """Multiply-adds for one input of this shape."""
        return 0


def feature_map(shape: Shape, size: Size = ()) -> Shape:
    """Return the shape of a feature map: its channels, then its size. Raises ShapeError for a vector, and for a map whose axes
    are not those of a `size` that the op has."""
    if rank(shape) not in AXIS_NAMES:
        raise ShapeError("E0204", f"needs a feature map as its input, got {list(shape)}")
    if size and len(size) != rank(shape):
        raise ShapeError("E0204", f"has sizes for {len(size)} axes, but its input is {list(shape)}")
    return shape


def image_map(shape: Shape) -> tuple[int, int, int]:
    """Return the channels, height and width of a map of two axes. Raises ShapeError for any other shape."""
    if rank(shape) != 2:
        raise ShapeError("E0204", f"needs an input of [channels, height, width], got {list(shape)}")
    return shape[0], shape[1], shape[2]


def divided(shape: Shape, ranges: int, attribute: str) -> Shape:
    """Return the shape of each of `ranges` equal ranges of the channels. Raises ShapeError if they cannot be divided."""
    if shape[0] % ranges:
        raise ShapeError("E0203", f"cannot divide {shape[0]} channels into {ranges} ranges", attribute)
    return shape[0] // ranges, *shape[1:]


def size_text(size: Sequence[int]) -> str:
    """Return a size as messages print it: `3x3`."""
    return "x".join(map(str, size))


def short_size_text(size: Sequence[int]) -> str:
    """Return `3` for a size with equal sides, else `3x5`."""
    return str(size[0]) if len(set(size)) == 1 else size_text(size)


def enlarged(axes: Axes, sizes: Sequence[int], attribute: str) -> Size:
    """Return the size of a map after an op that makes it larger. Raises ShapeError where a side is too long or empty."""
    size = tuple(axis(n) for axis, n in zip(axes, sizes, strict=True))
    if min(size) < 1:
        raise ShapeError("E0202", f"would produce a map of {size_text(size)}", attribute)
    if max(size) > MAX_SIDE:
        message = f"would produce a map of {size_text(size)}, but a side can have at most {MAX_SIDE:,} positions"
        raise ShapeError("E0208", message, attribute)
    return size


def rule(table: Mapping[type[Kind], Rule], kind: type[Kind], target: str) -> Rule:
    """Return the rule of a target for an op. Raises Unavailable for an op that is not in the table, such as one that
    third-party code added."""
    if kind not in table:
        raise Unavailable.of("E0901", f"the target '{target}' has no rule for the op '{kind.word}'")
    return table[kind]
