"""The allow-list of generated MLX source."""

from __future__ import annotations

import ast

from rescompile.codegen.allow_list import Allowed, dotted

_NAMES = {
    "mx": "any array array.astype checkpoint clip concatenate conv{}d conv_transpose{}d equal expand_dims full log logical_or max mean moveaxis ones pad "
    "random.bernoulli random.randint random.state random.uniform sigmoid softmax split sqrt stack stop_gradient sum swapaxes tanh var "
    "where zeros",
    "nn": "AvgPool{}d BatchNorm Conv{}d Dropout ELU GELU GroupNorm Hardswish Identity InstanceNorm LayerNorm LeakyReLU Linear "
    "MaxPool{}d Module PReLU ReLU ReLU6 SiLU Sigmoid Tanh Upsample elu gelu gelu_approx hardswish init.he_normal leaky_relu "
    "relu relu6 silu",
    "math": "sqrt",
}
ALLOWED = Allowed(
    modules={"math": None, "mlx.core": "mx"},
    imports={"collections.abc": {"Callable"}, "functools": {"partial"}, "mlx": {"nn"}},
    names=dotted(_NAMES),
    decorators=(),
    builtins={"reversed", "setattr", "zip"},
    methods={"__call__", "__getitem__", "__len__"},
    nodes=(ast.In, ast.Pass),
)
