# `make dev` and `make test` set up what they need: Python 3.11+ and make are enough.
# Options of `inngest-temporal dev`: make dev ARGS="--port 9288"
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: dev test check bench
dev: $(VENV)/ready
	$(BIN)/inngest-temporal dev examples/orders.py $(ARGS)

test: $(VENV)/ready
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/ready
	$(BIN)/python -m benchmarks

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, and $(PYTHON) is older: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --editable '.[dev]' --group test
	touch $@
