"""Properties of the CPU on which the tests run."""

import platform
from pathlib import Path

#: Without VNNI, integer kernels add pairs of products in 16 bits, which saturate; bench rejects an int8 network there.
INT8_SATURATES = platform.machine() == "x86_64" and "vnni" not in Path("/proc/cpuinfo").read_text("utf-8")
