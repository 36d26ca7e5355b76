# `make demo` and `make test` need nothing but python3.11: the first of them makes the virtual environment.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo docs test test-fast check lint types layers clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# torch first: it decides which CUDA libraries everything after it has to agree with.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet --editable ".[dev,trt-rtx]"
	touch $@

demo: $(STAMP)  ## train, prune, verify, export and time on real digits; writes demo-run/report.html
	$(BIN)/gate2static demo

# Two processes of one thread each: most tests are many small operators. A file stays whole, and with it what it makes once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP)  ## all tests; about 20 minutes
	$(PYTEST)

test-fast: $(STAMP)  ## those that are not marked slow; under 2 minutes
	$(PYTEST) -m "not slow"

check: lint types layers  ## what must hold before a commit, besides the tests

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

docs: $(STAMP)  ## the documentation, in site/; open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) demo-run site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
