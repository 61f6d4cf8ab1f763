"""Which tags a resource gets, and from whom."""

from __future__ import annotations

import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from otlp_cases import resource
from proxy_kit import APP, CONTAINER, NODE, PEER, POD, UID, known

from zerospan.enricher import keys
from zerospan.enricher.proxy.config import ProxyConfig, load, problems
from zerospan.enricher.proxy.resources import Protobuf, Resources
from zerospan.enricher.source import Layer
from zerospan.enricher.store import TagStore

ORDER = load({"endpoint": "http://x"}).associate
CODEC = Protobuf()
PEER_ADDRESS = keys.packed("192.0.2.9")


def asked(resources: Resources, peer: bytes = b"", **attributes: Any) -> dict[str, Any] | None:
    """All attributes that the resource has afterwards; None: it was left as it was."""
    new = resources.replace(resource(Resource(), **attributes).SerializeToString(), peer, CODEC)
    if new is None:
        return None
    found = Resource.FromString(new)
    assert len({a.key for a in found.attributes}) == len(found.attributes), "an attribute twice"
    return {a.key: a.value.string_value for a in found.attributes}


def made(store: TagStore | None = None, **options: Any) -> Resources:
    return Resources(store or known(), options.pop("associate", ORDER), **options)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"container_id": CONTAINER}, APP),
        ({"container_id": f"containerd://{CONTAINER}"}, {**APP, "container.id": f"containerd://{CONTAINER}"}),
        ({"k8s_pod_uid": UID}, POD),
        ({"k8s_pod_ip": "10.1.2.3"}, POD),
        ({"host_ip": "10.1.2.3"}, POD),
        ({"host_ip": ["127.0.0.1", "fe80::1", "10.1.2.3"]}, POD),
        ({"client_address": "::ffff:10.1.2.3"}, POD),
        ({"net_peer_ip": "10.1.2.3"}, POD),
        ({"host_name": "n1"}, NODE),
        ({"k8s_node_name": "n1"}, NODE),
        (
            {"container_id": "aa" * 32, "k8s_pod_uid": UID},
            POD,
        ),  # the next one, where the store knows nothing of the first
    ],
)
def test_by_what_a_resource_is_found(attributes: dict[str, Any], expected: dict[str, str]) -> None:
    found = asked(made(), PEER_ADDRESS, **attributes)
    assert found is not None
    assert {name: found.get(name) for name in expected} == expected
    assert found["cloud.region"] == "eu-central-1"  # the base's
    assert ("k8s.container.name" in found) == (expected.get("k8s.container.name") == "app")


@pytest.mark.parametrize(
    "attributes",
    [
        {"container_id": "ee" * 32},  # the store does not know of it: the sender's address says nothing of it
        {"k8s_pod_ip": "10.9.9.9"},
        {"host_name": "elsewhere"},
        {"k8s_pod_ip": "10.1.2.3", "k8s_pod_uid": "00000000-0000-0000-0000-000000000000"},  # an address used again
        {"k8s_pod_ip": "10.1.2.3", "k8s_pod_name": "cart-0"},
        {"host_name": "n1", "k8s_node_name": "n2"},
        {"host_ip": "127.0.0.1"},
        {"host_ip": "no address"},
    ],
)
def test_rather_nothing_than_another_ones(attributes: dict[str, Any]) -> None:
    resources = made()
    assert asked(resources, b"", **attributes) is None
    stats = resources.stats
    assert stats.unknown + stats.contradicted + stats.anonymous == 1


def test_the_connections_address_is_for_who_says_nothing() -> None:
    resources = made()
    assert asked(resources, PEER_ADDRESS, service_name="x") == {"service.name": "x", **PEER}
    assert asked(resources, PEER_ADDRESS, k8s_pod_uid="unknown") is None
    assert asked(resources, keys.packed("127.0.0.1"), service_name="x") is None
    assert asked(resources, b"", service_name="x") is None
    without = made(associate=tuple(name for name in ORDER if name != "connection"))
    assert asked(without, PEER_ADDRESS, service_name="x") is None
    assert (resources.stats.enriched, resources.stats.unknown, resources.stats.anonymous) == (1, 1, 2)


def test_the_same_resource_from_two_senders() -> None:
    store = known()
    store.put(keys.address("192.0.2.10"), store.make({"k8s.pod.name": "second"}), layer=Layer.KUBERNETES, since_ns=1)
    resources = made(store)
    for _ in range(2):
        first, second = (asked(resources, keys.packed(f"192.0.2.{n}"), service_name="x") for n in (9, 10))
        assert first and second and (first["k8s.pod.name"], second["k8s.pod.name"]) == ("sender", "second")
    assert resources.stats.cached == 2


def test_the_order_is_the_configurations() -> None:
    first = made(associate=("host.name", "container.id"))
    assert "k8s.pod.name" not in (asked(first, container_id=CONTAINER, host_name="n1") or {})


