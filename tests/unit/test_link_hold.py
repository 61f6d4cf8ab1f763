"""Finished spans wait until their chain is known: at least `hold`, at most `max_hold`, within their memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import CLIENT, MS, START, RigMaker, S, by_path, engines, get, ok
from engine_wire import Process, Wire
from test_link_threads import CURL, DB, SHOP, Flow, check_traces

rig = engines


def test_nothing_leaves_before_its_hold(rig: RigMaker) -> None:
    """Two seconds after the end of each span, to the tick."""
    r = rig(CURL, SHOP, hold_s=2)
    t = START
    ends = []
    for i in range(3):
        wire = Wire(r.kernel, (CURL, 10), (SHOP, 21), watch="server")
        t = wire.pass_on("client", get(f"/r{i}"), t + 100 * MS)
        t = wire.pass_on("server", ok(), t)
        ends.append(wire.server.run_end)
    r.feed()
    for i, end in enumerate(ends):
        assert r.tick(end + 2 * S - 1) == []
        assert [s.path for s in r.tick(end + 2 * S)] == [f"/r{i}"]


@pytest.mark.parametrize("hold_s", [0, 0.5])
def test_a_chain_that_is_not_known_yet(rig: RigMaker, hold_s: float) -> None:
    """A worker's call is linked when its request is answered, ten seconds later: the call, and what was called, wait
    for it and are whole then."""
    f = Flow(rig(CURL, SHOP, DB, hold_s=hold_s))
    f.read("/in", 21)
    f.call("/out", 22)
    f.called("/out", 22)
    f.r.feed()
    for i in range(1, 20):
        assert f.r.tick(f.t + i * S // 2) == [], "they left without their trace"
    f.t += 10 * S
    f.answer("/in", 22)
    f.r.feed()
    spans = [*f.r.spans, *f.r.tick(f.t + 3 * S)]
    assert len(f.r.spans) == 4, spans
    assert f.links() == {"/out": ("/in", "thread")}
    assert len({s.trace_id for s in f.r.spans}) == 1
    assert f.r.counts["hold_waited"] == 2


def test_max_hold_ends_the_waiting(rig: RigMaker) -> None:
    """After it a span leaves with what is known; the chain that shows later is not broken by it."""
    f = Flow(rig(CURL, SHOP, DB, hold_s=1, max_hold_s=5))
    f.read("/in", 21)
    f.call("/out", 22)
    f.called("/out", 22)
    end = f.t
    f.r.feed()
    assert f.r.tick(end + 5 * S - 300 * MS) == []
    left = f.r.tick(end + 5 * S + 300 * MS)
    assert {s.path for s in left} == {"/out"} and len(left) == 2
    assert {s.trace_id for s in left} == {left[0].trace_id}
    f.t += 20 * S
    f.answer("/in", 22)
    assert f.links() == {"/out": ("", "none")}


def test_a_process_that_serves_nothing_makes_nobody_wait(rig: RigMaker) -> None:
    """Its calls can have no cause: they leave after the hold, also while other processes serve."""
    f = Flow(rig(CURL, SHOP, DB, hold_s=1))
    other = Wire(f.r.kernel, (CURL, 12), (DB, 35))
    f.t = other.pass_on("client", get("/long"), f.t)
    f.call("/cron", 22)
    f.called("/cron", 22)
    f.r.feed()
    assert len(f.r.tick(f.t + S)) == 2 and f.r.counts["hold_waited"] == 0


def test_little_memory(rig: RigMaker) -> None:
    """Spans that find no room on hold leave at once with what is known, are counted, and none is lost."""
    for hold_bytes in (1, 6 << 20):
        r = rig(CURL, SHOP, hold_bytes=hold_bytes)
        t = START
        for i in range(12_000):
            if i % 100 == 0:
                wire = Wire(r.kernel, (CURL, 10), (SHOP, 21), watch="server")
            t = wire.pass_on("client", get(f"/r{i % 50}/" + "x" * 400), t, lag=10, step=10)
            t = wire.pass_on("server", ok(), t, lag=10, step=10)
        r.feed()
        assert r.engine.memory()["hold"] <= max(hold_bytes, 3 << 20)
        early = r.counts["hold_early"]
        assert 0 < early <= 12_000
        r.balance()
        assert len(r.finish()) == 12_000 and r.counts["open_full"] == 0


def test_one_record_of_many_requests(rig: RigMaker) -> None:
    """A pipeline that fills a record of the largest class makes more spans at once than the least memory has room for:
    none is lost."""
    r = rig(CURL, SHOP, hold_bytes=1, max_open_bytes=64 << 20)
    r.kernel.capture = 16384
    wire = Wire(r.kernel, (CURL, 10), (SHOP, 21), watch="server")
    t = START
    for _ in range(4):
        t = wire.pass_on("client", b"PING\r\n" * 2700, t)
        t = wire.pass_on("server", b":1\r\n" * 2700, t)
    r.feed()
    r.balance()
    r.run(5)
    assert r.counts["released"] + r.counts["open_full"] == r.counts["seen"] > 2700
    assert r.counts["open_full"] == 0


def test_batches_are_bounded(rig: RigMaker) -> None:
    """However much is due at once, a batch is as large as ever, and all of it leaves in one step."""
    r = rig(CURL, SHOP, batch_bytes=100_000)
    t = START
    wire = Wire(r.kernel, (CURL, 10), (SHOP, 21))
    for i in range(1500):
        t = wire.pass_on("client", get(f"/r{i}"), t)
        t = wire.pass_on("server", ok(), t)
    r.feed()
    before = len(r.sizes)
    assert len(r.tick(t + 10 * S)) == 3000
    sizes = r.sizes[before:]
    assert len(sizes) > 5 and max(sizes) < 110_000


def test_a_deep_chain(rig: RigMaker) -> None:
    """Sixteen services, each calling the next from a worker: known from the inside out, and whole."""
    n = 16
    processes = [Process(100 * i, f"s{i}") for i in range(1, n + 2)]
    r = rig(*processes, hold_s=0.2)
    t = START
    wires = []
    for i in range(n):
        caller, callee = processes[i], processes[i + 1]
        wires.append(Wire(r.kernel, (caller, caller.tgid + 1), (callee, callee.tgid)))
        t = wires[-1].pass_on("client", get(f"/hop{i}"), t, tids=(caller.tgid + 1, callee.tgid))
    for i in reversed(range(n)):
        t = wires[i].pass_on("server", ok(), t + S, tids=(processes[i + 1].tgid + 1, processes[i].tgid + 1))
        r.feed()
        r.tick(t)
    spans = r.finish()
    check_traces(spans)
    assert len(spans) == 2 * n and len({s.trace_id for s in spans}) == 1
    assert by_path(spans, CLIENT)["/hop0"].parent_id == ""
