"""Processes that come and go: their entries are given to others once nothing refers to them, and nothing is mixed."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import engine_kit
from engine_kit import CLIENT, MS, SERVER, START, RigMaker, S, engines, get, ok
from engine_wire import Process, Wire
from metrics_text import find

from zerospan.exporter.metrics.exposition import Exposition
from zerospan.exporter.process import ProcessInfo

rig = engines
SHOP = Process(20, "shop")
PATIENT = Process(99, "patient")
TEXT = 3000  # bytes that each description has


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptions have a target_info that says whose it is, and some size."""
    plain = engine_kit.describe

    def describe(process: Process) -> ProcessInfo:
        info = plain(process)
        mine = f'me="{info.service}"'.encode()
        return msgspec.structs.replace(info, target_info=mine, meta=b" " * TEXT, shared=f"process:{info.service}")

    monkeypatch.setattr(engine_kit, "describe", describe)


def test_entries_of_short_lived_processes_are_used_again(rig: RigMaker) -> None:
    """A job a second, for an hour: memory stays, each span, each series' target_info says the right one. An early
    request that nobody answers keeps the entry of its process, of which nobody knows any more."""
    r = rig(SHOP, PATIENT, timeout_s=100_000)
    waiting = Wire(r.kernel, (PATIENT, 99), (SHOP, 21))
    waiting.pass_on("client", get("/wait"), START)
    most = 0
    for i in range(3600):
        at = START + (i + 1) * S
        job = Process(1000 + i % 40, f"job{i}")  # numbers come again
        r.known[job.tgid] = job
        wire = Wire(r.kernel, (job, job.tgid), (SHOP, 21))
        wire.pass_on("server", ok(), wire.pass_on("client", get(f"/{i}"), at) + MS)
        wire.close(at + 2 * MS)
        r.feed()
        for index, info in r.engine.processes.told():
            r.engine.red.target_info(index, info.series, info.target_info)
        r.settle(at + S // 2)
        if i % 10 == 9:
            r.engine.forget([99, *(1000 + n % 40 for n in range(i - 9, i + 1))])
        most = max(most, r.engine.memory()["processes"])
        if i % 600 == 599:
            shown = [dict(labels) for labels in find(Exposition(r.engine.red).render(), "target_info")]
            assert len(shown) > 250 and all(labels["me"] == labels["job"] for labels in shown)
    assert TEXT * 300 < most < 2 * TEXT * 800, f"{most} bytes for descriptions"
    waiting.pass_on("server", ok(), r.now)
    spans = r.finish()
    for span in spans:
        client = "patient" if span.path == "/wait" else f"job{span.path[1:]}"
        assert span.service == (client if span.kind == CLIENT else "shop"), span
    assert sum(s.kind == CLIENT for s in spans) == sum(s.kind == SERVER for s in spans) == 3601
