# Two commands do everything: `make demo` shows the product at work, `make test` passes the tests.
# Downloads and built binaries are kept in $(PREHEAT_CACHE), outside the checkout.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export PREHEAT_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/preheat
UV_VERSION := 0.13.9
UV := $(PREHEAT_CACHE)/uv-$(UV_VERSION)/bin/uv
PY := .venv/bin/python
CLUSTER_PY := PYTHONPATH=tests $(PY) -m cluster
# Python compiles what it imports once, and not in each of the thousand processes that tests and benchmarks start.
unexport PYTHONDONTWRITEBYTECODE
# local: a Kubernetes of our own on this machine; kind: needs Docker; current: the current kubeconfig
CLUSTER ?= local

help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(UV):
	@python3 -m venv $(PREHEAT_CACHE)/uv-$(UV_VERSION)
	@$(PREHEAT_CACHE)/uv-$(UV_VERSION)/bin/pip install --quiet uv==$(UV_VERSION)

.venv/.synced: $(UV) pyproject.toml requirements.lock
	@echo "==> installing the locked Python packages into .venv"
	@test -x $(PY) || $(UV) venv --quiet .venv
	@$(UV) pip sync --quiet --python $(PY) --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(PY) --no-deps -e .
	@touch $@

# The fuzzer stands beside the virtual environment: only `make fuzz` needs it.
ATHERIS := $(PREHEAT_CACHE)/fuzz/atheris-$(shell sha256sum fuzz/requirements.txt | cut -c1-12)
SECONDS ?= 60

$(ATHERIS): $(UV) .venv/.synced
	@$(UV) pip install --quiet --python $(PY) --require-hashes --requirement fuzz/requirements.txt --target $@

# What the images hold, and what builds them.
PINNED = $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate $(LOCK)

lock: $(UV)  ## pin the Python dependencies with hashes (LOCK=--upgrade moves them)
	@$(UV) pip compile --quiet --universal --generate-hashes --all-extras --no-header $(LOCK) pyproject.toml -o requirements.lock
	@$(PINNED) -c requirements.lock --extra operator pyproject.toml -o operator/requirements.lock
	@$(PINNED) -c requirements.lock --extra loader --extra signature pyproject.toml -o loader_image/requirements.lock
	@$(PINNED) --group build -o build.lock
	@$(UV) pip compile --quiet --generate-hashes --no-header --no-annotate --python-version 3.11 --override bench/overrides.txt \
		bench/peers.in -o bench/peers.txt

setup: .venv/.synced  ## install everything the other verbs need

# Three processes keep two cores busy: many tests wait for a process of their own.
APART := .venv/bin/pytest -m "not cluster" -n 3 --dist loadfile
# Collecting all the others' files costs ten seconds of processor, and memory for what they import.
WITH_CLUSTER = .venv/bin/pytest -m cluster $(or $(ARGS),$(sort $(shell grep -rl --include='test_*.py' 'mark\.cluster' tests)))

# The cluster's tests mostly wait: they run beside the others, which step back for them, and are told of at the end.
test: setup  ## run every test, the real cluster included
	@$(CLUSTER_PY) prepare || [ "$$CI" != true ]  # a machine that cannot run it skips those tests, and says so
	@set -m; told=$$(mktemp); status=0; \
	$(CLUSTER_PY) images >/dev/null 2>&1 & \
	$(WITH_CLUSTER) > $$told 2>&1 & cluster=$$!; \
	trap 'kill -INT -- -$$cluster' INT TERM; \
	nice $(APART) $(ARGS) || status=$$?; \
	[ $$status != 2 ] || kill -INT -- -$$cluster; \
	echo "==> waiting for the tests that need the cluster"; \
	wait $$cluster || status=$$?; cat $$told; rm $$told; exit $$status

