"""The tinygrad target of docs/add-a-backend.md builds most of the zoo, and tinygrad computes the right outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import DOCS, environment, prepare_folder

PAGE = DOCS / "add-a-backend.md"

#: A program that builds every network of the zoo and prints the messages of those that are refused.
_ZOO = """
import json, rescompile
from rescompile.backend import Unavailable
from rescompile.lang.library import zoo
refused = {}
for name in zoo():
    try:
        rescompile.build(rescompile.load(name), "tinygrad", structure_only=True).to_bytes()
    except Unavailable as error:
        refused[name] = str(error.diagnostics[0].message)
print(json.dumps([len(zoo()), refused]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the projects of the page are installed."""
    return prepare_folder(PAGE, tmp_path_factory.mktemp("add-a-backend"))


def python(folder: Path, *arguments: str, **variables: str) -> str:
    """Return the standard output of a Python process that finds the installed projects."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment(folder) | variables, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_networks_are_built_or_refused_with_a_reason(folder: Path) -> None:
    """About three fifths of the zoo are built, as the page states, and the others are refused with what is missing."""
    total, refused = json.loads(python(folder, "-c", _ZOO))
    assert 0.55 < 1 - len(refused) / total < 0.65
    survival = "source of tinygrad has no residual branches with a 'survival', but the class Basic needs them"
    assert refused["stochastic_depth_110"] == survival
    assert refused["googlenet"] == "the target has no rule for the op 'maxpool' with 'ceil: true'"
    assert refused["r3d_18"].endswith("the target 'tinygrad' supports only vectors and two-dimensional maps")
    assert all("tinygrad" in message or "the target has no rule" in message for message in refused.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["highway_mnist_fc_10", "mobilenet_v1", "he2016_shortcut_scale_0_1"])
def test_tinygrad_computes_the_right_outputs(folder: Path, name: str) -> None:
    """Outputs of networks with gates, depthwise convolutions and scaled shortcuts are within the bound of `verify`."""
    pytest.importorskip("tinygrad", reason="runs the example: pip install tinygrad==0.10.0 llvmlite==0.44.0")
    command = ("-m", "rescompile", "verify", name, "--targets", "tinygrad", "--json")
    (row,) = json.loads(python(folder, *command, LLVM="1"))["targets"]
    assert (row["target"], row["passed"]) == ("tinygrad", True)
