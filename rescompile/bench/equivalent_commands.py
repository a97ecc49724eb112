"""The same measurement as command lines for the runtimes' own tools, so that a result can be reproduced without rescompile."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rescompile.runtimes.openvino import HINTS

#: The number of runs in those tools.
TIMES = 200

Facts = Mapping[str, Any]


def lines(runtime: str, precision: str, model: Path | None, facts: Facts) -> list[str]:
    """Return the command lines for a row; none if its runtime has no such tool."""
    make = _TOOLS.get(runtime)
    if make is None or model is None:
        return []
    return [shlex.join(words) for words in make(precision, model.name, facts)]


def _perf_test(provider: str) -> Callable[[str, str, Facts], list[Sequence[str]]]:
    def make(precision: str, model: str, facts: Facts) -> list[Sequence[str]]:
        words = ["onnxruntime_perf_test", "-e", provider, "-I", "-m", "times", "-r", str(TIMES), "-s"]
        if provider == "cpu":
            words += ["-x", str(facts.get("threads") or 0)]
        else:
            words.append("-g")  # input and output stay on the device
            given = facts.get("provider_options") or {}
            listed = " ".join(f"{key}|{value}" for key, value in given.items() if not key.startswith("cudnn_conv_algo"))
            words += ["-i", listed] if listed else []
            search = {"EXHAUSTIVE": "0", "HEURISTIC": "1", "DEFAULT": "2"}.get(given.get("cudnn_conv_algo_search", ""))
            words += ["-d", search] if search else []
        return [[*words, model]]

    return make


def _trtexec(precision: str, model: str, facts: Facts) -> list[Sequence[str]]:
    # The precision is that of the file. TensorRT 11 has no other mode and still accepts the option.
    words = ["trtexec", f"--onnx={model}", "--stronglyTyped"]
    words += ["--noDataTransfers", "--useSpinWait", f"--iterations={TIMES}"]
    words += [] if precision == "tf32" else ["--noTF32"]
    words += ["--useCudaGraph"] if (facts.get("options") or {}).get("graph") else []
    return [words, *_perf_test("tensorrt")(precision, model, facts)]


def _benchmark_app(precision: str, model: str, facts: Facts) -> list[Sequence[str]]:
    # Without -infer_precision it computes in bfloat16 where the CPU supports it, and without -ip it converts from bytes.
    words = ["benchmark_app", "-m", model, "-d", "CPU", "-hint", "none", "-nstreams", "1", "-api", "sync"]
    words += ["-niter", str(TIMES), "-infer_precision", HINTS[precision], "-ip", "f32"]
    words += ["-nthreads", str(facts["threads"])] if facts.get("threads") else []
    return [words]


_TOOLS: Mapping[str, Callable[[str, str, Facts], list[Sequence[str]]]] = {
    "ort-cpu": _perf_test("cpu"),
    "ort-cuda": _perf_test("cuda"),
    "ort-tensorrt": _trtexec,
    "openvino": _benchmark_app,
}
