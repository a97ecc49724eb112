"""`draw`: file formats by suffix, drawable inputs, and refused options."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rescompile import elaborate, load
from rescompile.cli import app
from rescompile.files.checksum import GENERATOR

pytestmark = pytest.mark.usefixtures("own_folder")


def draw(*arguments: str) -> Result:
    """Run the command in this process; any exception other than SystemExit fails the test."""
    return CliRunner().invoke(app, ["draw", *arguments], catch_exceptions=False)


def refused(code: str, exit_code: int, *arguments: str) -> str:
    """Return the message of a command that must fail with this code and write no file."""
    before = sorted(Path().iterdir())
    done = draw(*arguments)
    assert done.exit_code == exit_code, done.output
    assert f"error[{code}]" in done.stderr
    assert sorted(Path().iterdir()) == before
    return done.stderr


def test_the_default_is_an_svg_named_after_the_network() -> None:
    assert draw("resnet18").exit_code == 0
    assert Path("resnet18.svg").read_text().startswith("<svg ")
    assert draw("resnet18", "-o", "-").stdout == Path("resnet18.svg").read_text()


@pytest.mark.parametrize("ending", ["svg", "html", "mmd", "dot", "png", "pdf"])
@pytest.mark.slow_for("png", "pdf")
def test_only_generated_pictures_are_overwritten(ending: str) -> None:
    """A picture overwrites one that rescompile drew, and any other file only with `--force`."""
    if ending in ("png", "pdf"):
        pytest.importorskip("matplotlib", reason="pip install 'rescompile[plot]'")
    path = Path(f"net.{ending}")
    assert draw("resnet18", "-o", str(path)).exit_code == 0
    first = path.read_bytes()
    assert draw("resnet34", "-o", str(path)).exit_code == 0
    assert path.read_bytes() != first
    path.write_text("mine")
    refused("E1001", 5, "resnet18", "-o", str(path))
    assert path.read_text() == "mine"
    assert draw("resnet18", "-o", str(path), "--force").exit_code == 0
    assert path.read_bytes() == first


def test_settings_passes_and_features_are_drawn() -> None:
    text = draw("resnet18", "--set", "layer3.depth=7", "--features", "layer2", "--fold-batchnorm", "-o", "-").stdout
    assert "&#215; 7" in text
    assert "layer2: output" in text
    assert "batch norm" not in text
    assert "fold-batchnorm" in text


def test_an_onnx_file_is_drawn_from_its_recorded_spec() -> None:
    """An ONNX file is drawn from its recorded spec and passes, to which settings and passes can be added."""
    done = CliRunner().invoke(
        app, ["build", "resnet20_cifar", "-t", "onnx", "--no-weights", "--fold-batchnorm", "--set", "layer1.depth=4"]
    )
    assert done.exit_code == 0
    drawn = draw("resnet20_cifar.onnx", "-o", "-")
    assert drawn.stdout == draw("resnet20_cifar", "--set", "layer1.depth=4", "--fold-batchnorm", "-o", "-").stdout
    more = draw("resnet20_cifar.onnx", "--set", "layer2.depth=5", "--no-fold-batchnorm", "-o", "-").stdout
    assert "batch norm" in more
    assert "&#215; 5" in more
    wrong = refused("E0504", 3, "resnet20_cifar.onnx", "--set", "layer9.depth=5")
    assert "--set:1:1" in wrong


def test_invalid_and_missing_models_are_refused() -> None:
    Path("bad.onnx").write_bytes(b"\x08\x0a")
    refused("E0801", 2, "bad.onnx")
    refused("E0801", 2, "missing.onnx")
    refused("E0801", 2, "missing.pth")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-o", "net.jpg"], ".svg, .html, .png, .pdf, .mmd or .dot"),
        (["-o", "net"], "must end in"),
        (["-o", ""], "must end in"),
        (["--color", "time"], "needs --result"),
        (["--color", "error"], "needs --result"),
        (["--result", "x.json"], "--result needs --color"),
        (["--color", "macs", "--result", "x.json"], "--result needs --color"),
        (["--color", "time", "--result", "x.json", "--depth", "ops"], "--depth ops"),
        (["--against", "resnet34", "--depth", "ops"], "--depth"),
        (["--against", "resnet34", "--color", "macs"], "cannot be used together"),
        (["--color", "macs", "-o", "net.mmd"], ".mmd"),
        (["--against", "resnet34", "-o", "net.dot"], ".dot"),
    ],
)
def test_invalid_options_are_refused(arguments: Sequence[str], text: str) -> None:
    assert text in refused("E0802", 2, "resnet18", *arguments)


def test_unwritable_paths_are_refused() -> None:
    refused("E1002", 5, "resnet18", "-o", "missing/net.svg")
    Path("folder.svg").mkdir()
    refused("E1002", 5, "resnet18", "-o", "folder.svg")


def test_the_spec_is_not_overwritten() -> None:
    Path("net.svg").write_text(
        "rescompile: 1\nname: net\ninput: [3, 8, 8]\nnetwork: [{conv: {channels: 4, kernel: 3}}]\n"
    )
    assert "would overwrite" in refused("E0802", 2, "./net.svg", "-o", "net.svg", "--force")


def test_a_comparison_of_two_networks() -> None:
    """A comparison marks the rows that differ and prints the differences in cost."""
    assert draw("resnet50", "--against", "resnet50_v1", "-o", "both.svg").exit_code == 0
    text = Path("both.svg").read_text()
    assert "resnet50 compared with resnet50_v1" in text
    assert "+231,211,008 MACs" in text
    assert text.count('class="differs"') == 7  # three rows of each network, and the legend
    assert "There are no differences." in draw("resnet18", "--against", "resnet18", "-o", "-").stdout
    refused("E0801", 2, "resnet50", "--against", "no_such_network")


def result(network: str, **changes: Any) -> str:
    """Write a bench result whose profile has 1, 2, 3, ... ms for the rows of the network, and return its path."""
    from rescompile.bench.profiling import owners, shares
    from rescompile.bench.results import BenchRow, Result
    from rescompile.bench.statistics import Interval, Summary

    subject = elaborate(load(network))
    _, macs = owners(subject)
    named = [(name, 1e-3 * number) for number, name in enumerate(part_names(subject, macs), 1)]
    interval = Interval(1.0, 1.0, 1.0)
    summary = Summary(1, interval, *[1.0] * 7)
    fields = {
        "group": network, "model": network, "runtime": "ort-cpu", "precision": "fp32", "batch": 1, "sha256": subject.sha256,
        "artifact": None, "passes": [], "parameters": 1, "macs": 1, "build": 1.0, "first": 1.0, "warm_up": 1, "settled": True,
        "samples": [[1.0]] * 5, "summary": summary, "error": 0.0, "bound": 1.0, "facts": {}, "before": {}, "after": {},
        "profile": shares(subject, named),
    }  # fmt: skip
    row = BenchRow(**{**fields, **changes})
    from rescompile.bench import json_files

    json_files.write(Result(1, "0", "now", ["bench"], {}, {}, [row]), Path("result.json"))
    return "result.json"


def part_names(network: Any, parts: Sequence[str]) -> list[str]:
    """Return the name of one op of each row."""
    from rescompile.bench.profiling import owners

    part_of, _ = owners(network)
    return [next(name for name, part in part_of.items() if part == each and name != "logits") for each in parts]


def test_colour_by_time() -> None:
    """Each of the six rows of ResNet-18 is labelled with its time in the result file."""
    assert draw("resnet18", "--color", "time", "--result", result("resnet18"), "-o", "-").exit_code == 0
    text = draw("resnet18", "--color", "time", "--result", "result.json", "-o", "-").stdout
    assert all(f"{number} ms (" in text for number in range(1, 7))
    assert "time on ort-cpu, fp32, batch 1, profiled" in text


def test_unsuitable_times_are_refused() -> None:
    """Times of another network, results without a profile, and invalid or missing result files are refused."""
    result("resnet18")
    refused("E0811", 2, "resnet34", "--color", "time", "--result", "result.json")
    refused("E0811", 2, "resnet18", "--set", "layer1.depth=3", "--color", "time", "--result", "result.json")
    result("resnet18", profile=None)
    assert "--profile" in refused("E0811", 2, "resnet18", "--color", "time", "--result", "result.json")
    refused("E0801", 2, "resnet18", "--color", "time", "--result", "missing.json")
    Path("wrong.json").write_text("[]")
    refused("E0820", 2, "resnet18", "--color", "time", "--result", "wrong.json")


def verdict(**changes: Any) -> dict[str, Any]:
    """Return a row of `verify --json`."""
    row = {
        "target": "onnx",
        "runtime": None,
        "precision": "fp32",
        "error": 1e-7,
        "bound": 1e-6,
        "passed": True,
        "first": None,
    }
    return {**row, **changes}


def verified(name: str, *targets: Any) -> str:
    """Write the output of `verify --json` to a file and return its path."""
    Path("verify.json").write_text(json.dumps({"name": name, "passed": True, "targets": targets}))
    return "verify.json"


def test_colour_by_error() -> None:
    """The first difference of the target with the largest error is marked."""
    wrong = verdict(target="torch", error=0.5, passed=False, first="layer3")
    file = verified("resnet18", verdict(), wrong)
    text = draw("resnet18", "--color", "error", "--result", file, "-o", "-").stdout
    assert "first difference: layer3" in text
    assert "torch, relative error 0.5:" in text
    text = draw("resnet18", "--color", "error", "--result", verified("resnet18", verdict()), "-o", "-").stdout
    assert "first difference" not in text
    infinite = verdict(error=None, passed=False, first="logits")
    text = draw("resnet18", "--color", "error", "--result", verified("resnet18", infinite), "-o", "-").stdout
    assert "not finite" in text


def test_colour_by_the_error_of_each_part() -> None:
    """The error of a row is that of its last part; if values are not finite, only the first part that differs is marked."""
    parts = {"conv1": 1e-7, "maxpool": 2e-7, "layer1": 3e-7, "layer2": 4e-7, "logits": 9e-7}
    text = draw(
        "resnet18", "--color", "error", "--result", verified("resnet18", verdict(parts=parts, error=5e-7)), "-o", "-"
    ).stdout
    assert [f"error {number}e-07" in text for number in (1, 2, 3, 4)] == [False, True, True, True]
    infinite = verdict(parts={**parts, "layer3": None}, passed=False, first="layer3", error=None)
    text = draw("resnet18", "--color", "error", "--result", verified("resnet18", infinite), "-o", "-").stdout
    assert "first difference: layer3" in text
    other = verdict(parts={**parts, "denseblock1": 1e-7})
    refused("E0811", 2, "resnet18", "--color", "error", "--result", verified("resnet18", other))


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"name": "resnet18"}', '{"name": "resnet18", "targets": []}', '{"name": "resnet18", "targets": [1]}',
     '{"name": "resnet18", "targets": [{"passed": true}]}', "[" * 100_000, "\ud800".encode("utf-16-le", "surrogatepass").hex(),
     json.dumps({"name": "resnet18", "targets": [verdict(error="<b>")]}), json.dumps({"name": "resnet18", "targets": [verdict(target=[1])]}), json.dumps({"name": "resnet18", "targets": [verdict(parts=[1])]}),
     *(json.dumps({"name": "resnet18", "targets": [verdict(error=error)]}) for error in (-1, math.nan, True))],
    ids=range(16),
)  # fmt: skip
def test_invalid_verify_files_are_refused(content: str) -> None:
    Path("verify.json").write_text(content)
    refused("E0820", 2, "resnet18", "--color", "error", "--result", "verify.json")


def test_a_verify_file_that_is_too_large_is_refused() -> None:
    """A file of a terabyte is refused before it is read."""
    with Path("verify.json").open("wb") as file:
        file.truncate(1 << 40)
    assert "MiB" in refused("E0820", 2, "resnet18", "--color", "error", "--result", "verify.json")


def test_errors_of_another_network_are_refused() -> None:
    refused("E0811", 2, "resnet34", "--color", "error", "--result", verified("resnet18", verdict()))
    other = verdict(passed=False, first="denseblock1", error=1.0)
    refused("E0811", 2, "resnet18", "--color", "error", "--result", verified("resnet18", other))


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib, PNG and PDF files give an error that names the extra; other formats do not need it."""
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert "rescompile[plot]" in refused("E0902", 4, "resnet18", "-o", "net.png")
    assert draw("resnet18", "-o", "net.html").exit_code == 0
    assert GENERATOR in Path("net.html").read_text()


def test_a_network_that_is_too_large_is_refused() -> None:
    rows = "".join(f"  - c{at}: {{conv: {{channels: {4 + at % 2}, kernel: 3}}}}\n" for at in range(1001))
    Path("long.yaml").write_text(f"rescompile: 1\nname: long\ninput: [4, 8, 8]\nnetwork:\n{rows}")
    assert "--depth rows" in refused("E0810", 2, "./long.yaml")
