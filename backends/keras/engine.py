"""The backend that Keras computes with: that of KERAS_BACKEND or of its configuration file, else an installed one.

Importing this module sets KERAS_BACKEND, which Keras reads on import. Raises ImportError if Keras cannot compute.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

#: The backends that support training, in order of preference.
ENGINES = ("tensorflow", "jax", "torch")


def _configured() -> str | None:
    """Return the backend in Keras's configuration file, or None."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        backend = json.loads((home / "keras.json").read_text(encoding="utf-8")).get("backend")
    except (OSError, ValueError, AttributeError):
        return None
    return backend if isinstance(backend, str) else None


def _installed(engine: str) -> bool:
    """Return whether the package of a backend is installed; an empty tensorflow folder does not count."""
    spec = find_spec(engine)
    return spec is not None and spec.origin is not None


def chosen() -> str:
    """Return the name of the backend. Raises ImportError for an unknown or missing one."""
    if "keras" in sys.modules:
        return str(sys.modules["keras"].backend.backend())
    given = os.environ.get("KERAS_BACKEND")
    if given and given not in ENGINES:
        raise ImportError(f"KERAS_BACKEND is {given!r}, but only {', '.join(ENGINES)} can run these models")
    if given and not _installed(given):
        raise ImportError(f"KERAS_BACKEND is {given!r}, but {given} is not installed")
    wanted = [given] if given else [_configured(), *ENGINES]
    found = next((engine for engine in wanted if engine in ENGINES and _installed(engine)), None)
    if found is None:
        raise ImportError(f"Keras needs one of {', '.join(ENGINES)}, and none is installed")
    return found


if find_spec("keras") is None:
    raise ImportError("No module named 'keras'")
os.environ["KERAS_BACKEND"] = chosen()
