"""Naming profiles: what other libraries call the tensors of a network of ours, in both directions.

A profile is a file `<name>.yaml` beside this one:

    library    whose names they are, and of which of its networks
    note       what else a user should know before trusting the outputs (may be left out)
    counters   false where the files hold no counters of norms (`num_batches_tracked`)
    tensors    how the tensors of a layer are called and laid out where that is not torch's way, one of `TENSORS`
    epsilon    of all their norms; a norm of ours that has another takes the difference into its running variance
    scale      false where their norms have none: ours is 1, and on the way back goes into the convolution before
    numbered   op: what they call the first one that no rule names; the next is `<that>_1`, in the order of execution,
               counted in a file from wherever their process stood
    only       our name of an op: attributes without which a network of these names is not the library's
    names      their name: our name, rule by rule; the first that knows one of our names says what they call it

In both names `*` at the end stands for the rest and `{b}` for a whole number, which may be counted otherwise: `{b+1}` in either
and `{3b+6}` in ours. In theirs `{b<3}` and `{b+1<3}` are numbers below 3. `their name: {ours: our name}` has room for more:

    kernel: 7    a linear layer of ours is a convolution of theirs
    flat: true   a convolution of 1x1 of ours is a linear layer of theirs
    maps: 7      a linear layer on flattened maps of 7x7, which they flatten with the channels last
    bias: name   a norm of ours follows a convolution that has a bias of this name there, and none here: the running mean
                 takes it in, and on the way back it is 0
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import pairwise, product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from rescompile.diagnostics.errors import CheckFailed, Diagnostic, Source, UsageError, nearest, one_of
from rescompile.ir.network import Network, Op, parameters, walk
from rescompile.ir.ops import Conv, Kind, Norm
from rescompile.lang.yaml_reader import plain, read
from rescompile.weights.key_matching import misfits
from rescompile.weights.mapping import Array, Weights
from rescompile.weights.tensors import FLOATS, Tensor

Shape = tuple[int, ...]

#: By library and op: what it calls a tensor of ours. Those of keras have their output channels last: kernels are
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
    """What matches a name of ours, with one group for each of the holes."""
    holes = list(_OURS.finditer(ours))
    pieces = _OURS.sub("\0", ours).split("\0")
    groups = ["(.+)" if hole[0] == "*" else "(0|[1-9][0-9]*)" for hole in holes]
    pattern = "".join(f"{re.escape(piece)}{group}" for piece, group in zip(pieces, [*groups, ""], strict=True))
    return re.compile(pattern), holes


def _solved(hole: re.Match[str], number: int, limit: int | None) -> str | None:
    """The letter of a hole such as `{3b+6}` where it stands for a number; None where it cannot."""
    value, rest = divmod(number - int(hole[3] or 0), int(hole[1] or 1))
    return None if rest or value < 0 or (limit is not None and value >= limit) else str(value)


def _filled(theirs: str, values: Mapping[str, str]) -> str:
    """A name of theirs with its holes filled."""
    return _THEIRS.sub(
        lambda hole: str(int(values[hole[1]]) + int(hole[2])) if hole[2] else values[hole[1] or "*"], theirs
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a profile."""

    theirs: str
    ours: str
    kernel: int = 0
    flat: bool = False
    maps: int = 0
    bias: str = ""

    def renamed(self, name: str, words: Mapping[str, str] = MappingProxyType({})) -> str | None:
        """What they call our tensor of this name; None where the rule does not know it. `words` are their own for the
        last part of a name."""
        values = self._values(name)
        if values and "*" in values:
            values["*"] = words.get(values["*"], values["*"])
        return None if values is None else _filled(self.theirs, values)

    def taken_in(self, name: str) -> str | None:
        """What they call the bias that our tensor of this name takes in; None where it takes in none."""
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
        """Their shape of a tensor of ours; None where it cannot be theirs."""
        if self.kernel and len(ours) == 2:
            channels, rest = divmod(ours[1], self.kernel**2)
            return None if rest else (ours[0], channels, self.kernel, self.kernel)
        if self.flat and len(ours) == 4:
            return ours[:2] if ours[2:] == (1, 1) else None
        return ours

    def shaped(self, theirs: Tensor) -> Tensor:
        """Their tensor in our shape, as far as the rule knows: its number of channels may still be another one."""
        shape = theirs.shape
        if self.kernel and shape[2:] == (self.kernel, self.kernel):
            shape = (shape[0], shape[1] * self.kernel**2)
        elif self.flat and len(shape) == 2:
            shape = (*shape, 1, 1)
        return replace(theirs, shape=shape, make=lambda: theirs.make().reshape(shape))


