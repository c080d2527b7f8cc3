# Every target that needs the virtual environment asks for it; making sure of it takes milliseconds.

VENV := .venv/bin
# Options for the program that a target runs: make up ARGS="--port 50100", make test ARGS="-k digest"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup up test conformance test-clients soak check format protos lock bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make or update the virtual environment in .venv (PYTHON=… chooses the interpreter)
	@scripts/setup.sh

up: setup ## Run a whole grid on this machine (ARGS="--port 50051 --data .gridwright")
	@exec $(VENV)/gridwright up $(ARGS)

test: setup ## Run the tests (ARGS="-k digest")
	@scripts/install_test_servers.sh
	@$(VENV)/pytest --ignore=tests/clients $(ARGS)

conformance: setup ## Check the protocol row by row (ARGS="--endpoint HOST:PORT --instance NAME")
	@$(VENV)/python -m tests.conformance $(ARGS)

test-clients: setup ## Run builds with the real build tools that are installed
	@scripts/install_clients.sh
	@$(VENV)/pytest tests/clients $(ARGS)

soak: setup ## Run the long checks
	@$(VENV)/pytest -m soak --timeout=0 --ignore=tests/clients $(ARGS)

check: setup ## Check format, lint, types, generated code and locks
	@scripts/check.sh

format: setup ## Format the sources and repair what can be repaired
	@$(VENV)/ruff check --fix-only --quiet
	@$(VENV)/ruff format

protos: setup ## Generate the code of shared/protos again
	@$(VENV)/python shared/protos/generate.py

lock: setup ## Resolve the hash-locked requirements again (ARGS=--upgrade: to the newest versions)
	@PATH="$(CURDIR)/$(VENV):$$PATH" python -m scripts.locks compile $(ARGS)

bench: setup ## Run the benchmarks (ARGS=--help)
	@$(VENV)/python -m bench $(ARGS)

clean: ## Remove what the other targets made, but no data of a grid
	@rm -rf .venv .venv.lock .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
