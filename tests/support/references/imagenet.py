"""torchvision's ResNet with other shortcuts, other orders and other widths."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from references import conv
from references.cifar import widened


class Plain(BasicBlock):
    """Without its shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))


class OptionA(BasicBlock):
    """He et al. 2015: a shortcut without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        branch = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        stride, _ = self.conv1.stride
        return relu(branch + widened(x[:, :, ::stride, ::stride], branch.shape[1]))


class NormAfterAdd(Bottleneck):
    """fb.resnet.torch as first released: its last norm after the addition."""

    def forward(self, x: Tensor) -> Tensor:
        """One unit."""
        branch = self.conv3(relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))))
        return relu(self.bn3(branch + (x if self.downsample is None else self.downsample(x))))


def without_projections(model: ResNet) -> ResNet:
    """For units that would not use them."""
    for module in model.modules():
        if isinstance(module, BasicBlock):
            module.downsample = None
    return model


def option_c(model: ResNet) -> ResNet:
    """A projection in every basic unit."""
    for unit in model.modules():
        if isinstance(unit, BasicBlock) and unit.downsample is None:
            width = unit.conv2.out_channels
            unit.downsample = nn.Sequential(conv(unit.conv1.in_channels, width, 1), nn.BatchNorm2d(width))
    return model


def original(model: ResNet) -> ResNet:
    """The stride of a bottleneck in its first 1x1, where the paper has it: no count tells the two apart."""
    for stage in ("layer2", "layer3", "layer4"):
        unit = model.get_submodule(f"{stage}.0")
        unit.conv1.stride, unit.conv2.stride = unit.conv2.stride, unit.conv1.stride
    return model


def wide(layers: list[int]) -> ResNet:
    """Zagoruyko & Komodakis 2016, table 7: stages twice as wide after a stem of 64."""
    model = ResNet(BasicBlock, layers)
    model.inplanes = 64
    for stage, width in ((1, 128), (2, 256), (3, 512), (4, 1024)):
        made = model._make_layer(BasicBlock, width, layers[stage - 1], 1 if stage == 1 else 2)
        setattr(model, f"layer{stage}", made)
    model.fc = nn.Linear(1024, 1000)
    return model
