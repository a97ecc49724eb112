"""Interfaces that external code depends on: the Python API, third-party backends, and consistent tables."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import json
import os
import pickle
import pkgutil
import re
import subprocess
import sys
import textwrap
import tomllib
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any, get_type_hints

import facts
import numpy as np
import onnx
import pytest
import yaml

import rescompile
from rescompile.backend import DEFAULTS, Artifact, built_in
from rescompile.backend import load as load_backend
from rescompile.diagnostics.errors import CheckFailed, SpecError, Unavailable, UsageError
from rescompile.ir import ops
from rescompile.ir.names import MODULE_ATTRIBUTES, RESERVED
from rescompile.ir.network import Network
from rescompile.lang import library
from rescompile.lang.spec.spec import Spec
from rescompile.records import record
from rescompile.weights import draw

# --- the three functions ----------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]


def test_the_three_functions(tmp_path: Path) -> None:
    """The documented use of `load`, `elaborate` and `build` works, and a spec and its network give the same file."""
    spec = rescompile.load("resnet18", ["parameters.classes=10", "input=[1, 32, 32]"])
    assert isinstance(spec, Spec)
    network = rescompile.elaborate(spec)
    assert isinstance(network, Network)
    assert (network.input, network.outputs) == ((1, 32, 32), {"logits": (10,)})
    artifact = rescompile.build(spec, "onnx", seed=4, opset=18)
    assert isinstance(artifact, Artifact)
    assert artifact.write(tmp_path / "m.onnx") == [tmp_path / "m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == artifact.to_bytes()
    assert rescompile.build(network, "onnx", seed=4, opset=18).to_bytes() == artifact.to_bytes()


def test_load_takes_names_and_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` takes a name of the zoo or a path (a str with a slash or .yaml, or a Path), and never confuses the two."""
    monkeypatch.chdir(ROOT)
    spec = rescompile.load("resnet18")
    for path in ("specs/resnet18.yaml", Path("specs/resnet18.yaml"), Path("specs/resnet18.yaml").resolve()):
        assert rescompile.elaborate(rescompile.load(path)) == rescompile.elaborate(spec)
    monkeypatch.chdir("specs")
    assert rescompile.elaborate(rescompile.load("resnet18.yaml")) == rescompile.elaborate(spec)
    for missing in ("resnet19", "missing/resnet18.yaml", "missing.yaml", ""):
        with pytest.raises(UsageError):
            rescompile.load(missing)


def test_build_takes_weights_of_either_kind(tmp_path: Path) -> None:
    """`build` takes weights as a mapping of NumPy arrays or as a safetensors file, and refuses those that misfit."""
    from safetensors.numpy import save_file

    spec = rescompile.load("wrn_22_2_B313")
    weights = dict(draw(rescompile.elaborate(spec), seed=9))
    path = tmp_path / "w.safetensors"
    save_file(weights, path)
    expected = rescompile.build(spec, "onnx", weights).to_bytes()
    drawn = onnx.load_from_string(rescompile.build(spec, "onnx", seed=9).to_bytes())
    assert onnx.load_from_string(expected).graph == drawn.graph
    for given in (path, str(path)):
        assert rescompile.build(spec, "onnx", given).to_bytes() == expected
    with pytest.raises(CheckFailed):
        rescompile.build(spec, "onnx", {"fc.bias": np.zeros(10, np.float32)})
    with pytest.raises(UsageError):
        rescompile.build(spec, "onnx", weights, structure_only=True)  # weights contradict a structure without weights


