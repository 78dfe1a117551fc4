# Every target sets itself up: scripts/setup.sh makes .venv from requirements.lock, once.
#   make PYTHON=/path/to/python3.12 ...   which Python to build it with
#   make test ARGS="-k schedule -x"       arguments handed on
SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
ARGS ?=
UV_VERSION := 0.13.9
export VENV PYTHON

# With several test processes, one thread each: torch would start as many as there are cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint golden bench fuzz images test-images check-k8s test-cluster lock clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## Make .venv and install the locked packages (every target does this by itself)
	@sh scripts/setup.sh

demo: setup ## The whole pipeline on real handwritten digits, with a report at the end
	@$(BIN)/epg run --recipe digits $(ARGS)
	@command -v epg >/dev/null || echo "(epg is $(BIN)/epg here)"

test: setup ## All tests (WORKERS=2, ARGS="-k name")
	@$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

fuzz: setup ## 16,000 bad inputs and every flipped bit of what is stored; prints its figures
	@$(ONE_THREAD) EPG_TEST_FUZZ=1 $(BIN)/python -m pytest -n $(WORKERS) -q tests/fuzz $(ARGS)

lint: setup ## ruff, mypy, and the compiled pipeline is fresh
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m mypy
	@$(BIN)/epg compile --check

golden: setup ## Compile components and pipeline, rewrite the golden files (look at the diff)
	@$(BIN)/epg compile
	@$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --update-golden $(ARGS) tests/golden

bench: setup ## Run every benchmark; results as JSON in benchmarks/results/
	@mkdir -p benchmarks/results
	@set -e; for script in benchmarks/*.py; do \
	    name=$$(basename "$$script" .py); \
	    case $$name in make_*) continue;; esac; \
	    echo "$$name"; \
	    $(BIN)/python -m "benchmarks.$$name" --output "benchmarks/results/$$name.json" $(ARGS); \
	done

images: ## Build the container images (IMAGE_PREFIX=registry.example/team/ PUSH=1, BASE=..., ENGINE=podman)
	@sh scripts/images.sh $(ARGS)

test-images: setup ## Build the images, and run the smoke recipe in them (docker)
	@EPG_TEST_IMAGES=1 $(BIN)/python -m pytest -rs -v tests/images $(ARGS)

check-k8s: ## Manifests and Dockerfiles: schemas, hadolint, checkov, offline
	@sh scripts/check-manifests.sh

test-cluster: setup ## The tests that need a cluster (KUBECONFIG, EPG_KFP_ENDPOINT; docs/run-on-a-cluster.md)
	@EPG_TEST_CLUSTER=1 $(BIN)/python -m pytest -m cluster -rs -v tests/cluster $(ARGS)

lock: ## Pin every dependency anew, with hashes, for all platforms; a week's cool-down
	@sh scripts/lock.sh $(UV_VERSION) $(ARGS)

clean: ## Remove .venv and caches; runs/ stays
	@rm -rf $(VENV) $(VENV).lock .venv-lock .venv-checks .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +
