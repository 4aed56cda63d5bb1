# What there is to do here, one word each: `make` alone lists it.
# Everything lives in .venv, made on first use: by uv where it is installed, else by venv and pip.

VENV := .venv
PYTHON := $(VENV)/bin/python
UV := $(shell command -v uv 2>/dev/null)
# The first Python on this machine that is new enough, to make the environment with.
HOST_PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11 python3.14,$(shell \
	$(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))

ifneq ($(UV),)
INSTALL := $(UV) pip install --quiet --python $(PYTHON)
else
INSTALL := $(PYTHON) -m pip install --quiet --disable-pip-version-check
endif

.DEFAULT_GOAL := help
.PHONY: help demo test test-train check lint types imports bench model docs clean
.DELETE_ON_ERROR:

help: ## this list
	@grep -hE '^[a-z-]+:.* ## ' $(MAKEFILE_LIST) | sed -E 's/:.* ## /\t/' | \
		while IFS="$$(printf '\t')" read -r name text; do printf '  make %-11s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.installed ## see it work: broker, Redis, traffic and scorer on this machine, for a minute
	@$(PYTHON) -m scorer.cli demo

test: $(VENV)/.dev ## every test, real Kafka and Redis included; says what it skipped and why
	$(PYTHON) -m pytest

test-train: $(VENV)/.train ## the tests of training (installs PyTorch: 5 GB)
	$(PYTHON) -m pytest -m train

check: lint types imports ## everything that can be said without running it

lint: $(VENV)/.dev ## style (ruff)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: $(VENV)/.dev ## types (mypy --strict, tests included)
	$(PYTHON) -m mypy

imports: $(VENV)/.dev ## who may import whom (import-linter)
	$(VENV)/bin/lint-imports

bench: $(VENV)/.dev ## figures: the parts, then the service against a pass-through loop (minutes; an idle machine)
	$(PYTHON) -m pytest --override-ini addopts="--import-mode=importlib --strict-markers" --benchmark-only tests
	$(PYTHON) -m tests.benchmarks.run --source tests.benchmarks.traffic:simulated

model: $(VENV)/.train ## the reference model, made anew from simulated traffic (installs PyTorch; minutes)
	$(PYTHON) -m replay.reference

docs: $(VENV)/.dev ## docs/contracts, docs/configuration.md and docs/metrics.md, written anew from the code
	$(PYTHON) -m scorer.contracts
	$(PYTHON) -m scorer.reference

clean: ## remove the environment, caches, and what tests fetched
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis \
		.benchmarks tests/kafka/lib
	find features engines scorer replay tests -name __pycache__ -prune -exec rm -rf {} +

$(PYTHON):
ifneq ($(UV),)
	@echo "Making an environment in $(VENV) with uv ..."
	@$(UV) venv --quiet --python '>=3.11' $(VENV)
else
	@test -n "$(HOST_PYTHON)" || { echo "This needs Python 3.11 or newer: install it, or install uv, which brings its own."; exit 1; }
	@echo "Making an environment in $(VENV) with $(HOST_PYTHON) ..."
	@$(HOST_PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "Debian and Ubuntu keep this apart: apt install python3-venv. Or install uv."; exit 1; }
endif

# Stamps: what is installed, as of which pyproject.toml. Each of the two lower ones holds the first one too.
$(VENV)/.installed: pyproject.toml | $(PYTHON)
	@echo "Installing tipstream into $(VENV): about 400 MB of packages, most of a minute ..."
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(PYTHON)
	@echo "Installing tipstream and what its tests need into $(VENV): a minute ..."
	@$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.train: pyproject.toml | $(PYTHON)
	@echo "Installing tipstream with PyTorch into $(VENV): 5 GB, some minutes ..."
	@$(INSTALL) --editable '.[dev,train]'
	@touch $@ $(VENV)/.dev $(VENV)/.installed
