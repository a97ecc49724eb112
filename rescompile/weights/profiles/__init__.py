"""Naming profiles: the names of other libraries for the tensors of a network, in both directions.

Below, "their" names are those of the library and "our" names those of rescompile. A profile is a file `<name>.yaml` in this
folder:

    library    the library and those of its networks that have these names
    note       what else a user should know before trusting the outputs (optional)
    preprocess  the preprocessing of images that the weights of the library want: keys and values of a spec's `preprocess`
    counters   false if their files have no counters of norms (`num_batches_tracked`)
    tensors    names and layouts of the tensors of a layer where these differ from torch's, one of `TENSORS`
    epsilon    the epsilon of all their norms; the running variance absorbs the difference to ours
    scale      false if their norms have none: ours is 1, and in the reverse direction it is folded into the convolution before
    numbered   op: their name of the first op that no rule matches; the next is `<that>_1`, in execution order, counted in a
               file from its first number
    only       our name of an op: the attributes that it has in the networks of the library
    names      their name: our name; the first rule that matches our name gives theirs

In both names `*` at the end stands for the rest and `{b}` for an integer, which may be offset: `{b+1}` in either and `{3b+6}` in
ours. In their names `{b<3}` and `{b+1<3}` are integers below 3. `their name: {ours: our name}` can have more keys:

    kernel: 7     our linear layer is their convolution
    flat: true    our 1x1 convolution is their linear layer
    line: true    our convolution along rows is their convolution of one dimension
    scalar: true  our tensor of one value is their number
    maps: 7       our linear layer on flattened 7x7 maps, which they flatten with the channels last
    bias: name    our norm follows a convolution that has a bias of this name in the library, and none here: the running mean
                  absorbs it, and in the reverse direction it is 0
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from functools import cache, partial
from itertools import pairwise, product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from rescompile.diagnostics.errors import CheckFailed, Source, UsageError, nearest, one_of
from rescompile.ir.network import Network, Op, parameters, walk
from rescompile.ir.ops import Conv, Kind, Norm, Shape
from rescompile.lang.yaml_reader import plain, read
from rescompile.records import record
from rescompile.weights.key_matching import misfits
from rescompile.weights.mapping import Array, Weights
from rescompile.weights.tensors import FLOATS, Tensor

#: The names of our tensors by library and op. Those of Keras have their output channels last: kernels are
#: [height, width, in, out], and those of linear layers [in, out].
TENSORS: dict[str, dict[str, dict[str, str]]] = {
    "keras": {
        "conv": {"weight": "kernel"},
        "linear": {"weight": "kernel"},
        "norm": {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        },
    }
}

_THEIRS = re.compile(r"\{([a-z])(?:\+(\d+))?(?:<(\d+))?\}|\*$")
_OURS = re.compile(r"\{(\d*)([a-z])(?:\+(\d+))?\}|\*$")


@cache
def _compiled(ours: str) -> tuple[re.Pattern[str], list[re.Match[str]]]:
    """Return the pattern of one of our names, and its holes, each a group of the pattern."""
    holes = list(_OURS.finditer(ours))
    pieces = _OURS.sub("\0", ours).split("\0")
    groups = ["(.+)" if hole[0] == "*" else "(0|[1-9][0-9]*)" for hole in holes]
    pattern = "".join(f"{re.escape(piece)}{group}" for piece, group in zip(pieces, [*groups, ""], strict=True))
    return re.compile(pattern), holes


def _solved(hole: re.Match[str], number: int, limit: int | None) -> str | None:
    """Return the value of the letter in a hole such as `{3b+6}` that gives a number, or None."""
    value, rest = divmod(number - int(hole[3] or 0), int(hole[1] or 1))
    return None if rest or value < 0 or (limit is not None and value >= limit) else str(value)


def _filled(theirs: str, values: Mapping[str, str]) -> str:
    """Return one of their names with its holes filled."""
    return _THEIRS.sub(
        lambda hole: str(int(values[hole[1]]) + int(hole[2])) if hole[2] else values[hole[1] or "*"], theirs
    )


@record
class Rule:
    """One line of a profile."""

    theirs: str
    ours: str
    kernel: int = 0
    flat: bool = False
    line: bool = False
    scalar: bool = False
    maps: int = 0
    bias: str = ""

    def renamed(self, name: str, words: Mapping[str, str] = MappingProxyType({})) -> str | None:
        """Return their name of our tensor, or None if the rule does not match. `words` maps the last part of a name to theirs."""
        values = self._values(name)
        if values and "*" in values:
            values["*"] = words.get(values["*"], values["*"])
        return None if values is None else _filled(self.theirs, values)

    def taken_in(self, name: str) -> str | None:
        """Return their name of the bias that our tensor absorbs, or None."""
        values = self._values(name) if self.bias and name.endswith(".running_mean") else None
        return _filled(self.bias, values) if values else None

    def _values(self, name: str) -> dict[str, str] | None:
        pattern, holes = _compiled(self.ours)
        found = pattern.fullmatch(name)
        if found is None:
            return None
        limits = {hole[1]: int(hole[3]) - int(hole[2] or 0) for hole in _THEIRS.finditer(self.theirs) if hole[3]}
        values: dict[str, str] = {}
        for hole, text in zip(holes, found.groups(), strict=True):
            value = text if hole[0] == "*" else _solved(hole, int(text), limits.get(hole[2]))
            if value is None or values.setdefault(hole[2] or "*", value) != value:
                return None
        return values

    def shape(self, ours: Shape) -> Shape | None:
        """Return the shape in the library of our tensor, or None if it cannot be one of its tensors."""
        if self.kernel and len(ours) == 2:
            channels, rest = divmod(ours[1], self.kernel**2)
            return None if rest else (ours[0], channels, self.kernel, self.kernel)
        if self.flat and len(ours) == 4:
            return ours[:2] if ours[2:] == (1, 1) else None
        if self.line and len(ours) == 4:
            return ours[:3] if ours[3] == 1 else None
        if self.scalar:
            return () if ours == (1,) else None
        return ours

    def shaped(self, theirs: Tensor) -> Tensor:
        """Return their tensor in our layout; its number of channels may still differ."""
        shape = theirs.shape
        if self.kernel and shape[2:] == (self.kernel, self.kernel):
            shape = (shape[0], shape[1] * self.kernel**2)
        elif self.flat and len(shape) == 2:
            shape = (*shape, 1, 1)
        elif self.line and len(shape) == 3:
            shape = (*shape, 1)
        elif self.scalar and not shape:
            shape = (1,)
        return replace(theirs, shape=shape, make=lambda: theirs.make().reshape(shape))


def _channels_last(shape: Shape, maps: int) -> Shape | None:
    """Return the shape of our tensor with its output channels last, or None if it does not match maps of this size."""
    if len(shape) == 2:
        return None if shape[1] % (maps**2 or 1) else shape[::-1]
    return (*shape[2:], shape[1], shape[0]) if len(shape) == 4 else shape


def _last(maps: int, array: Array) -> Array:
    """Return our tensor with its output channels last."""
    if array.ndim == 2 and maps:
        array = array.reshape(array.shape[0], -1, maps, maps)
    if array.ndim == 4:
        last = array.transpose(2, 3, 1, 0)
        return last.reshape(-1, last.shape[3]) if maps else last
    return array.T


def _first(theirs: Tensor, maps: int) -> Tensor:
    """Return a tensor that has its output channels last, with them first."""
    shape = theirs.shape
    if len(shape) == 4:
        return replace(theirs, shape=(shape[3], shape[2], *shape[:2]), make=lambda: theirs.make().transpose(3, 2, 0, 1))
    if len(shape) == 2 and maps and shape[0] % maps**2 == 0:
        whole = (maps, maps, -1, shape[1])
        turned = lambda: theirs.make().reshape(whole).transpose(3, 2, 0, 1).reshape(shape[::-1])  # noqa: E731
        return replace(theirs, shape=shape[::-1], make=turned)
    return replace(theirs, shape=shape[::-1], make=lambda: theirs.make().T)


def _sum(a: Tensor, b: Tensor, sign: int) -> Tensor:
    """Return a tensor plus or minus another, with the type of the one that float32 cannot represent, if there is one."""
    return replace(a if b.dtype in FLOATS else b, shape=a.shape, make=lambda: _shifted(a.make(), sign * b.make()))


def _shifted(array: Array, by: Array | float) -> Array:
    """Return the sum, computed in float64 so that it is rounded once."""
    return np.add(array, by, dtype=np.float64).astype(array.dtype)


def _scales(network: Network) -> dict[str, str]:
    """Return the name of the scale of each norm behind a convolution, by the names of the two tensors that it multiplies."""
    scales: dict[str, str] = {}
    ops = ((path, node.kind) for path, node in walk(network.root) if isinstance(node, Op))
    for (before, conv), (path, norm) in pairwise(ops):
        if isinstance(conv, Conv) and isinstance(norm, Norm):
            scales |= dict.fromkeys((f"{before}.weight", f"{path}.running_mean"), f"{path}.weight")
    return scales


@record
class Counterpart:
    """The counterpart of one of our tensors: its name and shape in the library, the rule, their bias that ours absorbs, the
    constant by which ours is larger, and our scale by which theirs is multiplied."""

    theirs: str
    shape: Shape
    rule: Rule
    bias: str | None = None
    shift: float = 0.0
    scale: str | None = None


@record
class Profile:
    """A naming profile; the module documents the keys."""

    name: str
    library: str
    rules: tuple[Rule, ...]
    note: str | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    counters: bool = True
    tensors: str | None = None
    epsilon: float | None = None
    scale: bool = True
    numbered: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def names(self, network: Network) -> dict[str, Counterpart]:
        """Return the counterpart of each tensor of a network by our name.

        Raises CheckFailed if the profile is for other networks: it must have distinct names for all tensors, and the network
        must have the attributes of `only`.
        """
        ops = {path: node.kind for path, node in walk(network.root) if isinstance(node, Op)}
        rules = (*self.rules, *self._numbers(ops))
        scales = {} if self.scale else _scales(network)
        known: dict[str, Counterpart] = {}
        whose: dict[str, str] = {}
        for name, parameter in parameters(network):
            if (parameter.dtype == "int64" and not self.counters) or name in scales.values():
                continue
            kind = ops[name.rpartition(".")[0]]
            words = TENSORS[self.tensors].get(kind.word, {}) if self.tensors else {}
            rule, theirs = next(((r, new) for r in rules if (new := r.renamed(name, words)) is not None), (None, ""))
            shape = rule.shape(parameter.shape) if rule else None
            if rule and shape and self.tensors:
                shape = _channels_last(shape, rule.maps)
            if rule is None or shape is None or theirs in whose:
                taken = f": '{theirs}' is already mapped to '{whose.get(theirs)}'"
                why = taken if theirs in whose else f"; it is for {self.library}"
                self._refuse(f"does not map '{name}' of {network.name}{why}")
            shift = self._shift(kind) if parameter.name == "running_var" else 0.0
            known[name] = Counterpart(theirs, shape, rule, rule.taken_in(name), shift, scales.get(name))
            whose[theirs] = name
        self._check(ops, network)
        return known

    def _numbers(self, ops: Mapping[str, Kind]) -> Iterator[Rule]:
        """Yield a rule for each op whose name is a number."""
        for word, first in self.numbered.items():
            paths = (path for path, kind in ops.items() if kind.word == word)
            for number, path in enumerate(paths):
                yield Rule(f"{first}_{number}/*" if number else f"{first}/*", f"{path}.*")

    def _counted(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return their tensors with numbered names counted from the first one in the file."""
        layers = {name.rpartition("/")[0] for name in tensors}
        counted: dict[str, str] = {}
        for first in self.numbered.values():
            found = {layer: int(n[1] or 0) for layer in layers if (n := re.fullmatch(rf"{first}(?:_(\d+))?", layer))}
            for number, layer in enumerate(sorted(found, key=found.__getitem__)):
                counted[layer] = f"{first}_{number}" if number else first
        parts = {name: name.rpartition("/") for name in tensors}
        return {f"{counted.get(p[0], p[0])}{p[1]}{p[2]}": tensors[name] for name, p in parts.items()}

    def _check(self, ops: Mapping[str, Kind], network: Network) -> None:
        """Raise CheckFailed for another network with the same names."""
        for ours, facts in self.only.items():
            paths = list(filter(_compiled(ours)[0].fullmatch, ops))
            if not paths:
                self._refuse(f"expects '{ours}' (it is for {self.library}), but {network.name} has no such part")
            for path, (attribute, wanted) in product(paths, facts.items()):
                found: Any = getattr(ops[path], attribute, None)
                if found not in (wanted, (wanted, wanted)):
                    equal = isinstance(found, tuple) and len({*found}) == 1
                    there, here = (str(value).lower() for value in (wanted, found[0] if equal else found))
                    self._refuse(
                        f"is for {self.library}, where the {attribute} of '{path}' is {there}; in {network.name} it is {here}"
                    )

    def _refuse(self, why: str) -> NoReturn:
        raise CheckFailed.of("E0704", f"profile {self.name} {why}", help=f"the profiles are {one_of(files())}")

    def _shift(self, kind: Kind) -> float:
        """Return the difference of our running variance to theirs. Theirs may become negative, by less than epsilon, but its sum
        with epsilon, which is all that counts, is equal."""
        return self.epsilon - kind.eps if self.epsilon is not None and isinstance(kind, Norm) else 0.0

    def to_ours(self, tensors: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
        """Return their tensors under our names; those that are not part of the network keep their names."""
        known = self.names(network)
        tensors = self._counted(tensors)
        ours = {fact.theirs: name for name, fact in known.items()}
        biases = {fact.bias for fact in known.values() if fact.bias in tensors}
        named: dict[str, Tensor] = {}
        for name, fact in known.items():
            if fact.scale and name.endswith(".running_mean") and fact.theirs in tensors:
                named[fact.scale] = Tensor.of(np.ones(fact.shape, np.float32))
        for theirs, tensor in tensors.items():
            if theirs in ours:
                fact = known[ours[theirs]]
                if fact.bias and fact.bias not in tensors:
                    continue  # their bias, which is a part of it, is missing
                named[ours[theirs]] = self._turned(tensor, fact, tensors)
            elif theirs not in biases:  # and must not be confused with ours of the same name
                named[f"{theirs} (theirs)" if theirs in known else theirs] = tensor
        return named

    def _turned(self, tensor: Tensor, fact: Counterpart, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return their tensor as ours."""
        if fact.bias:
            tensor = _sum(tensor, tensors[fact.bias], -1)
        if fact.shift:
            given = tensor.make
            tensor = replace(tensor, make=lambda: _shifted(given(), fact.shift))
        return fact.rule.shaped(_first(tensor, fact.rule.maps) if self.tensors else tensor)

    def to_theirs(self, weights: Weights, network: Network) -> tuple[Weights, dict[str, tuple[str, Shape]]]:
        """Return the weights of a network under their names, and the type and shape of each."""
        kinds = {name: parameter.dtype for name, parameter in parameters(network)}
        makers, shapes = {}, {}
        for name, fact in self.names(network).items():
            makers[fact.theirs] = partial(self._theirs, weights, name, fact)
            shapes[fact.theirs] = (kinds[name], fact.shape)
            if fact.bias:
                makers[fact.bias] = partial(np.zeros, fact.shape, np.float32)
                shapes[fact.bias] = (kinds[name], fact.shape)
        return Weights(makers), shapes

    def _theirs(self, weights: Weights, name: str, fact: Counterpart) -> Array:
        """Return our tensor as theirs."""
        array = weights[name]
        if fact.scale:
            array = array * weights[fact.scale].reshape(-1, *(1 for _ in array.shape[1:]))
        if fact.shift:
            array = _shifted(array, -fact.shift)
        return (_last(fact.rule.maps, array) if self.tensors else array).reshape(fact.shape)


@cache
def files() -> dict[str, Path]:
    """Return the file of every profile by its name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


@cache
def load(name: str) -> Profile:
    """Return a profile by its name. Raises UsageError if there is none."""
    if name not in files():
        hint = nearest(name, files()) or f"the profiles are {one_of(files())}"
        raise UsageError.of("E0802", f"there is no naming profile '{name}'", help=hint)
    path = files()[name]
    content: dict[str, Any] = plain(read(Source(f"profiles/{path.name}", path.read_text(encoding="utf-8"))))
    names = content.pop("names").items()
    rules = tuple(Rule(theirs, **({"ours": ours} if isinstance(ours, str) else ours)) for theirs, ours in names)
    return Profile(name, rules=rules, **content)


def fitting(tensors: Mapping[str, Tensor], network: Network) -> str | None:
    """Return the profile under which tensors fit a network better than as they are, to suggest it, or None."""
    before = len(misfits(tensors, network))
    for name in files():
        try:
            rows = misfits(load(name).to_ours(tensors, network), network)
        except CheckFailed:
            continue
        if len(rows) < before and not any(row.status in ("missing", "unexpected") for row in rows):
            return name
    return None
