"""What a network of the zoo is compared with: models of torchvision and timm, and how they differ from ours.

Needs torch, torchvision and timm; whoever can do without imports this module only where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import facts
import peers  # before torchvision: it declares the operators whose library may not load
import timm
import torchvision
from timm.layers.cbam import CbamModule
from timm.models import resnet
from torch import nn

from rescompile.weights import profiles
from rescompile.weights.tensors import Tensor

Tensors = dict[str, peers.Array]
Renamed = Callable[[str, Tensors], Tensors]


def as_they_are(_name: str, tensors: Tensors) -> Tensors:
    """Strict loading: the peer has our names."""
    return tensors


def by(profile: str) -> Renamed:
    """Our names by a naming profile, which these comparisons prove: on the library's own weights, by outputs."""

    def renamed(name: str, tensors: Tensors) -> Tensors:
        held = {key: Tensor.of(array) for key, array in tensors.items()}
        return {key: t.make() for key, t in profiles.load(profile).to_ours(held, facts.network(name)).items()}

    return renamed


@dataclass(frozen=True)
class Peer:
    """What a network of the zoo is compared with, and how: `settings` change our side, as `--set` does."""

    make: Callable[[], nn.Module]
    input: tuple[int, ...] = (3, 64, 64)
    settings: tuple[str, ...] = ()
    renamed: Renamed = as_they_are
    positive: str = ""
    named: Callable[[nn.Module], Tensors] = peers.arrays


def torchvision_peer(name: str) -> nn.Module:
    """A model without weights to download, and without the slow drawing of new ones."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


def timm_peer(name: str) -> nn.Module:
    """A model without weights to download, and without the dropout that a few of timm's apply as a function."""
    model: nn.Module = timm.create_model(name, pretrained=False, drop_rate=0.0)
    return model


def cbam_resnet50() -> nn.Module:
    """timm's ResNet-50 with its CBAM, for which it has no name; the layers of the perceptron have biases, as in the paper."""
    attention = partial(CbamModule, mlp_bias=True)
    model: nn.Module = resnet.ResNet(resnet.Bottleneck, [3, 4, 6, 3], block_args={"attn_layer": attention})
    return model


LIBRARIES = {"torchvision": torchvision_peer, "timm": timm_peer}
