# Duet. `make help` says what there is.
#
# One profile and one set of features for everything, so that the world is compiled once.

CARGO ?= cargo
target = $(shell $(CARGO) metadata --format-version 1 --no-deps --offline 2>/dev/null | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

.DEFAULT_GOAL := help
.PHONY: help demo test test-export test-dashboards test-k8s chaos soak large mutations fuzz build lint setup-demo setup-test setup-k8s

help: ## Say what there is
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16
	@echo '  ARGS="…"      for make demo: --exit, --listen ADDR, files and folders of your own; for chaos and soak: --help'

demo: setup-demo ## Build, fetch sample radiographs, run every service on them, and leave the page up
	@$(CARGO) build --package duet
	@.ci/samples
	@"$(target)/debug/duet" demo $(ARGS)

test: setup-test ## Run every test: in a browser, on a real Kafka broker, on a real vision server, and all others
	@$(CARGO) build --package duet
	@.ci/page-test "$(target)/debug/duet"
	@.ci/vlm-server >/dev/null
	@$(CARGO) test --workspace

test-export: setup-demo ## Hold models/export to the packages it exports from, at random weights (installs 7 GB once)
	@$(CARGO) build --package duet-inference --example run_model
	@.ci/export-test "$(target)" $(ARGS)

test-dashboards: setup-test ## Run every query of k8s/dashboards on a Prometheus that scraped a running Duet; a minute
	@.ci/samples
	@$(CARGO) build --package duet
	@DUET_BIN="$(target)/debug/duet" python3 k8s/check/dashboards.py $(ARGS)

chaos: setup-test ## Break a deployment under load for half an hour; nothing may be lost or doubled
	@$(CARGO) build --package duet
	@$(CARGO) run --quiet --package duet-tests --example chaos -- $(ARGS)

soak: setup-test ## Run a deployment at full load for 15 minutes; memory has to stay flat
	@$(CARGO) build --package duet
	@$(CARGO) run --quiet --package duet-tests --example soak -- $(ARGS)

large: setup-test ## Let a queue of very large films through prepare; prints its peak memory
	@$(CARGO) build --package duet
	@$(CARGO) run --quiet --package duet-tests --example large -- $(ARGS)

mutations: setup-test ## Put 20,000 damaged files through running services (ARGS: files to damage, --count, --prepare-only)
	@.ci/samples
	@$(CARGO) build --package duet
	@$(CARGO) run --quiet --package duet-tests --example mutations -- $(ARGS) "$${DUET_CACHE:-$$HOME/.cache/duet}"/samples

fuzz: setup-test ## Look for bytes that crash what reads them, a minute a target (ARGS: a target, seconds; needs rustup)
	@.ci/fuzz $(ARGS)

test-k8s: setup-k8s ## Install the chart on a real Kubernetes of one node and break it under films (root; ARGS: --short, --full, --films, --count)
	@.ci/samples
	@$(CARGO) build --package duet
	@DUET_BIN="$(target)/debug/duet" python3 k8s/cluster/test.py $(ARGS)

build: setup-demo ## Build the one binary and print its path
	@$(CARGO) build --package duet
	@echo "$(target)/debug/duet"

lint: ## Format, lints and documentation, as .ci/run has them
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --workspace

setup-demo:
	@.ci/setup demo

setup-test:
	@.ci/setup test

setup-k8s:
	@.ci/setup k8s
