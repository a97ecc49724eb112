"""The allow-list of generated Flax source."""

from __future__ import annotations

import ast

from rescompile.codegen.allow_list import Allowed, dotted

_NAMES = {
    "jax": "Array image.resize tree.map lax.add lax.conv_general_dilated lax.pad lax.reduce_window lax.slice_in_dim "
    "lax.stop_gradient random.bernoulli random.exponential random.randint random.split random.uniform",
    "jnp": "any array astype bfloat16 broadcast_to concatenate dtype equal expand_dims float32 logical_or max mean moveaxis pad split sqrt "
    "stack sum swapaxes where zeros",
    "np": "float16 float32 memmap stack",
    "nnx": "Any BatchNorm BatchStat Carry Conv Dict Dropout GroupNorm InstanceNorm LayerNorm Linear List Module Param RngKey Rngs Variable avg_pool "
    "cond elu from_flat_state gelu hard_sigmoid hard_swish identity initializers.constant initializers.variance_scaling "
    "initializers.zeros iter_modules leaky_relu max_pool merge relu relu6 remat scan sigmoid silu softmax split state tanh to_flat_state "
    "update",
    "json": "loads",
    "math": "prod sqrt",
}
ALLOWED = Allowed(
    modules={"jax": None, "jax.numpy": "jnp", "json": None, "math": None, "numpy": "np"},
    imports={
        "collections.abc": {"Callable"},
        "flax": {"nnx"},
        "functools": {"partial"},
    },
    names=dotted(_NAMES),
    decorators=(),
    builtins={"ValueError", "setattr", "sorted", "zip"},
    methods={"__call__", "__iter__"},
    nodes=(ast.In, ast.NotIn, ast.Pass, ast.Raise, ast.YieldFrom),
)
