"""The DNS parser: its table of cases fed in all ways, hostile names, refusals and sniffing."""

from __future__ import annotations

import random
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from zerospan.exporter.proto.harness import Conversation

sys.path.insert(0, str(Path(__file__).parent))
from dns_cases import (
    ANSWER,
    ASK,
    CASES,
    CD,
    PTR,
    QR,
    RD,
    UDP,
    WWW,
    answer,
    ask,
    message,
    opt,
    question,
    req,
    tcp,
    wire,
)
from proto_cases import Case, byte_by_byte, check, cut_at, whole, with_trailing

each = pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])


@each
def test_whole(case: Case) -> None:
    check(whole("dns", case), case.expect)


@each
def test_byte_by_byte(case: Case) -> None:
    assert byte_by_byte("dns", case) == whole("dns", case)


@each
def test_trailing(case: Case) -> None:
    """UDP: bytes behind the last record change nothing. TCP: they begin another message, which is none."""
    got = with_trailing("dns", case, b"\0\1\2")
    fields = ("type", "operation", "target", "code", "rows", "id", "status")
    for message_, wanted in zip(got, whole("dns", case), strict=False):
        if not case.datagram or wanted["truncated"] is False:
            assert {f: message_[f] for f in fields} == {f: wanted[f] for f in fields}
    assert case.datagram or got[-1] == {"type": "not_mine"}


@each
def test_cut_at_every_offset(case: Case) -> None:
    """Nothing is refused; what is told of a cut message is true or left out."""
    full: list[dict[str, Any]] = whole("dns", case)
    for captured in range(1, max(len(data) for _, data in case.turns)):
        got: list[dict[str, Any]] = cut_at("dns", case, captured)
        assert all(m["type"] != "not_mine" for m in got), captured
        for m in got:
            if m["type"] == "ignore":
                continue
            assert any(
                f["id"] == m["id"]
                and f["type"] == m["type"]
                and f["rows"] == m["rows"]
                and f["total"] >= m["total"]
                and m["target"] in (f["target"], b"")
                and m["operation"] in (f["operation"], b"")
                and (m["truncated"] or (m["code"], m["consumed"]) == (f["code"], f["consumed"]))
                for f in full
            ), (captured, m)


def one(data: bytes) -> dict[str, Any]:
    (got,) = Conversation("dns", 53, True).feed(ASK, data)
    return got


@pytest.mark.parametrize(
    "name",
    [
        PTR,
        b"\xc0\xff",
        b"\x01a\xc0\x0c",
        b"\x01a\xc0\x0e",
        b"\x40" + b"x" * 64 + b"\0",
        b"\x80x\0",
        wire([b"x" * 63] * 4),
        b"\x01a" * 128 + b"\0",
        b"\x01a\xff\xff",
    ],
    ids=repr,
)
def test_names_that_are_none_are_refused(name: bytes) -> None:
    """Pointers to themselves, in a circle, forward; labels of a reserved kind; more than 255 bytes."""
    assert one(message(1, RD, [question(name)]))["type"] == "not_mine"


def test_a_pointer_backward_is_followed() -> None:
    """Into the header, whose bytes spell a label here: id 0x0161 is "a", then the flags' zero."""
    assert one(message(0x0161, 0, [question(b"\x01b\xc0\x00")]))["target"] == b"b.a"


def test_a_claim_of_65535_questions_costs_nothing() -> None:
    data = struct.pack(">HH4H", 1, RD, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF) + question("a.b") * 80
    talk = Conversation("dns", 53, True)
    begin = time.process_time()
    for _ in range(1000):
        talk.feed(ASK, data)
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("opcode", [3, 7, 15])
def test_unknown_opcodes_are_refused(opcode: int) -> None:
    assert one(message(1, opcode << 11, [question("a.b")]))["type"] == "not_mine"


def test_a_short_tcp_length_is_refused() -> None:
    assert Conversation("dns", 53).feed(ASK, b"\0\x0b" + bytes(11))[-1]["type"] == "not_mine"


