"""The fully connected layer, and the parameters of every layer with a weight."""

from __future__ import annotations

from typing import Protocol

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.ops.op import Draw, Fill, Kind, Parameter, Shape, attribute
from rescompile.records import record

INIT_RULES = ("he_normal_fan_out", "he_normal_fan_in", "torch_default")
DEFAULT_INIT = "he_normal_fan_out"


@record(slots=False)
class Linear(Kind):
    """Fully connected layer."""

    word = "linear"
    features: int = attribute("int", "output features", minimum=1, main=True)
    bias: bool = attribute("bool", "add a bias", True)
    bias_init: float | str = attribute("real", "initial value of the bias", 0.0, words=("torch_default",), needs="bias")
    init: float | str = attribute(
        "real", "initial weights: a rule, or a number for all", DEFAULT_INIT, words=INIT_RULES
    )
    init_scale: float = attribute("real", "factor of the initial weights", 1.0, minimum=0.0)

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ShapeError(
                "E0204",
                f"needs an input of [features], got {list(shape)}",
                help="add 'flatten' before it",
            )
        return (self.features,)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        weight = (self.features, shape[0])
        return weight_and_bias(self, weight, shape[0], self.features)

    def macs(self, shape: Shape) -> int:
        return shape[0] * self.features


class _Layer(Protocol):
    """A layer with a weight, and perhaps a bias."""

    @property
    def bias(self) -> bool: ...
    @property
    def bias_init(self) -> float | str: ...
    @property
    def init(self) -> float | str: ...
    @property
    def init_scale(self) -> float: ...


def weight_and_bias(layer: _Layer, shape: Shape, fan_in: int, fan_out: int) -> tuple[Parameter, ...]:
    """Return the parameters of a layer: a weight of this shape, and a bias if it has one."""
    weight = Parameter("weight", shape, fill(layer.init, layer.init_scale), fan_in, fan_out)
    if not layer.bias:
        return (weight,)
    return weight, Parameter("bias", shape[:1], fill(layer.bias_init), fan_in, fan_out)


def fill(init: float | str, factor: float = 1.0) -> Fill:
    """Return the initial values of a rule or number times a factor; 0 times a rule is the constant."""
    if isinstance(init, str):
        return Draw(init, factor) if factor else 0.0
    return init * factor
