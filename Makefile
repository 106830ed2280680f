# make venv | study | test | bench | lint; ARGS="--flag=value" is passed on.
# LOCKED=1 installs the versions of requirements.lock.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
ARGS ?=
LOCKED ?=
LOCK_VENV := .venv-lock

# What is installed, with exact versions or with any in the ranges.
EXACT := $(if $(LOCKED),-c requirements.lock)
RUN := $(VENV)/.run$(if $(LOCKED),-locked)
DEV := $(VENV)/.dev$(if $(LOCKED),-locked)
LOCK := $(if $(LOCKED),requirements.lock)

.PHONY: venv study test test-slow bench lint lock clean

venv: $(RUN)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), \
	  "Python 3.11 or newer is needed, this is " + sys.version'
	$(PYTHON) -m venv $(VENV)

$(RUN): requirements.txt $(LOCK) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt $(EXACT)
	touch $@

$(DEV): requirements.txt requirements-dev.txt $(LOCK) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt $(EXACT)
	touch $@

# From nothing, under the oldest supported Python.
lock:
	rm -rf $(LOCK_VENV)
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/python -m pip install --quiet -r requirements-dev.txt
	{ $(LOCK_VENV)/bin/python -c 'import sys; print("# Versions of what", \
	  "requirements-dev.txt asks for, by `make lock` under Python", \
	  "%d.%d" % sys.version_info[:2])'; \
	  $(LOCK_VENV)/bin/python -m pip freeze; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf $(LOCK_VENV)

# The peers' dependencies stay out of the way of everything else.
$(BENCH)/.run: requirements.txt requirements-bench.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet -r requirements-bench.txt
	touch $@

study: $(RUN)
	$(BIN)/python -m experiments.study --preset=quick $(ARGS)

test: $(DEV)
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(DEV)
	$(BIN)/python -m pytest -m slow $(ARGS)

bench: $(BENCH)/.run
	$(BENCH)/bin/python -m experiments.benchmark $(ARGS)

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check

clean:
	rm -rf $(VENV) .venv-newest $(BENCH) $(LOCK_VENV) .pytest_cache .ruff_cache .hypothesis
