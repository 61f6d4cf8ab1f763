"""Our Helm chart in a test cluster: installed by the real helm, with back ends on this machine's loopback.

    with kube_chart.installed(cluster, values_for(cluster, stack, redis_port)) as chart:
        chart.pod("n1")

One kernel is under both nodes: `perNode` keeps each agent to its own. Used by tests/e2e/test_kubernetes_*.py.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from kube_cluster import PROGRAMS, ROOT, Cluster
from kube_daemon import run

CHART = ROOT / "deploy/helm/zerospan"
NAMESPACE, RELEASE = "zerospan", "zerospan"
CLUSTER_NAME = "zk-test"
SCRAPE_PORT = 9464
TLS, SERVICE = "enricher-tls", f"{RELEASE}-enricher.{NAMESPACE}.svc"


class BackEnds(Protocol):
    """e2e/backends/stack.py, as far as it matters here."""

    tempo_otlp_http: str
    loki_url: str


def helm(*argv: str | Path, kubeconfig: Path | None = None, stdin: str | None = None, timeout_s: float = 180.0) -> str:
    """What helm prints. KubeError with what it said if it fails."""
    options: list[str | Path] = ["--kubeconfig", kubeconfig] if kubeconfig is not None else []
    home = [
        "env",
        *(f"HELM_{name}_HOME={PROGRAMS / 'helm-home' / name.lower()}" for name in ("CACHE", "CONFIG", "DATA")),
    ]
    return run([*home, PROGRAMS / "helm", *argv, *options], stdin=stdin, timeout_s=timeout_s)


def values_for(cluster: Cluster, stack: BackEnds, redis_port: int) -> dict[str, Any]:
    """Values of an installation that sends spans to Tempo, logs to Loki, and shares links in that Redis."""

    def exposed(url: str) -> str:
        return f"http://{cluster.expose(int(url.rpartition(':')[2]))}"

    return {
        "image": {"repository": "localhost/zerospan", "tag": "dev", "pullPolicy": "Never"},
        "clusterName": CLUSTER_NAME,
        "tls": {"existingSecret": TLS},
        "perNode": {
            "cgroup": f"{cluster.cgroup}/$(NODE_NAME)",
            "containerd": f"/run/{cluster.name}/$(NODE_NAME)/containerd/io.containerd.runtime.v2.task",
        },
        # The host's files as a program of it sees them: process 1 of a sandbox may be out of reach, even for root.
        "enricher": {"node": {"config": {"sources": {"os": {"root": f"/proc/{cluster.etcd.pid}/root"}}}}},
        "agent": {
            "nic": 1,
            "hostPort": SCRAPE_PORT,
            "config": {
                "otlp": {"traces": {"endpoint": exposed(stack.tempo_otlp_http)}},
                "loki": {"url": exposed(stack.loki_url)},
                "links": f"redis://{cluster.expose(redis_port)}/0",
            },
        },
    }


class Chart:
    """An installation. `values`: those that it has now."""

    def __init__(self, cluster: Cluster, values: dict[str, Any]) -> None:
        self.cluster = cluster
        self.values = values

    def upgrade(self, values: dict[str, Any] | None = None) -> None:
        """Installs, or upgrades to, these values, and waits for all pods to be ready."""
        self.values = values or self.values
        if NAMESPACE not in self.cluster.kubectl("get", "namespaces", "-o", "name"):
            self.cluster.kubectl("create", "namespace", NAMESPACE)
        pki = self.cluster.pki
        if f"secret/{TLS}" not in self.cluster.kubectl("get", "secrets", "-n", NAMESPACE, "-o", "name").split():
            pki.make("enricher", SERVICE, addresses=[SERVICE])
            files = {"tls.crt": pki.cert("enricher"), "tls.key": pki.key("enricher"), "ca.crt": pki.ca}
            parts = [f"--from-file={name}={path}" for name, path in files.items()]
            self.cluster.kubectl("create", "secret", "generic", TLS, "-n", NAMESPACE, *parts)
        helm(
            "upgrade", RELEASE, CHART, "--install", "--namespace", NAMESPACE, "--values", "-",
            kubeconfig=self.cluster.kubeconfig, stdin=json.dumps(self.values),
        )  # fmt: skip
        self.ready()

    def ready(self) -> None:
        self.cluster.wait_rollout(
            f"deployment/{RELEASE}-enricher", f"daemonset/{RELEASE}-node", namespace=NAMESPACE, timeout_s=90
        )

    def uninstall(self) -> None:
        """Does not wait for the pods' end."""
        helm("uninstall", RELEASE, "--namespace", NAMESPACE, kubeconfig=self.cluster.kubeconfig)
        self.cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")

    def pod(self, node: str) -> str:
        """Name of the agent's pod of a node."""
        pods = self.cluster.get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=node")["items"]
        [found] = [
            pod["metadata"]["name"]
            for pod in pods
            if pod["spec"]["nodeName"] == node and "deletionTimestamp" not in pod["metadata"]
        ]
        return str(found)

    def zerospan(self, node: str, *argv: str, container: str = "agent") -> str:
        """What `zerospan ARGV` says in the agent's pod of a node."""
        return self.cluster.kubectl("exec", "-n", NAMESPACE, self.pod(node), "-c", container, "--", "zerospan", *argv)

    def status(self, node: str) -> Any:
        """`zerospan status --json` of a node's agent."""
        return json.loads(self.zerospan(node, "status", "--json"))

    def logs(self, what: str, container: str = "enricher", *options: str) -> str:
        return self.cluster.kubectl("logs", "-n", NAMESPACE, what, "-c", container, *options)

    def enrichers(self) -> list[dict[str, Any]]:
        """The pods of the cluster's enrichers."""
        found = self.cluster.get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=enricher")["items"]
        return [pod for pod in found if pod["status"].get("podIP") and "deletionTimestamp" not in pod["metadata"]]

    def token(self) -> str:
        """What callers of an enricher need."""
        path = "go-template={{.data.token|base64decode}}"
        return self.cluster.kubectl("get", "secret", f"{RELEASE}-token", "-n", NAMESPACE, "-o", path)

    def ask_enricher(self, pod: dict[str, Any], path: str, *options: str) -> str:
        """A page of one of the cluster's enrichers, by TLS, from its node."""
        node, address = self.cluster.nodes[pod["spec"]["nodeName"]], pod["status"]["podIP"]
        argv: list[str | Path] = ["curl", "-sS", "--noproxy", "*", "--max-time", "5", "--cacert", self.cluster.pki.ca]
        return node.run(
            [*argv, "--connect-to", f"{SERVICE}:9465:{address}:9465", *options, f"https://{SERVICE}:9465{path}"]
        )

    def targets(self) -> list[str]:
        """HOST:PORT of each agent's /metrics, as this machine reaches them."""
        return [f"{node.address}:{SCRAPE_PORT}" for node in self.cluster.nodes.values()]


@contextlib.contextmanager
def installed(cluster: Cluster, values: dict[str, Any]) -> Iterator[Chart]:
    """The chart, until the block ends (with ZEROSPAN_K8S=keep beyond it)."""
    chart = Chart(cluster, values)
    chart.upgrade()
    try:
        yield chart
    finally:
        if os.environ.get("ZEROSPAN_K8S") != "keep":
            chart.uninstall()
