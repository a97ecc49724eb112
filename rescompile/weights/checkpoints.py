"""Checkpoints as they come: safetensors, what keras wrote, or what `torch.save` did, wrapped in one of the usual ways.

Nothing about a file is guessed silently: whatever is done to it before its names are compared is said in `notes`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError, clipped, nearest, one_of
from rescompile.files import file_types
from rescompile.ir.network import Network, parameters
from rescompile.weights import hdf5, profiles, safetensors_file
from rescompile.weights.key_matching import fitted, misfits, refuse
from rescompile.weights.mapping import Weights
from rescompile.weights.tensors import Tensor

#: The endings of files that `torch.save` writes; keras' are `hdf5.SUFFIXES`; anything else is read as safetensors.
TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar")
#: What wrappers put before every name.
PREFIXES = {"module.": "DataParallel", "_orig_mod.": "torch.compile"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of a file by name, and what was done to get at them."""

    path: str
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def read(path: str | os.PathLike[str], entry: str | None = None, known: Collection[str] = ()) -> Checkpoint:
    """Read a checkpoint. `entry` names the one of several sets of tensors that a file of torch may hold; `known` are names
    that are wanted, since a network may itself begin all its names as a wrapper does.

    Raises UsageError where the file cannot be read, and Unavailable where it takes torch or h5py, which is not there.
    """
    shown = os.fspath(path)
    file_types.refuse(
        shown, "weights are safetensors, a .pth, .pt or .bin of torch, or a .h5 of keras", file_types.WEIGHTS
    )
    file_types.check_file(shown)
    notes: list[str] = []
    if shown.lower().endswith(TORCH):
        tensors = _unwrapped(_torch_reader(shown).read(Path(shown)), shown, entry, notes)
    elif entry is not None:
        raise UsageError(Diagnostic("E0802", f"{shown} is no file of torch: it holds one set of tensors, no entries"))
    elif shown.lower().endswith(hdf5.SUFFIXES):
        tensors = hdf5.read(shown, notes)
    else:
        tensors = safetensors_file.read(shown)
    return Checkpoint(shown, _without_prefix(tensors, known, notes), tuple(f"{shown}: {note}" for note in notes))


def _torch_reader(shown: str) -> Any:
    """The module that reads what `torch.save` wrote. Raises Unavailable where torch is missing."""
    try:
        return import_module("rescompile.weights.torch_checkpoint")
    except ImportError as error:
        message = f"{shown} is a checkpoint of torch, which cannot be loaded: {error}"
        raise Unavailable(Diagnostic("E0902", message, help="pip install 'rescompile[torch]'")) from None


def load(path: str | os.PathLike[str], network: Network, say: Callable[[str], None] = warnings.warn) -> Weights:
    """The weights of a network from a file, which must hold every tensor of it and nothing else.

    What was done to get at them is told to `say`. Raises what `read` does, and CheckFailed with all that does not fit.
    """
    checkpoint = read(path, None, dict(parameters(network)))
    for note in checkpoint.notes:
        say(note)
    check(checkpoint.tensors, network, checkpoint.path)
    return fitted(checkpoint.tensors, network, checkpoint.path)


def check(tensors: Mapping[str, Tensor], network: Network, what: str, advice: str | None = None) -> None:
    """Raise CheckFailed with all tensors that do not fit, and the profile that they are named by where there is one."""
    if rows := misfits(tensors, network):
        profile = profiles.fitting(tensors, network)
        if profile is not None:
            advice = f"the names are those of the profile {profile}: rescompile weights convert --from {profile}"
        refuse(rows, network, what, advice)


def _unwrapped(held: Any, path: str, entry: str | None, notes: list[str]) -> dict[str, Tensor]:
    """The tensors in what a file of torch holds: itself, or the one entry of it that holds tensors by name."""
    if not isinstance(held, Mapping):
        raise UsageError(Diagnostic("E0803", f"{path} holds a {type(held).__name__}, not tensors by name"))
    wrappers = [key for key, value in held.items() if isinstance(value, Mapping) and _tensors(value)]
    if entry is not None and entry not in wrappers:
        hint = nearest(entry, map(str, wrappers)) or (wrappers and f"it has {one_of(map(str, wrappers))}") or None
        raise UsageError(Diagnostic("E0802", f"{path} holds no tensors under '{entry}'", help=hint))
    if entry is None and not _tensors(held):
        if not wrappers:
            raise UsageError(Diagnostic("E0803", f"{path} holds no tensors by name"))
        if len(wrappers) > 1:
            message = f"{path} holds several sets of tensors: {', '.join(map(repr, wrappers))}"
            help = f"rescompile weights convert --entry {wrappers[0]} takes one of them"
            raise UsageError(Diagnostic("E0803", message, help=help))
        entry = wrappers[0]
    if entry is not None:
        beside = [clipped(str(key)) for key in held if key != entry]
        notes.append(f"the tensors are those of its '{entry}'" + (f"; left out: {', '.join(beside)}" if beside else ""))
        held = held[entry]
    tensors = _tensors(held)
    if others := [f"{clipped(str(key))} ({type(held[key]).__name__})" for key in held if key not in tensors]:
        notes.append(f"left out, since they are no tensors: {', '.join(others)}")
    return tensors


def _tensors(held: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in held.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _without_prefix(tensors: dict[str, Tensor], known: Collection[str], notes: list[str]) -> dict[str, Tensor]:
    """The tensors without what wrappers of modules put before all names, however many there are."""
    for prefix, wrapper in [*PREFIXES.items()] * 2:  # either may be around the other
        if (
            tensors
            and all(name.startswith(prefix) for name in tensors)
            and not any(n.startswith(prefix) for n in known)
        ):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            notes.append(f"'{prefix}' is taken off all {len(tensors)} names, which {wrapper} put there")
    return tensors
