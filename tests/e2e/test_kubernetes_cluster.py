"""The cluster that the other Kubernetes tests stand on (tests/kit/kube_cluster.py), by what its users see.

Bookinfo and the shop answer through ClusterIP, NodePort and across both nodes, names resolve, a pod reaches itself
through its service, what leaves the pods' network has the node's address; rights are checked everywhere; an API server
that is killed or forgets its history comes back.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from kube_cluster import Cluster
from kube_daemon import KubeError
from kube_node import Node

CURL = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "10"]
BOOKINFO = {"n1": {"ingress", "productpage", "ratings"}, "n2": {"details", "reviews"}}
SHOP = {"n1": {"nginx", "keep", "pricing", "redis"}, "n2": {"close", "catalog", "recommend", "postgresql"}}


def curl(node: Node, url: str, *options: str) -> tuple[int, str]:
    """Status and body of a request by a program in the node's network."""
    out = node.run([*CURL, "--write-out", "\n%{http_code}", *options, url])
    body, _, status = out.rpartition("\n")
    return int(status), body


def in_pod(cluster: Cluster, namespace: str, what: str, *argv: str) -> str:
    return cluster.kubectl("exec", "--namespace", namespace, what, "--", *argv)


def service(cluster: Cluster, namespace: str, name: str) -> str:
    return str(cluster.get("service", name, "--namespace", namespace)["spec"]["clusterIP"])


