# make sets everything up; make help lists what else there is.
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := setup
.PHONY: setup python demo test test-arm64 test-k3s unit bench lint clean help

setup: ## set up packages, the Docker engine and the Python environment
	@scripts/setup.sh all

python: ## set up the Python environment alone
	@scripts/setup.sh python

demo: setup ## show a rollout on emulated devices
	@scripts/demo.sh

test: setup ## run all tests: unit, Molecule and integration
	@scripts/test.sh

test-arm64: setup ## run the tests of an emulated arm64 device, which no other target does
	@scripts/test_arm64.sh

test-k3s: setup ## run the scenarios with K3s, on a stand-in or on K3S_BINARY=/path/to/k3s
	@scripts/test_k3s.sh

unit: python ## run the unit tests, which need no Docker
	@pytest tests/unit -n auto -q

bench: setup ## measure what rollouts cost, on simulated and on emulated devices
	@scripts/bench.sh

lint: python ## check style and types
	ruff check
	ruff format --check
	mypy

clean: ## take the emulated fleet down; remove what was generated and the Python environment
	@if [ -e inventories/emulated/hosts.yml ]; then muster emulate down; fi
	rm -rf $(VENV) .muster build muster.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
