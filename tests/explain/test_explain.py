"""Explanations of networks and their differences, compared with independent counts, elaborated specs, published receptive
fields and perturbed inputs."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import facts as rows
import numpy as np
import pytest
import yaml
from command_line import invoke
from generator import generate

import rescompile
from rescompile.analysis.alignment import NotAligned
from rescompile.analysis.cost import cost
from rescompile.analysis.receptive_field import of_input, view
from rescompile.diagnostics.errors import ShapeError, Source
from rescompile.explain import Explanation, explain, references, text_report, zoo_ops
from rescompile.explain.differences import Comparison, Counts, compare
from rescompile.explain.distances import Distances
from rescompile.explain.facts import FACTS
from rescompile.explain.merger import Merger
from rescompile.explain.overlay import overlay
from rescompile.explain.references import Reference
from rescompile.explain.report import describe, report
from rescompile.explain.stages import Steps, Structure, kinds, structure
from rescompile.explain.topics import TOPICS
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, Op, walk
from rescompile.ir.ops import GlobalAvgPool, Norm, Shape
from rescompile.lang import library, yaml_reader
from rescompile.lang.load import from_document
from rescompile.passes import apply
from rescompile.weights import draw


def network_of(name: str, *settings: str) -> Network:
    return rescompile.elaborate(rescompile.load(name, settings))


@cache
def body(name: str, *settings: str) -> Structure:
    return structure(network_of(name, *settings))


def written(tmp_path: Path, **keys: Any) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"rescompile": 1, "name": "mine", **keys}, sort_keys=False))
    return path


def generated(seed: int) -> Network:
    return rescompile.elaborate(from_document(yaml_reader.read(Source("x", generate(seed).text))))


def text_of(found: Explanation, width: int = 100) -> str:
    return "\n".join(text_report.lines(found, {}, width))


def flat(text: str) -> str:
    """Return a text without its line breaks."""
    return " ".join(text.split())


# --- the whole zoo ----------------------------------------------------------------------------------------------------


@cache
def explained(name: str) -> Explanation:
    """Return the explanation of a network of the zoo."""
    return explain(references.of_zoo(name).network)


@pytest.mark.slow
def test_every_network_is_explained() -> None:
    """Totals equal the facts table, and every network but one is compared with a reference."""
    for name in library.zoo():
        found = explained(name)
        text, data = text_of(found), json.loads(json.dumps(report(found, {})))
        figures = rows.figures(name)
        assert f"{figures['params']['computed']:,} parameters" in flat(text), name
        assert data["parameters"] == figures["params"]["computed"]
        assert found.against or name == "resnet_time_series", name  # the only network on a series
        for other in found.against:
            theirs = cost(other.reference.network)
            if not other.reference.zero_init:
                assert other.comparison.parameters == data["parameters"] - theirs.parameters
                assert other.comparison.macs == data["macs"] - theirs.macs


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet152", [3, 8, 36, 3]), ("darknet53", [1, 2, 8, 8, 4]), ("darknet_resnet50", [3, 4, 6, 3]),
        ("densenet161", [6, 12, 36, 24]), ("resnet1202_cifar", [200, 200, 200]), ("inception_v3", [3, 1, 4, 1, 2]),
        ("vgg16", [2, 2, 3, 3, 3]), ("alexnet", []),
    ],
)  # fmt: skip
def test_every_stage_is_counted(name: str, blocks: list[int]) -> None:
    """The stages of a network are its rows of repeated blocks, in every way of writing a spec."""
    assert [len(stage.units) for stage in body(name).stages] == blocks


def test_lines_fit_the_terminal() -> None:
    """Prose is wrapped to the width; only the table of stages and single words may be wider."""
    for name in ("resnet50", "densenet121", "googlenet"):
        for width in (60, 100):
            prose_lines = [line for line in text_of(explained(name), width).splitlines() if "  1" not in line]
            wide = [line for line in prose_lines if len(line) > width and not line.startswith("stage ")]
            assert not [
                line for line in wide if " " in line.strip() and "layer" not in line[:6] and "Mixed" not in line[:6]
            ]


@pytest.mark.slow
def test_the_index_of_ops_finds_the_same_networks_as_a_full_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The closest networks are those of a search that elaborates the zoo and counts ops with all their attributes."""
    sample = ["resnet50", "densenet121", "resnet110_cifar", "googlenet", "r3d_18", "unet", "darknet53"]
    bodies = {name: references.of_zoo(name).structure for name in library.zoo()}
    indexed = [references.closest(bodies[name], name) for name in sample]
    monkeypatch.setattr(zoo_ops, "_digest", repr)
    counted = {name: zoo_ops.Entry.of(each) for name, each in bodies.items()}
    monkeypatch.setattr(references, "entries", lambda: counted)
    assert indexed == [references.closest(bodies[name], name) for name in sample]


