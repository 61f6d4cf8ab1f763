"""One node of a test cluster: a network namespace with containerd, kubelet and kube-proxy (nftables) of its own.

    pod --veth--> node's namespace --eth0--> bridge in the root namespace (the underlay, and the API server)
                  `-- vx0 (VXLAN) --> the pods of the other nodes

Each pod is at the end of a veth of its own (CNI's `ptp`): all that pods send is routed by the node and passes its
connection tracking, so that services work between pods of one node, too. What pods send out of the pods' network
leaves with the node's address (SNAT). Assumes root, the Debian packages of tests/e2e/kubernetes/build.sh and the
programs that it built. Used by kube_cluster.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cgroup
from kube_daemon import Daemon, KubeError, run
from kube_pki import Pki

POD_NETWORK = "10.244.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
DNS_ADDRESS = "10.96.0.10"
DOMAIN = "cluster.local"
MTU = 1450  # 1500 less VXLAN's 50
PAUSE = "localhost/zk/pause:1"
REGION, ZONES = "eu-test-1", ("eu-test-1a", "eu-test-1b")
INSTANCE_TYPE = "zk.small"
V1 = Path("/sys/fs/cgroup")
DEVICES = "/var/lib/kubelet/device-plugins/kubelet.sock"  # of every kubelet, whatever its folder


class Node:
    """`index` counts from 1. `underlay`: the first three bytes of the underlay's addresses, as text ("172.30.7")."""

    def __init__(self, cluster: str, index: int, *, underlay: str, folder: Path, logs: Path, programs: Path) -> None:
        self.index = index
        self.name = f"n{index}"
        self.netns = f"{cluster}-{self.name}"
        self.address = f"{underlay}.{10 + index}"
        self.gateway = f"{underlay}.1"
        self.pod_cidr = f"10.244.{index}.0/24"
        self.zone = ZONES[(index - 1) % len(ZONES)]
        self.provider_id = f"aws:///{self.zone}/i-{index:017x}"
        self.cgroup_path = f"/{cluster}/{self.name}"
        """Where kubelet's cgroups begin, in every hierarchy."""
        self.cgroup = cgroup.root() / self.cgroup_path[1:]
        """The node's cgroup of version 2: its daemons and every container are in it or below it."""
        self.folder = folder / self.name
        self.logs = logs
        self.pod_logs = self.folder / "pod-logs"
        self.state = Path(f"/run/{cluster}/{self.name}")
        self.socket = self.state / "containerd.sock"
        self._cluster = cluster
        self._programs = programs
        self._underlay = underlay
        inside = ["nsenter", f"--net=/run/netns/{self.netns}", "--"]  # `ip netns exec` would hide /sys/fs/cgroup
        self.containerd = self._daemon(
            "containerd", [*inside, "containerd", "--config", f"{self.folder}/containerd.toml"]
        )
        self.kubelet = self._daemon("kubelet", [*inside, *self._kubelet_argv()])
        self.proxy = self._daemon(
            "kube-proxy", [*inside, f"{programs}/kube-proxy", f"--config={self.folder}/proxy.yaml"]
        )
        self._inside = inside

    def run(self, argv: Sequence[str | Path], *, check: bool = True, timeout_s: float = 60.0) -> str:
        """The output of a command in the node's network namespace."""
        return run([*self._inside, *argv], check=check, timeout_s=timeout_s)

    def ctr(self, *argv: str | Path, check: bool = True, timeout_s: float = 300.0) -> str:
        """containerd's client, in the namespace of Kubernetes' containers."""
        return run(["ctr", "--address", self.socket, "--namespace", "k8s.io", *argv], check=check, timeout_s=timeout_s)

    def pod_namespaces(self) -> list[Path]:
        """Paths of the network namespaces of the pods that run (none for pods of the host's network)."""
        return sorted({Path(name) for name in bundle_namespaces(self.state) if "/netns/cni-" in name})

    def reuse_addresses(self) -> None:
        """The next pod gets the lowest address that is free, also one that was given back a moment ago (CNI's
        host-local else goes round its range before it gives an address again)."""
        (self.folder / "ipam/zk/last_reserved_ip.0").unlink(missing_ok=True)

    def make_network(self, others: Sequence[Node], bridge: str) -> None:
        """The namespace, its underlay link, the VXLAN, and SNAT for what leaves the pods' network."""
        host_end = f"{self._cluster}v{self.index}"
        ip = ["ip", "-n", self.netns]
        run(["ip", "netns", "add", self.netns])
        run(["ip", "link", "add", host_end, "type", "veth", "peer", "name", "eth0", "netns", self.netns])
        run(["ip", "link", "set", host_end, "master", bridge, "up"])
        run([*ip, "address", "add", f"{self.address}/24", "dev", "eth0"])
        run([*ip, "link", "set", "eth0", "up"])
        run([*ip, "link", "set", "lo", "up"])
        run([*ip, "route", "add", "default", "via", self.gateway])
        run([*ip, "link", "add", "vx0", "type", "vxlan", "id", "42", "dev", "eth0", "dstport", "4789", "local",
             self.address, "nolearning"])  # fmt: skip
        run([*ip, "address", "add", f"10.244.{self.index}.0/32", "dev", "vx0"])
        run([*ip, "link", "set", "vx0", "address", self.vxlan_mac, "mtu", str(MTU), "up"])
        for other in others:
            end = f"10.244.{other.index}.0"
            run(["bridge", "-n", self.netns, "fdb", "append", other.vxlan_mac, "dev", "vx0", "dst", other.address])
            run([*ip, "neighbour", "replace", end, "lladdr", other.vxlan_mac, "dev", "vx0", "nud", "permanent"])
            run([*ip, "route", "add", other.pod_cidr, "via", end, "dev", "vx0", "onlink"])
        self.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"])
        snat = (
            "table ip zk { chain postrouting { type nat hook postrouting priority srcnat;"
            f' ip saddr {self.pod_cidr} ip daddr != {POD_NETWORK} oifname "eth0" masquerade; }}; }}'
        )
        self.run(["nft", snat])

    @property
    def vxlan_mac(self) -> str:
        return f"0a:58:0a:f4:{self.index:02x}:00"

    def make_files(self, pki: Pki) -> None:
        """Certificates and configurations of the three daemons."""
        for folder in (self.folder, self.state, self.pod_logs, self.folder / "cni", self.state / "runc-cgroups"):
            folder.mkdir(parents=True, exist_ok=True)
        pki.make(self.name, f"system:node:{self.name}", "system:nodes", [self.name, self.address])
        pki.make(f"proxy-{self.name}", "system:kube-proxy")
        pki.kubeconfig(self.name, self.folder / "kubelet.conf")
        pki.kubeconfig(f"proxy-{self.name}", self.folder / "proxy.conf")
        (self.folder / "resolv.conf").write_text("# no name server outside the cluster\n")
        (self.folder / "containerd.toml").write_text(self._containerd_toml())
        (self.folder / "cni" / "10-zk.conflist").write_text(json.dumps(self._cni()))
        (self.folder / "kubelet.yaml").write_text(json.dumps(self._kubelet_yaml(pki)))
        (self.folder / "proxy.yaml").write_text(json.dumps(self._proxy_yaml()))
        runc = self.folder / "runc"
        runc.write_text(RUNC.format(cgroup=cgroup.root(), ids=self.state / "runc-cgroups"))
        runc.chmod(0o755)
        self._make_cgroups()

    def start_containerd(self) -> None:
        self.containerd.start()

    def wait_containerd(self, timeout_s: float = 30.0) -> None:
        def missing() -> str | None:
            if not self.socket.exists():
                return f"no {self.socket}"
            state = run(["ctr", "--address", self.socket, "plugins", "ls"], check=False)
            cri = [line.split() for line in state.splitlines() if " cri " in line]
            return None if cri and cri[0][-1] == "ok" else f"its CRI plugin is not ok: {cri}"

        self.containerd.wait(missing, timeout_s)

    def start_kubelet(self, timeout_s: float = 30.0) -> None:
        """Returns when it listens on DEVICES: two that remove it and listen at the same time would end each other."""
        self.kubelet.start()

        def missing() -> str | None:
            try:
                return None if DEVICES in Path(f"/proc/{self.kubelet.pid}/net/unix").read_text() else f"no {DEVICES}"
            except OSError:
                return "it has ended"

        self.kubelet.wait(missing, timeout_s)

    def _daemon(self, name: str, argv: Sequence[str]) -> Daemon:
        return Daemon(
            f"{name}-{self.name}", argv, log=self.logs / f"{name}-{self.name}.log", state=Path(f"/run/{self._cluster}"),
            cgroup=self.cgroup / "daemons",
        )  # fmt: skip

    def _make_cgroups(self) -> None:
        (self.cgroup / "daemons").mkdir(parents=True, exist_ok=True)
        if cgroup.root() == V1:
            return
        for hierarchy in V1.iterdir():  # version 1: kubelet wants its root to be there
            if hierarchy.is_symlink() or hierarchy == cgroup.root():
                continue
            folder = hierarchy
            for part in Path(self.cgroup_path[1:]).parts:
                parent, folder = folder, folder / part
                folder.mkdir(exist_ok=True)
                for name in ("cpuset.cpus", "cpuset.mems"):  # new ones are empty, and take no process then
                    if (folder / name).exists():
                        (folder / name).write_text((parent / name).read_text())

    def _containerd_toml(self) -> str:
        return f"""version = 2
root = "{self.folder}/containerd"
state = "{self.state}/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{self.socket}"
[ttrpc]
  address = "{self.socket}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self.folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{"" if cgroup.root() == V1 else self.folder / "runc"}"
"""

    def _cni(self) -> dict[str, Any]:
        ranges = [[{"subnet": self.pod_cidr}]]
        ipam = {
            "type": "host-local",
            "dataDir": f"{self.folder}/ipam",
            "ranges": ranges,
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        return {
            "cniVersion": "0.4.0",
            "name": "zk",
            "plugins": [
                {"type": "ptp", "mtu": MTU, "ipMasq": False, "ipam": ipam},
                {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
            ],
        }

    def _kubelet_yaml(self, pki: Pki) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True, "cacheTTL": "10s"},
                "x509": {"clientCAFile": str(pki.ca)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki.cert(self.name)),
            "tlsPrivateKeyFile": str(pki.key(self.name)),
            "address": "0.0.0.0",
            "port": 10250,
            "providerID": self.provider_id,
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": DOMAIN,
            "resolvConf": f"{self.folder}/resolv.conf",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup_path,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "failCgroupV1": False,
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "podLogsDir": str(self.pod_logs),
            "volumePluginDir": f"{self.folder}/volume-plugins",
            # One disk is shared by all: nothing is evicted and no image removed because others fill it.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "makeIPTablesUtilChains": False,
        }

    def _kubelet_argv(self) -> list[str]:
        labels = {
            "topology.kubernetes.io/region": REGION,
            "topology.kubernetes.io/zone": self.zone,
            "node.kubernetes.io/instance-type": INSTANCE_TYPE,
        }
        return [
            f"{self._programs}/kubelet", f"--kubeconfig={self.folder}/kubelet.conf",
            f"--config={self.folder}/kubelet.yaml",
            f"--root-dir={self.folder}/kubelet", f"--cert-dir={self.folder}/kubelet-certs",
            f"--hostname-override={self.name}", f"--node-ip={self.address}",
            "--node-labels=" + ",".join(f"{key}={value}" for key, value in labels.items()), "--v=2",
        ]  # fmt: skip

    def _proxy_yaml(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": self.name,
            "clientConnection": {"kubeconfig": f"{self.folder}/proxy.conf"},
            "clusterCIDR": POD_NETWORK,
            "detectLocalMode": "ClusterCIDR",
            "bindAddress": "0.0.0.0",
            # The limits of connection tracking are the machine's and not a namespace's to set.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "nftables": {"syncPeriod": "30s", "minSyncPeriod": "100ms"},
        }


