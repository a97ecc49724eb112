"""Options that several targets declare."""

from __future__ import annotations

from rescompile.backend import Option

DYNAMIC = Option("dynamic", str, None, "Make axes dynamic, such as height,width or length.", metavar="AXES")
STYLE = Option(
    "style",
    str,
    "classes",
    "Source style: classes, modules, or flat (one class per block). Default: classes.",
    choices=("classes", "modules", "flat"),
)


def running_variance(default: str) -> Option:
    """Return the option for a framework with this default."""
    which = "Running variance of norms: biased (Flax, Keras) or unbiased (PyTorch, MLX)."
    return Option("running_variance", str, default, which, choices=("biased", "unbiased"))
