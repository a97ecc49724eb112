"""What is particular to the target `flax`; test_frameworks.py has what all targets with channels last share."""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import facts
import numpy as np
import pytest
from abilities import source_of
from op_cases import a, series
from op_cases import network as network_of
from typer.testing import CliRunner

for package in ("torch", "jax", "flax"):
    pytest.importorskip(package, reason="runs one of the targets: pip install 'rescompile[torch,flax]'")

from flax import nnx
from flax_models import ALL, apart, arrays, evaluated, in_double, model_of, module, source_file, tensors
from sources import agree, drawn, elaborated, skeleton
from variants import shallow

import rescompile
from rescompile.cli import app
from rescompile.codegen.allow_list import Refused, check
from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network
from rescompile.ir.ops import AvgPool
from rescompile.weights import draw

OF_FLAX: Any = import_module("rescompile.backends.flax.allowed").ALLOWED


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with in_double():
        yield


def text_of(name: str) -> str:
    """The source of a network of the zoo. Skips the test where Flax has no way to write it."""
    return source_of("flax", name)


# --- the text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", facts.zoo())
@pytest.mark.sampled
def test_padding_is_always_explicit(name: str) -> None:
    """What Flax pads by default depends on the size of the map."""
    for node in ast.walk(ast.parse(text_of(name))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "nnx.Conv":
            assert "padding" in [keyword.arg for keyword in node.keywords]
    assert "SAME" not in text_of(name)


# --- names and numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1)], ids=str)
def test_windows_beyond_an_axis_of_one_value(shape: tuple[int, int]) -> None:
    """XLA on CPUs (jax 0.10) adds wrongly in such windows where a batch has 4,096 values or more."""
    for kernel, count_pad in product(((2, 2), (3, 3), (2, 3)), (True, False)):
        network = network_of(series((2048, *shape), a("it", AvgPool(kernel, ceil=True, count_pad=count_pad))))
        weights, x = drawn(network, 0, batch=2)
        agree(network, weights, x, module.outputs(model_of(network, weights), x))


def test_names_are_those_of_the_tree() -> None:
    names = [place.path for place in tensors.places(facts.network("resnet50"))]
    assert names[:6] == ["conv1.kernel", "bn1.scale", "bn1.bias", "bn1.mean", "bn1.var", "layer1.0.conv1.kernel"]
    assert names[-2:] == ["fc.kernel", "fc.bias"]


@pytest.mark.parametrize("style", ["modules", "flat"])
@pytest.mark.parametrize("name", ["densenet_40_k12_cifar", "stochastic_depth_110"])
def test_styles(name: str, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other styles have the same tensors and outputs."""
    network = shallow(name)
    weights, x = drawn(network, 0, batch=2)
    right = module.source
    monkeypatch.setattr(module, "source", lambda network, **options: right(network, style, **options))
    agree(network, weights, x, evaluated(network, weights, x))


def test_the_order_of_named_modules_survives_split_and_merge() -> None:
    """nnx.Dict sorts names: l1, l10, l2. In a DenseNet the layers would run in another order."""
    network = shallow("densenet_40_k12_cifar")
    weights, x = drawn(network, 0)
    model = model_of(network, weights)
    model.eval()
    wanted = module.outputs(model, x)
    assert apart(module.outputs(nnx.merge(*nnx.split(model)), x), wanted) == 0
    compiled = nnx.jit(lambda model, x: model(x))(model, np.moveaxis(x, 1, -1))
    assert np.array_equal(np.asarray(compiled), wanted["logits"])


def test_other_sizes_of_the_image() -> None:
    """A generated module takes the sizes that its network does."""
    network = facts.network("resnet20_cifar")
    other = facts.network("resnet20_cifar", "input=[3,40,56]")
    weights, x = drawn(other, 0, batch=1)
    agree(other, weights, x, evaluated(network, weights, x))


# --- files ------------------------------------------------------------------------------------------------------------

_LOADED = """
import sys, numpy
import {name} as home
from flax import nnx
assert not {{"rescompile", "torch"}} & set(sys.modules)
model = home.resnet20_cifar(rngs=nnx.Rngs(0))
home.load(model, "{name}.safetensors")
model.eval()
numpy.save("y.npy", model(numpy.load("x.npy")))
"""


def test_build_writes_source_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SPEC_flax.py`, and beside it the weights, which the file reads itself in a process without rescompile."""
    monkeypatch.chdir(tmp_path)
    run = CliRunner()
    done = run.invoke(app, ["build", "resnet20_cifar", "--target", "flax", "--seed", "3"])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "resnet20_cifar_flax.py",
        "resnet20_cifar_flax.safetensors",
    ]
    network = facts.network("resnet20_cifar")
    x = np.random.default_rng(0).standard_normal((2, *network.input), np.float32)
    np.save("x.npy", np.moveaxis(x, 1, -1))
    script = _LOADED.format(name="resnet20_cifar_flax")
    subprocess.run([sys.executable, "-c", script], check=True, env={"JAX_PLATFORMS": "cpu", "PATH": ""})
    wanted = interpret(network, draw(network, 3), x)["logits"]
    assert np.abs(np.load("y.npy") - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert run.invoke(app, ["build", "resnet20_cifar", "--target", "flax", "--seed", "3", "--check"]).exit_code == 0
    assert run.invoke(app, ["build", "resnet20_cifar", "--target", "flax", "--seed", "4", "--check"]).exit_code == 1


def test_default_weights_need_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source draws its own."""
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["build", "resnet18", "--target", "flax"]).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["resnet18_flax.py"]


def test_load_refuses_weights_that_do_not_fit() -> None:
    """Another shape, a missing tensor, one too many."""
    small, large = facts.network("resnet20_cifar"), facts.network("resnet32_cifar")
    with tempfile.TemporaryDirectory() as folder:
        for network, other, message in ((small, large, "lacks"), (large, small, "lacks"), (small, None, "lacks")):
            home, factory = import_module("rescompile.codegen.execution").executed(network, source_file.source(network))
            other = other or facts.network("resnet20_cifar", "input=[1,32,32]")
            path = Path(folder) / "w.safetensors"
            import_module("rescompile.files.atomic_write").write_files(
                [source_file.weights_file(other, draw(other), path.name)], path.parent, force=True
            )
            with pytest.raises(
                ValueError, match=message if network is not small or other is not large else "which the model lacks"
            ):
                home.load(factory(rngs=nnx.Rngs(0)), str(path))


@pytest.mark.parametrize(("name", "settings"), [("resnet18", ()), ("fixup_resnet110_cifar", ("parameters.n=1",))])
def test_own_initial_values_follow_the_rules(name: str, settings: tuple[str, ...]) -> None:
    """What the file draws has the spread that the spec asks for: means and deviations of large kernels, constants exactly."""
    network = facts.network(name, *settings)
    made = arrays(nnx.state(module.make(network), ALL))
    drawn_here = {place.path: place.moved(draw(network)[place.name]) for place in tensors.places(network)}
    for tensor, values in drawn_here.items():
        if values.size < 4000 or values.std() == 0:
            assert values.std() > 0 or np.array_equal(made[tensor], values), tensor
            continue
        assert abs(made[tensor].std() / values.std() - 1) < 0.05, tensor
        assert abs(np.abs(made[tensor]).max() / np.abs(values).max() - 1) < 0.5, tensor


# --- what is refused --------------------------------------------------------------------------------------------------

SKIPPED = """
rescompile: 1
name: skipped
input: [3, 8, 8]
network:
- conv0: {conv: {channels: 4, kernel: 3}}
- unit:
    residual:
      branch:
      - conv1: {conv: {channels: 4, kernel: 3}}
      - side: {body: [{aux: {conv: {channels: 2, kernel: 1}}}], output: early, mode: always}
- global_avgpool
- flatten
- fc: {linear: 10}
survival: {schedule: {each: [0.5]}, unit: batch, rescale: test}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SKIPPED, "cannot give the output 'early' from inside it"),
        (SKIPPED.replace("conv0", "rngs"), "rngs cannot be called 'rngs' in Flax"),
        (SKIPPED.replace("conv0", "perturb"), "perturb cannot be called 'perturb' in Flax"),
        (SKIPPED.replace("conv1", "order"), "order cannot be called 'order' in Flax"),
    ],
)
def test_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    network = elaborated(text, tmp_path)
    with pytest.raises(Unavailable, match=message) as raised:
        rescompile.build(network, "flax", structure_only=True)
    assert raised.value.diagnostics[0].code == "E0901"


