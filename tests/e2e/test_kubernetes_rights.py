"""The chart's service accounts have the rights that they need and no other: the real API server and kubelets judge."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_api import Api, kubeconfig
from kube_chart import NAMESPACE, Chart
from kube_traffic import CURL

from zerospan.enricher.sources.kubernetes import Kubernetes, KubernetesSource
from zerospan.enricher.store import TagStore

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "impersonate", "bind",
         "escalate")  # fmt: skip
WATCHED = {
    ("", "namespaces"), ("", "nodes"), ("", "pods"), ("", "services"), ("apps", "replicasets"), ("batch", "jobs"),
    ("discovery.k8s.io", "endpointslices"), ("networking.k8s.io", "ingresses"),
}  # fmt: skip
GRANTED = {
    "zerospan-enricher": {(verb, *kind) for kind in WATCHED for verb in ("list", "watch")},
    "zerospan-node": {("get", "", "nodes/pods")},
}
FURTHER = {("", "nodes/pods"), ("", "nodes/metrics"), ("", "nodes/stats"), ("", "nodes/log"), ("", "nodes/configz"),
           ("", "nodes/healthz"), ("", "users"), ("", "groups"), ("", "serviceaccounts")}  # fmt: skip


@pytest.fixture(scope="module")
def admin(chart: Chart) -> Api:
    return Api(chart.cluster)


@pytest.fixture(scope="module")
def tokens(chart: Chart) -> dict[str, str]:
    create = ("create", "token", "--namespace", NAMESPACE)
    return {name: chart.cluster.kubectl(*create, name).strip() for name in GRANTED}


@pytest.fixture(scope="module")
def pods(chart: Chart) -> dict[str, str]:
    return {node: chart.pod(node) for node in chart.cluster.nodes}


@pytest.mark.parametrize("account", GRANTED)
def test_nothing_more_is_granted(account: str, admin: Api) -> None:
    """Every verb on every resource that the server knows, beyond what any account may ask about itself."""
    asked = admin.resources() | FURTHER
    assert len(asked) > 80 and {("", "secrets"), ("", "pods/exec"), ("", "pods/log"), ("", "nodes/proxy")} <= asked
    user, anyone = (f"system:serviceaccount:{NAMESPACE}:{name}" for name in (account, "default"))
    may = {(verb, *kind) for kind in asked for verb in VERBS if admin.may(user, verb, *kind)}
    assert {right for right in may if not admin.may(anyone, right[0], *right[1:])} == GRANTED[account]


REAL: dict[str, tuple[str, str, Any]] = {
    "read a secret": ("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/zerospan-token", None),
    "list secrets": ("GET", "/api/v1/secrets", None),
    "list config maps": ("GET", "/api/v1/configmaps", None),
    "read one pod": ("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/POD", None),
    "read a pod's log": ("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/POD/log?container=agent", None),
    "delete a pod": ("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/POD", None),
    "delete all pods": ("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods", None),
    "run in a pod": ("POST", f"/api/v1/namespaces/{NAMESPACE}/pods/POD/exec?command=id&container=agent", None),
    "make a pod": ("POST", "/api/v1/namespaces/default/pods", {"metadata": {"name": "x"}}),
    "change a node": ("PATCH", "/api/v1/nodes/n1", {"metadata": {"labels": {"a": "b"}}}),
    "go on to a kubelet": ("GET", "/api/v1/nodes/n1/proxy/pods", None),
    "list deployments": ("GET", "/apis/apps/v1/deployments", None),
    "make a token": ("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default/token", {"spec": {}}),
    "grant": ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {"metadata": {"name": "x"}}),
    "list events": ("GET", "/api/v1/events", None),
}


@pytest.mark.parametrize("what", REAL)
@pytest.mark.parametrize("account", GRANTED)
def test_the_api_server_refuses(
    account: str, what: str, chart: Chart, pods: dict[str, str], tokens: dict[str, str]
) -> None:
    method, path, body = REAL[what]
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    status, answer = Api(chart.cluster, tokens[account])(method, path.replace("POD", pods["n1"]), body, kind=kind)
    assert status == 403, answer
    assert f"system:serviceaccount:{NAMESPACE}:{account}" in answer["message"]


def path_of(group: str, resource: str) -> str:
    return f"/apis/{group}/v1/{resource}" if group else f"/api/v1/{resource}"


def test_what_is_granted_is_answered(chart: Chart, tokens: dict[str, str]) -> None:
    api = Api(chart.cluster, tokens["zerospan-enricher"])
    for kind in WATCHED:
        status, answer = api("GET", path_of(*kind) + "?limit=1")
        assert status == 200, answer
        version = answer["metadata"]["resourceVersion"]
        status, answer = api("GET", f"{path_of(*kind)}?watch=1&resourceVersion={version}&timeoutSeconds=1", whole=False)
        assert status == 200, kind
    node = Api(chart.cluster, tokens["zerospan-node"])
    for kind in WATCHED:
        assert node("GET", path_of(*kind))[0] == 403, kind


@pytest.mark.parametrize("account", GRANTED)
def test_kubelets_show_their_pods_to_the_node_account_alone(
    account: str, chart: Chart, pods: dict[str, str], tokens: dict[str, str]
) -> None:
    """nodes/pods is enough for its lists of pods (Kubernetes 1.33 and later), and for nothing else of a kubelet's."""
    for node in chart.cluster.nodes.values():
        for path in ("/pods", "/runningpods/", "/metrics", "/logs/", "/configz", "/exec/zerospan/POD/agent?command=id"):
            url = f"https://{node.address}:10250{path.replace('POD', pods[node.name])}"
            argv: list[str | Path] = [*CURL, "-o", "/dev/null", "--write-out", "%{http_code}"]
            argv += ["--cacert", chart.cluster.pki.ca, "-H", f"Authorization: Bearer {tokens[account]}", url]
            wanted = "200" if account == "zerospan-node" and path in ("/pods", "/runningpods/") else "403"
            assert node.run(argv) == wanted, (account, path)


