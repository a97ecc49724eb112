"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from rescompile.diagnostics.errors import Diagnostic, UsageError, clipped
from rescompile.records import record

if TYPE_CHECKING:
    from rescompile.passes import Pass
    from rescompile.weights.checkpoints import WeightsFile


SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="Spec file (with a / or .yaml) or zoo name.")]
SpecsArgument = Annotated[
    list[str], typer.Argument(metavar="SPEC...", help="Spec files, folders of spec files, or zoo names.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a value of the spec: layer3.depth=23. Repeatable."),
]
FeaturesOption = Annotated[
    str | None, typer.Option("--features", metavar="PARTS", help="Add outputs for these parts, such as layer2,layer3.")
]
CalibrateNormsOption = Annotated[
    bool, typer.Option("--calibrate-norms", help="Set the norm statistics of random weights from a seeded batch.")
]
DynamicOption = Annotated[
    str | None, typer.Option(metavar="AXES", help="Make axes dynamic: height,width or one; length; depth.")
]
OutputOption = Annotated[
    str | None, typer.Option("-o", "--output", metavar="PATH", help="Output file. Default: standard output.")
]
FormatOption = Annotated[
    Literal["text", "json", "github", "sarif"], typer.Option("--format", help="Format of diagnostics.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the results as JSON; implies --format json.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Overwrite a file that rescompile did not write, or that was edited.")
]


def option(help: str, default: Any = None, *names: str, **settings: Any) -> Any:
    """Return a field of a dataclass of options, with its help, its default, its flags if they differ from its name, and
    further settings of typer."""
    return field(default=default, metadata={"option": typer.Option(*names, help=help, **settings)})


def with_passes(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command with the options of the pass table; given ones are passed as its argument `passes`."""
    from rescompile.passes import PASSES

    added = [
        inspect.Parameter(
            step.keyword, inspect.Parameter.KEYWORD_ONLY, default=None,
            annotation=Annotated[step.type | None, typer.Option(_flags(step), help=step.help)],
        )
        for step in PASSES
    ]  # fmt: skip
    return _expanded(function, "passes", added, lambda values: {k: v for k, v in values.items() if v is not None})


def with_target_options(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command with the options that targets declare; given ones are passed as its argument `target_options`."""
    from rescompile.backend import declared_options

    added = [
        inspect.Parameter(
            option.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None,
            annotation=Annotated[
                option.type | None,
                typer.Option(option.flag or f"--{option.name.replace('_', '-')}", metavar=option.metavar, help=option.help),
            ],
        )
        for option in declared_options()
    ]  # fmt: skip
    return _expanded(
        function, "target_options", added, lambda values: {k: v for k, v in values.items() if v is not None}
    )


@record
class Selection:
    """The part of a weights file to read; every command that reads weights has these options."""

    entry: str | None = option("State dict to read if the file contains several, such as ema.", metavar="NAME")
    prefix: str | None = option("Key prefix of the network in the file. Default: detected.", metavar="NAME")

    def of(self, weights: str | None) -> WeightsFile | None:
        """Return the file that an option names, with the part of it to read. Raises UsageError if there is no file."""
        for name in ("entry", "prefix"):
            if weights is None and getattr(self, name) is not None:
                raise UsageError(Diagnostic("E0802", f"--{name} needs --weights FILE"))
        return None if weights is None else self.read(weights)

    def read(self, file: str) -> WeightsFile:
        """Return a file, with the part of it to read."""
        from rescompile.weights.checkpoints import WeightsFile

        return WeightsFile(file, self.entry, self.prefix)


def with_options(kind: type[Any], name: str = "options") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a command with the fields of a dataclass as options; they are passed as its argument `name`."""
    hints = get_type_hints(kind, include_extras=True)
    added = [
        inspect.Parameter(
            f.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=f.default,
            annotation=Annotated[hints[f.name], f.metadata["option"]] if f.metadata else hints[f.name],
        )
        for f in fields(kind)
    ]  # fmt: skip
    return lambda function: _expanded(function, name, added, lambda values: kind(**values))


def _expanded(
    function: Callable[..., None], name: str, added: Sequence[inspect.Parameter], collect: Callable[[dict[str, Any]], Any]
) -> Callable[..., None]:  # fmt: skip
    """Return a command with the parameters `added` instead of its parameter `name`, which receives their values."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        values = {each.name: kwargs.pop(each.name) for each in added}
        function(*args, **{name: collect(values)}, **kwargs)

    signature = inspect.signature(function, eval_str=True)
    parameters = [each for own in signature.parameters.values() for each in (added if own.name == name else [own])]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
    del wrapped.__wrapped__
    return wrapped


def _flags(step: Pass) -> str:
    """Return the flags of a pass; a boolean one has a negative form, since recipes may turn it on."""
    return f"--{step.name}/--no-{step.name}" if step.type is bool else f"--{step.name}"


def words(option: str, text: str) -> list[str]:
    """Return the entries of a comma-separated list. Raises UsageError for an empty or repeated entry."""
    entries = [entry.strip() for entry in text.split(",")]
    shown = clipped(text)
    if not all(entries):
        raise UsageError(Diagnostic("E0802", f"--{option} '{shown}' has an empty entry"))
    for entry in entries:
        if entries.count(entry) > 1:
            raise UsageError(Diagnostic("E0802", f"--{option} '{shown}' contains {clipped(entry)} twice"))
    return entries
