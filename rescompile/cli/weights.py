"""`weights inspect`, `weights convert`, `weights transfer`: checkpoints with other names or for other networks."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rescompile.cli.command import command
from rescompile.cli.options import ForceOption, FormatOption, JsonOption, Selection, SetOption, SpecArgument, option
from rescompile.cli.progress import Progress
from rescompile.cli.reporting import columns, is_same_file, print_json, say
from rescompile.cli.specs import elaborated
from rescompile.diagnostics.errors import OutputError, UsageError
from rescompile.diagnostics.text_table import text_table
from rescompile.records import record

if TYPE_CHECKING:
    from rescompile.ir.network import Network
    from rescompile.weights.checkpoints import Checkpoint, WeightsFile
    from rescompile.weights.profiles import Profile
    from rescompile.weights.transfer import Transferred


FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="Weights file: safetensors, torch, Keras or NumPy.")]
OutputOption = Annotated[
    Path, typer.Option("-o", "--output", metavar="PATH", help="File to write; its name must end in .safetensors.")
]
FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="PROFILE", help="Naming profile of FILE. Default: the names of the spec."),
]


@record
class Adaptation:
    """What `convert` and `transfer` do where a file does not have what a network needs."""

    classes: Literal["new", "keep"] | None = option(
        "If the class count differs: create a new classifier, or keep the shared classes."
    )
    in_channels: Literal["sum", "repeat"] | None = option(
        "If the input channels differ: sum them into one, or repeat them."
    )
    preprocess: list[str] | None = option(
        "Record preprocessing that FILE lacks: mean=0.5,0.5,0.5. Repeatable.", metavar="NAME=VALUE"
    )
    seed: int = option("Seed of new tensors.", 0)


@command
def inspect(
    file: FileArgument,
    selection: Selection,
    spec: Annotated[
        str | None,
        typer.Argument(metavar="[SPEC]", help="Spec file or zoo network to compare with.", show_default=False),
    ] = None,
    source: FromOption = None,
    set: SetOption = None,
    as_json: JsonOption = False,
    format: FormatOption = "text",
) -> None:
    """List the tensors of a file; with SPEC, list the mismatches."""
    from rescompile.weights import checkpoints
    from rescompile.weights.key_matching import misfits, required

    _in_order("weights inspect", file, *(() if spec is None else (spec,)))
    if spec is None:
        if source is not None or set:
            raise UsageError.of("E0802", "--from and --set apply only with a SPEC")
        checkpoint = _read(selection.read(file))
        if as_json:
            print_json(_listed(checkpoint))
        else:
            _print_tensors(checkpoint)
        return
    _, network = elaborated(spec, set)
    checkpoint = _read(selection.read(file), network, _profile(source) if source else None)
    rows = required(misfits(checkpoint.tensors, network), checkpoint.tensors, network)
    if as_json:
        data = [
            {"name": row.name, "status": row.status, "found": row.found, "wanted": row.wanted, "dtype": row.dtype}
            for row in rows
        ]
        print_json({**_listed(checkpoint), "network": network.name, "fits": not rows, "misfits": data})
        if rows:
            raise typer.Exit(1)
        return
    tensors = checkpoints.check(checkpoint.tensors, network, file, say)
    print(f"{file} fits {network.name}: {len(tensors)} tensors")


@command
def convert(
    file: FileArgument,
    spec: SpecArgument,
    output: OutputOption,
    selection: Selection,
    source: FromOption = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="PROFILE", help="Naming profile to write. Default: the names of the spec."),
    ] = None,
    *,
    adaptation: Adaptation,
    set: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    format: FormatOption = "text",
) -> None:
    """Write weights that fit a spec; options rename and resize them."""
    from rescompile.weights import safetensors_file
    from rescompile.weights.transfer import convert

    safetensors_file.check_name(output)
    _in_order("weights convert", file, spec)
    _not_over(file, output, force)
    _, network = elaborated(spec, set)
    checkpoint = _read(selection.read(file), network, _profile(source) if source else None)
    done = convert(checkpoint.tensors, network, file, adaptation.classes, adaptation.in_channels, adaptation.seed, say)
    images = _preprocessing(checkpoint, network, source, adaptation.preprocess)
    _write(done, network, _profile(to) if to else None, output, force, as_json, images)


@command
def transfer(
    file: FileArgument,
    old: Annotated[str, typer.Argument(metavar="OLD", help="Spec file or zoo network that FILE belongs to.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Edited spec; --set applies to it.")],
    output: OutputOption,
    selection: Selection,
    *,
    adaptation: Adaptation,
    set: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    format: FormatOption = "text",
) -> None:
    """Transfer weights to an edited spec, where both specs agree."""
    from rescompile.weights import checkpoints, safetensors_file
    from rescompile.weights.key_matching import misfits
    from rescompile.weights.transfer import transfer

    safetensors_file.check_name(output)
    _in_order("weights transfer", file, old, new)
    _not_over(file, output, force)
    (_, before), (_, after) = elaborated(old, None), elaborated(new, set)
    checkpoint = _read(selection.read(file), before)
    swapped = misfits(checkpoint.tensors, before) and not misfits(checkpoint.tensors, after)
    advice = f"it fits {after.name}; OLD, the spec of FILE, comes before NEW" if swapped else None
    tensors = checkpoints.check(checkpoint.tensors, before, file, say, lambda _: advice, settable=False)
    done = transfer(tensors, before, after, file, adaptation.classes, adaptation.in_channels, adaptation.seed)
    images = _preprocessing(checkpoint, after, None, adaptation.preprocess)
    _write(done, after, None, output, force, as_json, images)


def _in_order(command: str, *given: str) -> None:
    """Raise UsageError if FILE does not come first. Specs in the wrong order show up as weights that do not fit."""
    from rescompile.files import file_types

    files = [name for name in given if file_types.file_type(name) is file_types.WEIGHTS]
    if len(files) == 1 and given[0] != files[0] and file_types.file_type(given[0]) in (file_types.SPEC, None):
        words = [*files, *(name for name in given if name != files[0])]
        help = f"use rescompile {command} {shlex.join(words)}"
        raise UsageError.of("E0802", f"{files[0]} contains weights and must be the first argument", help=help)


def _not_over(file: str, output: Path, force: bool) -> None:
    """Raise OutputError if the output is the input, which would be overwritten without asking if rescompile wrote
    it."""
    if not force and is_same_file(output, file):
        message = f"-o {output} is the input file"
        raise OutputError.of("E1001", message, help="use --force to overwrite it, or -o for another file")


def _read(file: WeightsFile, network: Network | None = None, profile: Profile | None = None) -> Checkpoint:
    """Return the tensors of a file, renamed to the names of the network if a profile is given."""
    from rescompile.weights import checkpoints

    wanted = checkpoints.shapes(network) if network else {}
    if network and profile:
        wanted = {each.theirs: each.shape for each in profile.names(network).values()}
    checkpoint = checkpoints.read(file, wanted)
    for note in checkpoint.notes:
        say(note)
    if network and profile:
        return replace(checkpoint, tensors=profile.to_ours(checkpoint.tensors, network))
    return checkpoint


def _profile(name: str) -> Profile:
    """Return the profile of a name, after printing its note."""
    from rescompile.weights import profiles

    profile = profiles.load(name)
    if profile.note:
        say(f"{name}: {profile.note}")
    return profile


def _listed(checkpoint: Checkpoint) -> dict[str, Any]:
    tensors = [{"name": n, "shape": t.shape, "dtype": t.dtype} for n, t in checkpoint.tensors.items()]
    return {"file": checkpoint.path, "notes": checkpoint.notes, "tensors": tensors}


def _print_tensors(checkpoint: Checkpoint) -> None:
    rows = [(name, str(list(tensor.shape)), tensor.dtype) for name, tensor in checkpoint.tensors.items()]
    for line in text_table(rows, width=columns(), head=False):
        print(line)


def _preprocessing(
    checkpoint: Checkpoint, network: Network, source: str | None, given: Sequence[str] | None
) -> dict[str, Any]:
    """Return the preprocessing to record with weights: that of their file, of its naming profile, and of options. Print
    it, or print how to record it if it is unknown."""
    from rescompile.vision import preprocessing
    from rescompile.weights import profiles

    of_library = profiles.load(source).preprocess if source else {}
    known = preprocessing.applicable({**of_library, **(checkpoint.preprocess or {})}, network.input)
    values = {**known, **preprocessing.assignments(given or ())}
    of_spec = network.preprocess or {}
    if not values:
        if of_spec:
            say(
                f"{checkpoint.path} does not record its preprocessing, so that of {network.name} will be used:"
                f" {preprocessing.describe(of_spec)} (--preprocess NAME=VALUE records another)"
            )
        return {}
    recorded = preprocessing.validated(values, of_spec, network.input, network.name)
    usual = {"interpolation": "bilinear", "channel_order": "rgb", **of_spec}
    if differing := {name: value for name, value in recorded.items() if usual.get(name) != value}:
        theirs = preprocessing.describe({name: usual[name] for name in differing if name in usual}) or "none"
        needed = preprocessing.describe(differing)
        say(f"recorded: images for these weights need {needed}, but {network.name} has {theirs}")
    return recorded


def _write(
    done: Transferred,
    network: Network,
    profile: Profile | None,
    path: Path,
    force: bool,
    as_json: bool,
    preprocess: Mapping[str, Any],
) -> None:
    from rescompile.ir.network import parameters
    from rescompile.weights import safetensors_file
    from rescompile.weights.adaptation import STATUSES
    from rescompile.weights.transfer_report import report

    arrays = done.weights
    kinds = {name: (parameter.dtype, parameter.shape) for name, parameter in parameters(network)}
    if profile is not None:
        arrays, kinds = profile.to_theirs(arrays, network)
    content = safetensors_file.file(arrays, kinds, network, path.name, preprocess)
    with Progress(content.size, "MiB", 1 << 20) as progress:
        size = safetensors_file.write(content, path, force, progress.advance)
    if as_json:
        groups: dict[str, Sequence[Any]] = {
            status: [
                {"name": line.name, "from": line.source, "how": line.how or None}
                for line in done.lines
                if line.status == status
            ]
            for status in STATUSES
        }
        data = {"file": str(path), "bytes": size, "network": network.name, "sha256": network.sha256}
        changed = [{"from": a, "to": b, "blocks": number} for (a, b), number in done.changed.items()]
        print_json({**data, **groups, "left": done.left, "widened": done.widened, "changed": changed})
        return
    for row in report(done):
        say(row)
    say(f"{path}: {size / 2**20:.1f} MiB, {len(done.lines)} tensors of {network.name}")
