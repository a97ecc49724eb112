"""DenseNets for CIFAR: Huang et al. 2017."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu
from torchvision.models import DenseNet

from references import conv


class Plain(nn.Module):
    """Section 3, without bottlenecks and compression: n layers bn-relu-conv3x3 in each of three blocks."""

    def __init__(self, n: int, growth: int) -> None:
        super().__init__()
        self.features = nn.Module()
        self.features.conv0 = conv(3, 16, 3)
        channels = 16
        for at in (1, 2, 3):
            block = nn.Module()
            for layer in range(1, n + 1):
                made = nn.Module()
                made.norm1, made.conv1 = nn.BatchNorm2d(channels), conv(channels, growth, 3)
                block.add_module(f"denselayer{layer}", made)
                channels += growth
            self.features.add_module(f"denseblock{at}", block)
            if at < 3:
                transition = nn.Module()
                transition.norm, transition.conv = nn.BatchNorm2d(channels), conv(channels, channels, 1)
                self.features.add_module(f"transition{at}", transition)
        self.features.norm4, self.classifier = nn.BatchNorm2d(channels), nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Every layer reads what all before it made in its block."""
        features = self.features
        x = features.conv0(x)
        for at in (1, 2, 3):
            for layer in features.get_submodule(f"denseblock{at}").children():
                x = torch.cat([x, layer.conv1(relu(layer.norm1(x)))], 1)
            if at < 3:
                transition = features.get_submodule(f"transition{at}")
                x = avg_pool2d(transition.conv(relu(transition.norm(x))), 2)
        return self.classifier(relu(features.norm4(x)).mean((2, 3)))


def bottlenecks(n: int, growth: int) -> DenseNet:
    """DenseNet-BC is torchvision's, with n layers in each of three blocks, and a stem of one convolution."""
    model = DenseNet(growth, (n, n, n), num_init_features=2 * growth, num_classes=10)
    model.features.conv0 = conv(3, 2 * growth, 3)
    model.features.norm0 = model.features.relu0 = model.features.pool0 = nn.Identity()
    return model
