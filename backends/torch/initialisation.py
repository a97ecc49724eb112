"""The initial values that torch assigns to new modules, and the calls that set others."""

from __future__ import annotations

from rescompile.codegen.axis_texts import by_axes, of_all_axes
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


_CONVOLUTIONS = of_all_axes("nn.Conv", "nn.ConvTranspose")
_LAYERS = (*_CONVOLUTIONS, "nn.Linear")
_NORMS = (*of_all_axes("nn.BatchNorm", "nn.InstanceNorm", "LayerNorm"), "nn.GroupNorm", "nn.LayerNorm")
MODULES = Modules(
    of={
        ops.Norm: norm_class,
        ops.Linear: lambda op: "nn.Linear",
        ops.Conv: by_axes("nn.Conv"),
        ops.ConvTranspose: by_axes("nn.ConvTranspose"),
    },
    own={**dict.fromkeys(_LAYERS, Rule(OWN, OWN)), **dict.fromkeys(_NORMS, Rule(1.0, 0.0))},
    optional=frozenset(_CONVOLUTIONS),
)
