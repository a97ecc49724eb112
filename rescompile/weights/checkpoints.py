"""Checkpoints of every format, without the entries and the prefixes around the tensors of a network.

Nothing is guessed silently: `notes` list every change to the keys before they are matched.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from rescompile.analysis.heads import heads
from rescompile.diagnostics.errors import UsageError, clipped, nearest, one_of
from rescompile.files import file_types
from rescompile.ir.network import Network, parameters
from rescompile.ir.ops import Shape
from rescompile.records import record
from rescompile.weights import file_formats, profiles, zoo_index
from rescompile.weights.key_matching import Misfit, fitted, misfits, notes, refuse, required
from rescompile.weights.key_prefixes import Placed, placed
from rescompile.weights.mapping import Weights
from rescompile.weights.tensors import Tensor


@record
class WeightsFile(os.PathLike[str]):
    """A weights file and what to read of it: the state dict under `entry`, and the tensors whose keys begin with `prefix`."""

    path: str
    entry: str | None = None
    prefix: str | None = None

    def __fspath__(self) -> str:
        """Return the path."""
        return self.path

    def __str__(self) -> str:
        """Return the path as messages show it."""
        return self.path


@record
class Checkpoint:
    """The tensors of a file by key, notes on how they were unwrapped, and the preprocessing that the file records."""

    path: str
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]
    preprocess: Mapping[str, Any] | None = None


def read(path: str | os.PathLike[str], wanted: Mapping[str, Shape] | None = None) -> Checkpoint:
    """Read a checkpoint. `wanted` contains the shapes of a network's parameters, which determine the state dict and the key
    prefix.

    Raises UsageError if the file cannot be read, and Unavailable if it needs h5py, which is not installed.
    """
    file = path if isinstance(path, WeightsFile) else WeightsFile(os.fspath(path))
    if not os.path.exists(file.path):
        file_types.refuse(file.path, file_formats.WANTED, file_types.WEIGHTS)
    file_types.check_file(file.path)
    notes: list[str] = []
    content = file_formats.read(file.path, notes)
    entries, others = content.entries, content.others
    entry, found = _chosen(file, entries, dict(wanted or {}))
    if entry:
        ignored = [key for key in others if key != entry.partition(".")[0]]
        ignored += [key for key in entries.get("", ()) if key not in others]
        notes.append(f"reading the entry '{entry}'" + (f"; ignored: {_listed(ignored)}" if ignored else ""))
    elif others:
        rest = [f"{clipped(key)} ({kind})" for key, kind in others.items()]
        notes.append(f"ignored, since they are not tensors: {_listed(rest)}")
    notes += found.notes
    if found.ignored:
        notes.append(f"ignored, since they have other prefixes: {_listed(found.ignored)}")
    return Checkpoint(file.path, found.tensors, tuple(f"{file.path}: {note}" for note in notes), content.preprocess)


def _listed(names: Mapping[str, object] | list[str], limit: int = 8) -> str:
    """Return the first names of a list, and the number of the others."""
    shown = [clipped(name) for name in names][:limit]
    return ", ".join(shown) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _chosen(
    file: WeightsFile, entries: dict[str, dict[str, Tensor]], wanted: Mapping[str, Shape]
) -> tuple[str, Placed]:
    """Return the state dict of a file that belongs to the network, with its entry. Raises UsageError unless there is one."""
    if not entries:
        raise UsageError.of("E0803", f"{file.path} contains no state dict")
    if file.entry is not None:
        if file.entry not in entries:
            inner = [name for name in entries if name]
            hint = nearest(file.entry, inner) or (f"use --entry with {one_of(inner)}" if inner else None)
            raise UsageError.of("E0802", f"{file.path} has no state dict under '{clipped(file.entry)}'", help=hint)
        entries = {file.entry: entries[file.entry]}
    elif len(entries) > 1:  # a single number next to state dicts, such as an accuracy, is not a state dict
        entries = {
            name: tensors
            for name, tensors in entries.items()
            if name or any(t.shape not in ((), (1,)) for t in tensors.values())
        }
    if len(entries) == 1:
        ((name, tensors),) = entries.items()
        return name, placed(tensors, wanted, file.prefix, file.path)
    found: dict[str, Placed] = {}
    for name, tensors in entries.items():
        try:
            found[name] = placed(tensors, wanted, file.prefix, file.path)
        except UsageError:
            if not found and name == [*entries][-1]:
                raise
    most = max(each.matches for each in found.values())
    best = [name for name, each in found.items() if each.matches == most]
    if len(best) == 1 or best[0] == "":
        return best[0], found[best[0]]
    message = f"{file.path} contains several state dicts: {', '.join(repr(clipped(name)) for name in best)}"
    raise UsageError.of("E0803", message, help=f"choose one with --entry {best[0]}")


def load(path: str | os.PathLike[str], network: Network, say: Callable[[str], None] = warnings.warn) -> Weights:
    """Return the weights of a network from a file, which must contain all its tensors. `say` is called with each note.

    Raises what `read` raises, and CheckFailed with all tensors that do not fit.
    """
    checkpoint = read(path, shapes(network))
    for note in checkpoint.notes:
        say(note)
    weights = fitted(check(checkpoint.tensors, network, checkpoint.path, say), network, checkpoint.path)
    weights.preprocess = checkpoint.preprocess
    return weights


def shapes(network: Network) -> dict[str, Shape]:
    """Return the shapes of the parameters of a network by name."""
    return {name: parameter.shape for name, parameter in parameters(network)}


def check(
    tensors: Mapping[str, Tensor],
    network: Network,
    what: str,
    say: Callable[[str], None],
    advice: Callable[[list[Misfit]], str | None] = lambda _: None,
    settable: bool = True,
) -> dict[str, Tensor]:
    """Return the tensors of a network from those of a file; `say` is called with notes on additional tensors and on missing
    ones that inference does not read. `settable` is false if --set does not apply to the network.

    Raises CheckFailed with all tensors that do not fit, and with what they fit instead: another naming profile, number of
    classes, or network of the zoo.
    """
    names = shapes(network)
    rows = required(misfits(tensors, network), tensors, network)
    if rows:
        refuse(rows, network, what, _instead(tensors, network, rows, advice(rows), settable))
    for note in notes(tensors, network):
        say(f"{what}: {note}")
    return {name: tensor for name, tensor in tensors.items() if name in names}


def _instead(
    tensors: Mapping[str, Tensor], network: Network, rows: list[Misfit], advice: str | None, settable: bool
) -> str | None:
    """Return the help for tensors that do not fit, or None if there is none."""
    if (profile := profiles.fitting(tensors, network)) is not None:
        return f"the keys follow the naming profile {profile}; convert them with rescompile weights convert --from {profile}"
    if advice is None and all(
        row.status == "missing" and row.name.rpartition(".")[0] in dict(heads(network)) for row in rows
    ):
        return "the classifier is missing; rescompile weights convert --classes new makes a new one"
    setting = _setting(network, rows)
    if setting is not None and not settable:
        setting = f"a spec of {network.name} with set: {{{setting.removeprefix('--set ').replace('=', ': ')}}}"
    if advice is not None or setting is not None:
        return ", or ".join(filter(None, (advice, setting and f"use {setting}")))
    fits = zoo_index.fitting({name: tensor.shape for name, tensor in tensors.items()})
    if not fits:
        return None
    classes = next(iter(fits.values()))
    settings = f" with --set parameters.classes={classes}" if classes else ""
    return f"these tensors fit {_listed([name for name, each in fits.items() if each == classes], 4)}{settings}"


def _setting(network: Network, rows: list[Misfit]) -> str | None:
    """Return the setting of the number of classes with which tensors fit that differ only there, or None."""
    ends = dict(heads(network))
    if any(row.status != "differs" or row.name.rpartition(".")[0] not in ends for row in rows):
        return None
    classes = {row.found[0] for row in rows if row.found}
    hints = {value for row in rows for value in ends[row.name.rpartition(".")[0]].hints.values()}
    named = [hint for hint in hints if hint in network.parameters]
    same = all(row.found and row.wanted and row.found[1:] == row.wanted[1:] for row in rows)
    return f"--set parameters.{named[0]}={classes.pop()}" if same and len(named) == len(classes) == 1 else None
