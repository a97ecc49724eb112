"""Torch checkpoints, read with `weights_only=True`, so that a file cannot run code.

This module imports torch, so `checkpoints` imports it for torch files only.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rescompile.diagnostics.errors import Diagnostic, UsageError, clipped
from rescompile.weights.mapping import Array
from rescompile.weights.tensors import Tensor

#: The types of safetensors by those of torch; other types keep torch's name.
DTYPES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
#: The depth to which mappings are searched: a checkpoint, its wrapper, and the entries of a wrapper.
DEPTH = 3
#: The part of torch's messages that names the refused object.
_REFUSED = re.compile(r"(?:GLOBAL|[Uu]nsupported (?:operand|class)) (\S+)")


def read(path: Path) -> Any:
    """Return the content of a checkpoint with a Tensor for each tensor of torch. Raises UsageError if torch refuses it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the pickle protocol is either read or refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or broken pickle raises anything
        raise UsageError(_refusal(path, str(error))) from None
    return _plain(content, DEPTH)


def _refusal(path: Path, message: str) -> Diagnostic:
    """Return a short refusal: torch's own message has many lines, among them the advice to load the file unsafely."""
    refused = _REFUSED.search(message)
    if "TorchScript" in message:
        why = "is a TorchScript program, not a checkpoint"
    elif refused is None:
        return Diagnostic("E0803", f"{path} is not a torch checkpoint, or is damaged")
    elif refused[1].isdigit():
        why = "is a pickle that torch did not write; weights_only=True refuses it"
    else:
        why = f"contains more than tensors, which weights_only=True refuses: {clipped(refused[1])}"
    help = "if you trust the file, save its tensors alone with torch.save(model.state_dict(), path), or use safetensors"
    return Diagnostic("E0803", f"{path} {why}", help=help)


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach()
        # A tensor with another layout or on the meta device fits no network and is never converted.
        dtype = DTYPES.get(value.dtype, str(value.dtype)) if value.layout is torch.strided else str(value.layout)
        dtype = "meta" if value.is_meta else dtype
        return Tensor(tuple(value.shape), dtype, partial(_array, value))
    if isinstance(value, Mapping) and depth > 0:
        return {key: _plain(inner, depth - 1) for key, inner in value.items()}
    return value


def _array(value: torch.Tensor) -> Array:
    array: Array = (value.float() if value.dtype in (torch.float16, torch.bfloat16) else value).contiguous().numpy()
    return array
