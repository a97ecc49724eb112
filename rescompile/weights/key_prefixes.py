"""Removes from the keys of a checkpoint what wrappers and enclosing modules put before the names of a network.

A prefix is not chosen from a list of words: it is whatever precedes the names of the network in the matching keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from rescompile.diagnostics.errors import UsageError, clipped, nearest, one_of
from rescompile.ir.ops import Shape
from rescompile.records import record
from rescompile.weights.tensors import Tensor

#: The names that module wrappers insert anywhere into keys.
WRAPPERS = {
    "module": "DataParallel",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module": "activation checkpointing",
}


@record
class Placed:
    """Tensors under the names of a network, those under other prefixes, notes on what was done, and the number of tensors
    that match a parameter in name and shape."""

    tensors: dict[str, Tensor]
    ignored: dict[str, Tensor]
    notes: list[str]
    matches: int = 0


def placed(tensors: Mapping[str, Tensor], wanted: Mapping[str, Shape], prefix: str | None, what: str) -> Placed:
    """Return the tensors under the names of a network, whose parameters are `wanted` (empty if there is no network).

    `prefix` selects the tensors under it. Raises UsageError if there are none, or if several prefixes are equally good.
    """
    notes: list[str] = []
    ignored: dict[str, Tensor] = {}
    if prefix is not None:
        head = prefix if prefix.endswith(".") else f"{prefix}."
        inside = {name.removeprefix(head): tensor for name, tensor in tensors.items() if name.startswith(head)}
        if not inside:
            known = sorted({name.rpartition(".")[0] for name in tensors} | {name.partition(".")[0] for name in tensors})
            raise UsageError.of(
                "E0802", f"{what} has no tensors under the prefix '{clipped(prefix)}'", help=nearest(prefix, known)
            )
        ignored = {name: tensor for name, tensor in tensors.items() if not name.startswith(head)}
        tensors = inside
    tensors = _without_wrappers(tensors, wanted, notes)
    if prefix is None and wanted:
        tensors, ignored = _without_prefixes(tensors, wanted, what, notes)
    matches = sum(name in wanted and tensor.shape == wanted[name] for name, tensor in tensors.items())
    return Placed(dict(tensors), ignored, notes, matches)


def _without_wrappers(tensors: Mapping[str, Tensor], wanted: Collection[str], notes: list[str]) -> Mapping[str, Tensor]:
    """Return the tensors without the names of wrappers in their keys, unless the network has them or two keys become one."""
    own = {part for name in wanted for part in name.split(".")}
    for word, wrapper in WRAPPERS.items():
        if word in own:
            continue
        shorter = {name: ".".join(part for part in name.split(".") if part != word) for name in tensors}
        number = sum(name != short for name, short in shorter.items())
        if number and len({*shorter.values()}) == len(shorter) and all(shorter.values()):
            tensors = {shorter[name]: tensor for name, tensor in tensors.items()}
            notes.append(f"removed '{word}.' of {wrapper} from {_of(number, len(tensors))} keys")
    return tensors


def _of(number: int, all: int) -> str:
    return f"all {all}" if number == all else f"{number} of {all}"


def _without_prefixes(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Shape], what: str, notes: list[str]
) -> tuple[Mapping[str, Tensor], dict[str, Tensor]]:
    """Return the tensors without the prefix that most of the network has, and those under other prefixes. Missing parts, such
    as a head next to a backbone, are taken from another prefix if it contains nothing else.
    """
    names: Counter[str] = Counter()
    shapes: Counter[str] = Counter()
    for key, tensor in tensors.items():
        for prefix, name in _splits(key):
            if name in wanted:
                names[prefix] += 1
                shapes[prefix] += tensor.shape == wanted[name]
    best = max(((shapes[p], names[p], p == "") for p in names), default=(0, 0, True))
    if best[2] or best[1] * 2 < len(wanted):
        main = ""
    else:
        main, *others = sorted(p for p in names if (shapes[p], names[p], False) == best)
        if others:
            listed = one_of([f"'{clipped(p)}'" for p in (main, *others)], "and")
            message = f"{what} contains several networks that match: under {listed}"
            raise UsageError.of("E0803", message, help=f"choose one with --prefix {main.removesuffix('.')}")
    inside = {key.removeprefix(main): tensor for key, tensor in tensors.items() if key.startswith(main)}
    if main:
        notes.append(f"removed the prefix '{main}' from {_of(len(inside), len(tensors))} keys")
    missing = {name for name in wanted if name not in inside}
    free = {key: tensor for key, tensor in tensors.items() if not key.startswith(main)} if main else dict(inside)
    for prefix in sorted(names, key=lambda p: (-names[p], p)):
        group = [key for key in free if key.startswith(prefix)]
        own = {key: key.removeprefix(prefix) for key in group}
        alone = not any(_ends(other, own.values()) for other in free if other not in own)
        if prefix and prefix != main and own and missing.issuperset(own.values()) and alone:
            for key, name in own.items():
                inside[name] = free.pop(key)
                if not main:
                    del inside[key]
            missing -= {*own.values()}
            notes.append(f"removed the prefix '{prefix}' from {_of(len(own), len(tensors))} keys")
    return inside, free if main else {}


def _splits(key: str) -> list[tuple[str, str]]:
    """Return the ways to split a key into a prefix, with its dot, and a name."""
    starts = [0, *(at + 1 for at, letter in enumerate(key) if letter == ".")]
    return [(key[:at], key[at:]) for at in starts[:32]]


def _ends(key: str, names: Collection[str]) -> bool:
    """Return whether a key ends in one of the names, so that it could be the same parameter."""
    return any(name in names for _, name in _splits(key))
