"""The initial values that MLX assigns to new modules, and the assignments that set others."""

from __future__ import annotations

from rescompile.codegen.axis_texts import by_axes, of_all_axes
from rescompile.codegen.initialisation import OWN, Modules, Rule, Set
from rescompile.ir import ops
from rescompile.ir.ops import Draw

from .spellings import norm_class

_DRAWN = {
    Draw("he_normal_fan_out"): 'nn.init.he_normal()({0}.{1}, "fan_out", math.sqrt(2))',
    Draw("he_normal_fan_in"): 'nn.init.he_normal()({0}.{1}, "fan_in", math.sqrt(2))',
    OWN: "torch_default({0}.{1}.shape, {0}.weight)",
    0.0: "mx.zeros({0}.{1}.shape)",
    1.0: "mx.ones({0}.{1}.shape)",
}


def drawn(setting: Set) -> str:
    """Return the assignment that sets a tensor."""
    form = _DRAWN.get(setting.value) or f"mx.full({{0}}.{{1}}.shape, {setting.value!r})"
    return f"{setting.target}.{setting.tensor} = {form.format(setting.target, setting.tensor)}"


_CONVS = of_all_axes("nn.Conv", "ConvTranspose")
_NORMS = ("nn.BatchNorm", "nn.GroupNorm", "nn.InstanceNorm", "nn.LayerNorm")
MODULES = Modules(
    of={
        ops.Norm: norm_class,
        ops.Linear: lambda op: "nn.Linear",
        ops.Conv: by_axes("nn.Conv"),
        ops.ConvTranspose: by_axes("ConvTranspose"),
    },
    own={
        **dict.fromkeys(_CONVS, Rule(OWN, 0.0)),
        "nn.Linear": Rule(OWN, OWN),
        **dict.fromkeys(_NORMS, Rule(1.0, 0.0)),
    },
    optional=frozenset(_CONVS),
    resets=False,
)
