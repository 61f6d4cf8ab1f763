# Zerospan: the same commands for users, developers and CI. `make help` lists them.
SHELL := /bin/bash
PY := .venv/bin/python
PYTEST := $(PY) -m pytest
# Tests that load BPF programs or make namespaces need root.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo -n)

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: ## Install what is missing and build; leaves .venv/bin/zerospan
	@tools/setup.sh

demo: setup packages ## Show whole traces, RED, logs and the ledger of a real shop of services
	@$(ROOT) $(PY) -m demo

demo-bookinfo: setup packages ## Show one whole trace of Istio's Bookinfo: two nodes, VXLAN, Envoys, four languages
	@$(ROOT) $(PY) -m demo.bookinfo

packages: ## Debian packages of the demo and the tests: real servers (none is started), wrk and tools
	@tools/packages.sh wrk iproute2 nftables openssl bpftool procps util-linux curl systemd libseccomp2
	@demo/setup.sh
	@demo/bookinfo/setup.sh

test: setup packages lint test-unit test-kernel test-installed ## Lint, types, unit, kernel and namespace tests

lint: setup ## ruff, mypy, clang-format, cython warnings
	@tools/lint.sh

test-unit: setup ## Unit tests; no root, no network but loopback
	@$(PYTEST) tests/unit tests/fuzz tests/bench

test-kernel: setup ## Real hooks, real system calls, network namespaces; root
	@$(ROOT) $(PYTEST) tests/kernel tests/net

test-installed: setup ## The wheel, installed into an empty environment, from another folder
	@tests/installed/run.sh

e2e: setup packages e2e-backends ## Real Collector, Tempo, Loki, Prometheus; the demo and the ledger
	@$(ROOT) $(PYTEST) -m 'not k8s' tests/e2e

e2e-k8s: setup packages e2e-backends images ## A real Kubernetes of two nodes with our image, Bookinfo and the shop
	@$(ROOT) $(PYTEST) -m k8s tests/e2e

e2e-k8s-again: ## Those of make e2e-k8s that failed
	@$(ROOT) $(PYTEST) -m k8s tests/e2e --last-failed --last-failed-no-failures none

k8s-up: setup images ## Start that Kubernetes and keep it (ZEROSPAN_K8S=keep: the tests use it); prints its KUBECONFIG
	@$(ROOT) $(PY) tests/e2e/kubernetes/run.py up

k8s-down: ## End it
	@$(ROOT) $(PY) tests/e2e/kubernetes/run.py down

images: setup ## Build our image, the services' image and Kubernetes once (about 15 minutes), cached in .cache
	@tests/e2e/kubernetes/build.sh
	@$(ROOT) $(PY) tests/e2e/kubernetes/images.py
	@$(ROOT) tools/image.sh

image: setup ## Our image alone: .cache/images/zerospan.image.tar
	@$(ROOT) tools/image.sh

e2e-backends: ## Build Tempo, Loki and the Collector once (about 8 minutes), cached in .cache/backends
	@tests/e2e/backends/build.sh

bench: setup e2e-backends ## Cost in the watched program, in the agent, the enricher, the back ends; writes bench.json
	@$(ROOT) $(PY) tests/bench/bench.py --json bench.json

fuzz: setup ## Fuzz the parsers, then the reader of records, for FUZZ_SECONDS each (default 60)
	@$(PY) tests/fuzz/fuzz_proto.py --seconds $(or $(FUZZ_SECONDS),60)
	@$(PY) tests/fuzz/fuzz_records.py --seconds $(or $(FUZZ_SECONDS),60)
	@$(PY) tests/fuzz/fuzz_otlp.py --seconds $(or $(FUZZ_SECONDS),60)

kernels: bpf ## Load and try every hook layout on Debian's 6.1 and 6.12 kernels under qemu
	@tests/kernel/qemu/run.sh

bpf: ## The BPF objects alone
	@$(MAKE) -s -C bpf

clean: ## Remove what was built (not .venv, not the back ends)
	@$(MAKE) -s -C bpf clean
	@rm -rf .cache/build build dist *.egg-info src/*.egg-info
	@find exporter enricher plugins \( -name '*.so' -o -name '*.c' -o -name '*.html' \) -delete

.PHONY: help setup packages demo demo-bookinfo test lint test-unit test-kernel test-installed e2e e2e-backends e2e-k8s k8s-up k8s-down images image bench fuzz kernels bpf clean
.DEFAULT_GOAL := help
