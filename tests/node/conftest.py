from contextlib import suppress

import pytest
from node_tree import Clock, Node


def pytest_addoption(parser):
    with suppress(ValueError):  # another folder of tests has it already
        parser.addoption("--update-golden", action="store_true", help="write what is found over what is expected")


@pytest.fixture
def update_golden(request) -> bool:
    return request.config.getoption("--update-golden", default=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(tmp_path, clock):
    node = Node(tmp_path, clock)
    yield node
    node.close()
