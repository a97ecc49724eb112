"""Every network of the zoo is what its row of the facts says, and its canonical text is all there is to know of it."""

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

#: How the names of networks begin that refuse a square input of this size, since the map gets too small for what comes
#: last: five poolings (VGG), a stem of 4 or more and three poolings (AlexNet, DenseNet for ImageNet, VoVNet, HarDNet), an average
#: over 8x8 (Highway B), convolutions without padding (Inception). torchvision and timm refuse such inputs too.
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

#: The same of networks whose maps get odd there, so that those that meet have other sizes: a pool leaves out a row where a
#: convolution does not, and upsampling does not bring it back. Their peers refuse such inputs too.
UNEVEN = {28: ("resnetaa50", "hrnet", "dla", "unet", "resnet50_fpn"), 64: ()}

#: Networks with two layers that read the input: the second one's weights.
TWO_READERS = {"repvgg_a0": "stage0.rbr_1x1.conv.weight", "mobileone_s0": "stem.conv_scale.conv.weight"}

#: The parameter of a network that its outputs follow: the classes of a classifier, for each image or for each pixel, the features
#: of an embedding, or the channels of a pyramid; with the rows of tensors that change with it, where these are not classifiers.
FOLLOWED = {"classes": (), "features": ("fc.", "features."), "channels": ("fpn.",)}


def test_the_zoo_is_the_folder_specs() -> None:
    """A file in specs/ is a network of the zoo, and nothing else is; so every test below meets every file."""
    folder = Path(__file__).parents[2] / "specs"
    assert sorted(facts.zoo()) == sorted(path.stem for path in folder.rglob("*.yaml"))
    assert len(facts.zoo()) >= 170


@every_spec
def test_spec_is_its_row(name: str) -> None:
    """Figures and names as independent implementations have them, not as we computed them before."""
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
    """The entries of the index of tensors."""
    return json.loads(zoo_index.FILE.read_text("utf-8"))


@every_spec
def test_weights_find_their_network(name: str) -> None:
    """The index of tensors has the network as it is; run docs/make_zoo_index.py."""
    assert recorded()[name] == json.loads(json.dumps(asdict(zoo_index.Entry.of(facts.network(name)))))
    assert name in zoo_index.fitting(facts.shapes(facts.network(name)))


@every_spec
def test_explain_finds_the_network(name: str) -> None:
    """The index of ops has the network as it is; run docs/make_zoo_index.py."""
    assert zoo_ops.entries()[name] == zoo_ops.Entry.of(structure(facts.network(name)))


def test_networks_without_figures() -> None:
    """Only the rows that have none borrow them, and whoever reads such a spec is told that nobody counted it."""
    assert {name for name in facts.zoo() if facts.rows()[name]["params"]["computed"] is None} == set(facts.UNCOUNTED)
    assert all(load(name).unverified for name in facts.UNCOUNTED)


def test_what_nobody_computes() -> None:
    """The rows are not met by adding what does not belong to them: one network has an idle projection, of 2048 to 512."""
    idle = {name: facts.idle_macs(facts.network(name)) for name in facts.zoo()}
    assert {name: macs for name, macs in idle.items() if macs} == {"drn_c_58": 2048 * 512 * 28 * 28}


def test_digest_sees_names_and_shapes() -> None:
    """The digest could not hold a spec to anything if it were blind to a name or a shape."""
    shapes = facts.shapes(facts.network("resnet18"))
    renamed = {name.replace("layer4.1", "layer4.2"): shape for name, shape in shapes.items()}
    transposed = {name: shape[::-1] for name, shape in shapes.items()}
    assert len({facts.digest(tensors.items()) for tensors in (shapes, renamed, transposed)}) == 3


@every_spec
def test_expectations(name: str) -> None:
    """`expect` holds, gives the parameters and the output, and every number in it is exact or quoted from its paper."""
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
    """A published figure agrees with `expect`; where it does not, a note of the spec quotes it and so owns up to it."""
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
    """The two tests above stand on this reader."""
    values = {"25.6M": 25.6e6, "~2.3M": 2.3e6, "3.8e9": 3.8e9, "18.7 Bn Ops (2x MACs)": 9.35e9, "41,609,928": 41609928}
    for text, value in values.items():
        assert facts.figure(text).value == pytest.approx(value)
    assert facts.figure("25.6M").agrees(facts.figure(25_557_032))
    assert not facts.figure("10.2M").agrees(facts.figure(10_327_706))
    assert not facts.figure("41,609,928").agrees(facts.figure(41_609_929))


@every_spec
@pytest.mark.sampled(one_in=3)
def test_canonical_text_is_the_network(name: str, tmp_path: Path) -> None:
    """What `extract` gives back builds the same network: same text, same hash, equal tree; and it stands alone."""
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
    """`parameters.classes` is a word that works on every classifier, and only the last layer changes with it. What is not a
    classifier has another such parameter, and a detector has its classes for each anchor."""
    word = next(word for word in FOLLOWED if word in load(name).parameters)
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
    if rows := FOLLOWED[word]:
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
    """One channel of another size: the network fits, or the message is about a map and stands in the user's file."""
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
    if name == "ir50":  # which flattens a map, as do some of these
        changed["fc.weight"] = (512, 512 * (-(-size // 16)) ** 2)
    if size == 64:  # those that flatten a map
        if "_mnist_fc_" in name:
            changed[first] = (old[first][0], 64 * 64)
        elif name.startswith("highway_mnist_conv_"):
            changed[last] = (10, old[last][1] // 9 * 8 * 8)  # 60, 30, 15, 8: Caffe's poolings round up
        elif name.startswith("highway_b_"):
            changed[last] = (old[last][0], 100 * 2 * 2)  # what an 8x8 window leaves of 16x16; at 32 it is 1x1
    assert {key: shape for key, shape in new.items() if shape != old[key]} == changed


def test_settings_that_change_nothing() -> None:
    """The hash is the network's identity: writing out the value that stands there gives the same one."""
    assert (
        facts.network("resnet50", "parameters.classes=1000", "layer3.depth=6").sha256
        == facts.network("resnet50").sha256
    )


def test_a_setting_is_the_other_spec() -> None:
    """`resnet101` is `resnet50` with 23 blocks in its third stage, whoever says so; only the name tells them apart."""
    deeper, real = facts.network("resnet50", "layer3.depth=23"), facts.network("resnet101")
    assert deeper.root == real.root
    assert deeper.text.replace("name: resnet50", "name: resnet101") == real.text
    assert deeper.sha256 != real.sha256


def test_the_name_is_not_to_be_set() -> None:
    """A file is renamed with -o; a network keeps the name of its spec."""
    with pytest.raises(SpecError, match="name"):
        load("resnet18", ["name=mine"])


def test_the_sample_has_every_family_and_block() -> None:
    """What `make test` runs of the zoo."""
    families = {facts.rows()[name]["family"] for name in facts.zoo()}
    defined = {block for name in facts.zoo() for block in facts.blocks(facts.network(name))}
    assert {facts.rows()[name]["family"] for name in SAMPLE} == families
    assert {block for name in SAMPLE for block in facts.blocks(facts.network(name))} == defined
