"""Options of the whole suite."""


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write golden files from what came out")
