"""The zoo compared with the libraries whose checkpoints people load, and with the released code: same names, same
outputs.

Counts and digests do not show where a norm is or which convolution has the stride, so the outputs must agree too: ONNX
Runtime on our file and the peer itself are both compared with the peer in float64 (see `peers.bound`).
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import facts
import numpy as np
import pytest
from ort import ran

torch = pytest.importorskip("torch", reason="the peers are torch models: pip install torch")
pytest.importorskip("onnxruntime", reason="our side runs in ONNX Runtime: pip install 'rescompile[run]'")

import peers  # before torchvision: it declares the operators whose library may not load

torchvision = pytest.importorskip("torchvision", reason="a peer of many networks: pip install --no-deps torchvision")
timm = pytest.importorskip("timm", reason="a peer of many networks: pip install --no-deps timm")

from library_peers import Peer, Tensors, as_they_are, by, cbam_resnet50, timm_peer, torchvision_peer
from references import (
    alexnet,
    arcface,
    cifar,
    darknet,
    densenet,
    drn,
    fractalnet,
    hardnet,
    highway,
    imagenet,
    iresnet,
    maps,
    pyramidnet,
    shake_shake,
    time_series,
    unnormalised,
    wrn,
)
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from rescompile import build, load
from rescompile.analysis.cost import cost
from rescompile.ir.network import Network, Op, Parallel, Series, walk
from rescompile.ir.ops import Act
from rescompile.lang import library
from rescompile.weights import profiles


def three_blocks(_name: str, tensors: Tensors) -> Tensors:
    """Rename the last norm, which torchvision's class numbers as that of a fourth block although networks for CIFAR have three."""
    return {key.replace("features.norm5.", "features.norm4."): tensor for key, tensor in tensors.items()}


#: Inputs of networks that need large ones, of one network at the size of its paper, and of some whose statistics would
#: otherwise come from too few positions. All others are compared at 64x64; those with average pools of stride 2 in
#: their shortcuts at 90x90, where these pools get maps of odd size.
SIZES: dict[str, int | tuple[int, ...]] = {
    **dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18"), (3, 8, 48, 48)),
    "alexnet": 96, "googlenet": 96, "inception_v3": 299, "inception_v4": 139, "inception_resnet_v2": 139, "resnet50": 224,
    "efficientnet_b0": 128, "efficientnet_b1": 128, "nf_resnet50": 128, "resnest14d": 96, "resnest26d": 96,
    "rexnet_100": 128, "resnest50d": 96, "resnetv2_50x1_bit": 96, "tresnet_m": 96,
}  # fmt: skip


def automatic() -> Iterator[tuple[str, Peer]]:
    """Yield the networks whose rows name a peer, torchvision's before timm's, whose checkpoints load strictly without
    adaptation."""
    for name in facts.zoo():
        known = facts.rows()[name].get("peers") or {}
        size = SIZES.get(name, 90 if re.fullmatch(r"resnet\d+_?[dD]", name) else 64)
        image = (3, size, size) if isinstance(size, int) else size
        if theirs := known.get("torchvision"):
            yield name, Peer(lambda theirs=theirs: torchvision_peer(theirs), image)
        elif (theirs := known.get("timm")) and name not in ADAPTED:
            yield name, Peer(lambda theirs=theirs: timm_peer(theirs), image)


def darknet53(slope: float) -> nn.Module:
    """Return timm's darknet53 with another slope than its 0.01."""
    model = timm_peer("darknet53")
    for module in model.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = slope
    return model


def mobilenet() -> nn.Module:
    """Return timm's MobileNet with the paper's relu instead of relu6."""
    model = timm_peer("mobilenetv1_100")
    for module in list(model.modules()):
        for child, inner in list(module.named_children()):
            if isinstance(inner, nn.ReLU6):
                setattr(module, child, nn.ReLU())
    return model


