"""`--fuse-branches`: added convolutions and norms of one input become one convolution, and outputs do not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import facts
import numpy as np
import pytest
import torch
from torch.nn import functional

import rescompile
from rescompile.analysis.cost import cost
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import LOGITS, Network, Op, Parallel, parameters, walk
from rescompile.ir.ops import Conv
from rescompile.passes import apply
from rescompile.weights import from_arrays

HEAD = """
rescompile: 1
name: branches
input: [12, 11, 10]
blocks:
  unit:
    parameters: {kernel: size, padding: {type: size, default: 0}, groups: 1, bias: false, dilation: 1, stride: 1}
    body:
    - conv: {channels: 12, kernel: kernel, padding: padding, groups: groups, bias: bias, dilation: dilation, stride: stride}
    - bn: norm
network:
- merged: {parallel: {merge: add, branches: [%s]}}
"""
#: Branches, and the convolution that they become.
FUSED = {
    "RepVGG": (
        "a: {block: unit, kernel: 3, padding: 1}, b: {block: unit, kernel: 1, bias: true}, c: norm",
        Conv(12, (3, 3), padding=(1, 1), bias=True),
    ),
    "ACNet": (
        "a: {block: unit, kernel: [1, 3], padding: [0, 1]}, b: {block: unit, kernel: [3, 1], padding: [1, 0]}",
        Conv(12, (3, 3), padding=(1, 1), bias=True),
    ),
    "groups": (
        "a: {block: unit, kernel: 3, padding: 1, groups: 4}, b: {block: unit, kernel: 5, padding: 2, groups: 6}, identity",
        Conv(12, (5, 5), padding=(2, 2), groups=2, bias=True),
    ),
    "depthwise": (
        "a: {block: unit, kernel: 3, padding: 1, groups: 12}, b: [norm: {eps: 0.1}, scale: -0.5, affine: {per: one}]",
        Conv(12, (3, 3), padding=(1, 1), groups=12, bias=True),
    ),
    "strides": (
        "a: {block: unit, kernel: 3, padding: 1, stride: 2}, b: {block: unit, kernel: 1, stride: 2}",
        Conv(12, (3, 3), (2, 2), (1, 1), bias=True),
    ),
    "dilation": (
        "a: {block: unit, kernel: 3, padding: 4, dilation: 4}, b: {block: unit, kernel: 1, groups: 3}, affine",
        Conv(12, (3, 3), padding=(4, 4), dilation=(4, 4), bias=True),
    ),
    "a sum of one": (
        "a: {block: unit, kernel: 3, padding: 1}",
        Conv(12, (3, 3), padding=(1, 1), bias=True),
    ),
    "nested": (
        "{parallel: {merge: add, branches: [identity, a: {block: unit, kernel: 1}]}}, b: {conv: {channels: 12, kernel: 3}}",
        Conv(12, (3, 3), padding=(1, 1), bias=True),
    ),
    "even kernels": (
        "a: {block: unit, kernel: 4, padding: 0}, b: {block: unit, kernel: 4, padding: 0, groups: 2}",
        Conv(12, (4, 4), padding=(0, 0), bias=True),
    ),
}
#: Branches that do not combine into one convolution.
KEPT = {
    "an activation": "a: {block: unit, kernel: 1}, relu",
    "no convolution": "norm, identity",
    "two dilations": "a: {conv: {channels: 12, kernel: 3, dilation: 2}}, b: {conv: {channels: 12, kernel: 3}}",
    "two convolutions in a row": "a: [{conv: {channels: 12, kernel: 1}}, {conv: {channels: 12, kernel: 3}}], identity",
    "a norm of the sample": "a: {conv: {channels: 12, kernel: 3}}, b: {norm: {kind: group, groups: 3}}",
    "dropout": "a: {conv: {channels: 12, kernel: 3}}, dropout: 0.5",
    "the means of a pool": "a: {conv: {channels: 12, kernel: 3}}, {avgpool: {kernel: 3, stride: 1, padding: 1}}",
    "two strides": "a: {block: unit, kernel: 11}, b: {block: unit, kernel: 11, stride: 2}",
    # For 11 positions, both give as many outputs; for 10, they do not.
    "maps that agree by chance": "a: {block: unit, kernel: 3, stride: 2}, b: {block: unit, kernel: 2, stride: 2}",
}


def merged(branches: str, folder: Path) -> Network:
    """Return the network of one merge of these branches."""
    path = folder / "spec.yaml"
    path.write_text(HEAD % branches, encoding="utf-8")
    return rescompile.elaborate(rescompile.load(path, ["input=[12,11,11]"]))


def random_weights(network: Network) -> tuple[dict[str, Any], Any]:
    """Return weights that differ from all initial values, and an input."""
    rng = np.random.default_rng(0)
    weights = {
        name: (rng.uniform(0.5, 2, p.shape) if name.endswith("running_var") else rng.standard_normal(p.shape)).astype(
            np.float32
        )
        for name, p in parameters(network)
        if p.dtype == "float32"
    }
    return weights, rng.standard_normal((2, *network.input)).astype(np.float32)


def outputs(network: Network, weights: Any, x: Any) -> Any:
    """Return the logits in float64."""
    float_weights = {name: weights[name] for name, p in parameters(network) if p.dtype == "float32"}
    return interpret(network, float_weights, x)[LOGITS]


@pytest.mark.parametrize("case", FUSED)
def test_branches_become_one_convolution(case: str, tmp_path: Path) -> None:
    """Fused branches are one convolution of the expected kind, with the outputs of before, on a map of another size too."""
    branches, wanted = FUSED[case]
    network = merged(branches, tmp_path)
    weights, x = random_weights(network)
    fused, changed = apply(network, from_arrays(weights, network), {"fuse_branches": True})
    (op,) = (node for _, node in walk(fused.root) if isinstance(node, Op))
    assert (op.name, op.kind) == ("fused", wanted)
    assert not [node for _, node in walk(fused.root) if isinstance(node, Parallel)]
    assert [name for name, _ in parameters(fused)] == ["merged.fused.weight", "merged.fused.bias"]
    assert changed is not None
    assert sorted(changed) == ["merged.fused.bias", "merged.fused.weight"]
    for each in (x, np.concatenate([x, x[:, :, :6]], axis=2)):
        exact = outputs(network, weights, each)
        np.testing.assert_allclose(outputs(fused, changed, each), exact, rtol=0, atol=3e-6 * np.abs(exact).max())


@pytest.mark.parametrize("case", KEPT)
def test_other_merges_stay(case: str, tmp_path: Path) -> None:
    """Merges that cannot be fused do not change."""
    network = merged(KEPT[case], tmp_path)
    weights, _ = random_weights(network)
    fused, changed = apply(network, from_arrays(weights, network), {"fuse_branches": True})
    assert fused.root == network.root
    assert changed is not None
    assert set(changed) == set(weights)


def test_mobileone_has_the_counts_of_its_authors() -> None:
    """The deployed form has one convolution for each layer, and the counts of the authors' README."""
    fused, _ = apply(facts.network("mobileone_s0"), None, {"fuse_branches": True})
    assert not [node for _, node in walk(fused.root) if isinstance(node, Parallel)]
    assert (round(cost(fused).parameters / 1e6, 1), round(cost(fused).macs / 1e6)) == (2.1, 275)


