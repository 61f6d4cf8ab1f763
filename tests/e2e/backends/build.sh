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
go_needed=1.26.5 # the `go` line of loki/go.mod, the highest of them
ldflags='-s -w'  # no symbols: a third smaller, and linking takes less memory

say() { printf 'backends: %s\n' "$*" >&2; }
# shellcheck source=../go.sh
source "$here/../go.sh"

# stamp NAME: a hash of all that decides what NAME's binary is.
stamp() {
    (cd "$here/$1" && { printf '%s\n' "$ldflags"; sha256sum go.mod go.sum; find . -name '*.go' | LC_ALL=C sort | xargs -r sha256sum; }) |
        sha256sum | cut -d' ' -f1
}

fresh() { [[ -x $bin/$1 && -f $cache/$1.stamp && $(<"$cache/$1.stamp") == "$(stamp "$1")" ]]; }

# build NAME PACKAGE: PACKAGE of the module in ./NAME becomes bin/NAME, unless it is there already.
build() {
    fresh "$1" && return
    mkdir -p "$bin"
    compile "$1" "$here/$1" -ldflags="$ldflags" -o "$bin/$1.new" "$2"
    mv "$bin/$1.new" "$bin/$1"
    stamp "$1" >"$cache/$1.stamp"
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

alone
fetch_prometheus
build tempo github.com/grafana/tempo/cmd/tempo
build loki github.com/grafana/loki/v3/cmd/loki
build otelcol .
build compose github.com/compose-spec/compose-go/v2/cmd
