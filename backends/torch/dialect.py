"""PyTorch for the code generator: how it writes values and modules, and what its files require and may contain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rescompile.codegen.class_plan import INDEX, ClassPlan
from rescompile.codegen.docstrings import dropped_branches
from rescompile.codegen.statements import Apply, Beside, Expr, Merged, Stored
from rescompile.codegen.table_dialect import TableDialect

from .allowed import ALLOWED
from .initialisation import MODULES, drawn
from .spellings import DEFAULTS, TABLE
from .support import SUPPORT

_IMPORTS = (
    (
        ("math", "import math"),
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
_DROPPED = (
    "In training, a dropped residual branch is skipped: it runs neither forward nor backward, and its parameters get no "
    "gradient in that step. Training therefore needs torch.compile without fullgraph, and DistributedDataParallel with "
    "find_unused_parameters=True. A shortcut that changes the shape is always computed."
)


class Torch(TableDialect):
    """The dialect of PyTorch."""

    title = "PyTorch"
    array = "Tensor"
    package = "rescompile.backends.torch"
    imports = _IMPORTS
    allowed = ALLOWED
    reserved = ALLOWED.imported | SUPPORT.keys()
    support = SUPPORT
    modules = MODULES
    filters = (("drawn", drawn),)
    target = "source"
    table = TABLE
    defaults = DEFAULTS
    longest = 60
    drop_path = "DropPath"
    identity = "nn.Identity()"

    def is_tensor(self, value: Expr) -> bool:
        """Return whether a value is the call of a function of torch, whose result type is known to a type checker."""
        return isinstance(value, Apply | Beside) or (isinstance(value, Merged) and value.how in ("concat", "shake"))

    def concat(self, values: str) -> str:
        """Return the concatenation of the values inside a pair of square brackets."""
        return f"torch.cat([{values}], 1)"

    def beside(self, count: Stored, value: str) -> str:
        """Return the calls of a class's own modules as the inside of a list; TorchScript finds no module by a computed
        name."""
        return f"branch({value}) for {INDEX}, branch in enumerate(self.children())"

    def shaken(self, texts: Sequence[str], per_sample: bool) -> str:
        """Return the call of the function that mixes values."""
        return f"shake([{', '.join(texts)}], self.training, per_sample={per_sample})"

    def sequence(self, pairs: Sequence[tuple[str, str]], numbered: bool) -> str:
        """Return modules in sequence, from names and texts; an empty name marks the copies of a stage."""
        if numbered:
            return f"nn.Sequential({', '.join(text if name else f'*{text}' for name, text in pairs)})"
        items = ", ".join(f'("{name}", {text})' if name else f"*{text}.named_children()" for name, text in pairs)
        return f"nn.Sequential(OrderedDict([{items}]))"

    def separate(self, texts: Sequence[tuple[str, bool]]) -> str:
        """Return modules in a list, from texts, each with whether it is that of the copies of a stage."""
        if len(texts) == 1 and texts[0][1]:
            return f"nn.ModuleList({texts[0][0]})"
        return f"nn.ModuleList([{', '.join(f'*{text}' if several else text for text, several in texts)}])"

    def training(self, plan: ClassPlan) -> Iterator[str]:
        """Yield paragraphs about training for the docstring of a network."""
        yield from dropped_branches(plan, _DROPPED)
        if plan.network.checkpoint:
            yield "In training, the activations inside each block are recomputed for backward instead of stored."
