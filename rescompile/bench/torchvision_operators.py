"""Declares torchvision's operators for a torch that cannot load them.

torchvision's wheels are linked against CUDA, so its operators do not load into a CPU-only torch, and neither torchvision nor
timm can be imported. Classifiers use none of its operators; declaring the two that it registers is enough.
"""

from __future__ import annotations

import contextlib
from typing import Any

#: Keeps the declarations alive.
_declared: list[Any] = []


def declare() -> None:
    """Make torchvision and timm importable without torchvision's operators. Does nothing if these are loaded."""
    import torch

    library: Any = torch.library  # it has no type annotations
    with contextlib.suppress(RuntimeError):  # already declared, by the library itself or by this function
        declared = library.Library("torchvision", "DEF")
        declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(declared)
