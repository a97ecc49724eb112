"""The names that other libraries have for networks of the zoo, where theirs differ from ours and mean the same network.

A name of keras.applications is that of its function; its ResNets have the stride in the first convolution of a block.
"""

from __future__ import annotations

ALIASES: dict[str, str] = {
    # timm
    "legacy_xception": "xception",
    "mobilenetv1_100": "mobilenet_v1",
    "resnet50c": "resnet50_C",
    "resnet50d": "resnet50_D",
    "resnet200": "resnet200_v1",
    **{f"resnetv2_{depth}": f"preact_resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    # torchvision
    "mnasnet1_0": "mnasnet_100",
    "mobilenet_v2": "mobilenetv2_100",
    **{
        f"regnet_{kind}_{theirs}": f"regnet{kind}_{ours}"
        for kind in "xy"
        for theirs, ours in (("400mf", "004"), ("800mf", "008"), ("1_6gf", "016"), ("3_2gf", "032"))
    },
    # keras.applications
    **{f"ResNet{depth}": f"resnet{depth}_v1" for depth in (50, 101, 152)},
    **{f"DenseNet{depth}": f"densenet{depth}" for depth in (121, 169, 201)},
    **{f"VGG{depth}": f"vgg{depth}" for depth in (16, 19)},
    # the usual names for CIFAR, those of the paper
    **{f"resnet{depth}": f"resnet{depth}_cifar" for depth in (20, 32, 44, 56, 110, 164, 1001, 1202)},
}


def of(name: str) -> list[str]:
    """Return the other names of a network of the zoo."""
    return sorted(alias for alias, own in ALIASES.items() if own == name)
