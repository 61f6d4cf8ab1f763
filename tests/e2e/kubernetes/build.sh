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
# shellcheck source=../go.sh
source "$here/../go.sh"

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

# build GROUP PACKAGE...: the packages of the module in ./GROUP become programs in the cache, unless they are there.
build() {
    local group=$1 package fresh=1
    shift
    [[ -f $cache/$group.stamp && $(<"$cache/$group.stamp") == "$(stamp "$group")" ]] || fresh=0
    for package in "$@"; do [[ -x $cache/${package##*/} ]] || fresh=0; done
    ((fresh)) && return
    mkdir -p "$cache/new"
    # CGO_ENABLED=0: what runs in a container (CoreDNS) runs with no library.
    CGO_ENABLED=$([[ $group == coredns ]] && echo 0 || echo 1) \
        compile "$group" "$here/$group" -ldflags="$(flags "$group")" -o "$cache/new/" "$@"
    for package in "$@"; do mv "$cache/new/${package##*/}" "$cache/${package##*/}"; done
    stamp "$group" >"$cache/$group.stamp"
}

alone
build helm helm.sh/helm/v3/cmd/helm
[[ ${1:-} == helm ]] && exit 0
"$root/tools/packages.sh" "${packages[@]}"
build cluster k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl}
build coredns github.com/coredns/coredns
