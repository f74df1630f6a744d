# The commands that CONTRIBUTING.md names. `just` lists them.

_list:
    @just --list --unsorted

# Lints and the tests, before a change is sent.
check: lint test

# Formatting and lints.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# All tests; with arguments, those that they choose.
test *arguments:
    cargo test --workspace --locked {{ arguments }}

# Which modules use one another in a circle.
rooms:
    .ci/rooms

# All that CI runs.
ci:
    .ci/run
