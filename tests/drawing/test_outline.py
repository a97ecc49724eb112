"""The content of pictures: counts of copies, merges, panels and notes, and a size that is independent of depth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rescompile import elaborate, load
from rescompile.analysis.cost import cost
from rescompile.diagnostics.errors import UsageError
from rescompile.drawing import COUNTS, by_amount, by_fault, outline, picture
from rescompile.drawing.outline import Card, Chain, Frame, Item, Split, Tap, cards
from rescompile.drawing.svg import svg
from rescompile.ir.network import Op, walk
from rescompile.passes import apply


def opened(name: str, depth: Any = "blocks", **passes: Any) -> Any:
    """Return the outline of a network of the zoo."""
    return outline(apply(elaborate(load(name)), None, passes)[0], depth)


def items(chain: Chain) -> Iterator[Item]:
    """Yield every item of a chain, outer ones first."""
    for item in chain.items:
        yield item
        if isinstance(item, Split):
            for branch in item.branches:
                yield from items(branch)
        elif isinstance(item, Tap | Frame):
            yield from items(item.child)


def splits(name: str, **passes: Any) -> list[Split]:
    """Return the merges in the panels of a network."""
    panels = opened(name, **passes).panels
    return [item for panel in panels for item in items(panel.child) if isinstance(item, Split)]


def written(path: Path, text: str) -> Any:
    """Write a small spec and return its network."""
    path.write_text(f"rescompile: 1\nname: small\ninput: [4, 8, 8]\n{text}")
    return elaborate(load(path))


def test_rows_have_their_counts_and_panels() -> None:
    """ResNet-50 has 3, 4, 6 and 3 bottlenecks; the first of each row, which has a projection, has a separate panel."""
    shown = opened("resnet50")
    assert [(card.title, card.count, card.letters) for card in cards(shown.rows)] == [
        ("imagenet_stem", 1, ("A",)), ("layer1", 3, ("B", "C")), ("layer2", 4, ("B", "C")), ("layer3", 6, ("B", "C")),
        ("layer4", 3, ("B", "C")), ("classifier", 1, ("D",)),
    ]  # fmt: skip
    projection, identity = (next(i for i in panel.child.items if isinstance(i, Split)) for panel in shown.panels[1:3])
    assert [card.title for branch in projection.branches for card in cards(branch)] == [
        "1×1 conv, 64", "3×3 conv, 64", "1×1 conv, 256", "1×1 conv, 256",
    ]  # fmt: skip
    assert projection.merge == identity.merge == "add"
    assert identity.branches[1].items == ()


def test_every_op_is_in_one_card() -> None:
    """At depth `rows`, every op is in exactly one card, and the parameters of the cards add up to the total."""
    for name in ("resnet50", "googlenet", "densenet121", "darknet53", "darknet_resnet18", "inception_v3"):
        network = elaborate(load(name))
        shown = list(cards(outline(network, "rows").rows))
        ops = [
            id(op) for card in shown for path, node in card.parts for _, op in walk(node, path) if isinstance(op, Op)
        ]
        assert sorted(ops) == sorted(id(op) for _, op in walk(network.root) if isinstance(op, Op))
        total = sum(COUNTS["parameters"].value(card) or 0 for card in shown)
        assert total == cost(network).parameters


def test_merges_of_each_kind() -> None:
    """Gates, concatenations and four branches are drawn as merges with the right numbers of branches."""
    (gate,) = splits("highway_mnist_fc_10")
    assert (gate.merge, len(gate.branches), gate.branches[2].items) == ("gate", 3, ())
    (concat,) = splits("densenet121")
    assert (concat.merge, concat.branches[0].items) == ("concat", ())
    assert [(split.merge, len(split.branches)) for split in splits("googlenet")] == [("concat", 4)]
    assert [len(split.branches) for split in splits("inception_v3")] == [4, 3, 4, 3, 4, 2, 2]


def test_paths_of_resnext() -> None:
    """Of the 32 paths of forms a (sum) and b (concatenation) two are drawn; form c is one grouped convolution."""
    for form, merge in (("a", "add"), ("b", "concat")):
        paths = [split for split in splits("resnext50_32x4d", form=form) if split.copies]
        assert {(split.merge, split.copies, len(split.branches)) for split in paths} == {(merge, 32, 2)}
    titles = [card.title for panel in opened("resnext50_32x4d", form="c").panels for card in cards(panel.child)]
    assert "3×3 conv, 128, 32 groups" in titles


def test_copies_with_different_numbers_share_a_frame() -> None:
    """Five or more copies that differ only in numbers, such as the dual paths of DPN, share a frame that shows the first's numbers."""
    frames = [item for item in items(opened("dpn68b", "ops").rows) if isinstance(item, Frame)]
    assert [(frame.title, frame.count) for frame in frames if "numbers of the first" in frame.notes] == [
        ("features.conv4_2 – features.conv4_12", 11)
    ]


