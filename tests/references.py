"""Networks that no library of ours has, written down plainly in torch from their papers' definitions and the released code.

They are peers like those of torchvision: their modules have the names that the facts give, so that a checkpoint fits
strictly, and their outputs are compared. None of them knows anything of rescompile.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps the size of the map, but for its stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)


class OptionA(nn.Module):
    """He et al. 2015, section 4.2: 6n + 2 layers of pairs of 3x3, and shortcuts without parameters (option A)."""

    class Unit(nn.Module):
        """relu(x' + bn(conv(relu(bn(conv(x)))))), where x' is x subsampled, with zeros as its new channels."""

        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
            self.conv2, self.bn2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
            self.stride, self.new = stride, outputs - inputs

        def forward(self, x: Tensor) -> Tensor:
            """One unit."""
            branch = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            shortcut = x[:, :, :: self.stride, :: self.stride]
            zeros = shortcut.new_zeros(len(x), self.new, *shortcut.shape[2:])
            return functional.relu(branch + torch.cat([shortcut, zeros], 1))

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 16, 3), nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        for stage in (1, 2, 3):
            units = [self.Unit(widths[stage - 1], widths[stage], 1 if stage == 1 else 2)]
            units += [self.Unit(widths[stage], widths[stage], 1) for _ in range(n - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*units))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Stem, three stages, the mean of each channel, one linear layer."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


class PreActivation(nn.Module):
    """He et al. 2016 (resnet-1k-layers): bottleneck units of bn-relu-conv; a unit that changes the channels shares its
    first bn-relu with its projection, and has its stride in the first 1x1."""

    class Unit(nn.Module):
        """x' + conv(relu(bn(conv(relu(bn(conv(relu(bn(x)))))))))."""

        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 1, stride)
            self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
            self.bn3, self.conv3 = nn.BatchNorm2d(width), conv(width, 4 * width, 1)
            self.downsample = nn.Sequential(conv(inputs, 4 * width, 1, stride)) if inputs != 4 * width else None

        def forward(self, x: Tensor) -> Tensor:
            """One unit."""
            active = functional.relu(self.bn1(x))
            branch = self.conv3(functional.relu(self.bn3(self.conv2(functional.relu(self.bn2(self.conv1(active)))))))
            return branch + (x if self.downsample is None else self.downsample(active))

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1 = conv(3, 16, 3)
        inputs = 16
        for stage, width in ((1, 16), (2, 32), (3, 64)):
            units = [self.Unit(inputs, width, 1 if stage == 1 else 2)]
            inputs = 4 * width
            units += [self.Unit(inputs, width, 1) for _ in range(n - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*units))
        self.bn, self.fc = nn.BatchNorm2d(256), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Stem without a norm, three stages, bn-relu, the mean of each channel, one linear layer."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(functional.relu(self.bn(x)).mean((2, 3)))


class WideB(nn.Module):
    """Zagoruyko & Komodakis 2016 (wide-residual-networks): units of bn-relu-conv with kernels B(...); a unit that changes
    the channels shares its first bn-relu with its projection; the first convolution of a unit has its stride."""

    class Unit(nn.Module):
        """x' + conv(relu(bn(... conv(relu(bn(x))))))."""

        def __init__(self, inputs: int, width: int, stride: int, kernels: tuple[int, ...]) -> None:
            super().__init__()
            self.count = len(kernels)
            for at, kernel in enumerate(kernels):
                self.add_module(f"bn{at}", nn.BatchNorm2d(width if at else inputs))
                self.add_module(f"conv{at}", conv(width if at else inputs, width, kernel, 1 if at else stride))
            self.convdim = conv(inputs, width, 1, stride) if inputs != width else None

        def forward(self, x: Tensor) -> Tensor:
            """One unit."""
            active = functional.relu(self.bn0(x))
            branch = self.conv0(active)
            for at in range(1, self.count):
                branch = self.get_submodule(f"conv{at}")(functional.relu(self.get_submodule(f"bn{at}")(branch)))
            return branch + (x if self.convdim is None else self.convdim(active))

    def __init__(self, n: int, k: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.conv0 = conv(3, 16, 3)
        inputs = 16
        for group, width in enumerate((16 * k, 32 * k, 64 * k)):
            units = nn.Sequential()
            for at in range(n):
                units.add_module(f"block{at}", self.Unit(inputs, width, 2 if group and not at else 1, kernels))
                inputs = width
            self.add_module(f"group{group}", units)
        self.bn, self.fc = nn.BatchNorm2d(inputs), nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Stem without a norm, three groups, bn-relu, the mean of each channel, one linear layer."""
        x = self.group2(self.group1(self.group0(self.conv0(x))))
        return self.fc(functional.relu(self.bn(x)).mean((2, 3)))


class HighwayB(nn.Module):
    """Srivastava et al. 2015, table 2, Highway B (the released prototxt): 3x3 highway layers between plain ones."""

    class Layer(nn.Module):
        """H T + x (1 - T): H = relu(conv(x)), T = sigmoid(gate(x))."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv, self.gate = conv(width, width, 3, bias=True), conv(width, width, 3, bias=True)

        def forward(self, x: Tensor) -> Tensor:
            """One layer."""
            t = torch.sigmoid(self.gate(x))
            return functional.relu(self.conv(x)) * t + x * (1 - t)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.stage1 = conv(3, 32, 3, bias=True), nn.Sequential(*(self.Layer(32) for _ in range(4)))
        self.conv6, self.stage2 = conv(32, 80, 3, bias=True), nn.Sequential(*(self.Layer(80) for _ in range(5)))
        self.conv12, self.stage3 = conv(80, 128, 3, bias=True), nn.Sequential(*(self.Layer(128) for _ in range(5)))
        self.conv18, self.fc = conv(128, 100, 1, bias=True), nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Without the dropout of training."""
        x = functional.max_pool2d(self.stage1(functional.relu(self.conv1(x))), 2)
        x = functional.max_pool2d(self.stage2(functional.relu(self.conv6(x))), 2)
        x = functional.relu(self.conv18(self.stage3(functional.relu(self.conv12(x)))))
        return self.fc(functional.avg_pool2d(x, 8).flatten(1))
