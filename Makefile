# Every target has a line that `make help` prints. CI calls only `make test`.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help
help: ## Print what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Build, post recorded events, show the commit statuses; exit 0 only if they are right
	cargo build --bin herald --example demo
	@target/debug/examples/demo

.PHONY: run
run: ## The same, but stay: print each status as it changes, and how to send another event
	cargo build --bin herald --example demo
	@target/debug/examples/demo --stay

.PHONY: build
build: ## Build the program for use (release)
	cargo build --release --locked

.PHONY: test
test: fmt-check lint deny generate-check assets ## Everything: fmt, clippy, deny, generated files, all tests against real servers, a minute of fuzzing each target
	cargo test --locked
	@hack/fuzz.sh 60

.PHONY: test-fast
test-fast: ## The tests that need no server: inline, in-process, layout
	cargo test --locked --lib --test it --test forge --test layout

.PHONY: torture
torture: ## The short tests of loss and order in full: 10,000 changes, ten minutes of faults, kills, refusals, outages (20 minutes)
	HERALD_TORTURE=long cargo test --locked --test torture -- --nocapture --test-threads=2
	HERALD_TORTURE=long cargo test --locked --test parity outage -- --nocapture

FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: ## Fuzz each target for FUZZ_SECONDS (60), two at a time; what reaches new code is kept in fuzz/corpus
	@hack/fuzz.sh --keep $(FUZZ_SECONDS)

.PHONY: assets
assets: ## Build the real servers for the tests, once per user; prints their folder last
	@hack/assets.sh

.PHONY: bench
bench: ## Print the table of what an event costs (benches/README.md says how to read it)
	cargo bench --locked --bench speed

.PHONY: fmt
fmt: ## Format the code
	cargo fmt

.PHONY: fmt-check
fmt-check: ## Fail when the code is not formatted
	cargo fmt --check

.PHONY: lint
lint: ## clippy, warnings are errors
	cargo clippy --locked --all-targets --all-features -- -D warnings

.PHONY: deny
deny: ## Licences, bans and sources of dependencies; advisories where they can be reached
	@hack/deny.sh

.PHONY: generate
generate: ## Write crds/ from the types
	cargo run --quiet --locked -- crds --dir crds

.PHONY: generate-check
generate-check: ## Fail when crds/ is not what the types say
	@before=$$(sha256sum crds/*); $(MAKE) --no-print-directory generate; \
	after=$$(sha256sum crds/*); \
	[[ $$before == "$$after" ]] || { echo "crds/ was not up to date; commit what 'make generate' wrote"; exit 1; }

.PHONY: doc
doc: ## Build the documentation of the code
	cargo doc --locked --no-deps --document-private-items

.PHONY: image
image: ## Build the container image herald:latest
	docker build --tag herald:latest .
