"""The initial values that torch gives new modules, and the calls that set others."""

from __future__ import annotations

from rescompile.codegen.class_plan import Layer
from rescompile.codegen.initialisation import OWN, Modules, Rule, Set
from rescompile.ir import ops

from .spellings import norm_class

_DRAWN = {
    "he_normal_fan_out": 'nn.init.kaiming_normal_({}, mode="fan_out", nonlinearity="relu")',
    "he_normal_fan_in": 'nn.init.kaiming_normal_({}, mode="fan_in", nonlinearity="relu")',
    0.0: "nn.init.zeros_({})",
}


def drawn(setting: Set) -> str:
    """The call that sets a tensor."""
    form = _DRAWN.get(setting.value) or f"nn.init.constant_({{}}, {float(setting.value)!r})"
    return form.format(f"{setting.target}.{setting.tensor}")


def _class(layer: Layer) -> str | None:
    """The class of the module of an op with tensors; None for other ops."""
    if layer.kind is ops.Norm:
        return norm_class(layer.sample)
    return {ops.Conv: "nn.Conv2d", ops.Linear: "nn.Linear"}.get(layer.kind)


_NORMS = ("nn.BatchNorm2d", "nn.BatchNorm1d", "nn.GroupNorm")
MODULES = Modules(
    of=_class,
    own={"nn.Conv2d": Rule(OWN, OWN), "nn.Linear": Rule(OWN, OWN), **dict.fromkeys(_NORMS, Rule(1.0, 0.0))},
    optional=frozenset({"nn.Conv2d"}),
)
