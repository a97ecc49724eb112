"""Checkpoints of every format: safetensors, HDF5 of Keras, and `torch.save`, wrapped in one of the usual ways.

Nothing about a file is guessed silently: `notes` list whatever is done to its keys before they are matched.
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

#: The suffixes of files that `torch.save` writes; those of Keras are `hdf5.SUFFIXES`; any other file is read as safetensors.
TORCH = (".pth", ".pt", ".bin", ".ckpt", ".tar")
#: The prefixes that wrappers of modules add to every key.
PREFIXES = {"module.": "DataParallel", "_orig_mod.": "torch.compile"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of a file by key, and notes on what was unwrapped to get them."""

    path: str
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def read(path: str | os.PathLike[str], entry: str | None = None, known: Collection[str] = ()) -> Checkpoint:
    """Read a checkpoint. `entry` selects one of several state dicts in a torch file; `known` are the names of the network, which
    may themselves begin with the prefix of a wrapper.

    Raises UsageError if the file cannot be read, and Unavailable if that needs torch or h5py and it is not installed.
    """
    shown = os.fspath(path)
    file_types.refuse(
        shown,
        "weights must be a safetensors file, a torch checkpoint (.pth, .pt, .bin) or a Keras HDF5 file (.h5)",
        file_types.WEIGHTS,
    )
    file_types.check_file(shown)
    notes: list[str] = []
    if shown.lower().endswith(TORCH):
        tensors = _unwrapped(_torch_reader(shown).read(Path(shown)), shown, entry, notes)
    elif entry is not None:
        raise UsageError(Diagnostic("E0802", f"--entry applies to torch checkpoints only, and {shown} is not one"))
    elif shown.lower().endswith(hdf5.SUFFIXES):
        tensors = hdf5.read(shown, notes)
    else:
        tensors = safetensors_file.read(shown)
    return Checkpoint(shown, _without_prefix(tensors, known, notes), tuple(f"{shown}: {note}" for note in notes))


def _torch_reader(shown: str) -> Any:
    """Return the module that reads torch checkpoints. Raises Unavailable if torch is not installed."""
    try:
        return import_module("rescompile.weights.torch_checkpoint")
    except ImportError as error:
        message = f"{shown} is a torch checkpoint, and torch cannot be imported: {error}"
        raise Unavailable(Diagnostic("E0902", message, help="pip install 'rescompile[torch]'")) from None


def load(path: str | os.PathLike[str], network: Network, say: Callable[[str], None] = warnings.warn) -> Weights:
    """Return the weights of a network from a file, which must contain all its tensors and nothing else.

    `say` gets each note. Raises what `read` raises, and CheckFailed with everything that does not fit.
    """
    checkpoint = read(path, None, dict(parameters(network)))
    for note in checkpoint.notes:
        say(note)
    check(checkpoint.tensors, network, checkpoint.path)
    return fitted(checkpoint.tensors, network, checkpoint.path)


def check(tensors: Mapping[str, Tensor], network: Network, what: str, advice: str | None = None) -> None:
    """Raise CheckFailed with all tensors that do not fit, and with the naming profile under which they would, if there is one."""
    if rows := misfits(tensors, network):
        profile = profiles.fitting(tensors, network)
        if profile is not None:
            advice = f"the keys follow the naming profile {profile}; convert them with rescompile weights convert --from {profile}"
        refuse(rows, network, what, advice)


def _unwrapped(content: Any, path: str, entry: str | None, notes: list[str]) -> dict[str, Tensor]:
    """Return the tensors in the content of a torch file: the content itself, or the one entry that is a state dict."""
    if not isinstance(content, Mapping):
        raise UsageError(Diagnostic("E0803", f"{path} contains a {type(content).__name__}, not a state dict"))
    wrappers = [key for key, value in content.items() if isinstance(value, Mapping) and _tensors(value)]
    if entry is not None and entry not in wrappers:
        hint = (
            nearest(entry, map(str, wrappers))
            or (wrappers and f"use --entry with {one_of(map(str, wrappers))}")
            or None
        )
        raise UsageError(Diagnostic("E0802", f"{path} has no state dict under '{entry}'", help=hint))
    if entry is None and not _tensors(content):
        if not wrappers:
            raise UsageError(Diagnostic("E0803", f"{path} contains no state dict"))
        if len(wrappers) > 1:
            message = f"{path} contains several state dicts: {', '.join(map(repr, wrappers))}"
            help = f"choose one with rescompile weights convert --entry {wrappers[0]}"
            raise UsageError(Diagnostic("E0803", message, help=help))
        entry = wrappers[0]
    if entry is not None:
        beside = [clipped(str(key)) for key in content if key != entry]
        notes.append(f"reading the entry '{entry}'" + (f"; ignored: {', '.join(beside)}" if beside else ""))
        content = content[entry]
    tensors = _tensors(content)
    if others := [f"{clipped(str(key))} ({type(content[key]).__name__})" for key in content if key not in tensors]:
        notes.append(f"ignored, since they are not tensors: {', '.join(others)}")
    return tensors


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _without_prefix(tensors: dict[str, Tensor], known: Collection[str], notes: list[str]) -> dict[str, Tensor]:
    """Return the tensors without the prefixes that wrappers of modules add to all keys."""
    for prefix, wrapper in [*PREFIXES.items()] * 2:  # either may be around the other
        if (
            tensors
            and all(name.startswith(prefix) for name in tensors)
            and not any(n.startswith(prefix) for n in known)
        ):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            notes.append(f"removed the prefix '{prefix}' of {wrapper} from all {len(tensors)} keys")
    return tensors
