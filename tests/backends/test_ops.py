"""Every op in every target, over a grid of its attributes, compared with the interpreter; alone and in a numbered list."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from op_cases import CASES, a, network, random_input, random_weights, series

from rescompile.backend import load
from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network
from rescompile.ir.ops import KINDS, Border, ConvTranspose, Dropout, Kind, MaxPool, Norm, Scale, Shape
from rescompile.ir.window_evaluation import Array
from rescompile.weights import Weights

#: Cases per op and variant: the grid of a convolution alone has thousands. Keras models take longest to build.
SAMPLE = 6
SAMPLES = {"keras": 2}
Outputs = Callable[[Network, dict[str, Array], Array], Array]


def options(target: str, **given: Any) -> dict[str, Any]:
    return {option.name: option.default for option in load(target).OPTIONS} | given


def single(weights: dict[str, Array]) -> Weights:
    return Weights({name: (lambda value=value: np.asarray(value, np.float32)) for name, value in weights.items()})


def by_onnx(opset: int) -> Outputs:
    def outputs(net: Network, weights: dict[str, Array], x: Array) -> Array:
        model = load("onnx").emit(net, single(weights), **options("onnx", opset=opset)).to_bytes()
        onnx.checker.check_model(onnx.load(io.BytesIO(model)), full_check=True)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"input": np.asarray(x, np.float32)})
        return np.asarray(logits)

    return outputs


def by_torch(net: Network, weights: dict[str, Array], x: Array) -> Array:
    module = load("torch").emit(net, single(weights), **options("torch")).module.double().eval()
    module.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    with torch.no_grad():
        return np.asarray(module(torch.tensor(x)))


def by_flax(net: Network, weights: dict[str, Array], x: Array) -> Array:
    jax: Any = pytest.importorskip("jax", reason="runs one of the targets: pip install 'rescompile[flax]'")
    flax_module: Any = import_module("rescompile.backends.flax.module")
    double = Weights({name: (lambda value=value: value) for name, value in weights.items()})
    with jax.enable_x64(True):
        model = flax_module.make(net, double)
        model.eval()
        return flax_module.outputs(model, x)["logits"]


def by_keras(net: Network, weights: dict[str, Array], x: Array) -> Array:
    os.environ.update(KERAS_BACKEND="torch", KERAS_TORCH_DEVICE="cpu")  # read when Keras is imported
    pytest.importorskip("keras", reason="runs one of the targets: pip install 'rescompile[keras]'")
    from keras_models import evaluated, set_precision

    load("keras").check(net)  # type: ignore[attr-defined]
    set_precision("float64")
    try:
        return evaluated(net, weights, x)["logits"]
    finally:
        set_precision("float32")


def by_mlx(net: Network, weights: dict[str, Array], x: Array) -> Array:
    mx: Any = pytest.importorskip("mlx.core", reason="runs one of the targets: pip install 'rescompile[mlx]'")
    mlx_module: Any = import_module("rescompile.backends.mlx.module")
    mx.set_default_device(mx.cpu)
    import_module("rescompile.backends.mlx.source_file").check(net)
    mx.disable_compile()  # a C++ compiler takes seconds for a function of one line
    try:
        found: Array = mlx_module.outputs(mlx_module.make(net, single(weights)).eval(), np.asarray(x, np.float32))[
            "logits"
        ]
    finally:
        mx.enable_compile()
    return found


#: How outputs are computed, and the largest error of a single op relative to its largest value: a few roundings in
#: float32 or float64.
TARGETS: dict[str, tuple[Outputs, float]] = {
    # The opsets at which an operator changes, and the last that ONNX Runtime 1.31 runs.
    **{f"onnx, opset {opset}": (by_onnx(opset), 4e-6) for opset in (13, 14, 15, 17, 18, 21, 26)},
    "torch": (by_torch, 1e-13),
    "flax": (by_flax, 1e-13),
    "keras": (by_keras, 1e-12),
    "mlx": (by_mlx, 4e-6),
}


def cases(word: str, sample: int) -> list[tuple[Kind, Shape]]:
    """Return a sample of the cases of an op, up to about this many of each variant and rank."""
    variants: dict[Any, list[tuple[Kind, Shape]]] = {}
    for kind, shape in CASES:
        if kind.word == word:
            variants.setdefault((getattr(kind, kind.chooser, None), len(shape)), []).append((kind, shape))
    return [case for listed in variants.values() for case in listed[:: max(1, len(listed) // sample)]]


def _is_refused(target: str, kind: Kind) -> bool:
    """Return whether a target refuses an op by name."""
    match target, kind:
        case "keras", ConvTranspose():  # with groups, or with stride and dilation
            return kind.groups > 1 or (max(kind.stride) > 1 and max(kind.dilation) > 1)
        case "mlx", ConvTranspose():  # with padding beyond one kernel step at a stride
            sizes = zip(kind.kernel, kind.stride, kind.padding, kind.dilation, strict=True)
            return any(s > 1 and p > d * (k - 1) for k, s, p, d in sizes)
        case "mlx", Norm():
            return kind.eps == 0
        case "mlx", Dropout():
            return kind.rate == 1
    return False


#: The slow targets take a minute in all, because Flax compiles and Keras and MLX build a model per case; of ONNX, the
#: first and the last opset are quick.
QUICK = ("onnx, opset 13", "onnx, opset 26", "torch")
EACH = [pytest.param(target, marks=[] if target in QUICK else [pytest.mark.slow]) for target in TARGETS]


@pytest.mark.parametrize("target", EACH)
@pytest.mark.parametrize("word", [kind.word for kind in KINDS])
def test_op_agrees_with_the_interpreter(word: str, target: str) -> None:
    outputs, bound = TARGETS[target]
    for kind, shape in cases(word, SAMPLES.get(target, SAMPLE)):
        alone = network(series(shape, a("it", kind)))
        listed = network(series(shape, lambda s, k=kind: series(s, a("0", k), a("1", Scale(1.5)), name="list")))
        for net in (alone, listed):
            weights, x = random_weights(net), random_input(shape)
            wanted = interpret(net, weights, x)["logits"]
            if _is_refused(target, kind):
                with pytest.raises(Unavailable):
                    outputs(net, weights, x)
                continue
            found = outputs(net, weights, x)
            assert found.shape == wanted.shape, kind
            error = np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30)
            assert error <= bound, f"{kind} on {shape}: {error:.2g}"


@pytest.mark.parametrize("target", EACH)
def test_a_border_of_zeros_before_a_max_pool(target: str) -> None:
    """The zeros of a border win where all values are negative; ONNX Runtime would turn a Pad into the padding of the
    pool, which never wins."""
    outputs, bound = TARGETS[target]
    shape = (2, 8, 8)
    net = network(series(shape, a("0", Border((1, 1), (1, 1))), a("1", MaxPool((3, 3), (2, 2))), name="list"))
    x = -np.abs(random_input(shape)) - 0.1
    found, wanted = outputs(net, {}, x), interpret(net, {}, x)["logits"]
    assert not wanted[..., 0].any()
    assert np.abs(found - wanted).max() <= bound * np.abs(wanted).max()
