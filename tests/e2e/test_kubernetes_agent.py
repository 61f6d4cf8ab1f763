"""Our chart in a real Kubernetes: what Tempo, Prometheus and Loki hold of each pod, against the API server's own word.

Agents and enrichers are the chart's, in our image; traffic is real and of several ways: ClusterIP, NodePort of either
node, hairpin, SNAT, the node's own network. Ground truth: tests/kit/kube_truth.py.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from backends.query import Span
from backends.stack import Stack
from kube_chart import Chart
from kube_cluster import Cluster
from kube_traffic import ask, curl_from_outside, settled_trace
from kube_truth import Json, Truth, differences

NUMBER = itertools.count(int(time.time()))
# Bookinfo's calls in their order: client and server as app/container. Which pods and nodes these are, the API says.
HOPS = (
    ("ingress/envoy", "productpage/envoy"),
    ("productpage/envoy", "productpage/productpage"),
    ("productpage/productpage", "productpage/envoy"),
    ("productpage/envoy", "details/envoy"),
    ("details/envoy", "details/details"),
    ("productpage/productpage", "productpage/envoy"),
    ("productpage/envoy", "reviews/envoy"),
    ("reviews/envoy", "reviews/reviews"),
    ("reviews/reviews", "reviews/envoy"),
    ("reviews/envoy", "ratings/envoy"),
    ("ratings/envoy", "ratings/ratings"),
)


def rid() -> str:
    return f"ka{os.getpid()}x{next(NUMBER)}"


def owner(span: Span, truth: Truth) -> str:
    """app/container of the process that made it, by the kernel's word; "" if it is none of a pod."""
    found = truth.of_container(truth.of_process(int(span.resource.get("process.pid", 0))))
    return f"{found[0]['metadata']['labels'].get('app', '')}/{found[1]}" if found else ""


def http(spans: list[Span]) -> list[Span]:
    return [s for s in spans if s.attributes.get("network.protocol.name") == "http"]


class Seen(NamedTuple):
    """A request to Bookinfo from outside, and its one trace."""

    rid: str
    door: str  # the node whose NodePort was asked
    spans: list[Span]


@pytest.fixture(scope="module", params=["n1", "n2"])
def bookinfo(request: pytest.FixtureRequest, chart: Chart, truth: Truth, stack: Stack) -> Seen:
    name, door = rid(), chart.cluster.nodes[request.param]
    assert curl_from_outside(f"http://{door.address}:30080/r/{name}/productpage")[0] == 200
    spans = settled_trace(stack, f'{{ span.url.path =~ ".*{name}.*" }}', process_spans=1 + 2 * len(HOPS))
    return Seen(name, request.param, spans)


def test_one_request_is_one_trace_over_both_nodes(bookinfo: Seen, truth: Truth) -> None:
    by_parent: dict[str, list[Span]] = {}
    for span in http(bookinfo.spans):
        by_parent.setdefault(span.parent_id, []).append(span)
    [root] = by_parent[""]
    assert (root.kind, owner(root, truth)) == ("SERVER", "ingress/envoy")
    found = []

    def walk(server: Span) -> None:
        for client in sorted(by_parent.get(server.span_id, ()), key=lambda s: s.start_ns):
            assert client.kind == "CLIENT" and owner(client, truth) == owner(server, truth), client
            [served] = by_parent[client.span_id]
            assert served.kind == "SERVER", served
            found.append((owner(client, truth), owner(served, truth)))
            walk(served)

    walk(root)
    assert found == list(HOPS)
    assert len(http(bookinfo.spans)) == 1 + 2 * len(HOPS)
    assert {span.resource["k8s.node.name"] for span in http(bookinfo.spans)} == {"n1", "n2"}


