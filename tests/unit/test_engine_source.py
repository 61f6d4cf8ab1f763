"""The in-memory source: order, bounds, and records of any size."""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import SERVER, START, RigMaker, engines, get, ok
from engine_wire import Process, Wire

from zerospan.exporter.source.memory import Records

rig = engines
CURL, SHOP = Process(10, "curl"), Process(20, "shop")


def test_a_full_source_refuses_and_counts() -> None:
    source = Records(1000)
    taken = [source.push(b"x" * 92) for _ in range(20)]  # each takes 104 bytes
    assert taken == [True] * 9 + [False] * 11
    assert (source.pushed, source.refused, source.read, len(source)) == (9, 11, 0, 9)
    assert not source.push(b"x" * 2000)


def test_room_comes_back(rig: RigMaker) -> None:
    """What was read makes room, in any sizes; far more than fits at once comes through in order and unchanged."""
    r = rig(CURL, SHOP, source_bytes=16_384)
    rng = random.Random(1)
    wire = Wire(r.kernel, (CURL, 10), (SHOP, 21))
    t = START
    for i in range(300):
        t = wire.pass_on("client", get(f"/{i}", "X: " + "x" * rng.randrange(300)), t)
        t = wire.pass_on("server", ok(b"y" * rng.randrange(500)), t)
    records, at = r.kernel.records, 0
    assert sum(len(record.data) for record in records) > 10 * 16_384
    while at < len(records):
        n = rng.randrange(1, 9)
        r.push(records[at : at + n])
        r.tick()
        at += n
    r.fed = len(records)
    spans = r.finish()
    assert [s.path for s in spans if s.kind == SERVER] == [f"/{i}" for i in range(300)]
    assert {s.code for s in spans} == {200} and r.source.refused == 0 and r.source.read == len(records)


def test_every_size(rig: RigMaker) -> None:
    """Whatever is no record is counted as bad; an empty one, too."""
    r = rig()
    r.push([bytes(n) for n in range(200)])
    r.tick()
    assert r.counts["records"] == r.counts["records_bad"] == 200
