"""Reference models from torchvision and timm, and how they differ from the networks of the zoo.

Needs torch, torchvision and timm; a test that can run without them imports this module only if they are installed.
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
    """Return the tensors unchanged: the peer has our names."""
    return tensors


def by(profile: str) -> Renamed:
    """Return a function that renames tensors by a naming profile. The comparisons verify the profile too: by the
    outputs."""

    def renamed(name: str, tensors: Tensors) -> Tensors:
        held = {key: Tensor.of(array) for key, array in tensors.items()}
        return {key: t.make() for key, t in profiles.load(profile).to_ours(held, facts.network(name)).items()}

    return renamed


@dataclass(frozen=True)
class Peer:
    """The reference model of a network of the zoo; `settings` change our network, as `--set` does."""

    make: Callable[[], nn.Module]
    input: tuple[int, ...] = (3, 64, 64)
    settings: tuple[str, ...] = ()
    renamed: Renamed = as_they_are
    positive: str = ""
    named: Callable[[nn.Module], Tensors] = peers.arrays


def torchvision_peer(name: str) -> nn.Module:
    """Return a model of torchvision, without downloading weights and without the slow initialisation."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


def timm_peer(name: str) -> nn.Module:
    """Return a model of timm, without downloading weights and without functional dropout, which a few models apply."""
    model: nn.Module = timm.create_model(name, pretrained=False, drop_rate=0.0)
    return model


def cbam_resnet50() -> nn.Module:
    """Return timm's ResNet-50 with its CBAM, for which timm has no name; the layers of the perceptron have biases, as
    in the paper."""
    attention = partial(CbamModule, mlp_bias=True)
    model: nn.Module = resnet.ResNet(resnet.Bottleneck, [3, 4, 6, 3], block_args={"attn_layer": attention})
    return model


LIBRARIES = {"torchvision": torchvision_peer, "timm": timm_peer}