def test_reserved_names_are_taken_from_the_dialect() -> None:
    """Every attribute of nnx.Module, and every one that sequences of named modules have of their own, is refused as the name of a
    step, or the language refuses it already."""
    text: Any = import_module("rescompile.backends.flax.text")
    assert {name for name in dir(nnx.Module) if not name.startswith("_")} <= text._MODULE
    written = "".join(import_module("rescompile.backends.flax.support").SUPPORT[name] for name in ("Chain", "Scanned"))
    nodes = [*ast.walk(ast.parse(written))]
    given = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    methods = {node.name for node in nodes if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}
    assert given | methods <= text.OWN


def test_a_missing_framework_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flax.nnx", None)
    artifact = rescompile.build("resnet20_cifar", "flax")
    with pytest.raises(Unavailable) as raised:
        artifact.module  # noqa: B018
    assert raised.value.diagnostics[0].help == "pip install 'rescompile[flax]'"


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
WORDS = sorted(
    name.lower()
    for name in {*OF_FLAX.imported, "rngs", "model", "path", "load", "kept", "dropped", "pair", "Chain", "survive"}
)


@pytest.mark.parametrize("word", [word for word in WORDS if word.isidentifier()])
def test_names_of_the_framework_as_names_of_a_spec(word: str, tmp_path: Path) -> None:
    """A block, an argument and a network that are called as something in the file: the module is that of harmless names."""
    network: Network = elaborated(NAMED.format(word=word), tmp_path)
    model = model_of(network, drawn(network, 0)[0])
    assert set(arrays(nnx.state(model, ALL))) == {place.path for place in tensors.places(network)}
    assert skeleton(source_file.source(network)) == skeleton(
        source_file.source(elaborated(NAMED.format(word="plain"), tmp_path))
    )


