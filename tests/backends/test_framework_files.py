"""Files of the targets `flax`, `keras` and `mlx`: names, styles, weights, and refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any

import facts
import numpy as np
import pytest
from frameworks import FRAMEWORKS, Framework
from typer.testing import CliRunner
from variants import shallow

pytest.importorskip("torch", reason="the support of the suite is written with torch: pip install 'rescompile[torch]'")

from sources import agree, drawn, skeleton
from spec_texts import elaborated

import rescompile
from rescompile.cli import app
from rescompile.codegen.allow_list import Refused, check
from rescompile.diagnostics.errors import Unavailable
from rescompile.files.atomic_write import write_files
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network
from rescompile.weights import draw

#: Settings that leave one block in each row of resnet20_cifar.
SHORT = tuple(f"layer{row}.depth=1" for row in (1, 2, 3))

# --- names and numbers ------------------------------------------------------------------------------------------------

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


def allowed(target: str) -> Any:
    """Return the allow-list for files of a target."""
    return import_module(f"rescompile.backends.{target}.allowed").ALLOWED


@pytest.mark.parametrize(
    ("framework", "word"),
    [
        (framework, word)
        for framework in FRAMEWORKS.values()
        for word in sorted({*map(str.lower, allowed(framework.target).imported), *framework.words})
        if word.isidentifier()
    ],
    ids=str,
)
def test_names_of_the_framework_as_names_of_a_spec(framework: Framework, word: str, tmp_path: Path) -> None:
    """A block, an argument and a network named after something in the file yield the program of harmless names."""
    network, models = elaborated(NAMED.format(word=word), tmp_path), framework.models
    with models.in_double():
        model = models.model_of(network, drawn(network, 0)[0])
    assert {*models.values(model)} == {place.path for place in models.tensors.places(network)}
    plain = elaborated(NAMED.format(word="plain"), tmp_path)
    assert skeleton(models.source_file.source(network)) == skeleton(models.source_file.source(plain))


@pytest.mark.parametrize(
    ("step", "target", "name", "word"),
    [
        *((step, "flax", "Flax", word) for step in ("fc", "conv1") for word in ("rngs", "perturb", "order")),
        *((step, "mlx", "MLX", word) for step in ("fc", "conv1") for word in ("update", "items", "state", "unfreeze")),
        ("fc", "keras", "Keras", "add_3"),
    ],
)
def test_steps_named_as_attributes_of_modules_are_refused(
    step: str, target: str, name: str, word: str, tmp_path: Path
) -> None:
    """Such names are refused in the network and in a block; Keras gives names like add_3 to unnamed layers."""
    network = elaborated(NAMED.format(word="plain").replace(step, word), tmp_path)
    with pytest.raises(Unavailable, match=f"{word} cannot be called '{word}' in {name}") as raised:
        rescompile.build(network, target, structure_only=True)
    assert raised.value.diagnostics[0].code == "E0901"


@pytest.mark.parametrize(
    ("framework", "style"),
    [
        (framework, style)
        for framework in FRAMEWORKS.values()
        for option in import_module(f"rescompile.backends.{framework.target}").OPTIONS
        if option.name == "style"
        for style in option.choices
        if style != option.default
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["densenet_40_k12_cifar", "stochastic_depth_110"])
def test_styles(framework: Framework, style: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The styles other than the default have the same outputs."""
    network, models = shallow(name), framework.models
    weights, x = drawn(network, 0, batch=2)
    right = models.module.source
    monkeypatch.setattr(models.module, "source", lambda network, **options: right(network, style, **options))
    with models.in_double():
        agree(network, weights, x, models.evaluated(network, weights, x))


