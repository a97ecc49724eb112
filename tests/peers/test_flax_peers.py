"""Generated Flax source compared with torchvision's models and with a hand-written ResNet-50 in NNX."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

torch: Any = pytest.importorskip("torch", reason="the peers are torch models: pip install torch")
from peers import randomised  # declares the operators of torchvision before it is imported

models: Any = pytest.importorskip("torchvision", reason="the peers: pip install --no-deps torchvision").models
for package in ("jax", "flax"):
    pytest.importorskip(package, reason="runs the target: pip install 'rescompile[flax]'")

import jax
import jax.numpy as jnp
from flax import nnx
from flax_models import evaluated, in_double
from nnx_resnet50 import ResNet50

import rescompile
from rescompile.cli import app

SIZE = 64


def peer(name: str) -> Any:
    """Return a model of torchvision in evaluation mode, with random values in all tensors."""
    return randomised(getattr(models, name)(), (2, 3, SIZE, SIZE))


def images(size: int = SIZE) -> Any:
    """Return random images."""
    return np.random.default_rng(0).standard_normal((2, 3, size, size))


@pytest.mark.slow
def test_resnet50_equals_a_hand_written_one() -> None:
    """With the same weights in float64, the generated and the hand-written module agree with torchvision's model."""
    model = peer("resnet50").double()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    x = images()
    with in_double(), torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
        other = ResNet50(nnx.Rngs(0))
        other.read(state)
        by_hand = np.asarray(nnx.jit(lambda model, x: model(x))(other, jnp.asarray(np.moveaxis(x, 1, -1))))
        network = rescompile.elaborate(rescompile.load("resnet50"))
        found = evaluated(network, state, x)["logits"]
    scale = np.abs(wanted).max()
    assert np.abs(by_hand - wanted).max() < 1e-11 * scale
    assert np.abs(found - by_hand).max() < 1e-11 * scale


def compiled(model: nnx.Module) -> tuple[Counter[str], float, float]:
    """Return the operations of XLA's program of a model in evaluation mode with their counts, its FLOPs, and the bytes
    it accesses."""
    model.eval()
    graph, variables = nnx.split(model)
    forward = jax.jit(lambda variables, x: nnx.merge(graph, variables)(x))
    program = forward.lower(variables, jnp.zeros((1, SIZE, SIZE, 3))).compile()
    cost = program.cost_analysis()
    return Counter(re.findall(r" = \S+ ([a-z-]+)\(", program.as_text())), cost["flops"], cost["bytes accessed"]


@pytest.mark.slow
def test_resnet50_compiles_to_the_program_of_a_hand_written_one() -> None:
    """Both modules compile to the same operations, so that neither can be faster."""
    ours = compiled(rescompile.build("resnet50", "flax").module)
    assert ours[0]["convolution"] == 53
    assert ours == compiled(ResNet50(nnx.Rngs(0)))


@pytest.mark.parametrize("name", ["densenet121", "resnext50_32x4d", "vgg11_bn", "squeezenet1_1"])
@pytest.mark.slow
def test_models_of_torchvision(name: str) -> None:
    """A state dict of torchvision gives the outputs of torchvision in float64."""
    model = peer(name).double()
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    x = images()
    network = rescompile.elaborate(rescompile.load(name))
    with in_double(), torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
        found = evaluated(network, state, x)["logits"]
    assert np.abs(found - wanted).max() < 1e-10 * np.abs(wanted).max()


_MIGRATED = """
import numpy
from flax import nnx
import trained_flax as home
model = home.resnet18(rngs=nnx.Rngs(0))
home.load(model, "trained_flax.safetensors")
model.eval()
numpy.save("y.npy", nnx.jit(lambda model, x: model(x))(model, numpy.load("x.npy")))
"""


@pytest.mark.slow
def test_a_checkpoint_of_torchvision_migrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `build --target flax --weights FILE`, `load` in another process gives the outputs of torch in float32."""
    monkeypatch.chdir(tmp_path)
    model, x = peer("resnet18"), images(224).astype(np.float32)
    torch.save(model.state_dict(), "resnet18.pth")
    command = ["build", "resnet18", "--target", "flax", "--weights", "resnet18.pth", "-o", "trained_flax.py"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    np.save("x.npy", np.moveaxis(x, 1, -1))
    subprocess.run([sys.executable, "-c", _MIGRATED], check=True)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    assert np.abs(np.load("y.npy") - wanted).max() < 2e-5 * np.abs(wanted).max()


_EXPORTED = """
import numpy
from jax import export
assert not {"flax", "rescompile"} & set(__import__("sys").modules)
with open("model.stablehlo", "rb") as file:
    forward = export.deserialize(bytearray(file.read()))
numpy.save("y.npy", forward.call(numpy.load("x.npy")))
"""


@pytest.mark.parametrize(("name", "convolutions"), [("resnet50", 53), ("mobilenetv2_100", 52)])
@pytest.mark.slow
def test_stablehlo(name: str, convolutions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program from `jax.export` has no transpose, and in a process with JAX alone it has the outputs of timm's model."""
    from jax import ShapeDtypeStruct, export, jit

    monkeypatch.chdir(tmp_path)
    timm: Any = pytest.importorskip("timm", reason="one of the peers: pip install --no-deps timm")
    model, x = randomised(timm.create_model(name), (2, 3, SIZE, SIZE)), images().astype(np.float32)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    graph, variables = nnx.split(rescompile.build(name, "flax", weights=state).module)
    given = np.moveaxis(x, 1, -1)
    exported = export.export(jit(lambda x: nnx.merge(graph, variables)(x)))(ShapeDtypeStruct(given.shape, jnp.float32))
    text = exported.mlir_module()
    assert text.count("stablehlo.convolution") == convolutions
    assert "stablehlo.transpose" not in text
    (tmp_path / "model.stablehlo").write_bytes(exported.serialize())
    np.save("x.npy", given)
    subprocess.run([sys.executable, "-c", _EXPORTED], check=True)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    assert np.abs(np.load("y.npy") - wanted).max() < 2e-5 * np.abs(wanted).max()
