"""Activation functions."""

from __future__ import annotations

from dataclasses import dataclass

from rescompile.ir.ops.op import SAME, Axes, Kind, Shape, attribute

ACTIVATIONS = (
    "relu", "sigmoid", "tanh", "leaky_relu", "elu", "relu6", "silu", "gelu", "gelu_tanh", "hardswish",
)  # fmt: skip
#: Activations whose values lie between 0 and 1, as those of a gate must.
BOUNDED = ("sigmoid",)


@dataclass(frozen=True)
class Act(Kind):
    """Activation function.

    `silu` is x sigmoid(x), also called swish; `gelu` is x Phi(x), with Phi the distribution function of the standard normal
    distribution (Hendrycks & Gimpel 2016), and `gelu_tanh` its approximation by tanh; `elu` is alpha (exp(x) - 1) below zero
    (Clevert et al. 2016); `relu6` is min(max(x, 0), 6), and `hardswish` x relu6(x + 3) / 6 (Howard et al. 2019).
    """

    word = "act"
    kind: str = attribute("word", "activation function", "relu", words=ACTIVATIONS, main=True)
    slope: float = attribute("real", "slope below zero", 0.01, only=("leaky_relu",))
    alpha: float = attribute("real", "the output approaches -alpha far below zero", 1.0, minimum=0.0, only=("elu",))

    def axes(self, shape: Shape) -> Axes:
        return SAME
