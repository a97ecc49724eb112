"""iResNet (Duta et al. 2020, Improved Residual Networks; the released iresnet.py): norms and activations where a stage needs
them, and a max-pool before the projections."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from references import conv


class Block(nn.Module):
    """A bottleneck at its place in a stage: `start` ends in a norm, `end` has norm and relu after the addition, and all but
    the first begin with a norm and relu; in the second, whose input is normalised, the norm is left out (figure 1c)."""

    def __init__(self, inputs: int, width: int, stride: int, start: bool, end: bool, norm_first: bool) -> None:
        super().__init__()
        outputs = width * 4
        if norm_first:
            self.bn0 = nn.BatchNorm2d(inputs)
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3 = conv(width, outputs, 1)
        if start or end:
            self.bn3 = nn.BatchNorm2d(outputs)
        self.start, self.end, self.norm_first = start, end, norm_first
        self.downsample = None
        if start:
            pool = [nn.MaxPool2d(3, stride, 1)] if stride > 1 else []
            self.downsample = nn.Sequential(*pool, conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        branch = x
        if not self.start:
            branch = relu(self.bn0(x) if self.norm_first else x)
        branch = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(branch))))))
        branch = self.conv3(branch)
        if self.start:
            branch = self.bn3(branch)
        x = branch + (x if self.downsample is None else self.downsample(x))
        return relu(self.bn3(x)) if self.end else x


class Net(nn.Module):
    """iResNet for ImageNet: a 7x7 convolution, then four stages with stride 2."""

    def __init__(self, depths: tuple[int, ...], classes: int = 1000) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 64, 7, 2), nn.BatchNorm2d(64)
        inputs = 64
        for stage, depth in enumerate(depths):
            width = 64 * 2**stage
            blocks = []
            for at in range(depth):
                start, end = at == 0, at == depth - 1
                blocks.append(Block(inputs, width, 2 if start else 1, start, end, at > 1))
                inputs = width * 4
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(torch.flatten(x.mean((2, 3)), 1))
