"""PyTorch for the code generator: how it writes values and modules, and what its files need and may contain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rescompile.backend import rule
from rescompile.codegen.class_plan import ClassPlan, Layer
from rescompile.codegen.dialect import PythonDialect
from rescompile.codegen.program import Apply, Beside, Expr, Merged
from rescompile.codegen.terms import python
from rescompile.ir.expressions import Term
from rescompile.ir.network import Op
from rescompile.ir.ops import Kind

from .allowed import ALLOWED
from .initial import MODULES, drawn
from .spellings import TABLE, Arguments, Texts, call
from .support import SUPPORT

_IMPORTS = (
    (
        ("OrderedDict", "from collections import OrderedDict"),
        ("Callable", "from collections.abc import Callable, Iterator"),
        ("nullcontext", "from contextlib import contextmanager, nullcontext"),
    ),
    (
        ("torch", "import torch"),
        ("F", "import torch.nn.functional as F"),
        ("nn", "from torch import Tensor, nn"),
        ("checkpoint", "from torch.utils.checkpoint import checkpoint"),
    ),
)


class Torch(PythonDialect):
    """The dialect of PyTorch."""

    title = "PyTorch"
    package = "rescompile.backends.torch"
    imports = _IMPORTS
    allowed = ALLOWED
    reserved = ALLOWED.imported | {"PadChannels", "Scale", "Subsample", "drop_samples", "recomputed"}
    support = SUPPORT
    modules = MODULES
    filters = (("drawn", drawn),)
    longest = 60
    identity = "nn.Identity()"

    def is_fresh(self, kind: type[Kind]) -> bool:
        """Whether the next op may overwrite the result of an op."""
        return rule(TABLE, kind, "source").fresh

    def applies(self, layer: Layer) -> bool:
        """Whether an op is applied as a function: it has one, and its arguments are literals."""
        function = rule(TABLE, layer.kind, "source").function
        return function is not None and layer.when is None and all(map(_is_literal, layer.attributes.values()))

    def is_tensor(self, value: Expr) -> bool:
        """Whether a value is the call of a function of torch, whose result type is known to a type checker."""
        return isinstance(value, Apply | Beside) or (isinstance(value, Merged) and value.how == "concat")

    def module(self, layer: Layer, in_place: bool) -> str:
        """The call that builds the module of an op."""
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
        """Modules in sequence, from names and texts; an empty name marks the copies of a stage."""
        if numbered:
            return f"nn.Sequential({', '.join(text if name else f'*{text}' for name, text in pairs)})"
        items = ", ".join(f'("{name}", {text})' if name else f"*{text}.named_children()" for name, text in pairs)
        return f"nn.Sequential(OrderedDict([{items}]))"

    def training(self, plan: ClassPlan) -> Iterator[str]:
        """Yield paragraphs about training for the docstring of a network."""
        survivals = {node.survival.unit for node in plan.merges() if node.survival}
        if "batch" in survivals:
            yield (
                "In training, a dropped residual branch is skipped: it runs neither forward nor backward, and its parameters "
                "get no gradient in that step. Training therefore needs torch.compile without fullgraph, and "
                "DistributedDataParallel with find_unused_parameters=True. A shortcut that changes the shape is always computed."
            )
        if "sample" in survivals:
            yield "In training, each sample drops residual branches independently; all branches are computed."
        if plan.network.checkpoint:
            yield "In training, the activations inside each block are recomputed for backward instead of stored."


def _is_literal(term: Term) -> bool:
    """Whether a value is a literal."""
    return (term.operands[0] if term.head == "negative" else term).head == "constant"