def test_each_datagram_stands_alone() -> None:
    """A cut answer does not hide the next one, which came in the same direction."""
    talk = Conversation("dns", 53, True)
    first = talk.feed(ANSWER, answer(1, n=60), captured=512)
    second = talk.feed(ANSWER, answer(2))
    assert first[0]["truncated"] and first[0]["rows"] == 60
    assert second[0]["id"] == 2 and not second[0]["truncated"]


@pytest.mark.parametrize(
    ("datagram", "data", "sure"),
    [
        (True, ask(), 3),
        (True, answer(), 3),
        (True, ask(name="", qtype="NS"), 3),
        (True, ask(flags=RD | CD), 3),
        (True, message(1, RD, [question("a.b")], additional=[opt()]), 3),
        (True, answer(n=90)[:512], 2),
        (True, message(0, QR, [], [wire("a.local") + bytes.fromhex("0001 8001 00000078 0004 7f000001")]), 3),
        (False, tcp(ask()), 3),
        (False, tcp(ask()) + tcp(ask(2)), 3),
        (False, tcp(answer(n=90))[:512], 2),
        (False, tcp(ask())[:1], 1),
        (False, tcp(ask())[:9], 1),
        (False, tcp(ask())[:30], 1),
        (True, ask()[:-1], 0),
        (True, ask()[:20], 0),
        (True, ask(qtype=9999), 0),
        (True, message(1, RD, [question("a", "A", 9)]), 0),
        (True, ask(flags=RD | 0x40), 0),
        (True, ask(flags=RD | 1), 0),
        (True, message(1, RD, []), 0),
        (True, ask() + b"x", 0),
        (True, message(1, 3 << 11, [question("a")]), 0),
        (True, bytes(48), 0),
        (True, b"", 0),
        (True, b"\x23" + bytes(47), 0),
        (True, b"\xe3\0\6\xec" + bytes(44), 0),  # NTP
        (True, b"\xc3\0\0\0\1\x08" + bytes(range(200)), 0),  # QUIC
        (True, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        (True, b"metric.name:1|c", 0),
        (True, b"<34>1 2024-01-01 host app", 0),
        (False, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        (False, b"HTTP/1.1 200 OK\r\n\r\n", 0),
        (False, b"*1\r\n$4\r\nPING\r\n", 0),
        (False, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), 0),
        (False, bytes.fromhex("00000021000300007573657200616e6e000000"), 0),
        (False, bytes(64), 0),
        (False, b"\0\0\0\x08\x04\xd2\x16\x2f", 0),
        (False, b"SSH-2.0-OpenSSH_9.2\r\n", 0),
        (False, bytes.fromhex("0000001400030000000000010004726f6f74ffffffff"), 0),  # Kafka
    ],
    ids=lambda v: repr(v)[:40],
)
def test_sniff(datagram: bool, data: bytes, sure: int) -> None:
    assert Conversation("dns", 0, datagram).sniff(ASK, data) == sure


@pytest.mark.parametrize(
    "case",
    [
        c
        for c in UDP
        if c.name
        not in (
            "formerr without a question",
            "status",
            "unknown type",
            "largest type",
            "records run past the end",
            "second question is compressed",
            "escapes",
            "longest presentation",
            "rcode without a name",
            "largest rcode",
        )
    ],
    ids=lambda c: c.name,
)
def test_sniff_knows_its_own(case: Case) -> None:
    for side, data in case.turns:
        assert Conversation("dns", 0, True).sniff(side, data) >= 2


@pytest.mark.parametrize("datagram", [True, False])
def test_sniff_takes_no_noise(datagram: bool) -> None:
    noise = random.Random(11)
    talk = Conversation("dns", 0, datagram)
    assert sum(talk.sniff(True, noise.randbytes(noise.randrange(1, 300))) >= 2 for _ in range(100_000)) == 0


def test_request_is_told_by_the_bit_not_by_the_side() -> None:
    check(Conversation("dns", 53, True).feed(ANSWER, ask()), [req("A", WWW)])
