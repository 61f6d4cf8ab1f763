"""How long after a request's end its last span leaves: spans of interfaces are told late, and held from their own
end on."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import CLIENT, MS, START, US, Rig, RigMaker, S, Span, engines, get, ok
from engine_nic import Path as Way
from engine_wire import Wire
from test_points import CURL, INTERNAL, SHOP, two_nodes

rig = engines

SILENCE, SWEEP, DRAIN = 400 * MS, 500 * MS, 8 * MS  # zs_nic_sweep.bpf.h, capture.sweep_ms, 2 * capture.drain_ms


class Clock:
    """The drain loop as the pipeline runs it, and the sweep that tells silence."""

    def __init__(self, r: Rig, phase: int) -> None:
        self.r, self.t = r, START
        self.swept = START - phase
        self.ways: list[Way] = []
        self.left: dict[str, int] = {}  # span id -> when it was handed over
        self.spans: list[Span] = []

    def until(self, t: int) -> None:
        while self.t < t:
            self.t += DRAIN
            self.r.push(self.r.kernel.records[self.r.fed :])
            self.r.fed = len(self.r.kernel.records)
            self._took(self.r.tick(self.t))
            if self.t - self.swept >= SWEEP:
                self.swept = self.t
                for way in self.ways:
                    for nic, _ in way.nics:
                        run = nic.runs.get(id(way.wire))
                        if run is not None and run.open and self.t >= run.end + SILENCE:
                            nic.silence(way.wire, self.t)
                self._took(self.r.settle(self.t))

    def _took(self, spans: list[Span]) -> None:
        self.spans += spans
        self.left |= {s.span_id: self.t for s in spans}


@pytest.mark.parametrize("end", ["idle", "close", "again"])
@pytest.mark.parametrize("phase_ms", [0, 90, 110, 250, 399, 401, 480])
def test_the_last_span_leaves_in_time(rig: RigMaker, end: str, phase_ms: int) -> None:
    """Whenever the sweep comes, and whatever tells the end: within 2.6 s of the answer's, and not before the hold of
    2 s."""
    r = rig(CURL, SHOP, flush_s=0.5)
    nics = two_nodes(r.kernel)
    for nic, _ in nics:
        r.engine.interfaces.set(*nic.told)
    clock = Clock(r, phase_ms * MS)
    rng = random.Random(phase_ms)
    for i in range(6):
        way = Way(Wire(r.kernel, (CURL, 11 + i), (SHOP, 31 + i), addresses=("10.1.0.2", "10.2.0.2")), nics, 570 * US)
        clock.ways.append(way)
        t = way.pass_on("server", ok(), way.pass_on("client", get(f"/r{i}"), clock.t) + 3 * MS)
        if end == "close":
            way.close(t + MS)
        elif end == "again":
            clock.until(t + 130 * MS)
            way.pass_on("server", ok(), way.pass_on("client", get(f"/s{i}"), clock.t) + 3 * MS)
        clock.until(clock.t + rng.randrange(1, 700) * MS)
    clock.until(clock.t + 4 * S)
    assert not r.in_flight["held"] and len(clock.spans) == (6 if end != "again" else 12) * 10
    roots = {s.trace_id: s for s in clock.spans if s.kind == CLIENT}
    for span in clock.spans:
        lag = clock.left[span.span_id] - roots[span.trace_id].end
        assert 1990 * MS <= lag <= 2600 * MS, f"{span.name} {lag / S:.3f} s"
    assert sum(s.kind == INTERNAL for s in clock.spans) == 8 * len(roots)


def test_a_retransmit_before_the_end_is_told_counts(rig: RigMaker) -> None:
    """What comes again after the last byte belongs to this answer until silence has told its end; the span's end
    does not move."""
    r = rig(CURL, SHOP, flush_s=0.5)
    nics = two_nodes(r.kernel)
    for nic, _ in nics:
        r.engine.interfaces.set(*nic.told)
    clock = Clock(r, 0)
    way = Way(Wire(r.kernel, (CURL, 11), (SHOP, 31), addresses=("10.1.0.2", "10.2.0.2")), nics, 570 * US)
    clock.ways.append(way)
    way.pass_on("server", ok(), way.pass_on("client", get("/x"), clock.t) + 3 * MS)
    clock.until(clock.t + 300 * MS)
    for nic, _ in nics[:4]:
        nic.packet(way.wire, False, way.wire.isns[1] + 1, 0, clock.t, again=True)
    clock.until(clock.t + 4 * S)
    (client,) = [s for s in clock.spans if s.kind == CLIENT]
    found = sorted((s for s in clock.spans if s.kind == INTERNAL), key=lambda s: s.start)
    assert [s.attributes["zerospan.tcp.retransmits"] for s in found] == [1] * 4 + [0] * 4
    assert all(s.end <= client.end + MS for s in found)
    assert max(clock.left.values()) - client.end <= 2600 * MS


def test_memory_of_held_points_is_bounded(rig: RigMaker) -> None:
    """More than there is room for: the first leave early, with what is known; nothing is lost."""
    limit = 256 << 10
    r = rig(CURL, SHOP, hold_bytes=limit)
    nics = two_nodes(r.kernel)
    for nic, _ in nics:
        r.engine.interfaces.set(*nic.told)
    way = Way(Wire(r.kernel, (CURL, 11), (SHOP, 31), addresses=("10.1.0.2", "10.2.0.2")), nics, 570 * US)
    t, most = START, 0
    for i in range(400):
        t = way.pass_on("server", ok(), way.pass_on("client", get(f"/r{i}"), t) + 100 * US)
        r.feed()
        most = max(most, r.engine.memory()["hold"])
    way.close(t + MS)
    spans = r.run(5)
    assert sum(s.kind == INTERNAL for s in spans) == 8 * 400 and len(spans) == 10 * 400
    assert r.counts["hold_early"] > 1000 and r.counts["open_full"] == 0
    assert most <= limit + 2 * (4 << 20), "two queues of processes' spans have chunks of 2 MiB, at least two"
