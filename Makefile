# The only task runner. CI and hooks call these targets and nothing else. A fresh machine needs python3 (3.11 or later), make,
# git and node; everything else is installed here, into .venv and tests/conformance/node/node_modules.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
UV := $(BIN)/uv
LOCK := deploy/requirements/workspace.lock
MEMBERS := protos edge router-svc cache-svc ledger-svc catalog-svc deploy
PROTOS := $(shell find protos/tallygate -name '*.proto' | sort)
SERVICE_PROTOS := $(filter-out protos/tallygate/common/%,$(PROTOS))
NODE_SUITE := tests/conformance/node
DATA ?= .data
MINUTES ?= 2

# uv is told nothing about this machine: no downloaded interpreters, no links into a cache that may lie on another disk.
export UV_PYTHON_DOWNLOADS := never
export UV_LINK_MODE := copy
export UV_NO_PROGRESS := 1
export VIRTUAL_ENV := $(CURDIR)/.venv
# Compiled modules are kept, in one place, also on machines that say to keep none: the tests start some two hundred processes,
# and each would compile everything that it imports.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/.make/pycache

.PHONY: help setup demo account-demo up mesh test faults bench bench-quick bench-profile bench-ledger bench-cache bench-source cache-safety check check-form check-types format protos protos-baseline lock catalog-seed clean

help:  ## what can be done here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'

# --- set-up ----------------------------------------------------------------------------------------------------------------

setup: .make/python .make/node  ## install everything that the other targets need (they do it themselves)

$(UV): deploy/requirements/bootstrap.txt
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "tallygate needs python3 3.11 or later; found: $$(python3 --version)" >&2; exit 1; }
	python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

.make/python: $(UV) $(LOCK) pyproject.toml $(MEMBERS:%=%/pyproject.toml)
	$(UV) pip sync --quiet --require-hashes $(LOCK)
	$(UV) pip install --quiet --no-deps $(MEMBERS:%=--editable ./%)
	@mkdir -p $(@D) && touch $@

.make/node: $(NODE_SUITE)/package.json $(NODE_SUITE)/package-lock.json
	cd $(NODE_SUITE) && npm ci --silent --no-audit --no-fund
	@mkdir -p $(@D) && touch $@

# --- run -------------------------------------------------------------------------------------------------------------------

demo: .make/python  ## a real model answers through the mesh, its answer is replayed, both receipts are read
	$(BIN)/tallygate demo

account-demo: .make/python  ## projects, keys, caps, alerts, payments and exports over HTTP, in both modes
	$(BIN)/tallygate account-demo

up: .make/python  ## all services in one process, on $(DATA); stays up
	$(BIN)/tallygate up --data $(DATA)

mesh: .make/python  ## five processes, PostgreSQL and a Redis-protocol server; stays up
	$(BIN)/tallygate mesh --data $(DATA)/mesh

# --- check -----------------------------------------------------------------------------------------------------------------

test: .make/python .make/node  ## every test, on real parts
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

faults: .make/python  ## kill -9 at named points under load for MINUTES=N (2), then every invariant; ends with one line of JSON
	$(BIN)/python -m tests.faults --minutes $(MINUTES)

bench: .make/python  ## what a gateway costs, beside others: installs them, about half an hour, ends with one line of JSON (ARGS=--help)
	$(BIN)/python -m tests.bench.gateway $(ARGS)

bench-quick: .make/python  ## the same for this one and LiteLLM, in under three minutes
	$(BIN)/python -m tests.bench.gateway --quick $(ARGS)

bench-profile: .make/python  ## flame graphs of this one under the same loads, on one page (ARGS=--help)
	$(BIN)/python -m tests.bench.gateway.profile $(ARGS)

bench-ledger: .make/python  ## how fast the ledger is, on both databases; about eight minutes, ends with one line of JSON (ARGS=--help)
	$(BIN)/python -m tests.bench.ledger_bench $(ARGS)

bench-cache: .make/python  ## what a lookup costs at three sizes of body; half a minute, ends with one line of JSON
	$(BIN)/python cache-svc/tests/bench_cache.py

bench-source: .make/python  ## what calling a source costs, by the own client and by aiohttp; a minute, ends with one line of JSON (ARGS=--help)
	$(BIN)/python router-svc/tests/bench_source_client.py $(ARGS)

cache-safety: .make/python  ## judge each tier of the cache by traps and rephrasings; ends with one line of JSON a tier (ARGS=--help)
	$(BIN)/tallygate cache-safety $(ARGS)

check: .make/python  ## style, types, architecture, contracts, generated code
	@$(MAKE) -j 2 --output-sync=target check-form check-types
	@echo "make check: ok"

check-form: .make/python
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/python deploy/checks/sizes.py
	$(BIN)/python deploy/checks/hygiene.py
	$(BIN)/lint-imports --no-cache
	cd protos && ../$(BIN)/buf lint
	cd protos && ../$(BIN)/buf breaking --against baseline.binpb
	@rm -rf .make/stubs && mkdir -p .make/stubs && $(call generate,$(CURDIR)/.make/stubs) \
	    && diff -r --exclude=__pycache__ --exclude=py.typed .make/stubs/tallygate protos/src/tallygate \
	    || { echo "protos/src/tallygate differs from what the protos give: run 'make protos'" >&2; exit 1; }

# One after the other: they share what mypy keeps of modules, and it may not be run twice at once on that.
check-types: .make/python
	for member in $(MEMBERS); do $(BIN)/mypy --no-error-summary $$member || exit 1; done
	$(BIN)/mypy --no-error-summary --explicit-package-bases tests

format: .make/python  ## let ruff write what it can
	$(BIN)/ruff check --fix --quiet || true
	$(BIN)/ruff format --quiet

# --- generated things ------------------------------------------------------------------------------------------------------

# Stubs into the folder $(1): messages for every proto, services only where there are some.
define generate
(cd protos && ../$(BIN)/python -m grpc_tools.protoc -I . --plugin=../$(BIN)/protoc-gen-mypy --plugin=../$(BIN)/protoc-gen-mypy_grpc \
    --python_out=$(1) --mypy_out=quiet:$(1) $(PROTOS:protos/%=%) \
&& ../$(BIN)/python -m grpc_tools.protoc -I . --plugin=../$(BIN)/protoc-gen-mypy --plugin=../$(BIN)/protoc-gen-mypy_grpc \
    --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $(SERVICE_PROTOS:protos/%=%)) \
&& find $(1)/tallygate -type d -exec touch {}/__init__.py \;
endef

protos: .make/python  ## regenerate the stubs
	find protos/src/tallygate -type f ! -name py.typed -delete
	@$(call generate,$(CURDIR)/protos/src)

protos-baseline: .make/python  ## at a release: what `buf breaking` compares with from now on
	cd protos && ../$(BIN)/buf build --exclude-source-info --output baseline.binpb

lock: $(UV)  ## resolve anew, and write the lock without any registry's address
	$(UV) lock --upgrade
	$(UV) export --quiet --format requirements-txt --all-packages --all-groups --all-extras --no-emit-workspace --no-header --no-annotate \
	    --output-file $(LOCK)

catalog-seed: .make/python  ## rebuild the catalog's seed from the price packages
	$(BIN)/python catalog-svc/build_seed.py

clean:  ## remove what was installed and what was run
	rm -rf .venv .make $(NODE_SUITE)/node_modules .data
