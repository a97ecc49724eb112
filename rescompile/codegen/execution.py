"""Generated source as code: executed here as a Python module, or run in a separate process without rescompile."""

from __future__ import annotations

import linecache
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

from rescompile.diagnostics.errors import UsageError
from rescompile.ir.network import Network

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: The Python modules of the executed texts, and the functions that build their networks.
_executed: dict[str, tuple[ModuleType, Callable[..., Any]]] = {}


def executed(network: Network, text: str) -> tuple[ModuleType, Callable[..., Any]]:
    """Return the Python module of a text, and its function that builds the network. The module is registered, so that
    tracebacks, `inspect` and compilers find the source, and instances of its classes can be pickled. A text is executed
    once."""
    if text not in _executed:
        name = f"rescompile_{network.name}_{network.sha256[:12]}_{len(_executed)}"
        home = ModuleType(name)
        home.__file__ = f"<{name}>"
        linecache.cache[home.__file__] = len(text), None, text.splitlines(keepends=True), home.__file__
        sys.modules[name] = home
        exec(compile(text, home.__file__, "exec", dont_inherit=True), home.__dict__)
        # The last function of the file builds the network. Code that runs later may add more functions.
        _executed[text] = home, [value for value in vars(home).values() if isinstance(value, FunctionType)][-1]
    return _executed[text]


def run_alone(
    path: Path,
    script: str,
    write_weights: Callable[[Path], None],
    x: Array,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Array]:
    """Return the outputs of a source file, by name, computed in a separate process.

    The script finds the file as the module `network_source`, the output of `write_weights` in its folder, and the batch
    in input.npy; it writes outputs.npz. Raises UsageError if it fails.
    """
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "network_source.py").write_bytes(path.read_bytes())
        write_weights(here)
        np.save(here / "input.npy", x)
        inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSTARTUP")}
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=here, env={**inherited, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            message = f"the generated source failed to run: {lines[-1] if lines else 'no error message'}"
            raise UsageError.of("E0801", message)
        with np.load(here / "outputs.npz") as outputs:
            return {name: outputs[name] for name in outputs.files}
