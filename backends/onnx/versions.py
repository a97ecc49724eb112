"""Opsets and IR versions of ONNX."""

from __future__ import annotations

#: The first opset that the rules support; the default, which most runtimes support;
#: and the last known one.
FIRST_OPSET, DEFAULT_OPSET, LAST_OPSET = 13, 17, 28
#: The IR version of the ONNX release that introduced each opset: the lowest one that its runtimes are sure to support.
_IR_SINCE = {13: 7, 15: 8, 19: 9, 21: 10, 23: 11, 24: 12, 25: 13, 28: 14}
FIRST_IR, LAST_IR = min(_IR_SINCE.values()), max(_IR_SINCE.values())


def lowest_ir(opset: int) -> int:
    """Return the lowest IR version for files of an opset."""
    return max(ir for first, ir in _IR_SINCE.items() if first <= opset)
