"""Networks that no library of ours has, written down plainly in torch from their papers' definitions and the released code.

They are peers like those of torchvision: their modules have the names that the facts give, so that a checkpoint fits
strictly, and their outputs are compared. None of them knows anything of rescompile. One module per family.
"""

from __future__ import annotations

from torch import nn


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps the size of the map, but for its stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)
