"""Convolutions with standardised weights have the names, shapes and outputs of timm's layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the peers are torch models: pip install torch")

import peers  # before timm: it declares the operators whose library may not load

layers = pytest.importorskip("timm.layers", reason="a peer of these layers: pip install --no-deps timm")

from op_cases import a, network, series

from rescompile.ir.interpreter import interpret
from rescompile.ir.network import parameters
from rescompile.ir.ops import Conv

SHAPE = (6, 9, 8)


@pytest.mark.peers
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("layer", "given", "attributes"),
    [
        ("StdConv2d", {"eps": 1e-8}, {"weights": "standardised", "eps": 1e-8}),
        ("ScaledStdConv2d", {"eps": 1e-4, "gamma": 1.7}, {"weights": "scaled", "eps": 1e-4, "gamma": 1.7}),
    ],
)
def test_standardised(layer: str, given: dict[str, Any], attributes: dict[str, Any], bias: bool, groups: int) -> None:
    """Weights of BiT, and those of NF-ResNet with their gain, give the outputs of timm."""
    shared = {"stride": 2, "padding": 1, "groups": groups, "bias": bias}
    peer = getattr(layers, layer)(6, 9, 3, **shared, **given).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in peer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    kind = Conv(9, (3, 3), (2, 2), (1, 1), groups=groups, bias=bias, **attributes)
    net = network(series(SHAPE, a("conv", kind)))
    state = {f"conv.{name}": value.numpy() for name, value in peer.state_dict().items()}
    assert {name: parameter.shape for name, parameter in parameters(net)} == {n: v.shape for n, v in state.items()}
    x: peers.Array = np.random.default_rng(0).standard_normal((2, *SHAPE))
    with torch.no_grad():
        wanted = peer(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(interpret(net, state, x)["logits"], wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())
