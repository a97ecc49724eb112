"""What is particular to the target `keras`; test_frameworks.py has what all targets with channels last share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import facts
import numpy as np
import pytest
from typer.testing import CliRunner

os.environ.update(KERAS_BACKEND="torch", KERAS_TORCH_DEVICE="cpu")
for package in ("torch", "keras"):
    pytest.importorskip(package, reason="runs the target: pip install 'rescompile[torch,keras]'")

from keras_models import evaluated, keras, model_of, module, set_precision, source_file, tensors
from sources import agree, drawn, elaborated, skeleton
from variants import shallow

import rescompile
from rescompile.analysis.dynamic_shapes import sizes
from rescompile.cli import app
from rescompile.codegen.allow_list import Refused, check
from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network
from rescompile.weights import Weights, draw

OF_KERAS: Any = import_module("rescompile.backends.keras.allowed").ALLOWED


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


def test_flat_style(monkeypatch: pytest.MonkeyPatch) -> None:
    """One function per block has the same tensors and outputs."""
    network = shallow("densenet_40_k12_cifar")
    weights, x = drawn(network, 0, batch=2)
    right = module.source
    monkeypatch.setattr(module, "source", lambda network, **options: right(network, "flat", **options))
    agree(network, weights, x, evaluated(network, weights, x))


def test_other_sizes_of_the_image(tmp_path: Path) -> None:
    """A model takes the sizes of its `image_size`; with open axes, all that the network takes."""
    network, other = facts.network("resnet20_cifar"), facts.network("resnet20_cifar", "input=[3,40,56]")
    weights, x = drawn(other, 0, batch=1)
    text = source_file.source(network, free=sizes(network, "height,width", training=True).data())
    assert "image_size: tuple[int | None, int | None] = (None, None)" in text
    _, factory = import_module("rescompile.codegen.execution").executed(network, text)
    for model in (factory(), factory(image_size=(40, 56))):
        module.fill(model, other, Weights({name: (lambda value=value: value) for name, value in weights.items()}))
        agree(other, weights, x, module.outputs(model, x))


# --- files ------------------------------------------------------------------------------------------------------------

_SAVED = """
import sys, numpy, keras
assert keras.backend.backend() == "jax"
import resnet20_cifar_keras as home
assert "rescompile" not in sys.modules
model = home.resnet20_cifar()
home.load(model, "resnet20_cifar_keras.safetensors")
numpy.save("here.npy", keras.ops.convert_to_numpy(model(numpy.load("x.npy"), training=False)))
model.save("model.keras")
"""
_LOADED = """
import numpy, keras
assert keras.backend.backend() == "torch"
model = keras.models.load_model("model.keras")
numpy.save("there.npy", keras.ops.convert_to_numpy(model(numpy.load("x.npy"), training=False)))
"""


def alone(script: str, backend: str) -> None:
    """Run a script on a backend of Keras in a process of its own."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


