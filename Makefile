# Skewless. `make help` prints the comment beside each target.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
# Many tests wait for a broker: a third worker keeps two cores busy.
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help metrics setup demo test test-slow check kill-suite simulate mutate format schemas bench gpu peers debian clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

# The stamp is newer than its inputs only when the environment holds what they ask for.
$(VENV)/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,demo,bench,registry,dev]'
	@touch $@

setup: $(VENV)/.stamp ## make .venv with everything the other targets need

demo: setup ## run the whole system on The Complete Journey; ARGS="--once --json" passes arguments on
	$(BIN)/skewless demo $(ARGS)

check: setup ## lint, types and import contracts (what pre-commit runs)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## check, then every test that needs no server; the others say why they were skipped
	$(BIN)/pytest -m "not slow" -n $(WORKERS) $(ARGS)

test-slow: setup ## the long suites (kills, drains, simulations, release commits, shards under load)
	$(BIN)/pytest -m slow --timeout 1800 $(ARGS)

kill-suite: setup ## kill workers, a cutter and the broker under load; needs KAFKA_HOME (ARGS=--quick: embedded)
	$(BIN)/python -m benchmarks.kill_suite $(ARGS)

simulate: setup ## random faults against the worker on a simulated broker, clock and disk; ARGS="--seeds 100000"
	$(BIN)/python -m tests.simulation $(ARGS)

mutate: setup ## break each invariant on purpose and name the test that notices
	$(BIN)/python -m tests.mutations $(ARGS)

format: setup ## rewrite the code the way `make check` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: setup ## rewrite the checked-in schemas and docs/asyncapi.yaml from the declarations
	$(BIN)/python -m tests.schemas.checked_in

metrics: setup ## rewrite docs/metrics.md from the catalogues
	$(BIN)/python -m tests.metrics_catalogue

bench: setup ## every benchmark in full (but kill-suite and gpu); results go to benchmarks/results/
	$(BIN)/python -m benchmarks $(ARGS)

gpu: setup ## tests and benchmark that need a CUDA device (a CUDA build of torch is the machine's to install)
	$(BIN)/pytest -m gpu $(ARGS)
	$(BIN)/python -m benchmarks.gpu

# Each peer in an environment of its own: they pin older versions of what we use.
PEERS := faust quix bytewax
peers: $(PEERS:%=.venv-peers/%/.stamp) ## environments of the frameworks that `make bench` compares with

.venv-peers/%/.stamp: benchmarks/peers/%/requirements.txt
	$(PYTHON) -m venv .venv-peers/$*
	.venv-peers/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

debian: ## Debian packages some tests use (they skip with a reason elsewhere)
	apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus chromium

clean: ## remove what the project made here, the environment included
	rm -rf $(VENV) .venv-peers var build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
