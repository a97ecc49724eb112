"""What each op is in PyTorch: as a module, and as a function where it owns nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rescompile.codegen.class_plan import Layer
from rescompile.codegen.terms import python
from rescompile.ir import ops
from rescompile.ir.network import Op
from rescompile.ir.ops import Kind

#: What torch takes for an argument that is not given; such an argument is left out.
_DEFAULTS = {
    "stride": "1", "padding": "0", "dilation": "1", "groups": "1", "bias": "True", "eps": "1e-05", "momentum": "0.1",
    "ceil_mode": "False", "count_include_pad": "True", "negative_slope": "0.01", "alpha": "1.0",
}  # fmt: skip


@dataclass(frozen=True)
class Form:
    """The constructor of a module, and the function that does the same: both take the arguments as text."""

    module: Callable[[Layer], str]
    function: Callable[[Layer, str, bool], str] | None = None


def call(name: str, *positional: str, **keywords: str) -> str:
    """`name(positional, keyword=...)`, without keywords at torch's default."""
    given = [f"{key}={value}" for key, value in keywords.items() if _DEFAULTS.get(key) != value]
    return f"{name}({', '.join([*positional, *given])})"


def _texts(layer: Layer) -> dict[str, str]:
    """The attributes of a layer as Python."""
    return {name: python(term) for name, term in layer.attributes.items()}


def _conv(layer: Layer) -> str:
    a = _texts(layer)
    return call(
        "nn.Conv2d", python(layer.channels), a["channels"], a["kernel"],
        stride=a["stride"], padding=a["padding"], dilation=a["dilation"], groups=a["groups"], bias=a["bias"],
    )  # fmt: skip


def _linear(layer: Layer) -> str:
    return call(
        "nn.Linear", python(layer.channels), python(layer.attributes["features"]), bias=python(layer.attributes["bias"])
    )


def _norm(layer: Layer) -> str:
    a, name = _texts(layer), norm_class(layer.sample)
    if name == "nn.GroupNorm":
        return call(name, a["groups"], python(layer.channels), eps=a["eps"])
    return call(name, python(layer.channels), eps=a["eps"], momentum=a["momentum"])


def norm_class(op: Op) -> str:
    """The class of a normalisation."""
    if getattr(op.kind, "kind") == "group":  # noqa: B009
        return "nn.GroupNorm"
    return "nn.BatchNorm2d" if len(op.input) == 3 else "nn.BatchNorm1d"


def _pool(name: str) -> Callable[[Layer], str]:
    def form(layer: Layer) -> str:
        return call(name, *_window(_texts(layer)), **_pool_options(_texts(layer)))

    return form


def _window(a: Mapping[str, str]) -> list[str]:
    """Kernel and, where it is another, stride."""
    return [a["kernel"]] if a["stride"] == a["kernel"] else [a["kernel"], f"stride={a['stride']}"]


def _pool_options(a: Mapping[str, str]) -> dict[str, str]:
    counted = {"count_include_pad": a["count_pad"]} if "count_pad" in a else {}
    return {"padding": a["padding"], "ceil_mode": a["ceil"], **counted}


