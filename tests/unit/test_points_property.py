"""Random requests: whatever order records arrive in and whatever is lost, no span of an interface is at a
wrong request, and zerospan.hop.* sum to the CLIENT span."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import CLIENT, MS, START, US, Rig, S, Span, get, ok
from engine_nic import Nic
from engine_nic import Path as Way
from engine_wire import Kernel, Process, Record, Wire

INTERNAL = 1
HOPS = ("client_process", "client_host", "network", "server_host", "server_process")
CURL, SHOP = Process(10, "curl"), Process(20, "shop")


@dataclass
class World:
    """Connections that share interfaces; what was asked when, and what each interface saw of it."""

    rng: random.Random
    kernel: Kernel = field(default_factory=Kernel)
    nics: list[tuple[Nic, int]] = field(default_factory=list)
    truth: dict[tuple[str, int, int], tuple[int, int]] = field(
        default_factory=dict
    )  # path, cookie, ifindex -> start, end

    def interfaces(self) -> None:
        away = 0
        shape = [("pod", True, True), ("pod", False, False), ("tunnel", True, False), ("node", True, False)]
        shape += [(role, not out, inside) for role, out, inside in shape[::-1]]
        for i, (role, out, inside) in enumerate(shape):
            away += self.rng.randrange(1, 400) * US
            if self.rng.random() < 0.8:
                self.nics.append((Nic(self.kernel, i, i + 1, f"if{i}", role, out, inside), away))
        self.last = away + 20 * US

    def talk(self, number: int, t: int) -> None:
        """One connection with some requests."""
        rng = self.rng
        wire = Wire(self.kernel, (CURL, 11), (SHOP, 21), watch=rng.choice(["both", "both", "client", "server"]))
        way = Way(wire, self.nics, self.last)
        for i in range(rng.randrange(1, 6)):
            path = f"/{number}.{i}"
            ask = get(path, method="POST", body=b"b" * rng.choice([10, 3000])) if rng.random() < 0.4 else get(path)
            answer = ok(b"a" * rng.choice([0, 500, 9000]))
            last, late = rng.choice([0, 300 * US]), rng.choice([0, 0, 20 * MS])
            read = way.pass_on("client", ask, t, last=last, read_late=late)
            sent = read + rng.randrange(1, 30) * MS
            end = way.pass_on("server", answer, sent, last=last, read_late=late)
            for nic, away in self.nics:
                passes = last if len(answer) > 1448 else 0
                self.truth[path, nic.cookie, nic.ifindex] = (t + away, sent + self.last - away + passes)
            pause = rng.choice([1, 5, 3000]) * MS
            t = end + pause
            for nic, _ in self.nics:
                if pause > S and rng.random() < 0.3:
                    nic.silence(wire, end + 600 * MS)
        if rng.random() < 0.8:
            way.close(t)


def shuffled(rng: random.Random, records: list[Record]) -> list[Record]:
    """Records of processes and of each interface stay in order; how they mix is at random within some ms."""
    streams: dict[object, list[Record]] = {}
    for record in records:
        nic = record.struct == "zs_nic"
        streams.setdefault(record.data[16:24] + record.data[40:44] if nic else 0, []).append(record)
    keyed = []
    for stream in streams.values():
        at = 0
        for record in sorted(stream, key=lambda r: r.time):
            at = max(at, record.time + rng.randrange(8) * MS)
            keyed.append((at, len(keyed), record))
    return [record for _, _, record in sorted(keyed)]


def run(seed: str, loss: float) -> tuple[World, Rig, list[Span]]:
    rng = random.Random(seed)
    world = World(rng)
    world.kernel.lose = lambda n: rng.random() < loss
    world.interfaces()
    for number in range(12):
        world.talk(number, START + rng.randrange(3000) * MS)
    rig = Rig(CURL, SHOP, points_bytes=rng.choice([1, 1 << 20]) if loss else 1 << 20)
    for nic, _ in world.nics:
        rig.engine.interfaces.set(*nic.told)
    settled = START
    for i, record in enumerate(shuffled(rng, world.kernel.records)):
        rig.push([record])
        if i % 5 == 0:
            rig.tick()
            rig.balance()
        if rig.now - settled > S // 2:
            settled = rig.now
            rig.settle(rig.now)
    spans = rig.run(70)
    rig.check()
    return world, rig, spans


def judge(world: World, spans: list[Span]) -> int:
    """AssertionError if a span of an interface is at the wrong request, or says what did not happen."""
    known = {s.span_id: s for s in spans}
    found = 0
    for span in spans:
        shares = [span.attributes[f"zerospan.hop.{h}"] for h in HOPS if f"zerospan.hop.{h}" in span.attributes]
        assert not shares or (span.kind == CLIENT and sum(shares) == span.end - span.start and min(shares) >= 0)
        if span.kind != INTERNAL:
            continue
        found += 1
        parent = known.get(span.parent_id)
        if parent is None:
            continue  # a process's records were lost
        assert parent.trace_id == span.trace_id
        cookie = int(str(span.attributes["zerospan.netns"])[2:])
        start, end = world.truth[parent.path, cookie, cookie + 1]
        assert span.start == start, f"{span.name} of {parent.path} began {span.start - start} ns off"
        if "zerospan.response.bytes" in span.attributes:
            assert span.end == end, f"{span.name} of {parent.path} ended {span.end - end} ns off"
    return found


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_arrival(seed: int) -> None:
    world, rig, spans = run(f"order/{seed}", 0)
    assert judge(world, spans) == len(world.truth)
    counts = rig.counts
    assert counts["nic_gaps"] == counts["nic_unmatched"] == counts["nic_evicted"] == 0


@pytest.mark.parametrize("loss", [0.01, 0.1, 0.4])
@pytest.mark.parametrize("seed", range(8))
def test_records_lost_and_flows_evicted(seed: int, loss: float) -> None:
    world, rig, spans = run(f"loss/{seed}/{loss}", loss)
    assert judge(world, spans) < len(world.truth) * 1.01
    assert sum(world.kernel.lost.values()) > 0
