import shutil
from pathlib import Path

import pytest
from slurm_node import SHELLS, Node, in_mount_namespace


@pytest.fixture(params=SHELLS)
def node(request, tmp_path) -> Node:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return Node(tmp_path, request.param)


@pytest.fixture
def etc(node) -> Path:
    """The node's hooks see this directory, empty at first, as /etc; nobody else does."""
    etc = node.directory / "etc"
    (etc / "default").mkdir(parents=True)
    node.wrap = in_mount_namespace(f"mount --bind '{etc}' /etc")
    return etc
