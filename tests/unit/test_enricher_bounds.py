"""What the Kubernetes source takes of an object, and what it leaves out: counted by name, on /metrics."""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as families

sys.path.insert(0, str(Path(__file__).parent))
from fake_kubernetes import Api
from kubernetes_kit import Rig
from kubernetes_objects import (
    ALL,
    JOBS,
    NODES,
    PODS,
    REPLICASETS,
    SERVICES,
    container_id,
    node,
    owner,
    pod,
    replicaset,
    service,
)

from zerospan.enricher import keys, run
from zerospan.enricher.config import load
from zerospan.enricher.source import Layer
from zerospan.enricher.sources.containers import HostContainers
from zerospan.enricher.sources.kubernetes import cluster, source
from zerospan.enricher.sources.kubernetes.globs import MAX_TAGS, MAX_VALUE
from zerospan.exporter.process.containers import Containers

EVERY = {"pod_labels": ["*"], "pod_annotations": ["*"]}
LABEL, ANNOTATION = "k8s.pod.label.", "k8s.pod.annotation."


def named(n: int, size: int = 16) -> dict[str, str]:
    return {f"example.com/name-{i:03}": f"{i:0{size}}" for i in range(n)}


def under(tags: dict[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)}


def test_100_labels_and_100_annotations_by_one_star_are_all_there() -> None:
    rig = Rig(picks=EVERY)
    labels, annotations = named(100), named(100, 40)
    rs = [owner("ReplicaSet", "cart-5d")]
    hashed = {"pod-template-hash": "5d"}
    for i in range(20):
        rig.put(PODS, pod(f"cart-5d-{i}", f"10.0.0.{i}", owners=rs, labels=labels | hashed, annotations=annotations))
    made = rig.store.sets.made
    for i in range(20):
        container = keys.container(container_id(f"{rig.address(f'10.0.0.{i}')['k8s.pod.uid']}/app/0"))
        for found in (rig.address(f"10.0.0.{i}"), rig.tags(container)):
            assert under(found, LABEL) == labels | hashed and under(found, ANNOTATION) == annotations
    # they lie in the store once, whatever the number of pods
    assert len({id(t.shared) for i in range(20) if (t := rig.store.find(keys.address(f"10.0.0.{i}")))}) == 1
    assert rig.store.sets.made == made and rig.cluster.dropped == {}


