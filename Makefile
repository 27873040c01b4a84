# Everything sets itself up: `make demo` and `make test` need Python 3.11 or later, make and git.
#   make demo PYTHON=python3.12     another interpreter
#   make test PYTEST_ARGS="-k nodata -x"
#   make bench BENCH_ARGS="--full"

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
BENCH_ARGS ?=
CARDS_ARGS ?=

BIN := $(VENV)/bin
SOURCES := $(wildcard pyproject.toml setup.py constraints.txt models/rsmamba_models/ops/csrc/*)

.PHONY: help demo bench cards test test-all faults lint format clean
.DELETE_ON_ERROR:

help:
	@echo "make demo      make a scene pair, predict it, detect change (in rsmamba-demo/)"
	@echo "make bench     measure speed and memory here, into docs/benchmarks.md"
	@echo "make cards     write models/README.md, measuring what is missing (CARDS_ARGS=--render: nothing)"
	@echo "make test      run the tests"
	@echo "make test-all  run the tests, the slow ones too"
	@echo "make faults    hundreds of kills, full disks, damaged and missing blocks, and a count"
	@echo "make lint      ruff and mypy"
	@echo "make format    let ruff format the code"
	@echo "make clean     remove the virtual environment and everything built"

demo: $(VENV)/.stamp-test
	$(BIN)/rsmamba demo

bench: $(VENV)/.stamp-test
	$(BIN)/rsmamba bench all --markdown docs/benchmarks.md $(BENCH_ARGS)

cards: $(VENV)/.stamp-test
	$(BIN)/python -m rsmamba_cli.bench.zoo $(CARDS_ARGS)

test: $(VENV)/.stamp-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-all: $(VENV)/.stamp-test
	$(BIN)/python -m pytest -m "not gpu" $(PYTEST_ARGS)

faults: $(VENV)/.stamp-test
	$(BIN)/python -m pytest -m "not gpu" tests/faults $(PYTEST_ARGS)

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist rsmamba.egg-info rsmamba-demo
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache
	rm -f models/rsmamba_models/ops/_native*.so
	find rsmamba_cli models tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rsmamba needs Python 3.11 or later; give one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "no virtual environment could be made (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }

$(VENV)/.stamp-test: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

$(VENV)/.stamp-dev: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.stamp-test