def test_every_interface_of_the_way_is_in_the_trace(bookinfo: Seen, chart: Chart, truth: Truth) -> None:
    """As the kernel's routes name them: the pods' own, their ends at the node, VXLAN, the node's link."""

    def pair(pod: Json) -> tuple[tuple[str, str], tuple[str, str]]:
        node, address = chart.cluster.nodes[pod["spec"]["nodeName"]], pod["status"]["podIP"]
        [route] = json.loads(node.run(["ip", "-j", "route", "get", address]))
        return ("pod", "eth0"), ("pod", route["dev"])

    spans = {span.span_id: span for span in bookinfo.spans}
    found: dict[str, list[tuple[str, str, str]]] = {}
    for span in sorted(bookinfo.spans, key=lambda s: s.start_ns):
        if span.kind == "INTERNAL":
            side, _, place = span.attributes["zerospan.point"].partition(".")
            assert span.resource["k8s.node.name"] in ("n1", "n2")
            found.setdefault(span.parent_id, []).append((side, place, span.attributes["network.interface.name"]))
    calls = [s for s in http(bookinfo.spans) if s.kind == "CLIENT"]
    crossed = 0
    for call in calls:
        [served] = [s for s in http(bookinfo.spans) if s.parent_id == call.span_id]
        ends = [truth.of_container(truth.of_process(int(s.resource["process.pid"]))) for s in (call, served)]
        assert ends[0] and ends[1]
        client, server = ends[0][0], ends[1][0]
        if client is server:
            assert call.span_id not in found, "a call inside a pod passes no interface"
            continue
        across = client["spec"]["nodeName"] != server["spec"]["nodeName"]
        tunnel = [("node", "vx0"), ("node", "eth0")] if across else []
        wanted = [("client", *end) for end in (*pair(client), *tunnel)]
        wanted += [("server", *end) for end in (*reversed(tunnel), *reversed(pair(server)))]
        assert found.pop(call.span_id) == wanted, call
        crossed += across
    assert crossed == 3
    [(parent, entry)] = found.items()  # what came from outside, at the door
    assert spans[parent].parent_id == ""
    passed = [("node", "eth0")] if bookinfo.door == "n1" else [("node", "eth0"), ("node", "vx0"), ("node", "eth0")]
    ingress = truth.pod("bookinfo", "ingress")
    into = [("node", "eth0"), ("node", "vx0")] if bookinfo.door == "n2" else []
    if bookinfo.door == "n1":
        assert entry == [("server", *end) for end in (*passed, *reversed(pair(ingress)))]
    else:
        assert [(place, name) for _, place, name in entry] == [*passed, *into, *reversed(pair(ingress))]


def test_interfaces_of_pods_say_whose_they_are(bookinfo: Seen, truth: Truth) -> None:
    addresses = {pod["status"]["podIP"]: pod for pod in truth.all("bookinfo")}
    seen = 0
    for span in bookinfo.spans:
        point = span.attributes.get("zerospan.point", "")
        if not point.endswith(".pod"):
            continue
        side = "source.address" if point.startswith("client") else "destination.address"
        pod = addresses[span.attributes[side]]
        said = {name: span.attributes.get(name) for name in ("k8s.namespace.name", "k8s.pod.name", "k8s.node.name")}
        wanted = truth.expected(pod)
        assert said == {name: wanted[name] for name in said}, span
        assert span.resource["k8s.node.name"] == pod["spec"]["nodeName"]
        seen += 1
    assert seen >= 4 * 4


def check_ends(spans: list[Span], truth: Truth) -> int:
    """Each process's span has the tags of the container that the kernel says it is in, and of the pod at its other end.
    Returns how many ends were judged."""
    by_id = {span.span_id: span for span in spans}
    judged = 0
    for span in spans:
        if span.kind not in ("CLIENT", "SERVER"):
            continue
        faults, _ = truth.of_record(span.resource)
        assert not faults, (span.name, span.kind, faults, span.resource)
        judged += 1
        others = (
            [s for s in spans if s.parent_id == span.span_id and s.kind == "SERVER"] if span.kind == "CLIENT" else []
        )
        if span.kind == "SERVER" and span.parent_id in by_id and by_id[span.parent_id].kind == "CLIENT":
            others = [by_id[span.parent_id]]
        for other in others:
            found = truth.of_container(str(other.resource.get("container.id", "")))
            if found is None:
                continue
            if (
                span.attributes.get("network.transport") == "udp"
                and "zerospan.peer.k8s.pod.name" not in span.attributes
            ):
                # a datagram's other end on another node is known by the service's address alone
                assert span.attributes["service.peer.name"] == truth.expected(found[0])["service.name"], span
                assert span.attributes.get("zerospan.peer.k8s.service.name") in truth.services_of(found[0]), span
                continue
            faults = truth.peer_faults(span.attributes, found[0])
            assert not faults, (span.name, span.kind, faults, span.attributes)
            judged += 1
    return judged


def test_every_span_of_it_has_the_tags_of_both_ends(bookinfo: Seen, truth: Truth) -> None:
    assert check_ends(bookinfo.spans, truth) >= 1 + 4 * len(HOPS)
    for span in http(bookinfo.spans):
        found = truth.of_container(str(span.resource["container.id"]))
        assert found and truth.of_process(int(span.resource["process.pid"])) == span.resource["container.id"]