def test_the_closest_network_is_found_without_elaborating_the_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the candidates and the network of the same name are elaborated."""
    elaborated = set()
    monkeypatch.setattr(
        references, "of_zoo", lambda name: elaborated.add(name) or Reference(name, network_of(name), body(name))
    )
    found = references.closest(body("resnet50", "layer3.depth=8"))
    assert found is not None
    assert found.name == "resnet50"
    assert len(elaborated) <= references.CANDIDATES + 1


# --- the table of references ------------------------------------------------------------------------------------------

PAIRS = sorted({(of, to) for row in references.table() for of, to in row["networks"].items()})


@pytest.mark.slow
def test_the_table_names_networks_that_differ() -> None:
    """Both networks of every row exist and differ: a row whose networks became equal is out of date."""
    assert {name for pair in PAIRS for name in pair} <= set(library.zoo())
    for name in {of for of, _ in PAIRS}:
        assert not any(other.closest for other in explained(name).against)
        for other in explained(name).against:
            assert other.comparison.differences, (name, other.reference.name)
            assert other.reference.what


def test_every_fact_has_a_topic() -> None:
    assert set(FACTS) <= set(TOPICS)


def test_keras_reference() -> None:
    """The number of trainable parameters equals the one in the summary of keras.applications.ResNet50."""
    other = next(other for other in explain(network_of("resnet50")).against if "keras" in other.reference.what)
    assert cost(other.reference.network).parameters == 25_583_592
    assert topics(other.comparison) == ["stride", "eps", "momentum", "bias"]


def test_zero_init_equals_that_of_timm() -> None:
    """The reference starts the same norms at 0 as timm, and as torchvision with zero_init_residual."""
    pytest.importorskip("torch")
    import peers  # noqa: F401  # before torchvision: it declares the operators whose library may not load

    timm, torchvision = (
        pytest.importorskip(name, reason=f"the peer: pip install --no-deps {name}") for name in ("timm", "torchvision")
    )
    reference = next(other.reference for other in explain(network_of("resnet18")).against if other.reference.zero_init)
    ours = [kind.scale_init for kind in kinds(reference.structure.whole) if isinstance(kind, Norm)]
    for model in (timm.create_model("resnet18"), torchvision.models.resnet18(zero_init_residual=True)):
        scales = [
            module.weight[0].item() for module in model.modules() if type(module).__name__.startswith("BatchNorm")
        ]
        assert ours == scales


# --- alignment is exact -----------------------------------------------------------------------------------------------


def topics(found: Comparison) -> list[str]:
    assert found.differences is not None
    return [topic for difference in found.differences for topic in difference.topics]


def check_exact(reference: Structure, subject: Structure) -> None:
    """Check that no change gives the reference, all changes give the subject, every change has a topic, and each unit depends only
    on the topics that concern it."""
    distances = Distances()
    found = overlay(reference, subject, distances)

    def known(units: Iterable[Steps], size: Shape) -> tuple[list[tuple[int, ...]], Shape]:
        """Return a value that is equal for networks that differ only in names."""
        return [distances.keys(unit) for unit in units], size

    first, second = (known(each.units, each.input) for each in (reference, subject))
    assert known(*found.taken(())) == first
    assert known(*found.taken(TOPICS)) == second
    assert {edit.topic for edit in found.edits} == set(found.topics) <= set(TOPICS)
    assert bool(found.topics) == (first != second)
    for topic in found.topics:  # each has an effect
        assert known(*found.taken([topic])) != first
    some = frozenset(found.topics[::2])
    of_all = replace(found, mergers=lambda _: found.mergers(some))
    assert known(*found.taken(some)) == known(*of_all.taken(some))


def test_units_are_merged_only_for_topics_that_concern_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Comparing two very different networks merges fewer than 2,000 lists; merging all units for each set of topics took 34,000."""
    merged, merge = [0], Merger._lists

    def counting(*given: Any) -> Steps:
        merged[0] += 1
        return merge(*given)

    monkeypatch.setattr(Merger, "_lists", counting)
    compare(body("drn_c_58"), body("ghostnet_100"))
    assert 100 < merged[0] < 2000


