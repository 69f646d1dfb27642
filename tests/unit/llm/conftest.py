from collections.abc import Iterator

import pytest
from llm_server import LoopbackModel


@pytest.fixture
def server() -> Iterator[LoopbackModel]:
    with LoopbackModel().running() as running:
        yield running
