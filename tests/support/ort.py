"""Running a model in ONNX Runtime on the CPU, from bytes or a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

Array = NDArray[Any]


def ran(model: bytes | Path, feeds: Mapping[str, Array], optimised: bool = True) -> dict[str, Array]:
    """Return the outputs of a model by name. If `optimised` is False, ONNX Runtime runs the graph as written, without
    optimisations."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="models run in ONNX Runtime: pip install 'rescompile[run]'")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))
