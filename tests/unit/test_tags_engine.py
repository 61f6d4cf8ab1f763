"""What spans, logs, metrics and the service graph say of both ends, with what the enricher told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import CLIENT, MS, SERVER, START, WALL, Rig, RigMaker, S, Span, describe, engines, get, ok, value
from engine_wire import Process, Wire
from metrics_text import find
from shared_kit import Hosts
from tags_kit import NODE, World

from zerospan.enricher import keys
from zerospan.exporter.metrics.exposition import Exposition
from zerospan.exporter.process import ProcessInfo
from zerospan.exporter.process.resource import encode_resource
from zerospan.exporter.process.stamp import stamp

rig = engines
CURL, SHOP = Process(10, "curl"), Process(20, "shop")
EDGES = "traces_service_graph_request_total"
POD = {
    "service.name": "cart", "service.namespace": "prod", "k8s.pod.name": "cart-1", "k8s.namespace.name": "prod",
    "k8s.node.name": "n2", "k8s.service.name": "cart-svc", "k8s.pod.label.team": "blue",
}  # fmt: skip
SERVICE = {"k8s.service.name": "front", "k8s.namespace.name": "prod", "zerospan.k8s.service.type": "ClusterIP"}
PREFIX = "zerospan.peer."


def tags_of(span: Span) -> dict[str, Any]:
    return {k.removeprefix(PREFIX): v for k, v in span.attributes.items() if k.startswith(PREFIX + "k8s.")}


def conversation(r: Rig, addresses: tuple[str, str], watch: str = "both", at: int = START, path: str = "/a") -> Wire:
    wire = Wire(r.kernel, (CURL, 10), (SHOP, 21), addresses=addresses, watch=watch)
    t = wire.pass_on("client", get(path), at)
    wire.pass_on("server", ok(), t + MS)
    return wire


def world() -> World:
    return World(START + WALL)


def settle(r: Rig, w: World, seconds: float = 3) -> list[Span]:
    """Time passes; questions and answers go to and fro."""
    end = r.now + int(seconds * S)
    while r.now < end:
        r.now += 100 * MS
        r.feed()
        w.follower.turn()
        if w.client.connected:
            w.client.push()
    return r.spans


def edges(r: Rig) -> dict[tuple[str, str, str], float]:
    raw = Exposition(r.engine.red).render()
    out = {}
    for labels, v in find(raw, EDGES).items():
        d = dict(labels)
        out[(d["client"], d["server"], d.get("connection_type", ""))] = v
    return out


def test_a_client_says_who_its_server_is(rig: RigMaker) -> None:
    w = world()
    w.put(keys.address("10.0.0.7"), POD)
    r = rig(CURL, SHOP, peers=w.table)
    conversation(r, ("10.0.0.1", "10.0.0.7"), "client")
    (span,) = settle(r, w)
    assert span.kind == CLIENT
    assert span.attributes["service.peer.name"] == span.attributes["peer.service"] == "cart"
    assert span.attributes["service.peer.namespace"] == "prod"
    expected = {name: value for name, value in POD.items() if name.startswith("k8s.") and "label" not in name}
    assert tags_of(span) == expected
    assert edges(r) == {("curl", "cart", "virtual_node"): 1}
    assert r.counts["peer_unanswered"] == r.counts["peer_unknown"] == 0


def test_a_server_says_who_its_client_is(rig: RigMaker) -> None:
    w = world()
    w.put(keys.address("10.0.0.1"), POD)
    r = rig(CURL, SHOP, peers=w.table)
    conversation(r, ("10.0.0.1", "10.0.0.7"), "server")
    (span,) = settle(r, w)
    assert (span.kind, span.attributes["service.peer.name"]) == (SERVER, "cart")
    assert "peer.service" not in span.attributes, "that is of clients"
    assert tags_of(span)["k8s.pod.name"] == "cart-1"
    assert edges(r) == {("cart", "shop", "virtual_node"): 1}


def test_the_name_is_that_of_the_time(rig: RigMaker) -> None:
    """The old pod's last request and the new one's first, though both leave later."""
    w = world()
    switch = START + WALL + 50 * MS
    w.pod("10.0.0.7", "old")
    r = rig(CURL, SHOP, peers=w.table)
    conversation(r, ("10.0.0.1", "10.0.0.7"), "client", path="/1")
    conversation(r, ("10.0.0.1", "10.0.0.7"), "client", START + 60 * MS, path="/2")
    r.feed()
    w.pod("10.0.0.7", "new", switch)
    settle(r, w)
    assert {s.path: s.attributes["service.peer.name"] for s in r.spans} == {"/1": "old", "/2": "new"}


def test_behind_a_service_whose_end_is_not_known(rig: RigMaker) -> None:
    w = world()
    w.put(keys.address("10.96.0.5"), SERVICE)
    r = rig(CURL, SHOP, peers=w.table)
    conversation(r, ("10.0.0.1", "10.96.0.5"), "client")
    (span,) = settle(r, w)
    assert span.attributes["service.peer.name"] == "front"
    assert span.attributes["service.peer.namespace"] == "prod"
    assert tags_of(span) == {"k8s.service.name": "front", "k8s.namespace.name": "prod"}
    assert edges(r) == {("curl", "front", "virtual_node"): 1}


class Tagged(Rig):
    """Processes with tags of their own."""

    tags: dict[str, dict[str, str]] = {}

    def describe(self, tgid: int, comm: str, cgroup_id: int = 0) -> ProcessInfo:
        info = describe(self.known[tgid])
        attributes = {"service.name": info.service, **self.tags.get(info.service, {})}
        namespace = str(attributes.get("service.namespace", ""))
        return msgspec.structs.replace(info, peer=stamp(attributes), namespace=namespace, shared=f"p:{tgid}")


def test_behind_a_service_the_process_is_exact(rig: RigMaker) -> None:
    """Both ends are here: the Service's name from the address, all else from the process."""
    w = world()
    w.put(keys.address("10.96.0.5"), SERVICE)
    r = Tagged(CURL, SHOP, peers=w.table)
    r.tags = {"shop": {"k8s.pod.name": "shop-1", "k8s.service.name": "other", "k8s.container.name": "app"}}
    wire = Wire(r.kernel, (CURL, 10), (SHOP, 21), addresses=("10.0.0.1", "10.96.0.5"))
    t = wire.pass_on("client", get("/a"), START)
    wire.pass_on("server", ok(), t + MS)
    settle(r, w)
    client = next(s for s in r.finish() if s.kind == CLIENT)
    assert client.attributes["service.peer.name"] == "shop"
    assert tags_of(client) == {
        "k8s.pod.name": "shop-1", "k8s.container.name": "app", "k8s.service.name": "front",
    }  # fmt: skip
    assert edges(r) == {("curl", "shop", ""): 1}
    r.check()


