"""Reads what `torch.save` wrote, through `weights_only=True`: a checkpoint can run no code.

Imports torch, so `checkpoints` loads it only for such a file.
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

#: Types by the names that safetensors has for them; others keep torch's.
DTYPES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
#: How deep mappings are looked into: a checkpoint, its wrapper, and what a wrapper holds.
DEPTH = 3
#: What in torch's messages says which object was refused.
_REFUSED = re.compile(r"(?:GLOBAL|[Uu]nsupported (?:operand|class)) (\S+)")


def read(path: Path) -> Any:
    """What a checkpoint holds, with a Tensor for each of torch's. Raises UsageError if it is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol, which is either read or refused
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or broken pickle raises anything
        raise UsageError(_refusal(path, str(error))) from None
    return _plain(held, DEPTH)


def _refusal(path: Path, message: str) -> Diagnostic:
    """What torch says in many lines, among them the advice to load the file without protection."""
    refused = _REFUSED.search(message)
    if "TorchScript" in message:
        why = "is a TorchScript program, no checkpoint"
    elif refused is None:
        return Diagnostic("E0803", f"{path} is no checkpoint of torch, or a damaged one")
    elif refused[1].isdigit():
        why = "is a pickle that torch did not write, and weights_only=True refuses it"
    else:
        why = f"holds more than tensors, and weights_only=True refuses it: {clipped(refused[1])}"
    help = "save the tensors alone, torch.save(model.state_dict(), path), where you trust the file; or use safetensors"
    return Diagnostic("E0803", f"{path} {why}", help=help)


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach()
        # What has a type of its own fits no network, and is no array of numpy: it is never made.
        kind = DTYPES.get(value.dtype, str(value.dtype)) if value.layout is torch.strided else str(value.layout)
        kind = "meta" if value.is_meta else kind
        return Tensor(tuple(value.shape), kind, partial(_array, value))
    if isinstance(value, Mapping) and depth > 0:
        return {key: _plain(inner, depth - 1) for key, inner in value.items()}
    return value


def _array(value: torch.Tensor) -> Array:
    array: Array = (value.float() if value.dtype in (torch.float16, torch.bfloat16) else value).contiguous().numpy()
    return array
