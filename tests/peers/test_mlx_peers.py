"""Generated MLX source compared with torchvision's models, and a checkpoint of torchvision in MLX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

torch: Any = pytest.importorskip("torch", reason="the peers are torch models: pip install torch")
from peers import randomised  # declares the operators of torchvision before it is imported

models: Any = pytest.importorskip("torchvision", reason="the peers: pip install --no-deps torchvision").models
pytest.importorskip("mlx.core", reason="runs the target: pip install 'rescompile[mlx]'")

from mlx_models import evaluated, in_double

import rescompile
from rescompile.cli import app


def peer(name: str, size: int) -> Any:
    """Return a model of torchvision in evaluation mode, with random values in all tensors."""
    return randomised(getattr(models, name)(), (2, 3, size, size))


def images(size: int) -> Any:
    """Return random images."""
    return np.random.default_rng(0).standard_normal((2, 3, size, size))


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "resnext50_32x4d", "vgg11_bn", "squeezenet1_1"])
@pytest.mark.slow
def test_models_of_torchvision(name: str) -> None:
    """A state dict of torchvision gives the outputs of torchvision in float64."""
    model = peer(name, 64).double()
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    network = rescompile.elaborate(rescompile.load(name))
    with in_double(), torch.no_grad():
        wanted = model(torch.from_numpy(images(64))).numpy()
        found = evaluated(network, state, images(64))["logits"]
    assert np.abs(found - wanted).max() < 1e-10 * np.abs(wanted).max()


_MIGRATED = """
import mlx.core as mx
import trained_mlx as home
mx.set_default_device(mx.cpu)
model = home.resnet18().load_weights("trained_mlx.safetensors").eval()
mx.save("y.npy", model(mx.load("x.npy")))
"""


@pytest.mark.slow
def test_a_checkpoint_of_torchvision_migrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `build --target mlx --weights FILE`, `load_weights` in another process gives the outputs of torch in float32."""
    monkeypatch.chdir(tmp_path)
    model, x = peer("resnet18", 224), images(224).astype(np.float32)
    torch.save(model.state_dict(), "resnet18.pth")
    command = ["build", "resnet18", "--target", "mlx", "--weights", "resnet18.pth", "-o", "trained_mlx.py"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    np.save("x.npy", np.ascontiguousarray(np.moveaxis(x, 1, -1)))
    subprocess.run([sys.executable, "-c", _MIGRATED], check=True)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    assert np.abs(np.load("y.npy") - wanted).max() < 2e-5 * np.abs(wanted).max()
