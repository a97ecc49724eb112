"""Highway networks: Srivastava et al. 2015, Training Very Deep Networks, and its released prototxt."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, relu

from references import conv


class Layer(nn.Module):
    """H T + x (1 - T): H = relu(conv(x)), T = sigmoid(gate(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.gate = conv(width, width, 3, bias=True), conv(width, width, 3, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """One layer."""
        t = torch.sigmoid(self.gate(x))
        return relu(self.conv(x)) * t + x * (1 - t)


class B(nn.Module):
    """Table 2, Highway B: 3x3 highway layers between plain ones."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.stage1 = conv(3, 32, 3, bias=True), nn.Sequential(*(Layer(32) for _ in range(4)))
        self.conv6, self.stage2 = conv(32, 80, 3, bias=True), nn.Sequential(*(Layer(80) for _ in range(5)))
        self.conv12, self.stage3 = conv(80, 128, 3, bias=True), nn.Sequential(*(Layer(128) for _ in range(5)))
        self.conv18, self.fc = conv(128, 100, 1, bias=True), nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Without the dropout of training."""
        x = max_pool2d(self.stage1(relu(self.conv1(x))), 2)
        x = max_pool2d(self.stage2(relu(self.conv6(x))), 2)
        x = relu(self.conv18(self.stage3(relu(self.conv12(x)))))
        return self.fc(avg_pool2d(x, 8).flatten(1))


class Convolutional(nn.Module):
    """Table 1, MNIST: a 5x5 without padding, eight 3x3 highway layers, three poolings that round up as Caffe does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 5)
        self.stage1 = nn.Sequential(Layer(width), Layer(width))
        self.stage2 = nn.Sequential(Layer(width), Layer(width), Layer(width))
        self.stage3 = nn.Sequential(Layer(width), Layer(width), Layer(width))
        self.fc = nn.Linear(width * 3 * 3, 10)

    def forward(self, x: Tensor) -> Tensor:
        """The whole."""
        x = max_pool2d(self.stage1(relu(self.conv1(x))), 3, 2, ceil_mode=True)
        x = max_pool2d(self.stage2(x), 3, 2, ceil_mode=True)
        return self.fc(max_pool2d(self.stage3(x), 2, ceil_mode=True).flatten(1))


class LinearLayer(nn.Module):
    """A highway layer of vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """One layer."""
        t = torch.sigmoid(self.gate(x))
        return relu(self.linear(x)) * t + x * (1 - t)


class FullyConnected(nn.Module):
    """Section 3.1, MNIST: a plain first layer, and highway layers of 50 or plain ones of 71."""

    def __init__(self, layers: int, plain: bool = False) -> None:
        super().__init__()
        width = 71 if plain else 50
        self.plain = plain
        self.inp = nn.Linear(784, width)
        body = [nn.Linear(width, width) if plain else LinearLayer(width) for _ in range(layers - 1)]
        self.body, self.out = nn.ModuleList(body), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """The whole."""
        x = relu(self.inp(x.flatten(1)))
        for layer in self.body:
            x = relu(layer(x)) if self.plain else layer(x)
        return self.out(x)
