"""What a cluster's objects may say of each other, lose of each other, and leave behind when they go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kubernetes_kit import Rig
from kubernetes_objects import (
    JOBS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICES,
    SLICES,
    at,
    endpoints,
    namespace,
    node,
    owner,
    pod,
    replicaset,
    service,
    uid_of,
)

from zerospan.enricher import keys

SAYS = "resource.opentelemetry.io/"


def job(name: str, parent: dict[str, Any] | None, labels: dict[str, str] | None = None) -> dict[str, Any]:
    made: dict[str, Any] = replicaset(name, parent, "")
    made["metadata"] |= {"uid": uid_of(f"shop/Job/{name}"), "labels": labels or {}}
    return made


# -- annotations


def test_an_annotation_does_not_say_where_a_pod_stands() -> None:
    rig = Rig(picks={"namespace_labels": ["*"]})
    rig.put(NAMESPACES, namespace("bank", {"tier": "gold"}), namespace("shop", {"tier": "tin"}))
    said = {
        "k8s.namespace.name": "bank",
        "k8s.deployment.name": "ledger",
        "k8s.node.name": "n9",
        "k8s.pod.ip": "10.9.9.9",
        "zerospan.k8s.workload.name": "ledger",
        "deployment.environment.name": "production",
        "empty": "",
    }
    liar = pod("p", "10.0.0.1", owners=[owner("StatefulSet", "pg")], annotations={SAYS + k: v for k, v in said.items()})
    rig.put(PODS, liar)
    found = rig.address("10.0.0.1")
    assert found["k8s.namespace.name"] == "shop" and found["k8s.namespace.label.tier"] == "tin"
    assert found["k8s.node.name"] == "n1" and found["zerospan.k8s.workload.name"] == "pg"
    assert found["k8s.pod.ip"] == "10.0.0.1" and "k8s.deployment.name" not in found and "empty" not in found
    assert found["deployment.environment.name"] == "production"
    assert rig.cluster.dropped == {"annotation_refused": 5}


def test_an_empty_namespace_in_an_annotation_costs_nobody_anything() -> None:
    rig = Rig()
    odd = pod("odd", "10.0.0.1", annotations={SAYS + "k8s.namespace.name": ""})
    others = [pod(f"p{i}", f"10.0.1.{i}") for i in range(5)]
    rig.put(SERVICES, service("front", "10.96.0.5"))
    rig.put(PODS, odd, *others)
    rig.put(SLICES, endpoints("front", *others, odd))
    for ip in ("10.0.0.1", *(f"10.0.1.{i}" for i in range(5))):
        assert rig.address(ip)["k8s.service.name"] == "front" and rig.address(ip)["k8s.namespace.name"] == "shop"


def test_a_pod_that_cannot_be_made_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    pods = [pod(f"p{i}", f"10.0.1.{i}") for i in range(5)]
    rig.put(SERVICES, service("front", "10.96.0.5"))
    rig.put(PODS, *pods)
    services = rig.cluster.services
    change, failed = services._pod_changed, []

    def once(key: bytes) -> None:
        if not failed:
            failed.append(key)
            raise KeyError
        change(key)

    monkeypatch.setattr(services, "_pod_changed", once)
    with pytest.raises(KeyError):
        rig.put(SLICES, endpoints("front", *pods))
    rig.put(SERVICES, service("other", "10.96.0.6"))
    named = [p for p in pods if rig.tags(keys.pod(p["metadata"]["uid"])).get("k8s.service.name") == "front"]
    assert len(named) == 4


# -- addresses


def rebooted(one: dict[str, Any], ip: str, seconds: float, bare: bool = False) -> dict[str, Any]:
    """The same pod after its node came up again: another container, another address (bare: none yet)."""
    status = one["status"]["containerStatuses"][0]
    began = status["state"]["running"]["startedAt"]
    status["lastState"] = {"terminated": {"containerID": status["containerID"], "startedAt": began}}
    status["lastState"]["terminated"]["finishedAt"] = at(seconds - 10)
    status |= {"restartCount": 1, "containerID": status["containerID"][:-4] + "ffff"}
    status["state"] = {"running": {"startedAt": at(seconds)}}
    one["status"] |= {"podIP": ip, "podIPs": [{"ip": ip}]}
    if bare:
        del one["status"]["podIP"], one["status"]["podIPs"]
    return one


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_addresses_that_pods_exchange_at_a_reboot(turned: bool, bare: bool) -> None:
    rig = Rig()
    rig.put(PODS, pod("a", "10.0.0.1", start=10), pod("b", "10.0.0.2", start=20))
    rig.now = 200
    news = [("a", "10.0.0.2", 10), ("b", "10.0.0.1", 20)]
    for name, ip, start in reversed(news) if turned else news:
        old = pod(name, "10.0.0.9", start=start)
        if bare:
            rig.put(PODS, rebooted(pod(name, "", start=start), ip, 190, bare))
        rig.put(PODS, rebooted(old, ip, 190))
    rig.now = 300
    assert rig.pod_at("10.0.0.2") == "a" and rig.pod_at("10.0.0.1") == "b"
    assert rig.pod_at("10.0.0.1", 100) == "a" and rig.pod_at("10.0.0.2", 100) == "b"  # history stays as it was
    for name, ip, start in news:  # and further news of the same change nothing
        rig.put(PODS, rebooted(pod(name, "10.0.0.9", start=start), ip, 190))
    assert rig.pod_at("10.0.0.2") == "a" and rig.pod_at("10.0.0.1") == "b"
    assert rig.pod_at("10.0.0.1", 100) == "a" and rig.pod_at("10.0.0.2", 100) == "b"


def test_the_last_news_of_a_dead_pod_take_no_address_from_a_living_one() -> None:
    rig = Rig()
    rig.put(PODS, pod("a", "10.0.0.1", start=10), pod("b", "10.0.0.2", start=20))
    rig.now = 200
    last = pod("a", "10.0.0.2", start=10, ended=150, phase="Failed")  # that it had changed its address nobody told
    rig.put(PODS, last)
    rig.delete(PODS, last)
    assert [rig.pod_at("10.0.0.2", t) for t in (100, 150, 199, 200, 201)] == ["b"] * 5 and not rig.pod_at("10.0.0.1")


def test_an_address_that_comes_after_its_container_is_the_pods_from_the_containers_start() -> None:
    rig = Rig()
    rig.put(PODS, pod("a", start=10))
    rig.now = 200
    rig.put(PODS, pod("a", "10.0.0.1", start=10))
    assert rig.pod_at("10.0.0.1", 50) == rig.pod_at("10.0.0.1") == "a"


# -- owners


def test_a_pod_that_a_list_lacks_stays_gone_when_its_owner_is_told() -> None:
    rig = Rig()
    rig.put(PODS, pod("j1-x", "10.0.0.1", owners=[owner("Job", "j1")]))
    rig.relist(PODS, [])
    assert not rig.pod_at("10.0.0.1") and rig.cluster.entities()["pod_waiting"] == 0
    rig.put(JOBS, job("j1", owner("CronJob", "cron")))
    assert not rig.pod_at("10.0.0.1")


def test_owners_that_go_before_their_pods() -> None:
    rig = Rig(picks={"pod_labels": ["step"]})
    jobs = {name: job(name, owner("CronJob", "cron") if name == "j1" else None) for name in ("j1", "cron-29398333")}
    rig.put(JOBS, *jobs.values())
    sets = {"web-5d": replicaset("web-5d", owner("Deployment", "web"), "5d")}
    rig.put(REPLICASETS, *sets.values())
    made = [(name, "Job", {}) for name in jobs] + [("web-5d", "ReplicaSet", {"pod-template-hash": "5d"})]

    def state(step: str) -> list[dict[str, Any]]:
        dying = 110 if step == "2" else None
        return [
            pod(f"{name}-x", f"10.0.0.{i}", owners=[owner(kind, name)], labels=labels | {"step": step}, dying=dying)
            for i, (name, kind, labels) in enumerate(made)
        ]

    rig.put(PODS, *state("1"))
    named = [rig.address(f"10.0.0.{i}")["service.name"] for i in range(3)]
    assert named == ["cron", "cron-29398333", "web"]
    for one in jobs.values():
        rig.delete(JOBS, one)
    rig.delete(REPLICASETS, *sets.values())
    rig.put(PODS, *state("2"))
    assert [rig.address(f"10.0.0.{i}")["service.name"] for i in range(3)] == named
    assert rig.address("10.0.0.0")["zerospan.k8s.workload.kind"] == "CronJob"
    assert rig.cluster.entities()["pod_waiting"] == 0
    for one in state("2"):
        rig.delete(PODS, one)
    assert rig.cluster.dropped == {}


def test_owners_that_a_list_lacks_leave_their_labels() -> None:
    rig = Rig(picks={"workload_labels": ["*"]})
    one, two = job("one", None, {"tier": "a"}), job("two", None, {"tier": "b"})
    rig.put(JOBS, one, two)
    rig.put(REPLICASETS, replicaset("web-5d", owner("Deployment", "web"), "5d"))
    rig.relist(JOBS, [two])
    assert {name for kind, _, name in rig.cluster._workloads if kind == "job"} == {"two"}
    assert any(kind == "replicaset" for kind, _, _ in rig.cluster._workloads)
    rig.put(PODS, pod("x", "10.0.0.1", owners=[owner("Job", "two")]))
    assert rig.address("10.0.0.1")["k8s.job.label.tier"] == "b"


# -- node ports


def test_room_for_node_ports_that_is_given_back_is_taken() -> None:
    rig = Rig(node_port_keys=2)
    rig.put(NODES, node("n1", "172.30.0.11"))
    first = service("first", "10.96.0.1", ports=((80, 30080), (81, 30081)), type="NodePort")
    late = service("late", "10.96.0.2", ports=((80, 30082), (81, 30083)), type="NodePort")
    rig.put(SERVICES, first, late)
    assert not rig.tags(keys.endpoint("172.30.0.11", 30082))
    for i in range(3):  # made anew, over and over: no further loss
        rig.put(
            SERVICES, service("late", "10.96.0.2", f"10.96.1.{i}", ports=((80, 30082), (81, 30083)), type="NodePort")
        )
    assert rig.cluster.dropped == {"node_port_no_room": 2}
    rig.delete(SERVICES, first)
    assert rig.tags(keys.endpoint("172.30.0.11", 30082))["k8s.service.name"] == "late"
    assert rig.cluster.services.counts()["node_port_left_out"] == 0
    rig.put(SERVICES, service("first", "10.96.0.1", ports=((80, 30080),), type="NodePort"))
    rig.put(SERVICES, service("late", "10.96.0.2", ports=((80, 30082),), type="NodePort"))  # it needs less now
    assert rig.tags(keys.endpoint("172.30.0.11", 30080))["k8s.service.name"] == "first"