HEAD = '"""x"""\n\nimport jax\nimport jax.numpy as jnp\nimport json\nimport numpy as np\nfrom flax import nnx\n\n'


@pytest.mark.parametrize(
    "attack",
    [
        "import os", "import jax as np", "from jax import numpy", "from flax import linen", "jax.config.update('a', 1)",
        "jax.numpy.load('x')", "jnp.load('x')", "np.load('x')", "np.memmap.tofile", "np.fromfile('x')", "np.save('x', 1)",
        "nnx.Module.train = eval", "nnx.bridge", "json.load(open('x'))", "json.decoder", "setattr(nnx, 'x', 1)",
        "setattr(nnx, '0', 1, 2)", "setattr(nnx, '__class__', 1)", "jax.lib.xla_client", "jnp.os.system('id')",
        "nnx.jit(eval)", "def __del__() -> None:\n    pass", "class A(nnx.Module):\n    def __getattr__(self, x): pass",
        "eval('1')", "raise eval", "type(nnx)", "nnx.__dict__", "x = ().__iter__.__self__",
    ],
)  # fmt: skip
def test_check_refuses(attack: str) -> None:
    """Whatever generated source has no need of."""
    check(HEAD, OF_FLAX)
    with pytest.raises(Refused):
        check(HEAD + attack, OF_FLAX)
