"""Activations, group norm, upsampling and a U-Net agree with torch's functions.

ONNX files are run in every opset, with and without graph optimisation. The reference is torch in float64, and the bound is a
multiple of the error of torch in float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generator import written
from numpy.typing import NDArray
from ort import ran

import rescompile
from rescompile.analysis.cost import cost
from rescompile.explain import explain, text_report
from rescompile.explain.report import report
from rescompile.ir import ops
from rescompile.ir.network import Network, Op, walk
from rescompile.weights import draw

torch = pytest.importorskip("torch")
F = torch.nn.functional

from references.unet import unet

Array = NDArray[Any]
OPSETS = range(17, 22)
#: The bound of an error: this multiple of the error of torch in float32, but at least the floor.
TIMES, FLOOR = 3, 2e-7

#: By name: the step of a spec, and the function of torch.
FUNCTIONS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "elu": ("elu", F.elu),
    "elu_small": ({"elu": {"alpha": 0.3}}, lambda x: F.elu(x, 0.3)),
    "relu6": ("relu6", F.relu6),
    "silu": ("silu", F.silu),
    "gelu": ("gelu", F.gelu),
    "gelu_tanh": ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
    "hardswish": ("hardswish", F.hardswish),
    "nearest": ({"upsample": 2}, lambda x: F.interpolate(x, scale_factor=2, mode="nearest")),
    "nearest_uneven": ({"upsample": [3, 32]}, lambda x: F.interpolate(x, scale_factor=(3, 32), mode="nearest")),
    "bilinear": (
        {"upsample": {"factor": 2, "kind": "bilinear"}},
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
    ),
    "bilinear_uneven": (
        {"upsample": {"factor": [7, 1], "kind": "bilinear"}},
        lambda x: F.interpolate(x, scale_factor=(7, 1), mode="bilinear", align_corners=False),
    ),
    "group_norm": ({"norm": {"kind": "group", "groups": 2}}, lambda x: F.group_norm(x, 2)),
    "layer_norm": ({"norm": {"kind": "group", "groups": 1}}, lambda x: F.layer_norm(x, x.shape[1:])),
    "instance_norm": ({"norm": {"kind": "group", "groups": "in_channels"}}, F.instance_norm),
    "group_norm_eps": ({"norm": {"kind": "group", "groups": 3, "eps": 0.5}}, lambda x: F.group_norm(x, 3, eps=0.5)),
}


def elaborated(document: dict[str, Any] | str, folder: Path, *settings: str) -> Network:
    """Return the network of a spec."""
    path = folder / "spec.yaml"
    path.write_text(document if isinstance(document, str) else written(document), "utf-8")
    return rescompile.elaborate(rescompile.load(path, settings))


def relative_error(found: Any, exact: Any) -> float:
    """Return the relative root mean square error."""
    difference = np.asarray(found, np.float64) - np.asarray(exact)
    return float(np.sqrt(np.mean(difference**2)) / np.sqrt(np.mean(np.asarray(exact) ** 2)))


def assert_agrees(found: Array, function: Callable[[Any], Any], x: Array) -> None:
    """Assert that an output agrees with a function of torch."""
    exact, plain = function(torch.from_numpy(x).double()), function(torch.from_numpy(x))
    assert found.shape == tuple(exact.shape)
    assert relative_error(found, exact) <= max(TIMES * relative_error(plain, exact), FLOOR)


@pytest.mark.parametrize("optimised", [True, False])
@pytest.mark.parametrize("opset", OPSETS)
def test_functions_of_torch(opset: int, optimised: bool, tmp_path: Path) -> None:
    """Every op agrees with torch in every opset, on several batches."""
    sides = [
        {f"its_{name}": {"side": {"body": step, "output": f"{name}_", "mode": "always"}}}
        for name, (step, _) in FUNCTIONS.items()
    ]
    network = elaborated(
        {"rescompile": 1, "name": "all", "input": [6, 5, 7], "network": [*sides, "identity"]}, tmp_path
    )
    model = rescompile.build(network, "onnx", draw(network, 0), opset=opset).to_bytes()
    for batch in (1, 3):
        x = np.random.default_rng(batch).normal(0.5, 3, (batch, 6, 5, 7)).astype(np.float32)
        outputs = ran(model, {"input": x}, optimised)
        for name, (_, function) in FUNCTIONS.items():
            assert_agrees(outputs[f"{name}_"], function, x)


@pytest.mark.parametrize("factor", range(1, 33))
def test_nearest_is_exact(factor: int) -> None:
    """Nearest upsampling in torch repeats values exactly for every factor that the language accepts."""
    x = torch.arange(300.0).reshape(1, 1, 1, 300)
    found = F.interpolate(x, scale_factor=(1.0, float(factor)), mode="nearest")
    assert torch.equal(found, x.repeat_interleave(factor, 3))
    limit = ops.attributes("upsample")["factor"].maximum
    assert limit == 32


@pytest.mark.parametrize("groups", [2, 6])
def test_group_norm_of_a_large_map(groups: int, tmp_path: Path) -> None:
    """Group norm of a large map is accurate, although ONNX Runtime sums an instance naively."""
    size = [6, 420, 400]
    rows = [{"norm": {"kind": "group", "groups": groups}}]
    network = elaborated({"rescompile": 1, "name": "large", "input": size, "network": rows}, tmp_path)
    x = np.random.default_rng(0).standard_normal((2, *size)).astype(np.float32)
    model = rescompile.build(network, "onnx", draw(network, 0)).to_bytes()
    assert_agrees(ran(model, {"input": x})["logits"], lambda x: F.group_norm(x, groups), x)


def test_defaults_apply_to_library_blocks(tmp_path: Path) -> None:
    """`defaults` replace all norms and activations of a zoo network; group norms have no statistics, scales of 1 and shifts of 0."""
    text = "rescompile: 1\nname: gn\nextends: resnet18\ndefaults: {norm: {kind: group, groups: 4}, act: {kind: gelu}}\n"
    network = elaborated(text, tmp_path, "input=[3,32,32]")
    batch = rescompile.elaborate(rescompile.load("resnet18"))
    kinds = [node.kind for _, node in walk(network.root) if isinstance(node, Op)]
    assert {kind.kind for kind in kinds if isinstance(kind, ops.Norm | ops.Act)} == {"group", "gelu"}
    weights = draw(network, 0)
    assert not any("running" in name for name in weights)
    assert (weights["layer1.0.bn1.weight"] == 1).all()
    assert (weights["layer1.0.bn1.bias"] == 0).all()
    assert cost(network).parameters == cost(batch).parameters


# --- the U-Net --------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "unet.md"


@pytest.fixture
def network(tmp_path: Path) -> Network:
    """Return the U-Net of the documentation, with an input that is not square."""
    found = re.search(r"```yaml file: unet.yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return elaborated(found[1], tmp_path, "input=[3,20,28]")


def random_weights(network: Network) -> dict[str, Array]:
    """Return random weights with scales and shifts of both signs."""
    rng = np.random.default_rng(3)
    drawn = draw(network, 0)
    weights: dict[str, Array] = {}
    for name in drawn:
        value = drawn[name]
        if value.ndim == 1:
            value = rng.choice([-1, 1], value.shape) * rng.uniform(0.5, 1.5, value.shape)
        weights[name] = value.astype(np.float32)
    return weights


def test_the_unet_agrees_with_torch(network: Network) -> None:
    """Every target agrees with the same network written as calls of torch's functions."""
    weights = random_weights(network)
    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    double = {name: value.double() for name, value in tensors.items()}

    def function(x: Any) -> Any:
        return unet(x, double if x.dtype == torch.float64 else tensors)

    x = np.random.default_rng(1).standard_normal((3, 3, 20, 28)).astype(np.float32)
    for opset in (OPSETS[0], OPSETS[-1]):
        for passes in ({}, {"fold_batchnorm": True}):
            model = rescompile.build(network, "onnx", weights, opset=opset, **passes).to_bytes()
            assert_agrees(ran(model, {"input": x})["logits"], function, x)
    module = rescompile.build(network, "torch", weights).module  # type: ignore[attr-defined]
    with torch.no_grad():
        assert_agrees(module(torch.from_numpy(x)).numpy(), function, x)
        exact, found = function(torch.from_numpy(x).double()), module.double()(torch.from_numpy(x).double())
    assert relative_error(found, exact) < 1e-13


