"""Pods, nodes, Services and owners: which keys mean what, since when and until when."""

from __future__ import annotations

import random
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kubernetes_kit import Rig
from kubernetes_objects import (
    DEPLOYMENTS,
    INGRESSES,
    JOBS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICES,
    SLICES,
    at,
    container_id,
    endpoints,
    ingress,
    namespace,
    node,
    ns_at,
    owner,
    pod,
    replicaset,
    service,
    uid_of,
)

from zerospan.enricher import keys
from zerospan.enricher.source import Layer

RS = [owner("ReplicaSet", "cart-5d4f")]
HASH = {"pod-template-hash": "5d4f"}


def cart(name: str = "cart-5d4f-x", ip: str = "10.244.1.7", **more: Any) -> dict[str, Any]:
    return pod(name, ip, **{"owners": RS, "labels": HASH} | more)


def test_a_pod_and_its_container_have_all_their_tags() -> None:
    rig = Rig()
    rig.put(NAMESPACES, namespace("kube-system"))
    labels = {
        "topology.kubernetes.io/zone": "eu-1b",
        "topology.kubernetes.io/region": "eu-1",
        "node.kubernetes.io/instance-type": "m6i.large",
    }
    rig.put(NODES, node("n1", "172.30.0.11", labels=labels, provider="aws:///eu-1b/i-0f3a"))
    one = cart(annotations={"resource.opentelemetry.io/deployment.environment.name": "production"})
    rig.put(PODS, one)
    uid = one["metadata"]["uid"]
    node_tags = {
        "k8s.cluster.name": "test",
        "k8s.cluster.uid": uid_of("/kube-system"),
        "k8s.node.name": "n1",
        "k8s.node.uid": uid_of("/n1"),
        "cloud.provider": "aws",
        "cloud.availability_zone": "eu-1b",
        "cloud.region": "eu-1",
        "host.id": "i-0f3a",
        "host.name": "n1",
        "host.ip": "172.30.0.11",
        "host.arch": "amd64",
        "host.type": "m6i.large",
        "os.type": "linux",
        "os.description": "Debian GNU/Linux 12",
    }
    pod_tags = node_tags | {
        "k8s.namespace.name": "shop",
        "k8s.pod.name": "cart-5d4f-x",
        "k8s.pod.uid": uid,
        "k8s.pod.ip": "10.244.1.7",
        "k8s.pod.start_time": at(0),
        "k8s.deployment.name": "cart",
        "k8s.replicaset.name": "cart-5d4f",
        "zerospan.k8s.workload.kind": "Deployment",
        "zerospan.k8s.workload.name": "cart",
        "service.name": "cart",
        "service.namespace": "shop",
        "deployment.environment.name": "production",
    }
    assert rig.address("172.30.0.11") == rig.tags(keys.node("n1")) == node_tags
    assert rig.address("10.244.1.7") == rig.tags(keys.pod(uid)) == pod_tags
    id = container_id(f"{uid}/app/0")
    assert rig.tags(keys.container(id)) == pod_tags | {
        "k8s.container.name": "app",
        "k8s.container.restart_count": "0",
        "container.id": id,
        "container.runtime": "containerd",
        "container.image.name": "registry:5000/shop/cart",
        "container.image.tags": "1.4.2",
        "service.version": "1.4.2",
        "container.image.repo_digests": "registry:5000/shop/cart@sha256:" + "ab" * 32,
        "service.instance.id": "shop.cart-5d4f-x.app",
    }
    assert set(rig.store.of_node("n1")) >= {keys.pod(uid), keys.container(id), keys.address("10.244.1.7")}


@pytest.mark.parametrize(
    ("owned", "labels", "wanted"),
    [
        ([], {}, {"service.name": "p"}),
        ([owner("StatefulSet", "pg")], {}, {"service.name": "pg", "k8s.statefulset.name": "pg"}),
        ([owner("DaemonSet", "agent")], {}, {"service.name": "agent", "k8s.daemonset.name": "agent"}),
        ([owner("Rollout", "cart")], {}, {"service.name": "cart", "zerospan.k8s.workload.kind": "Rollout"}),
        (
            [owner("ReplicaSet", "cart-99")],
            {"rollouts-pod-template-hash": "99"},
            {"service.name": "cart", "zerospan.k8s.workload.kind": "Rollout", "k8s.replicaset.name": "cart-99"},
        ),
        (
            [owner("ReplicaSet", "solo")],
            {"pod-template-hash": "x"},
            {"service.name": "solo", "k8s.replicaset.name": "solo"},
        ),
        ([owner("Node", "n1", "")], {}, {"service.name": "p"}),
        ([owner("StatefulSet", "pg") | {"controller": False}], {}, {"service.name": "p"}),
        ([owner("StatefulSet", "pg")], {"app.kubernetes.io/name": "postgres"}, {"service.name": "postgres"}),
    ],
)
def test_owners(owned: list[dict[str, Any]], labels: dict[str, str], wanted: dict[str, str]) -> None:
    rig = Rig()
    rig.put(PODS, pod("p", "10.0.0.1", owners=owned, labels=labels))
    found = rig.address("10.0.0.1")
    assert {name: found.get(name) for name in wanted} == wanted
    if "zerospan.k8s.workload.kind" not in wanted and not owned or owned[0]["kind"] == "Node":
        assert "zerospan.k8s.workload.kind" not in found


