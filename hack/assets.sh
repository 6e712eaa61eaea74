#!/usr/bin/env bash
# Usage: hack/assets.sh [--help]
#
# Builds the real servers that Herald's tests talk to, once per user, and
# prints the folder that holds them as the last line on stdout. Everything else
# it has to say goes to stderr. `make assets` and tests/support/assets.rs call it.
#
#   etcd, kube-apiserver, kubectl    the Kubernetes API
#   kustomize-controller             a Flux controller that sends events
#   gitea, gitea-static/             a Git host that takes commit statuses
#   crds/                            the Flux objects those controllers need
#
# The sources are Go modules pinned by tests/servers/*/go.mod and go.sum, so Go
# and a C compiler (for Gitea's SQLite) are needed, and about 12 minutes on two
# cores. The folder is named after a hash of those files and of this script: a
# second clone finds it there, and a changed pin gets a new one. Old folders are
# not removed.
#
# Environment:
#   HERALD_CACHE        where the folders are kept
#                       (default: herald/ in $XDG_CACHE_HOME or ~/.cache)
#   KUBEBUILDER_ASSETS  a folder with etcd, kube-apiserver and kubectl to link
#                       to instead of building them (what setup-envtest gives)
set -euo pipefail

say() { printf 'assets: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

case "${1-}" in
  '') ;;
  -h | --help)
    sed -n '/^# Usage/,/^set /{ /^#/s/^# \{0,1\}//p; }' "$0"
    exit 0
    ;;
  *) die "unknown argument '$1', see --help" ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
servers=$root/tests/servers
cache=$(realpath -m "${HERALD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/herald}")
given=${KUBEBUILDER_ASSETS:+$(realpath -m "$KUBEBUILDER_ASSETS")}
hash=$(
  cd "$root"
  {
    printf '%s\n' "$given"
    sha256sum hack/assets.sh tests/servers/*/go.mod tests/servers/*/go.sum
  } | sha256sum | cut -c1-12
)
assets=$cache/assets-$hash

if [[ -n $given ]]; then
  for binary in etcd kube-apiserver kubectl; do
    [[ -x $given/$binary ]] || die "KUBEBUILDER_ASSETS is set, but there is no program $given/$binary"
  done
fi

# The folder gets its name only when it is complete, so its being there is enough.
if [[ -d $assets ]]; then
  echo "$assets"
  exit 0
fi

command -v flock >/dev/null || die "'flock' (package util-linux) is not installed"
command -v go >/dev/null || die "'go' is not installed; the test servers are built from Go modules"
command -v "$(go env CC | cut -d' ' -f1)" >/dev/null || die "no C compiler; Gitea's SQLite needs one"

mkdir -p "$cache"
exec 9>"$cache/assets.lock"
if ! flock --nonblock 9; then
  say "another run is building, waiting for it"
  flock 9
fi
if [[ -d $assets ]]; then
  echo "$assets"
  exit 0
fi

partial=$assets.partial
log=$partial/build.log
rm -rf "$partial"
mkdir -p "$partial/gitea-static" "$partial/crds"

# Only what go.mod and go.sum name may be built.
export GOFLAGS='-mod=readonly -buildvcs=false' GOWORK=off

module() { # SERVER FIELD MODULE: one field of a module the server is built from
  (cd "$servers/$1" && go list -m -f "{{.$2}}" "$3")
}

build() { # SERVER BINARY PACKAGE MINUTES [TAGS]
  local server=$1 binary=$2 package=$3 minutes=$4 tags=${5-} started=$SECONDS
  say "building $binary, about $minutes min on two cores"
  if ! (cd "$servers/$server" &&
    go build -trimpath -ldflags '-s -w' -tags "$tags" -o "$partial/$binary" "$package") >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "building $binary failed; the whole log is $log"
  fi
  say "built $binary in $((SECONDS - started)) s"
}

if [[ -n $given ]]; then
  ln -s "$given"/{etcd,kube-apiserver,kubectl} "$partial/"
  say "linked etcd, kube-apiserver and kubectl from KUBEBUILDER_ASSETS"
else
  build etcd etcd go.etcd.io/etcd/server/v3 1
  build kubernetes kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver 4
  build kubernetes kubectl k8s.io/kubernetes/cmd/kubectl 1
fi
build kustomize-controller kustomize-controller github.com/fluxcd/kustomize-controller 3
build gitea gitea code.gitea.io/gitea 5 'sqlite sqlite_unlock_notify'

# Gitea reads its templates and translations from disk. The module cache is
# read-only and the tests run Gitea as another user, hence the modes.
gitea=$(module gitea Dir code.gitea.io/gitea)
cp -R "$gitea/templates" "$gitea/options" "$gitea/public" "$partial/gitea-static/"
chmod -R u+w,a+rX "$partial/gitea-static"

# The sources' CRDs are in the module next to the API the controller was built with.
source_version=$(module kustomize-controller Version github.com/fluxcd/source-controller/api)
source_controller=$(cd "$servers/kustomize-controller" &&
  go mod download -json "github.com/fluxcd/source-controller@$source_version" |
  sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
cp "$(module kustomize-controller Dir github.com/fluxcd/kustomize-controller)"/config/crd/bases/*.yaml "$partial/crds/"
cp "$source_controller"/config/crd/bases/*.yaml "$partial/crds/"
chmod -R u+w "$partial/crds"

rm -f "$log"
mv "$partial" "$assets"
say "all there: $assets"
echo "$assets"
