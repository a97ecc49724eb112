"""Every opset from 13 to the newest that onnx supports, in the lowest IR version of its release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generator import generate
from typer.testing import CliRunner

import rescompile
from rescompile.cli import app
from rescompile.ir.network import Network, Op, Parallel, walk
from rescompile.passes import apply
from rescompile.weights import Weights
from rescompile.weights.batch_statistics import trial

onnx = pytest.importorskip("onnx", reason="it checks the files")
onnxruntime = pytest.importorskip("onnxruntime", reason="it runs the files")

OPSETS = range(13, 29)
#: The last opset that ONNX Runtime 1.31 runs, and the last IR version that it reads.
LAST_RUN, LAST_READ = 26, 13
#: Seeds of random specs that together have the ops of the zoo and every merge; test_ops.py covers each op alone.
SEEDS = range(40)


def words(network: Network) -> Iterator[str]:
    """Yield the ops and merges of a network, with the attributes on which their rules depend."""
    for _, node in walk(network.root):
        if isinstance(node, Op):
            yield f"{node.kind.word} {getattr(node.kind, 'kind', '')}".strip()
        elif isinstance(node, Parallel):
            yield node.merge
            if node.split:
                yield "split"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Network, Weights]]:
    """Return networks that together have every op and merge."""
    folder = tmp_path_factory.mktemp("specs")
    missing = {
        "conv", "linear", "maxpool", "avgpool", "global_avgpool", "adaptive_avgpool", "flatten", "scale", "subsample",
        "pad_channels", "act hardswish", "act gelu", "act silu", "norm batch", "norm group", "upsample nearest",
        "upsample bilinear", "add", "concat", "mul", "gate", "split",
    }  # fmt: skip
    found = []
    for seed in SEEDS:
        (folder / f"{seed}.yaml").write_text(generate(seed).text, "utf-8")
        network = rescompile.elaborate(rescompile.load(str(folder / f"{seed}.yaml")))
        if missing & {*words(network)}:
            missing -= {*words(network)}
            found.append((network, trial(network, seed)))
    assert not missing
    return found


def outputs(model: bytes, x: np.ndarray) -> list[Any]:
    """Return what ONNX Runtime computes."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"input": x}))


def emitted(network: Network, weights: Weights, **options: Any) -> bytes:
    """Return the file of a network."""
    return rescompile.build(network, "onnx", weights, **options).to_bytes()


#: The outputs of the default opset, by the number of the case.
DEFAULT: dict[int, list[Any]] = {}


@pytest.mark.parametrize("opset", OPSETS)
def test_every_op_exists_in_every_opset(opset: int, cases: list[tuple[Network, Weights]]) -> None:
    """The checker accepts every operator with its attributes, and ONNX Runtime computes the same as in the default opset."""
    for at, (network, weights) in enumerate(cases):
        model = emitted(network, weights, opset=opset)
        proto = onnx.load_from_string(model)
        onnx.checker.check_model(proto, full_check=True)
        assert proto.opset_import[0].version == opset
        assert proto.ir_version == lowest(opset)
        if opset <= LAST_RUN:
            x = np.random.default_rng(at).standard_normal((2, *network.input), np.float32)
            if at not in DEFAULT:
                DEFAULT[at] = outputs(emitted(network, weights), x)
            for got, wanted in zip(outputs(model, x), DEFAULT[at], strict=True):
                np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def lowest(opset: int) -> int:
    """Return the IR version of the first release of onnx with an opset."""
    return int(min(row[1] for row in onnx.helper.VERSION_TABLE if row[2] == opset))


def test_all_opsets_of_onnx_are_known() -> None:
    """The newest opset of onnx is known; a newer one needs a row in the table of versions."""
    assert onnx.defs.onnx_opset_version() in OPSETS


@pytest.mark.parametrize("opset", [13, 14, 15, 18, 26])
def test_free_sizes_in_every_opset(opset: int, tmp_path: Path) -> None:
    """A pool to a fixed size computes its bins at run time in every opset, from operators that changed between opsets."""
    text = "rescompile: 1\nname: free\ninput: [3, 9, 7]\nnetwork: [{adaptive_avgpool: {size: [2, 3]}}]\n"
    (tmp_path / "free.yaml").write_text(text)
    network = rescompile.elaborate(rescompile.load(str(tmp_path / "free.yaml")))
    weights = trial(network)
    x = np.random.default_rng(0).standard_normal((2, 3, 11, 5), np.float32)
    model = emitted(network, weights, opset=opset, dynamic="height,width")
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    (got,), (wanted,) = outputs(model, x), outputs(emitted(network, weights, dynamic="height,width"), x)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_the_ir_version_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The IR version can be chosen and is recorded, so that another build gives the same bytes."""
    monkeypatch.chdir(tmp_path)
    for opset, ir in ((17, 10), (13, 8), (21, 13)):
        given = [
            "build",
            "resnet20_cifar",
            "-t",
            "onnx",
            "--opset",
            str(opset),
            "--ir",
            str(ir),
            "-o",
            "m.onnx",
            "--force",
        ]
        assert CliRunner().invoke(app, given).exit_code == 0
        assert onnx.load("m.onnx").ir_version == ir
        result = CliRunner().invoke(app, ["extract", "m.onnx", "-o", "m.yaml", "--force"], catch_exceptions=False)
        assert f"--ir={ir}" in result.stderr
    for wrong in ("6", "15", "x"):
        result = CliRunner().invoke(
            app, ["build", "resnet20_cifar", "-t", "onnx", "--ir", wrong], catch_exceptions=False
        )
        assert result.exit_code == 2
        assert "ir" in result.stderr


@pytest.mark.parametrize("opset", [13, 17, 26])
def test_half_precision_in_every_opset(opset: int, cases: list[tuple[Network, Weights]]) -> None:
    for network, weights in cases[:3]:
        folded, less = apply(network, weights, {"fold_batchnorm": True})
        assert less is not None
        model = emitted(folded, less, opset=opset, precision="fp16")
        onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
        outputs(model, np.zeros((1, *network.input), np.float32))
