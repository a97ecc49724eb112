"""darknet's networks: lists of layers as in a cfg, and an interpreter that does with them what darknet does."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, max_pool2d


class Conv(NamedTuple):
    """[convolutional]"""

    filters: int
    size: int = 3
    stride: int = 1
    leaky: bool = True
    norm: bool = True
    groups: int = 1


class Pool(NamedTuple):
    """[maxpool] of 2x2, rounding up as its padding makes it."""


class Average(NamedTuple):
    """[avgpool]: of the whole map."""


class Route(NamedTuple):
    """[route]: the channels of earlier layers, one after the other."""

    layers: tuple[int, ...]


class Shortcut(NamedTuple):
    """[shortcut]: an earlier layer is added, leaky; of the larger map every second position, of channels those of both."""

    layer: int


Layer = Conv | Pool | Average | Route | Shortcut


class ConvLayer(nn.Module):
    """A convolution with its norm and its activation."""

    def __init__(self, inputs: int, layer: Conv) -> None:
        super().__init__()
        self.leaky, size = layer.leaky, layer.size
        self.conv = nn.Conv2d(
            inputs, layer.filters, size, layer.stride, size // 2, groups=layer.groups, bias=not layer.norm
        )
        self.bn = nn.BatchNorm2d(layer.filters) if layer.norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """One layer."""
        x = self.bn(self.conv(x))
        return leaky_relu(x, 0.1) if self.leaky else x


class Net(nn.Module):
    """The modules of a convolution are called by its index in the cfg."""

    def __init__(self, cfg: list[Layer]) -> None:
        super().__init__()
        self.cfg, self.layers = cfg, nn.ModuleDict()
        channels: list[int] = []
        for at, layer in enumerate(cfg):
            before = channels[-1] if channels else 3
            match layer:
                case Conv():
                    self.layers[str(at)] = ConvLayer(before, layer)
                    channels.append(layer.filters)
                case Route():
                    channels.append(sum(channels[at + back] for back in layer.layers))
                case _:
                    channels.append(before)

    def forward(self, x: Tensor) -> Tensor:
        """Layer after layer, all of them kept."""
        values: list[Tensor] = []
        for at, layer in enumerate(self.cfg):
            match layer:
                case Conv():
                    x = self.layers[str(at)](x)
                case Pool():
                    x = max_pool2d(x, 2, 2, ceil_mode=True)
                case Average():
                    x = x.mean((2, 3), keepdim=True)
                case Route():
                    x = torch.cat([values[at + back] for back in layer.layers], 1)
                case Shortcut():
                    source = values[at + layer.layer]
                    step = source.shape[2] // x.shape[2]
                    source = source[:, :, ::step, ::step]
                    both = min(source.shape[1], x.shape[1])
                    x = leaky_relu(torch.cat([x[:, :both] + source[:, :both], x[:, both:]], 1), 0.1)
            values.append(x)
        return x.flatten(1)


def head(average_last: bool) -> list[Layer]:
    """The classifier is a convolution before or after the average."""
    classifier = Conv(1000, 1, leaky=False, norm=False)
    return [classifier, Average()] if average_last else [Average(), classifier]


def resnet_basic(depths: tuple[int, ...]) -> list[Layer]:
    """resnet18.cfg and resnet34.cfg."""
    cfg: list[Layer] = [Conv(64, 7, 2), Pool()]
    for stage, depth in enumerate(depths):
        for at in range(depth):
            width = 64 * 2**stage
            cfg += [Conv(width, stride=2 if stage and not at else 1), Conv(width, leaky=False), Shortcut(-3)]
    return cfg + head(average_last=False)


def resnet_bottleneck(
    depths: tuple[int, ...], inner: int = 64, outer: int = 256, groups: int = 1, average_last: bool = False
) -> list[Layer]:
    """resnet50.cfg and deeper, and the resnext ones."""
    cfg: list[Layer] = [Conv(64, 7, 2), Pool()]
    for stage, depth in enumerate(depths):
        for at in range(depth):
            width = inner * 2**stage
            middle = Conv(width, stride=2 if stage and not at else 1, groups=groups)
            cfg += [Conv(width, 1), middle, Conv(outer * 2**stage, 1, leaky=False), Shortcut(-4)]
    return cfg + head(average_last)


def densenet201() -> list[Layer]:
    """densenet201.cfg: the new features first."""
    cfg: list[Layer] = [Conv(64, 7, 2), Pool()]
    for depth, transition in ((6, 128), (12, 256), (48, 512), (32, None)):
        for _ in range(depth):
            cfg += [Conv(128, 1), Conv(32), Route((-1, -3))]
        if transition:
            cfg += [Conv(transition, 1), Pool()]
    return cfg + head(average_last=True)


def darknet19() -> list[Layer]:
    """darknet19.cfg."""
    cfg: list[Layer] = [Conv(32), Pool(), Conv(64), Pool()]
    for width, pairs in ((128, 1), (256, 1), (512, 2), (1024, 2)):
        cfg.append(Conv(width))
        for _ in range(pairs):
            cfg += [Conv(width // 2, 1), Conv(width)]
        if width < 1024:
            cfg.append(Pool())
    return cfg + head(average_last=True)
