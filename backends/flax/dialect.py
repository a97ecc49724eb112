"""Flax NNX for the code generator: how it writes values and modules, and what its files require and may contain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rescompile.codegen.channels_last_dialect import ChannelsLast
from rescompile.codegen.class_plan import ClassPlan, Layer
from rescompile.codegen.dialect import Imports
from rescompile.codegen.entries import MakeDropPath, Number, Scanned
from rescompile.codegen.program import free_variables, parts
from rescompile.codegen.scanned_rows import scans
from rescompile.codegen.source_text import ident
from rescompile.codegen.statements import ChooseColumns, Merged, Scaled, Survives, Thinned, Training
from rescompile.codegen.terms import python
from rescompile.ir import ops

from .allowed import ALLOWED
from .loading import load
from .spellings import DEFAULTS, TABLE, pool_function
from .support import SUPPORT

_IMPORTS: Imports = (
    (
        ("json", "import json"),
        ("math", "import math"),
        ("Callable", "from collections.abc import Callable"),
        ("partial", "from functools import partial"),
    ),
    (
        ("jax", "import jax"),
        ("jnp", "import jax.numpy as jnp"),
        ("np", "import numpy as np"),
        ("nnx", "from flax import nnx"),
    ),
)


#: Attributes that the classes of a file define themselves, including those of `Chain` and `Scanned`.
OWN = frozenset({"append", "deterministic", "order", "rngs"})


class Flax(ChannelsLast):
    """The dialect of Flax NNX; `unbiased` running variances are those of PyTorch, and `scans` run the equal copies of a
    row."""

    title = "Flax NNX"
    array = "jax.Array"
    package = "rescompile.backends.flax"
    imports = _IMPORTS
    allowed = ALLOWED
    reserved = ALLOWED.imported | SUPPORT.keys() | {"load", "rngs", "kept", "dropped", "model"}
    support = SUPPORT
    functions = "jnp"
    passed = ("rngs=rngs",)
    target = "flax"
    table = TABLE
    defaults = DEFAULTS
    identity = "nnx.identity"
    listing = "nnx.List({})"
    dropped = (
        "In training, a dropped residual branch is skipped by nnx.cond: it runs neither forward nor backward, and its "
        "running statistics do not move. Its gradients are zero in that step."
    )
    recomputed = "The activations inside each block are recomputed for backward instead of stored."
    biased = "Running variances move towards the biased variance of each batch, as Flax has it."

    def __init__(self, unbiased: bool, scans: bool) -> None:
        self.unbiased, self.scans = unbiased, scans
        self.filters = (
            ("read", lambda survives: sorted(free_variables((survives,)))),
            ("trains", lambda code: any(_draws(part) or isinstance(part, Scaled | Training) for part in parts(code))),
            ("draws", lambda code: any(map(_draws, parts(code)))),
            ("number", self.number),
            ("kept", self.kept),
            ("load", lambda text: load(scans)),
        )

    def number(self, number: Number) -> str:
        """Return the text of a number of a class: a variable if the copies of a scan may differ in it."""
        text = python(number.value)
        return f"Probability(jnp.array({text}))" if self.scans and number.differs else text

    def kept(self, name: str, scaled: str | None = None) -> str:
        """Return the text of the probability with which a branch is kept, in the type of the variable that it
        scales."""
        if not self.scans:
            return f"self.{ident(name)}"
        return f"self.{ident(name)}[...]" + (f".astype({ident(scaled)}.dtype)" if scaled else "")

    def module(self, layer: Layer, in_place: bool) -> str:
        """Return the module of an op, or the function with its arguments: NNX calls both in the same way."""
        text = super().module(layer, in_place)
        return text.replace("nnx.BatchNorm(", "BatchNorm(") if self.unbiased and layer.kind is ops.Norm else text

    def function_name(self, layer: Layer) -> str | None:
        """Return the name of the function of an op; that of a pool depends on its sizes."""
        return pool_function(layer) if layer.kind in (ops.MaxPool, ops.AvgPool) else super().function_name(layer)

    def shaken(self, texts: Sequence[str], per_sample: bool) -> str:
        """Return the call of the function that mixes values."""
        return f"shake([{', '.join(texts)}], self, per_sample={per_sample})"

    def dropping(self, make: MakeDropPath) -> str:
        """Return the module that averages branches; it chooses columns itself, from a key that all of them share."""
        rate, share, each = make.how.rate, make.how.columns, make.how.unit == "sample"
        return f"DropPath({rate}, {make.columns}, {share}, per_sample={each}, rngs=rngs)"

    def scanned(self, make: Scanned, row: str) -> str:
        """Return the modules of a row, from their text, as one scan and the modules around it."""
        modules = f"dict({f'enumerate({row})' if make.numbered else f'{row}.items()'})"
        ends = f"start={make.scan.start}" + ("" if make.scan.at_end else f", stop={make.scan.stop}")
        return f"Scanned({modules}, {ends})"

    def training(self, plan: ClassPlan) -> Iterator[str]:
        """Yield paragraphs about training for the docstring of a network."""
        modes, *others = super().training(plan)
        yield modes
        if rows := [scan.path for scan in scans(plan)]:
            yield f"One scan runs the equal blocks of each of {', '.join(rows)}; `rest` has their weights, stacked."
        yield from others


def _draws(part: object) -> bool:
    """Return whether a part of a class draws random numbers in training."""
    return isinstance(part, Survives | Thinned | ChooseColumns) or (isinstance(part, Merged) and part.how == "shake")
