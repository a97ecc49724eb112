"""Shell completion: what may stand at the end of a command line.

`--show-completion SHELL` prints a script (see `completion_scripts`), and the script calls this module on each press of
Tab. The command line, up to the cursor, comes in an environment variable. Each answer is a line: a word that can
replace the last one and, after a tab, its help. The exit code is WANTS_FILES if the shell should offer its own file
names instead.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rescompile.diagnostics.errors import RescompileError

if TYPE_CHECKING:
    from rescompile.lsp.names import Names

WANTS_FILES = 3
#: A word that ends in one of these is not finished, so shells add no space after it.
OPEN_ENDS = "=.:,/"


class Word(NamedTuple):
    """A word to offer, with its help."""

    text: str
    help: str = ""


class FilesError(Exception):
    """Raised if the shell's file names are wanted."""


@dataclass
class Request:
    """A command line that ends in an unfinished word: its command, the values so far, and the remaining parameters."""

    command: Any
    name: str
    values: dict[str, list[str]] = field(default_factory=dict)
    #: The option that waits for its value, and the remaining arguments.
    waiting: Any = None
    arguments: list[Any] = field(default_factory=list)
    only_arguments: bool = False

    @property
    def spec(self) -> str | None:
        """The first spec or model on the line, whose rows and blocks are offered."""
        given = (self.values.get(name) for name in ("specs", "spec", "model", "new"))
        return next((values[0] for values in given if values), None)


# --- the sources of words ---------------------------------------------------------------------------------------------

#: Yields what may stand in place of an unfinished word.
Source = Callable[[Request, str], Iterable[str | Word]]


def _files(request: Request, typed: str) -> Iterable[str]:
    raise FilesError


def _free(request: Request, typed: str) -> Iterable[str]:
    """Return nothing: free text and numbers cannot be completed."""
    return ()


def _specs(request: Request, typed: str) -> Iterator[str]:
    """Yield networks of the zoo, folders, and spec files."""
    from rescompile.lang import library

    yield from library.zoo()
    yield from _paths(typed, library.SUFFIXES)


def _models(request: Request, typed: str) -> Iterator[str]:
    """Yield what `_specs` offers, and files of models."""
    yield from _specs(request, typed)
    yield from _paths(typed, (".onnx", ".pt2"))


def _reported(request: Request, typed: str) -> Iterator[str]:
    """Yield what `_models` offers, and result files."""
    yield from _models(request, typed)
    yield from _paths(typed, (".json",))


def _paths(typed: str, suffixes: Sequence[str]) -> Iterator[str]:
    """Yield folders, with a / at the end, and files with these suffixes."""
    head = typed[: typed.rfind("/") + 1]
    with suppress(OSError):
        for entry in sorted(os.scandir(Path(head).expanduser() if head else "."), key=lambda entry: entry.name):
            if entry.name.startswith(".") and not typed[len(head) :].startswith("."):
                continue
            if entry.is_dir():
                yield f"{head}{entry.name}/"
            elif entry.name.endswith(
                tuple(suffixes)
            ):  # without a folder, the suffix makes it a file and not a zoo name
                yield f"{head}{entry.name}"


def _settings(request: Request, typed: str) -> Iterator[str]:
    """Yield paths of the spec that `set` accepts; after the =, the words that the attribute accepts."""
    from rescompile.lsp import offers

    if request.spec is None:
        return
    names = _names(request.spec)
    name, equals, _ = typed.partition("=")
    cursor = offers.Cursor(names, Path(request.spec), name)
    if not equals:
        yield from (f"{item.entity.name}=" for item in offers.paths(cursor, ""))
        return
    row, _, attribute = name.rpartition(".")
    if (word := names.row_word(row) or row.removeprefix("defaults.")) and attribute:
        values = offers.op_values if names.is_op(word) else offers.block_values
        yield from (f"{name}={item.entity.name}" for item in values(cursor, f"{word}.{attribute}"))


def _rows(request: Request, typed: str) -> Iterator[str]:
    """Yield the rows of the spec."""
    if request.spec is not None:
        yield from reversed(_names(request.spec).rows)


def _names(spec: str) -> Names:
    """Return the names in a spec."""
    from rescompile.lang import library
    from rescompile.lang.inheritance import resolve
    from rescompile.lsp.names import Names

    return Names(resolve(library.spec_path(spec), ()), None)


def _blocks(request: Request, typed: str) -> Iterator[str]:
    """Yield the residual blocks of the network, or its plain layers."""
    from rescompile.cli.specs import after_passes
    from rescompile.passes.drop import droppable

    if request.spec is not None:
        yield from droppable(after_passes(request.spec, request.values.get("set"), None, {})[1])


