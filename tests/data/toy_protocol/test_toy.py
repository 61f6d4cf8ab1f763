"""The toy parser against its case table, fed whole, byte by byte, cut anywhere and with bytes behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from proto_cases import Case, byte_by_byte, check, cut_at, whole, with_trailing
from toy_cases import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case: Case) -> None:
    check(whole("toy", case), case.expect)
    check(byte_by_byte("toy", case)[: len(case.expect)], case.expect)
    check(with_trailing("toy", case, b"\xff\xff")[: len(case.expect)], case.expect)
    for n in range(len(case.turns[0][1])):
        types = [m["type"] for m in cut_at("toy", case, n)]
        assert len(types) <= len(case.expect)
