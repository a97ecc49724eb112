"""What is particular to the target `mlx`; test_frameworks.py has what all targets with channels last share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import facts
import numpy as np
import pytest
from generator import generate
from op_cases import a, series
from op_cases import network as network_of
from typer.testing import CliRunner

for package in ("torch", "mlx.core"):
    pytest.importorskip(package, reason="runs one of the targets: pip install 'rescompile[torch,mlx]'")

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx_models import arrays, evaluated, given, in_double, model_of, module, source_file, tensors
from sources import agree, drawn, elaborated, skeleton
from variants import shallow

import rescompile
from rescompile.cli import app
from rescompile.codegen.allow_list import Refused, check
from rescompile.diagnostics.errors import Unavailable
from rescompile.files.atomic_write import write_files
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network
from rescompile.ir.ops import Act, Dropout, Norm
from rescompile.weights import draw

OF_MLX: Any = import_module("rescompile.backends.mlx.allowed").ALLOWED


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with in_double():
        yield


# --- names and numbers ------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_tree() -> None:
    names = {place.path: place.shape for place in tensors.places(facts.network("resnet50"))}
    assert [*names][:5] == ["conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"]
    assert names["layer1.0.conv2.weight"] == (64, 3, 3, 64)
    assert names["conv1.weight"] == (64, 7, 7, 3)
    assert [*names][-2:] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("style", ["modules", "flat"])
@pytest.mark.parametrize("name", ["densenet_40_k12_cifar", "stochastic_depth_110"])
def test_styles(name: str, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other styles have the same tensors and outputs."""
    network = shallow(name)
    weights, x = drawn(network, 0, batch=2)
    right = module.source
    monkeypatch.setattr(module, "source", lambda network, **options: right(network, style, **options))
    agree(network, weights, x, evaluated(network, weights, x))


NUMBERS = """
rescompile: 1
name: numbers
input: [3, 6, 6]
blocks:
  unit:
    body:
    - "0": {conv: {channels: in_channels, kernel: 3}}
    - "3": [{"2": {conv: {channels: in_channels, kernel: 1}}}, {"4": relu}, {"7": {norm: {}}}]
network:
- layer1: {block: unit, depth: 2}
- "5": {conv: {channels: 4, kernel: 1, bias: true}}
- pool: global_avgpool
- flat: flatten
- fc: {linear: 2}
"""


def test_numbers_as_names(tmp_path: Path) -> None:
    """MLX takes numbers in a file for places in a list: here they are names, with gaps between them, at every level."""
    network = elaborated(NUMBERS, tmp_path)
    weights, x = drawn(network, 0)
    model = model_of(network, weights)
    assert "layer1.1.3.7.running_var" in arrays(model.parameters())
    agree(network, weights, x, module.outputs(model.eval(), x))
    other = module.make(network)
    model.set_dtype(mx.float32)
    model.save_weights(str(tmp_path / "w.safetensors"))
    other.load_weights(str(tmp_path / "w.safetensors"))
    assert all(
        np.array_equal(value, arrays(other.parameters())[key]) for key, value in arrays(model.parameters()).items()
    )
    with pytest.raises(ValueError, match="Missing 1 parameters"):
        other.load_weights(
            [(key, mx.array(value)) for key, value in arrays(model.parameters()).items() if key != "5.bias"]
        )


@pytest.mark.parametrize("seed", [1, 4, *(pytest.param(n, marks=pytest.mark.slow) for n in range(10, 30))])
def test_random_network_with_earlier_values(seed: int, tmp_path: Path) -> None:
    """Values that are kept and used, through rows of copies."""
    network = elaborated(generate(seed, values=True).text, tmp_path)
    weights, x = drawn(network, seed)
    agree(network, weights, x, evaluated(network, weights, x))


def test_other_sizes_of_the_image() -> None:
    """A generated module takes the sizes that its network does."""
    network = facts.network("resnet20_cifar")
    other = facts.network("resnet20_cifar", "input=[3,40,56]")
    weights, x = drawn(other, 0, batch=1)
    agree(other, weights, x, evaluated(network, weights, x))


# --- files ------------------------------------------------------------------------------------------------------------

_LOADED = """
import sys
import {name} as home
import mlx.core as mx
assert not {{"rescompile", "torch", "jax"}} & set(sys.modules)
mx.set_default_device(mx.cpu)
model = home.resnet20_cifar()
model.load_weights("{name}.safetensors")
mx.save("y.npy", model.eval()(mx.load("x.npy")))
"""