def test_gradients_of_the_unet_agree_with_torch(network: Network) -> None:
    """The gradient of every weight equals that of torch's functions: no in-place op overwrites a value needed for backward."""
    weights = random_weights(network)
    module = rescompile.build(network, "torch", weights).module.double().train()  # type: ignore[attr-defined]
    tensors = {name: torch.from_numpy(value).double().requires_grad_() for name, value in weights.items()}
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3, 20, 28)))
    ours, theirs = module(x), unet(x, tensors)
    for output in (ours, theirs):
        (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)).sum().backward()
    largest = max(float(value.grad.abs().max()) for value in tensors.values())
    assert largest > 0
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, tensors[name].grad, rtol=0, atol=1e-12 * largest)


@pytest.mark.parametrize("kind", [kind for kind in ops.ACTIVATIONS if kind != "prelu"])  # which has a weight
def test_gradients_of_activations(kind: str, tmp_path: Path) -> None:
    """The gradient through an activation after a convolution, where it may be in place, equals that of torch's function."""
    rows = [{"conv1": {"conv": {"channels": 4, "kernel": 1}}}, {"act": kind}]
    network = elaborated({"rescompile": 1, "name": "act", "input": [3, 6, 5], "network": rows}, tmp_path)
    weights = {"conv1.weight": 3 * draw(network, 0)["conv1.weight"]}
    module = rescompile.build(network, "torch", weights).module.double().train()  # type: ignore[attr-defined]
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3, 6, 5)))
    weight = torch.from_numpy(weights["conv1.weight"]).double().requires_grad_()
    function = {"gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}.get(kind) or getattr(F, kind)
    module(x).square().sum().backward()
    function(F.conv2d(x, weight)).square().sum().backward()
    torch.testing.assert_close(module.conv1.weight.grad, weight.grad, rtol=1e-12, atol=0)


def test_the_unet_is_explained(network: Network) -> None:
    """`explain` describes the U-Net, and reports no receptive field, which depends on the position after an upsampling."""
    found = explain(network, ["resnet18"])
    assert "group norm (8 groups), silu" in " ".join(text_report.lines(found, {}, 100))
    assert report(found, {})["last_map"] is None
