"""What every operator declares: its attributes, its shapes, its parameters and its cost."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field
from typing import Any, ClassVar

from rescompile.diagnostics.errors import ShapeError

Shape = tuple[int, ...]
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor that an op owns. `fill` is a constant, or the rule that draws new values from the fans."""

    name: str
    shape: Shape
    fill: float | str
    fan_in: int = 0
    fan_out: int = 0
    trainable: bool = True
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Attribute:
    """What a spec may write for one attribute of an op.

    `type` is `int`, `real`, `bool` or `size` (a number or [height, width]); `words` are allowed beside it.
    `main` marks the attribute that is meant when the value is not a mapping (`dropout: 0.5`). `only` are the values of the
    op's `kind` with which the attribute has a meaning; none listed: all.
    """

    type: str
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    words: tuple[str, ...] = ()
    main: bool = False
    only: tuple[str, ...] = ()


def attribute(type: str, doc: str, default: Any = MISSING, **facts: Any) -> Any:
    """A dataclass field that carries its `Attribute`."""
    return field(default=default, metadata={"attribute": Attribute(type, doc, **facts)})


@dataclass(frozen=True, slots=True)
class Axis:
    """The size of one axis after an op: floor((times * n + plus) / by), for every n from `least` on."""

    times: int = 1
    plus: int = 0
    by: int = 1
    least: int = 1

    def __call__(self, n: int) -> int:
        """The size after the op."""
        return (self.times * n + self.plus) // self.by


Axes = tuple[Axis, Axis]
#: The axes of an op that keeps height and width.
SAME: Axes = (Axis(), Axis())


@dataclass(frozen=True)
class Kind:
    """Base of the operators: an identity without parameters or cost, unless a subclass overrides it."""

    word: ClassVar[str]

    def axes(self, shape: Shape) -> Axes | None:
        """What becomes of any height and width, where the input otherwise has this shape; None where the op takes maps of one
        size only, which is the default."""
        return None

    def output(self, shape: Shape) -> Shape:
        """The shape after the op. Raises ShapeError where the input does not fit."""
        return shape

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """The tensors that the op owns when its input has this shape."""
        return ()

    def macs(self, shape: Shape) -> int:
        """Multiply-adds for one input of this shape."""
        return 0


def feature_map(shape: Shape) -> tuple[int, int, int]:
    """The channels, height and width of a feature map. Raises ShapeError for any other shape."""
    if len(shape) != 3:
        raise ShapeError("E0204", f"needs an input of [channels, height, width], got {list(shape)}")
    return shape[0], shape[1], shape[2]


def size_text(size: Size) -> str:
    """A size as messages print it: `3x3`."""
    return f"{size[0]}x{size[1]}"
