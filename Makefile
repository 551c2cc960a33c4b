# Every job on this project; `make` alone lists them.
#
# Stamp files inside .venv remember what is installed there, so a target installs only after pyproject.toml or
# constraints.txt has changed.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
# Pins hold for the project, for its tools and for what builds it.
PIP_INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt --build-constraint constraints.txt

.PHONY: help
help:  ## Print these targets
	@echo 'make TARGET [ARGS="arguments"] [PYTHON=interpreter for .venv]'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: install
install: $(VENV)/.tools  ## Create .venv with the project, all its extras and the development tools

.PHONY: demo
demo: $(VENV)/.project  ## Run a worker service on a queue file, send it tasks, watch them run
	$(RUN) docs/examples/quickstart/demo.py

# All of them run in two processes, as most tests wait more than they work; a file stays in one process, in its order.
.PHONY: test
test: $(VENV)/.tools redis-server rabbitmq-server valgrind  ## Run the tests, e.g. make test ARGS="-k retry"
	$(RUN) -m pytest $(if $(ARGS),$(ARGS),--numprocesses 2 --dist loadfile --no-loadscope-reorder)

# Written down only if all faults were injected and nothing was wrong.
.PHONY: chaos
chaos: $(VENV)/.tools redis-server rabbitmq-server  ## Inject every fault several times while tasks flow, and note what was seen
	rm -f $(VENV)/chaos.jsonl
	QBRIDGE_CHAOS=long QBRIDGE_CHAOS_REPORT=$(CURDIR)/$(VENV)/chaos.jsonl $(RUN) -m pytest -s -o faulthandler_timeout=0 tests/chaos $(ARGS)
ifeq ($(ARGS),)
	$(RUN) -m tests.support.chaos.report $(VENV)/chaos.jsonl docs/reference/chaos.json
	$(RUN) docs/generate.py
endif

.PHONY: mutations
mutations: $(VENV)/.tools redis-server rabbitmq-server  ## Break each promise once in a copy, see its test fail, and note that
	$(RUN) .ci/mutations $(ARGS)

.PHONY: test-brokers
test-brokers: $(VENV)/.tools redis-server rabbitmq-server  ## Run the conformance kit against current brokers too, in a chroot
	$(RUN) .ci/test-brokers

.PHONY: costs
costs: $(VENV)/.tools redis-server rabbitmq-server valgrind  ## Note what a task costs, for the tests to compare with
	$(RUN) -m tests.performance.note $(ARGS)

# Without arguments the figures go into the documentation. The peers' environments are made in .bench, which takes
# minutes once.
.PHONY: bench
bench: $(VENV)/.tools redis-server rabbitmq-server  ## Measure qbridge beside the fastest peers, and note the figures
	$(RUN) benchmarks/bench.py --output $(VENV)/bench.json $(if $(ARGS),,--publish) $(ARGS)

.PHONY: bench-all
bench-all: $(VENV)/.tools redis-server rabbitmq-server  ## Measure qbridge beside every peer in every workload, and note the figures
	$(RUN) benchmarks/bench.py --all --output $(VENV)/bench-all.json $(if $(ARGS),,--publish) $(ARGS)

.PHONY: free-threading
free-threading: $(VENV)/.tools  ## Build a free-threaded Python, measure loop threads on it, and note the figures
	test -d .bench/free-threading/venv-beside || $(RUN) benchmarks/free_threading/build.py
	$(RUN) benchmarks/free_threading/measure.py --fresh
	$(RUN) benchmarks/free_threading/measure.py --note
	$(RUN) docs/generate.py

.PHONY: check
check: lint types floors test  ## Run everything a commit must pass: lint, types, floors, test

.PHONY: lint
lint: $(VENV)/.tools  ## Check style and format (ruff)
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

.PHONY: format
format: $(VENV)/.tools  ## Repair what ruff can repair, and format
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

.PHONY: types
types: $(VENV)/.tools  ## Check types (mypy, strict)
	$(RUN) -m mypy qbridge backends tests

.PHONY: floors
floors: $(VENV)/.tools  ## Check which module may import which (import-linter)
	$(VENV)/bin/lint-imports

.PHONY: docs
docs: $(VENV)/.tools  ## Write docs/reference anew from the code
	$(RUN) docs/generate.py

.PHONY: wheel
wheel: $(VENV)/.tools  ## Build the sdist, and from it the wheel, into dist/
	rm -rf dist
	$(RUN) -m build --no-isolation --outdir dist

.PHONY: clean
clean:  ## Remove all that these targets made, .venv too
	rm -rf $(VENV) .bench dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: redis-server
redis-server:
	@command -v redis-server >/dev/null || bash .ci/debian redis-server

# Only the program: a service that the package starts stays idle beside the tests' own servers.
.PHONY: rabbitmq-server
rabbitmq-server:
	@test -x /usr/lib/rabbitmq/bin/rabbitmq-server || command -v rabbitmq-server >/dev/null || bash .ci/debian rabbitmq-server

# Counts instructions in tests/performance.
.PHONY: valgrind
valgrind:
	@command -v valgrind >/dev/null || bash .ci/debian valgrind

$(VENV)/.venv: constraints.txt .ci/venv
	bash .ci/venv $(VENV) $(PYTHON)
	@touch $@

$(VENV)/.project: pyproject.toml constraints.txt $(VENV)/.venv
	$(PIP_INSTALL) --editable '.[all]'
	@touch $@

$(VENV)/.tools: pyproject.toml constraints.txt $(VENV)/.project
	$(PIP_INSTALL) --group dev
	@touch $@
