"""Small specs and checkpoints in the current folder, and the `weights` commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import invoke
from typer.testing import Result

from rescompile.elaboration import elaborate
from rescompile.ir.network import Network
from rescompile.lang.load import load
from rescompile.weights import Array, draw

HEAD = {"rescompile": 1, "name": "tiny", "input": [3, 8, 8], "parameters": {"classes": 10}}
LAST = ["global_avgpool", "flatten", {"fc": {"linear": "classes"}}]
CONV = {"conv": {"channels": 4, "kernel": 3}}


def weights(*arguments: str | Path, code: int = 0) -> Result:
    """Run one of the weights commands and check its exit code."""
    result = invoke("weights", *arguments)
    assert result.exit_code == code, result.output
    return result


def spec(name: str = "tiny", **changes: Any) -> str:
    """Write a small spec to a file and return its path; JSON is valid YAML."""
    text = json.dumps({**HEAD, "network": [{"conv1": CONV}, *LAST], **changes, "name": name})
    Path(f"{name}.yaml").write_text(text, "utf-8")
    return f"./{name}.yaml"


def tiny(path: str) -> Network:
    """Return the network of a spec."""
    return elaborate(load(path))


def drawn(path: str, seed: int = 0) -> dict[str, Array]:
    """Return freshly initialised weights of a network."""
    return dict(draw(tiny(path), seed))


def same(found: dict[str, Array], wanted: dict[str, Array]) -> bool:
    """Return whether two sets of tensors are bit-identical."""
    return found.keys() == wanted.keys() and all(
        found[n].dtype == wanted[n].dtype and np.array_equal(found[n], wanted[n]) for n in wanted
    )


def saved(held: Any, path: str = "x.pth", **options: Any) -> str:
    """Save a checkpoint with torch and return its path; arrays become tensors."""
    torch = pytest.importorskip("torch", reason="it writes the checkpoints: pip install torch")

    def tensors(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tensors(inner) for key, inner in value.items()}
        return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value

    torch.save(tensors(held), path, **options)
    return path
