PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ONCE ?=

.PHONY: run test check bench bench-ledger bench-router bench-peers load setup lock clean

setup: $(STAMP)

# torch's CPU build is not on every index: try as configured first, and name PyTorch's own index only if that fails.
$(STAMP): requirements.lock requirements-torch.txt pyproject.toml
	@python=$(BIN)/python; test -x $$python || python=$(PYTHON); \
		$$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "requirements.lock is resolved for Python 3.11, and $$python is another (or none)."; \
		echo "Name one, and clean first if it is $(VENV)'s: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked requirements into $(VENV) (about 4 GB, a few minutes) ..."
	@$(BIN)/pip install -qq --no-deps -r requirements-torch.txt 2>$(VENV)/torch.log || \
		$(BIN)/pip install -qq --no-deps --extra-index-url https://download.pytorch.org/whl/cpu -r requirements-torch.txt
	@$(BIN)/pip install -qq --no-deps --require-hashes -r requirements.lock
	@$(BIN)/pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

run: $(STAMP)
	@$(BIN)/mintage run --demo 24 $(if $(ONCE),--once) $(ARGS)

test: check
	@$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(STAMP)
	@$(BIN)/python -m bench.text $(ARGS)

bench-ledger: $(STAMP)
	@$(BIN)/python -m bench.ledger $(ARGS)

bench-router: $(STAMP)
	@$(BIN)/python -m bench.router $(ARGS)
	@$(BIN)/python -m bench.scheduling $(ARGS)

# What ledger and router are compared with, beside SQLite and LMDB; PostgreSQL and Redis themselves are Debian packages.
bench-peers: $(STAMP)
	@$(BIN)/pip install -qq --no-deps --require-hashes -r requirements-bench.txt

load: $(STAMP)
	@$(BIN)/python -m loadtests.run $(ARGS)

# Resolve requirements.in anew (needs uv; torch 2.13.0+cpu must be found by the configured index or --find-links).
lock:
	uv pip compile requirements.in --override requirements-overrides.txt --python-version 3.11 --generate-hashes \
		--no-annotate --no-header --no-emit-package torch --output-file requirements.lock $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