def test_behind_a_service_on_another_host(rig: RigMaker) -> None:
    """The agent there says where its end really is; both sides name both services alike."""
    w = World(START + WALL, unused_s=86400)  # one table for both, whose clocks have nothing in common
    w.put(keys.address("10.0.1.1"), POD | {"service.name": "shop"})
    w.put(keys.address("10.0.0.1"), {"service.name": "curl", "k8s.pod.name": "curl-1"})
    w.put(keys.address("10.96.0.5"), SERVICE)
    hosts = Hosts(rig, 2, processes=(CURL, SHOP), peers=w.table)
    cross = hosts.cross((0, CURL, 10), (1, SHOP, 21))
    cross.wires[0].client.remote = ("10.96.0.5", 80)  # translated on the client's node
    cross.send("/a")
    for i in range(40):
        hosts.run(0.1, 20)
        w.follower.turn()
        w.client.push()
        if i == 3:
            cross.answer()
    hosts.settle()
    spans = hosts.spans()
    client = next(s for s in spans if s.kind == CLIENT)
    server = next(s for s in spans if s.kind == SERVER)
    assert server.parent_id == client.span_id
    assert client.attributes["service.peer.name"] == "shop"
    assert tags_of(client) == {
        **{k: v for k, v in POD.items() if k.startswith("k8s.") and "label" not in k}, "k8s.service.name": "front",
    }  # fmt: skip
    assert client.attributes["service.peer.namespace"] == "prod"
    assert tags_of(server) == {"k8s.pod.name": "curl-1"}
    both = {key: n for host in hosts.hosts for key, n in edges(host.rig).items() if n}
    assert both == {("curl", "shop", ""): 1}


def test_tags_that_come_within_the_hold_are_in_time(rig: RigMaker) -> None:
    """Resource, names, series: as if they had been there from the beginning; nothing is counted under two names."""
    w = world()
    r = Tagged(CURL, SHOP, peers=w.table)
    conversation(r, ("10.0.0.1", "10.0.0.7"), at=START, path="/1")
    r.now = START + S
    r.feed()
    assert not r.spans
    info = describe(SHOP)
    later = msgspec.structs.replace(
        info, service="cart", shared="p:20", namespace="prod", series=b'job="prod/cart",instance="i"',
        target_info=b'k8s_pod_name="cart-1"', resource=encode_resource({"service.name": "cart", **POD}),
        peer=stamp({**POD, "service.name": "cart"}),
    )  # fmt: skip
    assert r.engine.refill(later)
    assert not r.engine.refill(msgspec.structs.replace(later, shared="p:99"))
    settle(r, w)
    by_kind = {s.kind: s for s in r.spans}
    assert by_kind[SERVER].service == "cart"
    assert by_kind[CLIENT].attributes["service.peer.name"] == "cart"
    assert tags_of(by_kind[CLIENT])["k8s.pod.name"] == "cart-1"
    raw = Exposition(r.engine.red).render().decode()
    assert 'job="shop"' not in raw and 'server="shop"' not in raw
    assert 'target_info{job="prod/cart",instance="i",k8s_pod_name="cart-1"}' in raw
    r.check()


