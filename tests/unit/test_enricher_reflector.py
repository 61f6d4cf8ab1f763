"""The Kubernetes source against a fake API server over HTTP: whatever the server does, the store ends up right."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_kubernetes import Api
from kubernetes_objects import (
    ALL,
    DEPLOYMENTS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICES,
    SLICES,
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
from zerospan.enricher.config import load
from zerospan.enricher.run import completed
from zerospan.enricher.source import Layer
from zerospan.enricher.sources.kubelet import KubeletSource
from zerospan.enricher.sources.kubernetes import Kubelet, Kubernetes, KubernetesSource, client
from zerospan.enricher.sources.kubernetes.client import Access, TokenFile, access
from zerospan.enricher.store import TagStore

FAST = {"backoff_s": (0.01, 0.05), "silence_s": 5.0}


def until(what: Callable[[], Any], seconds: float = 10) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)
    return found


class Running:
    def __init__(self, api: Api, access: Access | None = None, options: dict[str, Any] = FAST, **config: Any) -> None:
        self.store = TagStore()
        made = msgspec.convert({"enabled": True, "page": 7} | config, Kubernetes)
        self.source = KubernetesSource(self.store, made, access=access or Access(api.url), options=options)

    def pod(self, ip: str) -> str:
        found = self.store.find(keys.address(ip))
        return found.get("k8s.pod.name") if found is not None else ""

    def count(self) -> int:
        return self.source.stats().entities["pod"]


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.close()


@contextmanager
def running(api: Api, **more: Any) -> Iterator[Running]:
    made = Running(api, **more)
    made.source.start()
    try:
        yield made
    finally:
        began = time.monotonic()
        made.source.stop()
        assert time.monotonic() - began < 2
        assert not [t for t in threading.enumerate() if t.name.startswith("k8s-")]


def fill(api: Api, pods: int = 20) -> None:
    api.put(NAMESPACES, namespace("kube-system"))
    api.put(NODES, node("n1", "172.30.0.11"))
    for i in range(pods):
        api.put(PODS, pod(f"p{i}", f"10.0.0.{i}"))


def test_pages_then_changes(api: Api) -> None:
    fill(api)
    with running(api) as r:
        until(lambda: r.source.stats().in_sync)
        assert r.count() == 20 and r.pod("10.0.0.19") == "p19"
        assert len([q for q in api.requests if "/pods?" in q and "continue=" in q]) == 2
        api.put(PODS, pod("new", "10.0.1.1"))
        api.delete(PODS, uid_of("shop/p0"))
        until(lambda: r.pod("10.0.1.1") == "new" and not r.pod("10.0.0.0"))
        assert r.source.stats().resyncs == 0 and r.source.stats().errors == 0
        assert r.store.find(keys.address("10.0.0.1")).get("k8s.cluster.uid") == uid_of("/kube-system")  # type: ignore[union-attr]


def test_all_else_is_listed_before_the_pods_and_metadata_only_where_it_suffices(api: Api) -> None:
    one = pod("cart-5d-x", "10.0.0.1", owners=[owner("ReplicaSet", "cart-5d")], labels={"pod-template-hash": "5d"})
    api.put(REPLICASETS, replicaset("cart-5d", owner("Deployment", "cart"), "5d"))
    api.put(SERVICES, service("cart", "10.96.0.1"))
    api.put(SLICES, endpoints("cart", one))
    api.put(PODS, one)
    with running(api) as r:
        until(lambda: r.source.stats().in_sync)
        lists = [q.partition("?")[0] for q in api.requests if "watch" not in q]
        assert lists[-1] == PODS and set(lists) == set(ALL)
        for q, accept in zip(api.requests, api.accepts, strict=True):
            assert ("PartialObjectMetadata" in accept) == q.startswith((REPLICASETS, NAMESPACES, "/apis/batch")), q
        assert r.store.find(keys.address("10.96.0.1")).get("service.name") == "cart"  # type: ignore[union-attr]
        assert r.store.find(keys.address("10.0.0.1")).get("k8s.service.name") == "cart"  # type: ignore[union-attr]


@pytest.mark.parametrize("late", [False, True])
def test_410_lists_again_and_what_was_missed_is_gone(api: Api, late: bool) -> None:
    api.expire_late = late
    fill(api)
    with running(api) as r:
        until(lambda: r.source.stats().in_sync)
        with api.lock:  # nobody hears of these
            for uid in [uid_of("shop/p1"), uid_of("shop/p2")]:
                del api.objects[PODS][uid]
            missed = pod("missed", "10.0.2.1")
            missed["metadata"]["resourceVersion"] = "1"
            api.objects[PODS][missed["metadata"]["uid"]] = missed
        api.expire()
        api.cut()
        until(lambda: r.count() == 19 and r.pod("10.0.2.1") and not r.pod("10.0.0.1") and not r.pod("10.0.0.2"))
        assert r.source.stats().resyncs >= 1


def test_bookmarks_keep_the_version_young(api: Api) -> None:
    api.bookmark_s = 0.05
    fill(api, 3)
    with running(api) as r:
        until(lambda: r.source.stats().in_sync)
        for i in range(5):
            api.put("/other", {"metadata": {"uid": str(i)}})  # the version goes on, pods do not
        with api.lock:
            newest = api.version
        reflector = r.source._reflectors["pods"]
        until(lambda: reflector._version == str(newest))
        lists = len([q for q in api.requests if q.startswith(PODS) and "watch" not in q])
        with api.lock:
            api.oldest = newest
        api.cut()
        watches = len([q for q in api.requests if q.startswith(PODS) and "watch" in q])
        until(lambda: len([q for q in api.requests if q.startswith(PODS) and "watch" in q]) > watches)
        api.put(PODS, pod("after", "10.0.3.1"))
        until(lambda: r.pod("10.0.3.1"))
        assert len([q for q in api.requests if q.startswith(PODS) and "watch" not in q]) == lists


def test_an_expired_continue_token_begins_the_list_anew(api: Api) -> None:
    fill(api)
    api.expire_continue = 1
    with running(api, watch=["pods"]) as r:
        until(lambda: r.source.stats().in_sync)
        assert r.count() == 20


def test_cuts_errors_and_garbage_lose_nothing(api: Api) -> None:
    fill(api)
    api.fail = 3
    with running(api) as r:
        until(lambda: r.source.stats().in_sync)
        assert r.source.stats().errors >= 3 and "500" in r.source.stats().last_error
        for i in range(10):
            if i % 3 == 0:
                api.cut()
            if i % 4 == 0:
                api.garbage = 1
            api.put(PODS, pod(f"q{i}", f"10.0.4.{i}"))
            api.delete(PODS, uid_of(f"shop/p{i}"))
        until(lambda: r.count() == 20 and all(r.pod(f"10.0.4.{i}") == f"q{i}" for i in range(10)))
        assert not any(r.pod(f"10.0.0.{i}") for i in range(10))


def test_an_object_that_cannot_be_decoded_is_left_out_and_counted(api: Api) -> None:
    fill(api, 5)
    api.put(PODS, {"metadata": {"uid": "bad", "name": "bad"}, "spec": {"nodeName": 7}})
    with running(api, watch=["pods"]) as r:
        until(lambda: r.source.stats().in_sync)
        assert r.count() == 5 and r.source.stats().errors == 1
        api.put(PODS, {"metadata": {"uid": "bad", "name": "bad"}, "spec": {"nodeName": 8}})
        api.put(PODS, pod("good", "10.0.5.1"))
        until(lambda: r.pod("10.0.5.1"))
        assert r.source.stats().errors == 2


def test_a_silent_connection_is_left(api: Api) -> None:
    fill(api, 2)
    with running(api, options=FAST | {"silence_s": 0.3}, watch=["pods"]) as r:
        until(lambda: r.source.stats().in_sync)
        api.silent = True
        api.put(PODS, pod("late", "10.0.6.1"))
        watches = len(api.requests)
        until(lambda: len(api.requests) > watches)
        api.silent = False
        until(lambda: r.pod("10.0.6.1"))


@pytest.mark.parametrize("late", [False, True])
def test_a_server_that_does_not_answer_is_an_error(api: Api, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(api, 2)
    with running(api, watch=["pods"]) as r:
        if late:  # it lists, and then no watch is answered
            until(lambda: r.source.stats().in_sync)
        monkeypatch.setattr(client, "READ_S", 0.05)
        api.slow_s = 0.3
        api.cut()
        until(lambda: r.source.stats().errors >= 3 and "timed out" in r.source.stats().last_error)
        until(lambda: r.source.stats().lag_s > 0.1)
        api.slow_s = 0.0
        api.put(PODS, pod("after", "10.0.6.1"))
        until(lambda: r.pod("10.0.6.1"))


def test_without_the_right_to_a_kind_the_rest_is_known(api: Api) -> None:
    fill(api, 3)
    api.forbidden = {SLICES, REPLICASETS, NODES}
    with running(api) as r:
        until(lambda: r.source.stats().in_sync)
        assert r.count() == 3 and "403" in r.source.stats().last_error
        assert r.store.find(keys.address("10.0.0.1")).get("k8s.node.name") == "n1"  # type: ignore[union-attr]


def test_scopes(api: Api) -> None:
    fill(api, 2)
    api.put(PODS, pod("far", "10.0.7.1", "n2"))
    api.put(PODS, pod("other", "10.0.7.2", namespace="bank"))
    with running(api, node="n1") as r:
        until(lambda: r.source.stats().in_sync)
        assert r.count() == 3 and not r.pod("10.0.7.1")
    with running(api, namespace="bank") as r:
        until(lambda: r.source.stats().in_sync)
        assert r.count() == 1 and r.pod("10.0.7.2") == "other"


def test_a_token_that_is_rotated(tmp_path: Path) -> None:
    api = Api(token="first")
    try:
        fill(api, 2)
        (tmp_path / "token").write_text("wrong\n")
        token = TokenFile(tmp_path / "token")
        with running(api, access=Access(api.url, None, token.headers, token.renew)) as r:
            until(lambda: "401" in r.source.stats().last_error)
            assert r.count() == 0
            (tmp_path / "token").write_text("first\n")
            until(lambda: r.source.stats().in_sync)
            api.token = "second"
            (tmp_path / "token").write_text("second\n")
            api.cut()
            api.put(PODS, pod("after", "10.0.8.1"))
            until(lambda: r.pod("10.0.8.1"))
    finally:
        api.close()


def test_a_kubeconfig_with_an_exec_plugin(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api.token = "by-plugin"
    fill(api, 2)
    plugin = tmp_path / "plugin"
    plugin.write_text(
        '#!/bin/sh\necho \'{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",'
        '"status":{"token":"by-plugin"}}\'\n'
    )
    plugin.chmod(0o755)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
        "users": [
            {
                "name": "u",
                "user": {
                    "exec": {
                        "apiVersion": "client.authentication.k8s.io/v1",
                        "command": str(plugin),
                        "interactiveMode": "Never",
                    }
                },
            }
        ],
    }
    (tmp_path / "config").write_bytes(msgspec.json.encode(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with running(api, access=access()) as r:
        until(lambda: r.source.stats().in_sync)
        assert r.count() == 2


def test_stopping_while_the_server_is_slow(api: Api) -> None:
    fill(api)
    api.slow_s = 5
    with running(api) as r:
        until(lambda: len(api.requests) > 0)
        assert not r.source.stats().in_sync


def test_a_server_that_comes_late(api: Api) -> None:
    fill(api, 2)
    port = api.server.server_address[1]
    with running(api, access=Access(f"http://127.0.0.1:{port}")) as r:
        until(lambda: r.source.stats().in_sync)
        api.server.socket.close()
        api.cut()
        until(lambda: r.source.stats().lag_s > 0.1)
        assert r.pod("10.0.0.1") == "p1"  # what it knew stays


def kubelet(api: Api, **config: Any) -> tuple[TagStore, KubeletSource]:
    store = TagStore()
    made = msgspec.convert({"url": api.url, "token_file": "", "cluster_name": "test"} | config, Kubelet)
    return store, KubeletSource(store, made, "n1")


def test_the_kubelet_tells_its_pods_without_an_api_server(api: Api) -> None:
    labels = {"pod-template-hash": "5d"}
    api.put("/pods", pod("cart-5d-x", "10.0.0.1", owners=[owner("ReplicaSet", "cart-5d")], labels=labels))
    store, source = kubelet(api)
    assert source.poll()
    found = store.find(keys.address("10.0.0.1"))
    assert found is not None
    wanted = {"service.name": "cart", "k8s.deployment.name": "cart", "k8s.node.name": "n1", "k8s.cluster.name": "test"}
    assert {name: found.get(name) for name in wanted} == wanted
    api.delete("/pods", uid_of("shop/cart-5d-x"))
    assert source.poll() and store.find(keys.address("10.0.0.1")) is None
    api.fail = 1
    assert not source.poll() and source.stats().errors == 1 and "500" in source.stats().last_error


def test_the_clusters_name_and_uid_by_the_configuration(api: Api) -> None:
    api.put(PODS, pod("p", "10.0.0.1"))
    api.put("/pods", pod("p", "10.0.0.1"))
    config = load(None, {}, {"cluster.name": "prod", "cluster.uid": "u-1"})
    wanted = {"k8s.cluster.name": "prod", "k8s.cluster.uid": "u-1"}
    made = completed(msgspec.convert({"url": api.url, "token_file": ""}, Kubelet), config)
    kubelets = KubeletSource(store := TagStore(), made, "n1")
    assert kubelets.poll()
    cluster = completed(Kubernetes(), config)
    with running(api, cluster_name=cluster.cluster_name, cluster_uid=cluster.cluster_uid) as r:
        until(lambda: r.source.stats().in_sync)
        for held in (store, r.store):
            found = held.find(keys.address("10.0.0.1"))
            assert found is not None and {name: found.get(name) for name in wanted} == wanted
        api.put(NAMESPACES, namespace("kube-system"))  # who knows better tells
        until(lambda: "u-1" not in r.store.find(keys.address("10.0.0.1")).tags().values())  # type: ignore[union-attr]


def test_the_kubelets_changes_are_its_own(api: Api) -> None:
    api.put("/pods", pod("p", "10.0.0.1"))
    store, source = kubelet(api)
    assert source.poll() and source.stats().changes == store.revision == 3  # pod, address, container
    assert source.poll() and source.stats().changes == 3
    reader, read = source._reader, []

    class Busy:
        def read(self, *args: Any) -> Any:  # meanwhile somebody else tells of something
            read.append(store.put(keys.node("n2"), store.make({}), layer=Layer.STATIC, since_ns=len(read)))
            return reader.read(*args)

    source._reader = Busy()  # type: ignore[assignment]
    assert source.poll() and read and source.stats().changes == 3
    api.delete("/pods", uid_of("shop/p"))
    assert source.poll() and source.stats().changes == 6


def test_a_hint_makes_the_kubelet_look_at_once(api: Api) -> None:
    store, source = kubelet(api, poll_s=600)
    source.start()
    try:
        until(lambda: source.stats().in_sync)
        time.sleep(0.3)
        assert len(api.requests) == 1
        api.put("/pods", pod("new", "10.0.0.1"))
        for _ in range(100):
            source.hint()
        until(lambda: store.find(keys.address("10.0.0.1")), 2)
        until(lambda: len(api.requests) >= 4, 3)  # and soon again: the kubelet may be later than the kernel
        time.sleep(1.5)
        assert len(api.requests) <= 6  # a hundred hints are not a hundred looks
    finally:
        began = time.monotonic()
        source.stop()
        assert time.monotonic() - began < 2


def test_both_sources_agree_on_a_pod(api: Api) -> None:
    one = pod("cart-5d-x", "10.0.0.1", owners=[owner("ReplicaSet", "cart-5d")], labels={"pod-template-hash": "5d"})
    api.put(DEPLOYMENTS, replicaset("cart", None, ""))
    api.put(PODS, one)
    api.put("/pods", one)
    store, source = kubelet(api)
    assert source.poll()
    with running(api, cluster_name="test") as r:
        until(lambda: r.source.stats().in_sync)
        theirs, ours = r.store.find(keys.address("10.0.0.1")), store.find(keys.address("10.0.0.1"))
        assert theirs is not None and ours is not None and theirs.id == ours.id
