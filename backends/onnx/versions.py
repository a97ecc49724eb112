"""Opsets and IR versions of ONNX."""

from __future__ import annotations

#: The first opset that has what the rules use, or for which they have another spelling; the default, which most runtimes read;
#: and the last that is known.
FIRST_OPSET, DEFAULT_OPSET, LAST_OPSET = 13, 17, 28
#: The IR version of the ONNX release that introduced each opset: the lowest that its runtimes are sure to read.
_IR_SINCE = {13: 7, 15: 8, 19: 9, 21: 10, 23: 11, 24: 12, 25: 13, 28: 14}
FIRST_IR, LAST_IR = min(_IR_SINCE.values()), max(_IR_SINCE.values())


def lowest_ir(opset: int) -> int:
    """Return the lowest IR version of files of an opset."""
    return max(ir for first, ir in _IR_SINCE.items() if first <= opset)
