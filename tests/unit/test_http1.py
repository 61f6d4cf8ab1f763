"""The HTTP/1 parser against its case table, fed whole, byte by byte, cut anywhere and with bytes behind."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from zerospan.exporter.proto.harness import Conversation

sys.path.insert(0, str(Path(__file__).parent))
from http1_cases import CASES, GET, OK, C, S, answer, ask
from proto_cases import Case, Message, byte_by_byte, check, cut_at, whole, with_trailing

IDS = [case.name for case in CASES]
CONTINUED = ("expect 100, then the body", "expect 100, then chunks", "refused before the body ended")
# What a cut may not change. A cut head loses fields, a cut body only the knowledge of its length.
HEAD_FIELDS = (
    "type",
    "operation",
    "target",
    "query",
    "domain",
    "code",
    "status",
    "user_agent",
    "request_id",
    "bodiless",
)


def raw(message: Message, key: str) -> bytes:
    value = message[key]
    assert isinstance(value, bytes)
    return value


def size(message: Message, key: str) -> int:
    value = message[key]
    assert isinstance(value, int)
    return value


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_whole(case: Case) -> None:
    check(whole("http", case), case.expect)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_any_split_gives_the_same_messages(case: Case) -> None:
    assert byte_by_byte("http", case) == whole("http", case)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_cut_anywhere_invents_nothing(case: Case) -> None:
    """A message of a cut run is the whole run's message at the same place, or says that it is truncated."""
    full = whole("http", case)
    refused = any(m["type"] == "not_mine" for m in full)
    longest = max(len(data) for _, data in case.turns)
    # Where a body goes on in a later run, the head must have been seen: nothing else tells that it is a body.
    shortest = 70 if case.name in CONTINUED else 1
    for captured in [*range(shortest, min(longest, 600)), *range(600, longest, 997)]:
        got = cut_at("http", case, captured)
        if not refused:
            assert all(m["type"] != "not_mine" for m in got), captured
        _each_known(got, full)


def _each_known(got: list[Message], full: list[Message]) -> None:
    """Each message that claims to be whole stands in `full`, in the same order."""
    rest = iter(full)
    for message in got:
        if message["truncated"] if "truncated" in message else message["type"] == "not_mine":
            continue
        same = (m for m in rest if all(m.get(k) == message.get(k) for k in ("at", *HEAD_FIELDS)))
        found = next(same, None)
        assert found is not None or message["type"] == "ignore", message


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize(
    "tail", [b"\x00\xff\x16\x03", b"GET / HTTP/1.1\r\n\r\n", b"\r\n"], ids=["binary", "request", "crlf"]
)
def test_bytes_behind_change_nothing_before(case: Case, tail: bytes) -> None:
    before = whole("http", case)
    if before[-1]["type"] in ("not_mine", "ignore"):
        return
    assert with_trailing("http", case, tail)[: len(before)] == before


def test_sizes_add_up() -> None:
    """Messages of known length stand side by side: nothing is skipped, nothing is read twice."""
    for case in CASES:
        for from_client, data in case.turns:
            talk = Conversation("http")
            position = 0
            for message in talk.feed(from_client, data):
                if message["type"] == "not_mine":
                    break
                assert message["at"] == position, case.name
                assert 0 < size(message, "consumed") <= len(data) - position
                position += max(size(message, "total"), size(message, "consumed"))


@pytest.mark.parametrize("captured", range(1, 60))
def test_cut_request_line_names_what_is_whole(captured: int) -> None:
    line = b"PATCH http://u:pw@example.org/path?token=abc HTTP/1.1\r\nHost: h\r\n\r\n"
    (message,) = Conversation("http").feed(C, line, captured=captured)
    assert message["type"] == "request" and message["truncated"] and message["total"] == -1
    assert message["operation"] in (b"", b"PATCH")
    assert message["domain"] in (b"", b"example.org")
    assert b"/path".startswith(raw(message, "target"))
    assert b"pw" not in raw(message, "target") + raw(message, "domain")


