"""The package datasets shares a number by torch with workers that we have none of."""

from collections.abc import Iterator

import pytest
from torch import multiprocessing


@pytest.fixture(autouse=True)
def shares_by_descriptor() -> Iterator[None]:
    """As in a trainer's process. Where a test of the DHT has run before, hivemind has chosen a way that starts a process for it."""
    before = multiprocessing.get_sharing_strategy()
    multiprocessing.set_sharing_strategy("file_descriptor")
    yield
    multiprocessing.set_sharing_strategy(before)