@pytest.mark.parametrize(("subject", "reference"), PAIRS)
@pytest.mark.slow
def test_references_are_aligned_exactly(subject: str, reference: str) -> None:
    check_exact(body(reference), body(subject))
    check_exact(body(subject), body(reference))


@pytest.mark.slow
def test_neighbours_in_the_zoo_are_aligned_exactly() -> None:
    """Any two networks are aligned exactly, or reported as not aligned."""
    known = 0
    for one, other in list(pairwise(library.zoo()))[::2]:
        try:
            check_exact(body(one), body(other))
            known += 1
        except NotAligned:
            assert compare(body(one), body(other)).differences is None
    assert known > 60


@pytest.mark.parametrize("seed", range(60))
def test_random_networks(seed: int) -> None:
    """A random network has no differences to itself, and is aligned with another one exactly or not at all."""
    network, other = generated(seed), generated(seed + 1)
    one, two = structure(network), structure(other)
    assert compare(one, one) == Comparison((), 0, 0)
    total = cost(network)
    assert Counts(Distances()).total(one.units, one.input) == (total.parameters, total.macs)
    try:
        check_exact(two, one)
    except NotAligned:
        pass
    except ShapeError:
        pytest.fail("an alignment must not depend on shapes")
    found = Explanation(network, one, ())
    assert text_of(found)
    assert json.dumps(report(found, {}))


# --- single differences -----------------------------------------------------------------------------------------------

#: The subject, the reference, their only topic, and part of its description.
SINGLE = [
    ("resnet50", "resnet50_v1", "stride", "in the 3x3 convolution (v1.5), not in the first 1x1 convolution (v1)"),
    ("resnet152_v1", "resnet152", "stride", "in the first 1x1 convolution (v1), not in the 3x3 convolution (v1.5)"),
    ("resnet50_C", "resnet50_B", "stem", "3x3 convolution (32 channels, stride 2)"),
    ("resnet50_D", "resnet50_C", "shortcut", "average pool, 1x1 convolution, batch norm in 3 of 16"),
    ("resnet18_A", "resnet18", "shortcut", "(option A)"),
    ("resnet34", "resnet34_A", "shortcut", "1x1 convolution, batch norm in 3 of 16 (option B)"),
    ("resnet34_C", "resnet34", "shortcut", "1x1 convolution, batch norm in 16 of 16 (option C)"),
    ("plain34", "resnet34", "shortcut", "the shortcuts are: none"),
    ("resnet101", "resnet50", "depth", "3, 4, 23, 3 blocks, not 3, 4, 6, 3"),
    ("wide_resnet50_2", "resnet50", "width", "128-128-256"),
    ("resnet50_bn_after_add", "resnet50", "order", "[conv norm act conv norm act conv] + norm act"),
    ("torchblog_no_relu", "torchblog_reference", "order", "[conv norm act conv norm] +; not"),
    ("he2016_activation_relu_before_add", "he2016_activation_original", "order", "[conv norm act conv norm act] +; not"),
    ("he2016_shortcut_dropout_0_5", "he2016_shortcut_original", "dropout", "0.5 in 54 places"),
    ("he2016_shortcut_exclusive_gate_b6", "he2016_shortcut_original", "gate", "the number of gated shortcuts is 54"),
    ("wrn_28_10_dropout", "wrn_28_10", "dropout", "0.3 in 12 places"),
    ("wrn_40_2_B131", "wrn_40_2", "block", "1x1-3x3-1x1, not 3x3-3x3"),
    ("wrn_40_2_B31", "wrn_40_2", "kernel", "3x3-1x1, not 3x3-3x3"),
    ("stochastic_depth_152_imagenet", "resnet152", "survival", "0.99 (first) to 0.5 (last), drawn per batch"),
    ("vgg16_bn", "vgg16", "order", "is conv norm act; not conv act"),
    ("preact_resnet110_cifar", "he2016_activation_full_preact", "order", "norm act [conv norm act conv] + (3 times)"),
    ("densenet_bc_190_k40_cifar", "densenet_bc_190_k40_cifar", None, ""),
    ("resnet50_B", "resnet50", None, ""),
]  # fmt: skip


