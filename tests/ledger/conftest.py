import pytest
from ledger_books import Books


@pytest.fixture
def books(tmp_path):
    return Books(tmp_path)
