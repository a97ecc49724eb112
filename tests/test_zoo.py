"""Every network of the zoo is what its row of the facts says, and its canonical text is all there is to know of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import facts
import pytest

from rescompile import elaborate, load
from rescompile.cost import cost
from rescompile.errors import SpecError
from rescompile.expectations import unmet

every_spec = pytest.mark.parametrize("name", facts.zoo())

#: Networks with a map too small for what comes last when the input is 28x28: five poolings (VGG), a stem of 4 and three
#: transitions (DenseNet for ImageNet), an average over 8x8 (Highway). torchvision refuses such inputs too.
NOT_AT_28 = {"vgg16_bn", "densenet121", "densenet161", "densenet169", "densenet201", "highway_b_cifar10_19"}


def test_the_zoo_is_the_folder_specs() -> None:
    """A file in specs/ is a network of the zoo, and nothing else is; so every test below meets every file."""
    folder = Path(__file__).parent.parent / "specs"
    assert sorted(facts.zoo()) == sorted(path.stem for path in folder.rglob("*.yaml"))
    assert len(facts.zoo()) >= 25


@every_spec
def test_spec_is_its_row(name: str) -> None:
    """Figures and names as independent implementations have them, not as we computed them before."""
    row, network = facts.rows()[name], facts.network(name)
    total, shapes = cost(network), facts.shapes(network)
    assert network.name == name
    assert total.parameters == row["params"]["computed"]
    assert total.macs == row["macs"]["computed"]
    assert [1, *network.root.output] == row["output"]
    assert list(network.input) == row["input"]
    assert len(shapes) == row["state_dict"]["tensors"]
    assert facts.digest(shapes.items()) == row["state_dict"]["digest"]


def test_digest_sees_names_and_shapes() -> None:
    """The digest could not hold a spec to anything if it were blind to a name or a shape."""
    shapes = facts.shapes(facts.network("resnet18"))
    renamed = {name.replace("layer4.1", "layer4.2"): shape for name, shape in shapes.items()}
    transposed = {name: shape[::-1] for name, shape in shapes.items()}
    assert len({facts.digest(tensors.items()) for tensors in (shapes, renamed, transposed)}) == 3


@every_spec
def test_expectations(name: str) -> None:
    """`expect` holds, gives the parameters and the output, and every number in it is exact or quoted from its paper."""
    spec, row = load(name), facts.rows()[name]
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
def test_another_number_of_classes(name: str) -> None:
    """`parameters.classes` is a word that works on the whole zoo, and only the last layer changes with it."""
    spec = load(name)
    assert "classes" in spec.parameters
    before, after = facts.network(name), facts.network(name, "parameters.classes=7")
    assert after.name == before.name
    assert after.sha256 != before.sha256
    assert after.outputs == dict.fromkeys(before.outputs, (7,))
    old, new = facts.shapes(before), facts.shapes(after)
    assert list(new) == list(old)
    classes = before.root.output[0]
    changed = {tensor for tensor in old if old[tensor] != new[tensor]}
    heads = 3 if name == "googlenet" else 1  # with the two auxiliary ones
    assert len(changed) == 2 * heads
    assert all((7, *old[tensor][1:]) == new[tensor] and old[tensor][0] == classes for tensor in changed)


@every_spec
@pytest.mark.parametrize("size", [28, 64])
def test_another_input(name: str, size: int) -> None:
    """Grey images of another size: the network fits, or the message is about a map and stands in the user's file."""
    settings = f"input=[1, {size}, {size}]"
    if size == 28 and name in NOT_AT_28:
        with pytest.raises(SpecError) as refused:
            facts.network(name, settings)
        assert {found.code for found in refused.value.diagnostics} == {"E0202"}
        assert all(found.place and found.place.source.name.startswith("specs/") for found in refused.value.diagnostics)
        return
    before, after = facts.network(name), facts.network(name, settings)
    assert after.input == (1, size, size)
    assert after.root.output == before.root.output
    old, new = facts.shapes(before), facts.shapes(after)
    first, fc = next(iter(old)), [*old][-2]
    assert new[first] == (old[first][0], 1, *old[first][2:])
    pooled_to_one = name != "highway_b_cifar10_19"  # its head flattens what an 8x8 window leaves: 1x1 at 32, 2x2 at 64
    assert {key for key in old if old[key] != new[key]} == ({first} if pooled_to_one else {first, fc})


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
