"""The stability of format 1: frozen specs, and the networks and interfaces that they must always give.

`specs/` contains the examples of docs/language.md, all ops with all their attributes, random specs and a part of the zoo, as they
were when format 1 was declared stable; `networks.txt` contains digests of the resulting networks, and `interface.json` the
interfaces that programs rely on. No flag rewrites these files: a difference breaks a promise of docs/stability.md. New entries are
added by hand, as shown by the failing test.
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
    """Return the first 16 hex digits of a SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def row(path: Path) -> str:
    """Return the SHA-256 of the canonical text of a spec, and digests of its own text, of its parameters and outputs, and of its ONNX
    graph without weights. The rest of an ONNX file contains the version of rescompile."""
    network = rescompile.elaborate(rescompile.load(path))
    facts = [f"{name} {parameter.dtype} {parameter.shape}" for name, parameter in parameters(network)]
    facts += [f"{name} {shape}" for name, shape in network.outputs.items()]
    model = rescompile.build(network, "onnx", structure_only=True).to_bytes()
    (graph,) = (model[part.start : part.end] for part in fields(io.BytesIO(model), 0, len(model)) if part.number == 7)
    text = path.read_text("utf-8").encode()
    return " ".join((network.sha256, digest(text), digest("\n".join(facts).encode()), digest(graph)))


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_of_format_1(name: str) -> None:
    """A frozen spec gives the same canonical text, parameters and graph as when format 1 was declared stable."""
    found = row(SPECS[name])
    assert found == FROZEN.get(name), f"the row of networks.txt would be:\n{name} {found}"


def test_no_spec_is_missing() -> None:
    """Every row belongs to a spec, and none has been removed."""
    assert set(FROZEN) == set(SPECS)
    assert len(FROZEN) >= 95


# --- interfaces -------------------------------------------------------------------------------------------------------


def keys(data: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of all keys of a JSON document, with the type of each value."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from keys(value, f"{path}.{key}")
    elif isinstance(data, list):
        for value in data[:3]:
            yield from keys(value, f"{path}[]")
    else:
        yield f"{path.removeprefix('.')}: {type(data).__name__}"


def printed(*arguments: object) -> Any:
    """Return the JSON output of a command."""
    return json.loads(CliRunner().invoke(app, [*map(str, arguments), "--json"]).stdout)


def documents(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the JSON output of each command that needs no runtime."""
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
    """Yield every option of every command, as typed."""
    context = SimpleNamespace(resilient_parsing=True)
    for word in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from options(command.get_command(context, word), f"{name} {word}".strip())
    for parameter in command.params if not hasattr(command, "list_commands") else ():
        yield from (f"{name} {word}" for word in (*parameter.opts, *parameter.secondary_opts) if word.startswith("-"))


def interface(folder: Path) -> dict[str, list[str]]:
    """Return everything that is promised apart from networks, as lists of words."""
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
    """Nothing has been removed from the interfaces; additions are allowed."""
    found = interface(tmp_path)
    frozen = json.loads((HERE / "interface.json").read_text("utf-8"))
    gone = {part: sorted(set(words) - set(found.get(part, ()))) for part, words in frozen.items()}
    assert not {part: words for part, words in gone.items() if words}
