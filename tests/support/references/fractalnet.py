"""FractalNet for CIFAR (Larsson et al. 2017) in evaluation, column by column as the released generator builds it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from references import conv


class Unit(nn.Module):
    """Convolution, dropout, norm, relu; and inside it the parts that the expansion rule puts beside the convolution."""

    def __init__(self, inputs: int, width: int, level: int) -> None:
        super().__init__()
        if level > 1:
            self.first = Unit(inputs, width, level - 1)
            self.second = Unit(width, width, level - 1)
        self.conv = conv(inputs, width, 3)
        self.bn = nn.BatchNorm2d(width)

    def alone(self, x: Tensor) -> Tensor:
        """The convolution of this level."""
        return torch.relu(self.bn(self.conv(x)))


def at(unit: Unit, levels: int, step: int, level: int) -> Unit:
    """The unit of a level that ends at a step, counted from 1, inside one of so many levels."""
    size = 2 ** (levels - 1)
    while size > 2**level:
        size //= 2
        unit, step = (unit.first, step) if step <= size else (unit.second, step - size)
    return unit


class Block(nn.Module):
    """Columns of 2^(C - 1), ..., 2 and 1 convolutions. Those that end at a step are averaged, and go on from there."""

    def __init__(self, inputs: int, width: int, columns: int) -> None:
        super().__init__()
        self.columns, self.count = Unit(inputs, width, columns), columns

    def forward(self, x: Tensor) -> Tensor:
        lasts = [x] * self.count
        steps = 2 ** (self.count - 1)
        for step in range(1, steps + 1):
            ending = [level for level in range(self.count) if step % 2**level == 0]
            for level in ending:
                lasts[level] = at(self.columns, self.count, step, level).alone(lasts[level])
            if step == steps:
                lasts = [nn.functional.max_pool2d(last, 2) for last in lasts]
            joined = torch.stack([lasts[level] for level in ending]).mean(0)
            for level in ending:
                lasts[level] = joined
        return lasts[0]


class Net(nn.Module):
    """Five blocks, each of which halves the map."""

    def __init__(self, columns: int = 3, widths: Sequence[int] = (64, 128, 256, 512, 512), classes: int = 10) -> None:
        super().__init__()
        self.blocks = len(widths)
        for number, (inputs, width) in enumerate(zip((3, *widths), widths, strict=False), 1):
            self.add_module(f"block{number}", Block(inputs, width, columns))
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, self.blocks + 1):
            x = getattr(self, f"block{number}")(x)
        return self.fc(torch.flatten(x, 1))
