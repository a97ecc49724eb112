"""Options, markers and fixtures of the whole suite.

`pytest -m "not slow"` is what `make test` runs, in parallel; `make test-all` runs the rest. A test that is marked `sampled`
is slow for all networks of the zoo but those of `support/sample.py`; one marked `sampled(macs=n)` also for those of them that
have more multiply-adds; one marked `sampled(one_in=n)` takes only every n-th of them, each test others. One marked `slow_for`
is slow where one of these words is among those of its parameters.
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

#: The place of each network of the sample.
ORDER = {name: place for place, name in enumerate(sorted(SAMPLE))}

# A shell that starts the suite in the background ignores Ctrl-C, and nohup the end of the terminal; every process that a
# test starts inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Workers share the cores: each computes on one thread, as do the processes that it starts. Threads that wait for one
# another on a busy machine cost more than they bring.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# XLA spends most of a test on making machine code faster that runs once.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def pytest_addoption(parser: pytest.Parser) -> None:
    """One flag rewrites every golden file; the difference is then read in review like code."""
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files instead of comparing with them")


@pytest.fixture(scope="session")
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are rewritten in this run."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and what needs torch, other processes or peers."""
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
    """Whether a test of a network belongs to the quick tests."""
    if name not in ORDER or facts.figures(name)["macs"]["computed"] > macs:
        return False
    return (ORDER[name] + crc32(test.encode())) % one_in == 0
