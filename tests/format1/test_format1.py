"""Format 1 for ever: specs as they were written, and what they must always become.

`specs/` has the examples of docs/language.md, the ops with all their attributes, random specs and a part of the zoo, as they were
when format 1 was declared stable; `networks.txt` has what they become, `interface.json` what programs rely on beside them. No flag
rewrites either: a difference breaks a promise of docs/stability.md. What is added is added by hand, with the row or the entry that
the failure shows.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import rescompile
from rescompile import backend
from rescompile.cli import app
from rescompile.diagnostics import codes
from rescompile.files.protobuf_reader import fields
from rescompile.ir.network import parameters

HERE = Path(__file__).parent
SPECS = {path.stem: path for path in sorted((HERE / "specs").glob("*.yaml"))}
FROZEN = dict(line.split(maxsplit=1) for line in (HERE / "networks.txt").read_text("utf-8").splitlines()[1:])


def digest(content: bytes) -> str:
    """The first digits of a SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def row(path: Path) -> str:
    """What a spec becomes: digests of its own text, of its parameters and outputs, and of the ONNX graph without weights, after the
    SHA-256 of its canonical text. The rest of an ONNX file names the version of rescompile."""
    network = rescompile.elaborate(rescompile.load(path))
    facts = [f"{name} {parameter.dtype} {parameter.shape}" for name, parameter in parameters(network)]
    facts += [f"{name} {shape}" for name, shape in network.outputs.items()]
    model = rescompile.build(network, "onnx", structure_only=True).to_bytes()
    (graph,) = (model[part.start : part.end] for part in fields(io.BytesIO(model), 0, len(model)) if part.number == 7)
    text = path.read_text("utf-8").encode()
    return " ".join((network.sha256, digest(text), digest("\n".join(facts).encode()), digest(graph)))


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_of_format_1(name: str) -> None:
    """It is read, and gives the same canonical text, parameters and graph as ever."""
    found = row(SPECS[name])
    assert found == FROZEN.get(name), f"the row of networks.txt would be:\n{name} {found}"


def test_no_spec_is_missing() -> None:
    """A spec that was removed would hold nothing."""
    assert set(FROZEN) == set(SPECS)
    assert len(FROZEN) >= 95


# --- what programs rely on beside specs -------------------------------------------------------------------------------


def keys(data: Any, path: str = "") -> Iterator[str]:
    """The paths of all keys of a JSON document, with the type of each value."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from keys(value, f"{path}.{key}")
    elif isinstance(data, list):
        for value in data[:3]:
            yield from keys(value, f"{path}[]")
    else:
        yield f"{path.removeprefix('.')}: {type(data).__name__}"


def printed(*arguments: object) -> Any:
    """What a command prints as JSON."""
    return json.loads(CliRunner().invoke(app, [*map(str, arguments), "--json"]).stdout)


def documents(folder: Path) -> Iterator[tuple[str, Any]]:
    """The JSON of commands that need no runtime."""
    spec, model, wrong = SPECS["small"], folder / "m.onnx", folder / "wrong.yaml"
    wrong.write_text("rescompile: 1\nname: wrong\ninput: [3, 8, 8]\nnetwork: [act: no]\n")
    yield "build", printed("build", spec, "-t", "onnx", "-o", model, "--opset", "18")
    yield "build of several", printed("build", spec, wrong, "-t", "source", "-o", folder)
    yield "extract", printed("extract", model)
    yield "list", printed("list", "--family", "highway")
    yield "show", printed("show", spec)
    yield "validate", printed("validate", spec, wrong)
    yield "paths", printed("paths", spec)
    yield "explain", printed("explain", spec)


def options(command: Any, name: str = "") -> Iterator[str]:
    """The commands and their options, as they are typed."""
    context = SimpleNamespace(resilient_parsing=True)
    for word in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from options(command.get_command(context, word), f"{name} {word}".strip())
    for parameter in command.params if not hasattr(command, "list_commands") else ():
        yield from (f"{name} {word}" for word in (*parameter.opts, *parameter.secondary_opts) if word.startswith("-"))


def interface(folder: Path) -> dict[str, list[str]]:
    """All that is promised beside networks, as sets of words."""
    exits = ("CHECK_FAILED", "WRONG_USAGE", "INVALID_SPEC", "NOT_AVAILABLE", "NOT_WRITTEN")
    return {
        "Python": [f"rescompile.{name}" for name in rescompile.__all__]
        + [f"rescompile.backend.{name}" for name in backend.__all__],
        "error codes": list(codes.CODES),
        "exit codes": [f"{getattr(codes, name)} {name}" for name in exits]
        + [f"{prefix} exits with {code}" for prefix, (_, code) in codes.GROUPS.items()],
        "options": list(options(typer.main.get_command(app))),
        **{f"JSON of {name}": sorted(set(keys(data))) for name, data in documents(folder)},
    }


def test_the_interface_of_format_1(tmp_path: Path) -> None:
    """Nothing of it is gone; more may be there."""
    found = interface(tmp_path)
    frozen = json.loads((HERE / "interface.json").read_text("utf-8"))
    gone = {part: sorted(set(words) - set(found.get(part, ()))) for part, words in frozen.items()}
    assert not {part: words for part, words in gone.items() if words}
