"""Every network of the zoo agrees with its row of the facts, and its canonical text defines it completely."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import facts
import pytest
from sample import SAMPLE

from rescompile import elaborate, load
from rescompile.analysis.cost import cost
from rescompile.diagnostics.errors import SpecError
from rescompile.elaboration.expect import unmet
from rescompile.explain import zoo_ops
from rescompile.explain.stages import structure
from rescompile.weights import zoo_index

every_spec = pytest.mark.parametrize("name", facts.zoo())

#: Prefixes of the networks that refuse a square input of this size because a feature map gets too small: five poolings (VGG), a
#: stem of stride 4 and three poolings (AlexNet, DenseNet for ImageNet, VoVNet, HarDNet), an average over 8x8 (Highway B), or
#: convolutions without padding (Inception). torchvision and timm refuse such inputs too.
TOO_SMALL = {
    28: (
        "alexnet",
        "convnext",
        "vgg",
        "densenet1",
        "densenet2",
        "inception",
        "highway_b",
        "vovnet",
        "ese_vovnet",
        "hardnet",
        "unet_2015",
        "fractalnet",
        "fasternet",
    ),
    64: ("alexnet_2012", "inception_v3", "inception_v4", "inception_resnet_v2", "unet_2015"),
}

#: Prefixes of the networks that refuse such an input because merged maps have different sizes: some maps are odd, and a pool drops
#: a row that a convolution or upsampling does not. Their peers refuse such inputs too.
UNEVEN = {28: ("resnetaa50", "hrnet", "dla", "unet", "resnet50_fpn"), 64: ()}

#: Networks in which two layers read the input, with the weight of the second one.
TWO_READERS = {"repvgg_a0": "stage0.rbr_1x1.conv.weight", "mobileone_s0": "stem.conv_scale.conv.weight"}

#: The parameter that determines the outputs of a network: the classes of a classifier or segmentation, the features of an embedding,
#: or the channels of a pyramid; with the prefixes of the tensors that depend on it, except for classifiers.
OUTPUT_PARAMETERS = {"classes": (), "features": ("fc.", "features."), "channels": ("fpn.",)}


def test_the_zoo_is_the_folder_specs() -> None:
    """The networks of the zoo are the files in specs/, so that the tests below cover all of them."""
    folder = Path(__file__).parents[2] / "specs"
    assert sorted(facts.zoo()) == sorted(path.stem for path in folder.rglob("*.yaml"))
    assert len(facts.zoo()) >= 170


@every_spec
def test_a_network_agrees_with_its_facts(name: str) -> None:
    """Figures, shapes and tensor names equal those of independent implementations."""
    row, network = facts.figures(name), facts.network(name)
    total, shapes = cost(network), facts.shapes(network)
    assert network.name == name
    assert total.parameters == row["params"]["computed"]
    assert total.macs + facts.idle_macs(network) == row["macs"]["computed"]
    assert [1, *network.root.output] == row["output"]
    assert list(network.input) == row["input"]
    assert len(shapes) == row["state_dict"]["tensors"]
    assert (
        facts.digest((facts.counted(name, key), shape) for key, shape in shapes.items()) == row["state_dict"]["digest"]
    )


@cache
def recorded() -> Any:
    """Return the entries of the index of tensors."""
    return json.loads(zoo_index.FILE.read_text("utf-8"))


@every_spec
def test_weights_find_their_network(name: str) -> None:
    """The index of tensors is up to date and finds the network; to renew it, run `python docs/make_zoo_index.py`."""
    assert recorded()[name] == json.loads(json.dumps(asdict(zoo_index.Entry.of(facts.network(name)))))
    assert name in zoo_index.fitting(facts.shapes(facts.network(name)))


@every_spec
def test_the_index_of_ops_is_up_to_date(name: str) -> None:
    """The index of ops is up to date; to renew it, run `python docs/make_zoo_index.py`."""
    assert zoo_ops.entries()[name] == zoo_ops.Entry.of(structure(facts.network(name)))


def test_networks_without_figures() -> None:
    """The networks listed as uncounted are those without independent figures, and their specs have an `unverified` note."""
    assert {name for name in facts.zoo() if facts.rows()[name]["params"]["computed"] is None} == set(facts.UNCOUNTED)
    assert all(load(name).unverified for name in facts.UNCOUNTED)


def test_idle_multiply_adds() -> None:
    """Only one network has multiply-adds that its peer computes without use: a projection of 2048 to 512 channels."""
    idle = {name: facts.idle_macs(facts.network(name)) for name in facts.zoo()}
    assert {name: macs for name, macs in idle.items() if macs} == {"drn_c_58": 2048 * 512 * 28 * 28}


def test_the_digest_depends_on_names_and_shapes() -> None:
    """The digest changes with any name or shape."""
    shapes = facts.shapes(facts.network("resnet18"))
    renamed = {name.replace("layer4.1", "layer4.2"): shape for name, shape in shapes.items()}
    transposed = {name: shape[::-1] for name, shape in shapes.items()}
    assert len({facts.digest(tensors.items()) for tensors in (shapes, renamed, transposed)}) == 3


@every_spec
def test_expectations(name: str) -> None:
    """`expect` is met, contains the parameters and the output, and each of its numbers is exact or a published one."""
    spec, row = load(name), facts.figures(name)
    assert not unmet(spec, facts.network(name))
    assert spec.expect is not None
    assert spec.expect.output == row["output"][1:]
    assert spec.expect.parameters is not None
    exact = {"parameters": row["params"]["computed"], "macs": row["macs"]["computed"]}
    quoted = [(key, figure) for key, figure in facts.published(row)]
    for key, given in (("parameters", spec.expect.parameters), ("macs", spec.expect.macs)):
        if isinstance(given, int):
            assert given == exact[key]
        elif given is not None:
            values = [figure.value for what, figure in quoted if what == key]
            assert any(facts.figure(given).value == pytest.approx(value) for value in values), f"{key}: {given}"


@every_spec
def test_published_figures(name: str) -> None:
    """Every published figure agrees with `expect` or is quoted in a note of the spec."""
    spec, row = load(name), facts.rows()[name]
    assert spec.expect is not None
    expected = {"parameters": spec.expect.parameters, "macs": spec.expect.macs}
    for key, figure in facts.published(row):
        given = expected[key]
        if given is not None and not figure.agrees(facts.figure(given)):
            bare = figure.text.lstrip("~").split()[0]
            assert any(bare in note for note in spec.notes), (
                f"{name} expects {given} {key}, and {figure.text} is published"
            )


def test_figures_are_read_as_printed() -> None:
    """Published figures are parsed with their units and compared to their precision."""
    values = {"25.6M": 25.6e6, "~2.3M": 2.3e6, "3.8e9": 3.8e9, "18.7 Bn Ops (2x MACs)": 9.35e9, "41,609,928": 41609928}
    for text, value in values.items():
        assert facts.figure(text).value == pytest.approx(value)
    assert facts.figure("25.6M").agrees(facts.figure(25_557_032))
    assert not facts.figure("10.2M").agrees(facts.figure(10_327_706))
    assert not facts.figure("41,609,928").agrees(facts.figure(41_609_929))


@every_spec
@pytest.mark.sampled(one_in=3)
def test_the_canonical_text_gives_the_same_network(name: str, tmp_path: Path) -> None:
    """The canonical text is self-contained and gives a network with the same text, hash and tree."""
    network = facts.network(name)
    assert hashlib.sha256(network.text.encode()).hexdigest() == network.sha256
    path = tmp_path / "canonical.yaml"
    path.write_text(network.text, encoding="utf-8")
    again = elaborate(load(path))
    assert again.text == network.text
    assert again.sha256 == network.sha256
    assert again == network
    assert not {"extends", "set", "expect", "description", "notes"} & {
        line.split(":")[0] for line in again.text.split("\n")
    }


@every_spec
@pytest.mark.sampled(one_in=3)
def test_another_number_of_classes(name: str) -> None:
    """`parameters.classes` of a classifier changes only its last layers, as does the corresponding parameter of other networks. A
    detector has its classes for each anchor."""
    word = next(word for word in OUTPUT_PARAMETERS if word in load(name).parameters)
    before, after = facts.network(name), facts.network(name, f"parameters.{word}=7")
    assert after.name == before.name
    assert after.sha256 != before.sha256
    was, now = before.root.output[0], 7 * load(name).parameters.get("anchors", 1)
    assert after.outputs == {
        output: (now if shape[0] == was else shape[0], *shape[1:]) for output, shape in before.outputs.items()
    }
    old, new = facts.shapes(before), facts.shapes(after)
    assert list(new) == list(old)
    changed = {tensor for tensor in old if old[tensor] != new[tensor]}
    if rows := OUTPUT_PARAMETERS[word]:
        assert changed == {tensor for tensor in old if tensor.startswith(rows) and old[tensor]}
        pairs = [pair for tensor in changed for pair in zip(old[tensor], new[tensor], strict=True)]
        assert {pair for pair in pairs if pair[0] != pair[1]} == {(was, now)}
        return
    heads = {"googlenet": 3, "inception_v3": 2, "fcn_resnet50": 2, "deeplabv3_resnet50": 2}.get(
        name, 1
    )  # with auxiliary ones
    assert len(changed) == 2 * heads
    assert all((now, *old[tensor][1:]) == new[tensor] and old[tensor][0] == was for tensor in changed)


@every_spec
@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.sampled(one_in=3)
def test_another_input(name: str, size: int) -> None:
    """An input of one channel and another size changes only the tensors that depend on it, or is refused with a location in the spec."""
    shape = (1, *(size for _ in facts.network(name).input[1:]))
    settings = f"input={[*shape]}"
    if name.startswith((*TOO_SMALL[size], *UNEVEN[size])):
        with pytest.raises(SpecError) as refused:
            facts.network(name, settings)
        expected = {"E0202" if name.startswith(TOO_SMALL[size]) else "E0201"}
        assert {found.code for found in refused.value.diagnostics} == expected
        assert all(found.place and found.place.source.name.startswith("specs/") for found in refused.value.diagnostics)
        return
    before, after = facts.network(name), facts.network(name, settings)
    assert after.input == shape
    assert after.root.output[0] == before.root.output[0]
    assert [len(shape) for shape in after.outputs.values()] == [len(shape) for shape in before.outputs.values()]
    old, new = facts.shapes(before), facts.shapes(after)
    first, last = next(iter(old)), [*old][-2]
    changed = {}
    if before.input[0] != 1:
        changed[first] = (old[first][0], old[first][1] // before.input[0], *old[first][2:])
    if name in TWO_READERS:
        changed[TWO_READERS[name]] = (48, 1, 1, 1)
    if name.startswith("fractalnet"):  # one layer of each column reads the input
        changed |= {key: (shape[0], 1, 3, 3) for key, shape in old.items() if shape[1:2] == (3,)}
        changed["fc.weight"] = (10, old["fc.weight"][1] * 2 * 2)
    if name == "ir50":  # flattens a map
        changed["fc.weight"] = (512, 512 * (-(-size // 16)) ** 2)
    if size == 64:  # these flatten a map
        if "_mnist_fc_" in name:
            changed[first] = (old[first][0], 64 * 64)
        elif name.startswith("highway_mnist_conv_"):
            changed[last] = (10, old[last][1] // 9 * 8 * 8)  # 60, 30, 15, 8: poolings round up, as in Caffe
        elif name.startswith("highway_b_"):
            changed[last] = (old[last][0], 100 * 2 * 2)  # an 8x8 average of 16x16; at 32 it is 1x1
    assert {key: shape for key, shape in new.items() if shape != old[key]} == changed


def test_settings_that_change_nothing() -> None:
    """Settings that repeat the existing values do not change the hash."""
    assert (
        facts.network("resnet50", "parameters.classes=1000", "layer3.depth=6").sha256
        == facts.network("resnet50").sha256
    )


def test_settings_give_another_network_of_the_zoo() -> None:
    """`resnet50` with 23 blocks in its third stage differs from `resnet101` only in the name."""
    deeper, real = facts.network("resnet50", "layer3.depth=23"), facts.network("resnet101")
    assert deeper.root == real.root
    assert deeper.text.replace("name: resnet50", "name: resnet101") == real.text
    assert deeper.sha256 != real.sha256


def test_the_name_cannot_be_set() -> None:
    """`--set name=` is refused, since a network has the name of its spec."""
    with pytest.raises(SpecError, match="name"):
        load("resnet18", ["name=mine"])


def test_the_sample_has_every_family_and_block() -> None:
    """The networks that `make test` runs cover every family and every block of the zoo."""
    families = {facts.rows()[name]["family"] for name in facts.zoo()}
    defined = {block for name in facts.zoo() for block in facts.blocks(facts.network(name))}
    assert {facts.rows()[name]["family"] for name in SAMPLE} == families
    assert {block for name in SAMPLE for block in facts.blocks(facts.network(name))} == defined
