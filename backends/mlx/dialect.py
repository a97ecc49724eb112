"""MLX for the code generator: how it writes values and modules, and what its files require and may contain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rescompile.codegen.channels_last_dialect import ChannelsLast
from rescompile.codegen.class_plan import Layer, Repeated
from rescompile.codegen.dialect import Imports, attribute
from rescompile.codegen.entries import Constructed, Copied, Entry, Filled, Joined, Listing, Looped, Make
from rescompile.codegen.program import Code
from rescompile.codegen.table_dialect import variant
from rescompile.ir import ops

from .allowed import ALLOWED
from .initialisation import MODULES, drawn
from .spellings import DEFAULTS, TABLE, conv_module, plain_pool
from .support import SUPPORT

_IMPORTS: Imports = (
    (
        ("math", "import math"),
        ("Callable", "from collections.abc import Callable"),
        ("partial", "from functools import partial"),
    ),
    (
        ("mx", "import mlx.core as mx"),
        ("nn", "from mlx import nn"),
    ),
)
#: Pools, of which MLX lacks some.
_POOLS = (ops.MaxPool, ops.AvgPool)
#: The class of a batch normalisation, by whether it is that of volumes, and whether running variances are unbiased.
_BATCH_NORMS = {
    (False, True): "nn.BatchNorm",
    (False, False): "BatchNorm",
    (True, True): "BatchNorm3d",
    (True, False): "BiasedBatchNorm3d",
}


def _numbers(names: Iterable[str]) -> bool:
    """Return whether some names are numbers, which MLX treats as positions in a list."""
    return any(name.isdigit() for name in names)


def _is_numbered(entry: Constructed) -> bool:
    """Return whether an entry of a constructor makes a module with a number as its name."""
    return (isinstance(entry, Copied) and entry.own) or _numbers([entry.name])


def _names(make: Make) -> list[str] | None:
    """Return the names of the modules of a sequence, or of one of several that count; None for any other module, or if
    they are positions."""
    match make:
        case Listing(parts) if not make.numbered:
            return [part.name for part in parts]
        case Joined(parts, numbered) if not numbered:
            return [
                name for part in parts for name in (_names(part) or [] if isinstance(part, Repeated) else [part.name])
            ]
        case Repeated(stage) if stage.member:
            return [f"{stage.member.prefix}0"]
    return None


def _chain(names: Iterable[str]) -> str:
    """Return the class of a sequence of named modules."""
    return "NumberedChain" if _numbers(names) else "Chain"


def _through(name: str, code: Code) -> str:
    """Return the expression of the modules of a sequence of a class, in order."""
    made = next((entry for entry in code.constructor if getattr(entry, "name", None) == name), None)
    named = isinstance(made, Filled | Looped) or (isinstance(made, Entry) and _names(made.make) is not None)
    return f"{attribute(name)}.values()" if named else attribute(name)


class Mlx(ChannelsLast):
    """The dialect of MLX; running variances that are not `unbiased` follow the convention of Flax."""

    title = "MLX"
    array = "mx.array"
    package = "rescompile.backends.mlx"
    imports = _IMPORTS
    allowed = ALLOWED
    reserved = ALLOWED.imported | SUPPORT.keys() | {"model"}
    support = SUPPORT
    modules = MODULES
    functions = "mx"
    target = "mlx"
    table = TABLE
    defaults = DEFAULTS
    identity = "nn.Identity()"
    dropped = (
        "In training, a dropped residual branch is skipped: it runs neither forward nor backward, and its running "
        "statistics do not move. Its gradients are zero in that step. The choice is made in Python, so mx.compile cannot "
        "compile a training step. A shortcut that changes the shape is always computed."
    )
    recomputed = "In training, the activations inside each block are recomputed for backward instead of stored."
    biased = "Running variances move towards the biased variance of each batch, as in Flax and Keras."
    filters: Sequence[tuple[str, Callable[[Any], Any]]] = (
        ("drawn", drawn),
        ("chain", _chain),
        ("looped", lambda parts: [f"{rule.prefix}0" for rule, _ in parts]),
        ("through", lambda through: _through(*through)),
        (
            "base",
            lambda code: "Numbered" if any(map(_is_numbered, code.constructor)) else "nn.Module",
        ),
    )

    def __init__(self, unbiased: bool) -> None:
        self.unbiased = unbiased

    def module_name(self, layer: Layer) -> str:
        """Return the class name of the module of an op; empty for an op without a module."""
        if layer.kind in _POOLS and not plain_pool(layer):
            return ""
        if layer.kind is ops.Norm and variant(layer.sample) == "batch":
            return _BATCH_NORMS[ops.rank(layer.sample.input) == 3, self.unbiased]
        return conv_module(layer) if layer.kind is ops.Conv else super().module_name(layer)

    def function_name(self, layer: Layer) -> str | None:
        """Return the name of the function of an op; None for an op without a function."""
        return None if layer.kind in _POOLS and plain_pool(layer) else super().function_name(layer)

    def construction(self, make: Make) -> str:
        """Return the expression that builds a module."""
        text = super().construction(make)
        return f"Numbered{text}" if text.startswith("Chain(") and _numbers(_names(make) or []) else text

    def shaken(self, texts: Sequence[str], per_sample: bool) -> str:
        """Return the call of the function that mixes values."""
        return f"shake([{', '.join(texts)}], self.training, per_sample={per_sample})"
