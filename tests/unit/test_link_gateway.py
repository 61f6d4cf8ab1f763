"""A host that only forwards: what its interfaces see of a request belongs to the trace that other hosts' agents
know."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import CLIENT, MS, SERVER, US, RigMaker, S, engines, get, ok, request_key
from engine_nic import Nic
from engine_wire import Process, Wire
from shared_kit import Cross, Hosts, slow
from test_link_ids import TRACE, traceparent

rig = engines

INTERNAL = 1
USER, A, B = Process(10, "user"), Process(20, "a"), Process(30, "b")
ALL = (USER, A, B)
GATEWAY = 2  # the host's number


def interfaces(hosts: Hosts, at: int = GATEWAY, role: str = "node") -> list[Nic]:
    """Both sides of the gateway: what comes in by one leaves by the other. role "pod": a router in a pod."""
    kernel = hosts[at].rig.kernel
    pod = role == "pod"
    nics = [Nic(kernel, 5, 2, "eth0", role, False, inside=pod), Nic(kernel, 5, 3, "eth1", role, True, inside=pod)]
    for nic in nics:
        hosts[at].rig.engine.interfaces.set(*nic.told)
    return nics


class Way:
    """A connection between two hosts through a third one."""

    def __init__(
        self, hosts: Hosts, client: tuple[int, Process, int], server: tuple[int, Process, int], nics: list[Nic]
    ) -> None:
        self.hosts, self.nics = hosts, nics
        self.cross: Cross = hosts.cross(client, server)
        self.wire: Wire = self.cross.wires[0]
        self.tids = (client[2], server[2])
        self.sent = [0, 0]

    @property
    def key(self) -> int:
        return request_key(self.wire.isns, (self.wire.isns[0] + 1) % 2**32)

    def packet(self, from_client: bool, n: int) -> None:
        side = 0 if from_client else 1
        seq = (self.wire.isns[side] + 1 + self.sent[side]) % 2**32
        self.sent[side] += n
        for nic in self.nics:
            nic.packet(self.wire, from_client, seq, n, self.hosts.t + 300 * US + self.hosts[GATEWAY].skew)

    def ask(self, path: str, *headers: str) -> None:
        self.packet(True, len(get(path, *headers)))
        self.cross.send(path, *headers, tids=self.tids)

    def answer(self) -> None:
        self.packet(False, len(ok()))
        self.cross.answer(tids=self.tids[::-1])

    def silence(self) -> None:
        for nic in self.nics:
            nic.silence(self.wire, self.hosts.t + self.hosts[GATEWAY].skew)


@pytest.mark.parametrize("role", ["node", "pod"])
@pytest.mark.parametrize("begun", [False, True])
def test_the_request_passes_a_gateway(rig: RigMaker, begun: bool, role: str) -> None:
    """Two interfaces of a host without a process of it: in the trace, below the CLIENT span, whoever named the
    trace; and they leave as the others do."""
    hosts = Hosts(rig, 4, processes=ALL)
    first = hosts.cross((0, USER, 11), (0, A, 21))
    way = Way(hosts, (0, A, 21), (1, B, 31), interfaces(hosts, role=role))
    below = hosts.cross((1, B, 31), (3, A, 22))
    first.send("/in", tids=(11, 21))
    way.ask("/x")
    hosts.run(0.05)
    below.send("/below", *([traceparent()] if begun else []), tids=(31, 22))
    below.answer(tids=(22, 31))
    way.answer()
    first.answer(tids=(21, 11))
    hosts.run(0.7)
    way.silence()
    hosts.run(1.5)
    spans = hosts.spans()
    found = [s for s in spans if s.kind == INTERNAL]
    (client,) = [s for s in spans if s.kind == CLIENT and s.path == "/x"]
    assert sorted(s.name for s in found) == ["gateway.node eth0", "gateway.node eth1"]
    assert {s.parent_id for s in found} == {client.span_id}
    assert {s.trace_id for s in spans} == {client.trace_id} and (client.trace_id == TRACE) == begun
    assert {s.attributes["zerospan.point"] for s in found} == {"gateway.node"}
    assert hosts[GATEWAY].rig.counts["nic_unmatched"] == 0
    assert hosts[GATEWAY].shared.counts()["passed"] == 1, "one question for both interfaces"


def test_no_agent_knows_it(rig: RigMaker) -> None:
    """Dropped, counted, and the questions are few; nobody is told anything."""
    hosts = Hosts(rig, 3, processes=ALL)
    kernel = hosts[GATEWAY].rig.kernel
    nics = interfaces(hosts)
    wire = Wire(kernel, (A, 21), (B, 31), watch="none")
    for i in range(20):
        for from_client in (True, False):
            seq = (wire.isns[0 if from_client else 1] + 1 + 100 * i) % 2**32
            for nic in nics:
                nic.packet(wire, from_client, seq, 100, hosts.t + hosts[GATEWAY].skew)
            hosts.run(0.016)
    for nic in nics:
        nic.silence(wire, hosts.t + hosts[GATEWAY].skew)
    hosts.run(5)
    assert hosts.spans() == []
    assert hosts[GATEWAY].rig.counts["nic_unmatched"] == 40
    assert hosts.asked <= 20 * 6 and hosts.values == {}


def test_without_a_shared_registry(rig: RigMaker) -> None:
    r = rig(*ALL)
    nic = Nic(r.kernel, 5, 2, "eth0", "node", False)
    r.engine.interfaces.set(*nic.told)
    wire = Wire(r.kernel, (A, 21), (B, 31), watch="none")
    nic.packet(wire, True, wire.isns[0] + 1, 100, 5_000 * S)
    nic.packet(wire, False, wire.isns[1] + 1, 100, 5_000 * S + MS)
    nic.silence(wire, 5_001 * S)
    assert r.run(5) == [] and r.counts["nic_unmatched"] == 1


def test_only_the_server_is_watched(rig: RigMaker) -> None:
    """No agent sees the client: the points stand below the SERVER span."""
    hosts = Hosts(rig, 3, processes=ALL)
    way = Way(hosts, (0, A, 21), (1, B, 31), interfaces(hosts))
    way.cross.ends[0] = (way.cross.ends[0][0], hosts[0])
    way.packet(True, len(get("/x")))
    way.cross.read("/x", tid=31)
    hosts.run(0.05)
    way.packet(False, len(ok()))
    server, host = way.cross.ends[1]
    server.send(ok(), hosts.t + host.skew, 31)
    hosts.run(0.7)
    way.silence()
    hosts.run(3)
    spans = hosts.spans()
    (served,) = [s for s in spans if s.kind == SERVER]
    found = [s for s in spans if s.kind == INTERNAL]
    assert {(s.parent_id, s.trace_id) for s in found} == {(served.span_id, served.trace_id)} and len(found) == 2


def test_what_passes_is_asked_for_within_bounds(rig: RigMaker) -> None:
    """Ten thousand exchanges of strangers in a second: no more than the allowance is asked for, the rest is counted."""
    hosts = Hosts(rig, 3, processes=ALL)
    kernel = hosts[GATEWAY].rig.kernel
    nic = interfaces(hosts)[0]
    wires = [Wire(kernel, (A, 21), (B, 31), watch="none", isns=(1000 + 7 * i, 2000 + 11 * i)) for i in range(10_000)]
    for wire in wires:
        nic.addresses = (("10.0.0.1", 1024 + len(nic.runs) % 60_000), ("10.0.1.1", 80 + len(nic.runs) // 60_000))
        nic.packet(wire, True, wire.isns[0] + 1, 100, hosts.t + hosts[GATEWAY].skew)
        nic.packet(wire, False, wire.isns[1] + 1, 100, hosts.t + hosts[GATEWAY].skew)
        nic.silence(wire, hosts.t + MS + hosts[GATEWAY].skew)
    hosts.run(4)
    counts = hosts[GATEWAY].shared.counts()
    assert 2000 <= counts["passed"] <= 2100 and counts["passed"] + counts["passing_refused"] == 10_000
    assert hosts.asked <= 6 * 2100
    assert hosts.spans() == []


def test_a_process_of_this_host_is_no_stranger(rig: RigMaker) -> None:
    """What no parser owns is not asked for where a process of this host has the connection."""
    hosts = Hosts(rig, 2, processes=ALL)
    kernel = hosts[0].rig.kernel
    nic = Nic(kernel, 5, 2, "eth0", "node", True)
    hosts[0].rig.engine.interfaces.set(*nic.told)
    wire = Wire(kernel, (A, 21), (B, 31), watch="client", addresses=("10.0.0.1", "10.0.1.1"))
    for i in range(5):
        for who in ("client", "server"):
            side = 0 if who == "client" else 1
            nic.packet(wire, side == 0, (wire.isns[side] + 1 + 8 * i) % 2**32, 8, hosts.t)
            wire.pass_on(who, b"\x00\x01\xfe\xff\x80\x81\x82\x83", hosts.t)
            hosts.run(0.016)
    hosts.run(4)
    assert hosts.asked == 0 and hosts[0].shared.counts()["passed"] == 0
    hosts.spans()


@pytest.mark.parametrize("seed", range(4))
def test_many_requests_through_a_gateway(rig: RigMaker, seed: int) -> None:
    """Each point in its own request's trace, also with keep-alive and a store that is slow."""
    rng = random.Random(seed)
    hosts = Hosts(rig, 3, latency=slow(rng, 100), processes=ALL)
    nics = interfaces(hosts)
    ways = [Way(hosts, (0, A, 100 + i), (1, B, 200 + i), nics) for i in range(10)]
    for turn in range(4):
        for i in rng.sample(range(10), 10):
            ways[i].ask(f"/r{i}/{turn}")
            hosts.run(0.008)
        hosts.run(0.05)
        for i in rng.sample(range(10), 10):
            ways[i].answer()
            hosts.run(0.008)
    hosts.run(0.6)
    for way in ways:
        way.silence()
    hosts.run(3.5)
    spans = hosts.spans()
    clients = {s.span_id: s for s in spans if s.kind == CLIENT}
    found = [s for s in spans if s.kind == INTERNAL]
    assert len(clients) == 40 and len(found) == 80
    for span in found:
        client = clients[span.parent_id]
        assert span.trace_id == client.trace_id
        assert int(span.attributes["zerospan.request.bytes"]) == len(get(client.path))
