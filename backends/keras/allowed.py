"""The allow-list of generated Keras source."""

from __future__ import annotations

import ast

from rescompile.codegen.allow_list import Allowed, dotted

_NAMES = {
    "keras": "Initializer Input KerasTensor Model config.floatx config.image_data_format initializers.Constant initializers.RandomUniform "
    "initializers.VarianceScaling saving.register_keras_serializable",
    "layers": "BatchNormalization Dense Dropout Flatten GaussianNoise GroupNormalization Layer LayerNormalization PReLU Permute "
    "AveragePooling{}D Conv{}D Conv{}DTranspose Cropping{}D GlobalAveragePooling{}D GlobalMaxPooling{}D MaxPooling{}D UpSampling{}D "
    "ZeroPadding{}D",
    "ops": "any cast concatenate depth_to_space elu equal exp expand_dims flip floor gelu hard_sigmoid hard_swish leaky_relu logical_or "
    "max maximum mean ones_like pad relu relu6 repeat reshape sigmoid silu size softmax space_to_depth split sqrt square squeeze stack "
    "stop_gradient sum swapaxes take tanh transpose where zeros_like",
    "json": "loads",
    "math": "inf prod sqrt",
    "sys": "getrecursionlimit setrecursionlimit",
    "np": "float16 float32 float64 memmap",
}
ALLOWED = Allowed(
    modules={"json": None, "keras": None, "math": None, "numpy": "np", "sys": None},
    imports={"collections.abc": {"Callable"}, "keras": {"KerasTensor", "layers", "ops"}},
    names=dotted(_NAMES),
    decorators=("keras.saving.register_keras_serializable()",),
    builtins={"ValueError", "zip"},
    nodes=(ast.NotIn, ast.Raise),
)
