# make demo and make test are all a new machine needs; the rest is for developers.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)
DATA ?= ../shared/data
# One stamp for each set of packages, so that a second call installs nothing.
RUNTIME := $(VENV)/.runtime
TESTING := $(VENV)/.testing
DOCS := $(VENV)/.docs

.PHONY: env demo test lint docs wheel benchmark clean

env: $(TESTING) $(DOCS)

$(RUNTIME): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "scgp needs Python 3.11 or newer, found %d.%d: make PYTHON=/path/to/python3.11 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install $(TORCH)
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

$(TESTING): $(RUNTIME)
	$(BIN)/python -m pip install -c constraints.txt --group test -e '.[text]'
	touch $@

$(DOCS): $(RUNTIME)
	$(BIN)/python -m pip install -c constraints.txt --group docs -e .
	touch $@

demo: $(RUNTIME)
	$(BIN)/python -m scgp demo --out demo

test: $(TESTING)
	$(BIN)/python -m pytest --nbmake

lint: $(TESTING)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS)
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

wheel: $(RUNTIME)
	rm -rf dist
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

benchmark: $(TESTING)
	$(BIN)/python -m pip install -c constraints.txt -e '.[benchmark]'
	$(BIN)/python benchmarks/run.py --data $(DATA) --max-cells-per-type-and-study 150

clean:
	rm -rf $(VENV) demo dist build docs/_build .pytest_cache .ruff_cache .mypy_cache .hypothesis
