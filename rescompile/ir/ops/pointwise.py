"""Ops on single values: dropout, constant or learned factors, the identity."""

from __future__ import annotations

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.ops.op import Kind, Parameter, Shape, attribute, divided
from rescompile.records import record


@record(slots=False)
class Dropout(Kind):
    """Dropout of individual values in training (Srivastava et al. 2014); the identity in evaluation."""

    word = "dropout"
    rate: float = attribute("real", "probability of dropping a value", minimum=0.0, maximum=1.0, main=True)


@record(slots=False)
class Scale(Kind):
    """Multiplication by a constant."""

    word = "scale"
    factor: float = attribute("real", "constant factor", main=True)


@record(slots=False)
class Affine(Kind):
    """Learned scale and shift, for each channel or one for all: LayerScale (Touvron et al. 2021), SkipInit (De & Smith 2020),
    ReZero (Bachlechner et al. 2021), the scalars of Fixup (Zhang et al. 2019)."""

    word = "affine"
    per: str = attribute("word", "one value for each channel, or one for all", "channel", words=("channel", "one"))
    scale: bool = attribute("bool", "learn a scale", True)
    shift: bool = attribute("bool", "learn a shift", True)
    scale_init: float = attribute("real", "initial scale", 1.0, needs="scale")

    def output(self, shape: Shape) -> Shape:
        if not (self.scale or self.shift):
            raise ShapeError(
                "E0309", "learns neither a scale nor a shift", "scale", "write 'identity', or remove the step"
            )
        return shape

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        values = shape[:1] if self.per == "channel" else (1,)
        learned = (
            (self.scale, Parameter("weight", values, self.scale_init)),
            (self.shift, Parameter("bias", values, 0.0)),
        )
        return tuple(parameter for wanted, parameter in learned if wanted)


@record(slots=False)
class WeightedSum(Kind):
    """Sum of equal ranges of the channels, each multiplied by a learned share: the fusion of feature maps in BiFPN (Tan et al.
    2020), after a concatenation.

    With kind `fast`, the share of a range is its weight, or 0 if that is negative, divided by the sum of all plus eps. With kind
    `softmax`, the shares are the softmax of the weights.
    """

    word = "weighted_sum"
    ranges: int = attribute("int", "number of ranges", minimum=1, main=True)
    kind: str = attribute("word", "how weights become shares", "fast", words=("fast", "softmax"))
    eps: float = attribute("real", "added to the sum of the weights", 1e-4, minimum=0.0, maximum=1.0, only=("fast",))

    def output(self, shape: Shape) -> Shape:
        return divided(shape, self.ranges, "ranges")

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        return (Parameter("weight", (self.ranges,), 1.0),)


@record(slots=False)
class Identity(Kind):
    """The identity: returns its input unchanged."""

    word = "identity"
