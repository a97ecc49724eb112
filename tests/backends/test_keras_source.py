"""The target `keras` alone; test_frameworks.py and test_framework_files.py cover what all channels-last targets share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import facts
import pytest

os.environ.update(KERAS_BACKEND="torch", KERAS_TORCH_DEVICE="cpu")
for package in ("torch", "keras"):
    pytest.importorskip(package, reason="runs the target: pip install 'rescompile[torch,keras]'")

from keras_models import module, set_precision, source_file, tensors
from sources import agree, drawn
from spec_texts import elaborated

import rescompile
from rescompile.analysis.dynamic_shapes import sizes
from rescompile.diagnostics.errors import Unavailable
from rescompile.weights import Weights


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    set_precision("float64")
    yield
    set_precision("float32")


# --- names and numbers ------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_tree_with_underscores() -> None:
    names = [place.path for place in tensors.places(facts.network("resnet50"))]
    assert names[:3] == ["conv1/kernel", "bn1/gamma", "bn1/beta"]
    assert names[5] == "layer1_0_conv1/kernel"
    assert names[-2:] == ["fc/kernel", "fc/bias"]


def test_other_sizes_of_the_image(tmp_path: Path) -> None:
    """With dynamic axes, a model accepts any image size, and `image_size` fixes one."""
    network, other = facts.network("resnet20_cifar"), facts.network("resnet20_cifar", "input=[3,40,56]")
    weights, x = drawn(other, 0, batch=1)
    text = source_file.source(network, free=sizes(network, "height,width", training=True).data())
    assert "image_size: tuple[int | None, int | None] = (None, None)" in text
    _, factory = import_module("rescompile.codegen.execution").executed(network, text)
    for model in (factory(), factory(image_size=(40, 56))):
        module.fill(model, other, Weights({name: (lambda value=value: value) for name, value in weights.items()}))
        agree(other, weights, x, module.outputs(model, x))


# --- what is refused --------------------------------------------------------------------------------------------------

NAMES = """
rescompile: 1
name: names
input: [3, 8, 8]
blocks:
  unit:
    body: [{conv1: {conv: {channels: 4, kernel: 3}}}]
network:
- layer1: {block: unit, depth: 2}
- stem: {conv: {channels: 4, kernel: 3}}
- global_avgpool
- flatten
- fc: {linear: 10}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            NAMES.replace("stem", "layer1_0_conv1"),
            "layer1.0.conv1 and layer1_0_conv1 would both be the layer 'layer1_0_conv1'",
        ),
        (f"{NAMES}checkpoint: true\n", "cannot be recomputed for backward"),
    ],
)
def test_name_collisions_and_recomputation_are_refused(text: str, message: str, tmp_path: Path) -> None:
    network = elaborated(text, tmp_path)
    with pytest.raises(Unavailable, match=message) as raised:
        rescompile.build(network, "keras", structure_only=True)
    assert raised.value.diagnostics[0].code == "E0901"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"KERAS_BACKEND": "theano"},
            "KERAS_BACKEND is 'theano', but only tensorflow, jax, torch can run these models",
        ),
        ({"KERAS_BACKEND": "torch", "WITHOUT": "torch"}, "KERAS_BACKEND is 'torch', but torch is not installed"),
        ({"WITHOUT": "tensorflow,jax,torch"}, "Keras needs one of tensorflow, jax, torch, and none is installed"),
        ({"WITHOUT": "keras"}, "No module named 'keras'"),
    ],
)
def test_a_missing_framework_or_backend(variables: dict[str, str], message: str) -> None:
    """A missing framework or backend is one diagnostic with the extra to install, and exit code 4."""
    script = (
        "import importlib.util as u, os\nfind = u.find_spec\nwithout = os.environ.get('WITHOUT', '').split(',')\n"
        "u.find_spec = lambda name, *more: None if name in without else find(name, *more)\n"
        "from rescompile.__main__ import main\nmain()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KERAS")} | variables
    command = [sys.executable, "-c", script, "verify", "resnet20_cifar", "--targets", "keras"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment | {"KERAS_HOME": "/nowhere"}
    )
    assert done.returncode == 4, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "rescompile[keras]" in done.stderr
    assert "Traceback" not in done.stderr
