"""The allow-list of generated MLX source."""

from __future__ import annotations

import ast

from rescompile.codegen.allow_list import Allowed

_NAMES = {
    "mx": "any array array.astype checkpoint clip concatenate equal expand_dims full log logical_or max mean moveaxis ones pad "
    "random.bernoulli random.randint random.state random.uniform sigmoid softmax split sqrt stack stop_gradient sum swapaxes tanh var "
    "where zeros",
    "nn": "BatchNorm Dropout ELU GELU GroupNorm Hardswish Identity InstanceNorm LayerNorm LeakyReLU Linear "
    "Module PReLU ReLU ReLU6 SiLU Sigmoid Tanh Upsample elu gelu gelu_approx hardswish init.he_normal leaky_relu "
    "relu relu6 silu",
    "math": "sqrt",
}
#: Names for maps of one, two and three axes.
_BY_AXES = {"mx": "conv{}d conv_transpose{}d", "nn": "AvgPool{}d Conv{}d MaxPool{}d"}
ALLOWED = Allowed(
    modules={"math": None, "mlx.core": "mx"},
    imports={"collections.abc": {"Callable"}, "functools": {"partial"}, "mlx": {"nn"}},
    names={f"{root}.{name}" for root, names in _NAMES.items() for name in names.split()}
    | {
        f"{root}.{name.format(axes)}"
        for root, names in _BY_AXES.items()
        for name in names.split()
        for axes in (1, 2, 3)
    },
    decorators=(),
    builtins={"reversed", "setattr", "zip"},
    methods={"__call__", "__getitem__", "__len__"},
    nodes=(ast.In, ast.Pass),
)