def _channels_last(shape: Shape, maps: int) -> Shape | None:
    """The shape of a tensor of ours with its output channels last; None where it is not of maps of this size."""
    if len(shape) == 2:
        return None if shape[1] % (maps**2 or 1) else shape[::-1]
    return (*shape[2:], shape[1], shape[0]) if len(shape) == 4 else shape


def _last(maps: int, array: Array) -> Array:
    """A tensor of ours with its output channels last."""
    if array.ndim == 2 and maps:
        array = array.reshape(array.shape[0], -1, maps, maps)
    if array.ndim == 4:
        last = array.transpose(2, 3, 1, 0)
        return last.reshape(-1, last.shape[3]) if maps else last
    return array.T


def _first(theirs: Tensor, maps: int) -> Tensor:
    """A tensor that has its output channels last, with them first."""
    shape = theirs.shape
    if len(shape) == 4:
        return replace(theirs, shape=(shape[3], shape[2], *shape[:2]), make=lambda: theirs.make().transpose(3, 2, 0, 1))
    if len(shape) == 2 and maps and shape[0] % maps**2 == 0:
        whole = (maps, maps, -1, shape[1])
        turned = lambda: theirs.make().reshape(whole).transpose(3, 2, 0, 1).reshape(shape[::-1])  # noqa: E731
        return replace(theirs, shape=shape[::-1], make=turned)
    return replace(theirs, shape=shape[::-1], make=lambda: theirs.make().T)


def _sum(a: Tensor, b: Tensor, sign: int) -> Tensor:
    """A tensor plus or minus another; of the type of the one that float32 does not hold, if there is one."""
    return replace(a if b.dtype in FLOATS else b, shape=a.shape, make=lambda: _shifted(a.make(), sign * b.make()))


def _shifted(array: Array, by: Array | float) -> Array:
    """Rounded once: the sum is made in float64."""
    return np.add(array, by, dtype=np.float64).astype(array.dtype)


def _scales(network: Network) -> dict[str, str]:
    """Of each convolution with a norm behind: the scale of that norm, by the names of the two tensors that it multiplies."""
    scales: dict[str, str] = {}
    ops = ((path, node.kind) for path, node in walk(network.root) if isinstance(node, Op))
    for (before, conv), (path, norm) in pairwise(ops):
        if isinstance(conv, Conv) and isinstance(norm, Norm):
            scales |= dict.fromkeys((f"{before}.weight", f"{path}.running_mean"), f"{path}.weight")
    return scales


