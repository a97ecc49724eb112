"""PyramidNets for CIFAR (Han et al. 2017): pre-activation units without the first relu, each a few channels wider."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

from references import conv
from references.cifar import widened


class Unit(nn.Module):
    """x' + bn(conv(relu(bn(conv(bn(x)))))), x' averaged for a stride and widened with zeros (figure 6d)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.stride, self.outputs = stride, outputs

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn3(self.conv2(relu(self.bn2(self.conv1(self.bn1(x))))))
        shortcut = avg_pool2d(x, self.stride, ceil_mode=True) if self.stride > 1 else x
        return branch + widened(shortcut, self.outputs)


class Net(nn.Module):
    """Three stages of n units; unit k of all has round(16 + alpha k / 3n) channels (equation 3)."""

    def __init__(self, n: int, alpha: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 16, 3), nn.BatchNorm2d(16)
        widths = [round(16 + alpha * k / (3 * n)) for k in range(3 * n + 1)]
        units = [Unit(widths[k], widths[k + 1], 2 if k in (n, 2 * n) else 1) for k in range(3 * n)]
        self.layer1, self.layer2, self.layer3 = (nn.Sequential(*units[at : at + n]) for at in (0, n, 2 * n))
        self.bn_final = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)))))
        return self.fc(torch.flatten(relu(self.bn_final(x)).mean((2, 3)), 1))
