"""torchvision's operators, for a torch that cannot load them.

torchvision's wheels are linked against CUDA, so beside a torch for the CPU its own operators do not load, and neither it nor
timm can be imported. Classifiers use none of them, and declaring the two that it describes to torch is enough.
"""

from __future__ import annotations

import contextlib
from typing import Any

#: Operators are declared for as long as these live.
_declared: list[Any] = []


def declare() -> None:
    """Let torchvision and timm be imported without torchvision's own operators; nothing is done where these are there."""
    import torch

    library: Any = torch.library  # which has no types
    with contextlib.suppress(RuntimeError):  # declared already: by the real library, or by us
        declared = library.Library("torchvision", "DEF")
        declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(declared)