def resnetv2(name: str) -> nn.Module:
    """Return timm's pre-activation ResNet without the projection at the start of its basic units, which changes no shape."""
    model = timm_peer(name)
    if name in ("resnetv2_18", "resnetv2_34"):
        model.stages[0].blocks[0].downsample = nn.Identity()
    return model


def preact_resnet200() -> nn.Module:
    """Return a model that timm does not register, built by its class."""
    from timm.layers import BatchNormAct2d, create_conv2d
    from timm.models.resnetv2 import ResNetV2

    model: nn.Module = ResNetV2([3, 24, 36, 3], norm_layer=BatchNormAct2d, conv_layer=create_conv2d)
    return model


#: timm pools before its first norm, which is equivalent while the scales of that norm are positive; all other scales
#: are random.
_RESNETV2: dict[str, Any] = {"renamed": by("timm_resnetv2"), "positive": "stages.0.blocks.0.norm1"}

#: Networks whose peer is timm's with other names or a documented difference.
ADAPTED = {
    "darknet53": Peer(lambda: darknet53(0.1), renamed=by("timm_darknet53")),
    "mobilenet_v1": Peer(mobilenet, renamed=by("timm_mobilenetv1")),
    "preact_resnet200": Peer(preact_resnet200, **_RESNETV2),
    "repvgg_a0": Peer(lambda: timm_peer("repvgg_a0"), renamed=by("timm_repvgg")),
    "convnext_tiny": Peer(lambda: timm_peer("convnext_tiny"), renamed=by("timm_convnext")),
    "dm_nfnet_f0": Peer(lambda: timm_peer("dm_nfnet_f0"), renamed=by("timm_nfnet")),
    "inception_next_tiny": Peer(lambda: timm_peer("inception_next_tiny"), renamed=by("timm_inception_next")),
    "mixnet_s": Peer(lambda: timm_peer("mixnet_s"), (3, 128, 128), renamed=by("timm_mixnet")),
    **{
        name: Peer(lambda name=name: timm_peer(name), renamed=by("timm_eca"))
        for name in ("ecaresnet26t", "ecaresnet50d", "ecaresnet50t")
    },
    **{
        name: Peer(lambda name=name: timm_peer(name), renamed=by("timm_res2net"))
        for name in ("res2net50_26w_4s", "res2net50_14w_8s", "res2net101_26w_4s", "res2next50")
    },
    **{
        f"preact_resnet{depth}": Peer(lambda depth=depth: resnetv2(f"resnetv2_{depth}"), **_RESNETV2)
        for depth in (18, 34, 50, 101, 152)
    },
}

_CIFAR, _MNIST = (3, 32, 32), (1, 28, 28)
_NARROW = [8, 16, 24, 32, 32]
_L18, _L34, _L50, _L101 = [2, 2, 2, 2], [3, 4, 6, 3], [3, 4, 6, 3], [3, 4, 23, 3]
# units, so 20 layers instead of 110: rounding errors grow with depth and would hide mistakes
_NINE = ("parameters.n=3",)


def variant(unit: type[cifar.Unit], bias: bool = False, shared: tuple[int, ...] = ()) -> Peer:
    """Return a ResNet for CIFAR of 20 layers with units of this kind."""
    return Peer(lambda: cifar.Net(3, unit, bias, shared), _CIFAR, _NINE)