def _families(request: Request, typed: str) -> Iterator[str]:
    from rescompile.lang import library
    from rescompile.lang.yaml_reader import plain, read

    documents = (plain(read(library.source(path))) for path in library.zoo().values())
    yield from dict.fromkeys(str(each["family"]) for each in documents if each.get("family"))


def _targets(request: Request, typed: str) -> Iterator[str]:
    from rescompile import backend

    yield from backend.targets()


def _runtimes(request: Request, typed: str) -> Iterator[Word]:
    """Yield runtimes, and after a colon the options of one."""
    from rescompile.runtimes import RUNTIMES

    for runtime in RUNTIMES.values():
        yield Word(runtime.name, runtime.summary)
        parts = typed.split(":")
        if parts[0] == runtime.name and len(parts) > 1:
            head = ":".join(parts[:-1])
            for option in runtime.options:
                yield Word(f"{head}:{option.name}{'=' if option.type is int else ''}", option.help)


def _recipes(request: Request, typed: str) -> Iterator[str]:
    from rescompile.runtimes.recipes import RECIPES

    yield from RECIPES


def _precisions(request: Request, typed: str) -> Iterator[str]:
    from rescompile.ir.precision import PRECISIONS

    yield from PRECISIONS


def _passes(request: Request, typed: str) -> Iterator[Word]:
    from rescompile.passes import PASSES

    for step in PASSES:
        values = [f"={choice}" for choice in step.choices] or [""] * (step.type is bool) or ["="]
        yield from (Word(f"{step.name}{value}", step.help) for value in values)


def _profiles(request: Request, typed: str) -> Iterator[str]:
    from rescompile.weights import profiles

    yield from profiles.files()


def _preprocessing(request: Request, typed: str) -> Iterator[str]:
    from rescompile.lang.key_docs import KEY_DOCS
    from rescompile.lsp.offers import WORDS

    for key in KEY_DOCS["preprocess"]:
        yield from (f"{key}={word}" for word in WORDS.get(f"preprocess.{key}", ("",)))


def _labels(request: Request, typed: str) -> Iterator[str]:
    if not typed or not "imagenet".startswith(typed):
        raise FilesError
    yield "imagenet"


def _several(source: Source) -> Source:
    """Return a source for comma-separated lists: it offers the next entry."""

    def listed(request: Request, typed: str) -> Iterator[Word]:
        head, comma, last = typed.rpartition(",")
        taken = head.split(",")
        for word in _as_words(source(request, last)):
            if word.text not in taken:
                yield Word(f"{head}{comma}{word.text}", word.help)

    return listed


def _one_of(*words: str) -> Source:
    return lambda request, typed: words


#: The source for a parameter, by its metavar or its flag; one prefixed by `command ` takes precedence, if a metavar
#: differs there.
SOURCES: Mapping[str, Source] = {
    "SPEC": _specs, "SPEC...": _specs, "[SPEC]": _specs, "transfer OLD": _specs, "transfer NEW": _specs,
    "MODEL": _models, "draw SPEC": _models, "SPEC|MODEL|RESULT.json...": _reported,
    "OLD": _files, "NEW": _files,
    "FILE": _files, "FILE.npz": _files, "PATH": _files, "FOLDER": _files, "FOLDER|N": _files, "run --labels": _labels,
    "PATH=VALUE": _settings, "PARTS": _several(_rows), "--drop": _several(_blocks), "--swap": _several(_blocks),
    "--target": _targets, "--targets": _several(_targets), "--runtime": _several(_runtimes),
    "--precision": _several(_precisions), "RUNTIME": _recipes, "AXES": _several(_one_of("height", "width")),
    "PROFILE": _profiles, "PASS": _passes, "--preprocess": _preprocessing, "--family": _families,
    "--exporter": _one_of("legacy", "dynamo"), "PEER": _one_of("torchvision:", "timm:"),
    "NAME": _free, "NAME=VALUE": _free, "FIRST:LAST": _free, "HEIGHTxWIDTH": _free, "MODEL@RUNTIME": _free,
    "SHARE": _free, "MS": _free, "ERROR": _free, "--batch": _free,
}  # fmt: skip


def source_of(command: str, parameter: Any) -> Source | None:
    """Return the source for a parameter of a command: its own choices, those that a pass or a target declares, or a row
    of SOURCES; None for a number."""
    chosen = [item.value for item in parameter.shell_complete(None, "") if item.type == "plain"]
    if words := chosen or _declared(command, parameter.opts):
        return _one_of(*words)
    keys = [*parameter.opts, parameter.metavar]
    keys = [*(f"{command.split()[-1]} {key}" for key in keys), *keys]
    return next((SOURCES[key] for key in keys if key in SOURCES), None)


