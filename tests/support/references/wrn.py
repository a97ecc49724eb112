"""Wide residual networks for CIFAR: Zagoruyko & Komodakis 2016 (wide-residual-networks)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from references import conv


class Unit(nn.Module):
    """x' + conv(relu(bn(... conv(relu(bn(x)))))) with kernels B(...); a unit that changes the channels shares its first
    bn-relu with its projection; the first convolution of a unit has its stride."""

    def __init__(self, inputs: int, width: int, stride: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.count = len(kernels)
        for at, kernel in enumerate(kernels):
            self.add_module(f"bn{at}", nn.BatchNorm2d(width if at else inputs))
            self.add_module(f"conv{at}", conv(width if at else inputs, width, kernel, 1 if at else stride))
        self.convdim = conv(inputs, width, 1, stride) if inputs != width else None

    def forward(self, x: Tensor) -> Tensor:
        """One unit, without the dropout of training."""
        active = functional.relu(self.bn0(x))
        branch = self.conv0(active)
        for at in range(1, self.count):
            branch = self.get_submodule(f"conv{at}")(functional.relu(self.get_submodule(f"bn{at}")(branch)))
        return branch + (x if self.convdim is None else self.convdim(active))


class Net(nn.Module):
    """Stem without a norm, three groups of n units, bn-relu, the mean of each channel, one linear layer."""

    def __init__(self, n: int, k: int, kernels: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        self.conv0 = conv(3, 16, 3)
        inputs = 16
        for group, width in enumerate((16 * k, 32 * k, 64 * k)):
            units = nn.Sequential()
            for at in range(n):
                units.add_module(f"block{at}", Unit(inputs, width, 2 if group and not at else 1, kernels))
                inputs = width
            self.add_module(f"group{group}", units)
        self.bn, self.fc = nn.BatchNorm2d(inputs), nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        """The whole."""
        x = self.group2(self.group1(self.group0(self.conv0(x))))
        return self.fc(functional.relu(self.bn(x)).mean((2, 3)))