@pytest.mark.parametrize(("subject", "reference", "topic", "words"), SINGLE)
def test_single_difference(subject: str, reference: str, topic: str | None, words: str) -> None:
    """The cost of the only difference equals the difference of two independently counted rows."""
    found = compare(body(reference), body(subject))
    assert topics(found) == ([] if topic is None else [topic])
    if topic is None:
        return
    assert found.differences is not None
    (difference,) = found.differences
    new, old = rows.figures(subject), rows.figures(reference)
    assert difference.parameters == new["params"]["computed"] - old["params"]["computed"]
    assert difference.macs == new["macs"]["computed"] - old["macs"]["computed"]
    assert found.beyond == (0, 0)
    assert words in flat(describe(difference, body(subject), body(reference)))


def test_differences_of_several_steps_are_separated() -> None:
    """For B, C and D of He et al. 2018, the cost of each step alone equals the difference of its rows."""
    found = compare(body("resnet50_v1"), body("resnet50_D"))
    assert found.differences is not None
    figures = {name: rows.figures(name) for name in ("resnet50_v1", "resnet50_B", "resnet50_C", "resnet50_D")}

    def more(new: str, old: str) -> tuple[int, int]:
        return tuple(figures[new][key]["computed"] - figures[old][key]["computed"] for key in ("params", "macs"))  # type: ignore[return-value]

    assert {d.topics: (d.parameters, d.macs) for d in found.differences} == {
        ("stride",): more("resnet50_B", "resnet50_v1"),
        ("stem",): more("resnet50_C", "resnet50_B"),
        ("shortcut",): more("resnet50_D", "resnet50_C"),
    }
    assert found.beyond == (0, 0)


# --- mutants: the comparison finds each setting and its cost -------------------------------------------------------------

SETTINGS = {
    "input": "input=[3, 192, 160]",
    "stem": "imagenet_stem=deep_stem",
    "depth": "layer3.depth=8",
    "width": "defaults.bottleneck.base_width=96",
    "stride": "defaults.bottleneck.stride_at=1",
    "downsampling": "layer4.stride=1",
    "dilation": "layer1.dilation=2",
    "shortcut": "defaults.bottleneck.shortcut=projection_always",
    "order": "defaults.bottleneck.last_norm=sum",
    "classes": "parameters.classes=37",
    "eps": "defaults.norm.eps=1e-3",
    "momentum": "defaults.norm.momentum=0.01",
    "activation": "defaults.act.kind=leaky_relu",
    "bias": "defaults.conv.bias=true",
    "scale-init": "defaults.norm.scale_init=0.5",
    "init": "init=he_normal_fan_in",
    "survival": "survival={schedule: linear, last: 0.5, unit: batch, rescale: test}",
}


def more(*settings: str) -> tuple[int, int]:
    new, old = cost(network_of("resnet50", *settings)), cost(network_of("resnet50"))
    return new.parameters - old.parameters, new.macs - old.macs


@pytest.mark.parametrize("topic", SETTINGS)
def test_each_setting_gives_its_topic(topic: str) -> None:
    """A setting gives only its topic and its cost, and changes the fact of that topic."""
    found = compare(body("resnet50"), body("resnet50", SETTINGS[topic]))
    assert topics(found) == [topic]
    assert found.differences is not None
    assert (found.differences[0].parameters, found.differences[0].macs) == more(SETTINGS[topic])
    new, old = FACTS[topic].read(body("resnet50", SETTINGS[topic])), FACTS[topic].read(body("resnet50"))
    assert new != old


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.slow
def test_costs_of_several_settings_are_separated(seed: int) -> None:
    """Each cost alone equals that of the elaborated spec with this setting alone, and the sum with the interaction is exact."""
    chosen = random.Random(seed).sample(sorted(SETTINGS), 4)
    if {"order", "shortcut"} <= set(chosen) or {"downsampling", "shortcut"} <= set(chosen):
        chosen.remove("shortcut")
    found = compare(body("resnet50"), body("resnet50", *(SETTINGS[topic] for topic in chosen)))
    assert set(topics(found)) == set(chosen)
    assert found.differences is not None
    assert found.beyond is not None
    for difference in found.differences:
        assert (difference.parameters, difference.macs) == more(*(SETTINGS[topic] for topic in difference.topics))
    sums = [sum(getattr(d, key) for d in found.differences) for key in ("parameters", "macs")]
    assert (sums[0] + found.beyond[0], sums[1] + found.beyond[1]) == (found.parameters, found.macs)
    assert (found.parameters, found.macs) == more(*(SETTINGS[topic] for topic in chosen))


