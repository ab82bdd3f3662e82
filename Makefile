# Two commands matter: `make demo` and `make test`. Everything else is a part of one of them.
SHELL := /bin/bash
VENV := .venv
PYTHON ?= python3.11
BIN := $(VENV)/bin
CLUSTER := hack/cluster
# Kubernetes' own programs, whose garbage collection takes a tenth of two cores: memory is less scarce than they are.
export GOGC := 400
CACHE := $(or $(RECELL_CACHE),$(HOME)/.cache/recell)
# On a machine without kubectl, the one that `hack/cluster up` leaves there.
export PATH := $(PATH):$(CACHE)/path
# By websockets, kubectl before 1.34 now and then loses what a command says at once (kubernetes/kubernetes#131189).
export KUBECTL_REMOTE_COMMAND_WEBSOCKETS := false
# More processes than cores, since most tests wait most of the time; one file stays in one process, for its fixtures.
SPREAD := -n 3 --dist loadfile --no-loadscope-reorder
UNIT := tests/unit tests/contract tests/router
EXAMPLE := tests/unit/shop
E2E := recell-e2e-0 recell-e2e-1
SHARED := operator,router,shop-web,shop-load,shop-postgres
DATA := tests/e2e/test_replacement.py tests/e2e/test_volume_snapshots.py
ROUTING := tests/e2e/test_router_failover.py tests/e2e/test_switches.py tests/e2e/test_cascade.py

.PHONY: help demo demo-replace demo-pitr demo-router demo-cascade test beside afterwards venv packages clusters tools check stage stage-beside stage-e2e unit cluster-tests e2e e2e-data e2e-routing cnpg velero remote gateway dns generate bench bench-storm images clean

help: ## Say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: venv ## A real recovery on a real cluster, all set-up included
	$(BIN)/python hack/demo

demo-replace: venv ## A cell that cannot start is replaced, and its customers move with their orders
	$(BIN)/python hack/demo replace

demo-pitr: venv ## A cell's data was corrupted: it is brought back to when it was last found intact
	$(BIN)/python hack/demo pitr

demo-router: venv ## No pod of the router stays or starts: another one serves, until the router is back
	$(BIN)/python hack/demo router

demo-cascade: venv ## Two of four cells fail, and the others cannot bear the load
	$(BIN)/python hack/demo cascade

test: ## Everything that must pass
	+$(MAKE) --no-print-directory --jobs 4 venv packages clusters tools
	+$(MAKE) --no-print-directory --jobs 3 --output-sync=target check beside afterwards

# The end-to-end tests mostly wait, and are about what customers feel: the others give way to what serves them.
beside: stage-beside
	nice -n 5 $(BIN)/pytest $(SPREAD) $(UNIT) tests/cluster --ignore $(EXAMPLE)

# Their clusters go first, for what is idle there still costs the other tests time.
afterwards: e2e
	for name in $(E2E); do $(CLUSTER) down --name $$name || exit 1; done
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(EXAMPLE)

venv: $(VENV)/.installed ## The Python environment, from the lock file

$(VENV)/.installed: requirements-dev.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it or set PYTHON=..."; exit 1; }
	@# One that was left half made is made anew: pip takes a package for installed although its programs are not there yet.
	@if [ -e $@ ]; then rm $@; else rm -rf $(VENV); fi
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

packages: ## Debian packages that the tests start for real
	hack/packages

# While the Python environment is made: they need nothing of it. Two that install packages would meet, hence the order.
clusters: packages
	@for name in recell-test $(E2E); do \
		$(CLUSTER) up --name $$name >/dev/null & started="$$started $$!"; \
	done; for each in $$started; do wait $$each || exit 1; done

check: venv ## Lint, format, types, layers, generated files, chart
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --cache-dir $(CACHE)/mypy
	$(BIN)/lint-imports

tools: ## Compiled once, then cached outside of the tree
	hack/tools helm kubeconform csi-hostpath csi-provisioner csi-snapshotter snapshot-controller >/dev/null

stage: stage-beside stage-e2e ## The clusters and images of the tests

stage-beside: venv tools
	$(BIN)/python -m hack.stage recell-test=operator,router,shop-load

stage-e2e: venv tools
	$(BIN)/python -m hack.stage $(addsuffix =$(SHARED),$(E2E))

unit: venv ## Pure tests, and tests against processes on this machine
	$(BIN)/pytest $(SPREAD) $(UNIT)

cluster-tests: venv ## Against a real API server
	$(BIN)/pytest $(SPREAD) tests/cluster

e2e: stage-e2e ## Real pods, a real router, real load
	$(BIN)/pytest -n 2 --dist loadfile tests/e2e $(addprefix --ignore ,$(DATA) $(ROUTING))

# Apart from `test`: they need all of a small machine for a quarter of an hour.
e2e-data: venv ## The same with data in the cells: replacement, restores
	$(BIN)/pytest $(DATA)

# Apart from `test`, as those with data.
e2e-routing: venv packages ## A router that fails, and several cells at once
	hack/tools traefik external-dns >/dev/null
	$(BIN)/pytest $(ROUTING)

# Apart from `test`: CloudNativePG is compiled once, in a quarter of an hour.
cnpg: venv ## Backups and recoveries by the real CloudNativePG
	$(BIN)/pytest tests/cnpg

# Apart from `test`: Velero is compiled once, in ten minutes.
velero: venv ## Backups and restores by the real Velero
	$(BIN)/pytest tests/velero

# Apart from `test`: real implementations are fetched and compiled once.
gateway: venv ## Routers of type Gateway on real implementations of the Gateway API
	$(BIN)/python -m hack.stage recell-test=operator,router
	$(BIN)/pytest tests/gateway

# Apart from `test`: ExternalDNS is compiled once.
dns: venv packages ## DNS routers by the real ExternalDNS and BIND
	hack/tools external-dns >/dev/null
	$(BIN)/pytest tests/dns

# Apart from `test`: it starts two clusters of its own.
remote: venv ## Cells in clusters of their own, on two real clusters
	hack/tools helm >/dev/null
	$(BIN)/pytest tests/remote

generate: venv ## CRDs, API reference, chart's CRDs, manifests
	$(BIN)/python -m recell.api.crd crds/ --docs docs/api.md
	hack/manifests

bench: venv ## The table of numbers
	$(BIN)/python -m benchmarks

bench-storm: venv ## A thousand cells fail in waves, in virtual time: with and without storm handling
	$(BIN)/python -m benchmarks.storm

clean: ## Clusters, environment, caches of this checkout
	-$(CLUSTER) down --name recell-test
	-$(CLUSTER) down --name recell-e2e-0
	-$(CLUSTER) down --name recell-e2e-1
	-$(CLUSTER) down --name recell-cnpg
	-$(CLUSTER) down --name recell-velero
	-$(CLUSTER) down --name recell-r1
	-$(CLUSTER) down --name recell-r2
	-$(CLUSTER) down --name recell
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