def _declared(command: str, flags: Sequence[str]) -> tuple[str, ...]:
    """Return the choices of an option that a pass declares, or for `build` a target."""
    from rescompile.backend import declared_options
    from rescompile.passes import PASSES

    for option in (*PASSES, *(declared_options() if command == "build" else ())):
        if (option.flag or f"--{option.name.replace('_', '-')}") in flags:
            return tuple(option.choices)
    return ()


# --- the command line -------------------------------------------------------------------------------------------------


def split(line: str) -> list[str]:
    """Return the words of a command line as the shell splits it; the last is unfinished, and may be empty or in an open
    quote."""
    for close in ("", "'", '"'):
        with suppress(ValueError):
            words = shlex.split(line + close)
            return [*words, ""] if not words or (not close and line[-1:].isspace()) else words
    return line.split()  # it ends in a backslash


def parse(root: Any, words: Sequence[str]) -> Request:
    """Return the request of the words before the unfinished one."""
    request = Request(root, "", arguments=_arguments(root))
    for word in words:
        if request.waiting is not None:
            _give(request, request.waiting, word)
            request.waiting = None
        elif word.startswith("-") and len(word) > 1 and not request.only_arguments:
            flag, equals, value = word.partition("=")
            option = _options(request.command).get(flag)
            if word == "--":
                request.only_arguments = True
            elif option is not None and equals:
                _give(request, option, value)
            elif option is not None and not option.is_flag and not option.count:
                request.waiting = option
            elif option is not None:
                _give(request, option, "")
        elif hasattr(request.command, "list_commands"):
            command = request.command.get_command(None, word)
            request = Request(command, f"{request.name} {word}".strip(), arguments=_arguments(command))
        elif request.arguments:
            _give(request, request.arguments[0], word)
            if request.arguments[0].nargs == 1:
                del request.arguments[0]
    return request


def _give(request: Request, parameter: Any, value: str) -> None:
    request.values.setdefault(parameter.name, []).append(value)


def _arguments(command: Any) -> list[Any]:
    return [each for each in getattr(command, "params", ()) if each.param_type_name == "argument"]


def _options(command: Any) -> dict[str, Any]:
    """Return the options of a command by flag."""
    options = [each for each in getattr(command, "params", ()) if each.param_type_name == "option"]
    return {flag: each for each in options for flag in (*each.opts, *each.secondary_opts)}


def offers(root: Any, words: Sequence[str]) -> list[Word]:
    """Return the words that can replace the last word. Raises FilesError if file names are wanted."""
    *before, typed = words
    request = parse(root, before)
    found: Iterable[str | Word]
    if request.waiting is not None:
        found = _values(request, request.waiting, typed)
    elif typed.startswith("--") and "=" in typed and not request.only_arguments:
        flag, _, value = typed.partition("=")
        option = _options(request.command).get(flag)
        given = _as_words(_values(request, option, value)) if option is not None else []
        found = [Word(f"{flag}={word.text}", word.help) for word in given]
    elif typed.startswith("-") and not request.only_arguments:
        found = _flags(request)
    elif hasattr(request.command, "list_commands"):
        found = request.command.list_commands(None)
    elif request.arguments:
        found = _values(request, request.arguments[0], typed)
    else:
        found = ()
    matching = (word for word in _as_words(found) if word.text.startswith(typed))
    return list({word.text: word for word in matching}.values())


def _values(request: Request, parameter: Any, typed: str) -> Iterable[str | Word]:
    source = source_of(request.name, parameter) or _free
    return source(request, typed)


def _flags(request: Request) -> Iterator[Word]:
    """Yield the options that can still be given."""
    for flag, option in _options(request.command).items():
        if option.name not in request.values or option.multiple:
            yield Word(flag, option.help or "")
    yield Word("--help", "Show this message and exit.")


def _as_words(found: Iterable[str | Word]) -> Iterator[Word]:
    return (Word(each) if isinstance(each, str) else each for each in found)


def answer(line: str, root: Any) -> int:
    """Print the answer to a script, and return the exit code. Mistakes in the line, such as an unknown spec, are not
    reported: they offer nothing."""
    words = split(line)[1:] or [""]
    try:
        found = offers(root, words)
    except FilesError:
        return WANTS_FILES
    except (RescompileError, OSError, RecursionError):
        return 0
    sys.stdout.write("".join(f"{word.text}\t{' '.join(word.help.split())}\n" for word in found))
    return 0
