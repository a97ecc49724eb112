"""Keras for the code generator: how it writes values and layers, and what its files require and may contain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from rescompile.codegen.channels_last_dialect import ChannelsLast, has_batch_norms
from rescompile.codegen.class_plan import IN, Class, ClassPlan, Layer, Repeated, Stage, Use
from rescompile.codegen.dialect import Imports, call_arguments, numbered_name
from rescompile.codegen.docstrings import random_merges
from rescompile.codegen.entries import MakeLayer
from rescompile.codegen.source_text import ident, names_in, quoted, range_ends
from rescompile.codegen.statements import Apply, Element
from rescompile.codegen.table_dialect import Arguments, Texts
from rescompile.codegen.terms import literal, python
from rescompile.ir import ops
from rescompile.ir.network import Op, Parallel, walk

from .allowed import ALLOWED
from .built import Averaged, Built, BuiltBeside, Concatenated, How
from .functions import COLUMN, MADE, Function, functions
from .spellings import DEFAULTS, TABLE, by_axes, layer_class, needs_function
from .support import SUPPORT

_IMPORTS: Imports = (
    (
        ("json", "import json"),
        ("math", "import math"),
        ("sys", "import sys"),
        ("Callable", "from collections.abc import Callable"),
    ),
    (("keras", "import keras"), ("np", "import numpy as np")),
)
#: Names of variables and arguments that functions reserve; no realistic body needs more variables.
_OWN = frozenset({
    COLUMN, MADE, "name", "x", "y", "z", "u", "v", "w", "part", "at", "branch", "inputs", "image_size", "first", "load",
})  # fmt: skip
_LOCALS = frozenset(f"{prefix}{number}" for prefix in ("y", "parts") for number in range(1000)) | {"parts"}
#: Layers that take only values of as many axes as the first one.
_INSISTENT = ("layers.BatchNormalization", "layers.GroupNormalization", "layers.PReLU")


class Keras(ChannelsLast):
    """The dialect of Keras; `unbiased` running variances are those of PyTorch. `free` contains the axes of the image
    whose size is dynamic."""

    title = "Keras"
    array = "KerasTensor"
    package = "rescompile.backends.keras"
    allowed = ALLOWED
    imports = _IMPORTS
    reserved = ALLOWED.imported | SUPPORT.keys() | _OWN | _LOCALS
    support = SUPPORT
    functions = "ops"
    masks = True
    target = "keras"
    table = TABLE
    defaults = DEFAULTS
    longest = -1  # one op per line
    identity = "None"
    drop_path = "drop_path"
    filters: Sequence[tuple[str, Callable[..., Any]]]

    def __init__(self, unbiased: bool, free: frozenset[str] = frozenset()) -> None:
        self.unbiased, self.free = unbiased, free
        self.filters = (
            ("functions", lambda program: functions(program, self.reserved)),
            ("ends", range_ends),
            ("own_arguments", _own_arguments),
            ("mentions", lambda text, name: name in names_in(text)),
            ("copy_of", self.copy),
            ("image", self.image),
            ("recursion", _recursion),
            ("framework", _framework),
        )

    def spelled(self, op: Op) -> tuple[str | None, ...]:
        """Return the names of the layer and of the function of an op, with the number of axes that the layer insists on
        once it was called."""
        layer, function = super().spelled(op)
        return f"{layer} with ndim={len(op.input) + 1}" if layer in _INSISTENT else layer, function

    def module_name(self, layer: Layer) -> str:
        """Return the class of a layer with parameters or state, or the function that builds it; empty for any other
        op."""
        name = super().module_name(layer)
        if name == "layers.BatchNormalization" and self.unbiased:
            return "BatchNormalization"
        return layer_class(layer) if layer.kind is ops.Conv and not needs_function(layer) else name

    def function_name(self, layer: Layer) -> str | None:
        """Return the function of an op without parameters, or the class of its layer; empty for the identity."""
        plain = layer.kind in (ops.MaxPool, ops.AvgPool) and not needs_function(layer)
        return layer_class(layer) if plain else super().function_name(layer)

    # --- layers

    def module(self, layer: Layer, in_place: bool) -> str:
        """Return the call of a layer or a function with one name and value for all: only compared, never written."""
        return self.layer(layer, "x", How(""))

    def function(self, layer: Layer, value: str, in_place: bool) -> str:
        """Return the call that applies an op without parameters; the identity returns the value itself."""
        name = self.function_name(layer)
        return self._applied(layer, name, value) if name else value

    def layer(self, layer: Layer, value: str, how: How) -> str:
        """Return the call that builds a layer and applies it; an op without parameters needs no name."""
        name = self.module_name(layer)
        return self._applied(layer, name, value, how) if name else self.function(layer, value, False)

    def _applied(self, layer: Layer, name: str, value: str, how: How | None = None) -> str:
        """Return a layer that is built and called, or a function that is called."""
        arguments = self.spelling(layer.kind).arguments
        is_layer = name.startswith("layers.") or name[0].isupper()

        def given(layer: Layer, texts: Texts) -> Arguments:
            positional, keywords = arguments(layer, texts)
            own = {"name": _label(how.label)} if how else {}
            if how and how.again and not is_layer:
                own = {"layer": f"once({MADE}, {layer_class(layer)})", **own}
            return positional, {**keywords, **own}

        if how and how.again and is_layer:
            name = f"once({MADE}, {name})"
        text = self._call(layer, name, () if is_layer else (value,), given, False)
        return f"{text}({value})" if is_layer else text

    # --- values

    def expression(self, value: Any) -> str:
        """Return the text of a value. The spatial mean as a vector is one layer."""
        match value:
            case Built(MakeLayer(layer), inner, how):
                return self.layer(layer, self.expression(inner), how)
            case Built():
                return self.built(value)
            case Averaged(make, values):
                each = make.how.unit == "sample"
                listed = ", ".join(map(self.expression, values))
                return f"drop_path([{listed}], {COLUMN}, {make.how.rate}, each_sample={each})"
            case BuiltBeside(built, count):
                return self.concat(f"{self.expression(built)} for index in range({python(count)})")
            case Concatenated(name):
                return f"ops.concatenate({name}, axis=-1)"
            case Element(of, index):
                return f"{of.name}[{index}]"
            case Apply(flatten, Apply(mean, inner)) if flatten.kind is ops.Flatten and mean.kind is ops.GlobalAvgPool:
                return f"{by_axes('layers.GlobalAveragePooling')(mean.sample)}()({self.expression(inner)})"
        return super().expression(value)

    def built(self, built: Built) -> str:
        """Return the call of a function that builds several layers. Input channels are those of the value, never an
        argument."""
        made, how = built.make, built.how
        assert isinstance(made, Use | Repeated)
        of = made.stage if isinstance(made, Repeated) else made.of
        texts = [
            self.expression(built.value), *(["outputs"] if how.outputs else []), *map(self.expression, how.kept),
            *call_arguments(made.arguments, _own_arguments(of)), *([f"first={python(built.first)}"] if built.first else []),
            f"name={_label(how.label)}",
        ]  # fmt: skip
        return f"{ident(built.function)}({', '.join(texts)})"

    def copy(self, stage: Stage, function: Function) -> str:
        """Return the call that passes `x` through one copy of a stage."""
        number = "{first + index}" if stage.name in function.later else "{index}"
        number = numbered_name(stage.member) if stage.member else number
        kept = [name for name, _ in function.values]
        arguments = call_arguments(stage.passed, _own_arguments(stage.of))
        texts = ["x", *kept, *arguments, f'name=f"{{name}}_{number}"']
        return f"{function.name}({', '.join(texts)})"

    def shaken(self, texts: Sequence[str], per_sample: bool) -> str:
        """Return the call of the function that mixes values."""
        return f"shake([{', '.join(texts)}], each_sample={per_sample})"

    def sequence(self, pairs: Sequence[tuple[str, str]], numbered: bool) -> str:
        """Return modules in sequence: only compared, never written."""
        return f"[{', '.join(text for _, text in pairs)}]"

    def separate(self, texts: Sequence[tuple[str, bool]]) -> str:
        """Return modules in a list: only compared, never written."""
        return f"[{', '.join(text for text, _ in texts)}]"

    # --- the whole

    def image(self, plan: ClassPlan) -> str:
        """Return the default size of the image; None for a dynamic axis."""
        sizes = plan.network.input[1:]
        axes = zip(ops.AXIS_NAMES[len(sizes)], sizes, strict=True)
        return literal(tuple(None if axis in self.free else size for axis, size in axes))

    def training(self, plan: ClassPlan) -> Iterator[str]:
        """Yield paragraphs about training for the docstring of a network."""
        norms = has_batch_norms(plan)
        survivals = {node.survival.unit for node in plan.merges() if node.survival}
        if survivals:
            units = {"batch": "the batch", "sample": "each sample independently"}
            which = " or ".join(units[unit] for unit in sorted(survivals))
            moves = " and the running statistics in them move" if norms else ""
            yield f"In training, residual branches are dropped by a mask for {which}: dropped branches are computed{moves}."
        yield from random_merges(plan)
        if norms and not self.unbiased:
            yield "Running variances move towards the biased variance of each batch, as Keras has it."


def _own_arguments(of: Class | Stage) -> list[Any]:
    """Return the arguments of a class or a stage; input channels are those of the value."""
    return [argument for argument in of.arguments if argument.name != IN]


def _recursion(plan: ClassPlan) -> int:
    """Return the limit of nested calls under which Keras can connect a model, one call for each layer on its longest
    path; 0 if the default limit of Python, 1000, is enough."""
    nodes = (node for _, node in walk(plan.network.root, again=True) if isinstance(node, Op | Parallel))
    layers = 2 * sum(1 for _ in nodes)  # a border is a layer
    return 0 if layers < 800 else 1000 * (2 + layers // 1000)


def _framework(text: str) -> str:
    """Return the import of the Keras names that a file uses."""
    used = names_in(text)
    listed = [name for name in ("KerasTensor", "layers", "ops") if name in used]
    return f"from keras import {', '.join(listed)}" if listed else ""


def _label(label: str) -> str:
    """Return the name of a layer as a string literal, or an f-string if it contains names."""
    return f"f{quoted(label)}" if "{" in label else quoted(label)


@cache
def dialect(unbiased: bool, free: frozenset[str] = frozenset()) -> Keras:
    """Return the dialect of these options."""
    return Keras(unbiased, free)