def test_a_pod_with_new_labels_is_called_so_from_then_on(rig: RigMaker) -> None:
    """Also within one batch: spans that left before keep what was said then."""
    w = world()
    r = Tagged(CURL, SHOP, peers=w.table, flush_s=3600.0, hold_s=0.001)
    conversation(r, ("10.0.0.1", "10.0.0.7"), "server", path="/1")
    settle(r, w, 0.3)
    info = describe(SHOP)
    r.engine.refill(
        msgspec.structs.replace(info, service="two", shared="p:20", resource=encode_resource({"service.name": "two"}))
    )
    conversation(r, ("10.0.0.1", "10.0.0.7"), "server", r.now, path="/2")
    settle(r, w, 0.3)
    r.finish()
    assert {s.path: s.service for s in r.spans} == {"/1": "shop", "/2": "two"}
    r.check()


def test_logs_and_lines_say_the_same(rig: RigMaker) -> None:
    w = world()
    w.put(keys.address("10.0.0.1"), POD)
    r = rig(CURL, SHOP, peers=w.table, signals=("traces", "logs", "loki"))
    conversation(r, ("10.0.0.1", "10.0.0.7"), "server")
    got: dict[str, list[bytes]] = {"traces": [], "logs": [], "loki": []}
    end = r.now + 3 * S
    r.push(r.kernel.records)
    r.fed = len(r.kernel.records)
    while r.now < end:
        r.now += 100 * MS
        for signal, payload, _ in r.engine.tick(r.now, WALL):
            got[signal].append(bytes(payload))
            if signal == "traces":
                r._took([(signal, payload, 1)])
        w.follower.turn()
        w.client.push()
    (span,) = r.spans
    request = ExportLogsServiceRequest.FromString(got["logs"][0])
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    assert {k: v for a in record.attributes for k, v in ((a.key, value(a.value)),) if k.startswith(PREFIX)} == {
        k: v for k, v in span.attributes.items() if k.startswith(PREFIX)
    }
    line = json.loads(got["loki"][0], object_pairs_hook=pairs)["streams"][0]["values"][0][2]
    assert line["zerospan_peer_k8s_pod_name"] == "cart-1" and line["service_peer_name"] == "cart"
    assert line["service_peer_namespace"] == "prod"


def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in items}) == len(items), f"a member twice: {items}"
    return dict(items)


def test_unknown_ends_are_counted_by_why(rig: RigMaker) -> None:
    w = world()
    r = rig(CURL, SHOP, peers=w.table)
    conversation(r, ("10.0.0.1", "10.0.0.7"), "client", path="/1")  # the enricher knows nothing
    settle(r, w)
    assert (r.counts["peer_unknown"], r.counts["peer_unanswered"]) == (1, 0)
    w.client.connected = False
    w.follower.turn()
    conversation(r, ("10.0.0.1", "10.0.0.8"), "client", r.now, path="/2")
    settle(r, w)
    assert (r.counts["peer_unknown"], r.counts["peer_unanswered"], r.counts["peer_away"]) == (1, 1, 1)
    assert [s.attributes.get("service.peer.name") for s in r.spans] == [None, None]
    w.client.connected = True
    w.pod("10.0.0.8", "back")
    settle(r, w, 0.5)
    conversation(r, ("10.0.0.1", "10.0.0.8"), "client", r.now, path="/3")
    settle(r, w)
    assert r.spans[-1].attributes["service.peer.name"] == "back"
    assert r.counts["peer_away"] == 1


def test_an_address_range_names_what_stands_in_it(rig: RigMaker) -> None:
    w = world()
    w.put(keys.address("10.0.0.7"), {"zerospan.range.name": "orders RDS"}, node=NODE)
    r = rig(CURL, SHOP, peers=w.table)
    conversation(r, ("10.0.0.1", "10.0.0.7"), "client")
    (span,) = settle(r, w)
    assert span.attributes["service.peer.name"] == span.attributes[PREFIX + "zerospan.range.name"] == "orders RDS"
    assert edges(r) == {("curl", "orders RDS", "virtual_node"): 1}


def test_without_an_enricher_nothing_is_asked_or_said(rig: RigMaker) -> None:
    r = rig(CURL, SHOP)
    conversation(r, ("10.0.0.1", "10.0.0.7"))
    r.run(5)
    assert not any(k.startswith(PREFIX + "k8s") for s in r.spans for k in s.attributes)
    assert "tags" not in r.engine.memory()