def test_a_cronjob_is_found_by_its_job_or_by_the_jobs_name() -> None:
    minute = int(ns_at(0) / 60e9)
    rig = Rig()
    rig.put(PODS, pod("report-x", "10.0.0.1", owners=[owner("Job", f"report-{minute}")], start=5))
    assert rig.address("10.0.0.1")["k8s.cronjob.name"] == "report"
    rig.put(PODS, pod("backup-x", "10.0.0.2", owners=[owner("Job", "backup-12345678")], start=5))  # of another day
    assert "k8s.cronjob.name" not in rig.address("10.0.0.2")
    job = {"metadata": replicaset("backup-12345678", owner("CronJob", "backup"), "")["metadata"]}
    job["metadata"]["uid"] = uid_of("shop/Job/backup-12345678")
    rig.put(JOBS, job)  # later than the pod
    assert rig.address("10.0.0.2")["k8s.cronjob.name"] == rig.address("10.0.0.2")["service.name"] == "backup"


def test_a_replicaset_that_is_told_late_corrects_its_pods_from_their_beginning() -> None:
    rig = Rig()
    rig.put(PODS, pod("cart-zz-x", "10.0.0.1", owners=[owner("ReplicaSet", "cart-zz")], start=50))
    assert rig.address("10.0.0.1")["service.name"] == "cart-zz"
    rig.put(REPLICASETS, replicaset("cart-zz", owner("Rollout", "cart"), "zz"))
    assert rig.address("10.0.0.1", 60)["service.name"] == rig.address("10.0.0.1")["service.name"] == "cart"


def test_an_address_that_is_used_again_belongs_to_each_pod_in_its_time() -> None:
    rig = Rig()
    old, new = cart("old", uid=uid_of("a")), cart("new", uid=uid_of("b"), start=60)
    rig.put(PODS, old)
    rig.now = 62
    rig.put(PODS, new)  # before anyone said that the old one has gone
    rig.now = 70
    late = cart("old", uid=uid_of("a"), ended=50, dying=50)
    rig.put(PODS, late)
    rig.delete(PODS, late)
    for when, who in [(0, ""), (1, "old"), (30, "old"), (50, "old"), (51, ""), (60, ""), (62, "new"), (70, "new")]:
        assert rig.pod_at("10.244.1.7", when) == who, when
    assert rig.tags(keys.pod(uid_of("a")), 52) == {} and rig.tags(keys.pod(uid_of("b")))


def test_within_one_second_an_address_is_nobodys() -> None:
    rig = Rig()
    rig.put(PODS, cart("old", uid=uid_of("a"), ended=60, phase="Succeeded"))
    rig.put(PODS, cart("new", uid=uid_of("b"), start=59))  # its container began in the very second
    assert [rig.pod_at("10.244.1.7", t) for t in (59.9, 60, 60.99, 61)] == ["old", "", "", "new"]


def test_late_news_of_an_old_pod_never_end_what_the_new_one_has() -> None:
    rig = Rig()
    old = cart("old", uid=uid_of("a"))
    rig.put(PODS, old, cart("new", uid=uid_of("b"), start=60))
    for news in (old, cart("old", uid=uid_of("a"), dying=90), cart("old", uid=uid_of("a"), restarts=1)):
        rig.put(PODS, news)
        assert rig.pod_at("10.244.1.7") == "new"
    rig.delete(PODS, old)
    assert rig.pod_at("10.244.1.7") == "new"


def test_a_pod_that_has_finished_frees_its_address_at_its_last_second() -> None:
    for phase in ("Succeeded", "Failed"):
        rig = Rig()
        rig.put(PODS, cart())
        rig.put(PODS, cart(ended=40, phase=phase))
        assert rig.pod_at("10.244.1.7", 40.5) and not rig.pod_at("10.244.1.7", 41)


def test_a_pod_that_lives_two_seconds_and_is_seen_only_dead() -> None:
    rig = Rig()
    dead = cart(start=80, ended=83, phase="Succeeded")
    rig.delete(PODS, dead)
    assert [bool(rig.pod_at("10.244.1.7", t)) for t in (80, 81, 83, 84)] == [False, True, True, False]


