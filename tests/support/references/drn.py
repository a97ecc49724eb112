"""Dilated residual networks: Yu et al. 2017, and the names of its released code (drn.py)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu


def dilated(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3x3 that keeps the size of the map, but for its stride."""
    return nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)


class Basic(nn.Module):
    """Two 3x3; with `residual` false the projection is made and not used, as in the released code."""

    expansion = 1

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        downsample: nn.Module | None,
        dilations: tuple[int, int],
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = dilated(inputs, width, stride, dilations[0]), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = dilated(width, width, 1, dilations[1]), nn.BatchNorm2d(width)
        self.downsample, self.residual = downsample, residual

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        branch = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        if not self.residual:
            return relu(branch)
        return relu(branch + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, with the second dilation of a pair."""

    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int, downsample: nn.Module | None, dilations: tuple[int, int]
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = dilated(width, width, stride, dilations[1]), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        branch = self.bn3(self.conv3(relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))))
        return relu(branch + (x if self.downsample is None else self.downsample(x)))


Block = type[Basic] | type[Bottleneck]


class Stages(nn.Module):
    """What all of them make their stages with."""

    inputs: int

    def stage(
        self, block: Block, width: int, depth: int, stride: int, first: tuple[int, int], rest: int, **options: bool
    ) -> nn.Sequential:
        """`depth` units; the first has its own dilations."""
        downsample, outputs = None, width * block.expansion
        if stride != 1 or self.inputs != outputs:
            projection = nn.Conv2d(self.inputs, outputs, 1, stride, bias=False)
            downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))
        units = [block(self.inputs, width, stride, downsample, first, **options)]
        self.inputs = outputs
        units += [block(outputs, width, 1, None, (rest, rest), **options) for _ in range(depth - 1)]
        return nn.Sequential(*units)

    def convolutions(self, width: int, depth: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
        """`depth` times conv-bn-relu."""
        modules: list[nn.Module] = []
        for at in range(depth):
            made = dilated(self.inputs, width, 1 if at else stride, dilation)
            modules += [made, nn.BatchNorm2d(width), nn.ReLU()]
            self.inputs = width
        return nn.Sequential(*modules)


class A(Stages):
    """A ResNet whose third and fourth stage have dilations 2 and 4 instead of strides."""

    def __init__(self, block: Block, depths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.inputs = 64
        self.conv1, self.bn1, self.maxpool = (
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.MaxPool2d(3, 2, 1),
        )
        for at, (stride, rest) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4)), 1):
            self.add_module(f"layer{at}", self.stage(block, 32 * 2**at, depths[at - 1], stride, (1, 1), rest))
        self.fc = nn.Linear(self.inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """The whole."""
        x = self.maxpool(relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))


class C(Stages):
    """Eight levels; the first two and, against gridding, the last two are basic units, the latter without shortcuts."""

    def __init__(self, block: Block, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.inputs = 16
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 7, 1, 3, bias=False), nn.BatchNorm2d(16)
        self.layer1 = self.stage(Basic, 16, depths[0], 1, (1, 1), 1)
        self.layer2 = self.stage(Basic, 32, depths[1], 2, (1, 1), 1)
        self.layer3 = self.stage(block, 64, depths[2], 2, (1, 1), 1)
        self.layer4 = self.stage(block, 128, depths[3], 2, (1, 1), 1)
        self.layer5 = self.stage(block, 256, depths[4], 1, (2, 2), 2)
        self.layer6 = self.stage(block, 512, depths[5], 1, (4, 4), 4)
        self.layer7 = self.stage(Basic, 512, depths[6], 1, (2, 2), 2, residual=False)
        self.layer8 = self.stage(Basic, 512, depths[7], 1, (1, 1), 1, residual=False)
        self.fc = nn.Conv2d(512, 1000, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The whole."""
        x = relu(self.bn1(self.conv1(x)))
        for level in range(1, 9):
            x = self.get_submodule(f"layer{level}")(x)
        return self.fc(x.mean((2, 3), keepdim=True)).flatten(1)


class D(Stages):
    """Eight levels; the first two and the last two are convolutions with norm and relu."""

    def __init__(self, block: Block, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.inputs = 16
        self.layer0 = nn.Sequential(nn.Conv2d(3, 16, 7, 1, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.layer1 = self.convolutions(16, depths[0])
        self.layer2 = self.convolutions(32, depths[1], stride=2)
        self.layer3 = self.stage(block, 64, depths[2], 2, (1, 1), 1)
        self.layer4 = self.stage(block, 128, depths[3], 2, (1, 1), 1)
        self.layer5 = self.stage(block, 256, depths[4], 1, (2, 2), 2)
        self.layer6 = self.stage(block, 512, depths[5], 1, (4, 4), 4)
        self.layer7 = self.convolutions(512, depths[6], dilation=2)
        self.layer8 = self.convolutions(512, depths[7])
        self.fc = nn.Conv2d(512, 1000, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The whole."""
        for level in range(9):
            x = self.get_submodule(f"layer{level}")(x)
        return self.fc(x.mean((2, 3), keepdim=True)).flatten(1)