class Way(NamedTuple):
    """How a request goes: from which pod to which, and by what address. `server`: None where the answer names its node
    and app `page` serves."""

    client: tuple[str, str, str]  # namespace, app, node ("": wherever it is)
    url: Callable[[Cluster], str]
    server: tuple[str, str] | None = None


WAYS = {
    "ClusterIP": Way(("more", "hairpin", ""), lambda c: "http://page.more/"),
    "NodePort of the own node": Way(("more", "page", "n1"), lambda c: f"http://{c.n1.address}:30082/"),
    "NodePort of the other node": Way(("more", "page", "n1"), lambda c: f"http://{c.n2.address}:30082/"),
    "NodePort of the other node, back": Way(("more", "page", "n2"), lambda c: f"http://{c.n1.address}:30082/"),
    "hairpin": Way(("more", "hairpin", ""), lambda c: "http://hairpin.more/", ("more", "hairpin")),
    "into the node's network": Way(("more", "page", "n1"), lambda c: "http://on-host.more/", ("more", "on-host")),
    "into the own node's network": Way(("more", "page", "n2"), lambda c: "http://on-host.more/", ("more", "on-host")),
    "out of the node's network": Way(("more", "on-host", ""), lambda c: "http://page.more/"),
}


class Asked(NamedTuple):
    """One request: which pod asked, which answered, by its User-Agent."""

    agent: str
    client: Json
    server: Json


@pytest.fixture(scope="module")
def asked(chart: Chart, truth: Truth) -> dict[str, list[Asked]]:
    """Some requests of each way; what answers says where it is."""
    found: dict[str, list[Asked]] = {}
    pages = {node: truth.pod("more", "page", node) for node in chart.cluster.nodes}
    for way, (client, url, server) in WAYS.items():
        asking = truth.pod(*client)
        answering = truth.pod(*server) if server else None
        for _ in range(4):  # a service of two pods: either answers
            body = ask(chart.cluster, asking, url(chart.cluster), agent := rid())
            found.setdefault(way, []).append(Asked(agent, asking, answering or pages[body.strip()]))
    return found


@pytest.mark.parametrize("way", WAYS)
def test_both_ends_are_right_whatever_translates_the_addresses(
    way: str, asked: dict[str, list[Asked]], truth: Truth, stack: Stack
) -> None:
    for agent, client, server in asked[way]:
        spans = settled_trace(stack, f'{{ span.user_agent.original = "{agent}" }}', process_spans=2, settle_s=0)
        call, served = sorted(http(spans), key=lambda s: s.kind)
        assert (call.kind, served.kind, served.parent_id) == ("CLIENT", "SERVER", call.span_id)
        for span, own, other in ((call, client, server), (served, server, client)):
            faults = truth.faults(span.resource, own, own["spec"]["containers"][0]["name"])
            assert not faults, (span.kind, faults, span.resource)
            faults = truth.peer_faults(span.attributes, other)
            if faults and span is served and other["spec"].get("hostNetwork"):
                # a client at a node's own address: from another node its name is known, and the node, not the pod
                assert "zerospan.peer.k8s.pod.name" not in span.attributes, span.attributes
                wanted = truth.peer(other)
                known = {name: wanted[name] for name in ("service.peer.name", "zerospan.peer.k8s.node.name")}
                faults = differences(span.attributes, known)
            assert not faults, (span.kind, faults, span.attributes)


def test_the_shop_is_right_at_both_ends(chart: Chart, truth: Truth, stack: Stack) -> None:
    """Deployments and a StatefulSet; HTTP, Redis, PostgreSQL, FastCGI-like front ends."""
    name = rid()
    order = ["--json", '{"item":3,"quantity":2}']
    assert curl_from_outside(f"http://{chart.cluster.n1.address}:30081/r/{name}/orders", *order)[0] == 201
    spans = settled_trace(stack, f'{{ span.url.path =~ ".*{name}.*" }}', process_spans=8)
    assert check_ends(spans, truth) >= 8
    kinds = {span.resource.get("zerospan.k8s.workload.kind") for span in spans if span.kind == "SERVER"}
    assert {"Deployment", "StatefulSet"} <= kinds, kinds


NAMES = ("http_server_request_duration_seconds_count", "http_client_request_duration_seconds_count",
         "traces_spanmetrics_calls_total", "db_client_operation_duration_seconds_count")  # fmt: skip