def test_what_goes_over_the_bounds_is_left_out_and_counted() -> None:
    rig = Rig(picks=EVERY)
    fits, over = "x" * MAX_VALUE, "x" * (MAX_VALUE + 1)
    wide = "\u20ac" * (MAX_VALUE // 3 + 1)  # few characters, too many bytes
    rig.put(PODS, pod("p", "10.0.0.1", labels=named(MAX_TAGS + 7), annotations={"a": fits, "b": over, "c": wide}))
    found = rig.address("10.0.0.1")
    assert under(found, LABEL) == dict(list(named(MAX_TAGS + 7).items())[:MAX_TAGS])
    assert under(found, ANNOTATION) == {"a": fits}
    assert rig.cluster.dropped == {"tags_too_many": 7, "tag_too_large": 2}
    rig.put(PODS, pod("q", "10.0.0.2", annotations={"resource.opentelemetry.io/team": over, "z": "1"}))
    assert "team" not in rig.address("10.0.0.2") and rig.cluster.dropped["tag_too_large"] == 4


def test_the_same_tags_are_taken_whatever_their_order() -> None:
    rig = Rig(picks=EVERY)
    many = named(MAX_TAGS + 50)
    rig.put(PODS, pod("p", "10.0.0.1", labels=many))
    once = rig.address("10.0.0.1")
    rig.put(PODS, pod("p", "10.0.0.1", labels=dict(reversed(many.items()))))
    assert rig.address("10.0.0.1") == once


def test_addresses_and_owners_that_cannot_be_told_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(node_port_keys=1)
    rig.put(PODS, pod("p", "10.0.0.999"))
    assert rig.cluster.dropped == {"bad_address": 1}
    rig.put(SERVICES, service("s", "10.96.0.x"), service("headless", "None"))
    assert rig.cluster.dropped == {"bad_address": 2}  # None is no address, and nobody takes it for one
    rig.put(NODES, node("n1", "172.30.0.300"), node("n2", "172.30.0.2"))
    assert rig.cluster.dropped == {"bad_address": 3}
    rig.put(SERVICES, service("web", "10.96.0.7", ports=((80, 30080), (81, 30081))))
    assert rig.cluster.dropped == {"bad_address": 3, "node_port_no_room": 2}
    rig.cluster.dropped.clear()
    waits, told = ([owner("ReplicaSet", name)] for name in ("waits", "told"))
    rig.put(PODS, pod("a", "10.0.0.1", owners=waits), pod("b", "10.0.0.2", owners=told))
    rig.put(REPLICASETS, replicaset("told", owner("Rollout", "told"), "x"))
    rig.delete(PODS, pod("b", "10.0.0.2", owners=told))
    assert rig.cluster.dropped == {}
    rig.delete(PODS, pod("a", "10.0.0.1", owners=waits))
    assert rig.cluster.dropped == {"owner_unknown": 1}
    monkeypatch.setattr(cluster, "WAITING", 0)
    rig.put(PODS, pod("c", "10.0.0.3", owners=waits))
    assert rig.cluster.dropped == {"owner_unknown": 1, "owner_wait_full": 1}


# -- static pods


def test_a_mirror_pod_that_is_made_again_keeps_the_static_pods_key() -> None:
    """A static pod's cgroup has the hash of its file; its mirror in the API may be deleted and made again, in any order
    of the news.
    """
    hash = "0123456789abcdef" * 2
    marks = {f"kubernetes.io/config.{name}": hash for name in ("hash", "mirror")}
    for late in (False, True):
        rig = Rig()
        old, new = (
            pod("kube-apiserver-n1", "172.30.0.11", uid=uid, host_network=True, annotations=marks)
            for uid in ("11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000002")
        )
        rig.put(PODS, old)
        assert rig.tags(keys.pod(hash))["k8s.pod.uid"] == old["metadata"]["uid"]
        if late:
            rig.put(PODS, new)
            rig.delete(PODS, old)
        else:
            rig.delete(PODS, old)
            rig.put(PODS, new)
        rig.now += 1
        assert rig.tags(keys.pod(hash))["k8s.pod.uid"] == new["metadata"]["uid"]
        rig.delete(PODS, new)
        rig.now += 1
        assert not rig.tags(keys.pod(hash))


@pytest.mark.parametrize(
    "path",
    [
        "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{hash}.slice/cri-containerd-{id}.scope",
        "/sys/fs/cgroup/kubepods/burstable/pod{hash}/{id}",
    ],
)
def test_a_static_pods_container_is_found_by_its_cgroup_alone(path: str, tmp_path: Path) -> None:
    """The API has not told the container's id yet, the cgroup is there: it stands on the mirror pod's tags."""
    rig = Rig()
    hash, id = "0123456789abcdef" * 2, "ab" * 32
    host = HostContainers(rig.store, Containers(str(tmp_path)), "n1", lambda: None)
    static = pod("kube-apiserver-n1", annotations={"kubernetes.io/config.hash": hash}, containers=())
    rig.put(PODS, static)
    host.came(path.format(hash=hash, id=id))
    found = rig.tags(keys.container(id))
    assert found["k8s.pod.name"] == found["service.name"] == "kube-apiserver-n1" and found["container.id"] == id
    held = rig.store.held(keys.container(id), Layer.OS)
    assert held is not None and not held.until_ns


# -- on /metrics


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.close()


def until(what: Callable[[], Any], seconds: float = 10) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)
    return found


def scraped(port: int) -> dict[tuple[str, str], float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {
        (s.labels["source"], s.labels["reason"]): s.value
        for family in families(text)
        for s in family.samples
        if s.name == "zerospan_enricher_source_dropped_total"
    }


def test_each_reason_is_on_metrics(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "ORDER_S", 0.5)
    api.forbidden |= {JOBS}
    api.put(PODS, pod("p", "10.0.0.1", annotations={"big": "x" * (MAX_VALUE + 1)}))
    odd = pod("odd", "10.0.0.2")
    odd["status"]["podIP"] = 7
    api.put(PODS, odd)
    api.put("/pods", pod("p", "10.0.0.300"))
    for resource in ALL:
        _ = api.objects[resource]
    config = f"""apiVersion: v1
kind: Config
current-context: c
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "{api.url}"}}}}]
users: [{{name: u, user: {{}}}}]
"""
    (tmp_path / "config").write_text(config)
    settings = {
        "listen.unix": str(tmp_path / "s"),
        "listen.http": "127.0.0.1:0",
        "node": "n1",
        "sources.os.enabled": False,
        "sources.cloud.provider": "none",
        "sources.kubernetes.enabled": True,
        "sources.kubernetes.kubeconfig": str(tmp_path / "config"),
        "sources.kubernetes.picks.pod_annotations": ["*"],
        "sources.kubelet.enabled": True,
        "sources.kubelet.url": api.url,
        "sources.kubelet.token_file": "",
    }
    made = run.build(load(None, {}, settings))
    made.start()
    try:
        until(made.in_sync, 20)
        assert made.http is not None
        found = scraped(made.http.port)
    finally:
        made.stop()
    looks = found.pop(("kubelet", "bad_address"))
    assert looks >= 1
    assert found == {
        ("kubernetes", "tag_too_large"): 1,
        ("kubernetes", "undecodable"): 1,
        ("kubernetes", "forbidden"): 1,
    }
