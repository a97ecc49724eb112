"""The target `mlx` alone; test_frameworks.py and test_framework_files.py cover what all channels-last targets share."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import facts
import numpy as np
import pytest
from generator import generate
from op_cases import a, series
from op_cases import network as network_of

for package in ("torch", "mlx.core"):
    pytest.importorskip(package, reason="runs one of the targets: pip install 'rescompile[torch,mlx]'")

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx_models import arrays, evaluated, given, in_double, model_of, module, source_file, tensors
from sources import agree, drawn
from spec_texts import elaborated
from variants import shallow

from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.ops import Act, Dropout, Norm


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with in_double():
        yield


# --- names and numbers ------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_tree() -> None:
    names = {place.path: place.shape for place in tensors.places(facts.network("resnet50"))}
    assert [*names][:5] == ["conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"]
    assert names["layer1.0.conv2.weight"] == (64, 3, 3, 64)
    assert names["conv1.weight"] == (64, 7, 7, 3)
    assert [*names][-2:] == ["fc.weight", "fc.bias"]


NUMBERS = """
rescompile: 1
name: numbers
input: [3, 6, 6]
blocks:
  unit:
    body:
    - "0": {conv: {channels: in_channels, kernel: 3}}
    - "3": [{"2": {conv: {channels: in_channels, kernel: 1}}}, {"4": relu}, {"7": {norm: {}}}]
network:
- layer1: {block: unit, depth: 2}
- "5": {conv: {channels: 4, kernel: 1, bias: true}}
- pool: global_avgpool
- flat: flatten
- fc: {linear: 2}
"""


def test_numbers_as_names(tmp_path: Path) -> None:
    """Numeric step names with gaps, at every level, survive saving and loading, although MLX reads numbers in a file as
    list positions."""
    network = elaborated(NUMBERS, tmp_path)
    weights, x = drawn(network, 0)
    model = model_of(network, weights)
    assert "layer1.1.3.7.running_var" in arrays(model.parameters())
    agree(network, weights, x, module.outputs(model.eval(), x))
    other = module.make(network)
    model.set_dtype(mx.float32)
    model.save_weights(str(tmp_path / "w.safetensors"))
    other.load_weights(str(tmp_path / "w.safetensors"))
    assert all(
        np.array_equal(value, arrays(other.parameters())[key]) for key, value in arrays(model.parameters()).items()
    )
    with pytest.raises(ValueError, match="Missing 1 parameters"):
        other.load_weights(
            [(key, mx.array(value)) for key, value in arrays(model.parameters()).items() if key != "5.bias"]
        )


@pytest.mark.parametrize("seed", [1, 4, *(pytest.param(n, marks=pytest.mark.slow) for n in range(10, 30))])
def test_random_network_with_earlier_values(seed: int, tmp_path: Path) -> None:
    """Random networks with kept and used values, also through rows of copies, compute what the interpreter computes."""
    network = elaborated(generate(seed, values=True).text, tmp_path)
    weights, x = drawn(network, seed)
    agree(network, weights, x, evaluated(network, weights, x))


@pytest.mark.slow
def test_optimizers_and_compile_take_the_module() -> None:
    """Three SGD steps under `mx.compile`, with the state of the model as input and output, equal those without it."""
    mx.enable_compile()
    network = shallow("resnet20_cifar")
    weights, x = drawn(network, 0, batch=4)
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    losses = []
    for compiled in (False, True):
        model, optimizer = model_of(network, weights), optim.SGD(0.01)
        model.set_dtype(mx.float32)
        step = nn.value_and_grad(model, lambda x, model=model: mx.mean((model(x) - 1) ** 2))

        def update(x: mx.array, step: Any = step, model: Any = model, optimizer: Any = optimizer) -> mx.array:
            loss, gradients = step(x)
            optimizer.update(model, gradients)
            return loss

        state = [model.state, optimizer.state]
        run = mx.compile(update, inputs=state, outputs=state) if compiled else update
        losses.append([run(given(x.astype(np.float32))).item() for _ in range(3)])
    assert np.allclose(*losses, rtol=1e-4)
    assert losses[0][2] < losses[0][0]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Norm(eps=0.0), "norms need an eps above 0"),
        (Norm("group", eps=0.0, groups=2), "norms need an eps above 0"),
        (Dropout(1.0), "dropout needs a rate below 1"),
        (Act("leaky_relu", slope=1.5), "leaky ReLU needs a slope of at most 1"),
    ],
)
def test_arguments_that_mlx_does_not_accept_are_refused(kind: Any, message: str) -> None:
    with pytest.raises(Unavailable, match=f"it cannot be written in MLX, whose {message}"):
        source_file.check(network_of(series((4, 3, 3), a("it", kind))))


def test_attributes_of_modules_are_reserved_names() -> None:
    """Every public attribute of nn.Module is reserved: no step can have its name."""
    file: Any = import_module("rescompile.backends.mlx.text")
    assert {name for name in dir(nn.Module) if not name.startswith("_")} <= file._MODULE
