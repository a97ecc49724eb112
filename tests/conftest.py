"""Options, markers and fixtures of the whole suite.

`make test` runs `pytest -m "not slow"` in parallel; `make test-all` runs the rest. A test marked `sampled` is slow except for
the networks in `support/sample.py`; one marked `sampled(macs=n)` is slow also for those with more multiply-adds; one marked
`sampled(one_in=n)` is quick for only one in n of them, different ones for each test. A test marked `slow_for(word, ...)` is slow
if one of these words is in its parameter ID.
"""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from zlib import crc32

import facts
import pytest
from sample import SAMPLE

#: The index of each network in the sample.
ORDER = {name: place for place, name in enumerate(sorted(SAMPLE))}

# A shell ignores SIGINT for background jobs, and nohup ignores SIGHUP; every process that a test starts inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Workers share the cores, so each uses one thread, as do the processes that it starts: threads that wait for one another on a
# busy machine slow the suite down.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# XLA would spend most of a test optimising code that runs once.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-golden`, which rewrites all golden files; their difference is then reviewed like code."""
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files instead of comparing with them")


@pytest.fixture(scope="session")
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Return whether golden files are rewritten in this run."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test in a new empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that are slow or need torch, child processes or peers."""
    for item in items:
        parameters = getattr(item, "callspec").params if hasattr(item, "callspec") else {}  # noqa: B009
        name = next((value for key, value in parameters.items() if key in ("name", "network")), None)
        sampled = item.get_closest_marker("sampled")
        if sampled and not _is_in_sample(name, getattr(item, "originalname"), **sampled.kwargs):  # noqa: B009
            item.add_marker("slow")
        slow = item.get_closest_marker("slow_for")
        if slow and any(f"-{word}-" in f"-{getattr(item, 'callspec').id}-" for word in slow.args):  # noqa: B009
            item.add_marker("slow")
        module = vars(getattr(item, "module"))  # noqa: B009
        if item.path.parent.name == "peers":
            item.add_marker("peers")
        if "torch" in module:
            item.add_marker("torch")
        if "subprocess" in module:
            item.add_marker("process")


def _is_in_sample(name: str | None, test: str, macs: float = math.inf, one_in: int = 1) -> bool:
    """Return whether a test of a network belongs to the quick tests."""
    if name not in ORDER or facts.figures(name)["macs"]["computed"] > macs:
        return False
    return (ORDER[name] + crc32(test.encode())) % one_in == 0
