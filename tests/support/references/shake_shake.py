"""Shake-Shake networks for CIFAR (Gastaldi 2017), in evaluation: the mean of two branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad, relu

from references import conv


class Branch(nn.Module):
    """bn(conv(relu(bn(conv(relu(x))))))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(relu(self.bn1(self.conv1(relu(x))))))


class Shortcut(nn.Module):
    """Two 1x1 convolutions of half the channels, on the map and on the map shifted by one position (section 2.1)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, outputs // 2, 1), conv(inputs, outputs // 2, 1)
        self.bn, self.stride = nn.BatchNorm2d(outputs), stride

    def forward(self, x: Tensor) -> Tensor:
        x = relu(x)
        shifted = pad(x[:, :, 1:, 1:], (0, 1, 0, 1))
        halves = [layer(avg_pool2d(y, 1, self.stride)) for layer, y in ((self.conv1, x), (self.conv2, shifted))]
        return self.bn(torch.cat(halves, 1))


class Unit(nn.Module):
    """A shortcut and the mean of two branches."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Branch(inputs, outputs, stride) for _ in range(2))
        self.downsample = Shortcut(inputs, outputs, stride) if inputs != outputs or stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(x) + (self.branches[0](x) + self.branches[1](x)) / 2


class Net(nn.Module):
    """Three stages of n units with k, 2k and 4k channels."""

    def __init__(self, n: int, k: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 16, 3), nn.BatchNorm2d(16)
        widths = [16, k, 2 * k, 4 * k]
        for stage in (1, 2, 3):
            units = [Unit(widths[stage - (at == 0)], widths[stage], 2 if at == 0 < stage - 1 else 1) for at in range(n)]
            self.add_module(f"layer{stage}", nn.Sequential(*units))
        self.fc = nn.Linear(4 * k, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)))))
        return self.fc(torch.flatten(relu(x).mean((2, 3)), 1))
