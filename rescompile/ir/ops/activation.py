"""Activation functions, and the softmax over channels."""

from __future__ import annotations

from rescompile.ir.ops.op import Kind, Parameter, Shape, attribute, divided
from rescompile.records import record

ACTIVATIONS = (
    "relu", "sigmoid", "tanh", "leaky_relu", "elu", "relu6", "silu", "gelu", "gelu_tanh", "hardswish", "hardsigmoid",
    "prelu",
)  # fmt: skip
#: Activations whose values lie between 0 and 1, as those of a gate must.
BOUNDED = ("sigmoid", "hardsigmoid")


@record(slots=False)
class Act(Kind):
    """Activation function.

    `silu` is x sigmoid(x), also called swish; `gelu` is x Phi(x), with Phi the distribution function of the standard normal
    distribution (Hendrycks & Gimpel 2016), and `gelu_tanh` its approximation by tanh; `elu` is alpha (exp(x) - 1) below zero
    (Clevert et al. 2016); `relu6` is min(max(x, 0), 6), `hardsigmoid` relu6(x + 3) / 6, and `hardswish` x hardsigmoid(x) (Howard et al. 2019).
    `prelu` is x above zero and a learned multiple of x below it (He et al. 2015).
    """

    word = "act"
    kind: str = attribute("word", "activation function", "relu", words=ACTIVATIONS, main=True)
    slope: float = attribute("real", "slope below zero", 0.01, only=("leaky_relu",))
    alpha: float = attribute("real", "the output approaches -alpha far below zero", 1.0, minimum=0.0, only=("elu",))
    per: str = attribute(
        "word",
        "one learned slope for each channel, or one for all",
        "channel",
        words=("channel", "one"),
        only=("prelu",),
    )
    slope_init: float = attribute("real", "initial slope below zero", 0.25, only=("prelu",))

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        slopes = shape[:1] if self.per == "channel" else (1,)
        return (Parameter("weight", slopes, self.slope_init),) if self.kind == "prelu" else ()


@record(slots=False)
class Softmax(Kind):
    """Softmax at each position: over all channels, or over equal ranges of them, channel by channel.

    With n ranges of m channels, channels c, c + m, c + 2m, ... add up to 1: the attention over n branches (Li et al. 2019,
    SKNet; Zhang et al. 2020, ResNeSt).
    """

    word = "softmax"
    ranges: int | None = attribute(
        "int", "number of ranges (default: one for each channel)", None, minimum=2, main=True
    )

    def output(self, shape: Shape) -> Shape:
        divided(shape, self.ranges or 1, "ranges")
        return shape
