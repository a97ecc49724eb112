"""Fixtures for tests that measure time."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _freeze_garbage_of_other_tests() -> Iterator[None]:
    """Exclude the objects of earlier tests from garbage collection, which each measurement runs first."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
