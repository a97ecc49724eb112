"""The report page: its contents and size, escaping of hostile names, and refusal of unsuitable result files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rescompile import elaborate, load
from rescompile.analysis.conventions import counts
from rescompile.analysis.cost import cost
from rescompile.analysis.memory import memory
from rescompile.bench import json_files
from rescompile.bench.profiling import owners, shares
from rescompile.bench.results import BenchRow, Result, Roofline
from rescompile.bench.statistics import Interval, Summary
from rescompile.cli import app
from rescompile.drawing.svg import escaped
from rescompile.ir.network import Network, Op, walk
from rescompile.report import highlighting, layers
from rescompile.report.comparison import overview
from rescompile.report.facts import Report, Subject, canonical, facts
from rescompile.report.page import comparison_page, network_page
from rescompile.report.picture import markup, picture
from rescompile.report.results import Measurements

RUNNER = CliRunner()
#: The maximum size of a page in bytes.
LARGEST = 1 << 20
HOSTILE = (
    "</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "<!--", "]]>", "</svg><svg onload=alert(1)>", "{{ 7 * 7 }}", "{% raw %}",
    "${7*7}", "</style><style>*{display:none}", "'", "&lt;b&gt;", "\u202e\u2028\x00", "javascript:alert(1)", "\\u003c/script\\u003e",
)  # fmt: skip


def run(*arguments: str) -> Any:
    """Run the command in the folder of the test."""
    return RUNNER.invoke(app, ["report", *arguments])


def refused(code: str, status: int, *arguments: str) -> str:
    """Return the message of a command that must fail with this code and write no file."""
    before = {*Path().iterdir()}
    done = run(*arguments)
    assert (done.exit_code, f"[{code}]" in done.stderr) == (status, True), done.stderr
    assert {*Path().iterdir()} == before
    return str(done.stderr)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def subject(name: str) -> Subject:
    """Return a network of the zoo with the description and reference of its spec."""
    spec = load(name)
    return Subject(elaborate(spec), {"description": spec.description, "reference": spec.reference})


@cache
def reported(name: str) -> Report:
    """Return the report of a network of the zoo."""
    return facts(subject(name), Measurements())


def bench(network: str, **changes: Any) -> str:
    """Write a bench result whose profile has 1, 2, 3, ... ms for the rows of the network, and return its path."""
    subject = elaborate(load(network))
    part_of, macs = owners(subject)
    named = [next(name for name, part in part_of.items() if part == each and name != "logits") for each in macs]
    median = Interval(0.0123, 0.0119, 0.0131)
    fields = {
        "group": network, "model": network, "runtime": "ort-cpu", "precision": "fp32", "batch": 1, "sha256": subject.sha256, "artifact": None,
        "passes": [], "parameters": 1, "macs": 1, "build": 1.0, "first": 1.0, "warm_up": 1, "settled": True, "samples": [[0.0123]] * 5,
        "summary": Summary(5, median, 0.0123, 0.013, 0.0135, 0.014, 0.0119, *[1 / 0.0123] * (len(Summary.__slots__) - 7)),
        "error": 1e-7, "bound": 1e-6, "facts": {}, "before": {}, "after": {}, "roofline": Roofline(0.006, 0.488, 2e10, 1e11),
        "profile": shares(subject, [(name, 1e-3 * number) for number, name in enumerate(named, 1)]),
    }  # fmt: skip
    machine = {"processor": {"name": "A CPU of the test"}, "gpus": []}
    json_files.write(
        Result(1, "0", "2026-01-01", ["bench"], machine, {}, [BenchRow(**{**fields, **changes})]),
        Path(f"{network}.json"),
        True,
    )
    return f"{network}.json"


def verified(network: str, **changes: Any) -> str:
    """Write the output of `verify --json` to a file and return its path."""
    row = {
        "target": "onnx",
        "runtime": None,
        "precision": "fp32",
        "error": 1.5e-7,
        "bound": 1e-6,
        "passed": True,
        "first": None,
    }
    data = {"name": network, "sha256": elaborate(load(network)).sha256, "passed": True, "targets": [row], **changes}
    Path("verify.json").write_text(json.dumps(data))
    return "verify.json"


def tags(page: str) -> set[tuple[str, tuple[str, ...]]]:
    """Return the start tags of a page, with the names of their attributes."""
    found: set[tuple[str, tuple[str, ...]]] = set()

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.add((tag, tuple(key for key, _ in attributes)))

    parser = Tags()
    parser.feed(page)
    parser.close()
    return found


def embedded(page: str) -> Any:
    """Return the JSON data that a page contains for its script."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_command() -> None:
    """`report` writes a deterministic page, overwrites its own file, and refuses to overwrite another."""
    assert run("resnet18").exit_code == 0
    first = Path("resnet18.html").read_bytes()
    assert run("resnet18").exit_code == 0
    assert Path("resnet18.html").read_bytes() == first
    assert run("resnet18", "-o", "-").stdout_bytes == first
    Path("other.html").write_text("mine")
    refused("E1001", 5, "resnet18", "-o", "other.html")
    assert Path("other.html").read_text() == "mine"
    for words in ("11,689,512", "layer1.0.conv1", "ResNet-18", "nn.Module", "ptflops", "shortcut"):
        assert words in first.decode()