_ACTS: dict[str, tuple[str, str]] = {
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
#: What else an activation is given: torch's argument, and the attribute that it is, or its value.
_ACT_ATTRIBUTES = {"leaky_relu": ("negative_slope", "slope"), "elu": ("alpha", "alpha")}
_ACT_WORDS = {"gelu_tanh": {"approximate": '"tanh"'}}
#: Activations that may work in place: their result gives their backward what it needs. That of elu does so as a difference,
#: which loses what is small.
_IN_PLACE = ("relu", "relu6", "leaky_relu")


def _positive(text: str) -> bool:
    """Whether a number is above zero: the backward of an activation in place needs the sign of its input kept."""
    return re.fullmatch(r"[\d.]+(e-?\d+)?", text) is not None and float(text) > 0


def act(layer: Layer, in_place: bool = False) -> str:
    """The module of an activation."""
    return _activation(layer, 0, (), in_place)


def _activation(layer: Layer, form: int, values: tuple[str, ...], in_place: bool) -> str:
    kind = str(getattr(layer.sample.kind, "kind"))  # noqa: B009
    keywords = dict(_ACT_WORDS.get(kind, {}))
    given = None
    if kind in _ACT_ATTRIBUTES:
        name, attribute = _ACT_ATTRIBUTES[kind]
        keywords[name] = given = python(layer.attributes[attribute])
    if in_place and kind in _IN_PLACE and (given is None or _positive(given)):
        keywords["inplace"] = "True"
    return call(_ACTS[kind][form], *values, **keywords)


def _upsample(name: str, layer: Layer, factor: str, *values: str) -> str:
    kind = str(getattr(layer.sample.kind, "kind"))  # noqa: B009
    return call(name, *values, scale_factor=factor, mode=f'"{kind}"')


def _interpolate(layer: Layer, x: str, _: bool) -> str:
    """The function form: unlike the module it turns no whole number into the fraction that torch.jit.script wants."""
    factor = re.sub(r"\d+", r"\g<0>.0", python(layer.attributes["factor"]))
    return _upsample("F.interpolate", layer, factor, x)


def _pair(size: str) -> str:
    """A size as two arguments."""
    return size[1:-1] if size.startswith("(") else f"{size}, {size}"


FORMS: dict[type[Kind], Form] = {
    ops.Conv: Form(_conv),
    ops.Linear: Form(_linear),
    ops.Norm: Form(_norm),
    ops.Act: Form(act, lambda layer, x, fresh: _activation(layer, 1, (x,), fresh)),
    ops.MaxPool: Form(
        _pool("nn.MaxPool2d"),
        lambda layer, x, _: call("F.max_pool2d", x, *_window(_texts(layer)), **_pool_options(_texts(layer))),
    ),
    ops.AvgPool: Form(
        _pool("nn.AvgPool2d"),
        lambda layer, x, _: call("F.avg_pool2d", x, *_window(_texts(layer)), **_pool_options(_texts(layer))),
    ),
    ops.GlobalAvgPool: Form(lambda _: "nn.AdaptiveAvgPool2d(1)", lambda _, x, __: f"F.adaptive_avg_pool2d({x}, 1)"),
    ops.AdaptiveAvgPool: Form(
        lambda layer: call("nn.AdaptiveAvgPool2d", python(layer.attributes["size"])),
        lambda layer, x, _: call("F.adaptive_avg_pool2d", x, python(layer.attributes["size"])),
    ),
    ops.Flatten: Form(lambda _: "nn.Flatten()", lambda _, x, __: f"torch.flatten({x}, 1)"),
    ops.Dropout: Form(lambda layer: call("nn.Dropout", python(layer.attributes["rate"]))),
    ops.Scale: Form(lambda layer: f"Scale({python(layer.attributes['factor'])})"),
    ops.Subsample: Form(lambda layer: f"Subsample({_pair(python(layer.attributes['stride']))})"),
    ops.Upsample: Form(lambda layer: _upsample("nn.Upsample", layer, python(layer.attributes["factor"])), _interpolate),
    ops.PadChannels: Form(lambda layer: f"PadChannels({python(layer.attributes['channels'])})"),
    ops.Identity: Form(lambda _: "nn.Identity()", lambda _, x, __: x),
}

#: Modules that torch lacks, put into a file that needs them.
SUPPORT: dict[type[Kind], str] = {
    ops.Scale: '''
class Scale(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor
''',
    ops.Subsample: '''
class Subsample(nn.Module):
    """Keeps every stride-th row and column of a map, the first ones included."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height = height
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.height, :: self.width]
''',
    ops.PadChannels: '''
class PadChannels(nn.Module):
    """Appends channels of zeros until there are `channels`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, self.channels - x.shape[1]))
''',
}

#: Functions that a file may need.
HELPERS = {
    "drop_samples": '''
def drop_samples(x: Tensor, survival: float) -> Tensor:
    """Keeps each sample of a batch with the probability `survival`; the others are zero."""
    kept = torch.rand([x.shape[0]] + [1] * (x.dim() - 1), device=x.device) < survival
    return x * kept
''',
    "recomputed": '''
@torch.jit.unused
def recomputed(
    owner: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """Calls a method of `owner` without keeping what happens inside; backward calls it again."""
    norms = [
        (module, module.momentum, module.num_batches_tracked)
        for module in owner.modules()
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
    ]

    @contextmanager
    def again() -> Iterator[None]:
        for norm, _, _ in norms:  # a batch counts once
            norm.momentum, norm.num_batches_tracked = 0.0, None
        try:
            yield
        finally:
            for norm, momentum, count in norms:
                norm.momentum, norm.num_batches_tracked = momentum, count

    y: Tensor = checkpoint(
        function, x, use_reentrant=False, context_fn=lambda: (nullcontext(), again())
    )
    return y
''',
}
