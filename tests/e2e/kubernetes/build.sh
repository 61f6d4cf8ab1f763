#!/usr/bin/env bash
# Brings the programs of a real Kubernetes into .cache/kubernetes/: the control plane, kubelet, kube-proxy, kubectl, Helm
# and CoreDNS from Go modules (each group with its own committed go.mod and go.sum, which name the versions), and the
# Debian packages that a node needs (none is started). Can be repeated: a group is built again only if its sources or
# flags changed. The first time takes about 12 minutes on 2 cores and 3 GB of disk for Go's caches.
# Called by `make e2e-k8s` and `make k8s-up`; the programs are started by tests/kit/kube_cluster.py.
# `build.sh helm` brings Helm alone.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
cache=${ZEROSPAN_KUBERNETES_CACHE:-$root/.cache/kubernetes}
go_needed=1.25.0 # the highest `go` line of the three
packages=(etcd-server containerd runc containernetworking-plugins conntrack ipset iptables nftables iproute2 openssl
    util-linux busybox-static gcc libc6-dev)

say() { printf 'kubernetes: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# version GROUP MODULE: as the group's go.mod requires it.
version() { awk -v module="$2" '$1 == module || ($1 == "require" && $2 == module) { print $(NF > 2 && $1 == "require" ? 3 : 2); exit }' "$here/$1/go.mod"; }

# flags GROUP: for the linker. The programs say which version they are; Helm's charts and kubectl compare it.
flags() {
    local v
    printf '%s ' -s -w
    case $1 in
        cluster)
            v=$(version cluster k8s.io/kubernetes)
            for into in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
                printf -- '-X %s.gitVersion=%s -X %s.gitMajor=1 -X %s.gitMinor=%s -X %s.gitTreeState=clean ' \
                    $into "$v" $into $into "$(cut -d. -f2 <<<"$v")" $into
            done
            ;;
        helm)
            v=$(version cluster k8s.io/kubernetes)
            printf -- '-X helm.sh/helm/v3/internal/version.version=%s ' "$(version helm helm.sh/helm/v3)"
            printf -- '-X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=%s ' "$(cut -d. -f2 <<<"$v")"
            printf -- '-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=%s ' "$(cut -d. -f2 <<<"$v")"
            ;;
    esac
}

# stamp GROUP: a hash of all that decides what the group's binaries are.
stamp() { (cd "$here/$1" && { flags "$1"; cat go.mod go.sum; }) | sha256sum | cut -d' ' -f1; }

# at_least A B: version A is B or later.
at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1) == "$2" ]]; }

find_go() {
    local candidate found
    for candidate in "$(type -P go || true)" /usr/local/go/bin/go; do
        [[ -n $candidate && -x $candidate ]] || continue
        found=$(cd / && GOTOOLCHAIN=local "$candidate" env GOVERSION) && found=${found#go} || continue
        if at_least "$found" "$go_needed"; then
            go=$candidate
            return
        fi
        # From 1.21 on, Go fetches a later toolchain by itself (module golang.org/toolchain, verified).
        if at_least "$found" 1.21; then
            go=$candidate
            export GOTOOLCHAIN="go$go_needed+auto"
            say "Go $found at $candidate will fetch Go $go_needed"
            return
        fi
    done
    die "no Go toolchain. Install Go $go_needed or later (any from 1.21 on will do: it fetches the rest) from" \
        "https://go.dev/dl/ to /usr/local/go, or put it on PATH. Debian 12's golang (1.19) is too old."
}

# build GROUP PACKAGE...: the packages of the module in ./GROUP become programs in the cache, unless they are there.
build() {
    local group=$1 log=$cache/$1.log started=$SECONDS pid said=0 package fresh=1
    shift
    [[ -f $cache/$group.stamp && $(<"$cache/$group.stamp") == "$(stamp "$group")" ]] || fresh=0
    for package in "$@"; do [[ -x $cache/${package##*/} ]] || fresh=0; done
    ((fresh)) && return
    [[ -n ${go:-} ]] || find_go
    say "$group: building ${*##*/} (log: $log)"
    mkdir -p "$cache/new"
    # The hashes of every module lie in go.sum: no need of the checksum database, which does not know all of them.
    # CGO_ENABLED=0: what runs in a container (CoreDNS) runs with no library.
    (cd "$here/$group" && exec nice -n 5 env GOFLAGS=-p=2 GOWORK=off CGO_ENABLED="$([[ $group == coredns ]] && echo 0 || echo 1)" \
        "$go" build -v -mod=readonly -buildvcs=false -ldflags="$(flags "$group")" -o "$cache/new/" "$@") >"$log" 2>&1 &
    pid=$!
    trap 'kill '"$pid"' 2>/dev/null || true' EXIT
    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        if ((SECONDS - started >= said + 15)); then
            said=$((SECONDS - started))
            say "$group: ${said} s, $(grep -c -v '^go: ' "$log" || true) packages compiled"
        fi
    done
    trap - EXIT
    if ! wait "$pid"; then
        tail -n 20 "$log" >&2
        die "$group does not build; repeat with: cd $here/$group && go build -o /tmp/ $*"
    fi
    for package in "$@"; do mv "$cache/new/${package##*/}" "$cache/${package##*/}"; done
    stamp "$group" >"$cache/$group.stamp"
    say "$group: done in $((SECONDS - started)) s"
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock -n 9 || { say "waits for another build.sh"; flock 9; }
build helm helm.sh/helm/v3/cmd/helm
[[ ${1:-} == helm ]] && exit 0
"$root/tools/packages.sh" "${packages[@]}"
build cluster k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl}
build coredns github.com/coredns/coredns
