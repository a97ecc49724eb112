"""The ResNet for time series of Wang et al. 2017, written for torch from the paper and the authors' Keras code."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Unit(nn.Module):
    """Convolutions of 8, 5 and 3 positions; Keras pads the even kernel by one more at the end."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(before, width, 8), nn.BatchNorm1d(width)
        self.conv2, self.bn2 = nn.Conv1d(width, width, 5, padding=2), nn.BatchNorm1d(width)
        self.conv3, self.bn3 = nn.Conv1d(width, width, 3, padding=1), nn.BatchNorm1d(width)
        if before != width:
            self.conv = nn.Conv1d(before, width, 1)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(nn.functional.pad(x, (3, 4)))))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + self.norm(self.conv(x) if hasattr(self, "conv") else x))


class Net(nn.Module):
    """Three units, the mean over time, and a classifier."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.unit1, self.unit2, self.unit3 = Unit(1, 64), Unit(64, 128), Unit(128, 128)
        self.fc = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.unit3(self.unit2(self.unit1(x))).mean(2))
