# Every target is a thin name for something in scripts/; see CONTRIBUTING.md.

.DEFAULT_GOAL := help
.PHONY: help test test-all lint fmt bench cover

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: ## the whole gate: lint, tests with and without the race detector, and benchmarks once
	@scripts/gate test

test-all: ## the gate, then every module alone, a minute of fuzzing per target, and the soaks
	@scripts/gate test-all

lint: ## format check, tidy check, vet and staticcheck, as a workspace and module by module
	@scripts/gate lint

fmt: ## format every Go file with gofumpt
	@scripts/gate fmt

bench: ## the session benchmarks, summarised by benchstat (COUNT=6), and the peers side by side (ROUNDS=5)
	@scripts/gate bench

cover: ## statement coverage of our packages by all tests, into .cache/cover.html
	@scripts/gate cover
