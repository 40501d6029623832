# hpcpools: everything a developer types. `make` alone lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
TORCH_SPEC ?= torch==2.13.0
PYTEST_ARGS ?=
WORKERS ?= 3

BIN := .venv/bin
STAMP := .venv/.installed
BENCH_BIN := .venv-bench/bin
BENCH_STAMP := .venv-bench/.installed
BENCH ?=
BENCH_ARGS ?=
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
LAB := $(PYTHON) tests/cluster/lab.py

.PHONY: help venv demo test packages lint types audit quick chaos cluster-up cluster-down shell bench docs clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) ## short tasks answer at once while a training runs: watch it, about 4 minutes
	$(BIN)/python -m hpcpools.demo

test: packages $(STAMP) lint types ## packages, lint, types, all tests against a real Slurm; stops what it started (root)
	@trap 'for worker in $$(seq 0 $$(($(WORKERS) - 1))); do for variant in accounting plain memory; do \
	  PYTEST_XDIST_WORKER=gw$$worker $(LAB) down --variant $$variant >/dev/null; done; done' EXIT; trap 'exit 130' INT TERM; \
	export HPCPOOLS_REQUIRE_LAB=1; $(BIN)/pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS); code=$$?; \
	if [ $$code -eq 1 ]; then echo "== what failed beside the others runs once more, alone; see its report above"; \
	  $(BIN)/pytest --last-failed --last-failed-no-failures none $(PYTEST_ARGS); code=$$?; fi; exit $$code

chaos: packages $(STAMP) ## storms over both pools at full length, about two hours (root)
	@HPCPOOLS_CHAOS_RUNS=30 HPCPOOLS_CHAOS_SECONDS=660 HPCPOOLS_CHAOS_SHORT=1 HPCPOOLS_CHAOS_WEAR_SECONDS=3600 HPCPOOLS_LOAD_SECONDS=600 \
	  HPCPOOLS_REQUIRE_LAB=1 $(BIN)/pytest -x tests/chaos tests/unit/training/test_polite.py $(PYTEST_ARGS)

quick: $(STAMP) ## only the tests that need no Slurm
	$(BIN)/pytest -m "not slurm" $(PYTEST_ARGS)

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

audit: $(STAMP) ## what hpcpools installs, dist/sbom.json, and what is known against it (asks PyPI)
	@$(BIN)/python -m tests.security.audit

venv: $(STAMP) ## .venv with hpcpools (editable) and everything optional

$(STAMP): pyproject.toml
	@PYTHON=$(PYTHON) tests/cluster/install.sh venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q '$(TORCH_SPEC)'
	$(BIN)/python -m pip install -q -e '.[torch,dashboard,exporter,top,plots,embedded-redis,demo,docs,dev]'
	@touch $@

packages:
	@PYTHON=$(PYTHON) tests/cluster/install.sh

cluster-up: packages ## a real four-node Slurm with fake GPUs on this machine (root or sudo)
	@$(SUDO) $(LAB) up

cluster-down: ## stop it
	@$(SUDO) $(LAB) down

shell: packages ## your shell on that cluster; brings it up if needed
	@$(LAB) status >/dev/null || $(SUDO) $(LAB) up; $(LAB) shell

docs: $(STAMP) ## the documentation as a site, build/site, offline; a warning fails it
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: packages $(BENCH_STAMP) ## measure against the others, write docs/performance.md; BENCH=cli_start a part (root)
	@$(BENCH_BIN)/python -m benchmarks $(BENCH) $(BENCH_ARGS)

$(BENCH_STAMP): $(STAMP) benchmarks/requirements.txt benchmarks/link.py
	$(PYTHON) -m venv .venv-bench
	$(BENCH_BIN)/python benchmarks/link.py .venv
	$(BENCH_BIN)/python -m pip install -q -r benchmarks/requirements.txt
	@touch $@

clean: ## remove the environments, caches and builds
	rm -rf .venv .venv-bench build dist .pytest_cache .mypy_cache .ruff_cache && find . -name __pycache__ -type d -prune -exec rm -rf {} +