def until(check: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, f"not in {timeout_s:.0f} s: {what}"
        time.sleep(0.2)


@pytest.mark.parametrize(("namespace", "places"), [("bookinfo", BOOKINFO), ("shop", SHOP)])
def test_pods_are_on_both_nodes_in_their_address_ranges(
    deployed: Cluster, namespace: str, places: dict[str, set[str]]
) -> None:
    found: dict[str, set[str]] = {"n1": set(), "n2": set()}
    for pod in deployed.get("pods", "--namespace", namespace)["items"]:
        node = deployed.nodes[pod["spec"]["nodeName"]]
        assert pod["status"]["podIP"].startswith(node.pod_cidr.removesuffix("0/24")), pod["status"]
        assert pod["status"]["hostIP"] == node.address
        found[node.name].add(pod["metadata"]["labels"]["app"])
    assert found == places


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_bookinfo_answers_through_a_nodeport_of_either_node(deployed: Cluster, name: str) -> None:
    """The door is on n1: through n2 it is DNAT and SNAT there."""
    answer = subprocess.run([*CURL, "--fail", f"http://{deployed.nodes[name].address}:30080/r/zs1/productpage"],
                            capture_output=True, text=True, check=True)  # fmt: skip
    page = json.loads(answer.stdout)
    assert page["details"]["author"] == "William Shakespeare"
    assert page["reviews"]["ratings"]["ratings"] == {"Reviewer1": 5, "Reviewer2": 4}


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_every_service_answers_at_its_cluster_ip(deployed: Cluster, name: str) -> None:
    node = deployed.nodes[name]
    for app in ("productpage", "details", "reviews", "ratings"):
        assert curl(node, f"http://{service(deployed, 'bookinfo', app)}:9080/healthz")[0] == 200, app
    for app, port in (
        ("nginx", 80),
        ("keep", 8000),
        ("close", 8000),
        ("catalog", 8080),
        ("pricing", 8080),
        ("recommend", 8080),
    ):
        assert curl(node, f"http://{service(deployed, 'shop', app)}:{port}/healthz")[0] == 200, app


def test_the_side_cars_serve_what_the_programs_ask(deployed: Cluster) -> None:
    """Each Envoy's own counters of one request: the program's call went out by one and came in by the other."""

    def served(app: str, listener: str) -> int:
        stats = in_pod(
            deployed, "bookinfo", f"deploy/{app}", "curl", "-s", "127.0.0.1:15000/stats?filter=downstream_rq_2xx"
        )
        return int(dict(line.split(": ") for line in stats.splitlines())[f"http.{listener}.downstream_rq_2xx"])

    wanted = [
        ("productpage", "outbound", 2),
        ("reviews", "outbound", 1),
        ("details", "inbound", 1),
        ("ratings", "inbound", 1),
    ]
    probes_too = {"inbound"}
    before = {app: served(app, listener) for app, listener, _ in wanted}
    assert curl(deployed.n1, f"http://{deployed.n1.address}:30080/r/zs2/productpage")[0] == 200
    for app, listener, count in wanted:
        grown = served(app, listener) - before[app]
        assert grown >= count if listener in probes_too else grown == count, (app, listener, grown)


@pytest.mark.parametrize(
    ("path", "status", "part"),
    [
        ("products/1", 200, '"name":"product 1"'),
        ("recommend/3", 200, '"similar":[33,44,55]'),
        ("missing/2", 404, "no product 1000002"),
        ("broken/5", 500, "SQLSTATE 22012"),
    ],
)
def test_the_shop_answers(deployed: Cluster, path: str, status: int, part: str) -> None:
    for node in deployed.nodes.values():
        found, body = curl(node, f"http://{node.address}:30081/r/zs3/{path}")
        assert (found, part in body) == (status, True), body


def test_an_order_reaches_postgresql_and_redis(deployed: Cluster) -> None:
    order = ["--json", '{"item":3,"quantity":2}']
    bodies = [curl(deployed.n2, f"http://{deployed.n1.address}:30081/r/zs4/orders", *order) for _ in range(2)]
    assert [status for status, _ in bodies] == [201, 201], bodies
    first, second = (json.loads(body) for _, body in bodies)
    assert second["placed"] == first["placed"] + 1  # Redis
    assert second["order"] == first["order"] + 1 and second["left"] == first["left"] - 2  # PostgreSQL


def test_a_pod_reaches_itself_through_its_service(deployed: Cluster) -> None:
    assert in_pod(deployed, "more", "deploy/hairpin", *CURL, "http://hairpin.more.svc.cluster.local/") == "hairpin\n"


def test_pods_and_the_nodes_network_reach_one_another(deployed: Cluster) -> None:
    for pod in deployed.get("pods", "--namespace", "more", "--selector", "app=page")["items"]:
        name = f"pod/{pod['metadata']['name']}"
        assert in_pod(deployed, "more", name, *CURL, "http://on-host.more/") == "on-host\n"
    addresses = [pod["status"]["podIP"] for pod in deployed.get("pods", "-n", "more", "-l", "app=page")["items"]]
    said = {in_pod(deployed, "more", "deploy/on-host", *CURL, f"http://{address}:8080/") for address in addresses}
    assert said == {"n1\n", "n2\n"}


def test_a_service_spreads_over_the_pods_of_both_nodes(deployed: Cluster) -> None:
    said: set[str] = set()
    until(lambda: said.add(in_pod(deployed, "more", "deploy/hairpin", *CURL, "http://page.more/")) or len(said) == 2,
          "both nodes' pods answer")  # fmt: skip
    assert said == {"n1\n", "n2\n"}


def test_what_leaves_the_pods_network_has_the_nodes_address(deployed: Cluster) -> None:
    """SNAT by the node: the API server, outside the pods' network, sees the node."""
    argv = [*CURL, "--insecure", f"{deployed.server}/healthz"]
    assert in_pod(deployed, "more", "deploy/hairpin", *argv) == "ok"
    address = deployed.pod_address("app=hairpin", namespace="more")
    node = deployed.nodes[deployed.get("pods", "-n", "more", "-l", "app=hairpin")["items"][0]["spec"]["nodeName"]]
    flows = node.run(["conntrack", "-L", "-p", "tcp", "--dport", "6443", "--orig-src", address])
    assert f"src={address} dst={deployed.gateway}" in flows and f"src={deployed.gateway} dst={node.address}" in flows, (
        flows
    )


def test_pods_reach_an_exposed_server_of_the_machines_loopback(deployed: Cluster) -> None:
    """And only this port of it."""
    page = partial(SimpleHTTPRequestHandler, directory=str(deployed.logs))
    with ThreadingHTTPServer(("127.0.0.1", 0), page) as server, ThreadingHTTPServer(("127.0.0.1", 0), page) as hidden:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = deployed.expose(server.server_address[1])
        assert deployed.expose(server.server_address[1]) == address
        for what in ("deploy/hairpin", "deploy/on-host"):
            assert "etcd.log" in in_pod(deployed, "more", what, *CURL, f"http://{address}/")
        with pytest.raises(KubeError, match="refused|Failed to connect"):
            in_pod(deployed, "more", "deploy/hairpin", *CURL, f"http://{deployed.gateway}:{hidden.server_address[1]}/")
        server.shutdown()


def test_a_pod_of_a_cronjob_runs_and_ends(deployed: Cluster) -> None:
    deployed.kubectl("create", "job", "--namespace", "more", "--from=cronjob/asks", "asked")
    try:
        deployed.wait("job/asked", "condition=Complete", namespace="more", timeout_s=30)
        assert deployed.kubectl("logs", "--namespace", "more", "job/asked") in ("n1\n", "n2\n")
    finally:
        deployed.kubectl("delete", "job", "--namespace", "more", "asked")


def test_containers_have_their_own_cgroup_below_their_nodes(deployed: Cluster) -> None:
    """The same path in every hierarchy, and the container's id last."""
    for pod in deployed.get("pods", "--namespace", "bookinfo")["items"]:
        node = deployed.nodes[pod["spec"]["nodeName"]]
        for container in pod["status"]["containerStatuses"]:
            identity = container["containerID"].removeprefix("containerd://")
            [folder] = node.cgroup.glob(f"kubepods/*/pod{pod['metadata']['uid']}/{identity}")
            pids = (folder / "cgroup.procs").read_text().split()
            assert pids, folder
            for pid in pids:
                paths = {line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}
                assert paths == {f"{node.cgroup_path}/{folder.relative_to(node.cgroup)}"}


def test_nodes_say_where_they_are(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        found = cluster.get("node", node.name)
        labels = found["metadata"]["labels"]
        assert labels["topology.kubernetes.io/region"] == "eu-test-1"
        assert labels["topology.kubernetes.io/zone"] == node.zone
        assert labels["node.kubernetes.io/instance-type"] == "zk.small"
        assert found["spec"] == {"podCIDR": node.pod_cidr, "podCIDRs": [node.pod_cidr], "providerID": node.provider_id}
        assert {"type": "InternalIP", "address": node.address} in found["status"]["addresses"]


READER = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: zk-reader}
rules: [{apiGroups: [""], resources: [nodes/proxy], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: zk-reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: zk-reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}]
"""


def test_kubelet_shows_its_pods_to_who_may_see_them(deployed: Cluster) -> None:
    """With the cluster's authority verified; nobody else gets anything, neither there nor from the API server."""
    deployed.apply(READER)
    tokens = {name: deployed.kubectl("create", "token", name) for name in ("reader", "default")}
    reader, nobody = (
        ("-H", f"Authorization: Bearer {tokens['reader']}"),
        ("-H", f"Authorization: Bearer {tokens['default']}"),
    )
    ca = ("--cacert", str(deployed.pki.ca))
    for node in deployed.nodes.values():
        url = f"https://{node.address}:10250/pods"
        until(
            partial(lambda node, url: curl(node, url, *ca, *reader)[0] == 200, node, url), "kubelet lets the reader in"
        )
        body = json.loads(curl(node, url, *ca, *reader)[1])
        names = {(pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in body["items"]}
        listed = deployed.get("pods", "-A", "--field-selector", f"spec.nodeName={node.name}")["items"]
        wanted = {(pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in listed}
        stay = {pod for pod in wanted if pod[0] != "more"}  # the CronJob's pods come and go
        assert stay and stay <= names
        assert curl(node, url, *ca, *nobody)[0] == 403
        assert curl(node, url, *ca)[0] == 401
        assert curl(node, f"{deployed.server}/api/v1/pods", *ca, *reader)[0] == 403


def test_a_service_account_speaks_to_the_api_server_from_inside_a_pod(deployed: Cluster) -> None:
    """By the Service's name and the mounted token and authority, as every client in a pod does."""
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    ask = (
        f'curl -sS --max-time 10 --cacert {folder}/ca.crt -H "Authorization: Bearer $(cat {folder}/token)" '
        "https://kubernetes.default.svc/apis/authentication.k8s.io/v1/selfsubjectreviews "
        "-H 'Content-Type: application/json' "
        """-d '{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}'"""
    )
    deployed.kubectl("run", "asker", "--image=localhost/zk/tools:1", "--image-pull-policy=Never", "--restart=Never",
                     "--command", "--", "sh", "-c", ask)  # fmt: skip
    try:
        deployed.wait("pod/asker", "jsonpath={.status.phase}=Succeeded", timeout_s=30)
        review = json.loads(deployed.kubectl("logs", "asker"))
        assert review["status"]["userInfo"]["username"] == "system:serviceaccount:default:default"
    finally:
        deployed.kubectl("delete", "pod", "asker", "--now")


def test_an_address_can_be_made_to_be_used_again_at_once(deployed: Cluster) -> None:
    def address_of_a_pod(name: str) -> str:
        deployed.n2.reuse_addresses()
        overrides = {"spec": {"nodeName": "n2", "terminationGracePeriodSeconds": 0}}
        deployed.kubectl("run", name, "--image=localhost/zk/tools:1", "--image-pull-policy=Never", "--overrides",
                         json.dumps(overrides), "--command", "--", "busybox", "sleep", "1000")  # fmt: skip
        deployed.wait(f"pod/{name}", "condition=Ready", timeout_s=30)
        address = deployed.pod_address(f"run={name}")
        deployed.kubectl("delete", "pod", name, "--now")
        return address

    # the CronJob's pod may come between: then once more
    pairs = (address_of_a_pod(f"first-{i}") == address_of_a_pod(f"second-{i}") for i in range(3))
    assert any(pairs)


def test_traffic_goes_on_while_the_api_server_is_dead(deployed: Cluster) -> None:
    with deployed.without_api():
        with pytest.raises(KubeError):
            deployed.kubectl("get", "nodes", "--request-timeout=2s", timeout_s=20)
        assert curl(deployed.n2, f"http://{deployed.n2.address}:30080/r/zs5/productpage")[0] == 200
    assert len(deployed.get("nodes")["items"]) == 2


def test_an_expired_resource_version_is_gone(deployed: Cluster) -> None:
    """410 for a watch from a version before the compaction."""
    old = deployed.get("configmaps", "--namespace", "shop")["metadata"].get("resourceVersion")
    if not old:  # kubectl's own lists have none
        raw = deployed.kubectl("get", "--raw", "/api/v1/namespaces/shop/configmaps")
        old = json.loads(raw)["metadata"]["resourceVersion"]
    deployed.kubectl("create", "configmap", "later", "--namespace", "shop")
    deployed.kubectl("delete", "configmap", "later", "--namespace", "shop")
    deployed.expire_resource_versions()
    path = f"/api/v1/namespaces/shop/configmaps?watch=1&resourceVersion={old}&timeoutSeconds=5"
    said = deployed.kubectl("get", "--raw", path, check=False)
    assert '"code":410' in said, said