@pytest.mark.parametrize(
    "name", ["preact_resnet1001_cifar", "ghostnet_100", "inception_resnet_v2", "highway_mnist_fc_100"]
)
@pytest.mark.slow
def test_the_size_of_a_page(name: str) -> None:
    """Pages of the deepest network, of the most parts, of the longest spec and of a vector network are smaller than a megabyte."""
    page = network_page(reported(name))
    assert len(page.encode()) < LARGEST
    assert embedded(page)["name"] == name


def test_a_page_loads_no_external_resources() -> None:
    """A page contains no URL except the SVG namespace, and its policy allows only its own script, by hash."""
    page = network_page(reported("resnet18"))
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert not re.search(r"\b(src|href)=\"(?!#)", page)
    assert not re.search(r"url\(|@import|\bon[a-z]+=\"", page)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")


def test_the_data_of_the_script() -> None:
    """The data contains every op with its cost, its part of the picture, and its lines of the spec."""
    report = reported("resnet18")
    data, network = report.data, report.network
    ops = [(name, node) for name, node in walk(network.root) if isinstance(node, Op)]
    assert [row[0] for row in data["layers"]] == [name for name, _ in ops]
    assert sum(row[4] for row in data["layers"]) == cost(network).parameters
    assert sum(row[5] for row in data["layers"]) == cost(network).macs
    by_name = {row[0]: row for row in data["layers"]}
    part = data["parts"][by_name["layer3.0.conv2"][7]]
    assert (part[0], part[4], part[5]) == ("layer3.0.conv2", 256 * 256 * 9, 256 * 256 * 9 * 14 * 14)
    spec = network.text.splitlines()
    first, last = by_name["layer3.0.conv2"][10:]
    assert spec[first - 1].strip() == "- conv2:"
    assert "kernel: 3" in [line.strip() for line in spec[first:last]]


def test_rows_of_the_picture_are_stacked() -> None:
    """Each row starts where the previous one ends, so that unfolding only moves the rows below."""
    shown = picture(elaborate(load("googlenet")))
    text = markup(shown)
    assert text.count('class="item"') == len(shown.rows)
    y, places = 0.0, [float(place) for place in re.findall(r'class="item"[^>]*translate\(0 ([\d.]+)\)', text)]
    for place, row in zip(places, shown.rows, strict=True):
        assert y == 0.0 or place == pytest.approx(y, abs=0.02)
        y = place + row.views[0].height
    assert all(view.height > 0 for row in shown.rows for view in row.views)
    assert {len(row.views) for row in shown.rows} == {1, 2}


def test_parts_of_folded_copies() -> None:
    """An op of a copy that is not drawn belongs to the frame of its group."""
    shown = picture(elaborate(load("resnet50")))
    (first, *_, last) = shown.parts[shown.owners["layer3.4.conv2"]]
    assert (first[1].call.index, last[1].call.index) == (1, 5)  # type: ignore[union-attr]


def test_steps_that_run_again() -> None:
    """Ops that run again are listed with their multiply-adds but without parameters."""
    Path("again.yaml").write_text(
        "rescompile: 1\nname: again\ninput: [4, 8, 8]\nnetwork:\n  - one: {conv: {channels: 4, kernel: 3}}\n  - relu\n  - again: one\n"
    )
    network = canonical(elaborate(load("./again.yaml")))
    listed = layers.layers(network, network.text.splitlines())
    assert [each.name for each in listed] == ["one", "relu", "one (again)"]
    assert [each.cost.parameters for each in listed] == [144, 0, 0]
    assert sum(each.cost.macs for each in listed) == cost(network).macs == counts(network)[0].total == 2 * 144 * 64


