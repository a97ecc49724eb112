"""What the tests of measurements share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _other_tests_are_no_garbage() -> Iterator[None]:
    """Each measurement collects garbage first, which would visit all that the other tests have left in memory."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
