"""The style `modules`: a network whose body is a chain equals its child modules in sequence."""

from __future__ import annotations

import facts
import pytest

torch = pytest.importorskip("torch", reason="the text is executed with torch: pip install 'rescompile[torch]'")

from sources import drawn, empty, filled, shapes, source
from torch import nn

CHAINS = ("resnet18", "vgg11_bn", "densenet_bc_100_k12_cifar", "preact_resnet164_cifar", "preact_resnet18", "alexnet")


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.slow_for("vgg11_bn", "alexnet")
def test_children_in_sequence_are_the_network(name: str) -> None:
    """All children but the last return a map, and the last takes it flattened, as `fc` does in torchvision's models."""
    network = facts.network(name)
    weights, x = drawn(network, seed=3, batch=1)
    module = filled(source(network, "modules"), weights).eval()
    *children, last = module.children()
    with torch.no_grad():
        features = nn.Sequential(*children)(torch.from_numpy(x))
        assert features.dim() == 4
        assert torch.equal(last(torch.flatten(features, 1)), module(torch.from_numpy(x)))


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet", "highway_mnist_conv_16"])
def test_parameters_have_the_same_names(name: str) -> None:
    network = facts.network(name)
    assert shapes(empty(source(network, "modules"))) == shapes(empty(source(network)))


def test_nothing_is_overwritten_between_children() -> None:
    """Activations are not in place, so code that stops after a child, or hooks it, keeps the child's output."""
    assert "self.act = nn.ReLU()\n" in source(facts.network("resnet18"), "modules")


def test_blocks_with_a_merge_are_the_same() -> None:
    network = facts.network("resnet18")
    block = source(network).partition("class Resnet18")[0].partition("class Basic")[2]
    assert "F.relu" in block
    assert block in source(network, "modules")