#: All others, written from the papers and the released code (see `references`).
REFERENCES = {
    # He et al. 2015 and 2016, Xie et al. 2016 on ImageNet
    "plain18": Peer(lambda: imagenet.without_projections(ResNet(imagenet.Plain, _L18))),
    "plain34": Peer(lambda: imagenet.without_projections(ResNet(imagenet.Plain, _L34))),
    "resnet18_A": Peer(lambda: imagenet.without_projections(ResNet(imagenet.OptionA, _L18))),
    "resnet34_A": Peer(lambda: imagenet.without_projections(ResNet(imagenet.OptionA, _L34))),
    "resnet18_C": Peer(lambda: imagenet.option_c(ResNet(BasicBlock, _L18))),
    "resnet34_C": Peer(lambda: imagenet.option_c(ResNet(BasicBlock, _L34))),
    "resnet50_v1": Peer(lambda: imagenet.original(torchvision_peer("resnet50"))),
    "resnet101_v1": Peer(lambda: imagenet.original(torchvision_peer("resnet101"))),
    "resnet50_bn_after_add": Peer(lambda: ResNet(imagenet.NormAfterAdd, _L50)),
    "resnet101_wider_1x100d": Peer(lambda: ResNet(Bottleneck, _L101, width_per_group=100)),
    "resnext50_2x40d": Peer(lambda: ResNet(Bottleneck, _L50, groups=2, width_per_group=40)),
    "resnext50_4x24d": Peer(lambda: ResNet(Bottleneck, _L50, groups=4, width_per_group=24)),
    "resnext50_8x14d": Peer(lambda: ResNet(Bottleneck, _L50, groups=8, width_per_group=14)),
    "wrn18_2_imagenet": Peer(lambda: imagenet.wide(_L18)),
    "iresnet50": Peer(lambda: iresnet.Net((3, 4, 6, 3))),
    "alexnet_2012": Peer(alexnet.net, (3, 227, 227)),
    "hardnet68": Peer(hardnet.Net),
    "ir50": Peer(lambda: arcface.Net((3, 4, 14, 3)), (3, 112, 112)),
    "fcn_resnet50": Peer(lambda: maps.segmenting("fcn_resnet50")),
    "deeplabv3_resnet50": Peer(lambda: maps.segmenting("deeplabv3_resnet50")),
    "unet": Peer(maps.Padded),
    "unet_2015": Peer(maps.Published, (1, 188, 188)),
    "resnet50_fpn": Peer(maps.pyramid),
    "retinanet_resnet50_fpn": Peer(maps.retinanet),
    "resnet_time_series": Peer(time_series.Net, (1, 140)),
    # on CIFAR
    "plain20_cifar": Peer(lambda: cifar.Net(3, cifar.Plain), _CIFAR),
    "resnet20_cifar": Peer(lambda: cifar.Net(3), _CIFAR),
    "resnet110_cifar": Peer(lambda: cifar.Net(18), _CIFAR),
    "resnet164_cifar": Peer(lambda: cifar.Bottlenecks(18), _CIFAR),
    "resnext29_8x64d_cifar": Peer(lambda: cifar.Bottlenecks(3, 64, 8, 64, stride_at=2), _CIFAR),
    "preact_resnet110_cifar": variant(cifar.PreActivated, shared=(1, 2, 3)),
    "preact_resnet164_cifar": Peer(lambda: cifar.PreActivation(18), _CIFAR),
    "stochastic_depth_110": variant(cifar.StochasticDepth, bias=True),
    "torchblog_reference": variant(cifar.Unit, bias=True),
    "torchblog_no_relu": variant(cifar.NoRelu, bias=True),
    "torchblog_bn_after_add": variant(cifar.NormAfterAdd, bias=True),
    "torchblog_bn_after_add_no_relu": variant(cifar.NormAfterAddNoRelu, bias=True),
    "he2016_1layer_skip_110": Peer(lambda: cifar.Net(6, cifar.OneLayer), _CIFAR, ("parameters.n=6",)),
    "he2016_shortcut_original": variant(cifar.Unit),
    "he2016_shortcut_scale_0_1": variant(cifar.Plain),
    "he2016_shortcut_scale_0_5_1": variant(cifar.HalfShortcut),
    "he2016_shortcut_scale_0_5_0_5": variant(cifar.HalfBoth),
    "he2016_shortcut_exclusive_gate_b0_to_b5": variant(cifar.ExclusiveGate),
    "he2016_shortcut_exclusive_gate_b6": variant(cifar.ExclusiveGate),
    "he2016_shortcut_exclusive_gate_b7": variant(cifar.ExclusiveGate),
    "he2016_shortcut_shortcut_gate_b0": variant(cifar.ShortcutGate),
    "he2016_shortcut_shortcut_gate_b6": variant(cifar.ShortcutGate),
    "he2016_shortcut_conv1x1": variant(cifar.Projected),
    "he2016_shortcut_dropout_0_5": variant(cifar.Unit),
    "he2016_activation_original": variant(cifar.Unit),
    "he2016_activation_bn_after_add": variant(cifar.NormAfterAdd),
    "he2016_activation_relu_before_add": variant(cifar.ReluBeforeAdd),
    "he2016_activation_relu_only_preact": variant(cifar.ReluOnlyPreActivation),
    "he2016_activation_full_preact": variant(cifar.PreActivated, shared=(1,)),
    "cbam_resnet50": Peer(cbam_resnet50),
    "shake_shake_26_2x32d_cifar": Peer(lambda: shake_shake.Net(4, 8), _CIFAR, ("parameters.k=8",)),
    "fractalnet20_cifar": Peer(lambda: fractalnet.Net(3, _NARROW), _CIFAR, (f"parameters.widths={_NARROW}",)),
    "fractalnet40_cifar": Peer(lambda: fractalnet.Net(4, _NARROW), _CIFAR, (f"parameters.widths={_NARROW}",)),
    "fixup_resnet110_cifar": Peer(lambda: unnormalised.FixupNet(3), _CIFAR, _NINE),
    "rezero_resnet56_cifar": Peer(lambda: unnormalised.ReZeroNet(3), _CIFAR, _NINE),
    "skipinit_wrn_16_4": Peer(lambda: unnormalised.SkipInitNet(2, 1), _CIFAR, ("parameters.k=1",)),
    "pyramidnet110_a48_cifar": Peer(lambda: pyramidnet.Net(3, 48), _CIFAR, _NINE),
    # Zagoruyko & Komodakis 2016
    "wrn_16_8": Peer(lambda: wrn.Net(2, 1), _CIFAR, ("parameters.k=1",)),
    "wrn_16_8_dropout": Peer(lambda: wrn.Net(2, 1), _CIFAR, ("parameters.k=1",)),
    "wrn_40_1": Peer(lambda: wrn.Net(6, 1), _CIFAR),
    "wrn_40_2": Peer(lambda: wrn.Net(6, 2), _CIFAR),
    "wrn_22_2_B313": Peer(lambda: wrn.Net(3, 2, (3, 1, 3)), _CIFAR),
    "wrn_40_2_B13": Peer(lambda: wrn.Net(6, 2, (1, 3)), _CIFAR),
    "wrn_40_2_B31": Peer(lambda: wrn.Net(6, 2, (3, 1)), _CIFAR),
    "wrn_40_2_B131": Peer(lambda: wrn.Net(6, 2, (1, 3, 1)), _CIFAR),
    "wrn_40_2_B311": Peer(lambda: wrn.Net(6, 2, (3, 1, 1)), _CIFAR),
    **{
        f"wrn_40_2_l{deep}": Peer(lambda deep=deep: wrn.Net(12 // deep, 2, (3,) * deep), _CIFAR)
        for deep in (1, 2, 3, 4)
    },
    # Huang et al. 2017; torchvision's class names its last norm differently for CIFAR
    "densenet264": Peer(lambda: torchvision.models.DenseNet(32, (6, 12, 64, 48), num_init_features=64)),
    "densenet_40_k12_cifar": Peer(lambda: densenet.Plain(12, 12), _CIFAR),
    "densenet_bc_100_k12_cifar": Peer(lambda: densenet.bottlenecks(16, 12), _CIFAR, renamed=three_blocks),
    "densenet_bc_40_k36_cifar": Peer(lambda: densenet.bottlenecks(6, 36), _CIFAR, renamed=three_blocks),
    # Srivastava et al. 2015
    "highway_b_cifar10_19": Peer(highway.B, _CIFAR),
    "highway_b_cifar100_19": Peer(lambda: highway.B(100), _CIFAR),
    "highway_mnist_conv_16": Peer(lambda: highway.Convolutional(16), _MNIST),
    "highway_mnist_conv_32": Peer(lambda: highway.Convolutional(32), _MNIST),
    **{
        f"{kind}_mnist_fc_{layers}": Peer(
            lambda kind=kind, layers=layers: highway.FullyConnected(layers, kind == "plain"), _MNIST
        )
        for kind in ("highway", "plain")
        for layers in (10, 20)
    },
    # darknet
    "darknet19": Peer(lambda: darknet.Net(darknet.darknet19())),
    "darknet_resnet18": Peer(lambda: darknet.Net(darknet.resnet_basic((2, 2, 2, 2)))),
    "darknet_resnet34": Peer(lambda: darknet.Net(darknet.resnet_basic((3, 4, 6, 3)))),
    "darknet_resnet50": Peer(lambda: darknet.Net(darknet.resnet_bottleneck((3, 4, 6, 3)))),
    "darknet_resnet101": Peer(lambda: darknet.Net(darknet.resnet_bottleneck((3, 4, 23, 3), average_last=True))),
    "darknet_resnext50": Peer(lambda: darknet.Net(darknet.resnet_bottleneck((3, 4, 6, 3), 128, 256, 32))),
    "darknet_densenet201": Peer(lambda: darknet.Net(darknet.densenet201())),
    # Yu et al. 2017
    "drn_a_18": Peer(lambda: drn.A(drn.Basic, (2, 2, 2, 2))),
    "drn_a_50": Peer(lambda: drn.A(drn.Bottleneck, (3, 4, 6, 3))),
    "drn_c_26": Peer(lambda: drn.C(drn.Basic, (1, 1, 2, 2, 2, 2, 1, 1))),
    "drn_c_58": Peer(lambda: drn.C(drn.Bottleneck, (1, 1, 3, 4, 6, 3, 1, 1))),
    "drn_d_22": Peer(lambda: drn.D(drn.Basic, (1, 1, 2, 2, 2, 2, 1, 1))),
    "drn_d_24": Peer(lambda: drn.D(drn.Basic, (1, 1, 2, 2, 2, 2, 2, 2))),
    "drn_d_54": Peer(lambda: drn.D(drn.Bottleneck, (1, 1, 3, 4, 6, 3, 1, 1))),
}

AUTOMATIC = dict(automatic())
PEERS = {**AUTOMATIC, **ADAPTED, **REFERENCES}

#: Networks whose tensors are listed where they branch off, while the peer registers them elsewhere: auxiliary heads,
#: gates, shortcuts.
OTHER_ORDER = {
    "googlenet",
    "inception_v3",
    "xception",
    "dpn68b",
    "tresnet_m",
    "nf_resnet50",
    "resnetv2_50x1_bit",
    "dpn92",
    "nasnetalarge",
    "pnasnet5large",
    "dm_nfnet_f0",
    "fasternet_t0",
    "gernet_s",
    "mobileone_s0",
}


def assert_same(name: str, peer: Peer) -> None:
    """Assert that our ONNX file with the weights of a peer agrees with the peer, as it is and with folded norms (large
    ones: folded only).

    One bound applies to both: a folded weight is computed in float64 and rounded once, while eager mode rounds after
    the convolution and again in the norm, so folding must not add any error to the peer's own float32.
    """
    with torch.device("meta"):  # initialising a fresh model would take longer than everything else
        model = peer.make()
    model = peers.randomised(model.to_empty(device="cpu"), (4, *peer.input), positive=peer.positive)
    x = np.random.default_rng(1).standard_normal((2, *peer.input), np.float32)
    single, double = peers.outputs(model, x)
    assert peers.telling(double) > 0.001  # a thousand times the rounding error of float32
    spec = load(name, [f"input={list(peer.input)}", *peer.settings])
    tensors = peer.renamed(name, peer.named(model))
    large = sum(tensor.size for tensor in tensors.values()) > 30e6
    for fold in (True,) if large else (False, True):
        outputs = ran(build(spec, "onnx", tensors, fold_batchnorm=fold).to_bytes(), {"input": x})
        assert peers.error(peers.joined(outputs), double) <= peers.bound(single, double), f"fold_batchnorm={fold}"
    if large:
        del model, tensors
        gc.collect()  # hundreds of megabytes, and torch modules contain reference cycles


@pytest.mark.parametrize("name", [name for name in PEERS if PEERS[name].renamed is as_they_are])
@pytest.mark.sampled(one_in=3)
def test_names(name: str) -> None:
    """`load_state_dict(checkpoint, strict=True)` needs no mapping, and checkpoints of the libraries list tensors in our order."""
    with torch.device("meta"):
        model = PEERS[name].make()
    network = facts.network(name, *PEERS[name].settings)
    theirs = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    ours = facts.shapes(network)
    assert ours == theirs
    assert cost(network).parameters == sum(parameter.numel() for parameter in model.parameters())
    if name in AUTOMATIC and name not in OTHER_ORDER:
        assert list(ours) == list(theirs)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.sampled(macs=2e9, one_in=6)
@pytest.mark.slow_for("alexnet")
def test_outputs(name: str) -> None:
    """On weights far from freshly initialised ones, outputs agree within the bound."""
    assert_same(name, PEERS[name])


# --- naming profiles ---------------------------------------------------------------------------------------------------


def files_of(model: nn.Module) -> Tensors:
    """Return a DenseNet's tensors by their names in the files that torchvision distributes, which its loader renames
    (see `test_the_loader_of_torchvision`) and which are older than the counters of norms."""
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))(\d)")
    tensors = peers.arrays(model).items()
    return {old.sub(r"\1.\2", key): tensor for key, tensor in tensors if not key.endswith("num_batches_tracked")}


