"""What tests have to know of the CPU that they run on."""

import platform
from pathlib import Path

#: Without VNNI, integer kernels add pairs of products in 16 bits, which saturate: bench refuses such an int8 network.
INT8_SATURATES = platform.machine() == "x86_64" and "vnni" not in Path("/proc/cpuinfo").read_text("utf-8")
