"""Network -> ONNX, written directly: no framework, no tracing, a batch axis that stays free.

artifact   the model of a network, and what ONNX Runtime computes with it
ops        which nodes each op and each merge becomes: one table row each
graph      the tree threaded into a graph
half       the graph and its weights in float16
metadata   what a file records of its origin, and how it is read back
file       the model as bytes, written as a stream; protobuf is the wire format below it

The package itself only declares the target, so that the options of `build` are known without numpy.
"""

from __future__ import annotations

from rescompile.backend import Option, lazily

SUFFIX = ".onnx"
#: The first opset that has all operators used here, which most runtimes read.
LEAST = 17
OPTIONS = (
    Option("opset", int, LEAST, "ONNX opset, 17 to 21. Default: 17.", LEAST, 21),
    Option("batch", int, None, "Fix the batch to this size. Default: dynamic.", 1, 1 << 20),
    Option(
        "precision",
        str,
        "fp32",
        "Precision of the file: fp32, fp16, or int8, which is calibrated. Default: fp32.",
        choices=("fp32", "fp16", "int8"),
    ),
    Option(
        "made_for",
        str,
        None,
        "Use the recipe for a runtime: ort-cpu, openvino, ort-cuda or ort-tensorrt.",
        metavar="RUNTIME",
        flag="--for",
    ),
    Option("dynamic", str, None, "Make image axes dynamic: height, width, or height,width.", metavar="AXES"),
)
REQUIRES: dict[str, str] = {}
EVALUATION_REQUIRES = {"onnxruntime": "pip install 'rescompile[run]'"}
IGNORES_WEIGHTS = FILLS_ZEROS = ""
RECIPE_OPTIONS = ("precision", "batch")

__getattr__ = lazily(f"{__name__}.artifact")