#: For each profile, one of our networks and the library's model.
PROFILES = {
    "timm_resnetv2": ("preact_resnet18", ADAPTED["preact_resnet18"]),
    "timm_darknet53": ("darknet53", ADAPTED["darknet53"]),
    "timm_mobilenetv1": ("mobilenet_v1", ADAPTED["mobilenet_v1"]),
    "timm_repvgg": ("repvgg_a0", ADAPTED["repvgg_a0"]),
    "timm_convnext": ("convnext_tiny", ADAPTED["convnext_tiny"]),
    "timm_inception_next": ("inception_next_tiny", ADAPTED["inception_next_tiny"]),
    "timm_mixnet": ("mixnet_s", ADAPTED["mixnet_s"]),
    "timm_nfnet": ("dm_nfnet_f0", ADAPTED["dm_nfnet_f0"]),
    "timm_eca": ("ecaresnet26t", ADAPTED["ecaresnet26t"]),
    "timm_res2net": ("res2net50_26w_4s", ADAPTED["res2net50_26w_4s"]),
    "timm_vgg": ("vgg11_bn", Peer(lambda: timm_peer("vgg11_bn"), renamed=by("timm_vgg"))),
    "torchvision_densenet_files": (
        "densenet121",
        Peer(lambda: torchvision_peer("densenet121"), named=files_of, renamed=by("torchvision_densenet_files")),
    ),
}