def test_build_takes_a_state_dict() -> None:
    """`build` takes a torch state dict, including parameters that require gradients and bfloat16 tensors."""
    torch = pytest.importorskip("torch", reason="creates the tensors: pip install 'rescompile[torch]'")
    network = facts.network("wrn_22_2_B313")
    weights = {name: torch.from_numpy(value) for name, value in draw(network, seed=9).items()}
    trained = {n: torch.nn.Parameter(value) if value.is_floating_point() else value for n, value in weights.items()}
    narrow = {n: value.bfloat16() if value.is_floating_point() else value for n, value in weights.items()}
    widened = {n: value.float() if value.is_floating_point() else value for n, value in narrow.items()}
    for given, same in ((trained, weights), (narrow, widened)):
        assert rescompile.build(network, "onnx", given).to_bytes() == rescompile.build(network, "onnx", same).to_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1]}, "not a list"),
        ({"weights": SimpleNamespace(state_dict=None)}, "give its state_dict()"),
        ({"weights": {"conv0.weight": [[1.0], [2.0, 3.0]]}}, "the weight 'conv0.weight' is not an array"),
        ({"seed": "4"}, "but is '4'"),
        ({"precision": "int8", "calibrate": [1]}, "not a list"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused(options: dict[str, Any], message: str) -> None:
    """Arguments of an unsupported type raise a UsageError that states what is expected."""
    with pytest.raises(UsageError) as refused:
        rescompile.build("wrn_22_2_B313", "onnx", **options).to_bytes()
    assert message in f"{refused.value} {refused.value.diagnostics[0].help}"


def test_none_is_the_default() -> None:
    """None stands for the default of every target option, so that callers can pass unset options on."""
    network = facts.network("wrn_22_2_B313")
    for target in ("onnx", "source"):
        options = {option.name: None for option in load_backend(target).OPTIONS}
        plain, given = rescompile.build(network, target), rescompile.build(network, target, **options)
        assert (given.to_bytes(), given.facts) == (plain.to_bytes(), plain.facts)


def test_source_takes_no_weights() -> None:
    """The source target refuses weights, which it would silently ignore, since the source initialises its own."""
    network = facts.network("wrn_22_2_B313")
    with pytest.raises(UsageError, match="the source initialises its own weights"):
        rescompile.build(network, "source", dict(draw(network)))


def test_networks_can_be_copied_and_pickled() -> None:
    """Networks can be deep-copied, and pickled for other processes."""
    network = facts.network("googlenet")
    assert copy.deepcopy(network) == network
    sent = pickle.loads(pickle.dumps(network))
    assert rescompile.build(sent, "source").to_bytes() == rescompile.build(network, "source").to_bytes()


def test_errors_are_of_the_documented_types(tmp_path: Path) -> None:
    """Every failure raises one of the documented exceptions, with all of its diagnostics."""
    spec = rescompile.load("resnet18")
    with pytest.raises(Unavailable, match="onxx"):
        rescompile.build(spec, "onxx")
    with pytest.raises(UsageError) as unknown:
        rescompile.build(spec, "onnx", opest=18)
    assert "opset" in str(unknown.value.diagnostics[0].help)
    for seed in (-1, 1 << 64, 1.5):
        with pytest.raises(UsageError):
            rescompile.build(spec, "onnx", seed=seed)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        rescompile.build(spec, "onnx", opset=30)
    bad = tmp_path / "bad.yaml"
    bad.write_text("rescompile: 1\nname: bad\ninput: [3, 8, 8]\nnetwork: [conv: {chanels: 3}, conv: {kernel: 1}]\n")
    with pytest.raises(SpecError) as refused:
        rescompile.elaborate(rescompile.load(bad))
    assert len(refused.value.diagnostics) >= 2


def test_public_names() -> None:
    """The public API consists of three typed, documented functions and the version."""
    assert sorted(rescompile.__all__) == ["__version__", "build", "elaborate", "load"]
    assert set(rescompile.__all__) <= set(dir(rescompile))
    assert rescompile.__version__ == version("rescompile")
    for function in (rescompile.load, rescompile.elaborate, rescompile.build):
        assert isinstance(function, FunctionType)
        assert "Raises" in inspect.getdoc(function)
        assert "return" in get_type_hints(function)
    assert list(inspect.signature(rescompile.build).parameters)[:3] == ["spec", "target", "weights"]
    with pytest.raises(AttributeError, match="biuld"):
        rescompile.biuld  # noqa: B018
    namespace: dict[str, Any] = {}
    exec("from rescompile import *", namespace)
    assert namespace["load"] is rescompile.load
    assert files("rescompile").joinpath("py.typed").is_file()


def modules() -> Iterator[ModuleType]:
    """Yield every module of the package, backends included; an editable install keeps these in a separate folder."""
    for package in ("rescompile", "rescompile.backends"):
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def test_no_submodule_shares_a_public_name() -> None:
    """No submodule has the name of a public function, which importing it would replace."""
    names = [module.__name__ for module in modules()]
    assert {"rescompile.pipeline", "rescompile.passes.fold_batchnorm", "rescompile.backends.onnx"} <= set(names)
    assert not {name.removeprefix("rescompile.") for name in names} & set(rescompile.__all__)
    assert all(isinstance(getattr(rescompile, name), FunctionType) for name in ("build", "elaborate", "load"))


#: The modules whose classes are used directly by users of the API or by authors of backends and passes.
DOCUMENTED = (
    "backend",
    "diagnostics.errors",
    "ir.network",
    "ir.ops.op",
    "ir.traversal",
    "passes",
    "weights.mapping",
    "weights.tensors",
)


def test_docstrings() -> None:
    """Every public module, class and function has a docstring, as have the methods of classes for users."""
    bare = []
    assert set(DOCUMENTED) < {module.__name__.removeprefix("rescompile.") for module in modules()}
    for module in modules():
        bare += [module.__name__] * (not module.__doc__)
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__ or not callable(thing):
                continue
            bare += [f"{module.__name__}.{name}"] * (not inspect.getdoc(thing))
            if inspect.isclass(thing) and module.__name__.removeprefix("rescompile.") in DOCUMENTED:
                methods = [key for key, value in vars(thing).items() if isinstance(value, FunctionType | property)]
                bare += [
                    f"{module.__name__}.{name}.{key}"
                    for key in methods
                    if not key.startswith("_") and not inspect.getdoc(getattr(thing, key))
                ]
    assert not bare


# --- tables that must be consistent -----------------------------------------------------------------------------------


def test_every_op_has_a_rule_in_onnx() -> None:
    """The ONNX backend has a rule for every op."""
    rules = importlib.import_module("rescompile.backends.onnx.ops").RULES
    assert set(rules) == set(ops.KINDS)


def test_every_op_has_a_spelling_in_source() -> None:
    """The torch backend has a spelling for every op."""
    table = importlib.import_module("rescompile.backends.torch.spellings").TABLE
    assert set(table) == set(ops.KINDS)


@pytest.mark.parametrize("target", ["onnx", "source"])
@pytest.mark.parametrize("rows", ["[double]", "[{rows: [double, {double: {times: 3}}]}]"], ids=["alone", "in a list"])
def test_a_third_party_op_without_a_rule_is_refused(
    target: str, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third-party op (docs/add-an-op.md) for which a target has no rule is refused by name."""

    @record(slots=False)
    class Double(ops.Kind):
        """An op that doubles its input."""

        word = "double"
        times: int = ops.attribute("int", "how often", 1)

    monkeypatch.setitem(ops.WORDS, "double", (Double, {}))
    path = tmp_path / "doubled.yaml"
    path.write_text(f"rescompile: 1\nname: doubled\ninput: [3, 8, 8]\nnetwork: {rows}\n")
    with pytest.raises(Unavailable, match="has no rule for the op 'double'"):
        rescompile.build(rescompile.load(path), target)


def test_every_op_is_in_the_table_of_ops() -> None:
    """Every subclass of `Kind` in rescompile is listed in the table of ops, and no two have the same name."""

    def below(kind: type) -> Iterator[type]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    assert {kind for kind in below(ops.Kind) if kind.__module__.startswith("rescompile.ir.ops.")} == set(ops.KINDS)
    assert len({kind.word for kind in ops.KINDS}) == len(ops.KINDS)


def test_library_and_ops_use_no_reserved_name() -> None:
    """No op has an attribute or name, and no library block a parameter or name, that rows reserve, such as `depth`."""
    for word in ops.WORDS:
        assert not set(ops.attributes(word)) & RESERVED, word
        assert word not in RESERVED
    for word in library.blocks():
        definition = yaml.safe_load(library.source(library.blocks()[word]).text)
        parameters = set(definition.get("parameters") or {})
        assert not parameters & RESERVED, word
        assert word not in RESERVED | set(ops.WORDS)


def test_module_attributes_are_those_of_torch() -> None:
    """The names that cannot name a step are all public attributes of torch modules, such as `forward` and `half`."""
    nn = pytest.importorskip("torch", reason="the list comes from torch: pip install torch").nn
    public = {name for module in (nn.Module(), nn.Sequential()) for name in dir(module) if not name.startswith("_")}
    assert public == MODULE_ATTRIBUTES


def test_every_built_in_backend_follows_the_protocol() -> None:
    """Every built-in backend has a suffix, documented options and `emit`."""
    assert "onnx" in built_in()
    for target in built_in():
        backend = load_backend(target)
        assert Path(f"network{backend.SUFFIX}").suffix in (backend.SUFFIX, ".py")
        assert [option.name for option in backend.OPTIONS if not option.help] == []
        assert callable(backend.emit)


# --- a third-party backend --------------------------------------------------------------------------------------------

BACKEND = '''
"""A target that lists the ops of a network with the sum of each weight."""

from rescompile.backend import Artifact, File, Op, Option, Recorded, interpret, walk

SUFFIX = ".txt"
OPTIONS = (Option("width", int, 20, "columns of a name", 1, 80), Option("upper", bool, False, "in capitals"))


def emit(network, weights, **options):
    """One line for each op."""
    lines = []
    for path, node in walk(network.root):
        if isinstance(node, Op):
            names = [f"{path}.{parameter.name}" for parameter in node.kind.parameters(node.input)]
            total = sum(float(weights[name].sum()) for name in names) if weights is not None else 0.0
            lines.append(f"{path:{options['width']}} {node.kind.word} {total:.6f}\\n")
    text = "".join(lines)
    text = text.upper() if options["upper"] else text
    text += f"# {network.sha256}\\n# " + network.text.replace("\\n", "\\n# ")
    return Artifact(network, SUFFIX, lambda name: [File(name, lambda: [text.encode()])], {"lines": len(lines)})


def evaluate(network, weights, x, **options):
    """The outputs of the interpreter in float32, so that the target is correct."""
    return interpret(network, weights, x, "fp32")


def extract(path):
    """The comments at its end."""
    sha256, *lines = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("#")]
    return Recorded("\\n".join(lines), sha256, (), ("option=width=30",))
'''


#: Backends that differ from the one above only in `evaluate` or its requirements.
OTHERS = {
    "rescompile_doubling": """
        def evaluate(network, weights, x, **options):
            return {name: 2 * value for name, value in interpret(network, weights, x, "fp32").items()}
    """,
    "rescompile_forgetful": "def evaluate(network, weights, x, **options):\n    return {}\n",
    "rescompile_failing": "def evaluate(network, weights, x, **options):\n    raise KeyError('conv1')\n",
    "rescompile_lacking": "EVALUATION_REQUIRES = {'a_runtime_that_is_not_here': 'pip install a-runtime'}\n",
}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Create a site folder as pip would leave it: modules, and a distribution that declares them as backends."""
    folder = tmp_path / "site"
    distribution = folder / "rescompile_listing-1.0.dist-info"
    distribution.mkdir(parents=True)
    (folder / "rescompile_listing.py").write_text(BACKEND)
    (folder / "rescompile_broken.py").write_text("import a_framework_that_is_not_here\n")
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: rescompile-listing\nVersion: 1.0\n")
    for name, text in OTHERS.items():
        (folder / f"{name}.py").write_text(
            f"from rescompile_listing import *\nfrom rescompile.backend import interpret\n{textwrap.dedent(text)}"
        )
    names = ["listing", "broken", *(name.removeprefix("rescompile_") for name in OTHERS)]
    lines = [f"{name} = rescompile_{name}" for name in names]
    (distribution / "entry_points.txt").write_text("\n".join(["[rescompile.backends]", *lines, ""]))
    return folder


def command(foreign: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `rescompile` in a separate process that finds the distribution, in the folder above it."""
    return subprocess.run(
        [sys.executable, "-m", "rescompile", *arguments],
        cwd=foreign.parent, env={**os.environ, "PYTHONPATH": str(foreign)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_backend_of_a_third_party(foreign: Path) -> None:
    """A third-party backend is found by its entry point, with its suffix and options and the usual weights."""
    done = command(foreign, "build", "resnet18", "--target", "listing", "--option", "width=30", "--json")
    assert done.returncode == 0, done.stderr
    text = (foreign.parent / "resnet18.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    # 20 convolutions, 20 norms, 17 activations, a max-pool, a global pool, a flatten, a linear layer
    assert json.loads(done.stdout)["lines"] == len(lines) == 61
    name, word, total = lines[0].split()
    network = facts.network("resnet18")
    weight = draw(network)["conv1.weight"]
    assert (name, word) == ("conv1", "conv")
    assert float(total) == pytest.approx(float(weight.sum()), abs=1e-4)
    assert lines[0].startswith("conv1" + " " * 26)


def test_passes_and_no_weights_apply_to_a_third_party(foreign: Path) -> None:
    """Passes and `--no-weights` apply to a third-party backend without its knowledge."""
    options = ("--no-weights", "--fold-batchnorm", "--option", "upper=true", "-o", "folded.txt")
    done = command(foreign, "build", "resnet18", "--target", "listing", *options)
    assert done.returncode == 0, done.stderr
    text = (foreign.parent / "folded.txt").read_text()
    words = [line.split()[1] for line in text.splitlines() if not line.startswith("#")]
    assert "NORM" not in words
    assert words.count("CONV") == 20


def test_extract_reads_files_of_a_third_party(foreign: Path) -> None:
    """`extract` reads a file of a third-party backend, chosen by the file's suffix."""
    assert command(foreign, "build", "resnet18", "--target", "listing", "--option", "width=30").returncode == 0
    done = command(foreign, "extract", "resnet18.txt")
    assert done.returncode == 0, done.stderr
    assert done.stdout == rescompile.elaborate(rescompile.load("resnet18")).text
    assert done.stderr == "built with --option=width=30\n"


def test_extract_reports_backends_that_cannot_be_loaded(foreign: Path) -> None:
    """If no backend reads the suffix, `extract` reports backends that cannot be loaded and may read it."""
    (foreign.parent / "model.drawing").write_text("nothing\n")
    done = command(foreign, "extract", "model.drawing")
    assert done.returncode == 4
    assert "reads files that end in '.drawing': the target 'broken' of rescompile-listing" in done.stderr


@pytest.mark.slow
def test_doctor_lists_third_parties(foreign: Path) -> None:
    """`doctor` lists third-party backends among the targets."""
    done = command(foreign, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    states = {target["name"]: target["works"] for target in json.loads(done.stdout)["targets"]}
    assert set(built_in()) < set(states)
    assert states["listing"]
    assert not states["broken"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--target", "listings"), 4, "did you mean 'listing'?"),
        (("--target", "listing", "--option", "widht=3"), 2, "did you mean 'width'?"),
        (("--target", "listing", "--option", "width=wide"), 2, "width must be an integer from 1 to 80, not 'wide'"),
        (("--target", "listing", "--option", "width=0"), 2, "width must be an integer from 1 to 80, not '0'"),
        (("--target", "listing", "--opset", "18"), 2, "opset"),
        (("--target", "broken"), 4, "a_framework_that_is_not_here"),
    ],
)
def test_mistakes_with_a_third_party(foreign: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    """The options of a third-party backend are checked as those of built-in ones, and none gives a traceback."""
    done = command(foreign, "build", "resnet18", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (foreign.parent / "resnet18.txt").exists()


def test_a_broken_third_party_is_reported_by_its_distribution(foreign: Path) -> None:
    """A broken third-party backend is reported by its distribution, not with an extra of rescompile to install."""
    done = command(foreign, "build", "resnet18", "--target", "broken")
    assert "rescompile[broken]" not in done.stderr
    assert "rescompile-listing" in done.stderr  # the distribution that provides it


def test_there_are_no_import_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    """No module imports itself through others, neither at module level nor inside a function, nor by `import_module`."""
    grimp = pytest.importorskip("grimp", reason="part of import-linter, a development dependency")
    monkeypatch.syspath_prepend(ROOT)  # `backends` is also a folder of the tests
    graph = grimp.build_graph("rescompile", "backends", exclude_type_checking_imports=True, cache_dir=None)
    assert "backends.torch.module" in graph.modules
    imported = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    for path in (ROOT / "rescompile").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        imported[module] |= {*re.findall(r"import_module\(\"(rescompile[\w.]*)\"\)", path.read_text("utf-8"))}
    sorter = TopologicalSorter(imported)
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_tests_share_code_through_support_modules() -> None:
    """No module of the tests imports a test module, and no two modules on the path of pytest have the same name."""
    found = []
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.relative_to(ROOT)}:{node.lineno}: {name}" for name in names if name.startswith("test_")]
    assert found == []
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
    modules = Counter(path.stem for folder in settings["pythonpath"] for path in (ROOT / folder).iterdir())
    modules.pop("__pycache__", None)
    assert [name for name, count in modules.items() if count > 1] == []


# --- verification of third-party backends -----------------------------------------------------------------------------


def test_a_third_party_can_be_verified(foreign: Path) -> None:
    """A third-party backend is verified through its `evaluate` function."""
    done = command(foreign, "verify", "resnet20_cifar", "--targets", "listing,onnx", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert [(each["target"], each["passed"]) for each in data["targets"]] == [("listing", True), ("onnx", True)]


@pytest.mark.parametrize("target", ["doubling", "forgetful"])
def test_a_wrong_third_party_fails_verification(foreign: Path, target: str) -> None:
    """A third-party backend with wrong or missing outputs fails by name, with the first part that differs."""
    done = command(foreign, "verify", "resnet20_cifar", "--targets", f"listing,{target}")
    assert done.returncode == 1, done.stderr
    rows = {line.split()[0]: line for line in reversed(done.stdout.splitlines()) if line}
    assert rows["listing"].split()[-1] == "ok"
    assert "differs  first in conv1" in rows[target]
    assert f"{target} is at fault" in done.stdout
    assert done.stdout.splitlines()[-1] == "FAILED"


@pytest.mark.slow
def test_by_default_third_parties_are_verified(foreign: Path) -> None:
    """By default `verify` includes third-party backends, and reports why others cannot be evaluated."""
    (foreign / "rescompile_doubling.py").unlink()
    (foreign / "rescompile_forgetful.py").unlink()
    (foreign / "rescompile_failing.py").unlink()
    done = command(foreign, "verify", "plain_mnist_fc_10", "--json")
    assert done.returncode == 0, done.stderr
    verified = [each["target"] for each in json.loads(done.stdout)["targets"]]
    assert verified[-1] == "listing"
    assert set(verified[:-1]) <= set(built_in())
    assert "lacking is not verified" in done.stderr
    assert "pip install a-runtime" in done.stderr
    assert "broken is not verified" in done.stderr


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("failing", 2, "the target 'failing' cannot be evaluated: KeyError: 'conv1'"),
        ("lacking", 4, "pip install a-runtime"),
        ("listings", 2, "did you mean 'listing'?"),
    ],
)
def test_mistakes_in_verification_of_a_third_party(foreign: Path, target: str, code: int, message: str) -> None:
    """Each failure to evaluate a third-party backend is a coded error without a traceback."""
    done = command(foreign, "verify", "plain_mnist_fc_10", "--targets", target)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# --- the interface of backends ----------------------------------------------------------------------------------------


def test_the_public_names_for_backends() -> None:
    """Every name in `rescompile.backend.__all__` exists, is documented, and is what rescompile itself uses."""
    surface = importlib.import_module("rescompile.backend")
    assert len(set(surface.__all__)) == len(surface.__all__)
    for name in surface.__all__:
        thing = getattr(surface, name)
        assert name in ("INPUT", "LOGITS", "GENERATOR", "Array", "Node") or inspect.getdoc(thing), name
    assert surface.Network is Network
    assert surface.ops is ops
    with pytest.raises(AttributeError, match="Netwrok"):
        surface.Netwrok  # noqa: B018


@pytest.mark.parametrize("file", ["rescompile_dot.py", "tinygrad/rescompile_tinygrad/__init__.py"])
def test_the_documented_backends_import_only_public_names(file: str) -> None:
    """The backends in the documentation import only public names of `rescompile.backend` and `rescompile.codegen`."""
    page = (ROOT / "docs" / "add-a-backend.md").read_text(encoding="utf-8")
    example = page.partition(f"```python file: {file}\n")[2].partition("```")[0]
    nodes = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {
        node.module or "": {alias.name for alias in node.names} for node in nodes if isinstance(node, ast.ImportFrom)
    }
    assert len(imported) == len(nodes)
    ours = {module: names for module, names in imported.items() if module.startswith("rescompile")}
    assert "rescompile.backend" in ours
    for module, names in ours.items():
        assert module in ("rescompile.backend", "rescompile.codegen")
        assert names <= set(importlib.import_module(module).__all__)


def test_the_public_names_of_code_generation() -> None:
    """Every name in `rescompile.codegen.__all__` exists and has a docstring and a place in the documentation."""
    surface = importlib.import_module("rescompile.codegen")
    page = (ROOT / "docs" / "add-a-backend.md").read_text(encoding="utf-8")
    table = page.partition("### The public names of `rescompile.codegen`\n")[2]
    assert set(re.findall(r"`(\w+)(?:\(.*?\))?`", "".join(re.findall(r"^\|(.*?)\|", table, re.MULTILINE)))) == set(
        surface.__all__
    )
    for name in surface.__all__:
        assert inspect.getdoc(getattr(surface, name)), name


def test_declarations_of_backends_import_no_numpy() -> None:
    """Listing the options of all targets, as `build --help` does, imports no heavy package."""
    script = """
import importlib, sys
import rescompile.backend as backend
for name in backend.built_in():
    assert importlib.import_module(f"rescompile.backends.{name}").OPTIONS
heavy = {"numpy", "torch", "onnxruntime", "pydantic", "jinja2", "rescompile.codegen", "rescompile.ir.network"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


#: Files in which the name of a target is used as data or has another meaning, and the reason.
NAMES = {
    "analysis/conventions.py": "a counter of another library, named as that library",
    "weights/profiles/__init__.py": "the library whose tensors have other layouts",
    "runtimes/__init__.py": "the targets whose artifacts runtimes run; extras of pip; names of runtimes",
    "runtimes/device.py": "packages whose versions are reported",
    "runtimes/keras.py": "the version of a library",
    "runtimes/mlx.py": "the version of a library",
    "runtimes/torch.py": "the version of a library",
    "bench/contenders.py": "the runtime with that name",
    "bench/timed_models.py": "the version of a library",
}


def test_the_core_contains_no_target_names() -> None:
    """The core contains no target's name, as code like `if target == "onnx"` would make a backend irreplaceable."""
    root = Path(str(files("rescompile")))
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in built_in()
    }
    assert found == set(NAMES)


def test_built_in_backends_declare_everything() -> None:
    """Built-in backends declare every optional attribute explicitly rather than relying on defaults."""
    for target in built_in():
        backend = importlib.import_module(f"rescompile.backends.{target}")
        for name in DEFAULTS:
            assert hasattr(backend, name), f"{target}: {name}"
