#!/usr/bin/env bash
# Usage: hack/fuzz.sh [--keep] SECONDS
#
# Builds the fuzz targets of fuzz/ and runs each for SECONDS, two at a time. It works on a copy of
# fuzz/corpus/, so the tree stays as it is; with --keep, finds that reach code nothing else reached
# are added there, to be committed. What a target fails on is saved in fuzz/artifacts/TARGET/, and
# the command to see it again is printed; the exit code is then 1.
#
# Stable Rust is enough: libFuzzer comes with the crate libfuzzer-sys (which needs g++), and
# hack/sancov.sh has the compiler count what is reached. Called by `make fuzz` and `make test`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

targets=(cel regex event record revision)
work=target/fuzz

# One target; prints one line, or the end of the log and where the input is.
run() {
  local target=$1 seconds=$2 keep=$3
  local corpus=$work/$target/corpus log=$work/$target/log artifacts=fuzz/artifacts/$target
  rm -rf "$corpus"
  mkdir -p "$corpus" "$artifacts"
  cp -r "fuzz/corpus/$target/." "$corpus/"
  local options=(-artifact_prefix="$artifacts/" -dict="fuzz/$target.dict")
  # An input may take 20 s: the worst that a bound lets through takes 3 s where nothing is optimised.
  if ! "$work/bin/$target" "${options[@]}" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=1024 "$corpus" \
    >"$log" 2>&1; then
    grep -m 1 -A 4 'panicked at' "$log" || tail -n 20 "$log"
    echo "fuzz: $target failed; the input is the newest file of $artifacts/, see it fail again with"
    echo "fuzz:   $work/bin/$target $(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)"
    return 1
  fi
  echo "fuzz: $target: $(sed -n 's/^Done //p' "$log"); coverage $(reached INITED "$log"), then $(reached DONE "$log")"
  if [[ $keep == --keep ]]; then
    # Without the counters, a find is kept for code it reaches, not for how often.
    "$work/bin/$target" -merge=1 -use_counters=0 "fuzz/corpus/$target" "$corpus" >>"$log" 2>&1
  fi
}

# The blocks reached when the log says $1.
reached() { sed -n "s/^#[0-9]*[[:space:]]$1 *cov: \([0-9]*\).*/\1/p" "$2"; }

if [[ ${1-} == --one ]]; then
  run "${@:2}"
  exit
fi

keep=
if [[ ${1-} == --keep ]]; then
  keep=--keep
  shift
fi
seconds=${1:?how many seconds for each target}

mkdir -p "$work/bin"
RUSTC_WORKSPACE_WRAPPER=$PWD/hack/sancov.sh cargo build --quiet --locked --features fuzz "${targets[@]/#/--bin=fuzz-}"
for target in "${targets[@]}"; do
  cp "${CARGO_TARGET_DIR:-target}/debug/fuzz-$target" "$work/bin/$target"
done
printf '%s\n' "${targets[@]}" | xargs -P 2 -I {} hack/fuzz.sh --one {} "$seconds" "$keep"
