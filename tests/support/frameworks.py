"""The targets with channels last, and what their common tests need to know: allowed imports, reserved words, load
scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import facts
import pytest


@dataclass(frozen=True)
class Framework:
    """A target with the data that its tests need."""

    target: str
    #: The modules that its files may import in addition to Python's own.
    imports: frozenset[str]
    #: The names that its files define themselves.
    words: tuple[str, ...]
    #: Parts of the errors for weights with a missing tensor, an unexpected one, or one of another shape.
    refusals: tuple[str, str, str]
    #: Programs, run in order, that load `resnet20_cifar_TARGET` with its weights and save its outputs for x.npy as y.npy.
    scripts: tuple[tuple[str, Mapping[str, str]], ...]
    #: The first lines of a file, and statements that must be rejected after them.
    head: str
    attacks: tuple[str, ...]

    def __str__(self) -> str:
        return self.target

    @property
    def models(self) -> Any:
        """The support module that builds and runs live models in float64. Skips the test if the framework is missing."""
        return pytest.importorskip(
            f"{self.target}_models", reason=f"runs the target: pip install 'rescompile[torch,{self.target}]'"
        )


FLAX = Framework(
    "flax",
    frozenset({"jax", "jax.numpy", "flax", "numpy"}),  # JAX needs NumPy, as does Keras
    ("rngs", "model", "path", "load", "kept", "dropped", "pair", "chain", "survive"),
    ("lacks", "which the model lacks", "lacks conv1"),
    (
        (
            """
import sys, numpy
import resnet20_cifar_flax as home
from flax import nnx
assert not {"rescompile", "torch"} & set(sys.modules)
model = home.resnet20_cifar(rngs=nnx.Rngs(0))
home.load(model, "resnet20_cifar_flax.safetensors")
model.eval()
numpy.save("y.npy", model(numpy.load("x.npy")))
""",
            {"JAX_PLATFORMS": "cpu"},
        ),
    ),
    '"""x"""\n\nimport jax\nimport jax.numpy as jnp\nimport json\nimport numpy as np\nfrom flax import nnx\n\n',
    (
        "import os", "import jax as np", "from jax import numpy", "from flax import linen", "jax.config.update('a', 1)",
        "jax.numpy.load('x')", "jnp.load('x')", "np.load('x')", "np.memmap.tofile", "np.fromfile('x')", "np.save('x', 1)",
        "nnx.Module.train = eval", "nnx.bridge", "json.load(open('x'))", "json.decoder", "setattr(nnx, 'x', 1)",
        "setattr(nnx, '0', 1, 2)", "setattr(nnx, '__class__', 1)", "jax.lib.xla_client", "jnp.os.system('id')",
        "nnx.jit(eval)", "def __del__() -> None:\n    pass", "class A(nnx.Module):\n    def __getattr__(self, x): pass",
        "eval('1')", "raise eval", "type(nnx)", "nnx.__dict__", "x = ().__iter__.__self__",
    ),
)  # fmt: skip
KERAS = Framework(
    "keras",
    frozenset({"keras", "numpy"}),
    ("x", "model", "load", "pair", "image_size", "inputs", "first", "made", "once"),
    ("lacks", "which the model lacks", "lacks conv1"),
    (
        (
            """
import sys, numpy, keras
assert keras.backend.backend() == "jax"
import resnet20_cifar_keras as home
assert "rescompile" not in sys.modules
model = home.resnet20_cifar()
home.load(model, "resnet20_cifar_keras.safetensors")
numpy.save("y.npy", keras.ops.convert_to_numpy(model(numpy.load("x.npy"), training=False)))
model.save("model.keras")
""",
            {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        ),
        (
            """
import sys, numpy, keras
assert keras.backend.backend() == "torch"
model = keras.models.load_model("model.keras")
assert "rescompile" not in sys.modules
numpy.save("y.npy", keras.ops.convert_to_numpy(model(numpy.load("x.npy"), training=False)))
""",
            {"KERAS_BACKEND": "torch"},
        ),
    ),
    '"""x"""\n\nimport json\nimport math\nimport keras\nimport numpy as np\nfrom keras import layers, ops\n\n',
    (
        "import os", "import keras as np", "from keras import utils", "keras.utils.get_file('x')", "keras.models.load_model('x')",
        "keras.saving.load_model('x')", "keras.config.enable_unsafe_deserialization()", "layers.Lambda(eval)", "np.load('x')",
        "np.fromfile('x')", "layers.TFSMLayer('x')", "ops.map", "keras.src", "keras.Model.fit = eval", "json.load(open('x'))",
        "eval('1')", "keras.__dict__", "class A(layers.Layer):\n    def __getattr__(self, x): pass", "keras.src.backend.torch",
        "setattr(keras, '0', 1)", "@eval\ndef f(): return 1",
    ),
)  # fmt: skip
MLX = Framework(
    "mlx",
    frozenset({"mlx", "mlx.core"}),
    ("model", "path", "pair", "chain", "sequential", "initialise"),
    ("Missing", "not in model", "Expected shape"),
    (
        (
            """
import sys
import resnet20_cifar_mlx as home
import mlx.core as mx
assert not {"rescompile", "torch", "jax"} & set(sys.modules)
mx.set_default_device(mx.cpu)
model = home.resnet20_cifar()
model.load_weights("resnet20_cifar_mlx.safetensors")
mx.save("y.npy", model.eval()(mx.load("x.npy")))
""",
            {},
        ),
    ),
    '"""x"""\n\nimport math\n\nimport mlx.core as mx\nfrom mlx import nn\n\n',
    (
        "import os", "import mlx.core as nn", "import mlx.nn as mx", "from mlx import core", "from mlx.nn import Module", "mx.load('x')",
        "mx.save('x', 1)", "mx.random.seed(0)", "mx.set_default_device(mx.cpu)", "mx.fast.metal_kernel('x')", "nn.Module.train = eval",
        "nn.quantize(1)", "math.os", "setattr(nn, 'x', 1)", "setattr(nn, '0', 1, 2)", "mx.compile(eval)", "mx.__dict__",
        "def __del__() -> None:\n    pass", "class A(nn.Module):\n    def __getattr__(self, x): pass", "eval('1')",
        "mx.random.state = 1", "x = ().__getitem__.__self__",
    ),
)  # fmt: skip

FRAMEWORKS: Mapping[str, Framework] = {framework.target: framework for framework in (FLAX, KERAS, MLX)}


@cache
def source_of(target: str, name: str) -> str:
    """Return the source of a network of the zoo; these targets support all of them."""
    file = import_module(f"rescompile.backends.{target}.source_file")
    network = facts.network(name)
    file.check(network)
    return str(file.source(network))


def texts(target: str) -> Iterator[tuple[str, str]]:
    """Yield each network of the zoo with its source."""
    return ((name, source_of(target, name)) for name in facts.zoo())
