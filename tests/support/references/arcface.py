"""The face networks of ArcFace (Deng et al. 2019, section 3.1 and appendix; insightface's iresnet.py): a norm first in each unit, a
PReLU between its convolutions, the stride in the second, and an embedding in place of classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from references import conv


class Unit(nn.Module):
    """norm - 3x3 - norm - PReLU - 3x3 - norm, and a projection where the shape changes."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3)
        self.bn2, self.prelu = nn.BatchNorm2d(width), nn.PReLU(width)
        self.conv2, self.bn3 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(conv(inputs, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(branch)) + (x if self.downsample is None else self.downsample(x))


class Net(nn.Module):
    """For faces of 112x112: `side` is that of the last map."""

    def __init__(self, depths: tuple[int, ...], side: int = 7, features: int = 512) -> None:
        super().__init__()
        self.conv1, self.bn1, self.prelu = conv(3, 64, 3), nn.BatchNorm2d(64), nn.PReLU(64)
        inputs = 64
        for stage, depth in enumerate(depths):
            width = 64 * 2**stage
            units = [Unit(inputs, width, 2), *(Unit(width, width, 1) for _ in range(depth - 1))]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*units))
            inputs = width
        self.bn2, self.fc = nn.BatchNorm2d(inputs), nn.Linear(inputs * side**2, features)
        self.features = nn.BatchNorm1d(features)
        self.features.weight.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.features(self.fc(torch.flatten(self.bn2(x), 1)))