@dataclass(frozen=True, slots=True)
class Known:
    """What a profile knows of a tensor of ours: its name and shape there, the rule, the bias of theirs that it takes in, by
    how much ours is larger, and the scale of ours by which theirs is multiplied."""

    theirs: str
    shape: Shape
    rule: Rule
    bias: str | None = None
    shift: float = 0.0
    scale: str | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """What a file says."""

    name: str
    library: str
    rules: tuple[Rule, ...]
    note: str | None = None
    counters: bool = True
    tensors: str | None = None
    epsilon: float | None = None
    scale: bool = True
    numbered: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def names(self, network: Network) -> dict[str, Known]:
        """What they call each tensor of a network, by our name. Raises CheckFailed where the profile is of other networks:
        it must know all names, tell them apart, and find what its networks have and others of their names have not."""
        ops = {path: node.kind for path, node in walk(network.root) if isinstance(node, Op)}
        rules = (*self.rules, *self._numbers(ops))
        scales = {} if self.scale else _scales(network)
        known: dict[str, Known] = {}
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
                why = f"'{theirs}' is '{whose[theirs]}' too" if theirs in whose else f"it is of {self.library}"
                self._refuse(f"has no name for '{name}' of {network.name}: {why}")
            shift = self._shift(kind) if parameter.name == "running_var" else 0.0
            known[name] = Known(theirs, shape, rule, rule.taken_in(name), shift, scales.get(name))
            whose[theirs] = name
        self._check(ops, network)
        return known

    def _numbers(self, ops: Mapping[str, Kind]) -> Iterator[Rule]:
        """A rule for each op that is called by its number."""
        for word, first in self.numbered.items():
            paths = (path for path, kind in ops.items() if kind.word == word)
            for number, path in enumerate(paths):
                yield Rule(f"{first}_{number}/*" if number else f"{first}/*", f"{path}.*")

    def _counted(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors, with what is called by numbers counted from the first of them in the file."""
        layers = {name.rpartition("/")[0] for name in tensors}
        counted: dict[str, str] = {}
        for first in self.numbered.values():
            found = {layer: int(n[1] or 0) for layer in layers if (n := re.fullmatch(rf"{first}(?:_(\d+))?", layer))}
            for number, layer in enumerate(sorted(found, key=found.__getitem__)):
                counted[layer] = f"{first}_{number}" if number else first
        parts = {name: name.rpartition("/") for name in tensors}
        return {f"{counted.get(p[0], p[0])}{p[1]}{p[2]}": tensors[name] for name, p in parts.items()}

    def _check(self, ops: Mapping[str, Kind], network: Network) -> None:
        """Raise CheckFailed for a network of their names that is another one."""
        for ours, facts in self.only.items():
            paths = list(filter(_compiled(ours)[0].fullmatch, ops))
            if not paths:
                self._refuse(f"is of {self.library}, which have a '{ours}'; {network.name} has none")
            for path, (attribute, wanted) in product(paths, facts.items()):
                found: Any = getattr(ops[path], attribute, None)
                if found not in (wanted, (wanted, wanted)):
                    equal = isinstance(found, tuple) and len({*found}) == 1
                    there, here = (str(value).lower() for value in (wanted, found[0] if equal else found))
                    self._refuse(
                        f"is of {self.library}, where the {attribute} of '{path}' is {there}; in {network.name} it is {here}"
                    )

    def _refuse(self, why: str) -> NoReturn:
        message = f"the profile {self.name} {why}"
        raise CheckFailed(Diagnostic("E0704", message, help=f"the profiles are {one_of(files())}"))

    def _shift(self, kind: Kind) -> float:
        """By how much a running variance of ours is larger than theirs. It may come out negative there, by less than
        epsilon: its sum with epsilon, which is all that counts, is the same."""
        return self.epsilon - kind.eps if self.epsilon is not None and isinstance(kind, Norm) else 0.0

    def to_ours(self, tensors: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
        """Tensors of theirs under our names, as far as they are of the network; others keep theirs."""
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
                    continue  # half of it is missing
                named[ours[theirs]] = self._turned(tensor, fact, tensors)
            elif theirs not in biases:  # and must not be taken for the one of ours that has its name
                named[f"{theirs} (theirs)" if theirs in known else theirs] = tensor
        return named

    def _turned(self, tensor: Tensor, fact: Known, tensors: Mapping[str, Tensor]) -> Tensor:
        """A tensor of theirs as ours."""
        if fact.bias:
            tensor = _sum(tensor, tensors[fact.bias], -1)
        if fact.shift:
            given = tensor.make
            tensor = replace(tensor, make=lambda: _shifted(given(), fact.shift))
        return fact.rule.shaped(_first(tensor, fact.rule.maps) if self.tensors else tensor)

    def to_theirs(self, weights: Weights, network: Network) -> tuple[Weights, dict[str, tuple[str, Shape]]]:
        """Weights of a network as theirs, and the type and shape of each, by their name."""
        kinds = {name: parameter.dtype for name, parameter in parameters(network)}
        makers, shapes = {}, {}
        for name, fact in self.names(network).items():
            makers[fact.theirs] = partial(self._made, weights, name, fact)
            shapes[fact.theirs] = (kinds[name], fact.shape)
            if fact.bias:
                makers[fact.bias] = partial(np.zeros, fact.shape, np.float32)
                shapes[fact.bias] = (kinds[name], fact.shape)
        return Weights(makers), shapes

    def _made(self, weights: Weights, name: str, fact: Known) -> Array:
        """A tensor of ours as theirs."""
        array = weights[name]
        if fact.scale:
            array = array * weights[fact.scale].reshape(-1, *(1 for _ in array.shape[1:]))
        if fact.shift:
            array = _shifted(array, -fact.shift)
        return (_last(fact.rule.maps, array) if self.tensors else array).reshape(fact.shape)


@cache
def files() -> dict[str, Path]:
    """Every profile shipped with rescompile: its name -> its file."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


@cache
def load(name: str) -> Profile:
    """The profile of a name. Raises UsageError if there is none."""
    if name not in files():
        hint = nearest(name, files()) or f"the profiles are {one_of(files())}"
        raise UsageError(Diagnostic("E0802", f"there is no naming profile '{name}'", help=hint))
    path = files()[name]
    held: dict[str, Any] = plain(read(Source(f"profiles/{path.name}", path.read_text(encoding="utf-8"))))
    named = held.pop("names").items()
    rules = tuple(Rule(theirs, **({"ours": ours} if isinstance(ours, str) else ours)) for theirs, ours in named)
    return Profile(name, rules=rules, **held)


def fitting(tensors: Mapping[str, Tensor], network: Network) -> str | None:
    """The profile under which tensors fit a network: what to propose where they do not."""
    for name in files():
        try:
            named = load(name).to_ours(tensors, network)
        except CheckFailed:
            continue
        if not any(row.status in ("missing", "unexpected") for row in misfits(named, network)):
            return name
    return None
