"""`children()` of the style `modules` gives code for torchvision the same modules as torchvision's models do."""

from __future__ import annotations

import facts
import pytest

torch = pytest.importorskip("torch", reason="the peers are torch models: pip install torch")

import peers  # before torchvision: it declares the operators whose library may not load

torchvision = pytest.importorskip("torchvision", reason="a peer of many networks: pip install --no-deps torchvision")

from sources import filled, source
from torch import nn


def pair(name: str) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Return torchvision's model, ours with its weights, and an input."""
    network = facts.network(name)
    theirs = peers.randomised(getattr(torchvision.models, name)(), (2, *network.input))
    ours = filled(source(network, "modules"), peers.arrays(theirs), torch.float32).eval()
    return theirs, ours, torch.randn(1, *network.input, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "vgg11", "vgg11_bn", "alexnet"])
@pytest.mark.slow_for("vgg11", "vgg11_bn", "alexnet", "resnext50_32x4d")
def test_all_children_but_the_last(name: str) -> None:
    *models, x = pair(name)
    with torch.no_grad():
        theirs, ours = (nn.Sequential(*list(model.children())[:-1])(x) for model in models)
    assert theirs.dim() == 4
    assert torch.equal(theirs, ours)


def test_features_of_densenet() -> None:
    """The last activation and the pool, which torchvision's DenseNet applies in `forward`, are children too."""
    *models, x = pair("densenet121")
    theirs, ours = models
    with torch.no_grad():
        features = theirs.features(x)
        assert torch.equal(features, ours.features(x))
        pooled = nn.functional.adaptive_avg_pool2d(nn.functional.relu(features), 1)
        assert torch.equal(nn.Sequential(*list(ours.children())[:-1])(x), pooled)