def test_a_head_may_be_cut_within_a_field() -> None:
    """Half a length is no length, half a host is no host."""
    data = b"POST / HTTP/1.1\r\nUser-Agent: a\r\nContent-Length: 12345\r\nHost: example.org\r\n\r\n"
    for captured in range(17, len(data) - 1):
        (message,) = Conversation("http").feed(C, data, captured=captured)
        assert message["truncated"] and message["body_size"] == -1 and message["total"] == -1
        assert message["user_agent"] == (b"a" if captured >= 32 else b"")
        assert message["domain"] == (b"example.org" if captured >= data.index(b"\r\n\r\n") + 2 else b"")


def test_body_that_was_not_captured_is_passed_by() -> None:
    """Only the first 512 bytes of each run are seen; the runs that follow must be found all the same."""
    talk = Conversation("http")
    body = b"x" * 100_000
    (first,) = talk.feed(C, ask(b"PUT /f HTTP/1.1\nContent-Length: 100000", body)[1], captured=512)
    assert first["body_size"] == 100_000
    (second,) = talk.feed(S, answer(b"HTTP/1.1 200 OK\nContent-Length: 100000", body)[1], captured=512)
    assert second["code"] == 200
    (third,) = talk.feed(C, GET[1])
    assert third["target"] == b"/"


def test_request_behind_an_uncaptured_body_is_not_invented() -> None:
    talk = Conversation("http")
    data = ask(b"PUT /f HTTP/1.1\nContent-Length: 5000", b"x" * 5000)[1]
    assert len(talk.feed(C, data, captured=100)) == 1
    assert [m["target"] for m in talk.feed(C, GET[1])] == [b"/"]


@pytest.mark.parametrize(
    ("data", "from_client", "sure"),
    [
        (b"GET / HTTP/1.1\r\n", C, 3),
        (b"PROPFIND /dav HTTP/1.1\r\n", C, 3),
        (b"OPTIONS * HTTP/1.0\n", C, 3),
        (b"\r\nGET / HTTP/1.1\r\n", C, 3),
        (b"FROBNICATE /x HTTP/1.1\r\n", C, 2),
        (b"HTTP/1.1 200 OK\r\n", S, 3),
        (b"HTTP/1.0 404\r\n", S, 3),
        (b"GET / HT", C, 1),
        (b"GE", C, 1),
        (b"HTT", S, 1),
        (b"GET / HTTP/2.0\r\n", C, 0),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", C, 0),
        (b"GET key\r\n", C, 0),
        (b"PING\r\n", C, 0),
        (b"get /x HTTP/1.1\r\n", C, 0),
        (b"*1\r\n$4\r\nPING\r\n", C, 0),
        (b"\x16\x03\x01\x00\xa5", C, 0),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", C, 0),
        (b"Q\x00\x00\x00\x0dSELECT 1\x00", C, 0),
        (b"SSH-2.0-OpenSSH\r\n", S, 0),
        (b"HTTP/2 200\r\n", S, 0),
        (b"HTTP/1.1 200 OK\r\n", C, 0),
        (b"GET / HTTP/1.1\r\n", S, 0),
        (b"+OK\r\n", S, 0),
    ],
)
def test_sniff(data: bytes, from_client: bool, sure: int) -> None:
    assert Conversation("http").sniff(from_client, data) == sure


def test_sniff_does_not_claim_noise() -> None:
    rng = random.Random(3)
    for _ in range(3000):
        data = rng.randbytes(rng.randrange(1, 80))
        for side in (C, S):
            assert Conversation("http").sniff(side, data) < 2


def test_sniff_grows_surer_with_more_bytes() -> None:
    """It never says no to the beginning of what it accepts."""
    for data, side in [
        (GET[1], C),
        (OK[1], S),
        (b"FROB /x HTTP/1.1\r\n\r\n", C),
        (b"CONNECT h:1 HTTP/1.1\r\n\r\n", C),
    ]:
        said = [Conversation("http").sniff(side, data[:n]) for n in range(1, len(data) + 1)]
        assert said == sorted(said) and said[0] == 1