def test_what_the_sender_knew_stays_unless_told() -> None:
    said = {"container_id": CONTAINER, "service_name": "mine", "service_version": 7}
    kept = asked(made(), **said)
    assert kept is not None and kept["service.name"] == "mine" and kept["service.version"] == ""  # a number
    replaced = asked(made(overwrite=True), **said)
    assert replaced is not None and replaced["service.name"] == "cart" and replaced["service.version"] == "1.4.2"


def test_a_service_that_nobody_named_is_named() -> None:
    found = asked(made(), container_id=CONTAINER, service_name="unknown_service:python")
    assert found is not None and found["service.name"] == "cart"
    found = asked(made(), k8s_pod_uid=UID, service_name="unknown_service")  # no tag for it
    assert found is not None and found["service.name"] == "unknown_service"


def test_all_there_already() -> None:
    resources = made()
    everything = {k.replace(".", "_"): v for k, v in {**APP, **NODE}.items()}
    assert asked(resources, **everything) is None
    assert resources.stats.known == 1


def test_the_store_changes() -> None:
    store = known()
    resources = made(store)
    said = {"container_id": "cc" * 32}
    assert asked(resources, **said) is None
    store.put(keys.container("cc" * 32), store.make({"k8s.pod.name": "new"}), layer=Layer.KUBERNETES, since_ns=1)
    found = asked(resources, **said)
    assert found is not None and found["k8s.pod.name"] == "new"
    store.put(keys.container("cc" * 32), store.make({"k8s.pod.name": "newer"}), layer=Layer.KUBERNETES, since_ns=2)
    found = asked(resources, **said)
    assert found is not None and found["k8s.pod.name"] == "newer"
    store.end(keys.container("cc" * 32), layer=Layer.KUBERNETES)
    assert asked(resources, **said) is None
    assert resources.stats.cached == 3


def test_an_end_that_was_said_before_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    store = known()
    end = time.time_ns() + 200_000_000
    store.put(keys.container("cc" * 32), store.make({"a": "b"}), layer=Layer.OS, since_ns=1, until_ns=end)
    monkeypatch.setattr("zerospan.enricher.proxy.resources.RECHECK_S", 0.05)
    resources = made(store)
    assert asked(resources, container_id="cc" * 32) is not None
    until = time.monotonic() + 5
    while asked(resources, container_id="cc" * 32) is not None:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert time.time_ns() >= end


def test_the_cache_is_bounded_in_bytes() -> None:
    resources = made(cache_bytes=65536)
    for i in range(2000):
        assert asked(resources, container_id=CONTAINER, service_instance_id=str(i)) is not None
        assert resources.stats.cache_bytes <= 65536
    assert resources.stats.cached == 0 and resources.stats.cache_bytes > 20000
    asked(resources, container_id=CONTAINER, service_instance_id="1999")
    assert resources.stats.cached == 1


def test_the_cache_counts_what_it_holds() -> None:
    """Thousands of addresses to look for, and tags that come later."""
    resources = made()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    assert asked(resources, host_ip=[f"10.{i >> 8}.{i & 255}.1" for i in range(20_000)]) is None
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held < 1.2 * resources.stats.cache_bytes

    store = TagStore()
    resources = made(store, cache_bytes=1 << 20)
    for n in (100, 400):
        for i in range(n):
            assert asked(resources, container_id=CONTAINER, service_instance_id=str(i)) is None
        few = resources.stats.cache_bytes
        store.put(keys.container(CONTAINER), store.make({"x": "y" * 1000}), layer=Layer.OS, since_ns=1)
        for i in range(n):
            assert asked(resources, container_id=CONTAINER, service_instance_id=str(i)) is not None
            assert resources.stats.cache_bytes <= 1 << 20
        if n == 100:
            assert resources.stats.cache_bytes - few > 100 * 1000
        store.end(keys.container(CONTAINER), layer=Layer.OS)
        for i in range(n):
            assert asked(resources, container_id=CONTAINER, service_instance_id=str(i)) is None
        if n == 100:
            assert resources.stats.cache_bytes == few


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"listen_grpc": None, "listen_http": None}, "listen_grpc"),
        ({"listen_http": "4318"}, "listen_http"),
        ({"listen_grpc": "::1:4317"}, "listen_grpc"),
        ({"listen_grpc": "localhost:99999"}, "listen_grpc"),
        ({"queue_bytes": 65536, "max_request_bytes": 65537}, "max_request_bytes"),
    ],
)
def test_configurations_that_cannot_be(values: dict[str, Any], key: str) -> None:
    assert [k for k, _ in problems(load({"endpoint": "http://x", **values}))] == [(key,)]


def test_secrets_are_not_shown() -> None:
    config: ProxyConfig = load({"endpoint": "http://u:hidden@x", "headers": {"a": "hidden"}})
    assert "hidden" not in repr(config)
