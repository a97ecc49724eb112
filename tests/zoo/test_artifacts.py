"""Digests of everything that the commands write, which a refactoring must not change.

`pytest --update-golden tests/zoo/test_artifacts.py` rewrites `golden/artifacts/`. With RESCOMPILE_DUMP=FOLDER the contents are
written to that folder, so that two versions can be compared with `diff -r`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import facts
import pytest
from generator import generate
from typer.testing import CliRunner

import rescompile
from rescompile.cli import AllCommands, WeightsCommands, app
from rescompile.ir.network import Op, walk
from rescompile.ir.ops import Conv

FOLDER = Path(__file__).parent / "golden" / "artifacts"
DUMP = os.environ.get("RESCOMPILE_DUMP")

#: Passes with which the source of every network is written; `split` only for networks with grouped convolutions.
PASSES = {"": [], "folded": ["--fold-batchnorm"], "split": ["--form", "a"]}
STYLES = ("classes", "flat")
#: Split depthwise networks have thousands of paths and take seconds each, so only one of them is written.
DEPTHWISE = "mobilenet_v1"
RANDOM = range(60)
#: Networks whose files are compared with weights: a small one of each family.
WEIGHTED = (
    "resnet18", "resnet50", "resnext50_32x4d", "densenet121", "googlenet", "resnet20_cifar", "preact_resnet164_cifar",
    "wrn_40_4", "densenet_bc_100_k12_cifar", "highway_mnist_conv_16", "darknet_resnet18", "drn_c_26",
)  # fmt: skip


def output(*arguments: str, code: int = 0) -> bytes:
    """Return the standard output of a command."""
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"})
    assert done.exit_code == code, done.output
    return done.stdout_bytes


def source(spec: str, style: str, how: str) -> Iterator[tuple[str, bytes]]:
    """Yield the source of a spec with some passes; nothing if the passes need grouped convolutions that it lacks."""
    given = ["build", spec, "-t", "source", "--style", style, *PASSES[how], "-o", "-"]
    done = CliRunner().invoke(app, given)
    if done.exit_code == 2 and how == "split" and b"E0804" in done.stderr_bytes:
        return
    assert done.exit_code == 0, done.output
    yield f"{Path(spec).stem}.{style}{how and '.'}{how}.py", done.stdout_bytes


def sources_of_the_zoo() -> Iterator[tuple[str, bytes]]:
    """Yield the source of every network, with and without passes."""
    for name in facts.zoo():
        yield from source(name, "classes", "")
        yield from source(name, "classes", "folded")
        if name == DEPTHWISE or groups(name) <= 64:
            yield from source(name, "classes", "split")
        yield from source(name, "flat", "")  # not split: without shared classes, hundreds of MiB


def groups(name: str) -> int:
    """Return the largest number of groups of a convolution of a network."""
    ops = [node.kind for _, node in walk(facts.network(name).root) if isinstance(node, Op)]
    return max((kind.groups for kind in ops if isinstance(kind, Conv)), default=1)


def sources_of_random_specs(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the source of random specs in both styles, with and without passes."""
    for seed in RANDOM:
        path = folder / f"random{seed}.yaml"
        path.write_text(generate(seed).text, encoding="utf-8")
        for style in STYLES:
            for how in PASSES:
                yield from source(str(path), style, how)


def sources_in_flax() -> Iterator[tuple[str, bytes]]:
    """Yield the Flax source of one network of each family, and with scans if a row has equal blocks."""
    for name in WEIGHTED:
        for how in ([], ["--scan"]):
            done = CliRunner().invoke(app, ["build", name, "-t", "flax", *how, "-o", "-"])
            if how and b"E0901" in done.stderr_bytes:
                continue
            assert done.exit_code == 0, done.output
            yield f"{name}{'.scan' if how else ''}.py", done.stdout_bytes


def sources_in_mlx() -> Iterator[tuple[str, bytes]]:
    """Yield the MLX source of one network of each family."""
    for name in WEIGHTED:
        yield f"{name}.py", output("build", name, "-t", "mlx", "-o", "-")