def test_copies_are_folded_in_a_long_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the table of a network with very many ops, copies share a line, and the costs still add up to those of the network."""
    network = canonical(elaborate(load("resnet110_cifar")))
    spec = network.text.splitlines()
    every = layers.layers(network, spec)
    monkeypatch.setattr(layers, "MOST", 100)
    folded = layers.layers(network, spec)
    assert len(folded) < 60
    assert sum(each.copies for each in folded) == len(every)
    assert sum(each.copies * cost(each.op).macs for each in folded) == cost(network).macs


def test_figures_of_the_analyses() -> None:
    """The page shows the peak memory and the multiply-adds by convention as computed by the analyses."""
    report = reported("resnet18")
    page = network_page(report)
    assert report.peak == max(memory(report.network), key=lambda moment: moment.live)
    for each in counts(report.network):
        assert f"{each.total / 1e9:.4g} G" in page


def test_passes_and_settings() -> None:
    """Settings and passes change the reported network."""
    assert run("resnet18", "--set", "layer2.depth=3", "--fold-batchnorm", "-o", "a.html").exit_code == 0
    text = Path("a.html").read_text()
    assert "fold-batchnorm" in text
    assert "layer2.2" in text
    assert '"bn1"' not in text


def test_several_networks() -> None:
    """A comparison shows the networks, their differences from the first, and pictures side by side."""
    page = comparison_page(
        overview([subject("resnet50"), subject("resnet50_D"), subject("densenet121")], [Measurements()] * 3)
    )
    assert len(page.encode()) < LARGEST
    for words in (
        "resnet50 and 2 other networks",
        "+19,232 parameters, +239,640,576 MACs",
        "too little in common",
        "resnet50_D compared with resnet50",
    ):
        assert words in page


# --- result files -----------------------------------------------------------------------------------------------------


def test_results_are_shown() -> None:
    """The page shows latencies with intervals and rooflines, the time of each row, and verdicts."""
    assert run("resnet18", bench("resnet18"), verified("resnet18"), "-o", "a.html").exit_code == 0
    text = Path("a.html").read_text()
    for words in ("11.9–13.1", "48.8%", "A CPU of the test", "ms, ort-cpu fp32 batch 1, profiled", "1.5e-07", "passed"):
        assert words in text


@pytest.mark.parametrize("others", [(), ("resnet34",)], ids=["alone", "compared"])
def test_doubtful_figures(others: tuple[str, ...]) -> None:
    """Rows that are faster than the roofline or not stable are noted below the table, as in `bench`."""
    changes = {"roofline": Roofline(0.015, 1.22, 2e10, 1e11), "settled": False, "runtime": "torch-cpu"}
    run("resnet18", *others, bench("resnet18", **changes), "-o", "a.html")
    text = Path("a.html").read_text()
    assert "Faster than the roofline allows: resnet18 on torch-cpu: its rates" in text
    assert "Not stable after the warm-up: resnet18 on torch-cpu." in text
    run("resnet18", *others, bench("resnet18"), "-o", "b.html")
    assert not re.search("Faster than the roofline|Not stable", Path("b.html").read_text())


def test_networks_of_result_files() -> None:
    """Without a spec, networks of the zoo are found by the names in the result files, and other names need a spec."""
    assert run(bench("resnet18"), bench("resnet34"), "-o", "both.html").exit_code == 0
    text = Path("both.html").read_text()
    assert "resnet18 and resnet34" in text
    assert "Latency and multiply-adds" in text
    bench("resnet18", model="no_such_network")
    assert "give its spec too" in refused("E0811", 2, "resnet18.json")


def test_results_of_other_networks_are_refused() -> None:
    """Results of another network are refused by the hash of the spec, even if the name is the same."""
    refused("E0811", 2, "resnet34", bench("resnet18"))
    refused("E0811", 2, "resnet18", "--set", "layer1.depth=3", "resnet18.json")
    refused("E0811", 2, "resnet34", verified("resnet18"))
    assert "another spec" in refused("E0811", 2, "resnet18", verified("resnet18", sha256="0" * 64))
    refused("E0811", 2, "resnet18", bench("resnet18", sha256=None))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"bench": 1}',
        '{"bench": 9}',
        '{"targets": []}',
        '{"targets": [1], "name": 1}',
        "[" * 99_999,
    ],
)
def test_invalid_result_files_are_refused(content: str) -> None:
    Path("wrong.json").write_text(content)
    refused("E0820", 2, "resnet18", "wrong.json")


def test_unwritable_paths_and_inputs_are_refused() -> None:
    """Unwritable paths, wrong suffixes, missing inputs and an output that is an input are refused."""
    refused("E1002", 5, "resnet18", "-o", "missing/a.html")
    refused("E0802", 2, "resnet18", "-o", "a.pdf")
    refused("E0801", 2, "resnet18", "missing.json")
    refused("E0801", 2, "no_such_network")
    Path("spec.html").write_text(
        "rescompile: 1\nname: net\ninput: [3, 8, 8]\nnetwork: [{conv: {channels: 4, kernel: 3}}]\n"
    )
    assert "would overwrite" in refused("E0802", 2, "./spec.html", "-o", "spec.html", "--force")


def test_equal_rows_have_parts_of_their_own(tmp_path: Path) -> None:
    """The card of an op in the second of two equal blocks is not that of the first, whose nodes it shares."""
    path = tmp_path / "equal.yaml"
    path.write_text(
        "rescompile: 1\nname: equal\ninput: [4, 8, 8]\n"
        "blocks: {unit: {body: [residual: {branch: [conv1: {conv: {channels: 4, kernel: 3}}, relu: {}]}]}}\n"
        "network:\n- a: {block: unit}\n- norm\n- b: {block: unit}\n"
    )
    shown = picture(elaborate(load(path)))
    for name, row in (("a", shown.rows[1]), ("b", shown.rows[3])):
        assert shown.owners[f"{name}.conv1"] in row.parts
        assert {scope or layers._name(scope, node) for at in row.parts for scope, node in shown.parts[at]} == {name}


@pytest.mark.slow
def test_too_many_parts_for_a_picture() -> None:
    """A report of too many parts has a note instead of the picture."""
    rows = "".join(f"  - c{at}: {{conv: {{channels: {4 + at % 7}, kernel: 3}}}}\n" for at in range(1100))
    Path("wide.yaml").write_text(f"rescompile: 1\nname: wide\ninput: [3, 8, 8]\nnetwork:\n{rows}")
    assert run("wide.yaml", "resnet18", "-o", "a.html").exit_code == 0
    network = elaborate(load("./wide.yaml"))
    page = network_page(facts(Subject(network, {}), Measurements()))
    assert "No picture: the network has more than 1,000 parts" in page


# --- hostile names ----------------------------------------------------------------------------------------------------


def hostile(name: str) -> Report:
    """Return a report in which this name replaces every text of the user."""
    report = reported("resnet18")
    about = dict.fromkeys(("family", "description", "reference"), name) | {"notes": [name], "unverified": [name]}
    texts = [name] * len(report.data["texts"])
    rows = [[name, *row[1:]] for row in report.data["layers"]]
    parts = [[name, *part[1:]] for part in report.data["parts"]]
    return replace(
        report,
        network=replace(report.network, name=name, passes=(name,), text=f"{name}\nname: {name}\n"),
        about=about, undrawn=name, outputs=((name, name),),
        rows=tuple(replace(row, name=name, what=name, output=name) for row in report.rows),
        memory=tuple(replace(moment, name=name) for moment in report.memory),
        layers=tuple(replace(layer, name=name, row=name) for layer in report.layers),
        words=replace(report.words, sentences=name, comparisons=tuple(
            replace(each, heading=name, differences=((name, name),)) for each in report.words.comparisons
        )),
        sources=(("source", f'"""{name}"""\nx = "{name}"  # {name}\n'),),
        data={**report.data, "name": name, "texts": texts, "layers": rows, "parts": parts},
    )  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_stay_text(name: str) -> None:
    """Hostile names add no elements or attributes, and the script reads them unchanged."""
    page = network_page(hostile(name))
    assert tags(page) <= tags(network_page(hostile("peace")))
    assert embedded(page)["name"] == name
    assert page.count("<script") == 2


@pytest.mark.parametrize("name", HOSTILE[:6], ids=ascii)
def test_hostile_result_files(name: str) -> None:
    """Hostile names in result files are escaped or refused."""
    file = bench("resnet18", runtime=name, precision=name, passes=[name])
    done = run("resnet18", file, verified("resnet18", targets=[
        {"target": name, "runtime": name, "precision": name, "error": 1.0, "bound": 1.0, "passed": False, "first": name}
    ]), "-o", "-")  # fmt: skip
    if done.exit_code == 0:
        assert done.stdout.count("<script") == 2
        assert "<img" not in done.stdout
    else:
        assert "[E08" in done.stderr


@pytest.mark.parametrize("text", [*HOSTILE, "", "a", "a\n\nb\n", "\t- x: 1", "def f(:", '"""'], ids=ascii)
def test_highlighting_does_not_change_the_text(text: str) -> None:
    """Without its elements, highlighted text is the escaped text, apart from tabs and surrounding newlines."""
    lines = text.expandtabs().strip("\n").split("\n") if text else []
    for function in (highlighting.yaml, highlighting.python):
        shown = re.sub(r"</?(?:span|i)(?: class=\w)?>", "", function(text))
        assert shown == "".join(f"{escaped(line)}\n" for line in lines)


def test_networks_elaborated_again() -> None:
    """The canonical text gives the same tree, so that nodes can be located in it."""
    for name in ("resnet50", "googlenet", "stochastic_depth_110"):
        network: Network = elaborate(load(name))
        assert canonical(network).root == network.root