def test_dependent_differences_are_counted_together() -> None:
    """Wider blocks of ResNet-18 need projections instead of identity shortcuts, so the two are counted together."""
    found = compare(body("resnet18"), body("wrn18_2_imagenet"))
    assert found.differences is not None
    assert [d.topics for d in found.differences] == [("width", "shortcut")]
    new, old = rows.figures("wrn18_2_imagenet"), rows.figures("resnet18")
    assert found.differences[0].parameters == new["params"]["computed"] - old["params"]["computed"]


def test_a_change_of_any_attribute_is_found(tmp_path: Path) -> None:
    """A change of any single attribute is found."""
    rows: list[Any] = [
        {"a": {"conv": {"channels": 8, "kernel": 3, "stride": 2, "groups": 2}}},
        "norm",
        {"act": "relu"},
        {"maxpool": {"kernel": 3, "stride": 1, "padding": 1}},
        {"dropout": 0.25},
        {"scale": 2.0},
        {"pad_channels": 12},
        "global_avgpool",
        "flatten",
        {"b": {"linear": 5}},
    ]
    keys = {"input": [4, 16, 16]}
    base = network_of(str(written(tmp_path, **keys, network=rows)))
    changes: list[tuple[int, Any]] = [
        (0, {"a": {"conv": {"channels": 8, "kernel": 5, "stride": 2, "groups": 2}}}),
        (0, {"a": {"conv": {"channels": 8, "kernel": 3, "stride": 1, "groups": 2}}}),
        (0, {"a": {"conv": {"channels": 8, "kernel": 3, "stride": 2, "groups": 1}}}),
        (0, {"a": {"conv": {"channels": 8, "kernel": 3, "stride": 2, "groups": 2, "dilation": 2}}}),
        (0, {"a": {"conv": {"channels": 8, "kernel": 3, "stride": 2, "groups": 2, "bias": True}}}),
        (1, {"norm": {"eps": 0.001}}),
        (2, {"act": {"kind": "leaky_relu", "slope": 0.3}}),
        (3, {"avgpool": {"kernel": 3, "stride": 1, "padding": 1}}),
        (4, {"dropout": 0.5}),
        (5, {"scale": 3.0}),
        (6, {"pad_channels": 13}),
        (7, {"adaptive_avgpool": 2}),
        (9, {"b": {"linear": {"features": 5, "bias": False}}}),
        (9, {"b": {"linear": 6}}),
    ]
    for at, row in changes:
        other = network_of(str(written(tmp_path, **keys, network=[*rows[:at], row, *rows[at + 1 :]])))
        found = compare(*(structure(each) for each in (base, other)))
        assert len(topics(found)) == 1, row
        assert found.parameters == cost(other).parameters - cost(base).parameters
        assert found.beyond == (0, 0)


@pytest.mark.parametrize("name", ["cbam_resnet50", "fractalnet20_cifar", "hrnet_w18_small", "pnasnet5large"])
def test_the_cost_of_units_is_that_of_the_network(name: str) -> None:
    """Costs of units add up to that of the network, also with shared steps and with kept values in nested blocks."""
    network = network_of(name)
    whole = cost(network)
    assert Counts(Distances()).total(structure(network).units, network.input) == (whole.parameters, whole.macs)


@pytest.mark.parametrize("names", [("r3d_18", "resnet18"), ("resnet18", "r3d_18")])
def test_maps_with_other_axes_are_not_aligned(names: tuple[str, str]) -> None:
    """Networks with different numbers of axes are not aligned, but their costs are compared."""
    one, other = (network_of(name) for name in names)
    found = compare(structure(one), structure(other))
    assert found == Comparison(None, *(getattr(cost(other), f) - getattr(cost(one), f) for f in ("parameters", "macs")))


def test_rows_with_other_axes_are_not_aligned(tmp_path: Path) -> None:
    """Maps with different axes are not aligned even if the inputs are equal vectors."""
    one, other = (
        network_of(str(written(tmp_path, input=[16], network=[
            {"rows": {"unflatten": {"to": "rows", "rank": rank}}}, {"pool": {"maxpool": {"kernel": 3, "stride": 2, "padding": 1}}},
            {"conv1": {"conv": {"channels": 4, "kernel": 3}}}, {"fc": {"conv": {"channels": 4, "kernel": 1}}},
        ]))) for rank in (1, 2)
    )  # fmt: skip
    assert compare(structure(one), structure(other)).differences is None


