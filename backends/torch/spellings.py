"""How PyTorch spells each op: as a module, as a function where it owns nothing, and what may be done with its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rescompile.backend import rule
from rescompile.codegen.class_plan import Layer
from rescompile.codegen.dialect import PythonDialect
from rescompile.codegen.program import Apply, Beside, Expr, Merged
from rescompile.codegen.terms import literal, python
from rescompile.ir import ops
from rescompile.ir.expressions import Term
from rescompile.ir.network import Op
from rescompile.ir.ops import Kind

from .allowed import ALLOWED

Arguments = tuple[Sequence[str], Mapping[str, str]]
Texts = Mapping[str, str]

#: What torch takes for an argument that is not given; such an argument is left out.
DEFAULTS = {
    "stride": "1", "padding": "0", "dilation": "1", "groups": "1", "bias": "True", "eps": "1e-05", "momentum": "0.1",
    "ceil_mode": "False", "count_include_pad": "True", "negative_slope": "0.01", "alpha": "1.0",
}  # fmt: skip


def call(name: str, *positional: str, **keywords: str) -> str:
    """`name(positional, keyword=...)`, without keywords at torch's default."""
    given = [f"{key}={value}" for key, value in keywords.items() if DEFAULTS.get(key) != value]
    return f"{name}({', '.join([*positional, *given])})"


def given(*positional: str, **keywords: str) -> Arguments:
    """Arguments of a call."""
    return positional, keywords


@dataclass(frozen=True)
class Spelling:
    """The class of a module, the function that does the same after its input, and what both are given: by the layer and
    its attributes as texts."""

    module: str | Callable[[Op], str]
    function: str | Callable[[Op], str] | None = None
    arguments: Callable[[Layer, Texts], Arguments] = lambda layer, a: given()
    #: What the function is given where that is something else.
    applied: Callable[[Layer, Texts], Arguments] | None = None
    #: Whether nothing else holds the result, and no backward needs it: then what follows may work in place.
    fresh: bool = False
    #: Whether it can work in place itself.
    in_place: Callable[[Layer], bool] = lambda layer: False


# --- what each op is given --------------------------------------------------------------------------------------------


def _conv(layer: Layer, a: Texts) -> Arguments:
    rest = {name: a[name] for name in ("stride", "padding", "dilation", "groups", "bias")}
    return given(python(layer.channels), a["channels"], a["kernel"], **rest)


def _norm(layer: Layer, a: Texts) -> Arguments:
    if norm_class(layer.sample) == "nn.GroupNorm":
        return given(a["groups"], python(layer.channels), eps=a["eps"])
    return given(python(layer.channels), eps=a["eps"], momentum=a["momentum"])


def norm_class(op: Op) -> str:
    """The class of a normalisation."""
    if _variant(op) == "group":
        return "nn.GroupNorm"
    return "nn.BatchNorm2d" if len(op.input) == 3 else "nn.BatchNorm1d"


def _variant(op: Op) -> str:
    """The `kind` of an op that has several."""
    return str(getattr(op.kind, "kind"))  # noqa: B009


def _pool(layer: Layer, a: Texts) -> Arguments:
    stride = {} if a["stride"] == a["kernel"] else {"stride": a["stride"]}
    counted = {"count_include_pad": a["count_pad"]} if "count_pad" in a else {}
    window = [a["kernel"], *(f"{name}={value}" for name, value in stride.items())]  # whose default is the kernel
    return window, {"padding": a["padding"], "ceil_mode": a["ceil"], **counted}


#: Activations as modules and as functions.
ACTS: dict[str, tuple[str, str]] = {
    "relu": ("nn.ReLU", "F.relu"),
    "sigmoid": ("nn.Sigmoid", "torch.sigmoid"),
    "tanh": ("nn.Tanh", "torch.tanh"),
    "leaky_relu": ("nn.LeakyReLU", "F.leaky_relu"),
    "elu": ("nn.ELU", "F.elu"),
    "relu6": ("nn.ReLU6", "F.relu6"),
    "silu": ("nn.SiLU", "F.silu"),
    "gelu": ("nn.GELU", "F.gelu"),
    "gelu_tanh": ("nn.GELU", "F.gelu"),
    "hardswish": ("nn.Hardswish", "F.hardswish"),
}
#: What else an activation is given, by its attributes as texts.
ACT_ARGUMENTS: dict[str, Callable[[Texts], Arguments]] = {
    "leaky_relu": lambda a: given(negative_slope=a["slope"]),
    "elu": lambda a: given(alpha=a["alpha"]),
    "gelu_tanh": lambda a: given(approximate='"tanh"'),
}


def _act(layer: Layer, a: Texts) -> Arguments:
    variant = _variant(layer.sample)
    return ACT_ARGUMENTS[variant](a) if variant in ACT_ARGUMENTS else given()


def _acts_in_place(layer: Layer) -> bool:
    """Whether the result of an activation gives its backward what it needs: for that a slope must keep the sign. That of elu
    does so as a difference, which loses what is small."""
    variant, slope = _variant(layer.sample), layer.attributes.get("slope")
    if variant == "leaky_relu":
        return slope is not None and slope.head == "constant" and slope.value > 0
    return variant in ("relu", "relu6")