def test_restarted_containers_keep_their_own_ids_and_times() -> None:
    rig = Rig()
    rig.put(PODS, cart(restarts=1))
    uid = cart()["metadata"]["uid"]
    before, now = (keys.container(container_id(f"{uid}/app/{n}")) for n in (0, 1))
    assert rig.tags(before, 5) and not rig.tags(before, 11) and not rig.tags(now, 5) and rig.tags(now, 12)
    rig.put(PODS, cart(restarts=2))
    assert rig.tags(before, 5) and not rig.tags(now) and rig.tags(keys.container(container_id(f"{uid}/app/2")))


def test_a_pod_on_the_hosts_network_has_its_ports_and_the_node_its_address() -> None:
    rig = Rig()
    rig.put(NODES, node("n1", "172.30.0.11"))
    proxy = pod("proxy", "172.30.0.11", host_network=True)
    proxy["spec"]["containers"][0]["ports"] = [{"containerPort": 9100}, {"containerPort": 53, "protocol": "UDP"}]
    rig.put(PODS, proxy)
    assert "k8s.pod.name" not in rig.address("172.30.0.11")
    assert rig.tags(keys.endpoint("172.30.0.11", 9100))["k8s.pod.name"] == "proxy"
    assert rig.tags(keys.endpoint("172.30.0.11", 53, keys.UDP)) and not rig.tags(keys.endpoint("172.30.0.11", 53))
    rig.delete(PODS, proxy)
    assert not rig.tags(keys.endpoint("172.30.0.11", 9100)) and rig.address("172.30.0.11")


def test_services_are_named_as_the_pods_behind_them() -> None:
    rig = Rig()
    one, two = cart("a", "10.244.1.1"), cart("b", "10.244.1.2")
    rig.put(NODES, node("n1", "172.30.0.11"), node("n2", "172.30.0.12"))
    rig.put(SERVICES, service("front", "10.96.0.5", ports=((80, 30080),), type="NodePort", externalIPs=["203.0.113.9"]))
    assert rig.address("10.96.0.5")["service.name"] == "front"
    rig.put(SLICES, endpoints("front", one, two))
    rig.put(PODS, one, two)
    rig.put(INGRESSES, ingress("web", "front"))
    for key in (
        keys.address("10.96.0.5"),
        keys.endpoint("10.96.0.5", 80),
        keys.address("203.0.113.9"),
        keys.endpoint("172.30.0.11", 30080),
        keys.endpoint("172.30.0.12", 30080),
    ):
        found = rig.tags(key)
        assert (found["service.name"], found["k8s.service.name"], found["zerospan.k8s.workload.name"]) == (
            "cart",
            "front",
            "cart",
        )
        assert found["zerospan.k8s.ingress.name"] == "web" and found["zerospan.k8s.service.type"] == "NodePort"
    assert rig.address("10.244.1.1")["k8s.service.name"] == "front"
    assert rig.address("10.244.1.2")["zerospan.k8s.ingress.name"] == "web"
    rig.put(PODS, pod("c", "10.244.1.3"))
    rig.put(SLICES, endpoints("front", one, two, pod("c", "10.244.1.3")))  # now they do not agree
    assert rig.address("10.96.0.5")["service.name"] == "front"
    rig.put(SLICES, endpoints("front", two))
    assert rig.address("10.96.0.5")["service.name"] == "cart" and "k8s.service.name" not in rig.address("10.244.1.1")
    rig.put(NODES, node("n3", "172.30.0.13"))
    assert rig.tags(keys.endpoint("172.30.0.13", 30080))
    rig.delete(SERVICES, service("front", "10.96.0.5"))
    assert not rig.address("10.96.0.5") and not rig.tags(keys.endpoint("172.30.0.11", 30080))
    assert "k8s.service.name" not in rig.address("10.244.1.2")


def test_a_headless_service_has_no_address_but_names_its_pods() -> None:
    rig = Rig()
    one = cart("a", "10.244.1.1")
    rig.put(SERVICES, service("all", "None"))
    rig.put(SLICES, endpoints("all", one))
    rig.put(PODS, one)
    assert rig.address("10.244.1.1")["k8s.service.name"] == "all"
    assert not [key for key in rig.open() if rig.tags(key).get("k8s.service.uid") and key[:1] == keys.ENDPOINT]


def test_an_external_address_that_is_a_nodes_stays_the_nodes_but_for_the_port() -> None:
    rig = Rig()
    rig.put(SERVICES, service("front", "10.96.0.5", externalIPs=["172.30.0.11"]))
    rig.put(NODES, node("n1", "172.30.0.11"))
    assert "k8s.service.name" not in rig.address("172.30.0.11")
    assert rig.tags(keys.endpoint("172.30.0.11", 80))["k8s.service.name"] == "front"