def test_build_writes_source_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SPEC_mlx.py`, and beside it the weights, which its module reads in a process without rescompile."""
    monkeypatch.chdir(tmp_path)
    run = CliRunner()
    done = run.invoke(app, ["build", "resnet20_cifar", "--target", "mlx", "--seed", "3"])
    assert done.exit_code == 0, done.output
    names = ["resnet20_cifar_mlx.py", "resnet20_cifar_mlx.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    network = facts.network("resnet20_cifar")
    x = np.random.default_rng(0).standard_normal((2, *network.input), np.float32)
    np.save("x.npy", np.ascontiguousarray(np.moveaxis(x, 1, -1)))
    subprocess.run([sys.executable, "-c", _LOADED.format(name="resnet20_cifar_mlx")], check=True, env={"PATH": ""})
    wanted = interpret(network, draw(network, 3), x)["logits"]
    assert np.abs(np.moveaxis(np.load("y.npy"), -1, 1) - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert run.invoke(app, ["build", "resnet20_cifar", "--target", "mlx", "--seed", "3", "--check"]).exit_code == 0
    assert run.invoke(app, ["build", "resnet20_cifar", "--target", "mlx", "--seed", "4", "--check"]).exit_code == 1


def test_default_weights_need_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source draws its own."""
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["build", "resnet18", "--target", "mlx"]).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["resnet18_mlx.py"]


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        ("resnet32_cifar", "resnet20_cifar", "Missing"),
        ("resnet20_cifar", "resnet32_cifar", "not in model"),
        ("resnet20_cifar", "resnet20_cifar input=[1,32,32]", "Expected shape"),
    ],
)
def test_load_refuses_weights_that_do_not_fit(name: str, other: str, message: str, tmp_path: Path) -> None:
    """A missing tensor, one too many, another shape."""
    network = facts.network(*other.split())
    write_files([source_file.weights_file(network, draw(network), "w.safetensors")], tmp_path)
    with pytest.raises(ValueError, match=message):
        module.make(facts.network(name)).load_weights(str(tmp_path / "w.safetensors"))


EXCEPTIONS = """
rescompile: 1
name: exceptions
input: [64, 6, 6]
network:
- conv1: {conv: {channels: 64, kernel: 3}}
- conv2: {conv: {channels: 64, kernel: 3, bias: true, bias_init: 0.5}}
- group: [{conv3: {conv: {channels: 64, kernel: 3, init: torch_default, bias: true, bias_init: torch_default}}}, {bn: {norm: {scale_init: 0}}}]
- constant: {conv: {channels: 64, kernel: 3, init: 0}}
- scaled: {conv: {channels: 64, kernel: 3, init: torch_default, init_scale: 0.25}}
- he: {conv: {channels: 64, kernel: 3, init_scale: 0.25}}
- up: {conv_transpose: {channels: 32, kernel: 3, groups: 2, init: he_normal_fan_in}}
- global_avgpool
- flatten
- fc: {linear: {features: 300, bias_init: torch_default}}
"""


@pytest.mark.parametrize("name", ["resnet18", "exceptions"])
def test_own_initial_values_follow_the_rules(name: str, tmp_path: Path) -> None:
    """What the file draws has the spread that the spec asks for: deviations of large kernels, constants exactly."""
    network = elaborated(EXCEPTIONS, tmp_path) if name == "exceptions" else facts.network(name)
    mx.random.seed(0)
    made = arrays(module.make(network).parameters())
    for place in tensors.places(network):
        values = place.moved(draw(network)[place.name])
        if values.std() == 0:
            assert np.array_equal(made[place.path], values), place.name
            continue
        close = 0.05 if values.size > 4000 else 0.4
        assert abs(made[place.path].std() / values.std() - 1) < close, place.name
        assert abs(np.abs(made[place.path]).max() / np.abs(values).max() - 1) < 0.5, place.name


def test_optimizers_and_compile_take_the_module() -> None:
    """Three steps of SGD under `mx.compile`, which is given the state of the model, are those without it."""
    mx.enable_compile()
    network = shallow("resnet20_cifar")
    weights, x = drawn(network, 0, batch=4)
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    losses = []
    for compiled in (False, True):
        model, optimizer = model_of(network, weights), optim.SGD(0.01)
        model.set_dtype(mx.float32)
        step = nn.value_and_grad(model, lambda x, model=model: mx.mean((model(x) - 1) ** 2))

        def update(x: mx.array, step: Any = step, model: Any = model, optimizer: Any = optimizer) -> mx.array:
            loss, gradients = step(x)
            optimizer.update(model, gradients)
            return loss

        state = [model.state, optimizer.state]
        run = mx.compile(update, inputs=state, outputs=state) if compiled else update
        losses.append([run(given(x.astype(np.float32))).item() for _ in range(3)])
    assert np.allclose(*losses, rtol=1e-4)
    assert losses[0][2] < losses[0][0]


# --- what is refused --------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("word", ["update", "items", "state", "unfreeze"])
def test_steps_named_as_attributes_of_modules_are_refused(word: str, tmp_path: Path) -> None:
    network = elaborated(NAMED.format(word="plain").replace("layer1", word), tmp_path)
    with pytest.raises(Unavailable, match=f"{word} cannot be called '{word}' in MLX") as raised:
        rescompile.build(network, "mlx", structure_only=True)
    assert raised.value.diagnostics[0].code == "E0901"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Norm(eps=0.0), "norms need an eps above 0"),
        (Norm("group", eps=0.0, groups=2), "norms need an eps above 0"),
        (Dropout(1.0), "dropout needs a rate below 1"),
        (Act("leaky_relu", slope=1.5), "leaky ReLU needs a slope of at most 1"),
    ],
)
def test_what_modules_of_mlx_do_not_take_is_refused(kind: Any, message: str) -> None:
    with pytest.raises(Unavailable, match=f"it cannot be written in MLX, whose {message}"):
        source_file.check(network_of(series((4, 3, 3), a("it", kind))))


def test_attributes_of_modules_are_known() -> None:
    """Every attribute of nn.Module is refused as the name of a step."""
    text: Any = import_module("rescompile.backends.mlx.text")
    assert {name for name in dir(nn.Module) if not name.startswith("_")} <= text._MODULE


def test_a_missing_framework_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlx.nn", None)
    artifact = rescompile.build("resnet20_cifar", "mlx")
    with pytest.raises(Unavailable) as raised:
        artifact.module  # noqa: B018
    assert raised.value.diagnostics[0].help == "pip install 'rescompile[mlx]'"


WORDS = sorted(
    name.lower() for name in {*OF_MLX.imported, "model", "path", "pair", "Chain", "Sequential", "initialise"}
)


@pytest.mark.parametrize("word", [word for word in WORDS if word.isidentifier()])
def test_names_of_the_framework_as_names_of_a_spec(word: str, tmp_path: Path) -> None:
    """A block, an argument and a network that are called as something in the file: the module is that of harmless names."""
    network: Network = elaborated(NAMED.format(word=word), tmp_path)
    model = model_of(network, drawn(network, 0)[0])
    assert set(arrays(model.parameters())) == {place.path for place in tensors.places(network)}
    plain = elaborated(NAMED.format(word="plain"), tmp_path)
    assert skeleton(source_file.source(network)) == skeleton(source_file.source(plain))


HEAD = '"""x"""\n\nimport math\n\nimport mlx.core as mx\nfrom mlx import nn\n\n'


@pytest.mark.parametrize(
    "attack",
    [
        "import os", "import mlx.core as nn", "import mlx.nn as mx", "from mlx import core", "from mlx.nn import Module", "mx.load('x')",
        "mx.save('x', 1)", "mx.random.seed(0)", "mx.set_default_device(mx.cpu)", "mx.fast.metal_kernel('x')", "nn.Module.train = eval",
        "nn.quantize(1)", "math.os", "setattr(nn, 'x', 1)", "setattr(nn, '0', 1, 2)", "mx.compile(eval)", "mx.__dict__",
        "def __del__() -> None:\n    pass", "class A(nn.Module):\n    def __getattr__(self, x): pass", "eval('1')",
        "mx.random.state = 1", "x = ().__getitem__.__self__",
    ],
)  # fmt: skip
def test_check_refuses(attack: str) -> None:
    """Whatever generated source has no need of."""
    check(HEAD, OF_MLX)
    with pytest.raises(Refused):
        check(HEAD + attack, OF_MLX)
