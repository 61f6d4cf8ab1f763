"""A short campaign of the records' fuzzer, and proof that it sees what is broken."""

from __future__ import annotations

import faulthandler
import os
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fuzz_records
from fuzz_records import Broken, Tally


def test_short_campaign() -> None:
    tally = fuzz_records.guarded(None, 400, 11)
    assert tally.iterations == 400
    assert tally.spans > 1000, "the records were not understood"
    assert tally.bad > 50, "the mutations broke nothing"


def test_a_crash_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(rng: random.Random, tally: Tally) -> None:
        tally.iterations += 1
        if tally.iterations == 4:
            faulthandler.disable()
            os.abort()

    monkeypatch.setattr(fuzz_records, "iteration", crash)
    with pytest.raises(Broken, match=r"(?s)died.*--first 3 "):
        fuzz_records.guarded(None, 10, 1)


def test_a_ledger_that_does_not_balance_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_records.Rig, "balance", lambda self: 1 / 0)
    with pytest.raises(Broken, match="ZeroDivisionError"):
        fuzz_records.guarded(None, 1, 1)


def test_memory_beyond_its_bounds_is_told() -> None:
    rig = fuzz_records.Rig(*fuzz_records.PROCESSES)
    with pytest.raises(Broken):
        fuzz_records.check(rig, {**fuzz_records.LIMITS, "max_open_bytes": -1})


def test_mutations_repeat_from_their_seed() -> None:
    a, b = (fuzz_records.mutate(random.Random("x"), [bytes(range(80))] * 9) for _ in range(2))
    assert a == b
