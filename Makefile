# make demo: account two real commands on this machine.   make test: everything; with root on Debian a real Slurm too.
PYTHON ?= python3
BIN := .venv/bin
ROOT := $(shell [ "$$(id -u)" = 0 ] && [ -x /usr/bin/apt-get ] && echo yes)
export ECO2AI_HPC_REQUIRE_BROWSER := $(ROOT)
export ECO2AI_HPC_REQUIRE_SANDBOX := $(ROOT)

.PHONY: help demo test test-all lint cluster cluster-down bench clean
help:
	@sed -n 's/^#: //p' Makefile

#: make demo          account two real commands on this machine; names the report it wrote (no root, no Slurm)
demo: $(BIN)/.server
	$(BIN)/eco2ai-hpc demo

#: make test          lint, types, contracts, all tests; as root on Debian also those on a real Slurm and in a browser
test: $(BIN)/.test system lint
	$(BIN)/python -m pytest -m "not slow"

#: make test-all      the same with the slow proofs
test-all: $(BIN)/.test system lint
	$(BIN)/python -m pytest

#: make lint          ruff, mypy, import contracts, sqlfluff
lint: $(BIN)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/sqlfluff lint --disable-progress-bar --processes 2 sql reports

#: make cluster       start a real Slurm of three nodes with the hooks installed (root, Debian)
cluster: $(BIN)/.server
	tests/sandbox/install.sh
	tests/sandbox/up.sh
	tests/sandbox/users.sh

#: make cluster-down  stop it and leave nothing behind
cluster-down:
	tests/sandbox/down.sh --purge

#: make bench         measure the hooks and the sampler; results in benchmarks/results
bench: $(BIN)/.test
	$(BIN)/python benchmarks/hooks.py --output benchmarks/results/hooks.json
	$(BIN)/python benchmarks/sampler.py --output benchmarks/results/sampler.json

#: make clean         remove what was built here
clean:
	rm -rf .venv demo dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# What the tests on a real Slurm and in a real browser need; a machine without root goes without them.
.PHONY: system
system:
ifeq ($(ROOT),yes)
	tests/sandbox/install.sh
	tests/report/install-browser.sh
endif

$(BIN)/.server: pyproject.toml
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv || { echo "try: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[server]'
	touch $@

$(BIN)/.test: $(BIN)/.server
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@
