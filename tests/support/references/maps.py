"""Networks whose output is a map: the U-Net of the paper (Ronneberger et al. 2015, figure 1) and the one of milesial/Pytorch-UNet, and
the networks of torchvision that return several maps."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import relu

from references import conv


class Double(nn.Module):
    """Two 3x3 convolutions without padding."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(inputs, width, 3), nn.Conv2d(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.conv2(relu(self.conv1(x))))


class Contract(nn.Module):
    """One level on the way down."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv = Double(inputs, width)


class Expand(nn.Module):
    """One level on the way up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.conv = Double(2 * width, width)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        x = self.up(x)
        top, left = ((kept.shape[axis] - x.shape[axis]) // 2 for axis in (2, 3))
        middle = kept[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        return self.conv(torch.cat([middle, x], 1))


class Published(nn.Module):
    """U-Net without padding: the kept maps are cropped to their middle."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        widths = (1, 64, 128, 256, 512)
        self.contracting = nn.ModuleList(Contract(widths[i], widths[i + 1]) for i in range(4))
        self.bottom = Double(512, 1024)
        self.expanding = nn.ModuleList(Expand(width) for width in (512, 256, 128, 64))
        self.scores = nn.Conv2d(64, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for level in self.contracting:
            kept.append(level.conv(x))
            x = nn.functional.max_pool2d(kept[-1], 2)
        x = self.bottom(x)
        for level in self.expanding:
            x = level(x, kept.pop())
        return self.scores(x)


class DoubleConv(nn.Module):
    """Two padded 3x3 convolutions with norms."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        units = [[conv(before, width, 3), nn.BatchNorm2d(width), nn.ReLU()] for before in (inputs, width)]
        self.double_conv = nn.Sequential(*units[0], *units[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    """The map halved, then two convolutions."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(inputs, 2 * inputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class Up(nn.Module):
    """The map doubled, behind the one of this size, then two convolutions."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, inputs // 2, 2, 2)
        self.conv = DoubleConv(inputs, inputs // 2)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        return self.conv(torch.cat([kept, self.up(x)], 1))


class Padded(nn.Module):
    """U-Net with padding and batch norm."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.inc = DoubleConv(3, 64)
        for level in range(4):
            setattr(self, f"down{level + 1}", Down(64 * 2**level))
            setattr(self, f"up{level + 1}", Up(1024 // 2**level))
        self.outc = nn.Module()
        self.outc.conv = nn.Conv2d(64, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.inc(x)]
        for down in (self.down1, self.down2, self.down3, self.down4):
            kept.append(down(kept[-1]))
        x = kept.pop()
        for up in (self.up1, self.up2, self.up3, self.up4):
            x = up(x, kept.pop())
        return self.outc.conv(x)


def segmenting(name: str) -> nn.Module:
    """A network of torchvision with its auxiliary classifier, which returns the scores of its main one alone."""
    model: nn.Module = torchvision.models.get_model(name, weights=None, weights_backbone=None, aux_loss=True)

    class Main(type(model)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)["out"]

    model.__class__ = Main
    return model


def pyramid(every: bool = True) -> nn.Module:
    """torchvision's pyramid on ResNet-50 with norms that are trained. It returns its finest map, or every one of them flattened, the
    finest first."""
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    model = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5)

    class Joined(type(model)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            maps = super().forward(x)
            return maps["0"] if not every else torch.cat([each.flatten(1) for each in maps.values()], 1)

    model.__class__ = Joined
    return model


def retinanet(every: bool = True) -> nn.Module:
    """torchvision's RetinaNet on ResNet-50 with norms that are trained, up to its heads, which run on all maps: the scores of the
    finest map, or everything flattened, the boxes before the scores."""
    model: nn.Module = torchvision.models.get_model("retinanet_resnet50_fpn", weights=None, weights_backbone=None)

    class Heads(type(model)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            features = list(self.backbone(x).values())
            boxes, scores = self.head.regression_head, self.head.classification_head
            sides = [boxes.bbox_reg(boxes.conv(each)) for each in features]
            classes = [scores.cls_logits(scores.conv(each)) for each in features]
            return torch.cat([each.flatten(1) for each in (*sides, *classes)], 1) if every else classes[0]

    model.__class__ = Heads
    return model
