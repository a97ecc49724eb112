"""A small residual U-Net with group norm and SiLU: Ronneberger et al. 2015, Zhang et al. 2018, Wu and He 2018."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

Weights = Mapping[str, Tensor]


def unit(x: Tensor, own: Weights, name: str, stride: int = 1) -> Tensor:
    """silu(F(x) + x'), F = gn(conv3x3(silu(gn(conv3x3)))), x' a 1x1 with its norm where the shape changes."""
    y = functional.conv2d(x, own[f"{name}.conv1.weight"], stride=stride, padding=1)
    y = functional.silu(functional.group_norm(y, 8, own[f"{name}.bn1.weight"], own[f"{name}.bn1.bias"]))
    y = functional.conv2d(y, own[f"{name}.conv2.weight"], padding=1)
    y = functional.group_norm(y, 8, own[f"{name}.bn2.weight"], own[f"{name}.bn2.bias"])
    if y.shape != x.shape:
        x = functional.conv2d(x, own[f"{name}.downsample.0.weight"], stride=stride)
        x = functional.group_norm(x, 8, own[f"{name}.downsample.1.weight"], own[f"{name}.downsample.1.bias"])
    return functional.silu(y + x)


def unet(x: Tensor, own: Weights) -> Tensor:
    """Three sizes: two units at each on the way down, one on the way up, what was there before in front of what returns."""
    x = functional.conv2d(x, own["conv1.weight"], padding=1)
    x = functional.silu(functional.group_norm(x, 8, own["bn1.weight"], own["bn1.bias"]))
    full = unit(x, own, "encode1.0")
    half = unit(unit(full, own, "encode2.0", stride=2), own, "encode2.1")
    quarter = unit(unit(half, own, "bottom.0", stride=2), own, "bottom.1")
    back = functional.interpolate(quarter, scale_factor=2, mode="bilinear", align_corners=False)
    back = unit(torch.cat([half, back], 1), own, "decode2.0")
    back = functional.interpolate(back, scale_factor=2, mode="nearest")
    back = unit(torch.cat([full, back], 1), own, "decode1.0")
    return functional.conv2d(back, own["head.weight"], own["head.bias"])
