#!/usr/bin/env bash
# Brings the real back ends of the end-to-end tests into .cache/backends/bin/: Tempo, Loki and the OpenTelemetry
# Collector from Go modules (each with its own committed go.mod and go.sum), Prometheus and promtool from Debian; and
# the Compose Specification's loader.
# Can be repeated: a program is built again only if its sources or flags changed. The first time takes about 7 minutes
# on 2 cores and needs about 8 GB of disk for Go's caches. Starts nothing, installs nothing outside .cache/ and Go's caches.
# Called by `make e2e-backends`; the binaries are started by stack.py.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${ZEROSPAN_BACKENDS_CACHE:-$(cd "$here/../../.." && pwd)/.cache/backends}
bin=$cache/bin
go_needed=1.26.5 # the `go` line of loki/go.mod, the highest of the three
ldflags='-s -w'  # no symbols: a third smaller, and linking takes less memory

say() { printf 'backends: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# stamp NAME: a hash of all that decides what NAME's binary is.
stamp() {
    (cd "$here/$1" && { printf '%s\n' "$ldflags"; sha256sum go.mod go.sum; find . -name '*.go' | LC_ALL=C sort | xargs -r sha256sum; }) |
        sha256sum | cut -d' ' -f1
}

fresh() { [[ -x $bin/$1 && -f $cache/$1.stamp && $(<"$cache/$1.stamp") == "$(stamp "$1")" ]]; }

# at_least A B: version A is B or later.
at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1) == "$2" ]]; }

find_go() {
    local candidate version
    for candidate in "$(type -P go || true)" /usr/local/go/bin/go; do
        [[ -n $candidate && -x $candidate ]] || continue
        version=$(cd / && GOTOOLCHAIN=local "$candidate" env GOVERSION) && version=${version#go} || continue
        if at_least "$version" "$go_needed"; then
            go=$candidate
            return
        fi
        # From 1.21 on, Go fetches a later toolchain by itself (module golang.org/toolchain, verified).
        if at_least "$version" 1.21; then
            go=$candidate
            export GOTOOLCHAIN="go$go_needed+auto"
            say "Go $version at $candidate will fetch Go $go_needed"
            return
        fi
        say "Go $version at $candidate is too old"
    done
    die "no Go toolchain for Tempo, Loki and the Collector. Install Go $go_needed or later (any from 1.21 on will do:" \
        "it fetches the rest) from https://go.dev/dl/ to /usr/local/go, or put it on PATH. Debian 12's golang (1.19) is too old."
}

# build NAME PACKAGE: PACKAGE of the module in ./NAME becomes bin/NAME, unless it is there already.
build() {
    local name=$1 package=$2 log=$cache/$1.log started=$SECONDS pid said=0
    fresh "$name" && return
    [[ -n ${go:-} ]] || find_go
    say "$name: building (log: $log)"
    mkdir -p "$bin"
    # The hashes of every module lie in go.sum: no need of the checksum database, which does not know all of them.
    (cd "$here/$name" && exec env GOFLAGS=-p=2 GOWORK=off "$go" build -v -mod=readonly -buildvcs=false \
        -ldflags="$ldflags" -o "$bin/$name.new" "$package") >"$log" 2>&1 &
    pid=$!
    trap 'kill '"$pid"' 2>/dev/null || true' EXIT
    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        if ((SECONDS - started >= said + 15)); then
            said=$((SECONDS - started))
            say "$name: ${said} s, $(grep -c -v '^go: ' "$log" || true) packages compiled"
        fi
    done
    trap - EXIT
    if ! wait "$pid"; then
        tail -n 20 "$log" >&2
        die "$name does not build; repeat with: cd $here/$name && go build -ldflags='$ldflags' -o /tmp/$name $package"
    fi
    mv "$bin/$name.new" "$bin/$name"
    stamp "$name" >"$cache/$name.stamp"
    say "$name: done in $((SECONDS - started)) s, $(($(stat -c %s "$bin/$name") / 1000000)) MB"
}

# Debian's package, unpacked into the cache: installing it would start a service of it.
fetch_prometheus() {
    [[ -x $bin/prometheus && -x $bin/promtool ]] && return
    mkdir -p "$bin"
    local found
    if [[ -n $(type -P prometheus) && -n $(type -P promtool) && -z ${ZEROSPAN_BACKENDS_DOWNLOAD:-} ]]; then
        for found in prometheus promtool; do ln -sf "$(type -P "$found")" "$bin/$found"; done
        say "prometheus: uses $(type -P prometheus)"
        return
    fi
    say "prometheus: fetching Debian's package"
    local folder=$cache/debian
    rm -rf "$folder" && mkdir -p "$folder"
    if ! (cd "$folder" && apt-get -qq download prometheus) 2>"$cache/apt.log"; then
        if ((EUID == 0)); then apt-get -qq update >>"$cache/apt.log" 2>&1 || true; fi
        (cd "$folder" && apt-get -qq download prometheus) 2>>"$cache/apt.log" || {
            tail -n 5 "$cache/apt.log" >&2
            die "cannot fetch Debian's prometheus package; run: apt-get update (as root), or put prometheus and promtool on PATH"
        }
    fi
    dpkg -x "$folder"/prometheus_*.deb "$folder" # what its scripts would start stays unstarted
    rm "$folder"/prometheus_*.deb
    for found in prometheus promtool; do ln -sf "$folder/usr/bin/$found" "$bin/$found"; done
    say "prometheus: $("$bin/prometheus" --version 2>&1 | head -n1 | cut -d' ' -f1-3)"
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock -n 9 || { say "waits for another build.sh"; flock 9; }
fetch_prometheus
build tempo github.com/grafana/tempo/cmd/tempo
build loki github.com/grafana/loki/v3/cmd/loki
build otelcol .
build compose github.com/compose-spec/compose-go/v2/cmd
