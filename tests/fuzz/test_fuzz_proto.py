"""A short campaign of the fuzzer for each parser, and proof that the fuzzer sees a broken parser."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
import fuzz_proto
from proto_cases import Case


@pytest.mark.parametrize("name", list(fuzz_proto.TABLES))
def test_short_campaign(name: str) -> None:
    tally = fuzz_proto.campaign(name, seconds=None, iterations=1500, seed=11)
    assert tally.iterations == 1500
    assert tally.messages > 1500, "the campaign fed bytes of which nothing was understood"
    assert tally.refusals > 50, "the mutations broke nothing"


@pytest.mark.parametrize("name", list(fuzz_proto.TABLES))
def test_time_is_linear(name: str) -> None:
    fuzz_proto.check_linear(name, fuzz_proto.load(name))


@pytest.mark.parametrize(
    "change",
    [
        {"consumed": 0},
        {"consumed": 1000},
        {"at": -1},
        {"total": 5},
        {"operation": b"X" * 65},
        {"target": b"x" * 20000},
        {"masked": b"x" * 1025},
    ],
)
def test_a_broken_message_is_seen(change: dict[str, object]) -> None:
    case = Case("one", [(True, b"GET /path HTTP/1.1\r\n\r\n")])
    runs = fuzz_proto.feed("http", case, None)
    fuzz_proto.check_runs("http", runs)
    runs[0][1][0].update(change)
    with pytest.raises(fuzz_proto.Broken):
        fuzz_proto.check_runs("http", runs)


def test_overlapping_messages_are_seen() -> None:
    runs = fuzz_proto.feed("redis", Case("two", [(True, b"PING\r\nPING\r\n")]), None)
    fuzz_proto.check_runs("redis", runs)
    runs[0][1][1]["at"] = 3
    with pytest.raises(fuzz_proto.Broken):
        fuzz_proto.check_runs("redis", runs)


def test_a_shown_secret_is_seen() -> None:
    runs = fuzz_proto.feed("http", Case("path", [(True, b"GET /s3cr3t HTTP/1.1\r\n\r\n")]), None)
    with pytest.raises(fuzz_proto.Broken):
        fuzz_proto.check_secrets(runs, fuzz_proto.SECRET)


def test_every_table_plants_secrets() -> None:
    """Else the campaign would prove nothing about masking. DNS has nothing to hide."""
    for name in ("http", "redis", "postgresql"):
        planted = [c for c in fuzz_proto.load(name) if any(fuzz_proto.SECRET in data for _, data in c.turns)]
        assert len(planted) >= 3, name


def test_mutations_repeat_from_their_seed() -> None:
    table = fuzz_proto.load("http")
    a, b = (fuzz_proto.mutate(random.Random("x"), table[0], table) for _ in range(2))
    assert a == b