def bundle_namespaces(state: Path) -> list[str]:
    """Network namespaces by the OCI configurations of the containers that containerd's state folder holds."""
    found = []
    for path in state.glob("containerd/io.containerd.runtime.v2.task/k8s.io/*/config.json"):
        try:
            namespaces = json.loads(path.read_text())["linux"]["namespaces"]
        except (OSError, ValueError, KeyError):
            continue  # it is being made or removed
        found += [entry["path"] for entry in namespaces if entry["type"] == "network" and entry.get("path")]
    return found


def wait_nodes(nodes: Sequence[Node], ready: set[str] | None, end: float) -> list[str]:
    """Names of the nodes that are not in `ready`; KubeError if one's kubelet ended or the time is over."""
    missing = [node.name for node in nodes if node.name not in (ready or set())]
    for node in nodes:
        if node.name in missing and node.kubelet.pid is None:
            raise KubeError(node.kubelet.describe("ended by itself"))
        if node.name in missing and time.monotonic() > end:
            raise KubeError(node.kubelet.describe("did not make its node Ready in time"))
    return missing


# On a machine with both versions of cgroups, runc makes a container's cgroups in the hierarchies of version 1 alone.
# The kernel's events name the cgroup of version 2; so each container gets one of the same path there, as it has on a
# machine with version 2 alone. runc is given what it was given.
RUNC = """#!/bin/sh
command= bundle= id= before=
for word; do
    case $word in create|exec|delete) [ -n "$command" ] || command=$word ;; esac
    case $before in --bundle|-b) bundle=$word ;; esac
    before=$word id=$word
done
case $command in
    create)
        path=$(sed -n 's/.*"cgroupsPath":"\\([^"]*\\)".*/\\1/p' "$bundle/config.json")
        mkdir -p "{cgroup}$path" && echo $$ >"{cgroup}$path/cgroup.procs"
        printf '%s' "$path" >"{ids}/$id" ;;
    exec)
        [ ! -e "{ids}/$id" ] || echo $$ >"{cgroup}$(cat "{ids}/$id")/cgroup.procs" ;;
    delete)
        /usr/sbin/runc "$@"
        code=$?
        if [ $code = 0 ] && [ -e "{ids}/$id" ]; then
            path=$(cat "{ids}/$id")
            rm "{ids}/$id"
            rmdir "{cgroup}$path" && rmdir "{cgroup}${{path%/*}}"
        fi 2>/dev/null
        exit $code ;;
esac
exec /usr/sbin/runc "$@"
"""