@pytest.mark.slow
def test_build_writes_source_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SPEC_keras.py`, and beside it the weights, which the file reads itself; what Keras saves on one backend loads on another
    without our code."""
    monkeypatch.chdir(tmp_path)
    run = CliRunner()
    command = ["build", "resnet20_cifar", "--target", "keras"]
    short = [f"layer{row}.depth=1" for row in (1, 2, 3)]
    for setting in short:
        command += ["--set", setting]
    done = run.invoke(app, [*command, "--seed", "3"])
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {"resnet20_cifar_keras.py", "resnet20_cifar_keras.safetensors"}
    network = facts.network("resnet20_cifar", *short)
    x = np.random.default_rng(0).standard_normal((2, *network.input), np.float32)
    np.save("x.npy", np.moveaxis(x, 1, -1))
    wanted = interpret(network, draw(network, 3), x)["logits"]
    pytest.importorskip("jax", reason="the other backend of Keras: pip install jax")
    alone(_SAVED, "jax")
    alone(_LOADED, "torch")
    for file in ("here.npy", "there.npy"):
        assert np.abs(np.load(file) - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert run.invoke(app, [*command, "--seed", "3", "--check"]).exit_code == 0
    assert run.invoke(app, [*command, "--seed", "4", "--check"]).exit_code == 1


def test_load_refuses_weights_that_do_not_fit(tmp_path: Path) -> None:
    """Another shape, a missing tensor, one too many: nothing of the model changes."""
    small, large = facts.network("resnet20_cifar"), facts.network("resnet32_cifar")
    grey = facts.network("resnet20_cifar", "input=[1,32,32]")
    write = import_module("rescompile.files.atomic_write").write_files
    for network, other, message in (
        (small, large, "which the model lacks"),
        (large, small, "lacks"),
        (small, grey, "lacks conv1"),
    ):
        home, factory = import_module("rescompile.codegen.execution").executed(network, source_file.source(network))
        write([source_file.weights_file(other, draw(other), "w.safetensors")], tmp_path, force=True)
        keras.utils.clear_session()
        model = factory()
        before = [variable.numpy().copy() for variable in model.weights]
        with pytest.raises(ValueError, match=message):
            home.load(model, str(tmp_path / "w.safetensors"))
        assert all(np.array_equal(old, v.numpy()) for old, v in zip(before, model.weights, strict=True))


@pytest.mark.parametrize(("name", "settings"), [("resnet18", ()), ("fixup_resnet110_cifar", ("parameters.n=1",))])
def test_own_initial_values_follow_the_rules(name: str, settings: tuple[str, ...]) -> None:
    """What the file draws has the spread that the spec asks for, and two layers of one shape have other values."""
    network = facts.network(name, *settings)
    keras.utils.clear_session()
    made = {variable.path: variable.numpy() for variable in module.make(network).weights}
    drawn_here = {place.path: place.moved(draw(network)[place.name]) for place in tensors.places(network)}
    for tensor, values in drawn_here.items():
        if values.size < 4000 or values.std() == 0:
            assert values.std() > 0 or np.array_equal(made[tensor], values), tensor
            continue
        assert abs(made[tensor].std() / values.std() - 1) < 0.05, tensor
        assert abs(np.abs(made[tensor]).max() / np.abs(values).max() - 1) < 0.5, tensor
    assert not np.array_equal(made["layer1_0_conv1/kernel"], made["layer1_0_conv2/kernel"])


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
        (NAMES.replace("stem", "add_3"), "add_3 cannot be called 'add_3' in Keras"),
        (NAMES.replace("- global", "- again: stem\n- global"), "runs again with the same parameters"),
        (f"{NAMES}checkpoint: true\n", "cannot be recomputed for backward"),
    ],
)
def test_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
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
    """One diagnostic with the extra, and nothing written."""
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


NAMED = """
rescompile: 1
name: {word}
input: [3, 8, 8]
blocks:
  {word}:
    parameters: {{{word}_: 3, width: 8}}
    body:
    - conv1: {{conv: {{channels: width, kernel: "{word}_"}}}}
    - relu
network:
- layer1: {{block: {word}, depth: 3, width: 8}}
- global_avgpool
- flatten
- fc: {{linear: 10}}
"""
WORDS = sorted({*map(str.lower, OF_KERAS.imported), "x", "model", "load", "pair", "image_size", "inputs", "first"})


@pytest.mark.parametrize("word", [word for word in WORDS if word.isidentifier()])
def test_names_of_the_framework_as_names_of_a_spec(word: str, tmp_path: Path) -> None:
    """A block, an argument and a network that are called as something in the file: the model is that of harmless names."""
    network: Network = elaborated(NAMED.format(word=word), tmp_path)
    model = model_of(network, drawn(network, 0)[0])
    assert {variable.path for variable in model.weights} == {place.path for place in tensors.places(network)}
    assert skeleton(source_file.source(network)) == skeleton(
        source_file.source(elaborated(NAMED.format(word="plain"), tmp_path))
    )


HEAD = '"""x"""\n\nimport json\nimport math\nimport keras\nimport numpy as np\nfrom keras import layers, ops\n\n'


@pytest.mark.parametrize(
    "attack",
    [
        "import os", "import keras as np", "from keras import utils", "keras.utils.get_file('x')", "keras.models.load_model('x')",
        "keras.saving.load_model('x')", "keras.config.enable_unsafe_deserialization()", "layers.Lambda(eval)", "np.load('x')",
        "np.fromfile('x')", "layers.TFSMLayer('x')", "ops.map", "keras.src", "keras.Model.fit = eval", "json.load(open('x'))",
        "eval('1')", "keras.__dict__", "class A(layers.Layer):\n    def __getattr__(self, x): pass", "keras.src.backend.torch",
        "setattr(keras, '0', 1)", "@eval\ndef f(): return 1",
    ],
)  # fmt: skip
def test_check_refuses_in_keras(attack: str) -> None:
    """Whatever generated source has no need of."""
    check(HEAD, OF_KERAS)
    with pytest.raises(Refused):
        check(HEAD + attack, OF_KERAS)