def test_names_inside_a_panel_are_full() -> None:
    """A row inside a block has its full name in the network."""
    frames = [item for panel in opened("cspdarknet53").panels for item in items(panel.child) if isinstance(item, Frame)]
    assert [frame.title for frame in frames] == ["stages.0.blocks"]


def test_notes_of_divided_channels() -> None:
    """A split of the channels has a note with their numbers, and a depthwise convolution is titled as such."""
    (unit,) = (split for split in splits("shufflenet_v2_x1_0") if split.notes)
    assert unit.notes == ("channels: 58 + 58",)
    assert "3×3 depthwise conv, 58" in [card.title for branch in unit.branches for card in cards(branch)]


def test_survival() -> None:
    """A row shows the survival probabilities of its first and last block."""
    details = [detail for card in cards(opened("stochastic_depth_110").rows) for detail in card.details]
    assert [detail for detail in details if "survival" in detail] == [
        "survival 0.9907 → 0.8333", "survival 0.8241 → 0.6667", "survival 0.6574 → 0.5",
    ]  # fmt: skip
    assert all(
        split.notes == (f"kept with p = {p}",)
        for split, p in zip(splits("stochastic_depth_110"), (0.9907, 0.8241), strict=True)
    )
    frames = [item for item in items(opened("stochastic_depth_110", "ops").rows) if isinstance(item, Frame)]
    notes = [item.notes for frame in frames for item in frame.child.items if isinstance(item, Split)]
    assert ("kept with p = 0.9907 → 0.8333",) in notes


def test_side_outputs() -> None:
    """Side outputs are labelled with the mode in which they are computed."""
    taps = [item for item in opened("googlenet").rows.items if isinstance(item, Tap)]
    assert [tap.label for tap in taps] == ["aux1: output, training only", "aux2: output, training only"]
    assert [card.title for tap in taps for card in cards(tap.child)] == ["aux1", "aux2"]


@pytest.mark.parametrize("depth", ["rows", "blocks", "ops"])
def test_the_size_of_a_picture_is_independent_of_depth(depth: Any) -> None:
    """Networks of 1,001 and 164 layers of the same blocks have the same shapes, apart from texts."""
    deep, flat = (picture(elaborate(load(name)), depth).scene for name in ("resnet1001_cifar", "resnet164_cifar"))
    assert [type(shape) for shape in deep.shapes if not hasattr(shape, "text")] == [
        type(shape) for shape in flat.shapes if not hasattr(shape, "text")
    ]
    assert abs(deep.height - flat.height) < 40
    assert deep.height < 1.6 * deep.width or depth != "ops"


def test_equal_rows_are_one_card(tmp_path: Path) -> None:
    """Consecutive rows that differ only in their names are one card."""
    rows = "".join(f"  - c{at}: {{conv: {{channels: 4, kernel: 3}}}}\n" for at in range(2500))
    (card,) = outline(written(tmp_path / "even.yaml", f"network:\n{rows}")).rows.items
    assert isinstance(card, Card)
    assert (card.title, card.count) == ("c0 – c2499", 2500)


@pytest.mark.slow
def test_a_hundred_thousand_layers(tmp_path: Path) -> None:
    """100,001 copies of a block are one card, and the file stays small."""
    block = "blocks:\n  pair:\n    stage: true\n    body: [{conv: {channels: 4, kernel: 3}}, relu]\n"
    network = written(tmp_path / "huge.yaml", f"{block}network:\n  - layer1: {{block: pair, depth: 100001}}\n")
    assert [card.count for card in cards(outline(network).rows)] == [100_001]
    assert len(svg(picture(network).scene)) < 20_000


def test_too_many_different_rows_are_refused(tmp_path: Path) -> None:
    """A picture of more than a thousand different rows is refused."""
    rows = "".join(f"  - c{at}: {{conv: {{channels: {4 + at % 2}, kernel: 3}}}}\n" for at in range(1001))
    with pytest.raises(UsageError) as refused:
        outline(written(tmp_path / "long.yaml", f"network:\n{rows}"))
    assert [each.code for each in refused.value.diagnostics] == ["E0810"]


def test_colours_by_amount() -> None:
    """The largest value has the last colour and the smallest the first, and each is also printed on its card."""
    shown = opened("resnet50", "rows")
    painting = by_amount(shown, COUNTS["parameters"])
    looks = {card.title: painting.looks(card) for card in cards(shown.rows)}
    assert (looks["layer4"].fill, looks["imagenet_stem"].fill) == ("#084594", "#eff3ff")
    assert looks["layer4"].line == "14.96 M parameters"
    assert painting.samples[-1][1] == "14.96 M parameters"


def test_colours_by_first_difference() -> None:
    """Cards before the first difference agree; those after it are not coloured."""
    shown = opened("resnet50", "rows")
    painting = by_fault(shown, "onnx", "layer2.1")
    assert [painting.looks(card).line for card in cards(shown.rows)] == [
        "agrees", "agrees", "first difference: layer2.1", "", "", "",
    ]  # fmt: skip
    assert {by_fault(shown, "onnx", None).looks(card).line for card in cards(shown.rows)} == {"agrees"}
