import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from node_tree import Clock, Node


def pytest_addoption(parser):
    with suppress(ValueError):  # another folder of tests has it already
        parser.addoption("--update-golden", action="store_true", help="write what is found over what is expected")


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    """Nodes are directories; the GPUs of the machine that runs the tests belong to none."""
    monkeypatch.setitem(sys.modules, "pynvml", None)


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


class Disk:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"
        path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", str(path)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("may not mount")

    def fill(self) -> None:
        with open(self._ballast, "ab", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def free(self) -> None:
        self._ballast.unlink()

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 KiB of its own; skipped where mount(8) is not allowed."""
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.unmount()
