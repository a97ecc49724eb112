"""Picture formats: no external resources, no injection by hostile names, deterministic bytes, and legible text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest
from hostile import STRINGS

import rescompile
from rescompile import elaborate, load
from rescompile.drawing import FORMATS, Picture, picture
from rescompile.drawing.dot import dot
from rescompile.drawing.font import width, wrapped
from rescompile.drawing.graph import Graph, GraphNode, Group, graph
from rescompile.drawing.html import html
from rescompile.drawing.mermaid import mermaid
from rescompile.drawing.palette import DARK, LIGHT, SCALE
from rescompile.drawing.scene import Text
from rescompile.drawing.svg import SVG_NAMESPACE, svg
from rescompile.explain import explain
from rescompile.ir.network import Network, Node, Op, Series, Side
from rescompile.ir.traversal import rewrite

MARKUP = (
    "<script>alert(1)</script>", "</text><script>1</script>", "</svg><img src=x onerror=1>", '" onload="1', "]]>", "<!--", "-->", "&lt;",
    "&#60;", "javascript:1", '"] click n1 "javascript:1"', '"]\nn9["x', "%%{init: {}}%%", "end", "#lt;b#gt;", "`", "</style>", "*/",
    '"; x -> y; "', "\\", '\\"', '"]; evil [label="', "<b>", "\\N", "${x}", "{{x}}",
)  # fmt: skip
HOSTILE = [*MARKUP, *STRINGS]


@cache
def googlenet() -> Network:
    """Return the network that gets hostile names: it has merges, side outputs and blocks with arguments."""
    return elaborate(load("googlenet"))


@cache
def harmless() -> Picture:
    """Return the picture of the network with a harmless name."""
    return picture(called("peace"))


def called(name: str) -> Network:
    """Return the network with this name for everything: itself, its rows, blocks, steps, arguments and outputs."""

    def named(_: str, node: Node) -> Node:
        match node:
            case Op():
                return replace(node, name=name)
            case Series(call=call):
                given = None if call is None else replace(call, block=name, arguments={name: name}, defaults={})
                return replace(node, name=node.name and name, call=given)
            case Side():
                return replace(node, output_name=name)
        return replace(node, name=name)

    network = googlenet()
    return replace(network, name=name, root=rewrite(network.root, named), passes=(name,))


def tags(markup: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the start tags of a page, with the names of their attributes."""
    found: list[tuple[str, tuple[str, ...]]] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.append((tag, tuple(key for key, _ in attributes)))

    parser = Tags()
    parser.feed(markup)
    parser.close()
    return found


@cache
def harmless_tags() -> set[Any]:
    """Return the set of tags of the page with a harmless name."""
    return {*tags(html(harmless().scene))}


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_stay_text(name: str) -> None:
    """Hostile names add no elements or attributes to SVG and HTML."""
    scene = picture(called(name)).scene
    drawing, page = svg(scene), html(scene)
    ElementTree.fromstring(drawing)
    assert {*tags(page)} <= harmless_tags()
    assert page.count("<style>") == 2
    assert drawing.isascii()


def skeleton(text: str) -> str:
    """Return a graph with all its strings emptied."""
    return re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_stay_strings(name: str) -> None:
    """In Mermaid and DOT, hostile names change nothing outside strings."""
    bad, good = graph(picture(called(name)).outline), graph(harmless().outline)
    assert skeleton(dot(bad)) == skeleton(dot(good))
    titled = [re.sub(r"accTitle: .*", "", mermaid(each)) for each in (bad, good)]
    assert skeleton(titled[0]) == skeleton(titled[1])
    assert not set(mermaid(bad)) & set("<>`{}&") - set("<br>")
    labels = [line for node in nodes(bad.whole) for line in node.lines]
    assert any(name.strip() in label for label in labels) or not name.strip()


def nodes(group: Group) -> Iterator[GraphNode]:
    """Yield the nodes of a group and its subgroups."""
    for each in group.inside:
        yield from nodes(each) if isinstance(each, Group) else [each]


@pytest.mark.parametrize("name", ["resnet50", "googlenet", "highway_mnist_fc_10", "densenet121"])
@pytest.mark.parametrize("depth", ["rows", "blocks", "ops"])
def test_graphs_are_connected(name: str, depth: Any) -> None:
    """Every node is in one group and connected, only inputs and shapes have no predecessor, and skips are marked as thick edges."""
    made: Graph = graph(picture(elaborate(load(name)), depth).outline)
    ids = [node.id for node in nodes(made.whole)]
    assert len(set(ids)) == len(ids)
    reached = {edge.end for edge in made.edges}
    assert {edge.start for edge in made.edges} | reached == set(ids)
    starts = {node.lines[0] for node in nodes(made.whole) if node.id not in reached}
    assert all(line == "input" or line[0].isdigit() for line in starts)
    assert ("==>" in mermaid(made)) == (depth != "rows" and name != "googlenet")


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.slow_for(".png")
def test_the_same_spec_gives_the_same_bytes(ending: str) -> None:
    """Every format is deterministic, and each file names its generator where `draw` looks for it."""
    if ending in (".png", ".pdf"):
        pytest.importorskip("matplotlib", reason="pip install 'rescompile[plot]'")
    one, two = (FORMATS[ending](picture(elaborate(load("resnet18")))) for _ in range(2))
    assert one == two
    assert b"rescompile" in one[:4096] + one[-64:]
    assert one.startswith({".png": b"\x89PNG", ".pdf": b"%PDF"}.get(ending, b""))


