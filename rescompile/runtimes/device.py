"""The machine that measurements were taken on: its hardware, software and state. No host names, user names or paths."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rescompile.runtimes import memory

#: Packages that a measurement depends on.
LIBRARIES = (
    "rescompile", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch", "torchvision", "timm", "triton",
    "jax", "flax", "keras", "tensorflow", "mlx",
)  # fmt: skip
#: Instruction sets that decide in which precisions a CPU is fast, by their Linux names.
FEATURES = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "amx_fp16",
    "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
_GPU = ("name", "driver_version", "memory.total", "compute_cap")
_GPU_STATE = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "utilization.gpu")


def describe() -> dict[str, Any]:
    """Return a description of the machine: `processor`, `memory` in bytes, `gpus`, `system`, and the versions of
    `libraries`."""
    return {
        "processor": _processor(),
        "memory": memory.total(),
        "gpus": _smi(_GPU),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": libraries(),
    }


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def state() -> dict[str, Any]:
    """Return the current state of the machine: clocks in MHz and temperatures in degrees Celsius, if they can be read."""
    return {
        "processor_mhz": _mhz(),
        "processor_celsius": _celsius(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpus": _smi(_GPU_STATE),
    }


def libraries() -> dict[str, str]:
    """Return the versions of those packages of LIBRARIES that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def usable() -> int:
    """Return the number of CPU threads that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> dict[str, Any]:
    text = _read("/proc/cpuinfo")
    fields = [dict(_FIELD.findall(part)) for part in text.split("\n\n") if part.strip()]
    first = fields[0] if fields else {}
    cores = {(part.get("physical id"), part.get("core id")) for part in fields} - {(None, None)}
    known = set((first.get("flags") or first.get("Features") or "").split())
    name = first.get("model name") or _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    return {
        "name": name.strip() or platform.machine(),
        "cores": len(cores) or None,
        "threads": os.cpu_count(),
        "usable": usable(),
        "features": [feature for feature in FEATURES if feature in known],
    }


_FIELD = re.compile(r"^([^\t:\n]+?)\s*: ?(.*)$", re.MULTILINE)


def _mhz() -> float | None:
    """Return the mean clock of all CPU threads."""
    found = [float(value) for value in re.findall(r"^cpu MHz\s*: ([\d.]+)$", _read("/proc/cpuinfo"), re.MULTILINE)]
    return round(sum(found) / len(found), 1) if found else None


def _celsius() -> float | None:
    """Return the temperature of the hottest thermal zone."""
    found = [_read(str(path)).strip() for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    return max((int(value) / 1000 for value in found if value.lstrip("-").isdigit()), default=None)


def _smi(fields: tuple[str, ...]) -> list[Mapping[str, str]]:
    """Return these fields of each GPU, from nvidia-smi; an empty list without it."""
    text = _output("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    rows = [[value.strip() for value in line.split(",")] for line in (text or "").splitlines()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
