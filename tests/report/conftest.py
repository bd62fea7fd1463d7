import contextlib

import pytest
from contents import HERE, load


def pytest_addoption(parser):
    # Another folder's conftest may have it already: the option means the same everywhere.
    with contextlib.suppress(ValueError):
        parser.addoption(
            "--update-golden", action="store_true", help="write the expected files anew from what comes out"
        )


@pytest.fixture
def site():
    """A month of a site: 11 runs on three nodes with every kind of trouble, hostile names included."""
    return load("content_site")


@pytest.fixture
def job():
    """One job that was requeued: two runs."""
    return load("content_job")


@pytest.fixture(params=["content_site", "content_job"])
def content(request):
    return load(request.param)


@pytest.fixture
def golden(request):
    """Compare with, or with --update-golden write, a file of golden/."""

    def check(name, text):
        path = HERE / "golden" / name
        if request.config.getoption("--update-golden", default=False):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode())
        assert path.exists(), f"{path} is missing: look at the output, then run pytest tests/report --update-golden"
        assert text == path.read_bytes().decode(), f"{path.name} differs: if you meant it, --update-golden"

    return check
