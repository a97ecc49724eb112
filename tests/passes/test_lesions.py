"""`--drop` and `--swap`: smaller and reordered networks in every target, compared with the interpreter on the original network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import invoke
from differential import random_weights, run
from numpy.typing import NDArray
from refusals import LONGEST

import rescompile
from rescompile import backend
from rescompile.analysis.cost import cost
from rescompile.diagnostics.errors import UsageError
from rescompile.diagnostics.rendering import render
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import LOGITS, Network, Op, parameters, walk
from rescompile.passes import apply, options
from rescompile.passes.drop import droppable
from rescompile.weights import draw, from_arrays

Array = NDArray[Any]
SMALL = "input=[3, 32, 32]"


@cache
def network_of(name: str, *settings: str) -> Network:
    return rescompile.elaborate(rescompile.load(name, settings))


@cache
def prepared(name: str, *settings: str) -> tuple[Network, dict[str, Array], Array]:
    """Return a network with random weights, and an input."""
    network = network_of(name, *settings)
    x = np.random.default_rng(1).standard_normal((2, *network.input)).astype(np.float32)
    return network, random_weights(network, x, 1), x


# --- outputs of lesions -----------------------------------------------------------------------------------------------

#: A lesion, and the weights with which the original network computes the same: tensors that are set to a number or to
#: the identity (None), and prefixes whose tensors are exchanged.
Silenced = Mapping[str, float | None]


def identity_of(layer: str, norm: str | None = None) -> dict[str, float | None]:
    """Return the weights that make a layer, and the norm after it, the identity; so is the relu after them on the
    output of a relu."""
    found: dict[str, float | None] = {f"{layer}.weight": None, f"{layer}.bias": 0}
    if norm:
        found |= {f"{norm}.{name}": value for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0))}
        found[f"{norm}.running_var"] = 1 - 1e-5  # eps is added to it
    return found


CASES: dict[str, tuple[str, tuple[str, ...], dict[str, str], Silenced, tuple[tuple[str, str], ...]]] = {
    "resnet": (
        "resnet20_cifar", (), {"drop": "layer2.1,layer1.0"},
        {"layer2.1.bn2.weight": 0, "layer2.1.bn2.bias": 0, "layer1.0.bn2.weight": 0, "layer1.0.bn2.bias": 0}, (),
    ),
    "option A where the shape changes": (
        "resnet20_cifar", (), {"drop": "layer3.0"}, {"layer3.0.bn2.weight": 0, "layer3.0.bn2.bias": 0}, (),
    ),
    "a projection stays": (
        "resnet50", (SMALL,), {"drop": "layer1.0,layer2.0,layer3.3"},
        {f"{block}.bn3.{name}": 0 for block in ("layer1.0", "layer2.0", "layer3.3") for name in ("weight", "bias")}, (),
    ),
    "preactivation, norm outside of the branch": (
        "preact_resnet18", (SMALL,), {"drop": "layer1.1,layer2.0"},
        {"layer1.1.conv2.weight": 0, "layer2.0.conv2.weight": 0}, (),
    ),
    "a closed highway gate": (
        "highway_mnist_fc_10", (), {"drop": "body.1,body.4"},
        {"body.1.gate.weight": 0, "body.1.gate.bias": -1e9, "body.4.gate.weight": 0, "body.4.gate.bias": -1e9}, (),
    ),
    "a residual without a scope": (
        "darknet_resnet18", ("input=[3, 64, 64]",), {"drop": "layers.add_3"}, {"layers.12.bn.weight": 0, "layers.12.bn.bias": 0}, (),
    ),
    "survival": (
        "stochastic_depth_110", ("parameters.n=3",), {"drop": "layer2.1"},
        {"layer2.1.bn2.weight": 0, "layer2.1.bn2.bias": 0}, (),
    ),
    "plain layers": (
        "plain20_cifar", (), {"drop": "layer2.1.conv1,layer3.2,layer1.0.conv2"},
        {
            **identity_of("layer2.1.conv1", "layer2.1.bn1"), **identity_of("layer1.0.conv2", "layer1.0.bn2"),
            **identity_of("layer3.2.conv1", "layer3.2.bn1"), **identity_of("layer3.2.conv2", "layer3.2.bn2"),
        }, (),
    ),
    "numbered layers, depthwise": (
        "mobilenet_v1", ("input=[3, 32, 32]",), {"drop": "features.15,features.45"},
        identity_of("features.15", "features.16") | identity_of("features.45", "features.46"), (),
    ),
    "linear layers": (
        "plain_mnist_fc_10", (), {"drop": "body.2,body.6"}, identity_of("body.2") | identity_of("body.6"), (),
    ),
    "swap": ("resnet20_cifar", (), {"swap": "layer2.1,layer2.2"}, {}, (("layer2.1.", "layer2.2."),)),
    "two swaps": (
        "resnet50", (SMALL,), {"swap": "layer3.1,layer3.5,layer3.1,layer3.2"}, {},
        # first 5 2 3 4 1, then 1 and 2 change places: 5 1 3 4 2
        (("layer3.1.", "layer3.5."), ("layer3.2.", "layer3.5.")),
    ),
    "swap of highway layers": ("highway_mnist_fc_10", (), {"swap": "body.2,body.7"}, {}, (("body.2.", "body.7."),)),
    "both": (
        "resnet20_cifar", (), {"drop": "layer3.1", "swap": "layer1.1,layer1.2"},
        {"layer3.1.bn2.weight": 0, "layer3.1.bn2.bias": 0}, (("layer1.1.", "layer1.2."),),
    ),
}  # fmt: skip


def equivalent_weights(
    weights: Mapping[str, Array], silenced: Silenced, exchanged: tuple[tuple[str, str], ...]
) -> dict[str, Array]:
    """Return the weights with which the original network computes the lesion, without any pass."""
    changed = dict(weights)
    for name, value in silenced.items():
        if value is None:
            changed[name] = identity_weight(changed[name].shape)
        elif name in changed:
            changed[name] = np.full(changed[name].shape, value, np.float64)
        else:
            assert name.endswith(".bias")
    for first, second in exchanged:
        names = [name.removeprefix(first) for name in changed if name.startswith(first)]
        assert names
        for name in names:
            changed[first + name], changed[second + name] = changed[second + name], changed[first + name]
    return changed


def identity_weight(shape: tuple[int, ...]) -> Array:
    """Return the weight of a convolution or linear layer that is the identity: [out, in of the group, *kernel]."""
    weight = np.zeros(shape)
    for out in range(shape[0]):
        weight[(out, out % shape[1], *(size // 2 for size in shape[2:]))] = 1
    return weight


@pytest.mark.parametrize("case", CASES)
def test_the_tree_computes_the_lesion(case: str) -> None:
    """The lesion equals the original network with silenced branches or exchanged weights."""
    name, settings, lesion, silenced, exchanged = CASES[case]
    network, weights, x = prepared(name, *settings)
    changed, lesion_weights = apply(network, from_arrays(weights, network), lesion)
    assert lesion_weights is not None
    wanted = interpret(network, equivalent_weights(weights, silenced, exchanged), x)[LOGITS]
    assert interpret(changed, lesion_weights, x)[LOGITS] == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    before = interpret(network, weights, x)[LOGITS]
    assert np.abs(before - wanted).max() > 1e-3 * np.abs(wanted).max(), "the lesion has no effect"


@pytest.mark.parametrize("target", ["onnx", "torch"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_targets_compute_the_lesion(case: str, target: str) -> None:
    """Every target computes the lesion within rounding; `torch` executes the text of `source`."""
    if target == "torch":
        pytest.importorskip("torch")
    name, settings, lesion, silenced, exchanged = CASES[case]
    network, weights, x = prepared(name, *settings)
    given = equivalent_weights(weights, silenced, exchanged)
    wanted, rounded = interpret(network, given, x)[LOGITS], interpret(network, given, x, "fp32")[LOGITS]
    changed, lesion_weights = apply(network, from_arrays(weights, network), lesion)
    if target == "onnx":
        found = run(rescompile.build(network, "onnx", weights, **lesion).to_bytes(), x)[LOGITS]
    else:
        torch: Any = backend.load("torch")
        found = torch.evaluate(changed, lesion_weights, x)[LOGITS]
    size = np.sqrt(np.mean(wanted**2))
    allowed = max(3 * np.sqrt(np.mean((rounded - wanted) ** 2)) / size, 1e-6)
    assert np.sqrt(np.mean((found - wanted) ** 2)) / size <= allowed


# --- names and sizes --------------------------------------------------------------------------------------------------


def test_a_drop_removes_the_branch() -> None:
    """Parameters, multiply-adds and nodes of the branch are removed, and all other names stay."""
    network, weights, _ = prepared("resnet20_cifar")
    changed, lesion_weights = apply(network, from_arrays(weights, network), {"drop": "layer2.1"})
    assert lesion_weights is not None
    before, after = ([name for name, _ in parameters(each)] for each in (network, changed))
    assert after == [name for name in before if not name.startswith("layer2.1.")]
    assert list(lesion_weights) == after
    branch = 2 * 32 * 32 * 9
    assert cost(network).parameters - cost(changed).parameters == branch + 2 * 2 * 32
    assert cost(network).macs - cost(changed).macs == branch * 16 * 16
    assert not any(path.startswith("layer2.1.conv") for path, _ in walk(changed.root))
    assert "layer2.1.act_1" in {path for path, node in walk(changed.root) if isinstance(node, Op)}


def test_a_plain_layer_is_dropped_with_its_norm_and_activation() -> None:
    """Dropping one layer of two keeps the other, with its names."""
    network = network_of("plain20_cifar")
    changed, _ = apply(network, None, {"drop": "layer2.1.conv1"})
    gone = {path for path, _ in walk(network.root)} - {path for path, _ in walk(changed.root)}
    assert gone == {"layer2.1.conv1", "layer2.1.bn1", "layer2.1.act"}
    assert cost(network).parameters - cost(changed).parameters == 32 * 32 * 9 + 2 * 32


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("resnet20_cifar", 9, "layer1.0"),
        ("plain20_cifar", 16, "layer1.0.conv1"),  # without the stem, two that change the shape, and the classifier
        ("vgg16_bn", 10, "features.3"),  # 9 of 13 convolutions, 1 of 3 linear layers
        ("densenet121", 0, None),
    ],
)
def test_all_that_can_be_dropped(name: str, count: int, first: str | None) -> None:
    """Everything that `droppable` lists can be dropped, one by one and all together."""
    network = network_of(name)
    found = droppable(network)
    assert (len(found), next(iter(found), None)) == (count, first)
    for value in [*found, ",".join(found)]:
        if value:
            assert cost(apply(network, None, {"drop": value})[0]).macs < cost(network).macs


def test_a_projection_keeps_its_parameters() -> None:
    """Dropping a block with a projection keeps the projection and its parameters."""
    network = network_of("resnet50", SMALL)
    changed, _ = apply(network, None, {"drop": "layer2.0"})
    left = [name for name, _ in parameters(changed) if name.startswith("layer2.0.")]
    assert {name.split(".")[2] for name in left} == {"downsample"}


def test_a_swap_keeps_all_names() -> None:
    """A checkpoint of the original network fits the reordered one; only the order of its names differs."""
    network = network_of("resnet20_cifar")
    changed, _ = apply(network, None, {"swap": "layer2.1,layer2.2"})
    before, after = ([name for name, _ in parameters(each)] for each in (network, changed))
    assert sorted(before) == sorted(after)
    blocks = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in after if name.startswith("layer2.")))
    assert blocks == ["layer2.0", "layer2.2", "layer2.1"]
    again, _ = apply(changed, None, {"swap": "layer2.2,layer2.1"})
    assert again.root == network.root


def test_random_weights_are_kept() -> None:
    """A lesion of a network with random weights keeps the values of the remaining ones."""
    whole = rescompile.build("resnet20_cifar", "torch", seed=3).module.state_dict()  # type: ignore[attr-defined]
    less = rescompile.build("resnet20_cifar", "torch", seed=3, drop="layer2.1").module.state_dict()  # type: ignore[attr-defined]
    assert len(less) == len(whole) - 12
    assert all((whole[name] == value).all() for name, value in less.items())


def test_names_with_spaces_around_them() -> None:
    """Spaces around names are removed, in the record too."""
    network, _ = apply(network_of("resnet20_cifar"), None, {"drop": " layer2.1, layer3.1"})
    assert network.passes == ("drop=layer2.1,layer3.1",)


# --- recorded ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lesion",
    [
        {"drop": "layer2.1,layer3.0"},
        {"swap": "layer2.1,layer2.2"},
        {"drop": "layer1.1", "swap": "layer3.1,layer3.2", "fold_batchnorm": True},
    ],
    ids=str,
)
def test_a_file_is_rebuilt_from_its_record(lesion: dict[str, Any], tmp_path: Path) -> None:
    """`extract`, and `build` with the recorded passes, give the same bytes."""
    first, spec, second = tmp_path / "first.onnx", tmp_path / "resnet20_cifar.yaml", tmp_path / "second.onnx"
    flags = [f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}") for key, value in lesion.items()]
    assert invoke("build", "resnet20_cifar", "-t", "onnx", "-o", first, *flags).exit_code == 0
    recorded = json.loads(invoke("extract", first, "--json").stdout)["passes"]
    assert options(recorded) == lesion
    recorded_options = invoke("extract", first, "-o", spec).stderr.split("built with ")[1].split()
    assert invoke("build", spec, "-t", "onnx", "-o", second, *recorded_options).exit_code == 0
    assert first.read_bytes() == second.read_bytes()


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(network: Network, **lesion: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        apply(network, None, lesion)
    for diagnostic in caught.value.diagnostics:
        assert len(render([diagnostic], "text")) < LONGEST
    return caught.value


WRONG = [
    ("resnet20_cifar", {"drop": "layer2.3"}, "E0806", "no part 'layer2.3'", "did you mean 'layer2.2'?"),
    ("resnet20_cifar", {"drop": "layr2.1"}, "E0806", "no part 'layr2.1'", "did you mean 'layer2.1'?"),
    ("resnet20_cifar", {"drop": "xyz"}, "E0806", "no part 'xyz'", "the residual blocks are layer1.0,"),
    ("resnet20_cifar", {"drop": "layer2.1,,layer1.1"}, "E0806", "a name is missing", "the residual blocks are"),
    ("resnet20_cifar", {"drop": "layer2.1,layer2.1"}, "E0806", "named twice", None),
    ("resnet20_cifar", {"drop": "layer2.1,layer2.1.add"}, "E0806", "already dropped", None),
    ("resnet20_cifar", {"drop": "layer2"}, "E0807", "3 residual branches", "name one of layer2.0, layer2.1, layer2.2"),
    (
        "resnet20_cifar",
        {"drop": "conv1"},
        "E0807",
        "[3, 32, 32] to [16, 32, 32]",
        "the residual blocks are layer1.0,",
    ),
    (
        "resnet20_cifar",
        {"drop": "layer2.0.conv1"},
        "E0807",
        "not a residual block",
        "it is inside the residual block 'layer2.0'",
    ),
    (
        "resnet20_cifar",
        {"drop": "layer2.1.conv1"},
        "E0807",
        "no path would be left",
        "it is inside the residual block 'layer2.1'",
    ),
    ("plain20_cifar", {"drop": "layer2.0"}, "E0807", "to [32, 16, 16], and has no shortcut", "no residual blocks"),
    (
        "plain20_cifar",
        {"drop": "layer2"},
        "E0807",
        "to [32, 16, 16], and has no shortcut",
        "can be dropped: layer1.0.conv1,",
    ),
    (
        "plain20_cifar",
        {"drop": "layer2.1.bn1"},
        "E0807",
        "neither a residual block nor a convolution or linear layer",
        "can be dropped: layer1.0.conv1,",
    ),
    ("plain20_cifar", {"drop": "layer2.1.conv1,layer2.1"}, "E0806", "'layer2.1.conv1' is already dropped", None),
    ("plain20_cifar", {"drop": "layer2.1,layer2.1.conv1"}, "E0806", "'layer2.1.conv1' is already dropped", None),
    ("plain20_cifar", {"drop": "layer2.1.conv9"}, "E0806", "no part", "did you mean 'layer2.1.conv"),
    (
        "densenet121",
        {"drop": "features.denseblock1.denselayer3"},
        "E0807",
        "its branches are concatenated",
        "no residual blocks",
    ),
    ("resnet20_cifar", {"swap": "layer2.1,layer2.0"}, "E0808", "[16, 32, 32] to [32, 16, 16]", None),
    ("resnet20_cifar", {"swap": "layer2.1,layer1.1"}, "E0808", "so their names would change", None),
    ("resnet20_cifar", {"swap": "layer2.1,layer2.1"}, "E0808", "with itself", None),
    ("resnet20_cifar", {"swap": "layer2.1"}, "E0802", "lists 1", None),
    ("resnet20_cifar", {"swap": "layer1.0,layer1.1,layer1.2"}, "E0802", "lists 3", None),
    ("resnet20_cifar", {"swap": "layer2.1,layer9"}, "E0806", "no part 'layer9'", "did you mean"),
    ("plain20_cifar", {"swap": "layer2.1,layer2.2"}, "E0807", "not a residual block", "no residual blocks"),
    ("resnet20_cifar", {"drop": "layer2.1", "swap": "layer2.1,layer2.2"}, "E0807", "not a residual block", None),
    ("resnet20_cifar", {"drop": ""}, "E0802", "drop needs a value: a string", None),
    ("resnet20_cifar", {"drop": ["layer2.1"]}, "E0802", "drop must be a string, not", None),
]


@pytest.mark.parametrize(("name", "lesion", "code", "message", "help"), WRONG, ids=lambda value: str(value)[:40])
def test_refusals(name: str, lesion: dict[str, Any], code: str, message: str, help: str | None) -> None:
    """A refusal contains the place, the reason, and a suggestion."""
    error = refused(network_of(name), **lesion)
    (diagnostic,) = error.diagnostics
    assert diagnostic.code == code
    assert message in diagnostic.message
    if help is not None:
        assert help in (diagnostic.help or "")
    assert (diagnostic.place is None) == (code == "E0802")


def test_all_unknown_names_at_once() -> None:
    """Each unknown name is marked at its place."""
    error = refused(network_of("resnet20_cifar"), drop="layer2.1,nose,layer3.1,mouth")
    text = "layer2.1,nose,layer3.1,mouth"
    marked = [text[d.place.column - 1 : d.place.end - 1] for d in error.diagnostics if d.place]
    assert marked == ["nose", "mouth"]


def test_nested_blocks(tmp_path: Path) -> None:
    """A residual in the branch of another can be dropped by its own name, and cannot be swapped with the outer one."""
    inner = {"residual": {"branch": {"conv": {"channels": 4, "kernel": 3}}}}
    rows = [{"residual": {"branch": [inner, "relu"]}}]
    path = tmp_path / "nested.yaml"
    path.write_text(yaml.safe_dump({"rescompile": 1, "name": "nested", "input": [4, 8, 8], "network": rows}))
    network = network_of(str(path))
    adds = [path for path, node in walk(network.root) if getattr(node, "merge", "") == "add"]
    assert len(adds) == 2
    without, _ = apply(network, None, {"drop": adds[1]})
    assert cost(without).parameters == 0
    assert [path for path, node in walk(without.root) if getattr(node, "merge", "") == "add"] == adds[:1]
    assert refused(network, swap=",".join(adds)).diagnostics[0].code == "E0808"


#: Blocks in the shortcut of a residual, or run again there.
IN_A_SHORTCUT = {
    "inside": ("- outer: {residual: {branch: [c: CONV], shortcut: [inner: BLOCK]}}", "outer", "outer.inner.0"),
    "again": ("- high: BLOCK\n- residual: {branch: [c: CONV], shortcut: [again: high]}", "add", "high.1"),
}


@pytest.mark.parametrize("case", IN_A_SHORTCUT)
def test_lesions_in_the_shortcut_of_another(case: str, tmp_path: Path) -> None:
    """Together they are what they are one after the other, in any order."""
    rows, outer, inner = IN_A_SHORTCUT[case]
    rows = rows.replace("CONV", "{conv: {channels: 4, kernel: 3}}").replace(
        "BLOCK", "{block: basic, depth: 2, width: 4}"
    )
    path = tmp_path / "spec.yaml"
    path.write_text(f"rescompile: 1\nname: nested\ninput: [4, 8, 8]\nnetwork:\n{rows}\n")
    network = rescompile.elaborate(rescompile.load(path))
    single = apply(network, draw(network), {"drop": outer})
    wanted, left = apply(*single, {"drop": inner})
    for value in (f"{outer},{inner}", f"{inner},{outer}"):
        both, weights = apply(network, draw(network), {"drop": value})
        assert both.root == wanted.root
        assert list(weights or ()) == list(left or ())
        assert not [name for name, _ in parameters(both) if name.startswith((f"{inner}.", "c.", "outer.c."))]


def test_a_residual_on_a_part_of_the_channels(tmp_path: Path) -> None:
    """A residual in a branch of a split drops like any other; its channels are then passed on unchanged."""
    branches = [{name: {"residual": {"branch": {"conv": {"channels": 2, "kernel": 1}}}}} for name in ("one", "two")]
    rows = [{"parallel": {"merge": "concat", "split": True, "branches": branches}}]
    path = tmp_path / "halves.yaml"
    path.write_text(yaml.safe_dump({"rescompile": 1, "name": "halves", "input": [4, 3, 3], "network": rows}))
    network = network_of(str(path))
    weights = draw(network, 1)
    without, kept = apply(network, weights, {"drop": "one"})
    assert kept is not None
    x = np.random.default_rng(1).standard_normal((2, 4, 3, 3))
    other = x[:, 2:] + np.einsum("oi,bihw->bohw", kept["two.conv.weight"][:, :, 0, 0], x[:, 2:])
    assert np.allclose(interpret(without, kept, x)["logits"], np.concatenate([x[:, :2], other], axis=1))


def test_command_line() -> None:
    """Lesions work with commands that take a network; an invalid one is a usage error with exit code 2."""
    data = json.loads(invoke("show", "resnet20_cifar", "--drop", "layer2.1", "--json").stdout)
    assert data["passes"] == ["drop=layer2.1"]
    result = invoke("show", "resnet20_cifar", "--drop", "layer2.1,layer7.1")
    assert result.exit_code == 2
    assert "--drop:1:10: error[E0806]: the network has no part 'layer7.1'" in result.stderr
    assert "        |          ^^^^^^^^" in result.stderr.replace("      |", "        |")


def test_a_feature_does_not_change_a_lesion(tmp_path: Path) -> None:
    """A layer is dropped with its norm and activation, whether its convolution is a feature or not."""
    spec = tmp_path / "net.yaml"
    spec.write_text(
        "rescompile: 1\nname: net\ninput: [4, 8, 8]\nnetwork: [{a: {conv: {channels: 4, kernel: 3}}}, "
        "{b: {conv: {channels: 4, kernel: 3}}}, {bn: norm}, {nonlinear: act}, {fc: {conv: {channels: 2, kernel: 1}}}]\n"
    )
    left = []
    for settings in ([], ["features=[b]"]):
        network, _ = apply(rescompile.elaborate(rescompile.load(spec, settings)), None, {"drop": "b"})
        left.append([name for name, _ in parameters(network)])
    assert left == [["a.weight", "fc.weight"]] * 2
