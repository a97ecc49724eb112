"""The models that are timed: the network of a spec as live modules and as ONNX files, or a peer as a PyTorch module and ONNX files."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rescompile import backend as backend_api
from rescompile.analysis.cost import cost
from rescompile.bench import peers, torch_modules
from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network
from rescompile.ir.ops import Shape
from rescompile.passes import PASSES, apply
from rescompile.passes import options as passes_of
from rescompile.quantize import calibration, quantizer
from rescompile.records import record
from rescompile.runtimes import FILE_TARGET, MODULE_TARGET, recipes
from rescompile.runtimes.jobs import live_module
from rescompile.weights import Array, Weights
from rescompile.weights.batch_statistics import trial

#: Inputs repeat after this many images, since the outputs of an image do not depend on the others, and float64 is slow.
DISTINCT = 4


@record
class BenchModel:
    """A network that can be timed. `exact` returns the outputs in float64, `base` is the torch module in float32, `timed` the one
    that is timed: the same network after exact passes. `live` makes it as a live module of another target; a peer has none.
    `write` writes the ONNX file for an input in a form (`form_of`) to a folder, once, and returns
    its path."""

    name: str
    exact: Callable[[Array], Mapping[str, Array]]
    base: Any
    timed: Any
    write: Callable[[Path, Array, str], Path]
    input: Shape
    parameters: int
    macs: int
    sha256: str | None = None
    passes: tuple[str, ...] = ()
    network: Network | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    live: Callable[[str], Any] | None = None

    def lacks(self, target: str) -> str | None:
        """Return the reason why a model cannot be built for a target, or None if it can; only peers have such reasons."""
        if self.live is not None or target in (FILE_TARGET, MODULE_TARGET):
            return None
        return f"{self.name} is a module of the target {MODULE_TARGET}, not of {target}"

    def module(self, target: str = MODULE_TARGET) -> Any:
        """Return a copy of the timed module of a target in evaluation mode, since runtimes may change it. Raises Unavailable for
        a target that it lacks."""
        if target == MODULE_TARGET:
            return copy.deepcopy(self.timed)
        if self.live is None:
            raise Unavailable.of("E0901", str(self.lacks(target)))
        return self.live(target)


def of_spec(network: Network, options: Mapping[str, Any], seed: int, label: str = "") -> BenchModel:
    """Return the network of a spec after passes, with weights under which nothing overflows or vanishes. `label` distinguishes
    it from others of the same spec.

    Passes that change the function (`--drop`) apply to the reference too, exact passes only to the timed network.
    """
    other = {step.keyword: options[step.keyword] for step in PASSES if not step.exact and step.keyword in options}
    network, _ = apply(network, None, other)
    weights = trial(network, seed, inputs(network.input, DISTINCT, seed))
    exact = {key: value for key, value in options.items() if key not in other}
    compiled, folded = apply(network, weights, exact)
    assert folded is not None
    base = live_module(network, weights)
    total = cost(compiled)
    name = f"{compiled.name} {label}".rstrip()
    return BenchModel(
        name, lambda x: interpret(network, weights, x), base, live_module(compiled, folded) if exact else base,
        _writer(name, compiled, folded, exact, seed),
        compiled.input, total.parameters, total.macs, compiled.sha256, compiled.passes, compiled,
        live=partial(live_module, compiled, folded),
    )  # fmt: skip


def form_of(runtime: str, precision: str) -> str:
    """Return the form of the ONNX file that a runtime takes for a precision: fp16; for int8 the name of the runtime, whose
    recipe makes the file; else fp32: in tf32 and bf16 the runtime rounds by itself."""
    return runtime if precision == "int8" else "fp16" if precision == "fp16" else "fp32"


def _writer(
    name: str, network: Network, weights: Weights, given: Mapping[str, Any], seed: int
) -> Callable[[Path, Array, str], Path]:
    def make(path: Path, x: Array, form: str) -> None:
        backend = backend_api.load(FILE_TARGET)
        if form in recipes.RECIPES:
            wanted = {**recipes.options(form, "int8"), **given, "fold_batchnorm": True}
            done = passes_of(network.passes)
            more = {step.keyword for step in PASSES if step.keyword in wanted} - set(done)
            compiled, folded = apply(network, weights, {key: wanted[key] for key in more})
            assert folded is not None
            data = calibration.drawn(network.input, calibration.COUNT, seed)
            options = backend_api.checked(backend, FILE_TARGET, {"batch": len(x), "precision": "int8"})
            quantizer.artifact(backend, compiled, folded, data, recipes.scheme(form), **options).write(path)
        else:
            options = backend_api.checked(backend, FILE_TARGET, {"batch": len(x), "precision": form})
            backend.emit(network, weights, **options).write(path)

    return _once(name, make)


def of_peer(text: str, shape: Shape, seed: int, exporter: str) -> BenchModel:
    """Return a network of torchvision or timm for inputs of a shape; torch.onnx.export writes its ONNX file."""
    module = peers.make(text, shape, seed)
    x = inputs(shape, 1, seed)
    parameters, macs = torch_modules.counts(module, x)

    def export(path: Path, x: Array, form: str) -> None:
        if form in recipes.RECIPES:  # with the same quantiser and the same data as compiled networks
            drawn = calibration.drawn(shape, calibration.COUNT, seed).calibration
            count = -(-len(drawn) // len(x))
            batches = (
                np.concatenate([drawn[(number * len(x) + at) % len(drawn)]() for at in range(len(x))])
                for number in range(count)
            )
            model = quantizer.convert(
                write(path.parent, x, "fp32"), batches, quantizer.SCHEMES[recipes.scheme(form)], text
            )
            path.write_bytes(model.SerializeToString(deterministic=True))
        else:
            torch_modules.export(module, text, x, path, exporter, form)

    write = _once(text, export)
    versions = {"torch": torch_modules.library().__version__}
    facts = {
        "exporter": f"torch.onnx.export, {exporter}, opset {torch_modules.EXPORTERS[exporter]}",
        "exported_with": versions,
    }
    exact = partial(torch_modules.outputs, module, double=True)
    return BenchModel(text, exact, module, module, write, shape, parameters, macs, facts=facts)


def _once(name: str, make: Callable[[Path, Array, str], None]) -> Callable[[Path, Array, str], Path]:
    """Write each file of a model on its first use, under a free name in the folder: a peer has different files for different
    input sizes, and the names of two models may differ only in characters that file names cannot have."""
    files: dict[tuple[Path, int, str], Path] = {}

    def write(folder: Path, x: Array, form: str) -> Path:
        key = folder, len(x), form
        if key not in files:
            wanted = folder / _file(name, x, form)
            path, numbers = wanted, itertools.count(2)
            while path.exists():
                path = wanted.with_stem(f"{wanted.stem}_{next(numbers)}")
            make(path, x, form)
            files[key] = path
        return files[key]

    return write


def _file(name: str, x: Array, form: str) -> str:
    kind = "" if form == "fp32" else f"_int8_{form}" if form in recipes.RECIPES else f"_{form}"
    return f"{re.sub('[^A-Za-z0-9_.-]', '_', name)}{kind}_batch{len(x)}.onnx"


def inputs(shape: Shape, batch: int, seed: int) -> Array:
    """Return seeded standard-normal input of [batch, channels, height, width], in which DISTINCT images repeat."""
    distinct = np.random.default_rng(seed).standard_normal((min(batch, DISTINCT), *shape), np.float32)
    return np.ascontiguousarray(np.resize(distinct, (batch, *shape)))
