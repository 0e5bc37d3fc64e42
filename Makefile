# Two commands for a machine that has only Python >= 3.11, a C compiler and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(wildcard src_cython/*.pyx src_cython/*.pxd)
# cython-lint calls pycodestyle by its name.
export PATH := $(abspath $(BIN)):$(PATH)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test lint bench soak clean

demo: $(VENV)/.demo
	$(BIN)/python -m ccxtbt demo

# The tests wait for sockets and clocks more than they compute: four at a time take a third of the time on two cores.
test: lint
	$(BIN)/python -m pytest -n 4 --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/cython-lint src_cython
	$(BIN)/mypy
	$(BIN)/stubtest --concise --mypy-config-file pyproject.toml $(patsubst src_cython/%.pyx,ccxtbt.%,$(wildcard src_cython/*.pyx))

bench: $(VENV)/.bench
	$(BIN)/python -m pytest --benchmark

soak: $(VENV)/.test
	$(BIN)/python -m pytest -m soak

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ccxtbt needs Python 3.11 or newer; say which with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'

$(VENV)/.demo: $(VENV)/bin/python $(SOURCES)
	@echo "Installing ccxtbt into $(VENV); the first time this takes about a minute ..."
	$(PIP) install --editable '.[plot]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) install --group test
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	$(PIP) install --group bench
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info ccxtbt/_*.so ccxtbt/_*.pyd .pytest_cache .mypy_cache .ruff_cache .hypothesis