JOINED = ("container_id, process_pid, k8s_cluster_name, k8s_namespace_name, k8s_pod_name, k8s_pod_uid, k8s_pod_ip,"
          " k8s_node_name, k8s_node_uid, k8s_container_name, container_image_name, k8s_deployment_name,"
          " k8s_replicaset_name, k8s_statefulset_name, k8s_daemonset_name, k8s_job_name, k8s_cronjob_name,"
          " k8s_service_name, zerospan_k8s_workload_name, cloud_availability_zone, cloud_region,"
          " service_namespace")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_series_of_a_pod_joins_its_tags(name: str, chart: Chart, truth: Truth, stack: Stack) -> None:
    truth.refresh()
    all_of_them = stack.promql(f"count({name})")
    joined = stack.promql(f"{name} * on (job, instance) group_left ({JOINED}) target_info")
    total = float(all_of_them[0]["value"][1])
    assert len(joined) >= 0.99 * total > 0, "series without target_info, or with two"  # one may come between the two
    pods = set()
    for one in joined:
        metric: dict[str, Any] = dict(one["metric"])
        # job says both names, as OpenTelemetry maps them
        metric["service_namespace"], _, metric["service_name"] = metric["job"].rpartition("/")
        faults, pod = truth.of_record(metric, flat=True)
        assert not faults, (faults, metric)
        pods.add(pod)
    assert len(pods - {""}) >= 2


def test_every_log_line_of_a_pod_has_its_tags(chart: Chart, truth: Truth, stack: Stack) -> None:
    truth.refresh()
    pods: dict[str, set[str]] = {}
    for namespace in ("bookinfo", "shop", "more", "zerospan", "kube-system"):
        lines = stack.logql(f'{{k8s_namespace_name="{namespace}"}}', since_s=60, limit=1500)
        for line in lines:
            assert set(line.labels) <= {"service_name", "k8s_namespace_name", "k8s_cluster_name", "source"}
            faults, pod = truth.of_record({**line.labels, **line.metadata}, flat=True)
            assert not faults, (faults, line)
            assert pod, line
            pods.setdefault(namespace, set()).add(pod)
    assert all(len(found) >= 2 for name, found in pods.items() if name in ("bookinfo", "shop", "more")), pods
    for line in stack.logql('{service_name=~".+", k8s_namespace_name=""}', since_s=60, limit=1500, at_least=0):
        faults, pod = truth.of_record({**line.labels, **line.metadata}, flat=True)
        assert not faults and not pod, (faults, pod, line)


def test_both_containers_of_a_pod_are_told_apart(bookinfo: Seen, truth: Truth) -> None:
    """The program and its side car, in the same pod and at the same address; init containers have ended before."""
    pod = truth.pod("bookinfo", "productpage")
    names = {s.resource["k8s.container.name"] for s in bookinfo.spans
             if s.resource.get("k8s.pod.uid") == pod["metadata"]["uid"]}  # fmt: skip
    assert names == {"productpage", "envoy"}
    assert "mesh-init" in json.dumps(pod["status"]["initContainerStatuses"])


def test_the_agents_lose_nothing_and_know_all(chart: Chart) -> None:
    for name in chart.cluster.nodes:
        status = chart.status(name)
        assert status["enricher"]["connected"] and status["enricher"]["in_sync"], status["enricher"]
        assert set(status["dropped"]) <= {"nic_unmatched"}, status["dropped"]


def test_the_agents_have_the_rights_that_check_names_and_no_other(chart: Chart) -> None:
    """By the kernel's word for the process: CAP_SYS_RESOURCE is for kernels before 5.11."""
    from zerospan.exporter.cli.machine import CAPABILITIES

    wanted = {number for number, name, _ in CAPABILITIES if name != "CAP_SYS_RESOURCE"}
    for name, node in chart.cluster.nodes.items():
        said = chart.cluster.kubectl(
            "exec", "-n", "zerospan", chart.pod(name), "-c", "agent", "--", "cat", "/proc/1/comm"
        )
        assert said, "hostPID: process 1 is the machine's"
        pids = subprocess.run(["pgrep", "-f", "zerospan run --config /etc/zerospan/agent.yaml"],
                              capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
        mine = [pid for pid in pids if node.cgroup_path in Path(f"/proc/{pid}/cgroup").read_text()]
        [pid] = mine
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        held = {bit for bit in range(64) if int(status["CapEff"], 16) >> bit & 1}
        assert held == wanted
        assert status["CapBnd"] == status["CapEff"] and status["NoNewPrivs"].strip() == "1"
