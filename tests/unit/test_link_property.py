"""Random worlds of blocking threads: no link is wrong, none is missing; when records are lost, still none is wrong."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import START, S
from engine_sim import World, judge

KINDS = [
    ["threads"],
    ["threads", "threads", "threads"],
    ["reactor", "threads"],
    ["threads", "reactor", "threads"],
    ["reactor", "reactor", "reactor"],
]


def run(seed: str, kinds: list[str], concurrency: int, seconds: float, loss: float) -> World:
    world = World(seed, kinds, loss)
    world.clients(concurrency)
    world.run(START + int(seconds * S))
    return world


@pytest.mark.parametrize("concurrency", [1, 5, 20])
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_blocking_threads(kinds: list[str], concurrency: int) -> None:
    """Precision and recall are 100 %; every request that was answered has its answer, and both ends one trace."""
    world = run(f"{kinds}/{concurrency}", kinds, concurrency, 0.8, 0)
    spans = world.end()
    v = judge(spans)
    assert v.linked == v.calls and (v.calls > 30 or len(kinds) == 1)
    unanswered = 2 * concurrency * len(kinds)  # what was under way at the end
    assert v.spans > 100 and v.answered >= v.spans - unanswered
    known = {s.span_id: s for s in spans}
    assert all(known[s.parent_id].trace_id == s.trace_id for s in spans if s.parent_id)
    counts = world.rig.counts
    assert counts["gaps"] == counts["orphans"] == counts["parse_errors"] == 0
    assert world.rig.engine.links()["disagreements"] == 0


@pytest.mark.parametrize("loss", [0.002, 0.05, 0.3])
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_with_records_lost(kinds: list[str], loss: float) -> None:
    """Anything may be lost: fewer links and answers, never a wrong one. The ledger balances after every step."""
    for seed in range(2):
        rng = random.Random(seed)
        world = run(f"{kinds}/{loss}/{seed}", kinds, rng.choice([2, 8, 20]), 0.8, loss)
        v = judge(world.end())
        assert v.spans > 50
        assert sum(world.kernel.lost.values()) > 0