@pytest.mark.parametrize("shape", [[3], [3, 8, 8]])
def test_a_network_of_identities_is_explained(shape: list[int], tmp_path: Path) -> None:
    """All commands work for a network that consists of identities."""
    path = written(tmp_path, input=shape, network=["identity"])
    for command in (["explain"], ["report"], ["draw"]):
        out = (
            []
            if command == ["explain"]
            else ["-o", str(tmp_path / f"{command[0]}.{'html' if command == ['report'] else 'svg'}")]
        )
        done = invoke(*command, str(path), *out)
        assert done.exit_code == 0, done.output
    assert invoke("explain", str(path), "--against", "resnet18").exit_code == 0


# --- a user's own spec ------------------------------------------------------------------------------------------------


def test_a_variant_is_compared_with_the_closest_network(tmp_path: Path) -> None:
    """The closest network is found by structure, not by names."""
    path = written(tmp_path, extends="resnet50", set={"layer3.depth": 7}, defaults={"bottleneck": {"stride_at": 1}})
    (other,) = explain(network_of(str(path))).against
    assert other.closest
    assert other.reference.name == "resnet50_v1"
    assert topics(other.comparison) == ["depth"]
    alone = written(
        tmp_path, input=[3, 32, 32], block="basic", defaults={"basic": {"shortcut": "pad"}},
        network=["cifar_stem", *({f"s{n}": {"depth": 9, "width": 16 * 2**n, "stride": min(n, 1) + 1}} for n in range(3)),
                 {"block": "classifier", "classes": 10}],
    )  # fmt: skip
    found = explain(network_of(str(alone)))
    assert found.against[0].reference.name == "resnet56_cifar"
    assert topics(found.against[0].comparison) == ["init"]  # the zoo's linear layer is drawn as torch does


@pytest.mark.slow
def test_an_identical_network_is_recognised(tmp_path: Path) -> None:
    text = text_of(explain(network_of(str(written(tmp_path, extends="densenet121")))))
    assert "Identical to densenet121 of the zoo." in text


@pytest.mark.parametrize(
    ("size", "rows"),
    [
        ([5], [{"a": {"linear": 3}}]),
        ([5], ["act"]),
        ([4, 8, 8], [row for n in range(900) for row in ({f"c{n}": {"conv": {"channels": 4, "kernel": 3}}}, "act")]),
    ],
    ids=["a vector", "nothing with weights", "1800 steps in one list"],
)
@pytest.mark.slow
def test_networks_without_a_similar_one(size: list[int], rows: list[Any], tmp_path: Path) -> None:
    """A network that resembles no other is reported as such, in a text of reasonable length."""
    network = network_of(str(written(tmp_path, input=size, network=rows)))
    text = text_of(explain(network))
    assert "too little in common" in text
    assert len(text) < 3000
    assert f"{cost(network).parameters:,} parameters" in flat(text)


def test_zero_init_of_a_spec_is_reported(tmp_path: Path) -> None:
    """A block whose last norm starts at 0 is described as zero-init, not by a number."""
    block = yaml.safe_load(library.blocks()["basic"].read_text())
    norm = next(step["bn2"] for step in block["body"][0]["residual"]["branch"] if "bn2" in step)
    norm["norm"]["scale_init"] = 0.0
    path = written(tmp_path, extends="resnet18", blocks={"basic": block})
    (other,) = explain(network_of(str(path))).against
    assert topics(other.comparison) == ["scale-init"]
    (difference,) = other.comparison.differences or ()
    assert "at 0 in the last norm of every residual branch (zero-init), not at 1" in describe(
        difference, structure(network_of(str(path))), other.reference.structure
    )


# --- receptive fields -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"), [("alexnet", 195), ("vgg16", 212), ("mobilenet_v1", 315), ("inception_v3", 1311)]
)
def test_published_receptive_fields(name: str, size: int) -> None:
    """Araujo et al. 2019, Computing Receptive Fields of Convolutional Neural Networks, table 1: the last map."""
    assert report(explained(name), {})["last_map"]["receptive_field"] == [size, size]


