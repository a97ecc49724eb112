"""Weights that a network cannot compute with are refused by name, by every command that reads them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import rescompile
from rescompile.cli import app
from rescompile.diagnostics.errors import CheckFailed
from rescompile.ir.network import Network
from rescompile.weights import Array, draw

TINY = """
rescompile: 1
name: tiny
input: [3, 16, 16]
block: basic
network:
  - {block: cifar_stem, width: 8}
  - layer1: {depth: 1, width: 8}
  - {block: classifier, classes: 10}
"""
COMMANDS = {
    "onnx": ["build", "SPEC", "--target", "onnx", "--weights", "FILE", "-o", "OUT"],
    "folded": ["build", "SPEC", "--target", "onnx", "--fold-batchnorm", "--weights", "FILE", "-o", "OUT"],
    "fp16": ["build", "SPEC", "--target", "onnx", "--precision", "fp16", "--weights", "FILE", "-o", "OUT"],
    "int8": ["build", "SPEC", "--target", "onnx", "--precision", "int8", "--weights", "FILE", "-o", "OUT"],
    "torch": ["build", "SPEC", "--target", "torch", "--weights", "FILE", "-o", "OUT"],
    "run": ["run", "SPEC", "--weights", "FILE"],
    "verify": ["verify", "SPEC", "--targets", "onnx", "--weights", "FILE"],
    "gradients": ["paths", "SPEC", "--gradients", "--weights", "FILE"],
    "convert": ["weights", "convert", "FILE", "SPEC", "-o", "OUT.safetensors"],
    "transfer": ["weights", "transfer", "FILE", "SPEC", "SPEC", "-o", "OUT.safetensors"],
}


@pytest.fixture
def network(tmp_path: Path) -> Network:
    """Write a spec of two blocks into the test's folder, and return its network."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    return rescompile.elaborate(rescompile.load(tmp_path / "tiny.yaml"))


def one(value: float) -> Callable[[Array], Array]:
    """Return a function that copies a tensor and sets one of its values."""

    def change(array: Array) -> Array:
        array = np.array(array)
        array.flat[-1] = value
        return array

    return change


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer1.0.conv2.weight", np.nan, "has 1 of 576 values that are NaN or infinite"),
        ("bn1.running_mean", -np.inf, "has 1 of 8 values that are NaN or infinite"),
        ("bn1.running_var", -1.0, "has values down to -1, but a variance must be at least 0"),
    ],
)
def test_every_command_refuses_invalid_values(
    command: list[str], name: str, value: float, message: str, network: Network, tmp_path: Path
) -> None:
    """Every command names the tensor that is not finite or has a negative variance, and writes no file."""
    pytest.importorskip("torch", reason="torch is one of the targets")
    pytest.importorskip("onnxruntime", reason="runs the ONNX files")
    import torch

    arrays = dict(draw(network))
    arrays[name] = one(value)(arrays[name])
    torch.save({key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}, tmp_path / "weights.pth")
    paths = {"SPEC": "tiny.yaml", "FILE": "weights.pth", "OUT": "out", "OUT.safetensors": "out.safetensors"}
    words = [str(tmp_path / paths[word]) if word in paths else word for word in command]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = CliRunner().invoke(app, words)
    assert done.exit_code == 1, done.output
    assert "E0706" in done.stderr
    assert f"{tmp_path / 'weights.pth'}: {name} {message}" in done.stderr
    assert not list(tmp_path.glob("*out*"))


def test_a_transfer_names_the_tensor_of_the_file(network: Network, tmp_path: Path) -> None:
    """A tensor of a renamed row has another name in the new network, which the file does not contain."""
    from safetensors.numpy import save_file

    arrays = dict(draw(network))
    arrays["layer1.0.conv2.weight"] = one(np.nan)(arrays["layer1.0.conv2.weight"])
    save_file(arrays, tmp_path / "weights.safetensors")
    old, new = tmp_path / "tiny.yaml", tmp_path / "new.yaml"
    new.write_text(old.read_text().replace("layer1", "stage1"))
    words = ["weights", "transfer", tmp_path / "weights.safetensors", old, new, "-o", tmp_path / "out.safetensors"]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 1, done.output
    assert "weights.safetensors: layer1.0.conv2.weight has 1 of 576 values" in done.stderr


def test_a_variance_of_zero_needs_eps(network: Network) -> None:
    """A variance of zero is accepted if eps is positive, and refused if eps is 0."""
    zero = one(0.0)(draw(network)["bn1.running_var"])
    arrays = {**draw(network), "bn1.running_var": zero}
    assert rescompile.build(network, "onnx", arrays).to_bytes()
    bare = rescompile.elaborate(rescompile.load("resnet20_cifar", ["defaults.norm.eps=0"]))
    arrays = {**draw(bare), "bn1.running_var": one(0.0)(draw(bare)["bn1.running_var"])}
    with pytest.raises(CheckFailed, match=r"bn1\.running_var .* must be above 0, since the norm has eps 0"):
        rescompile.build(bare, "onnx", arrays).to_bytes()


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"bn1.weight": 3e38, "bn1.running_var": 0.0}, {"fold_batchnorm": True}, r"bn1 cannot be folded into conv1: .*running_var has values down to 0"),
        ({"conv1.weight": 1e5}, {"precision": "fp16"}, r"conv1\.weight has values up to 1e\+05"),
        ({"bn1.running_var": 1e5}, {"precision": "fp16"}, r"bn1\.running_var has values up to 1e\+05"),
        ({"bn1.running_var": 1e-12}, {"precision": "fp16", "fold_batchnorm": True}, None),
        ({"bn1.running_var": 1e-12, "bn1.weight": 4000.0}, {"precision": "fp16", "fold_batchnorm": True}, r"conv1\.(weight|bias) has values up to"),
    ],
    ids=["fold", "weight", "variance", "small variance", "small variance, large scale"],
)  # fmt: skip
def test_values_that_overflow_are_reported(
    changes: dict[str, float], options: dict[str, Any], message: str | None, network: Network
) -> None:
    """Weights that overflow when folded or converted to float16 are reported by tensor, not written as infinity."""
    arrays = dict(draw(network))
    for name, value in changes.items():
        arrays[name] = one(value)(arrays[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        artifact = rescompile.build(network, "onnx", arrays, **options)
        if message is None:
            assert artifact.to_bytes()
            return
        with pytest.raises(CheckFailed, match=message):
            artifact.to_bytes()


def test_a_variance_that_float16_rounds_to_zero_is_reported() -> None:
    """A variance that float16 rounds to zero is refused where eps is too small to prevent a division by zero."""
    bare = rescompile.elaborate(rescompile.load("resnet20_cifar", ["defaults.norm.eps=1e-12"]))
    arrays = {**draw(bare), "bn1.running_var": one(1e-9)(draw(bare)["bn1.running_var"])}
    with pytest.raises(CheckFailed, match=r"bn1\.running_var has values down to 1e-09, which float16 rounds to 0"):
        rescompile.build(bare, "onnx", arrays, precision="fp16").to_bytes()


def test_a_factor_that_float16_cannot_represent_is_reported(tmp_path: Path) -> None:
    """A scale factor of the spec that float16 cannot represent is reported by the name of the op."""
    for factor in ("100000", "1e-9"):
        path = tmp_path / "scaled.yaml"
        path.write_text(f"rescompile: 1\nname: scaled\ninput: [3, 4, 4]\nnetwork:\n  - shrink: {{scale: {factor}}}\n")
        net = rescompile.elaborate(rescompile.load(path))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(CheckFailed, match="shrink"):
                rescompile.build(net, "onnx", precision="fp16").to_bytes()