# The oldest minor that is tested: its components are built on demand, into the cache.
test-older: export PREHEAT_KUBERNETES := 1.33
test-older: setup  ## run the cluster's tests on Kubernetes 1.33 (ends the test cluster that runs)
	@$(CLUSTER_PY) prepare
	@$(CLUSTER_PY) down
	@$(WITH_CLUSTER)

test-fast: setup  ## run the tests that need no cluster
	@$(APART) $(ARGS)

test-faults: setup  ## run the tests of tests/faults, as patient as the processes are: 5 minutes (needs the cluster)
	@PREHEAT_SLOW=1 .venv/bin/pytest tests/faults $(ARGS)

fuzz: setup $(ATHERIS)  ## search inputs that break a parser (SECONDS=60 for each target, ARGS="TARGET ...")
	@PYTHONPATH=tests:$(ATHERIS) $(PY) fuzz --seconds $(SECONDS) $(ARGS)

# The cache is that of all checkouts, so that a new one is quick; two at a time would give errors that are none.
lint: setup  ## ruff, mypy, import rules, generated files
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@flock $(PREHEAT_CACHE)/mypy.lock .venv/bin/mypy --cache-dir=$(PREHEAT_CACHE)/mypy
	@.venv/bin/lint-imports --no-cache

format: setup  ## let ruff mend what it can
	@.venv/bin/ruff check --fix --quiet .
	@.venv/bin/ruff format --quiet .

crds: setup  ## write crds/, the chart's copy and docs/reference.md from the stages
	@$(PY) -m preheat_operator crds

demo: setup  ## show the product at work on a real cluster (CLUSTER=local, kind or current)
	@PYTHONPATH=tests:examples $(PY) -m demo $(CLUSTER)

demo-clean:  ## remove every trace of the demo
	@if [ "$(CLUSTER)" = kind ]; then kind delete cluster --name preheat-demo; \
	elif [ "$(CLUSTER)" = current ]; then kubectl delete namespace preheat-demo --ignore-not-found && helm uninstall preheat -n preheat-system; \
	else PYTHONPATH=tests python3 -m cluster down; fi
	@rm -rf $(PREHEAT_CACHE)/demo

bench: setup  ## measure the figures of docs/benchmarks.md, with their goals (ARGS=--all: beside every peer, ARGS=--help)
	@PYTHONPATH=tests $(PY) bench $(ARGS)

bench-admission: setup  ## measure admission with 1,000 pipelines, beside kopf's own server and through a real API server
	@PYTHONPATH=tests $(PY) bench/admission.py $(ARGS)

bench-scale: setup  ## measure controller and webhook with 1,000 pipelines and 10,000 pods on a real API server
	@PYTHONPATH=tests $(PY) bench/operator_scale.py $(ARGS)

bench-device: setup  ## measure loading into a GPU, beside others; without one it says so (ARGS=--help)
	@PYTHONPATH=tests $(PY) bench/device.py $(ARGS)

cluster-up: setup  ## start the test cluster, or find the one that runs
	@$(CLUSTER_PY) up

cluster-down:  ## end the test cluster and remove every trace of it
	@PYTHONPATH=tests python3 -m cluster down

# Helm's own on PATH, else the one that the test cluster has built.
HELM ?= $(or $(shell command -v helm),$(lastword $(wildcard $(PREHEAT_CACHE)/bin/helm-*/helm)))

dist: $(UV)  ## make dist/: the wheel, the source package and the chart's package
	@rm -rf dist
	@$(UV) build --quiet --out-dir dist
	@test -n "$(HELM)" || { echo "helm is needed for the chart's package: install it, or \`make cluster-up\` once" >&2; exit 1; }
	@$(HELM) package charts/preheat --destination dist >/dev/null
	@ls dist

images: setup  ## build the operator's and the loader's image
	@$(CLUSTER_PY) images

.PHONY: cluster-up cluster-down dist images demo demo-clean bench bench-admission bench-scale bench-device fuzz help setup lock test test-fast test-faults test-older lint format crds
