"""Tags in the agent as a whole: what is configured, what it says of itself, datagrams, names that are withheld."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import CLIENT, MS, SERVER, START, WALL, RigMaker, engines
from engine_wire import Process, Socket
from shared_kit import Hosts
from tags_kit import NODE, World
from test_flows_dns import query, reply
from test_tags_engine import Tagged, settle

from zerospan.enricher import keys
from zerospan.exporter import pipeline
from zerospan.exporter.cli import status
from zerospan.exporter.config import ConfigError, load
from zerospan.exporter.metrics.exposition import families_text
from zerospan.exporter.process import ProcessInfo
from zerospan.exporter.selfmon.counters import ROWS
from zerospan.exporter.selfmon.metrics import self_metrics

rig = engines
APP, RESOLVER = Process(10, "app"), Process(20, "dnsmasq")


def test_each_of_many_clients_of_one_datagram_socket_is_named(rig: RigMaker) -> None:
    w = World(START + WALL)
    r = rig(APP, RESOLVER, peers=w.table)
    server = Socket(r.kernel, RESOLVER, 20, ("10.0.9.9", 53))
    for i in range(1, 6):
        w.pod(f"10.0.0.{i}", f"client{i}")
        at = START + i * MS
        server.recv(query(i, f"name{i}.test"), at)
        server.send(reply(i, f"name{i}.test"), at + MS // 2, (f"10.0.0.{i}", 40000 + i))
    settle(r, w)
    assert {s.path: s.attributes.get("service.peer.name") for s in r.spans} == {
        f"name{i}.test": f"client{i}" for i in range(1, 6)
    }


def test_a_client_on_another_host_whose_socket_has_no_address() -> None:
    """Its agent tells 0.0.0.0, as a socket of sendto(2) has: the address that the server saw counts."""
    w = World(START + WALL, unused_s=86400)
    w.pod("10.0.0.5", "asker")
    hosts = Hosts(Tagged, 2, processes=(APP, RESOLVER), peers=w.table)
    asks, serves = hosts.hosts
    client = Socket(asks.rig.kernel, APP, 10, ("0.0.0.0", 40000), ("10.0.9.9", 53))
    server = Socket(serves.rig.kernel, RESOLVER, 20, ("10.0.9.9", 53))
    here, there = hosts.t + asks.skew, hosts.t + serves.skew
    client.send(query(7, "db.test"), here)
    server.recv(query(7, "db.test"), there + MS)
    server.send(reply(7, "db.test"), there + 2 * MS, ("10.0.0.5", 40000))
    client.recv(reply(7, "db.test"), here + 3 * MS)
    for _ in range(40):
        hosts.run(0.1)
        w.turn()
    spans = hosts.spans()
    assert len(spans) == 2 and len({span.trace_id for span in spans}) == 1, "the two ends know of one another"
    (answered,) = (span for span in spans if span.kind == SERVER)
    assert answered.attributes["zerospan.peer.k8s.pod.name"] == "asker"


class Waiting(Tagged):
    """The enricher has still to say what the containers are."""

    def describe(self, tgid: int, comm: str, cgroup_id: int = 0) -> ProcessInfo:
        return msgspec.structs.replace(super().describe(tgid, comm), waits=1)


@pytest.mark.parametrize("away", [False, True])
def test_a_name_that_will_change_in_a_moment_is_not_told_to_other_hosts(away: bool) -> None:
    """The other host's span has the name that the container gives, not the executable's; without an enricher's word
    the executable's is told at once."""
    w = World(START + WALL, unused_s=86400)
    w.table.away = away
    hosts = Hosts(Waiting, 2, processes=(APP, RESOLVER), peers=w.table)
    cross = hosts.cross((0, APP, 10), (1, RESOLVER, 21))
    cross.send("/a")
    hosts.run(0.2)
    cross.answer()
    told = [value for (_, end), value in hosts.values.items() if end == b"s"]
    assert told and any(b"dnsmasq" in value for value in told) == away
    hosts.run(0.3)
    if not away:
        info = Tagged.describe(hosts[1].rig, RESOLVER.tgid, "dnsmasq")  # type: ignore[arg-type]
        assert hosts[1].rig.engine.refill(msgspec.structs.replace(info, service="resolver"))
    hosts.run(3)
    client = next(s for s in hosts.spans() if s.kind == CLIENT)
    assert client.attributes["service.peer.name"] == ("dnsmasq" if away else "resolver")
    assert hosts[1].rig.counts["tags_late"] == away


def test_off_is_a_word_and_what_yaml_makes_of_it(tmp_path: Path) -> None:
    for text in ("off", '"off"', "false"):
        (tmp_path / "f").write_text(f"enricher: {{address: {text}}}\n")
        assert load(str(tmp_path / "f"), {}).enricher.address == "off"
    for text in ("unix:///run/zerospan/enricher.sock", "unix:/x", "127.0.0.1:7070", "enricher.zerospan.svc:7070"):
        (tmp_path / "f").write_text(f"enricher: {{address: '{text}'}}\n")
        assert load(str(tmp_path / "f"), {}).enricher.address == text
    for text in ("http://h:1", "h", "on"):
        (tmp_path / "f").write_text(f"enricher: {{address: '{text}'}}\n")
        with pytest.raises(ConfigError):
            load(str(tmp_path / "f"), {})


def test_what_is_missing_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(None, {}, {"enricher.address": "127.0.0.1:1", "enricher.token_file": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="none"):
        pipeline._follow(config)
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "zerospan.enricher.client", raising=False)
    with pytest.raises(ConfigError, match=r"zerospan\[grpc\]"):
        pipeline._follow(load(None, {}, {"enricher.address": "127.0.0.1:1"}))


def test_status_and_metrics_say_how_it_stands() -> None:
    w = World(cache_bytes=8 << 20)
    w.put(keys.node(NODE), {"k8s.node.name": NODE}, node=NODE)
    w.pod("10.0.0.1", "a")
    for ip in ("10.0.0.1", "10.0.0.2"):
        w.find(ip)
    w.turn()
    w.client.connected = False
    w.find("10.0.0.3")
    w.turn()
    said = w.follower.status()
    assert (said["connected"], said["keys"], said["negative"], said["unanswered"]) == (False, 3, 1, 1)
    assert said["epoch"] == w.store.epoch and said["revision"] == w.store.revision
    counters = {name: 0 for name, _ in ROWS} | {"peer_away": 7}
    text = "\n".join(status._enricher(said, counters, False))
    assert "AWAY" in text and NODE in text and "peer_away" in text and max(map(len, text.splitlines())) <= 80
    rows = [row for row in self_metrics(_status(said, counters)) if row[0].startswith("zerospan_enricher")]
    exposition = families_text(rows, False)
    assert "zerospan_enricher_connected 0" in exposition
    assert 'zerospan_enricher_keys{state="negative"} 1' in exposition
    assert 'zerospan_enricher_keys{state="known"} 2' in exposition
    w.client.connected = True
    w.turn()
    assert "connected for" in "\n".join(status._enricher(w.follower.status(), counters, False))


def _status(enricher: dict[str, Any], counters: dict[str, int]) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(
        ("disagreements", "ambiguous", "calls_forgotten", "ids_refused", "registry_refused", "contexts_disputed",
         "contexts_late"), 0,
    )  # fmt: skip
    return {
        "version": "x", "seen": 0, "exported": 0, "dropped": {}, "in_flight": {}, "kernel": {}, "pipeline": counters,
        "links": empty, "memory_bytes": {}, "sinks": [], "enricher": enricher,
    }  # fmt: skip
