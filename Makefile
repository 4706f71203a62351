# What people and CI call. Each target brings what it needs (.ci/setup says what it installs) and builds what it runs.

export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/sbin:/sbin
TARGET := $(or $(CARGO_TARGET_DIR),target)
DEMO ?=

.PHONY: help demo test test-long bench fuzz build clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## policies in force on real traffic, in a table (make demo DEMO=--keep leaves it up to play with)
	@.ci/setup demo
	@echo "building (the first time takes a few minutes)"
	@cargo build --quiet -p sluice -p sluice-controller -p sluice-proxy --bins
	@$(TARGET)/debug/sluice demo $(DEMO)

build: ## the three programs, optimised, in target/release
	@.ci/setup demo
	cargo build --release -p sluice -p sluice-controller -p sluice-proxy --bins

test: ## format, lints, and every test that takes less than minutes
	@.ci/setup test
	cargo fmt --all -- --check
	policy/tests/faults/run --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo build --workspace --bins
	.ci/tests

test-long: ## every conformance case in the kernel, and the seeded faults
	@.ci/setup test
	cargo build --workspace --bins
	.ci/tests -- --ignored
	@if [ -x policy/tests/faults/run ]; then policy/tests/faults/run; fi

bench: ## the figures of docs/PERFORMANCE.md, measured here
	@.ci/setup bench
	cargo bench -p sluice-policy
	cargo build --release --workspace --bins
	@if [ "$$(id -u)" = 0 ]; then $(TARGET)/release/sluice-bench; else $(TARGET)/release/sluice-testnet run -- $(TARGET)/release/sluice-bench; fi

FUZZ_SECONDS ?= 60
fuzz: ## look for bytes that break a parser, FUZZ_SECONDS=60 for each; `make test` replays what was found
	@.ci/setup demo
	@.ci/fuzz $(FUZZ_SECONDS)

clean: ## what the builds left
	cargo clean
