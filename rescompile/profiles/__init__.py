"""Naming profiles: what other libraries call the tensors of a network of ours, in both directions.

A profile is a file `<name>.yaml` beside this one:

    library    whose names they are, and of which of its networks
    note       what else a user should know before trusting the outputs (may be left out)
    counters   false where the files hold no counters of norms (`num_batches_tracked`)
    names      their name: our name, rule by rule; the first that knows one of our names says what they call it

In both names `*` at the end stands for the rest and `{b}` for a whole number. In theirs `{b<3}` is one below 3; in ours the
number may be counted otherwise, `{b+1}` or `{3b+6}`. `their name: {ours: our name, kernel: 7}` is a linear layer of ours
that is a convolution of theirs, and `flat: true` the other way round, for a convolution of 1x1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from rescompile.errors import CheckFailed, Diagnostic, Source, UsageError, nearest, one_of
from rescompile.network import Network, parameters
from rescompile.reader import plain, read
from rescompile.weights import Tensor, misfits

Shape = tuple[int, ...]

_THEIRS = re.compile(r"\{([a-z])(?:<(\d+))?\}|\*$")
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


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a profile."""

    theirs: str
    ours: str
    kernel: int = 0
    flat: bool = False

    def renamed(self, name: str) -> str | None:
        """What they call our tensor of this name; None where the rule does not know it."""
        pattern, holes = _compiled(self.ours)
        found = pattern.fullmatch(name)
        if found is None:
            return None
        limits = {hole[1]: int(hole[2]) for hole in _THEIRS.finditer(self.theirs) if hole[2]}
        values: dict[str, str] = {}
        for hole, text in zip(holes, found.groups(), strict=True):
            value = text if hole[0] == "*" else _solved(hole, int(text), limits.get(hole[2]))
            if value is None or values.setdefault(hole[2] or "*", value) != value:
                return None
        return _THEIRS.sub(lambda hole: values[hole[1] or "*"], self.theirs)

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


@dataclass(frozen=True, slots=True)
class Profile:
    """What a file says."""

    name: str
    library: str
    note: str | None
    counters: bool
    rules: tuple[Rule, ...]

    def names(self, network: Network) -> dict[str, tuple[str, Shape, Rule]]:
        """Their name and shape of each tensor of a network, by our name. Raises CheckFailed where the profile is of other
        networks: it must know all names, and tell them apart."""
        known: dict[str, tuple[str, Shape, Rule]] = {}
        whose: dict[str, str] = {}
        for name, parameter in parameters(network):
            if parameter.dtype == "int64" and not self.counters:
                continue
            rule, theirs = next(((r, new) for r in self.rules if (new := r.renamed(name)) is not None), (None, ""))
            shape = rule.shape(parameter.shape) if rule else None
            if rule is None or shape is None or theirs in whose:
                why = f"'{theirs}' is '{whose[theirs]}' too" if theirs in whose else f"it is of {self.library}"
                message = f"the profile {self.name} has no name for '{name}' of {network.name}: {why}"
                raise CheckFailed(Diagnostic("E0704", message, help=f"the profiles are {one_of(files())}"))
            known[name], whose[theirs] = (theirs, shape, rule), name
        return known

    def to_ours(self, tensors: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
        """Tensors of theirs under our names, as far as they are of the network; others keep theirs."""
        ours = {theirs: (name, rule) for name, (theirs, _, rule) in self.names(network).items()}
        taken = {name for name, _ in ours.values()}
        named: dict[str, Tensor] = {}
        for theirs, tensor in tensors.items():
            if theirs in ours:
                name, rule = ours[theirs]
                named[name] = rule.shaped(tensor)
            else:  # and must not be taken for the one of ours that has its name
                named[f"{theirs} (theirs)" if theirs in taken else theirs] = tensor
        return named


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
    rules = (
        Rule(theirs, **({"ours": ours} if isinstance(ours, str) else ours)) for theirs, ours in held["names"].items()
    )
    return Profile(name, held["library"], held.get("note"), held.get("counters", True), tuple(rules))


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
