"""Arguments that generated source omits have that value by default, in the framework and in the functions of the file."""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from itertools import product
from typing import Any

import pytest
import torch
from op_cases import CASES, a, network, series

from rescompile.codegen.class_plan import Layer
from rescompile.codegen.table_dialect import TableDialect
from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.ops import Kind, Shape

os.environ.setdefault("KERAS_BACKEND", "torch")
#: For each target, the package of its backend and the module of its framework.
TARGETS = {
    "source": ("torch", "torch"),
    "flax": ("flax", "jax"),
    "keras": ("keras", "keras"),
    "mlx": ("mlx", "mlx.core"),
}
#: The floats that any target omits as a default argument.
DEFAULTS = sorted(
    {
        text
        for package, _ in TARGETS.values()
        for text in import_module(f"rescompile.backends.{package}.spellings").DEFAULTS.values()
        if "." in text
    }
)
#: Signatures of compiled functions of torch, which `inspect` cannot read.
COMPILED = torch.overrides.get_testing_overrides()
#: A call by its name, the class of the layer passed to it, an argument, and the value at which it is omitted.
LeftOut = set[tuple[str, str, str, str]]
#: The layers that functions of a file build, and to which they pass their other arguments.
BUILT = {f"conv_transpose{suffix}": f"layers.Conv{axes}DTranspose" for axes, suffix in ((1, "1d"), (2, ""), (3, "3d"))}
#: Words by which a framework denotes a value.
WORDS = {"valid": 0}


@pytest.fixture
def left_out(monkeypatch: pytest.MonkeyPatch) -> LeftOut:
    """Collect the arguments that calls omit while the test runs."""
    found: LeftOut = set()
    right = TableDialect._call

    def call(self: Any, layer: Layer, name: str, values: Any, arguments: Any, in_place: bool) -> str:
        def seen(layer: Layer, texts: Any) -> Any:
            positional, keywords = arguments(layer, texts)
            of = values[0] if name == "partial" else name
            layer_class = keywords.get("layer", "")
            dropped = [key for key, text in keywords.items() if self.defaults.get(key) == text]
            found.update((of, layer_class, key, self.defaults[key]) for key in dropped)
            return positional, keywords

        return right(self, layer, name, values, seen, in_place)

    monkeypatch.setattr(TableDialect, "_call", call)
    return found


def representatives() -> Iterator[tuple[Kind, Shape]]:
    """Yield cases in which each attribute of each op and variant has each of its values, and each float each default."""
    met: set[tuple[Any, ...]] = set()
    for kind, shape in CASES:
        for case in (kind, *at_defaults(kind)):
            variant = (type(case), getattr(case, case.chooser, None))
            values = [(*variant, key, repr(value)) for key, value in attributes(case).items()] or [variant]
            if not met.issuperset(values):
                met.update(values)
                yield case, shape


def at_defaults(kind: Kind) -> Iterator[Kind]:
    """Yield an op with each of its floats at each float that is a default of some argument."""
    floats = [name for name, value in attributes(kind).items() if isinstance(value, float)]
    for name, text in product(floats, DEFAULTS):
        with suppress(ValueError):
            yield replace(kind, **{name: float(text)})


def attributes(kind: Kind) -> dict[str, Any]:
    """Return the attributes of an op by name."""
    return {name: getattr(kind, name) for name in kind.__dataclass_fields__}


def default(function: Callable[..., Any], argument: str, layer: Any = None) -> Any:
    """Return the default of an argument, which a base class or the layer built by the function may define; `empty` without one."""
    called = function.__init__ if inspect.isclass(function) else COMPILED.get(function, function)
    parameters = inspect.signature(called).parameters
    if argument in parameters:
        found = parameters[argument].default
    elif layer or "layer" in parameters:
        found = default(layer or parameters["layer"].default, argument)
    elif inspect.isclass(function) and function is not object:
        found = default(function.__mro__[1], argument)
    else:
        found = inspect.Parameter.empty
    if isinstance(found, tuple) and len(set(found)) == 1:  # one size for all axes
        found = found[0]
    return WORDS.get(found, found) if isinstance(found, str) else found


@pytest.mark.parametrize(
    "target", [pytest.param(t, marks=[pytest.mark.slow] if t in ("flax", "keras") else []) for t in TARGETS]
)
@pytest.mark.slow_for("mlx", "source")
def test_arguments_that_are_left_out_are_defaults(target: str, left_out: LeftOut) -> None:
    package, framework = TARGETS[target]
    pytest.importorskip(framework, reason=f"has the defaults: pip install 'rescompile[{package}]'")
    file: Any = import_module(
        "rescompile.backends.source" if target == "source" else f"rescompile.backends.{package}.source_file"
    )
    homes: dict[tuple[str, str], dict[str, Any]] = {}
    for kind, shape in representatives():
        net = network(series(shape, a("it", kind)))
        before = set(left_out)
        try:
            getattr(file, "check", lambda network: None)(net)
            text = file.source(net)
        except Unavailable:
            left_out.intersection_update(before)
            continue
        for name, layer, *_ in left_out - before:
            homes.setdefault((name, layer), {"text": text})
    wrong = []
    for name, layer, argument, text in sorted(left_out):
        home = homes[name, layer]
        if len(home) == 1:
            exec(compile(home["text"], "network", "exec"), home)
        built = layer or BUILT.get(name)
        found = default(eval(name, home), argument, eval(built, home) if built else None)
        if found != ast.literal_eval(text):
            wrong.append(f"{name}: {argument}={text} is left out, its default is {found}")
    assert len(left_out) > 5
    assert not wrong, "\n".join(wrong)
