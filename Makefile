# The commands of a developer; CI and the README call the same ones. `make help` lists them.
PYTHON ?= python3
TOOL = $(PYTHON) tools/tool.py
CORE = --locked --package freethreading-core

.DEFAULT_GOAL := help
.PHONY: help demo test fmt lint stress faults fuzz parallel crowd chaos loom sanitize miri bench docs dist clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

demo: ## build the package and run examples/stdlib_census.py, on processes and on threads
	@$(PYTHON) tools/demo.py

test: ## run all tests on every interpreter (ARGS="--only py --python 3.14t -k lock")
	@$(PYTHON) tools/run_tests.py $(ARGS)

fmt: ## format all sources, and apply the linters' safe fixes
	cargo fmt --all
	$(TOOL) ruff check --fix-only
	$(TOOL) ruff format

lint: ## check form and types only
	@$(PYTHON) tools/run_tests.py --only lint

stress: ## run the stress tests of the core
	@$(call needs,crates/core/tests/stress*.rs)
	cargo test $(CORE) --release --test 'stress*' --test family -- --include-ignored

faults: ## kill a process at each step of the engine, from Rust and from Python
	cargo test $(CORE) --lib crash::
	@$(PYTHON) tools/run_tests.py --only faults $(ARGS)

# Minutes for the core, and as many for each interpreter. A failure names its seed: FUZZ_SEED=... once.
export FUZZ_MINUTES
fuzz: FUZZ_MINUTES ?= 5
fuzz: ## overwrite shared memory, messages and handles at random (FUZZ_MINUTES=5 each, FUZZ_SEED)
	@$(PYTHON) tools/run_tests.py --only fuzz $(ARGS)

parallel: ## run many of the tests in eight threads at once, on 3.14t (ARGS="-k lock")
	@$(PYTHON) tools/run_tests.py --only parallel $(ARGS)

# Minutes for each interpreter. A failure names its seed: CROWD_SEED=... once more, for longer.
export CROWD_MINUTES
crowd: CROWD_MINUTES ?= 5
crowd: ## use each object from 16 threads at random (CROWD_MINUTES=5 each, CROWD_SEED)
	@$(PYTHON) tools/run_tests.py --only py -k many_threads $(or $(ARGS),--python 3.14 --python 3.14t)

chaos: ## kill, stop and starve workers for 5 minutes (CHAOS_MINUTES=60, CHAOS_SEED=1, ARGS=--table)
	@$(PYTHON) tests/chaos $(ARGS)

# Optimized, for there are many; not across crates, for that takes longer than it saves.
loom: ## check the interleavings of the core with loom
	CARGO_TARGET_DIR=target/loom RUSTFLAGS="--cfg loom" CARGO_PROFILE_RELEASE_LTO=off \
		CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo test $(CORE) --release --test 'loom_*'

# Private memory is named by exposed addresses. Left out is what needs other processes, and what
# fills megabytes. Miri's weak memory (loads of old values) fails on memory that is used again for
# atomics of another size without having been freed, as shared memory is.
MIRI = MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-permissive-provenance $(1)" PROPTEST_CASES=2 \
	cargo +nightly miri test $(CORE)
miri: ## check the unsafe code of the core with Miri (nightly Rust; minutes)
	@cargo +nightly miri --version >/dev/null 2>&1 || { echo "make miri: nightly Rust has no miri component here: rustup +nightly component add miri rust-src" >&2; exit 1; }
	$(call MIRI,) --test conformance -- private::
	$(call MIRI,-Zmiri-disable-weak-memory-emulation) --lib --test conformance -- \
		--skip crash:: --skip process:: --skip runs_never_overlap --skip private::

# Each sanitizer has a target folder of its own; `--target` keeps build scripts and macros out of
# it. The thread sanitizer needs a standard library that was built with it, lest it take what that
# orders for races.
SANITIZED = --lib --test conformance --test family --test model --test stress --no-fail-fast
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
sanitize: ## run the core's tests under the address, leak and thread sanitizers (nightly Rust)
	@ls "$$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/Cargo.lock" >/dev/null 2>&1 || { echo "make sanitize: there is no nightly Rust with its sources here: rustup toolchain install nightly --component rust-src" >&2; exit 1; }
	CARGO_TARGET_DIR=target/asan RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=1 \
		cargo +nightly test $(CORE) --target $(HOST) $(SANITIZED)
	CARGO_TARGET_DIR=target/tsan RUSTFLAGS=-Zsanitizer=thread \
		cargo +nightly test -Zbuild-std $(CORE) --target $(HOST) $(SANITIZED)

bench: ## measure us and the stdlib in turn (QUICK=1, ARGS="--only event --python 3.14")
	@$(PYTHON) benches/run.py $(if $(filter-out 0,$(QUICK)),--quick) $(ARGS)

docs: ## build the core's API pages, and run the examples of the documentation
	cargo doc $(CORE) --no-deps
	@$(PYTHON) tools/run_tests.py --only docs

dist: ## build a wheel and a source distribution into dist/
	$(TOOL) maturin build --release --locked --sdist --interpreter $(PYTHON) --out dist

clean: ## remove what was built here (not the cache folder)
	rm -rf target dist

# A target whose part is not in the repository yet says so and fails.
needs = ls $(1) >/dev/null 2>&1 || { echo "make $@: nothing to run yet, $(1) is not there" >&2; exit 1; }
