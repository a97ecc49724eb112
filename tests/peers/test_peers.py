"""The zoo compared with the libraries whose checkpoints people load, and with the released code: same names, same
outputs.

Counts and digests do not show where a norm is or which convolution has the stride, so the outputs must agree too: ONNX
Runtime on our file and the peer itself are both compared with the peer in float64 (see `peers.bound`).
"""

from __future__ import annotations

import gc
import re
from functools import cache
from typing import Any

import facts
import numpy as np
import pytest
from ort import ran

torch = pytest.importorskip("torch", reason="the peers are torch models: pip install torch")
pytest.importorskip("onnxruntime", reason="our side runs in ONNX Runtime: pip install 'rescompile[run]'")

import peers  # before torchvision: it declares the operators whose library may not load

pytest.importorskip("torchvision", reason="a peer of many networks: pip install --no-deps torchvision")
pytest.importorskip("timm", reason="a peer of many networks: pip install --no-deps timm")

from library_peers import Peer, Tensors, as_they_are, by, timm_peer, torchvision_peer
from references import cifar
from torch import nn
from zoo_peers import ADAPTED, AUTOMATIC, OTHER_ORDER, PEERS, darknet53, variant

from rescompile import build, load
from rescompile.analysis.cost import cost
from rescompile.ir.network import Network, Op, Parallel, Series, walk
from rescompile.ir.ops import Act
from rescompile.lang import library
from rescompile.weights import profiles


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