def _upsample(layer: Layer, a: Texts) -> Arguments:
    return given(scale_factor=a["factor"], mode=f'"{_variant(layer.sample)}"')


def _interpolate(layer: Layer, a: Texts) -> Arguments:
    """Unlike the module, the function turns no integer into the float that torch.jit.script wants."""
    value = layer.attributes["factor"].value
    floats = tuple(map(float, value)) if isinstance(value, tuple) else float(value)
    return _upsample(layer, {"factor": literal(floats)})


def _stride(layer: Layer, a: Texts) -> Arguments:
    value = layer.attributes["stride"].value
    return given(*map(literal, value)) if isinstance(value, tuple) else given(a["stride"], a["stride"])


TABLE: dict[type[Kind], Spelling] = {
    ops.Conv: Spelling("nn.Conv2d", arguments=_conv, fresh=True),
    ops.Linear: Spelling(
        "nn.Linear", arguments=lambda layer, a: given(python(layer.channels), a["features"], bias=a["bias"]), fresh=True
    ),
    ops.Norm: Spelling(norm_class, arguments=_norm, fresh=True),
    ops.Act: Spelling(
        lambda op: ACTS[_variant(op)][0], lambda op: ACTS[_variant(op)][1], _act, in_place=_acts_in_place
    ),
    ops.MaxPool: Spelling("nn.MaxPool2d", "F.max_pool2d", _pool),
    ops.AvgPool: Spelling("nn.AvgPool2d", "F.avg_pool2d", _pool),
    ops.GlobalAvgPool: Spelling("nn.AdaptiveAvgPool2d", "F.adaptive_avg_pool2d", lambda layer, a: given("1")),
    ops.AdaptiveAvgPool: Spelling("nn.AdaptiveAvgPool2d", "F.adaptive_avg_pool2d", lambda layer, a: given(a["size"])),
    ops.Flatten: Spelling("nn.Flatten", "torch.flatten", applied=lambda layer, a: given("1")),
    ops.Dropout: Spelling("nn.Dropout", arguments=lambda layer, a: given(a["rate"])),
    ops.Scale: Spelling("Scale", arguments=lambda layer, a: given(a["factor"])),
    ops.Subsample: Spelling("Subsample", arguments=_stride),
    ops.Upsample: Spelling("nn.Upsample", "F.interpolate", _upsample, applied=_interpolate),
    ops.PadChannels: Spelling("PadChannels", arguments=lambda layer, a: given(a["channels"])),
    ops.Identity: Spelling("nn.Identity"),
}


class Torch(PythonDialect):
    """PyTorch's words for what lowering asks, and for expressions."""

    reserved = ALLOWED.imported | {"PadChannels", "Scale", "Subsample", "drop_samples", "recomputed"}
    enough = 60
    identity = "nn.Identity()"

    def is_fresh(self, kind: type[Kind]) -> bool:
        """Whether what follows an op may work in place."""
        return TABLE[kind].fresh

    def applies(self, layer: Layer) -> bool:
        """Whether a function does an op, with arguments that mention nothing of the class."""
        function = rule(TABLE, layer.kind, "source").function
        return function is not None and layer.when is None and all(map(_is_literal, layer.attributes.values()))

    def is_tensor(self, value: Expr) -> bool:
        """Whether a value is one call of a function of torch, whose result a type checker knows."""
        return isinstance(value, Apply | Beside) or (isinstance(value, Merged) and value.how == "concat")

    def module(self, layer: Layer, in_place: bool) -> str:
        """The call that makes the module of an op."""
        spelling = rule(TABLE, layer.kind, "source")
        return self._call(layer, spelling.module, spelling.arguments, (), in_place)

    def function(self, layer: Layer, value: str, in_place: bool) -> str:
        """The call that applies an op."""
        spelling = TABLE[layer.kind]
        assert spelling.function is not None
        return self._call(layer, spelling.function, spelling.applied or spelling.arguments, (value,), in_place)

    def _call(
        self,
        layer: Layer,
        name: str | Callable[[Op], str],
        arguments: Callable[[Layer, Texts], Arguments],
        values: Sequence[str],
        in_place: bool,
    ) -> str:
        positional, keywords = arguments(layer, {key: python(term) for key, term in layer.attributes.items()})
        if in_place and TABLE[layer.kind].in_place(layer):
            keywords = {**keywords, "inplace": "True"}
        return call(name if isinstance(name, str) else name(layer.sample), *values, *positional, **keywords)

    def concat(self, values: str) -> str:
        """The concatenation of the values inside a pair of square brackets."""
        return f"torch.cat([{values}], 1)"

    def sequence(self, pairs: Sequence[tuple[str, str]], numbered: bool) -> str:
        """Modules one after the other, by name; a name that is empty stands for the copies that a stage makes."""
        if numbered:
            return f"nn.Sequential({', '.join(text if name else f'*{text}' for name, text in pairs)})"
        items = ", ".join(f'("{name}", {text})' if name else f"*{text}.named_children()" for name, text in pairs)
        return f"nn.Sequential(OrderedDict([{items}]))"


def _is_literal(term: Term) -> bool:
    """Whether a value is a number, a truth or a tuple, and mentions nothing."""
    return (term.operands[0] if term.head == "negative" else term).head == "constant"
