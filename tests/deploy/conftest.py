"""What the tests with containers share: one engine with the images, since building them takes minutes."""

from collections.abc import Iterator

import pytest

from tests.deploy.engine import Engine
from tests.deploy.images import build_node


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """An engine that has built the image of a node."""
    engine = Engine("main")
    try:
        engine.start()
        build_node(engine)
        yield engine
    finally:
        engine.end()