def test_enrichers_tell_nobody_without_the_token(chart: Chart, tmp_path: Path) -> None:
    """By TLS only, of a certificate that is theirs."""
    [pod, *_] = chart.enrichers()
    status = ("-o", "/dev/null", "--write-out", "%{http_code}")
    right = ("-H", f"Authorization: Bearer {chart.token()}")
    assert chart.ask_enricher(pod, "/healthz", *status) == "200"
    for path in ("/metrics", f"/lookup?key={pod['status']['podIP']}"):
        assert chart.ask_enricher(pod, path, *status) == "401"
        assert chart.ask_enricher(pod, path, *status, "-H", "Authorization: Bearer wrong") == "401"
        assert chart.ask_enricher(pod, path, *status, *right) == "200"
    tags = json.loads(chart.ask_enricher(pod, f"/lookup?key={pod['status']['podIP']}", *right))
    assert tags["k8s.pod.name"] == pod["metadata"]["name"]
    plain = f"http://{pod['status']['podIP']}:9465/healthz"
    assert chart.cluster.nodes[pod["spec"]["nodeName"]].run([*CURL, *status, plain], check=False).strip() != "200"


@pytest.fixture
def lacking(chart: Chart) -> Iterator[dict[tuple[str, str, str], str]]:
    """For each right an account that has all others: its token."""
    made = []
    found = {}
    role = chart.cluster.get("clusterrole", "zerospan-enricher")
    for number, right in enumerate(sorted(GRANTED["zerospan-enricher"])):
        verb, group, resource = right
        name = f"lacks-{number}"
        rules = [
            {"apiGroups": [g], "resources": [r], "verbs": [v for v in ("list", "watch") if (v, g, r) != right]}
            for g, r in sorted(WATCHED)
        ]
        subject = {"kind": "ServiceAccount", "name": name, "namespace": "default"}
        ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        made += [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"}},
            {"apiVersion": role["apiVersion"], "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules},
            {"apiVersion": role["apiVersion"], "kind": "ClusterRoleBinding", "metadata": {"name": name},
             "roleRef": ref, "subjects": [subject]},
        ]  # fmt: skip
        found[right] = name
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
    chart.cluster.apply(text)
    try:
        yield {right: chart.cluster.kubectl("create", "token", name).strip() for right, name in found.items()}
    finally:
        chart.cluster.kubectl("delete", "--wait=false", "--filename", "-", stdin=text)


def test_each_right_is_needed_and_its_lack_is_said(
    lacking: dict[tuple[str, str, str], str], chart: Chart, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Real sources, each with all rights but one: it says which, and the rest is told all the same."""
    sources = {}
    with caplog.at_level(logging.WARNING, "zerospan"):
        for right, token in lacking.items():
            path = kubeconfig(chart.cluster, token, tmp_path / "-".join(right))
            sources[right] = KubernetesSource(TagStore(), Kubernetes(enabled=True, kubeconfig=str(path)))
            sources[right].start()
        try:
            for right, source in sources.items():
                verb, group, resource = right
                said = re.compile(rf"{resource}: HTTP 403: .*cannot {verb} resource ..?{resource}")
                end = time.monotonic() + 30
                while not (said.search(source.stats().last_error) and source.stats().in_sync):
                    assert time.monotonic() < end, (right, source.stats())
                    time.sleep(0.05)
                known = source.stats().entities
                assert known.get("node", 0) == (0 if right == ("list", "", "nodes") else 2), (right, known)
                assert (known.get("pod", 0) > 0) == (right != ("list", "", "pods")), (right, known)
        finally:
            for source in sources.values():
                source.stop()
    for verb, _, resource in lacking:
        assert any(f"cannot {verb} resource" in line and f"{resource}:" in line for line in caplog.messages), (
            verb,
            resource,
        )
