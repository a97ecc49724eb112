"""Network -> ONNX, written directly: no framework, no tracing, a dynamic batch axis.

The package itself only declares the target, so that the options of `build` are known without numpy.
"""

from __future__ import annotations

from rescompile.backend import Option, lazily

from .._options import DYNAMIC
from .versions import DEFAULT_OPSET, FIRST_IR, FIRST_OPSET, LAST_IR, LAST_OPSET

SUFFIX = ".onnx"
OPTIONS = (
    Option(
        "opset",
        int,
        DEFAULT_OPSET,
        f"ONNX opset, {FIRST_OPSET} to {LAST_OPSET}. Default: {DEFAULT_OPSET}.",
        FIRST_OPSET,
        LAST_OPSET,
    ),
    Option(
        "ir",
        int,
        None,
        f"ONNX IR version, {FIRST_IR} to {LAST_IR}. Default: the lowest for the opset.",
        FIRST_IR,
        LAST_IR,
    ),
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
    Option("normalize", bool, False, "Apply mean and std in the graph, whose input is an image of floats from 0 to 1."),
    Option(
        "input",
        str,
        "float",
        "Input of the graph: float, or uint8 or uint8-nhwc, which imply --normalize.",
        choices=("float", "uint8", "uint8-nhwc"),
        metavar="TYPE",
    ),
    Option("softmax", bool, False, "End the graph in a softmax; its output is then 'probabilities'."),
    Option(
        "training",
        str,
        None,
        "Write the training form, with running variances that are biased (ONNX) or unbiased (PyTorch).",
        choices=("biased", "unbiased"),
        metavar="VARIANCE",
    ),
    DYNAMIC,
)
EVALUATION_REQUIRES = {"onnxruntime": "pip install 'rescompile[run]'"}
RECIPE_OPTIONS = ("precision", "batch")

__getattr__ = lazily(f"{__name__}.artifact")
