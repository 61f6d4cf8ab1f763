"""A short campaign of the rewriter's fuzzer, and proof that it sees what is broken."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fuzz_otlp
import fuzz_records
from fuzz_otlp import CASES, Tally
from fuzz_records import Broken

from zerospan.enricher.proxy import rewrite


def test_every_cut() -> None:
    tally = Tally()
    fuzz_otlp.every_cut(1, tally)
    assert tally.refused > 3000 and tally.valid > 20


def test_short_campaign() -> None:
    tally = fuzz_records.guarded(None, 1500, 11, 0, fuzz_otlp.campaign)
    assert tally.iterations == 1500
    assert tally.valid > 100 and tally.refused > 200 and tally.left > 20, f"the mutations test too little: {tally}"


REAL = rewrite.rewrite


@pytest.mark.parametrize(
    "wrong",
    [
        lambda body, signal, replace: (body, 8),  # adds nothing
        lambda body, signal, replace: (REAL(body, signal, replace)[0], 999),
        lambda body, signal, replace: (REAL(body, signal, replace)[0][:-1], 8),
        lambda body, signal, replace: REAL(b"\x0a", signal, replace),
    ],
)
def test_wrong_rewriters_are_told(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    signal, body = CASES["several"]
    fuzz_otlp.judge(signal, body, Tally())
    monkeypatch.setattr(fuzz_otlp.rewrite, "rewrite", wrong)
    with pytest.raises(Broken):
        fuzz_otlp.judge(signal, body, Tally())
