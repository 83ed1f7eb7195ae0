# Two commands for a first-time user: `make quickstart` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: quickstart test lint format install toolchain clean help

help: ## what this Makefile can do
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

# torch first and pinned: left to itself, pip picks a build with gigabytes of CUDA.
# The stamps make a second `make` start at once; they depend on what they installed from.
$(VENV)/run.stamp: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bpudeploy needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(PIP) install -c constraints.txt torch torchvision
	$(PIP) install -c constraints.txt -e '.[build,nightly]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(PIP) install -c constraints.txt -e '.[build,nightly,dev]'
	touch $@

install: $(VENV)/run.stamp ## make the virtual environment

quickstart: install ## one recipe, all the way to numbers from a board
	$(BIN)/bpudeploy run recipes/quickstart.yaml

toolchain: install ## D-Robotics' compiler for X3, Ultra and X5, into the user's cache (0.8 GB; needs a CPython 3.10)
	$(BIN)/bpudeploy toolchain install

test: $(VENV)/dev.stamp ## the test suite; with the toolchain also the compile tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/dev.stamp ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp ## put the code into the house's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the virtual environment and the runs, not the cache and not the toolchain
	rm -rf $(VENV) .bpudeploy