def test_repvgg_has_the_counts_of_its_authors() -> None:
    """The deployed form has the published counts, and the fused kernel of a layer agrees with torch's functions."""
    network = facts.network("repvgg_a0", "input=[3,32,32]")
    weights, _ = random_weights(network)
    fused, changed = apply(network, from_arrays(weights, network), {"fuse_branches": True})
    assert changed is not None
    assert cost(fused).parameters == 8_309_384
    assert not [node for _, node in walk(fused.root) if isinstance(node, Parallel)]
    w = {name.removeprefix("stage1.1."): torch.tensor(v) for name, v in weights.items() if name.startswith("stage1.1.")}
    x = torch.randn(1, 48, 8, 8, generator=torch.Generator().manual_seed(0))

    def normed(value: torch.Tensor, name: str) -> torch.Tensor:
        return functional.batch_norm(
            value, *(w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        )

    wanted = normed(functional.conv2d(x, w["rbr_dense.conv.weight"], padding=1), "rbr_dense.bn")
    wanted = wanted + normed(functional.conv2d(x, w["rbr_1x1.conv.weight"]), "rbr_1x1.bn") + normed(x, "rbr_identity")
    kernel, bias = (torch.tensor(changed[f"stage1.1.fused.{part}"]) for part in ("weight", "bias"))
    torch.testing.assert_close(functional.conv2d(x, kernel, bias, padding=1), wanted, rtol=1e-4, atol=1e-3)
