"""The Redis parser against its case table, fed whole, byte by byte, cut anywhere and with bytes behind."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from zerospan.exporter.proto.harness import Conversation

sys.path.insert(0, str(Path(__file__).parent))
from proto_cases import Case, Message, byte_by_byte, check, cut_at, whole, with_trailing
from redis_cases import CASES, C, S, confirm, pack

IDS = [case.name for case in CASES]
HEAD_FIELDS = ("at", "type", "operation", "status", "status_text", "rows", "domain")


def raw(message: Message, key: str) -> bytes:
    value = message.get(key, b"")
    assert isinstance(value, bytes)
    return value


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_whole(case: Case) -> None:
    check(whole("redis", case), case.expect)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_any_split_gives_the_same_messages(case: Case) -> None:
    assert byte_by_byte("redis", case) == whole("redis", case)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_cut_anywhere_invents_nothing(case: Case) -> None:
    """What comes out of a cut run stands in the whole run, in the same order, or says it is truncated."""
    full = whole("redis", case)
    longest = max(len(data) for _, data in case.turns)
    for captured in [*range(1, min(longest, 300)), *range(300, longest, 997)]:
        got = cut_at("redis", case, captured)
        if all(m["type"] != "not_mine" for m in full):
            assert all(m["type"] != "not_mine" for m in got), captured
        rest = iter(full)
        for message in got:
            if message.get("truncated"):
                continue
            # Whether an array is a push hangs on what was asked: unknown where a command was cut.
            keys = HEAD_FIELDS if all(not m.get("truncated") for m in got) else ("at",)
            assert any(all(m.get(k) == message.get(k) for k in keys) for m in rest), (captured, message)


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("tail", [b"\x00\xff", b"*1\r\n$4\r\nPING\r\n", b"+OK\r\n"], ids=["binary", "command", "reply"])
def test_bytes_behind_change_nothing_before(case: Case, tail: bytes) -> None:
    before = whole("redis", case)
    if before[-1]["type"] == "not_mine" or before[-1]["truncated"]:
        return
    assert with_trailing("redis", case, tail)[: len(before)] == before


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_masked_text_has_no_arguments(case: Case) -> None:
    for message in whole("redis", case):
        masked = raw(message, "masked")
        operation, *rest = masked.split(b" ")
        assert set(rest) <= {b"?", b"..."} and len(masked) <= 32 + 17 * 2 + 2
        assert operation in (b"?", message.get("operation", b""))


def test_text_is_printable_and_bounded() -> None:
    """Whatever the arguments are: what is shown with masking off is one line of at most 512 bytes."""
    rng = random.Random(5)
    for _ in range(500):
        arguments = [rng.randbytes(rng.choice([0, 1, 5, 127, 128, 129, 600])) for _ in range(rng.randrange(1, 20))]
        (message,) = Conversation("redis").feed(C, pack(b"SET", *arguments))
        text = raw(message, "target")
        assert len(text) <= 512 and all(32 <= b < 127 for b in text)
        assert raw(message, "masked").count(b"?") <= 16


def test_masked_shape_is_the_arguments_own() -> None:
    """One ? for each argument, whatever is in it."""
    rng = random.Random(6)
    for _ in range(500):
        arguments = [bytes(rng.choices(b"ab \"'\\\n\xff.", k=rng.randrange(0, 9))) for _ in range(rng.randrange(0, 9))]
        (message,) = Conversation("redis").feed(C, pack(b"SET", *arguments))
        assert message["masked"] == b"SET" + b" ?" * len(arguments), arguments


def test_length_of_random_values_is_exact() -> None:
    """Any value of RESP3, nested at random: its end is found, and what follows it."""
    rng = random.Random(7)

    def value(depth: int) -> bytes:
        kind = rng.choice("+-:$_#,(!=" + ("*%~|a" if depth < 6 else ""))
        text = bytes(rng.choices(b"abc XYZ", k=rng.randrange(0, 12)))
        count = rng.randrange(0, 4)
        if kind in "+-":
            return kind.encode() + text + b"\r\n"
        if kind in "$!=":
            return b"%s%d\r\n%s\r\n" % (kind.encode(), len(text), text)
        if kind in "*~":
            return b"%s%d\r\n" % (kind.encode(), count) + b"".join(value(depth + 1) for _ in range(count))
        if kind == "%":
            return b"%%%d\r\n" % count + b"".join(value(depth + 1) for _ in range(2 * count))
        if kind == "|":
            return b"|%d\r\n" % count + b"".join(value(depth + 1) for _ in range(2 * count)) + value(depth + 1)
        if kind == "a":
            return b"*?\r\n" + b"".join(value(depth + 1) for _ in range(count)) + b".\r\n"
        return {":": b":42\r\n", "_": b"_\r\n", "#": b"#t\r\n", ",": b",1.5\r\n", "(": b"(123\r\n"}[kind]

    for _ in range(2000):
        data = value(0)
        if len(data) > 12_000:
            continue
        talk = Conversation("redis")
        talk.feed(C, b"*1\r\n$4\r\nPING\r\n")
        got = talk.feed(S, data + b"+END\r\n")
        assert [(m["at"], m["total"]) for m in got] == [(0, len(data)), (len(data), 6)], data


def test_value_that_was_not_captured_is_passed_by() -> None:
    """Only 100 bytes of each call are seen: the length that was announced leads to the next message."""
    talk = Conversation("redis")
    (first,) = talk.feed(C, pack(b"SET", b"k", b"x" * 100_000), captured=100)
    assert (first["operation"], first["target"]) == (b"SET", b'SET k "' + b"x" * 71 + b'"...')
    talk.feed(S, b"+OK\r\n")
    assert [m["operation"] for m in talk.feed(C, pack(b"GET", b"k"))] == [b"GET"]
    talk.feed(S, b"$100000\r\n" + b"x" * 100_000 + b"\r\n", captured=100)
    assert [m["operation"] for m in talk.feed(C, pack(b"PING"))] == [b"PING"]


def test_confirmations_of_several_subscribes_in_flight() -> None:
    """Exactly one answer for each request, whatever the number of channels."""
    rng = random.Random(8)
    for _ in range(200):
        talk = Conversation("redis")
        counts = [rng.randrange(1, 5) for _ in range(rng.randrange(1, 8))]
        asked = talk.feed(C, b"".join(pack(b"SUBSCRIBE", *[b"c"] * n) for n in counts))
        assert [m["type"] for m in asked] == ["request"] * len(counts)
        got = talk.feed(S, b"".join(confirm(b"subscribe", b"c", i + 1) for i in range(sum(counts))))
        assert [m["type"] for m in got] == [t for n in counts for t in ["response", *["oneway"] * (n - 1)]]


@pytest.mark.parametrize(
    ("data", "from_client", "sure"),
    [
        (b"*1\r\n$4\r\nPING\r\n", C, 3),
        (b"*3\r\n$3\r\nSE", C, 3),
        (b"*3\r\n$", C, 1),
        (b"*", C, 1),
        (b"PING\r\n", C, 2),
        (b"ping\n", C, 2),
        (b"GET key\r\n", C, 2),
        (b"SELECT 1\r\n", C, 2),
        (b"PI", C, 1),
        (b"+PONG\r\n", S, 2),
        (b"$3\r\nabc\r\n", S, 3),
        (b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", S, 2),
        (b"-WRONGTYPE Operation\r\n", S, 2),
        (b":12\r\n", S, 2),
        (b"-ERR x\r\n", S, 1),
        (b"+OK POP3 server ready\r\n", S, 1),
        (b"get key\r\n", C, 0),
        (b"set k 0 0 5\r\nhello\r\n", C, 0),
        (b"GET / HTTP/1.1\r\n", C, 0),
        (b"INFO sip:a@b SIP/2.0\r\n", C, 0),
        (b"SELECT 1 FROM t\r\n", C, 0),
        (b"EHLO mail\r\n", C, 0),
        (b"USER bob\r\n", C, 0),
        (b"hello world, this is text\r\n", S, 0),
        (b"Q\x00\x00\x00\x0dSELECT 1\x00", C, 0),
        (b"P\x00\x00\x00\x10\x00SELECT 1\x00", C, 0),
        (b"S\x00\x00\x00\x04", C, 0),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", C, 0),
        (b"\x16\x03\x01\x00\xa5\x01", C, 0),
        (b"\x16\x03\x03\x00\x7a\x02", S, 0),
        (b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01", C, 0),
        (b"220 smtp ready\r\n", S, 0),
        (b"HTTP/1.1 200 OK\r\n", S, 0),
        (b'INFO {"server_id":"N"}\r\n', S, 0),
        (b"$abc\r\n", S, 0),
        (b"*1\r\n:1\r\n", C, 0),
    ],
)
def test_sniff(data: bytes, from_client: bool, sure: int) -> None:
    assert Conversation("redis").sniff(from_client, data) == sure


def test_sniff_takes_the_port_as_a_hint() -> None:
    assert Conversation("redis", 6379).sniff(C, b"get key\r\n") == 2


def test_sniff_does_not_claim_noise_or_text() -> None:
    rng = random.Random(9)
    words = b"the quick brown fox jumps over a lazy dog and says no more to anyone".split()
    for _ in range(3000):
        for data in (rng.randbytes(rng.randrange(1, 80)), b" ".join(rng.choices(words, k=8)) + b"\r\n"):
            for side in (C, S):
                assert Conversation("redis").sniff(side, data) < 2, data


def test_state_is_bounded() -> None:
    """A thousand subscriptions without an answer, a thousand databases: no message is lost, nothing grows."""
    talk = Conversation("redis")
    data = b"".join(pack(b"SUBSCRIBE", b"c%d" % i) + pack(b"SELECT", b"%d" % i) for i in range(1000))
    messages: list[Message] = talk.feed(C, data)
    assert len(messages) == 2000
    assert all(len(raw(m, "domain")) <= 5 for m in messages)
