# make venv | study | test | bench | lint; ARGS="--flag=value" is passed on.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
ARGS ?=

.PHONY: venv study test test-slow bench lint clean

venv: $(VENV)/.run

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), \
	  "Python 3.11 or newer is needed, this is " + sys.version'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.dev: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

# The peers' dependencies stay out of the way of everything else.
$(BENCH)/.run: requirements.txt requirements-bench.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet -r requirements-bench.txt
	touch $@

study: $(VENV)/.run
	$(BIN)/python -m experiments.study --preset=quick $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow $(ARGS)

bench: $(BENCH)/.run
	$(BENCH)/bin/python -m experiments.benchmark $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check

clean:
	rm -rf $(VENV) $(BENCH) .pytest_cache .ruff_cache .hypothesis
