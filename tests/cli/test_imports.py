"""A command imports only the modules that it needs, since imports take most of its time."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMON = (
    "rescompile.analysis.paths",
    "rescompile.cli.completion",
    "rescompile.codegen",
    "rescompile.explain",
    "rescompile.lsp",
    "rescompile.runtimes",
    "jinja2",
    "onnx",
    "torch",
)


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        ("--version", ("rescompile.lang", "rescompile.ir", "pydantic", "numpy", *COMMON)),
        ("paths resnet20_cifar", ("rescompile.files.plotting", "rescompile.weights.checkpoints", "numpy", *COMMON[1:])),
        ("validate resnet50", ("rescompile.passes", "rescompile.weights", "numpy", *COMMON)),
    ],
)
def test_a_command_imports_only_what_it_needs(command: str, absent: tuple[str, ...]) -> None:
    """A command imports only the modules that it needs, and pydantic does not search installed packages for plugins."""
    code = f"""
import sys
sys.argv = ["rescompile", *{command.split()}]
from rescompile.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code
loaded = [name for name in {absent} if name in sys.modules]
plugins = sys.modules.get("pydantic.plugin._loader")
assert not loaded and (plugins is None or plugins._plugins is None), loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
