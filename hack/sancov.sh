#!/bin/sh
# Usage: RUSTC_WORKSPACE_WRAPPER=hack/sancov.sh cargo build …
#
# Compiles what is ours with the counters that libFuzzer is guided by, and fast. Dependencies stay as
# they are, so none is built again. Cargo does not look into this file: `cargo clean --package herald`
# after changing it. Called by hack/fuzz.sh.
exec "$@" \
  -Copt-level=2 \
  -Cpasses=sancov-module \
  -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
