"""The zoo against the libraries that people load checkpoints from: same names in the same order, same numbers.

Counts and digests cannot see where a norm stands or which convolution has the stride, so the outputs must agree too: ONNX
Runtime on our file against the peer itself, both measured against the peer in float64 (see `peers.bound`).
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from typing import Any

import facts
import numpy as np
import pytest
from ort import ran

torch = pytest.importorskip("torch", reason="the peers are torch models: pip install torch")
pytest.importorskip("onnxruntime", reason="our side runs in ONNX Runtime: pip install 'rescompile[run]'")

import peers  # noqa: E402  # before torchvision: it declares the operators whose library may not load
import references  # noqa: E402

torchvision = pytest.importorskip("torchvision", reason="the peer of 16 networks: pip install --no-deps torchvision")
timm = pytest.importorskip("timm", reason="the peer of 3 networks: pip install --no-deps timm")

from torch import nn  # noqa: E402

from rescompile import build, load  # noqa: E402
from rescompile.cost import cost  # noqa: E402

#: torchvision's networks by our name for them, which is theirs; and the input at which outputs are compared. All of them
#: work at any size, so the large ones are compared at a small one, and one of each kind at the size of their papers.
TORCHVISION = {
    "resnet18": 96,
    "resnet34": 96,
    "resnet50": 224,
    "resnet101": 96,
    "resnet152": 96,
    "resnext50_32x4d": 96,
    "resnext101_32x8d": 96,
    "resnext101_64x4d": 96,
    "wide_resnet50_2": 96,
    "wide_resnet101_2": 96,
    "densenet121": 224,
    "densenet161": 96,
    "densenet169": 96,
    "densenet201": 96,
}


@pytest.fixture(autouse=True)
def _free_models() -> Iterator[None]:
    """Hundreds of megabytes each, and torch modules refer to themselves."""
    yield
    gc.collect()


def from_torchvision(name: str, **options: Any) -> nn.Module:
    """A model without weights to download."""
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


def same(
    name: str,
    model: nn.Module,
    size: int,
    renamed: Callable[[dict[str, peers.Array]], dict[str, peers.Array]] = lambda tensors: tensors,
    positive: str = "",
) -> None:
    """Hold our ONNX file with the weights of a peer to the peer, as it is and with its norms folded.

    One bound for both: a folded weight is computed in float64 and rounded once, where eager rounds after the convolution
    and again in the norm, so folding may not cost anything that the peer's own float32 does not.
    """
    peers.randomised(model, (4, 3, size, size), positive=positive)
    x = np.random.default_rng(1).standard_normal((2, 3, size, size), np.float32)
    single, double = peers.outputs(model, x)
    assert peers.telling(double) > 0.001  # a thousand times what float32 loses
    spec = load(name, [f"input=[3, {size}, {size}]"])
    for fold in (False, True):
        ours = build(spec, "onnx", renamed(peers.arrays(model)), fold_batchnorm=fold).to_bytes()
        found = ran(ours, {"input": x})["logits"]
        assert peers.error(found, double) <= peers.bound(single, double), f"fold_batchnorm={fold}"


@pytest.mark.parametrize("name", [*TORCHVISION, "vgg16_bn"])
def test_names_of_torchvision(name: str) -> None:
    """`load_state_dict(checkpoint, strict=True)` needs no mapping, and a checkpoint's rows read in our order."""
    with torch.device("meta"):
        model = from_torchvision(name)
    network = facts.network(name)
    theirs = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert list(facts.shapes(network).items()) == list(theirs.items())
    assert cost(network).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_names_of_googlenet() -> None:
    """torchvision registers the auxiliary heads last, where ours stand where they branch off: the order is not theirs."""
    with torch.device("meta"):
        model = from_torchvision("googlenet", init_weights=False)
    network = facts.network("googlenet")
    assert facts.shapes(network) == {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert cost(network).parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", TORCHVISION)
def test_outputs_of_torchvision(name: str) -> None:
    """On weights of their own shape, far from those of a fresh model."""
    same(name, from_torchvision(name), TORCHVISION[name])


def test_outputs_of_googlenet() -> None:
    """In evaluation mode, where the auxiliary heads own weights and compute nothing."""
    same("googlenet", from_torchvision("googlenet", init_weights=False), 224)


@pytest.mark.parametrize("size", [224, 96])
def test_outputs_of_vgg(size: int) -> None:
    """At 96 its adaptive pool makes 7x7 of 3x3, with bins that overlap."""
    same("vgg16_bn", from_torchvision("vgg16_bn"), size)


def test_names_of_resnet_d() -> None:
    """ResNet-D is timm's."""
    model = timm.create_model("resnet50d", pretrained=False)
    theirs = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert list(facts.shapes(facts.network("resnet50_D")).items()) == list(theirs.items())


@pytest.mark.parametrize("size", [224, 90])
def test_outputs_of_resnet_d(size: int) -> None:
    """At 90 its average pools meet odd maps: they round up, and count no padding."""
    same("resnet50_D", timm.create_model("resnet50d", pretrained=False), size)


def in_our_order(name: str) -> Callable[[dict[str, peers.Array]], dict[str, peers.Array]]:
    """Gives a peer's tensors our names, one after the other: the peer has the same order and names of its own."""
    ours = facts.shapes(facts.network(name))

    def renamed(tensors: dict[str, peers.Array]) -> dict[str, peers.Array]:
        pairs = zip(ours.items(), tensors.values(), strict=True)
        return {key: tensor.reshape(shape) for (key, shape), tensor in pairs}  # a linear layer may be a 1x1 convolution

    return renamed


def darknet53(slope: float) -> nn.Module:
    """timm's darknet53 with another slope than its 0.01."""
    model: nn.Module = timm.create_model("darknet53", pretrained=False)
    for module in model.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = slope
    return model


def test_outputs_of_darknet() -> None:
    """timm's network under the names of the cfg, and with the slope of the cfg."""
    same("darknet53", darknet53(0.1), 256, in_our_order("darknet53"))


def test_the_bound_sees_another_slope() -> None:
    """timm's own slope is another network; if the bound let it pass, it would let anything pass."""
    with pytest.raises(AssertionError, match="<="):
        same("darknet53", darknet53(0.01), 64, in_our_order("darknet53"))


def test_outputs_of_the_original_resnet() -> None:
    """torchvision's resnet50 with the strides where the paper has them: no count tells the two apart."""
    model = from_torchvision("resnet50")
    for name in ("layer2", "layer3", "layer4"):
        block = model.get_submodule(f"{name}.0")
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    same("resnet50_v1", model, 96)


def test_outputs_of_densenet_for_cifar() -> None:
    """torchvision's DenseNet with growth rate 12, 16 layers in each of three blocks, and a stem of one convolution."""
    model = torchvision.models.DenseNet(12, (16, 16, 16), num_init_features=24, num_classes=10)
    model.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    model.features.norm0 = model.features.relu0 = model.features.pool0 = nn.Identity()

    def renamed(tensors: dict[str, peers.Array]) -> dict[str, peers.Array]:
        return {key.replace("features.norm5.", "features.norm4."): tensor for key, tensor in tensors.items()}

    same("densenet_bc_100_k12_cifar", model, 32, renamed)


def test_outputs_of_preact_resnet200() -> None:
    """timm pools before its first norm, which is the same while that norm's scales are positive; all others are random."""
    from timm.layers import BatchNormAct2d, create_conv2d
    from timm.models.resnetv2 import ResNetV2

    model = ResNetV2([3, 24, 36, 3], norm_layer=BatchNormAct2d, conv_layer=create_conv2d)

    def renamed(tensors: dict[str, peers.Array]) -> dict[str, peers.Array]:
        changes = {
            "stem.conv.": "conv1.",
            "stages.0.blocks.0.norm1.": "bn1.",
            r"stages\.(\d)\.blocks\.(\d+)\.": lambda found: f"layer{int(found[1]) + 1}.{found[2]}.",
            r"\.norm(\d)\.": r".bn\1.",
            r"^norm\.": "bn.",
            r"^head\.fc\.": "fc.",
            r"\.downsample\.conv\.": ".downsample.0.",
        }
        ours: dict[str, peers.Array] = {}
        for key, tensor in tensors.items():
            for pattern, new in changes.items():
                key = re.sub(pattern, new, key)
            ours[key] = tensor.reshape(1000, 2048) if key == "fc.weight" else tensor
        return ours

    same("preact_resnet200", model, 96, renamed, positive="stages.0.blocks.0.norm1")


#: The rest, written down from the papers.
REFERENCES: dict[str, Callable[[], nn.Module]] = {
    "resnet110_cifar": lambda: references.OptionA(18),
    "preact_resnet1001_cifar": lambda: references.PreActivation(111),
    "wrn_22_2_B313": lambda: references.WideB(3, 2, (3, 1, 3)),
    "highway_b_cifar10_19": references.HighwayB,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_references(name: str) -> None:
    """Names and outputs of what no library has."""
    model = REFERENCES[name]()
    theirs = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert facts.shapes(facts.network(name)) == theirs
    same(name, model, 32)


def test_every_network_has_a_peer() -> None:
    """A new spec needs one too: here, or with its reason."""
    others = {"vgg16_bn", "googlenet", "resnet50_D", "resnet50_v1", "darknet53", "densenet_bc_100_k12_cifar"}
    assert set(facts.zoo()) == {*TORCHVISION, *others, "preact_resnet200", *REFERENCES}
