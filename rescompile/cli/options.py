"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import field, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from rescompile.diagnostics.errors import UsageError, clipped
from rescompile.records import record

if TYPE_CHECKING:
    from rescompile.options import Option
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
    str | None, typer.Option(metavar="AXES", help="Make axes dynamic, such as height,width or length.")
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


@record
class Selection:
    """The part of a weights file to read; every command that reads weights has these options."""

    entry: str | None = option("State dict to read if the file contains several, such as ema.", metavar="NAME")
    prefix: str | None = option("Key prefix of the network in the file. Default: detected.", metavar="NAME")

    def of(self, weights: str | None) -> WeightsFile | None:
        """Return the file that an option names, with the part of it to read. Raises UsageError if there is no file."""
        for name in ("entry", "prefix"):
            if weights is None and getattr(self, name) is not None:
                raise UsageError.of("E0802", f"--{name} needs --weights FILE")
        return None if weights is None else self.read(weights)

    def read(self, file: str) -> WeightsFile:
        """Return a file, with the part of it to read."""
        from rescompile.weights.checkpoints import WeightsFile

        return WeightsFile(file, self.entry, self.prefix)


#: Arguments that stand for the options of passes, and for those that targets declare: the given ones by name.
Passes = Annotated[dict[str, Any], "passes"]
TargetOptions = Annotated[dict[str, Any], "target options"]


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command in which options take the place of each argument that stands for several: `Passes`, `TargetOptions`, or
    a record whose fields are made by `option`."""
    signature = inspect.signature(function, eval_str=True)
    groups: dict[str, list[inspect.Parameter]] = {}
    parameters: list[inspect.Parameter] = []
    for name, own in signature.parameters.items():
        if (options := _options_of(own.annotation)) is not None:
            groups[name] = options
        parameters += groups.get(name, [own.replace(kind=inspect.Parameter.KEYWORD_ONLY)])

    @functools.wraps(function)
    def wrapped(**values: Any) -> None:
        for name, options in groups.items():
            given = {each.name: values.pop(each.name) for each in options}
            values[name] = _value_of(signature.parameters[name].annotation, given)
        function(**values)

    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
    del wrapped.__wrapped__
    return wrapped


def _options_of(annotation: Any) -> list[inspect.Parameter] | None:
    """Return the options that an argument with this annotation stands for; None if it is one itself."""
    if is_dataclass(annotation):
        hints = get_type_hints(annotation)
        return [_parameter(f.name, hints[f.name], f.metadata["option"], f.default) for f in fields(annotation)]
    if annotation == Passes:
        from rescompile.passes import PASSES

        return [_optional(step.keyword, step, _flags(step)) for step in PASSES]
    if annotation == TargetOptions:
        from rescompile.backend import declared_options

        return [_optional(o.name, o, o.flag or f"--{o.name.replace('_', '-')}") for o in declared_options()]
    return None


def _value_of(annotation: Any, given: dict[str, Any]) -> Any:
    """Return the argument that stands for these options."""
    if isinstance(annotation, type):
        return annotation(**given)
    return {name: value for name, value in given.items() if value is not None}


def _optional(name: str, declared: Option, flags: str) -> inspect.Parameter:
    """Return the parameter of an option from a table; it is None if the option is not given."""
    return _parameter(
        name, declared.type | None, typer.Option(flags, metavar=declared.metavar, help=declared.help), None
    )


def _parameter(name: str, kind: Any, setting: Any, default: Any) -> inspect.Parameter:
    annotation = Annotated[kind, setting]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _flags(step: Pass) -> str:
    """Return the flags of a pass; a boolean one has a negative form, since recipes may turn it on."""
    return f"--{step.name}/--no-{step.name}" if step.type is bool else f"--{step.name}"


def words(option: str, text: str) -> list[str]:
    """Return the entries of a comma-separated list. Raises UsageError for an empty or repeated entry."""
    entries = [entry.strip() for entry in text.split(",")]
    shown = clipped(text)
    if not all(entries):
        raise UsageError.of("E0802", f"--{option} '{shown}' has an empty entry")
    for entry in entries:
        if entries.count(entry) > 1:
            raise UsageError.of("E0802", f"--{option} '{shown}' contains {clipped(entry)} twice")
    return entries
