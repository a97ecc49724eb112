"""The report of actual results of `bench` and `verify`."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rescompile.cli import app

pytestmark = pytest.mark.slow
NAMES = ("resnet20_cifar", "plain20_cifar")
#: A page rounds its figures to three digits.
DIGITS = 0.01


def run(*arguments: str) -> str:
    """Return the output of a command."""
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def table(page: str, section_id: str) -> list[dict[str, str]]:
    """Return the rows of the first table in a section, as mappings by column title."""
    found = re.search(rf'<section id="{section_id}".*?</section>', page, re.DOTALL)
    assert found is not None
    rows: list[list[str]] = []

    class Cells(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            if tag == "tr":
                rows.append([])
            elif tag in ("th", "td"):
                rows[-1].append("")

        def handle_data(self, data: str) -> None:
            if rows and rows[-1]:
                rows[-1][-1] = f"{rows[-1][-1]} {data.strip()}".strip()

    Cells().feed(found[0].partition("</table>")[0])
    head, *body = rows
    return [dict(zip(head, row, strict=True)) for row in body]


def time(row: dict[str, str]) -> list[float]:
    """Return the figures in the column of times: a time, or a median with its interval."""
    cell = next(cell for head, cell in row.items() if head.startswith("ms, ort-cpu"))
    return [float(each) for each in re.findall(r"[\d.]+", cell)]


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Measure two networks in an empty folder, and return the rows of the result file by network."""
    pytest.importorskip("onnxruntime", reason="pip install 'rescompile[run]'")
    pytest.importorskip("scipy", reason="pip install 'rescompile[bench]'")
    monkeypatch.chdir(tmp_path)
    options = ("--runtime", "ort-cpu", "--profile", "--rounds", "5", "--slot-ms", "0", "-o", "bench.json")
    run("bench", *NAMES, *options)
    Path("verify.json").write_text(run("verify", NAMES[0], "--targets", "onnx,source", "--json"))
    return {row["model"]: row for row in json.loads(Path("bench.json").read_text())["rows"]}


def test_results_of_a_network(measured: dict[str, Any]) -> None:
    """The page shows the latency with its interval, the fraction of the roofline, the time of each row, and the verdicts."""
    page = run("report", NAMES[0], "bench.json", "verify.json", "-o", "-")
    row = measured[NAMES[0]]
    median = row["summary"]["median"]
    (latency,) = table(page, "latency")
    interval = [float(each) / 1e3 for each in latency["95% interval"].split("–")]
    assert interval == pytest.approx([median["low"], median["high"]], rel=DIGITS)
    assert float(latency["P50 ms"]) / 1e3 == pytest.approx(row["summary"]["p50"], rel=DIGITS)
    assert latency["of roofline"] == f"{row['roofline']['fraction']:.1%}"
    assert [(each["target or runtime"], each["verdict"]) for each in table(page, "verified")] == [
        ("onnx", "passed"), ("source", "passed")
    ]  # fmt: skip
    seconds = {part["part"]: [1e3 * part["seconds"]] for part in row["profile"] if part["part"] != "(other)"}
    shown = {each["row"]: time(each) for each in table(page, "rows") if each["row"] in seconds}
    assert shown.keys() == seconds.keys()
    for name, milliseconds in shown.items():
        assert milliseconds == pytest.approx(seconds[name], rel=DIGITS), name


def test_results_of_several_networks(measured: dict[str, Any]) -> None:
    """The comparison shows the latency of each network in its tables and a scatter plot."""
    page = run("report", *NAMES, "bench.json", "verify.json", "-o", "-")
    assert [each["network"] for each in table(page, "latency")] == list(NAMES)
    assert page.count("Latency and multiply-adds: ort-cpu, fp32, batch 1") == 1
    for name, row in zip(NAMES, table(page, "overview"), strict=True):
        summary = measured[name]["summary"]
        assert row["network"].startswith(name)
        figures = [1e3 * summary["p50"], 1e3 * summary["median"]["low"], 1e3 * summary["median"]["high"]]
        assert time(row) == pytest.approx(figures, rel=DIGITS)