def test_a_nodes_tags_that_change_reach_its_containers() -> None:
    rig = Rig(cluster_name="")
    one = cart()
    rig.put(PODS, one)
    rig.put(NODES, node("n1", "172.30.0.11", labels={"alpha.eksctl.io/cluster-name": "prod"}))
    rig.put(NAMESPACES, namespace("kube-system"))
    found = rig.tags(keys.container(container_id(f"{one['metadata']['uid']}/app/0")))
    assert found["k8s.cluster.name"] == "prod" and found["k8s.cluster.uid"] == uid_of("/kube-system")
    assert found["host.ip"] == "172.30.0.11"


def test_labels_annotations_and_variables_only_by_glob() -> None:
    picks = {
        "pod_labels": ["team*"],
        "pod_annotations": ["owner"],
        "container_env": ["REGION"],
        "namespace_labels": ["*"],
        "node_labels": ["pool"],
        "workload_labels": ["tier"],
    }
    one = cart(labels={"team-a": "x", "secret": "y"} | HASH, annotations={"owner": "alice", "other": "z"})
    one["spec"]["containers"][0]["env"] = [
        {"name": "REGION", "value": "eu1"},
        {"name": "PASSWORD", "value": "s3cr3t"},
        {"name": "REGION2", "value": "no"},
    ]
    deployment = replicaset("cart", None, "")
    deployment["metadata"]["labels"] = {"tier": "front"}
    for late in (False, True):
        rig = Rig(picks=picks)
        facts: list[tuple[str, Any]] = [
            (NAMESPACES, namespace("shop", {"tenant": "a"})),
            (NODES, node("n1", "172.30.0.11", labels={"pool": "blue"})),
            (DEPLOYMENTS, deployment),
        ]
        for resource, obj in [(PODS, one), *facts] if late else [*facts, (PODS, one)]:
            rig.put(resource, obj)
        found = rig.tags(keys.container(container_id(f"{one['metadata']['uid']}/app/0")))
        wanted = {
            "k8s.pod.label.team-a": "x",
            "k8s.pod.annotation.owner": "alice",
            "zerospan.k8s.container.env.REGION": "eu1",
            "k8s.namespace.label.tenant": "a",
            "k8s.node.label.pool": "blue",
            "k8s.deployment.label.tier": "front",
        }
        assert {k: v for k, v in found.items() if ".label." in k or ".annotation." in k or ".env." in k} == wanted
        assert "s3cr3t" not in str(found)
    plain = Rig()
    plain.put(PODS, one)
    assert not [name for name in plain.address("10.244.1.7") if ".label." in name or ".env." in name]


def test_a_static_pod_is_known_by_the_uid_that_its_cgroup_has() -> None:
    rig = Rig()
    hash = "ab" * 16
    rig.put(
        PODS,
        pod("etcd-n1", "10.0.0.1", owners=[owner("Node", "n1", "")], annotations={"kubernetes.io/config.mirror": hash}),
    )
    assert rig.tags(keys.pod(hash))["k8s.pod.name"] == "etcd-n1"


def test_times_of_any_day_and_of_any_form() -> None:
    """Kubernetes' own form is read in a hurry, other forms of RFC 3339 as well, what is no time as none."""
    rng = random.Random(5)
    stamps = [datetime.fromtimestamp(rng.randrange(4_000_000_000), UTC) for _ in range(2000)]
    texts = [stamp.strftime("%Y-%m-%dT%H:%M:%SZ") for stamp in stamps]
    for year in (1972, 2000, 2024, 2026, 2096):
        texts += [f"{year}-{day}T23:59:59Z" for day in ("01-01", "02-28", "12-31")]
    texts += [
        "2024-02-29T00:00:00Z",
        "2026-11-23T14:22:05.123456Z",
        "2026-11-23T15:22:05+01:00",
        "1969-12-31T23:59:59Z",
    ]
    rig = Rig(now=0)
    for i, text in enumerate(texts):
        one = pod(f"p{i}", uid=f"{i:08x}-0000-4000-8000-000000000000", containers=())
        one["metadata"]["creationTimestamp"] = one["status"]["startTime"] = text
        rig.put(PODS, one)
        held = rig.store.held(keys.pod(one["metadata"]["uid"]), Layer.KUBERNETES)
        assert held is not None and held.since_ns == round(datetime.fromisoformat(text).timestamp() * 1e6) * 1000, text
    odd = ("", "soon", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-11-23T24:00:0xZ", "x" * 20)
    for i, text in enumerate(odd):
        one = pod(f"odd{i}", uid=f"{i:08x}-0000-4000-8000-00000000000f", containers=())
        one["metadata"]["creationTimestamp"] = one["status"]["startTime"] = text
        rig.put(PODS, one)
        held = rig.store.held(keys.pod(one["metadata"]["uid"]), Layer.KUBERNETES)
        assert held is not None and held.since_ns == 0, text
