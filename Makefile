# Two commands matter: `make demo` and `make test`. Everything else is a part of one of them.
SHELL := /bin/bash
VENV := .venv
PYTHON ?= python3.11
BIN := $(VENV)/bin
CLUSTER := hack/cluster
# More processes than cores, since most tests wait most of the time; one file stays in one process, for its fixtures.
SPREAD := -n 3 --dist loadfile

.PHONY: help demo demo-replace demo-pitr test beside venv packages check stage unit cluster-tests e2e e2e-data cnpg generate bench images clean

help: ## Say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: venv ## A real recovery on a real cluster, all set-up included
	$(BIN)/python hack/demo

demo-replace: venv ## A cell that cannot start is replaced, and its customers move with their orders
	$(BIN)/python hack/demo replace

demo-pitr: venv ## A cell's data is brought back to the second before it was corrupted
	$(BIN)/python hack/demo pitr

test: venv packages check stage ## Everything that must pass
	+$(MAKE) --no-print-directory --jobs 2 --output-sync=target beside e2e

# The end-to-end tests mostly wait, and are about what customers feel: the others get what they leave of the machine.
beside:
	+nice -n 19 $(MAKE) --no-print-directory unit cluster-tests

venv: $(VENV)/.installed ## The Python environment, from the lock file

$(VENV)/.installed: requirements-dev.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it or set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

packages: ## Debian packages that the tests start for real
	hack/packages

check: venv ## Lint, format, types, layers, generated files, chart
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

stage: venv ## The clusters, images and tools of the tests; compiled once, then cached outside of the tree
	hack/tools helm kubeconform csi-hostpath csi-provisioner csi-snapshotter snapshot-controller >/dev/null
	$(BIN)/python -m hack.stage recell-test recell-e2e

unit: venv ## Pure tests, and tests against processes on this machine
	$(BIN)/pytest $(SPREAD) tests/unit tests/contract tests/router

cluster-tests: venv ## Against a real API server
	$(BIN)/pytest $(SPREAD) tests/cluster

e2e: venv ## Real pods, a real router, real load
	$(BIN)/pytest tests/e2e --ignore tests/e2e/test_replacement.py --ignore tests/e2e/test_volume_snapshots.py

# Apart from `test`: they need all of a small machine for a quarter of an hour.
e2e-data: stage ## The same with data in the cells: replacement, restores
	$(BIN)/pytest tests/e2e/test_replacement.py tests/e2e/test_volume_snapshots.py

# Apart from `test`: CloudNativePG is compiled once, in a quarter of an hour.
cnpg: venv ## Backups and recoveries by the real CloudNativePG
	$(BIN)/pytest tests/cnpg

generate: venv ## CRDs, API reference, chart's CRDs, manifests
	$(BIN)/python -m recell.api.crd crds/ --docs docs/api.md
	hack/manifests

bench: venv ## The table of numbers
	$(BIN)/python -m benchmarks

clean: ## Clusters, environment, caches of this checkout
	-$(CLUSTER) down --name recell-test
	-$(CLUSTER) down --name recell-e2e
	-$(CLUSTER) down --name recell-cnpg
	-$(CLUSTER) down --name recell
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