@pytest.mark.parametrize("target", ["flax", "mlx"])
def test_other_sizes_of_the_image(target: str) -> None:
    """Generated modules of Flax and MLX accept other image sizes; a Keras model accepts the size of its `image_size` only."""
    network, models = facts.network("resnet20_cifar", *SHORT), FRAMEWORKS[target].models
    other = facts.network("resnet20_cifar", *SHORT, "input=[3,40,56]")
    weights, x = drawn(other, 0, batch=1)
    with models.in_double():
        agree(other, weights, x, models.evaluated(network, weights, x))


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", [pytest.param(target, marks=[pytest.mark.slow] * (target == "keras")) for target in FRAMEWORKS]
)
@pytest.mark.slow_for("flax")
def test_build_writes_source_and_weights(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`build` writes SPEC_TARGET.py and its weights, which load in a process without rescompile; what Keras saves on
    one backend loads on another."""
    pytest.importorskip("jax", reason="a framework, and a backend of Keras: pip install jax")
    framework = FRAMEWORKS[target]
    assert framework.models
    monkeypatch.chdir(tmp_path)
    command = ["build", "resnet20_cifar", "--target", target, *(part for each in SHORT for part in ("--set", each))]
    done = CliRunner().invoke(app, [*command, "--seed", "3"])
    assert done.exit_code == 0, done.output
    name = f"resnet20_cifar_{target}"
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.py", f"{name}.safetensors"}
    network = facts.network("resnet20_cifar", *SHORT)
    x = np.random.default_rng(0).standard_normal((2, *network.input), np.float32)
    np.save("x.npy", np.ascontiguousarray(np.moveaxis(x, 1, -1)))
    wanted = interpret(network, draw(network, 3), x)["logits"]
    for script, environment in framework.scripts:
        subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PATH": "", **environment})
        assert np.abs(np.load("y.npy").reshape(wanted.shape) - wanted).max() < 1e-4 * np.abs(wanted).max()
        Path("y.npy").unlink()
    for seed, status in (("3", 0), ("4", 1)):
        assert CliRunner().invoke(app, [*command, "--seed", seed, "--check"]).exit_code == status


@pytest.mark.parametrize("target", FRAMEWORKS)
def test_default_weights_need_no_file(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With default weights, only the source is written, which initialises its parameters itself."""
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["build", "resnet18", "--target", target]).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"resnet18_{target}.py"]


@pytest.mark.parametrize("framework", FRAMEWORKS.values(), ids=str)
@pytest.mark.slow_for("flax")
def test_load_refuses_weights_that_do_not_fit(framework: Framework, tmp_path: Path) -> None:
    """`load` refuses a missing tensor, an unexpected one and another shape, and leaves the model unchanged."""
    models, file = framework.models, tmp_path / "w.safetensors"
    small = facts.network("resnet20_cifar", *SHORT)
    large = facts.network("resnet20_cifar", "layer1.depth=2", *SHORT[1:])
    grey = facts.network("resnet20_cifar", *SHORT, "input=[1,32,32]")
    cases = ((large, small), (small, large), (small, grey))
    for (network, other), message in zip(cases, framework.refusals, strict=True):
        write_files([models.source_file.weights_file(other, draw(other), file.name)], tmp_path, force=True)
        model, load = models.loading(network)
        before = models.values(model)
        with pytest.raises(ValueError, match=message):
            load(str(file))
        after = models.values(model)
        assert all(np.array_equal(before[name], after[name]) for name in before)


EXCEPTIONS = """
rescompile: 1
name: exceptions
input: [64, SIZE]
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


@pytest.mark.parametrize("framework", FRAMEWORKS.values(), ids=str)
@pytest.mark.parametrize(
    "name",
    ["resnet18", "fixup_resnet110_cifar parameters.n=1", *(f"exceptions {size}" for size in ("6", "6,6", "6,6,6"))],
)
@pytest.mark.slow_for("flax")
def test_initial_values_follow_the_rules(framework: Framework, name: str, tmp_path: Path) -> None:
    """Initial values that a file draws have the spread that the spec requires, constants are exact, and tensors of one
    shape differ."""
    zoo, *settings = name.split()
    if zoo == "exceptions":
        # Keras has no grouped conv_transpose
        text = EXCEPTIONS.replace("groups: 2, ", "") if framework.target == "keras" else EXCEPTIONS
        network: Network = elaborated(text.replace("SIZE", settings[0]), tmp_path)
    else:
        network = facts.network(zoo, *settings)
    initial, alike = framework.models.initial(network), dict[tuple[int, ...], list[Any]]()
    weights = draw(network)
    for place in framework.models.tensors.places(network):
        values, found = place.value(weights), initial[place.path]
        if values.std() == 0:
            assert np.array_equal(found, values), place.name
            continue
        close = 0.05 if values.size > 4000 else 0.4
        assert abs(found.std() / values.std() - 1) < close, place.name
        assert abs(np.abs(found).max() / np.abs(values).max() - 1) < 0.5, place.name
        alike.setdefault(found.shape, []).append(found)
    assert not any(np.array_equal(*pair) for each in alike.values() for pair in combinations(each, 2))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "package"), [("flax", "flax.nnx"), ("mlx", "mlx.nn")])
def test_a_missing_framework_names_the_extra(target: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    artifact = rescompile.build("resnet20_cifar", target)
    with pytest.raises(Unavailable) as raised:
        artifact.module  # noqa: B018
    assert raised.value.diagnostics[0].help == f"pip install 'rescompile[{target}]'"


@pytest.mark.parametrize(
    ("framework", "attack"),
    [(framework, attack) for framework in FRAMEWORKS.values() for attack in framework.attacks],
    ids=str,
)
def test_the_check_refuses_attacks(framework: Framework, attack: str) -> None:
    """The check accepts the imports of a file, and refuses each attack after them."""
    check(framework.head, allowed(framework.target))
    with pytest.raises(Refused):
        check(framework.head + attack, allowed(framework.target))
