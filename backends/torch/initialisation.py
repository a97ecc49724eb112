"""The initial values that torch assigns to new modules, and the calls that set others."""

from __future__ import annotations

from rescompile.codegen.class_plan import Layer
from rescompile.codegen.initialisation import OWN, Modules, Rule, Set
from rescompile.ir import ops
from rescompile.ir.ops import Draw

from .spellings import norm_class

_DRAWN = {
    Draw("he_normal_fan_out"): 'nn.init.kaiming_normal_({}, mode="fan_out", nonlinearity="relu")',
    Draw("he_normal_fan_in"): 'nn.init.kaiming_normal_({}, mode="fan_in", nonlinearity="relu")',
    0.0: "nn.init.zeros_({})",
}


def drawn(setting: Set) -> str:
    """Return the call that sets a tensor."""
    form = _DRAWN.get(setting.value) or f"nn.init.constant_({{}}, {setting.value!r})"
    return form.format(f"{setting.target}.{setting.tensor}")


def _class(layer: Layer) -> str | None:
    """Return the class of the module of an op with tensors; None for other ops."""
    if layer.kind is ops.Norm:
        return norm_class(layer.sample)
    if layer.kind is ops.Linear:
        return "nn.Linear"
    name = {ops.Conv: "nn.Conv", ops.ConvTranspose: "nn.ConvTranspose"}.get(layer.kind)
    return name and f"{name}{ops.rank(layer.sample.input)}d"


def _at_ranks(*names: str) -> tuple[str, ...]:
    """Return the names of classes that exist per number of axes."""
    return tuple(f"{name}{axes}d" for axes in ops.AXIS_NAMES for name in names)


_CONVOLUTIONS = _at_ranks("nn.Conv", "nn.ConvTranspose")
_LAYERS = (*_CONVOLUTIONS, "nn.Linear")
_NORMS = (*_at_ranks("nn.BatchNorm", "nn.InstanceNorm", "LayerNorm"), "nn.GroupNorm", "nn.LayerNorm")
MODULES = Modules(
    of=_class,
    own={**dict.fromkeys(_LAYERS, Rule(OWN, OWN)), **dict.fromkeys(_NORMS, Rule(1.0, 0.0))},
    optional=frozenset(_CONVOLUTIONS),
)