def test_a_page_loads_no_external_resources() -> None:
    """A page contains no scripts or external resources, and its content security policy forbids both."""
    text = html(picture(elaborate(load("inception_v3"))).scene)
    assert "default-src 'none'" in text
    assert not re.search(r"<(script|link|img|image|iframe|use|foreignObject)|url\(|@import|href", text)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {SVG_NAMESPACE}


def test_screen_readers() -> None:
    """A picture is an image with a title and a description of its rows."""
    root = ElementTree.fromstring(svg(picture(elaborate(load("resnet50"))).scene))
    assert (root.get("role"), root.get("aria-label")) == ("img", "resnet50")
    first, second = list(root)[:2]
    assert (first.tag, first.text) == (f"{{{SVG_NAMESPACE}}}title", "resnet50")
    assert second.tag == f"{{{SVG_NAMESPACE}}}desc"
    assert "6 x layer3 (bottleneck: width 256, stride 2)" in (second.text or "")


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2.1."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2.1."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_is_legible() -> None:
    """Text has a contrast of at least 4.5 with its background, in light and dark mode and on every colour of the scale."""
    for paints in (LIGHT, {**LIGHT, **DARK}):
        for ink in ("ink", "muted"):
            for ground in ("page", "panel", "frame", "card", "chip", "end"):
                assert contrast(paints[ink].fill, paints[ground].fill) >= 4.5
        assert all(contrast(paints["badge-ink"].fill, paints[ground].fill) >= 4.5 for ground in ("badge", "mark"))
    for step, colour in enumerate(SCALE):
        assert contrast(LIGHT["light-ink" if step >= 4 else "dark-ink"].fill, colour) >= 4.5
    steps = [luminance(colour) for colour in SCALE]
    assert steps == sorted(steps, reverse=True)


def test_widths_are_those_of_the_font() -> None:
    """The table of character widths agrees with matplotlib's metrics of Helvetica."""
    afm = pytest.importorskip("matplotlib._afm")
    from matplotlib import get_data_path

    for bold, file in ((False, "Helvetica.afm"), (True, "Helvetica-Bold.afm")):
        with open(f"{get_data_path()}/fonts/pdfcorefonts/{file}", "rb") as stream:
            metrics = afm.AFM(stream)
        for code in (code for code in range(32, 127) if chr(code) not in "'`"):  # those are other characters there
            assert width(chr(code), 1000, bold) == pytest.approx(metrics._metrics[code].width)


@pytest.mark.parametrize(
    "text", ["", "a", "one two three", "x" * 70, "features.denseblock1.denselayer1", "a · b · c · d"]
)
@pytest.mark.parametrize("room", [20.0, 60.0, 200.0])
def test_wrapped_text_fits(text: str, room: float) -> None:
    """No line is wider than the room, and no text is lost."""
    lines = wrapped(text, 10, room)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(width(line, 10) <= room for line in lines)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("2×2 transposed conv, 512, stride 2", ["2×2 transposed conv,", "512, stride 2"]),
        ("as features.denseblock1.denselayer1", ["as features.denseblock1.", "denselayer1"]),
    ],
)
def test_words_are_cut_only_if_they_are_too_wide(text: str, lines: list[str]) -> None:
    """Words are not cut to balance lines, and a word that must be cut starts on the current line."""
    assert wrapped(text, 10, 130.0) == lines


def test_cards_name_what_an_op_computes() -> None:
    """Cards distinguish pools from reductions, and are titled by part for split channels."""
    texts = {shape.text for shape in picture(elaborate(load("cbam_resnet50"))).scene.shapes if isinstance(shape, Text)}
    assert {"global average pool", "global max pool", "mean over channels", "max over channels"} <= texts
    texts = {
        shape.text for shape in picture(elaborate(load("res2net50_26w_4s"))).scene.shapes if isinstance(shape, Text)
    }
    assert {"part 1 of 4", "part 4 of 4", "keeps or uses a value"} <= texts


def test_a_text_has_its_width_in_the_file() -> None:
    """Every text has its width in the SVG, so that it stays within its card if the font differs."""
    root = ElementTree.fromstring(svg(picture(elaborate(load("resnet50"))).scene))
    texts = list(root.iter(f"{{{SVG_NAMESPACE}}}text"))
    assert all(text.get("textLength") and text.get("lengthAdjust") == "spacingAndGlyphs" for text in texts)
    assert len(texts) == sum(isinstance(shape, Text) for shape in picture(elaborate(load("resnet50"))).scene.shapes)


def test_a_notebook_shows_the_picture_and_the_table() -> None:
    """A network is displayed as its picture and its table, with escaped names."""
    network = rescompile.elaborate(rescompile.load("resnet18"))
    shown = network._repr_html_()
    assert shown is not None
    assert shown.startswith("<svg")
    assert "11,689,512" in shown
    assert "<script>" not in str(called("<script>")._repr_html_())


def test_a_notebook_shows_what_commands_print() -> None:
    """An explanation is displayed as the text of `explain`, an artifact as a summary of its network and its facts."""
    network = rescompile.elaborate(rescompile.load("resnet18"))
    explained = explain(network, against=["resnet18"])._repr_html_()
    assert explained is not None
    assert "11,689,512\nparameters" in explained
    artifact = rescompile.build(network, "source")._repr_html_()
    assert artifact is not None
    root = ElementTree.fromstring(f"<div>{artifact}</div>")
    assert "resnet18: input [batch, 3, 224, 224]" in "".join(root.itertext())
    assert ["suffix", ".py"] in [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]
