"""The parts of the report page: its scripts, and the texts of its charts."""

from __future__ import annotations

import re
from importlib import resources
from xml.etree import ElementTree

import pytest

from rescompile import elaborate, load
from rescompile.drawing import font
from rescompile.report import charts
from rescompile.report.charts import Point, Span
from rescompile.report.facts import Subject, facts
from rescompile.report.page import network_page
from rescompile.report.results import Measurements


def test_every_script_is_on_the_page() -> None:
    """The page contains each script of the package once."""
    page = network_page(facts(Subject(elaborate(load("resnet18")), {}), Measurements()))
    scripts = [
        each.read_text("utf-8") for each in resources.files("rescompile.report").iterdir() if each.name.endswith(".js")
    ]
    assert len(scripts) > 1
    assert [page.count(script) for script in scripts] == [1] * len(scripts)


LONG = "torch-cpu:compile, bf16, batch 128"


@pytest.mark.parametrize(
    "chart",
    [
        charts.spans([Span(LONG, 2.0, 1.0, 3.0), Span("ort-cpu", 1.0, 0.9, 1.1)], "ms", "Latency", ""),
        charts.scatter([Point(LONG, 1.0, 1.0), Point(LONG, 1.01, 1.02), Point("c", 9.0, 2.0)], "x", "y", "Points", ""),
        charts.steps([0.1, 0.9], "length", "share", "Paths", ""),
    ],
    ids=["spans", "scatter", "steps"],
)
def test_texts_fit_their_chart(chart: str) -> None:
    """Each text has a fixed width, independent of the reader's font, and lies within its chart."""
    root = ElementTree.fromstring(chart)
    width = float(root.attrib["viewBox"].split()[2])
    texts = [each for each in root.iter("text") if "transform" not in each.attrib]
    assert texts
    for each in texts:
        assert each.text is not None
        length = float(each.attrib["textLength"])
        assert length == pytest.approx(font.width(each.text, charts.SIZE), abs=0.01)
        left = float(each.attrib["x"]) - length * {"start": 0, "middle": 0.5, "end": 1}[each.attrib["text-anchor"]]
        assert -0.01 <= left <= width - length + 0.01, each.text


def test_labels_do_not_overlap_their_points() -> None:
    """A label to the left of its point is anchored at its end, so that it does not reach the point in any font."""
    chart = charts.scatter([Point("a" * 20, 1.0, 1.0), Point("b" * 20, 1.0, 1.02)], "x", "y", "Points", "")
    placed = re.findall(r'x="([\d.]+)"[^>]*text-anchor="(\w+)"[^>]*>(a+|b+)<', chart)
    (point, *_) = re.findall(r'cx="([\d.]+)"', chart)
    assert {anchor for _, anchor, _ in placed} == {"start", "end"}
    for x, anchor, _ in placed:
        assert (float(x) - float(point)) * {"start": 1, "end": -1}[anchor] == pytest.approx(9, abs=0.1)
