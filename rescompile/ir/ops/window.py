"""The shape rule of sliding windows, which convolutions, pools and subsampling share."""

from __future__ import annotations

from collections.abc import Sequence

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.ops.op import Axes, Axis, Size, size_text


def ones(size: Size) -> Size:
    """1 for each axis of a size."""
    return (1,) * len(size)


def window_axis(kernel: int, stride: int, pad: int, dilation: int = 1, ceil: bool = False) -> Axis:
    """Return the axis after a sliding window: torch's rule, ceil rounding included."""
    reach = dilation * (kernel - 1) + 1
    plus = 2 * pad - reach + stride
    if ceil:  # the last window must start inside the map or its first padding
        plus = min(plus, pad) + stride - 1
    return Axis(1, plus, stride, max(stride - plus, stride if stride > 2 else 1))


def window_axes(kernel: Size, stride: Size, pads: Size, dilation: Size | None = None, ceil: bool = False) -> Axes:
    """Return the axes after a sliding window."""
    rules = zip(kernel, stride, pads, dilation or ones(kernel), strict=True)
    return tuple(window_axis(k, s, p, d, ceil) for k, s, p, d in rules)


def window_size(
    sizes: Sequence[int], kernel: Size, stride: Size, pads: Size, dilation: Size | None = None, ceil: bool = False
) -> Size:
    """Return the output size of a sliding window."""
    out = []
    for n, k, s, p, d in zip(sizes, kernel, stride, pads, dilation or ones(kernel), strict=True):
        if s > n > 1:  # a side of 1 loses nothing, any other would shrink by more than the stride
            raise ShapeError("E0202", f"has stride {s}, but its input is only {size_text(sizes)}", "stride")
        size = window_axis(k, s, p, d, ceil)(n)
        if size < 1:
            span = (
                f"an effective kernel size of {d * (k - 1) + 1} (kernel {k}, dilation {d})"
                if d > 1
                else f"a kernel size of {k}"
            )
            raise ShapeError(
                "E0202",
                f"has {span}, larger than its padded input of {n + 2 * p}",
                "dilation" if d > 1 else "kernel",
            )
        out.append(size)
    return tuple(out)
