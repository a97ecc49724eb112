"""Residual networks for CIFAR whose branches begin at zero by learned scalars: Fixup (Zhang et al. 2019), SkipInit (De & Smith
2020) and ReZero (Bachlechner et al. 2021)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from references import conv
from references.cifar import widened


class Scalar(nn.Module):
    """A learned number that is multiplied, added, or one of each."""

    def __init__(self, scale: bool, shift: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1)) if scale else None
        self.bias = nn.Parameter(torch.zeros(1)) if shift else None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.weight is None else x * self.weight
        return x if self.bias is None else x + self.bias


class Fixup(nn.Module):
    """relu(scale conv(relu(conv(x + a) + b) + c) + d + x'); x' is x, or where the shape changes (x + a) subsampled and widened."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bias1a = Scalar(False, True)
        self.conv1, self.bias1b = conv(inputs, outputs, 3, stride), Scalar(False, True)
        self.bias2a, self.conv2 = Scalar(False, True), conv(outputs, outputs, 3)
        self.scale2 = Scalar(True, True)
        self.outputs, self.stride = outputs, stride

    def forward(self, x: Tensor) -> Tensor:
        shifted = self.bias1a(x)
        branch = self.scale2(self.conv2(self.bias2a(relu(self.bias1b(self.conv1(shifted))))))
        if self.stride > 1:
            x = widened(shifted[:, :, :: self.stride, :: self.stride], self.outputs)
        return relu(branch + x)


class ReZero(nn.Module):
    """alpha relu(bn(conv(relu(bn(conv(x)))))) + x'."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.resweight = Scalar(True, False)
        self.outputs, self.stride = outputs, stride

    def forward(self, x: Tensor) -> Tensor:
        branch = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))
        return self.resweight(branch) + widened(x[:, :, :: self.stride, :: self.stride], self.outputs)


class SkipInit(nn.Module):
    """alpha conv(relu(conv(relu(x)))) + x', where x' is x, or a 1x1 convolution of relu(x) where the channels change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv0, self.conv1 = conv(inputs, outputs, 3, stride, True), conv(outputs, outputs, 3, 1, True)
        self.alpha = Scalar(True, False)
        self.convdim = conv(inputs, outputs, 1, stride, True) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = relu(x)
        branch = self.alpha(self.conv1(relu(self.conv0(active))))
        return branch + (x if self.convdim is None else self.convdim(active))


def stage(unit: type[nn.Module], n: int, inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """Units of one width; the first has the stride."""
    return [unit(outputs if at else inputs, outputs, 1 if at else stride) for at in range(n)]


class FixupNet(nn.Module):
    """3n units of two layers, between one convolution and one linear layer, each with a bias of its own."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1, self.bias1 = conv(3, 16, 3), Scalar(False, True)
        self.layer1 = nn.Sequential(*stage(Fixup, n, 16, 16, 1))
        self.layer2 = nn.Sequential(*stage(Fixup, n, 16, 32, 2))
        self.layer3 = nn.Sequential(*stage(Fixup, n, 32, 64, 2))
        self.bias2, self.fc = Scalar(False, True), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(relu(self.bias1(self.conv1(x))))))
        return self.fc(self.bias2(x.mean((2, 3))))


class ReZeroNet(nn.Module):
    """The ResNet of 6n + 2 layers with units of ReZero."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 16, 3), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*stage(ReZero, n, 16, 16, 1))
        self.layer2 = nn.Sequential(*stage(ReZero, n, 16, 32, 2))
        self.layer3 = nn.Sequential(*stage(ReZero, n, 32, 64, 2))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


class SkipInitNet(nn.Module):
    """The wide ResNet of 6n + 4 layers and k times the channels, without norms."""

    def __init__(self, n: int, k: int) -> None:
        super().__init__()
        self.conv0 = conv(3, 16, 3, 1, True)
        widths = [16, 16 * k, 32 * k, 64 * k]
        for group in range(3):
            units = stage(SkipInit, n, widths[group], widths[group + 1], 2 if group else 1)
            named = OrderedDict((f"block{at}", unit) for at, unit in enumerate(units))
            self.add_module(f"group{group}", nn.Sequential(named))
        self.fc = nn.Linear(widths[3], 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.group2(self.group1(self.group0(self.conv0(x))))
        return self.fc(relu(x).mean((2, 3)))
