"""A command leaves the settings of the process unchanged, since it may run in another program, a notebook or an editor."""

from __future__ import annotations

import decimal
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rescompile.cli import app

#: Commands by test ID.
COMMANDS = {
    "build": ["build", "resnet20_cifar", "-t", "onnx", "-o", "it.onnx"],
    "source": ["build", "resnet20_cifar", "-t", "source", "-o", "it.py"],
    "verify": ["verify", "resnet20_cifar", "--targets", "onnx"],
    "paths": ["paths", "resnet20_cifar", "--json"],
    "draw": ["draw", "resnet20_cifar", "-o", "it.svg"],
    "show": ["show", "resnet20_cifar", "--json"],
    "explain": ["explain", "resnet20_cifar"],
    "wrong": ["build", "no_such_network", "-t", "onnx"],
}


def settings() -> dict[str, Any]:
    """Return the process-wide settings."""
    return {
        "digits of integers": sys.get_int_max_str_digits(),
        "recursion": sys.getrecursionlimit(),
        "folder": Path.cwd(),
        "environment": dict(os.environ),
        "numpy": (np.geterr(), np.get_printoptions()),
        "random numbers": np.random.get_state()[1].tolist(),  # type: ignore[union-attr]
        "decimals": decimal.getcontext().prec,
        "warnings": list(warnings.filters),
        "hooks": (sys.excepthook, sys.displayhook),
    }


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("name", COMMANDS)
def test_settings_are_unchanged(name: str) -> None:
    """Each command leaves all process-wide settings unchanged."""
    before = settings()
    done = CliRunner().invoke(app, COMMANDS[name])
    assert done.exit_code == (2 if name == "wrong" else 0), done.output
    assert settings() == before