def test_every_profile_is_compared() -> None:
    """Every profile is compared here, or in test_keras.py."""
    assert set(PROFILES) == {name for name in profiles.files() if not name.startswith("keras_")}


@pytest.mark.parametrize("profile", [name for name, (_, peer) in PROFILES.items() if peer not in PEERS.values()])
@pytest.mark.slow
def test_profile_from_the_library(profile: str) -> None:
    """Weights of the library, renamed to ours, compute what the library computes; `test_outputs` covers the other profiles."""
    assert_same(*PROFILES[profile])


@pytest.mark.parametrize("profile", PROFILES)
def test_profile_to_the_library(profile: str) -> None:
    """Our weights, with the names and shapes of the library, are a complete checkpoint of the library, and nothing else."""
    name, peer = PROFILES[profile]
    network = facts.network(name, *peer.settings)
    with torch.device("meta"):
        model = peer.make()
    theirs = {key: tensor.shape for key, tensor in peer.named(model.to_empty(device="cpu")).items()}
    known = profiles.load(profile).names(network)
    assert {fact.theirs: fact.shape for fact in known.values()} == theirs


@pytest.mark.slow
def test_the_loader_of_torchvision() -> None:
    """torchvision's own loader accepts the names of `--to torchvision_densenet_files`, and the model computes the same."""
    from torchvision.models import densenet as theirs

    model = peers.randomised(torchvision_peer("densenet121"), (4, 3, 64, 64))
    names = profiles.load("torchvision_densenet_files").names(facts.network("densenet121"))
    assert any(key != known.theirs for key, known in names.items())

    class Files:
        def get_state_dict(self, **_: Any) -> dict[str, torch.Tensor]:
            return {names[key].theirs: tensor for key, tensor in model.state_dict().items() if key in names}

    other = torchvision_peer("densenet121").eval()
    theirs._load_state_dict(other, Files(), progress=False)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), other(x))