def sources_in_keras() -> Iterator[tuple[str, bytes]]:
    """Yield the Keras source of one network of each family."""
    for name in WEIGHTED:
        yield f"{name}.py", output("build", name, "-t", "keras", "-o", "-")


def structures() -> Iterator[tuple[str, bytes]]:
    """Yield the ONNX graph of every network, without weights."""
    for name in facts.zoo():
        yield f"{name}.onnx", output("build", name, "-t", "onnx", "--no-weights", "-o", "-")


def weighted() -> Iterator[tuple[str, bytes]]:
    """Yield ONNX files with the weights of seed 0."""
    for name in WEIGHTED:
        yield f"{name}.weighted.onnx", output("build", name, "-t", "onnx", "-o", "-")


def canonical() -> Iterator[tuple[str, bytes]]:
    """Yield the canonical text and hash of every network."""
    for name in facts.zoo():
        network = rescompile.elaborate(rescompile.load(name))
        yield f"{name}.canonical.yaml", f"{network.text}\n{network.sha256}".encode()


def data() -> Iterator[tuple[str, bytes]]:
    """Yield the JSON output of `list`, and of `show` and `validate` for every network."""
    yield "list.json", output("list", "--json")
    for name in facts.zoo():
        yield f"{name}.show.json", output("show", name, "--json")
        yield f"{name}.validate.json", output("validate", name, "--json")


def helps() -> Iterator[tuple[str, bytes]]:
    """Yield the help of every command."""

    yield "rescompile.help.txt", output("--help")
    for words in [(name,) for name in AllCommands.table] + [("weights", name) for name in WeightsCommands.table]:
        yield f"{'_'.join(words)}.help.txt", output(*words, "--help")


def check(name: str, artifacts: Iterator[tuple[str, bytes]], update: bool) -> None:
    """Assert that the digests of artifacts equal those of a golden file."""
    found = {}
    for key, content in artifacts:
        if DUMP:
            path = Path(DUMP, name, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        found[key] = hashlib.sha256(content).hexdigest()[:16]
    path = FOLDER / f"{name}.json"
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n", encoding="utf-8", newline="\n")
    golden = json.loads(path.read_text(encoding="utf-8"))
    different = sorted(key for key in found.keys() | golden.keys() if found.get(key) != golden.get(key))
    assert not different, f"{len(different)} of {len(golden)} differ: {different[:20]}"


@pytest.mark.slow
def test_source_of_the_zoo(update_golden: bool) -> None:
    check("source", sources_of_the_zoo(), update_golden)


@pytest.mark.slow
def test_source_of_random_specs(update_golden: bool, tmp_path: Path) -> None:
    check("random", sources_of_random_specs(tmp_path), update_golden)


def test_source_in_flax(update_golden: bool) -> None:
    check("flax", sources_in_flax(), update_golden)


def test_source_in_mlx(update_golden: bool) -> None:
    check("mlx", sources_in_mlx(), update_golden)


def test_source_in_keras(update_golden: bool) -> None:
    check("keras", sources_in_keras(), update_golden)


@pytest.mark.slow
def test_structure(update_golden: bool) -> None:
    check("structure", structures(), update_golden)


def test_weighted(update_golden: bool) -> None:
    check("weighted", weighted(), update_golden)


def test_canonical(update_golden: bool) -> None:
    check("canonical", canonical(), update_golden)


@pytest.mark.slow
def test_data(update_golden: bool) -> None:
    check("data", data(), update_golden)


def test_help(update_golden: bool) -> None:
    check("help", helps(), update_golden)


def test_every_golden_file_is_compared() -> None:
    """Every golden file is read by a test."""
    assert {path.stem for path in FOLDER.glob("*.json")} == {
        "source", "random", "flax", "keras", "mlx", "structure", "weighted", "canonical", "data", "help",
    }  # fmt: skip
