"""The service graph: one request is one count, whichever ends are seen and in whichever order."""

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from metrics_text import find, value

from zerospan.exporter.metrics.harness import Feeder

TOTAL = "traces_service_graph_request_total"
FAILED = "traces_service_graph_request_failed_total"
SERVER = "traces_service_graph_request_server_seconds"
CLIENT = "traces_service_graph_request_client_seconds"


def edges(raw: bytes, name: str) -> dict[tuple[str, str, str], float]:
    """{(client, server, connection_type): value}; every edge says where it comes from."""
    out = {}
    for labels, v in find(raw, name).items():
        d = dict(labels)
        assert d.pop("source") == "zerospan"
        d.pop("le", None)
        assert set(d) <= {"client", "server", "connection_type"}
        out[(d["client"], d["server"], d.get("connection_type", ""))] = v
    return out


@pytest.mark.parametrize("first", ["client", "server"])
@pytest.mark.parametrize(
    ("proto", "kind"), [("http", ""), ("redis", "database"), ("postgresql", "database"), ("dns", "")]
)
def test_both_ends_seen_is_one_request_with_both_durations(proto: str, kind: str, first: str) -> None:
    f = Feeder()
    a, b = f.process("a"), f.process("b")
    ends: dict[str, Any] = {
        "client": lambda: f.observe(a, "client", proto, peer=b, peer_seen=True, duration_ns=2_000_000_000),
        "server": lambda: f.observe(b, "server", proto, peer=a, peer_seen=True, duration_ns=1_000_000_000),
    }
    ends.pop(first)()
    ends.popitem()[1]()
    raw = f.render()
    edge = ("a", "b", kind)
    assert edges(raw, TOTAL) == {edge: 1}
    assert edges(raw, FAILED) == {edge: 0}
    assert edges(raw, f"{SERVER}_count") == edges(raw, f"{CLIENT}_count") == {edge: 1}
    assert edges(raw, f"{SERVER}_sum") == {edge: 1.0}
    assert edges(raw, f"{CLIENT}_sum") == {edge: 2.0}


@pytest.mark.parametrize(
    ("client_status", "server_status", "failed"),
    [("unset", "unset", 0), ("error", "unset", 1), ("error", "error", 1)],
)
def test_a_failure_is_counted_once(client_status: str, server_status: str, failed: int) -> None:
    for order in itertools.permutations(("client", "server")):
        f = Feeder()
        a, b = f.process("a"), f.process("b")
        for end in order:
            me, peer, status = (a, b, client_status) if end == "client" else (b, a, server_status)
            f.observe(me, end, peer=peer, peer_seen=True, status=status, code=404)
        assert edges(f.render(), FAILED) == {("a", "b", ""): failed}


def test_a_server_without_a_seen_client_is_called_by_user() -> None:
    f = Feeder()
    f.observe(f.process("b"), status="error", code=500)
    raw = f.render()
    edge = ("user", "b", "virtual_node")
    assert edges(raw, TOTAL) == edges(raw, FAILED) == edges(raw, f"{SERVER}_count") == {edge: 1}
    assert edges(raw, f"{CLIENT}_count") == {}


@pytest.mark.parametrize(
    ("span", "server", "kind"),
    [
        (
            {"proto": "http", "domain": b"api.example:8443", "remote": "10.1.1.1:8443"},
            "api.example",
            "virtual_node",
        ),
        ({"proto": "http", "remote": "10.1.1.1:80"}, "10.1.1.1:80", "virtual_node"),
        ({"proto": "http", "remote": "[2001:db8::1]:80"}, "[2001:db8::1]:80", "virtual_node"),
        ({"proto": "http", "remote": "[::ffff:10.1.1.1]:80"}, "10.1.1.1:80", "virtual_node"),
        (
            {"proto": "postgresql", "domain": b"shopdb", "remote": "10.1.1.2:5432"},
            "10.1.1.2:5432",
            "database",
        ),
        ({"proto": "dns", "remote": "127.0.0.53:53"}, "127.0.0.53:53", "virtual_node"),
    ],
)
def test_a_client_without_a_seen_server_calls_a_virtual_node(span: dict[str, Any], server: str, kind: str) -> None:
    f = Feeder()
    f.observe(f.process("a"), "client", status="error", **span)
    raw = f.render()
    edge = ("a", server, kind)
    assert edges(raw, TOTAL) == edges(raw, FAILED) == edges(raw, f"{CLIENT}_count") == {edge: 1}
    assert edges(raw, f"{SERVER}_count") == ({edge: 1} if kind == "database" else {})


def test_a_known_process_that_makes_no_spans_gives_its_name_to_the_virtual_node() -> None:
    f = Feeder()
    a, b = f.process("a"), f.process("b")
    f.observe(a, "client", peer=b, peer_seen=False)
    assert edges(f.render(), TOTAL) == {("a", "b", "virtual_node"): 1}


def test_virtual_nodes_of_a_client_are_limited_and_nothing_is_lost() -> None:
    f = Feeder(max_values=10)
    a, b = f.process("a"), f.process("b")
    for i in range(100):
        f.observe(a, "client", remote=f"10.0.0.{i}:80")
        f.observe(b, "client", remote=f"10.9.0.{i % 10}:80")
    got = edges(f.render(), TOTAL)
    mine = {server: n for (client, server, _), n in got.items() if client == "a"}
    assert len(mine) == 11 and mine["AGGREGATED"] == 90 and sum(mine.values()) == 100
    assert sum(n for (client, _, _), n in got.items() if client == "b") == 100
    assert "AGGREGATED" not in {server for client, server, _ in got if client == "b"}, "each client has its own limit"
    capped = "zerospan_label_values_capped_total"
    assert value(f.render(), capped, family="service_graph", label="server") == 90


def test_services_that_are_seen_are_not_limited() -> None:
    f = Feeder(max_values=3)
    a = f.process("a")
    for i in range(20):
        b = f.process(f"b{i}")
        f.observe(a, "client", peer=b, peer_seen=True)
        f.observe(b, "server", peer=a, peer_seen=True)
        f.observe(b, "server")
    got = edges(f.render(), TOTAL)
    assert len(got) == 40 and set(got.values()) == {1}
