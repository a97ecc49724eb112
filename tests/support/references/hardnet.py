"""HarDNet-68 as its authors describe it (Chao et al. 2019, section 3 and table 2), written for torch from the paper's rules, with
the names of their code."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from references import conv

#: Growth and layers of each block, the width of the convolution after it, and whether a pool follows.
BLOCKS = ((14, 8, 128, True), (16, 16, 256, False), (20, 16, 320, True), (40, 16, 640, True), (160, 4, 1024, False))
MULTIPLIER = 1.7


def unit(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, norm, ReLU6."""
    parts = {"conv": conv(before, after, kernel, stride), "norm": nn.BatchNorm2d(after), "relu": nn.ReLU6()}
    return nn.Sequential(OrderedDict(parts))


def links(layer: int) -> list[int]:
    """Which layers a layer reads: those a power of two before it, if the power divides its number."""
    return [layer - 2**n for n in range(layer.bit_length()) if layer % 2**n == 0]


class HarmonicBlock(nn.Module):
    """Layers whose width grows with what they read; the odd ones and the last are the output."""

    def __init__(self, before: int, growth: int, count: int) -> None:
        super().__init__()
        widths = [before]
        self.layers = nn.ModuleList()
        for layer in range(1, count + 1):
            width = float(growth)
            for _ in links(layer)[1:]:
                width *= MULTIPLIER
            widths.append(int(width + 1) // 2 * 2)
            self.layers.append(unit(sum(widths[at] for at in links(layer)), widths[-1]))
        self.kept = [at for at in range(count + 1) if at % 2 or at == count]
        self.width = sum(widths[at] for at in self.kept)

    def forward(self, x: Tensor) -> Tensor:
        """The output for a map."""
        values = [x]
        for number, layer in enumerate(self.layers, 1):
            values.append(layer(torch.cat([values[at] for at in links(number)], 1)))
        return torch.cat([values[at] for at in self.kept], 1)


class Net(nn.Module):
    """The network for ImageNet."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        parts: list[nn.Module] = [unit(3, 32, stride=2), unit(32, 64), nn.MaxPool2d(3, 2, 1)]
        width = 64
        for growth, count, after, pooled in BLOCKS:
            block = HarmonicBlock(width, growth, count)
            parts += [block, unit(block.width, after, 1), *([nn.MaxPool2d(2)] if pooled else [])]
            width = after
        last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(width, classes))
        self.base = nn.Sequential(*parts, last)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x)