@pytest.mark.slow
def test_adaptive_pool_with_overlapping_bins() -> None:
    """At 96x96, the adaptive pool of a VGG maps 3x3 to 7x7."""
    assert_same("vgg11", Peer(lambda: torchvision_peer("vgg11"), (3, 96, 96)))


@pytest.mark.slow
def test_the_bound_detects_another_slope() -> None:
    """timm's own slope exceeds the bound; a bound that accepted it would accept anything."""
    with pytest.raises(AssertionError, match="<="):
        assert_same("darknet53", Peer(lambda: darknet53(0.01), renamed=by("timm_darknet53")))


def test_the_bound_detects_another_order() -> None:
    """A norm on the other side of the addition, with the same tensors, exceeds the bound."""
    with pytest.raises(AssertionError, match="<="):
        assert_same("he2016_activation_bn_after_add", variant(cifar.Unit))


def test_every_library_peer_is_compared() -> None:
    """Every row that names a peer of torchvision or timm is compared."""
    named = {name for name in facts.zoo() if {"torchvision", "timm"} & set(facts.rows()[name].get("peers") or {})}
    assert named <= set(PEERS)
    assert set(PEERS) <= set(facts.zoo())


def computed_words(network: Network) -> set[str]:
    """Return the blocks, op words and merges on which the outputs in evaluation mode depend."""
    words: set[str] = set()
    for _, node in walk(network.root, modes=("always",)):
        match node:
            case Op(kind=Act(kind=word)):
                words.add(word)
            case Op():
                words.add(node.kind.word)
            case Parallel():
                words.add(f"merge {node.merge}")
            case Series() if node.call:
                words.add(f"block {node.call.block}")
    return words


@cache
def compared_words() -> frozenset[str]:
    """Return the words of all comparisons above, each with its settings."""
    return frozenset().union(*(computed_words(facts.network(name, *peer.settings)) for name, peer in PEERS.items()))


#: Blocks that no comparison of outputs can cover, with the reason.
NOT_COMPARED = {
    "googlenet_aux": "auxiliary heads are not computed in evaluation mode; names and shapes are compared",
    "inception_aux": "likewise",
}


@pytest.mark.slow
def test_every_block_is_compared() -> None:
    """Every block of the library, and every one that a spec defines, is computed in a compared network."""
    defined = {block for name in facts.zoo() for block in facts.blocks(facts.network(name))} | set(library.blocks())
    met = {word.removeprefix("block ") for word in compared_words() if word.startswith("block ")}
    assert defined - met == set(NOT_COMPARED)


@pytest.mark.slow
def test_every_op_is_compared() -> None:
    """Every op word and every merge of the zoo is computed in a compared network."""
    assert set().union(*(computed_words(facts.network(name)) for name in facts.zoo())) <= compared_words() | {
        f"block {block}" for block in NOT_COMPARED
    }
