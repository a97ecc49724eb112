"""ResNets with attention, selective kernels and filters, each in a few lines of spec, compared with timm on the same weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the peers are torch models: pip install torch")

import peers  # before timm: it declares the operators whose library may not load

timm = pytest.importorskip("timm", reason="the peer: pip install --no-deps timm")

from timm.models import resnet

import rescompile
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import parameters

SPECS = {
    "seresnet50": "extends: resnet50\n"
    "defaults: {bottleneck: {attention: squeeze_excitation}, squeeze_excitation: {squeezed: in_channels / 16}}\n",
    "ecaresnet50d": "extends: resnet50d\ndefaults: {bottleneck: {attention: efficient_channel_attention}}\n",
    "cbam_resnet50": "extends: resnet50\ndefaults: {bottleneck: {attention: cbam}}\n",
    "skresnet50": "extends: resnet50\ndefaults: {bottleneck: {spatial: selective_kernel}}\n",
    "resnetblur50": "extends: resnet50\ndefaults: {bottleneck: {antialias: blurpool}}\n"
    "set: {imagenet_stem: [conv1: {conv: {channels: 64, kernel: 7, stride: 2}}, bn1: norm, act: relu,"
    " pool: {maxpool: {kernel: 3, stride: 1, padding: 1}}, blur: {block: blurpool}]}\n",
}


def in_units(key: str) -> str:
    """Rename tensors to timm's SK-ResNets, where a convolution and its norm are in one module."""
    key = re.sub(r"(layer\d\.\d+)\.(conv[13])\.", r"\1.\2.conv.", key)
    return re.sub(r"(layer\d\.\d+)\.bn([13])\.", r"\1.conv\2.bn.", key)


RENAMED: dict[str, Callable[[str], str]] = {"skresnet50": in_units}


#: Networks that timm can build but does not register.
BUILT: dict[str, Callable[[], torch.nn.Module]] = {
    "cbam_resnet50": lambda: resnet.ResNet(resnet.Bottleneck, [3, 4, 6, 3], block_args={"attn_layer": "cbam"}),
}


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_three_lines(name: str, tmp_path: Path) -> None:
    """Every tensor of the peer has a counterpart, and outputs are equal up to rounding in float64."""
    path = tmp_path / "spec.yaml"
    path.write_text(f"rescompile: 1\nname: ours\n{SPECS[name]}", encoding="utf-8")
    network = rescompile.elaborate(rescompile.load(path, ["input=[3,64,64]"]))
    peer = BUILT[name]() if name in BUILT else timm.create_model(name, pretrained=False)
    peer.eval()
    generator = torch.Generator().manual_seed(0)
    for key, value in peer.state_dict().items():
        if value.is_floating_point():
            low = 0.5 if key.endswith("running_var") else 0.0
            value.copy_(value + low + 0.05 * torch.rand(value.shape, generator=generator))
    state = {key: value.numpy() for key, value in peer.state_dict().items()}
    renamed = RENAMED.get(name, str)
    ours = {key: parameter.shape for key, parameter in parameters(network)}
    assert {renamed(key) for key in ours} == state.keys()
    # A convolution along rows has one more axis here than a one-dimensional one in timm.
    weights = {key: state[renamed(key)].reshape(shape) for key, shape in ours.items()}
    x: peers.Array = np.random.default_rng(0).standard_normal((1, *network.input)).astype(np.float32)
    with torch.no_grad():
        wanted = peer.double()(torch.from_numpy(x).double()).numpy()
    found = interpret(network, weights, x)["logits"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())
