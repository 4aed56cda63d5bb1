# What there is to do here, one word each: `make` alone lists it.
# Everything lives in .venv, made on first use: by uv where it is installed, else by venv and pip. PyTorch goes to
# an environment of its own, so that everything else is seen to do without it.

VENV := .venv
PYTHON := $(VENV)/bin/python
TRAIN_VENV := .venv-train
TRAIN_PYTHON := $(TRAIN_VENV)/bin/python
UV := $(shell command -v uv 2>/dev/null)
# The first Python on this machine that is new enough, to make the environment with.
HOST_PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11 python3.14,$(shell \
	$(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))

ifneq ($(UV),)
install = $(UV) pip install --quiet --python $(1)
else
install = $(1) -m pip install --quiet --disable-pip-version-check
endif

.DEFAULT_GOAL := help
.PHONY: help demo test test-train faults soak fuzz check lint types imports bench model docs clean
.DELETE_ON_ERROR:

help: ## this list
	@grep -hE '^[a-z-]+:.* ## ' $(MAKEFILE_LIST) | sed -E 's/:.* ## /\t/' | \
		while IFS="$$(printf '\t')" read -r name text; do printf '  make %-11s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.installed ## see it work: broker, Redis, traffic and scorer on this machine, for a minute
	@$(PYTHON) -m scorer.cli demo

test: $(VENV)/.dev ## every test, real Kafka and Redis included; says what it skipped and why
	$(PYTHON) -m pytest

test-train: $(TRAIN_VENV)/.installed ## the tests of training (installs PyTorch: 5 GB)
	$(TRAIN_PYTHON) -m pytest -m train

faults: $(VENV)/.dev ## every fault there is a case for (half an hour); ONLY=zombie, SEED=7, SEEDS=20, KAFKA=, REDIS=
	FAULTS_SEED=$(or $(SEED),0) FAULTS_SEEDS=$(or $(SEEDS),1) FAULTS_KAFKA=$(KAFKA) FAULTS_REDIS=$(REDIS) \
		$(PYTHON) -m pytest tests/faults -m "not soak" $(if $(ONLY),-k '$(ONLY)')

soak: $(VENV)/.dev ## half an hour under load with a fault every minute; MINUTES=30, RATE=5000, EVERY=60, SEED=0
	FAULTS_SEED=$(or $(SEED),0) FAULTS_SOAK_MINUTES=$(or $(MINUTES),30) FAULTS_SOAK_RATE=$(or $(RATE),5000) \
		FAULTS_SOAK_EVERY=$(or $(EVERY),60) $(PYTHON) -m pytest tests/faults -m soak

fuzz: $(VENV)/.fuzz ## anything for whatever takes bytes from elsewhere, guided by coverage; SECONDS=60 or RUNS=10000000
	$(PYTHON) -m tests.fuzz $(if $(RUNS),--runs $(RUNS),--seconds $(or $(SECONDS),60)) $(ONLY)

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

model: $(TRAIN_VENV)/.installed ## the reference model, made anew from simulated traffic (installs PyTorch; minutes)
	$(TRAIN_PYTHON) -m replay.reference

docs: $(VENV)/.dev ## docs/contracts, docs/configuration.md and docs/metrics.md, written anew from the code
	$(PYTHON) -m scorer.contracts
	$(PYTHON) -m scorer.reference

clean: ## remove the environments, caches, and what tests fetched
	rm -rf $(VENV) $(TRAIN_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis \
		.benchmarks tests/kafka/lib
	find features engines scorer replay tests -name __pycache__ -prune -exec rm -rf {} +

$(PYTHON) $(TRAIN_PYTHON):
ifneq ($(UV),)
	@echo "Making an environment in $(@:/bin/python=) with uv ..."
	@$(UV) venv --quiet --python '>=3.11' $(@:/bin/python=)
else
	@test -n "$(HOST_PYTHON)" || { echo "This needs Python 3.11 or newer: install it, or install uv, which brings its own."; exit 1; }
	@echo "Making an environment in $(@:/bin/python=) with $(HOST_PYTHON) ..."
	@$(HOST_PYTHON) -m venv $(@:/bin/python=) || { rm -rf $(@:/bin/python=); \
		echo "Debian and Ubuntu keep this apart: apt install python3-venv. Or install uv."; exit 1; }
endif

# Stamps: what is installed, as of which pyproject.toml.
$(VENV)/.installed: pyproject.toml | $(PYTHON)
	@echo "Installing tipstream into $(VENV): about 400 MB of packages, most of a minute ..."
	@$(call install,$(PYTHON)) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(PYTHON)
	@echo "Installing tipstream and what its tests need into $(VENV): a minute ..."
	@$(call install,$(PYTHON)) --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.fuzz: $(VENV)/.dev
	@echo "Installing atheris into $(VENV) ..."
	@$(call install,$(PYTHON)) --editable '.[dev,fuzz]'
	@touch $@

$(TRAIN_VENV)/.installed: pyproject.toml | $(TRAIN_PYTHON)
	@echo "Installing tipstream with PyTorch into $(TRAIN_VENV): 5 GB, some minutes ..."
	@$(call install,$(TRAIN_PYTHON)) --editable '.[dev,train]'
	@touch $@
