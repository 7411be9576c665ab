# make demo · test · bench · check · clean     PYTHON=/path/to/python3.12 picks the interpreter

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test bench check clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    install, then write pictures and a report to demo-output/"
	@echo "make test    run the tests"
	@echo "make bench   run the benchmarks"
	@echo "make check   format, lint, types, import order, sizes"
	@echo "make clean   remove $(VENV), caches and outputs"

demo: $(VENV)/.installed
	$(BIN)/minorant demo --out demo-output

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.run

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python tools/check_size.py

clean:
	rm -rf $(VENV) build dist demo-output .pytest_cache .ruff_cache .import_linter_cache
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamps: an install is done once, and again when its inputs change.
$(VENV)/.installed: $(INPUTS) | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(INPUTS) | $(BIN)/python
	$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: '$(PYTHON)' is missing or older than Python 3.11." \
	       "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -f $(BIN)/python; \
	  echo "error: '$(PYTHON) -m venv $(VENV)' failed, so no virtual environment could be made." \
	       "On Debian and Ubuntu the package python3-venv is needed;" \
	       "or name another interpreter: make PYTHON=python3.12 ..." >&2; exit 1; }