FIELDS: dict[str, list[Any]] = {
    "windows": [
        {"c1": {"conv": {"channels": 2, "kernel": 5, "stride": 2}}},
        {"c2": {"conv": {"channels": 2, "kernel": [3, 1], "dilation": 3, "padding": [1, 0]}}},
        {"maxpool": {"kernel": 3, "stride": 2, "padding": 1}},
        {"c3": {"conv": {"channels": 2, "kernel": 3}}},
    ],
    "branches": [
        {"c4": {"conv": {"channels": 2, "kernel": 3}}},
        {"parallel": {"merge": "concat", "branches": [
            [{"c5": {"conv": {"channels": 2, "kernel": 7, "stride": 2}}}],
            [{"avgpool": {"kernel": 2}}, {"c6": {"conv": {"channels": 1, "kernel": 3}}}],
            [{"subsample": 2}],
        ]}},
        {"c7": {"conv": {"channels": 2, "kernel": 4, "stride": 1, "padding": 0}}},
    ],
    "blocks": [
        {"block": "cifar_stem", "width": 2},
        {"one": {"block": "basic", "depth": 2, "width": 3}},
        {"two": {"block": "basic", "depth": 2, "width": 4, "stride": 2, "shortcut": "avgpool_projection"}},
    ],
    "gaps": [{"c8": {"conv": {"channels": 2, "kernel": 1, "stride": 3}}}, {"c9": {"conv": {"channels": 2, "kernel": 3, "dilation": 2}}}],
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_the_receptive_field_equals_that_by_perturbation(name: str, tmp_path: Path) -> None:
    """The first and last input positions whose perturbation changes an output in the middle are those of the closed form; all weights
    are positive, so that no effects cancel."""
    length = 96
    network = network_of(str(written(tmp_path, input=[1, length, 8], network=FIELDS[name])))
    weights = {key: np.abs(value) for key, value in draw(network).items()}
    lit = np.zeros((length, 1, length, 8))
    lit[range(length), 0, range(length), :] = 1.0
    dark = interpret(network, weights, np.zeros((1, 1, length, 8)))["logits"]
    out = interpret(network, weights, lit)["logits"]
    seen = view(network.root, of_input(network.input))
    assert seen is not None
    middle = out.shape[2] // 2
    reacts = np.flatnonzero(np.abs(out[:, :, middle] - dark[:, :, middle]).max(axis=(1, 2)) > 1e-9)
    assert (reacts[0], reacts[-1]) == (seen[0].jump * middle + seen[0].first, seen[0].jump * middle + seen[0].last)
    assert 0 < reacts[0] < reacts[-1] < length - 1


def test_a_global_pool_has_no_receptive_field() -> None:
    """The receptive field after a global pool is not finite."""
    network = network_of("resnet18")
    assert view(network.root, of_input(network.input)) is None
    assert any(isinstance(node, Op) and isinstance(node.kind, GlobalAvgPool) for _, node in walk(network.root))


# --- the command ------------------------------------------------------------------------------------------------------


def test_command() -> None:
    """`explain` prints the structure of a network and its differences from another, with costs."""
    done = invoke("explain", "resnet50", "--against", "resnet50_v1")
    assert done.exit_code == 0
    output = flat(done.stdout)
    assert "the stride of a block is in the 3x3 convolution (v1.5), not in the first 1x1 convolution (v1)" in output
    assert "(in layer2, layer3, layer4: first block) +0 parameters, +231,211,008 MACs" in output
    assert "4 stages of 3, 4, 6 and 3 blocks of 1x1-3x3-1x1, post-activation" in output
    assert "50 layers with weights on the longest path" in output
    assert "65,536 = 2^16 paths" in output
    assert "is 427x427, which covers the whole input" in output


def test_json() -> None:
    """`explain --json` contains the differences, stages, paths and facts."""
    data = json.loads(invoke("explain", "resnet50", "--against", "resnet50_v1", "--json").stdout)
    (other,) = data["against"]
    (difference,) = other["differences"]
    assert difference == {
        "topics": ["stride"], "where": "layer2, layer3, layer4: first block", "parameters": 0, "macs": 231211008, "edits": 6,
        "words": difference["words"],
    }  # fmt: skip
    assert [stage["blocks"] for stage in data["stages"]] == [3, 4, 6, 3]
    assert [stage["output_stride"] for stage in data["stages"]] == [[n, n] for n in (4, 8, 16, 32)]
    assert data["paths"] == "65536"
    assert set(data["facts"]) == set(FACTS)


def test_passes_and_settings_change_the_subject() -> None:
    """`explain` takes settings and passes like other commands, and compares with the unchanged network."""
    assert "Closest zoo network: resnext50_32x4d." in flat(
        invoke("explain", "resnext50_32x4d", "--fold-batchnorm").stdout
    )
    output = flat(invoke("explain", "resnet50", "--drop", "layer3.5").stdout)
    assert "passes: drop=layer3.5" in output
    assert "Closest zoo network: resnet50." in output
    assert "Identical to resnet101 of the zoo." in flat(
        invoke("explain", "resnet50", "--set", "layer3.depth=23").stdout
    )


def test_networks_that_cannot_be_aligned_are_reported() -> None:
    """For networks that cannot be aligned, only the difference of their totals is reported."""
    output = flat(invoke("explain", "resnet50", "--against", "densenet121").stdout)
    assert "too little in common for a comparison part by part" in output
    assert "total: +17,578,176 parameters, +1,255,022,592 MACs" in output
    data = json.loads(invoke("explain", "resnet50", "--against", "densenet121", "--json").stdout)
    assert data["against"][0]["aligned"] is False
    assert data["against"][0]["differences"] == []


def test_an_unknown_network_is_refused() -> None:
    """An unknown reference is a usage error with a suggestion."""
    done = invoke("explain", "resnet50", "--against", "resnet5")
    assert done.exit_code == 2
    assert "E0801" in done.stderr
    assert "did you mean" in done.stderr


def test_parts_of_the_channels(tmp_path: Path) -> None:
    """Branches on parts of the channels differ from branches on all of them, and are counted exactly."""
    conv = {"conv": {"channels": 4, "kernel": 3}}
    made = {}
    for split in (True, False):
        rows = [{"parallel": {"merge": "add", "split": split, "copies": 2, "branch": conv}}]
        named = [{"paths": row} for row in rows]
        made[split] = rescompile.elaborate(rescompile.load(written(tmp_path, input=[4, 8, 8], network=named)))
    bodies = {split: structure(network) for split, network in made.items()}
    distances = Distances()
    assert distances.keys(bodies[True].whole) != distances.keys(bodies[False].whole)
    for split, network in made.items():
        total = cost(network)
        assert Counts(distances).total(bodies[split].units, network.input) == (total.parameters, total.macs)
    assert cost(made[True]).parameters * 2 == cost(made[False]).parameters
    output = invoke("explain", written(tmp_path, input=[4, 8, 8], network=named)).stdout
    assert "branches, merged by add" in " ".join(output.split())
    named[0]["paths"]["parallel"]["split"] = True  # type: ignore[index]
    output = invoke("explain", written(tmp_path, input=[4, 8, 8], network=named)).stdout
    assert "branches on parts of the channels, merged by add" in " ".join(output.split())


def test_no_receptive_field_is_reported_after_an_upsampling(tmp_path: Path) -> None:
    """After an upsampling the receptive field depends on the position, so neither it nor an earlier one is reported."""
    steps: list[Any] = [{"conv": {"channels": 4, "kernel": 3, "stride": 2}}]
    for more, reported in (([], True), ([{"upsample": 2}], False)):
        path = written(
            tmp_path, input=[3, 16, 16], network=[*steps, *more, "global_avgpool", "flatten", {"linear": 10}]
        )
        text = flat(text_of(explain(network_of(str(path)))))
        assert ("The receptive field of the last feature map" in text) == reported


def test_the_input_is_not_reported_as_a_feature_map() -> None:
    """A fully connected network has no feature map, so no receptive field is reported."""
    assert "last feature map" not in flat(text_of(explain(network_of("highway_mnist_fc_10"))))


def test_a_swap_does_not_change_the_stages() -> None:
    """A stage keeps its blocks if its first one is swapped with another."""
    network = rescompile.elaborate(rescompile.load("resnet20_cifar"))
    for swap in ("layer1.0,layer1.1", "layer1.0,layer1.2", "layer2.1,layer2.2"):
        swapped, _ = apply(network, None, {"swap": swap})
        assert [(part.name, len(part.units)) for part in structure(swapped).segments if part.is_stage] == [
            ("layer1", 3), ("layer2", 3), ("layer3", 3),
        ]  # fmt: skip


def test_features_do_not_change_the_stages(tmp_path: Path) -> None:
    """`features` only add outputs: they neither split a stage nor count as a difference."""
    path = tmp_path / "backbone.yaml"
    path.write_text("rescompile: 1\nname: backbone\nextends: resnet20_cifar\nfeatures: [layer1, layer2.0]\n")
    found, plain = explain(network_of(str(path))), explain(network_of("resnet20_cifar"))
    assert found.structure.segments == plain.structure.segments
    text = flat(text_of(found))
    assert "Additional outputs: layer1 (16x32x32), layer2.0 (32x16x16)." in text
    assert "auxiliary" not in text
    assert "Additional outputs" not in flat(text_of(plain))
