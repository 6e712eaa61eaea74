#!/usr/bin/env bash
# Usage: hack/deny.sh
#
# Checks the dependency tree against deny.toml: licences, bans and sources always, advisories where
# their database can be reached (otherwise one line says that they were skipped). Installs
# cargo-deny once into the user's cache. Called by `make deny`.
set -euo pipefail

version=0.20.2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=${HERALD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/herald}/cargo-deny-$version
deny=$tools/bin/cargo-deny

if [[ ! -x $deny ]]; then
  echo "deny: installing cargo-deny $version once, about 5 minutes on two cores" >&2
  # Outside the project, so that its toolchain file and target folder play no part.
  (cd / && cargo install --quiet --locked --version "$version" --root "$tools" cargo-deny)
fi

cd "$root"
"$deny" --log-level error check licenses bans sources

database=$(mktemp)
trap 'rm -f "$database"' EXIT
if "$deny" --log-level error check advisories 2>"$database"; then
  exit 0
elif grep -qi 'failed to fetch advisory database' "$database"; then
  echo "deny: advisories skipped, their database cannot be reached from here"
else
  cat "$database" >&2
  exit 1
fi
