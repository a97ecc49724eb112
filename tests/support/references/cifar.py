"""ResNets for CIFAR of 6n + 2 layers, and what others tried on their units: He et al. 2015 and 2016, Huang et al. 2016,
Gross & Wilber 2016."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu
from torchvision.models.resnet import Bottleneck

from references import conv


def widened(x: Tensor, channels: int) -> Tensor:
    """The same maps, and maps of zeros after them."""
    return torch.cat([x, x.new_zeros(len(x), channels - x.shape[1], *x.shape[2:])], 1)


class Unit(nn.Module):
    """He et al. 2015: relu(F(x) + x'), F = bn(conv(relu(bn(conv)))), x' subsampled and widened with zeros (option A)."""

    keep = 1.0  #: probability of the branch in training

    def __init__(self, inputs: int, outputs: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride, bias), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3, 1, bias), nn.BatchNorm2d(outputs)
        self.stride, self.outputs = stride, outputs

    def before_norm(self, x: Tensor) -> Tensor:
        """F without its last norm."""
        return self.conv2(relu(self.bn1(self.conv1(x))))

    def branch(self, x: Tensor) -> Tensor:
        """F."""
        return self.bn2(self.before_norm(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """x'."""
        return widened(x[:, :, :: self.stride, :: self.stride], self.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        return relu(self.branch(x) + self.shortcut(x))


class Plain(Unit):
    """Without its shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        return relu(self.branch(x))


class OneLayer(Unit):
    """He et al. 2016, section 4.2: a unit of one layer, relu(bn(conv(x)) + x')."""

    def __init__(self, inputs: int, outputs: int, stride: int, bias: bool) -> None:
        super().__init__(inputs, outputs, stride, bias)
        del self.conv2, self.bn2

    def branch(self, x: Tensor) -> Tensor:
        """F."""
        return self.bn1(self.conv1(x))


class NoRelu(Unit):
    """Wilber: nothing after the addition."""

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        return self.branch(x) + self.shortcut(x)


class NormAfterAdd(Unit):
    """He et al. 2016, figure 4b, and Wilber."""

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        return relu(self.bn2(self.before_norm(x) + self.shortcut(x)))


class NormAfterAddNoRelu(Unit):
    """Wilber: both changes."""

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        return self.bn2(self.before_norm(x) + self.shortcut(x))


class ReluBeforeAdd(Unit):
    """He et al. 2016, figure 4c."""

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        return relu(self.branch(x)) + self.shortcut(x)


class ReluOnlyPreActivation(Unit):
    """He et al. 2016, figure 4d."""

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        return self.branch(relu(x)) + self.shortcut(x)


class HalfShortcut(Unit):
    """He et al. 2016, figure 2b, with F as it is."""

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        return relu(self.branch(x) + 0.5 * self.shortcut(x))


class HalfBoth(Unit):
    """He et al. 2016, figure 2b."""

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        return relu(0.5 * self.branch(x) + 0.5 * self.shortcut(x))


class ShortcutGate(Unit):
    """He et al. 2016, figure 2d: relu(F(x) + (1 - g) x'), g = sigmoid(gate(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int, bias: bool) -> None:
        super().__init__(inputs, outputs, stride, bias)
        self.gate = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        return relu(self.branch(x) + (1 - torch.sigmoid(self.gate(x))) * self.shortcut(x))


class ExclusiveGate(ShortcutGate):
    """He et al. 2016, figure 2c: relu(g F(x) + (1 - g) x')."""

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        g = torch.sigmoid(self.gate(x))
        return relu(g * self.branch(x) + (1 - g) * self.shortcut(x))


class Projected(Unit):
    """He et al. 2016, figure 2e: a 1x1 convolution with its norm as every shortcut (option C)."""

    def __init__(self, inputs: int, outputs: int, stride: int, bias: bool) -> None:
        super().__init__(inputs, outputs, stride, bias)
        self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def shortcut(self, x: Tensor) -> Tensor:
        """The projection."""
        return self.downsample(x)


class StochasticDepth(Unit):
    """Huang et al. 2016 at test time: relu(p F(x) + x'), x' averaged where option A subsamples."""

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        smaller = avg_pool2d(x, self.stride) if self.stride > 1 else x
        return relu(self.keep * self.branch(x) + widened(smaller, self.outputs))


class PreActivated(Unit):
    """He et al. 2016, figure 4e: F = conv(relu(bn(conv(relu(bn))))), nothing after the addition."""

    shares = False  #: whether the shortcut starts after the first bn-relu

    def __init__(self, inputs: int, outputs: int, stride: int, bias: bool) -> None:
        super().__init__(inputs, outputs, stride, bias)
        self.bn1 = nn.BatchNorm2d(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        active = relu(self.bn1(x))
        branch = self.conv2(relu(self.bn2(self.conv1(active))))
        return branch + self.shortcut(active if self.shares else x)


class Net(nn.Module):
    """Stem, three stages of n units, the mean of each channel, one linear layer.

    With units of pre-activation the stem has no norm, and one stands at the end; `shared` are the stages whose first unit
    shares its first bn-relu with its shortcut. Probabilities fall linearly to one half (only stochastic depth looks).
    """

    def __init__(self, n: int, unit: type[Unit] = Unit, bias: bool = False, shared: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.preactivated = issubclass(unit, PreActivated)
        self.conv1 = conv(3, 16, 3, 1, bias)
        if not self.preactivated:
            self.bn1 = nn.BatchNorm2d(16)
        inputs, count = 16, 0
        for stage, width in ((1, 16), (2, 32), (3, 64)):
            units = []
            for at in range(n):
                count += 1
                units.append(unit(inputs, width, 2 if stage > 1 and at == 0 else 1, bias))
                units[-1].keep = 1 - 0.5 * count / (3 * n)
                units[-1].shares = at == 0 and stage in shared
                inputs = width
            self.add_module(f"layer{stage}", nn.Sequential(*units))
        if self.preactivated:
            self.bn = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """A relu that the units leave to the next one comes at the end too, but for those of Wilber."""
        x = self.conv1(x)
        if not self.preactivated:
            x = relu(self.bn1(x))
        x = self.layer3(self.layer2(self.layer1(x)))
        if self.preactivated:
            x = relu(self.bn(x))
        elif isinstance(self.layer3[0], ReluOnlyPreActivation):
            x = relu(x)
        return self.fc(x.mean((2, 3)))


class PreActivatedBottleneck(nn.Module):
    """He et al. 2016 (resnet-1k-layers): three times bn-relu-conv; a unit that changes the channels shares its first
    bn-relu with its projection, and has its stride in the first 1x1."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 1, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        self.bn3, self.conv3 = nn.BatchNorm2d(width), conv(width, 4 * width, 1)
        self.downsample = nn.Sequential(conv(inputs, 4 * width, 1, stride)) if inputs != 4 * width else None

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        active = relu(self.bn1(x))
        branch = self.conv3(relu(self.bn3(self.conv2(relu(self.bn2(self.conv1(active)))))))
        return branch + (x if self.downsample is None else self.downsample(active))


class PreActivation(nn.Module):
    """9n + 2 layers: stem without a norm, three stages, bn-relu, the mean of each channel, one linear layer."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.conv1 = conv(3, 16, 3)
        inputs = 16
        for stage, width in ((1, 16), (2, 32), (3, 64)):
            units = [PreActivatedBottleneck(inputs, width, 1 if stage == 1 else 2)]
            inputs = 4 * width
            units += [PreActivatedBottleneck(inputs, width, 1) for _ in range(n - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*units))
        self.bn, self.fc = nn.BatchNorm2d(256), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """The whole."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(relu(self.bn(x)).mean((2, 3)))


class Bottlenecks(nn.Module):
    """torchvision's bottlenecks on CIFAR: ResNets of 9n + 2 layers with the stride in the first 1x1 (He et al. 2016), or
    ResNeXt-29 (Xie et al. 2016) with it in the 3x3."""

    def __init__(self, n: int, stem: int = 16, groups: int = 1, base_width: int = 64, stride_at: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, stem, 3), nn.BatchNorm2d(stem)
        inputs = stem
        for stage, width in ((1, stem), (2, 2 * stem), (3, 4 * stem)):
            units = []
            for at in range(n):
                stride = 2 if stage > 1 and at == 0 else 1
                projection = nn.Sequential(conv(inputs, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))
                unit = Bottleneck(inputs, width, stride, None if at else projection, groups, base_width)
                if stride_at == 1:
                    unit.conv1.stride, unit.conv2.stride = unit.conv2.stride, unit.conv1.stride
                units.append(unit)
                inputs = 4 * width
            self.add_module(f"layer{stage}", nn.Sequential(*units))
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Stem, three stages, the mean of each channel, one linear layer."""
        x = self.layer3(self.layer2(self.layer1(relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))
