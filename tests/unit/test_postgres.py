"""The PostgreSQL parser: its table of cases fed in all ways, and what shows when the capture ends early."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from zerospan.exporter.proto.harness import Conversation

sys.path.insert(0, str(Path(__file__).parent))
from postgres_cases import CASES
from postgres_frames import (
    BOUND,
    CLIENT,
    CLOSED,
    IGN,
    LOGIN,
    NOTICE,
    ONE_SHOT,
    PARAMETERS,
    PARSED,
    SERVER,
    SSL,
    SYNC,
    bind,
    columns,
    describe,
    done,
    error,
    execute,
    frame,
    ok,
    parse,
    query,
    ready,
    req,
    row,
    startup,
)
from proto_cases import Case, Message, byte_by_byte, check, cut_at, whole, with_trailing

IDS = [c.name for c in CASES]
each = pytest.mark.parametrize("case", CASES, ids=IDS)


def kinds(messages: list[Message], *wanted: str) -> list[dict[str, Any]]:
    return [dict(m) for m in messages if m["type"] in wanted]


@each
def test_whole(case: Case) -> None:
    check(whole("postgresql", case), case.expect)


@each
def test_byte_by_byte(case: Case) -> None:
    got = byte_by_byte("postgresql", case)
    check(got, case.expect)
    assert got == whole("postgresql", case)


@each
def test_trailing(case: Case) -> None:
    got = with_trailing("postgresql", case, b"\xff\xfe\xfd")
    assert got[-1]["type"] in ("not_mine", "upgrade")
    assert [m for m in got if m["type"] != "not_mine"][: len(case.expect)] == whole("postgresql", case)


@each
def test_cut_at_every_offset(case: Case) -> None:
    """Nothing is refused; no request twice; no answer without a request; no text that was not sent."""
    full = whole("postgresql", case)
    requests = kinds(full, "request")
    for captured in range(1, max(len(data) for _, data in case.turns) + 1):
        got = cut_at("postgresql", case, captured)
        assert not kinds(got, "not_mine"), captured
        told = kinds(got, "request")
        prepares = sum(d[:1] == b"P" for f, d in case.turns if f)
        assert len(told) <= len(requests) + prepares, captured
        opened = 0
        for m in got:
            opened += m["type"] == "request"
            opened -= m["type"] == "response"
            assert opened >= 0, (captured, got)
        texts = [d for f, d in case.turns if f]
        for asked in told:
            assert not asked["target"] or any(asked["target"] in d for d in texts)
            if asked["consumed"] != asked["total"]:
                assert asked["truncated"] and (asked["total"] == -1 or asked["total"] > asked["consumed"])


# --- the capture ends early ---------------------------------------------------------------------------------


def feed(talk: Conversation, *turns: tuple[bool, bytes], captured: int = 512) -> list[Message]:
    out: list[Message] = []
    for side, data in turns:
        out += talk.feed(side, data, captured=captured)
    return out + talk.finish()


def test_long_result_is_answered_without_its_end() -> None:
    talk = Conversation("postgresql")
    rows = columns("a") + row(b"x" * 100) * 50 + done("SELECT 50") + ready()
    got = kinds(feed(talk, (CLIENT, query("SELECT a FROM t")), (SERVER, rows)), "request", "response")
    check(got, [req("SELECT"), {"type": "response", "status": "ok", "truncated": True, "rows": -1, "total": -1}])
    got = kinds(
        feed(talk, (CLIENT, query("SELECT 2")), (SERVER, columns("a") + row(b"1") + done("SELECT 1") + ready())),
        "request",
        "response",
    )
    check(got, [req("SELECT", "SELECT 2"), ok(1)])


def test_one_long_row_is_answered_without_its_end() -> None:
    got = feed(Conversation("postgresql"), (CLIENT, bind() + execute() + SYNC), (SERVER, BOUND + row(b"x" * 5000)))
    check(kinds(got, "response"), [{"status": "ok", "truncated": True, "rows": -1, "total": -1}])


def test_cut_exactly_behind_a_frame() -> None:
    """`cut` may come with the last whole frame: there will be no other chance to answer."""
    talk = Conversation("postgresql")
    talk.feed(CLIENT, bind() + execute() + SYNC)
    got = talk.feed(SERVER, BOUND + columns("a"), cut=True)
    check(kinds(got, "response"), [{"status": "ok", "truncated": True, "rows": -1, "total": -1}])


def test_all_answers_of_a_cut_run_are_told_in_order() -> None:
    talk = Conversation("postgresql")
    group = bind() + execute()
    got = feed(
        talk,
        (CLIENT, group * 3 + SYNC),
        (
            SERVER,
            BOUND
            + done("INSERT 0 7")
            + BOUND
            + row(b"x" * 900)
            + done("SELECT 1")
            + BOUND
            + done("SELECT 0")
            + ready(),
        ),
    )
    check(
        kinds(got, "response"),
        [
            ok(7),
            {"status": "ok", "truncated": True, "rows": -1},
            {"status": "unset", "truncated": True, "rows": -1},
        ],
    )
    got = feed(talk, (CLIENT, group + SYNC), (SERVER, ONE_SHOT + ready()))
    check(kinds(got, "response"), [ok(1)])


def test_error_in_a_cut_run_still_skips_the_others() -> None:
    talk = Conversation("postgresql")
    got = feed(talk, (CLIENT, (bind() + execute()) * 3 + SYNC), (SERVER, error("22P02", "bad " * 400) + ready()))
    answers = kinds(got, "response")
    assert [m["status"] for m in answers] == ["server_error"] * 3
    assert answers[0]["status_text"] == b"22P02" and answers[0]["truncated"]
    assert answers[0]["message"].startswith(b"bad bad")
    assert [m["message"] for m in answers[1:]] == [b"skipped after error"] * 2


def test_a_cut_before_the_answer_begins_still_answers() -> None:
    """The run is cut in the answer to a prepare; the Execute behind it was answered where nobody looked."""
    talk = Conversation("postgresql")
    asked = parse("SELECT $1", "s") + describe("s", "S") + SYNC + bind([b"1"], "s") + execute() + SYNC
    told = PARSED + PARAMETERS + columns(*["long column name"] * 40) + ready() + ONE_SHOT + ready()
    check(
        kinds(feed(talk, (CLIENT, asked), (SERVER, told)), "response"),
        [{"status": "unset", "truncated": True}],
    )
    got = feed(talk, (CLIENT, query("SELECT 9")), (SERVER, done("SELECT 9") + ready()))
    check(kinds(got, "request", "response"), [req("SELECT", "SELECT 9"), ok(9)])


def test_long_sql_of_an_extended_query_is_a_request() -> None:
    """The Execute lies behind the captured bytes: the Parse is told, once."""
    sql = "SELECT " + ", ".join(f"c{i}" for i in range(200)) + " FROM wide"
    talk = Conversation("postgresql")
    got = feed(
        talk,
        (CLIENT, parse(sql) + bind([b"1"]) + describe() + execute() + SYNC),
        (SERVER, PARSED + ONE_SHOT + ready()),
    )
    asked, answered = kinds(got, "request", "response")
    assert asked["operation"] == b"SELECT" and asked["truncated"] and sql.encode().startswith(asked["target"])
    assert asked["at"] == 0 and asked["total"] == len(parse(sql))
    check([answered], [ok(1)])
    got = feed(talk, (CLIENT, query("SELECT 2")), (SERVER, done("SELECT 0") + ready()))
    check(kinds(got, "request", "response"), [req("SELECT", "SELECT 2"), ok(0)])


def test_long_values_are_a_request_of_the_statement() -> None:
    talk = Conversation("postgresql")
    feed(talk, (CLIENT, parse("INSERT INTO t VALUES ($1)", "i") + SYNC), (SERVER, PARSED + ready()))
    got = feed(
        talk,
        (CLIENT, bind([b"x" * 3000], "i") + execute() + SYNC),
        (SERVER, BOUND + done("INSERT 0 1") + ready()),
    )
    asked, answered = kinds(got, "request", "response")
    assert asked["target"] == b"INSERT INTO t VALUES ($1)" and asked["collection"] == b"t"
    check([answered], [ok(1)])


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "flush"])
def test_long_sql_that_is_only_prepared_says_so(sync: bool) -> None:
    sql = "SELECT " + ", ".join(f"c{i}" for i in range(200)) + " FROM wide WHERE a = $1"
    talk = Conversation("postgresql")
    end = SYNC if sync else frame(b"H")
    got = feed(
        talk,
        (CLIENT, parse(sql, "w") + describe("w", "S") + end),
        (SERVER, PARSED + PARAMETERS + columns("a") + (ready() if sync else b"")),
    )
    asked, answered = kinds(got, "request", "response")
    assert asked["operation"] == b"SELECT"
    assert answered["operation"] == b"PREPARE" and answered["status"] == "ok"
    got = feed(talk, (CLIENT, bind([b"1"], "w") + execute() + SYNC), (SERVER, ONE_SHOT + ready()))
    asked, answered = kinds(got, "request", "response")
    assert asked["target"] == sql.encode()[: len(asked["target"])] and asked["operation"] == b"SELECT"
    check([answered], [ok(1)])


def test_prepare_without_describe_says_so() -> None:
    talk = Conversation("postgresql")
    got = feed(talk, (CLIENT, parse("SELECT 1 -- " + "x" * 600, "w") + SYNC), (SERVER, PARSED + ready()))
    assert kinds(got, "response")[0]["operation"] == b"PREPARE"


def test_cut_query_keeps_the_announced_length() -> None:
    data = query("SELECT '" + "s" * 2000 + "'")
    (asked,) = feed(Conversation("postgresql"), (CLIENT, data))
    assert asked["truncated"] and asked["total"] == len(data) and asked["consumed"] == 512
    assert asked["masked"] == b"SELECT ?"


def test_lost_requests_do_not_shift_the_answers() -> None:
    """Of a long pipeline only the first requests are captured; later answers find nobody."""
    talk = Conversation("postgresql")
    group = bind([b"v" * 50]) + execute()
    got = feed(talk, (CLIENT, group * 30 + SYNC), (SERVER, (BOUND + done("INSERT 0 1")) * 30 + ready()), captured=300)
    asked, answered = kinds(got, "request"), kinds(got, "response")
    assert len(asked) == len(answered) < 30
    got = feed(talk, (CLIENT, query("SELECT 9")), (SERVER, done("SELECT 9") + ready()))
    check(kinds(got, "request", "response"), [req("SELECT", "SELECT 9"), ok(9)])


# --- bounds -------------------------------------------------------------------------------------------------


def test_statements_are_bounded_and_the_unused_leave_first() -> None:
    talk = Conversation("postgresql")
    for i in range(100):
        talk.feed(CLIENT, parse(f"SELECT {i} FROM t{i}", f"s{i}") + SYNC)
        talk.feed(CLIENT, bind([], "s0") + SYNC)
    for i, known in ((0, True), (99, True), (60, True), (1, False), (20, False)):
        got = kinds(talk.feed(CLIENT, bind([], f"s{i}") + execute()), "request")
        assert (got[0]["target"] == f"SELECT {i} FROM t{i}".encode()) is known, i


def test_long_names_are_forgotten_not_confused() -> None:
    talk = Conversation("postgresql")
    talk.feed(CLIENT, parse("SELECT 1", "n" * 64) + parse("SELECT 2", "n" * 65))
    got = kinds(talk.feed(CLIENT, bind([], "n" * 64) + execute() + bind([], "n" * 65) + execute()), "request")
    assert [m["target"] for m in got] == [b"SELECT 1", b""]


def test_a_flood_of_unanswered_requests_is_bounded_and_recovers() -> None:
    talk = Conversation("postgresql")
    told = []
    for _ in range(50):
        told += talk.feed(CLIENT, query("SELECT 1") * 100)
    assert [m["type"] for m in told] == ["request"] * 4096 + ["oneway"] * (5000 - 4096)
    answers = []
    for _ in range(50):
        answers += talk.feed(SERVER, (done("SELECT 1") + ready()) * 100)
    assert len(kinds(answers, "response")) == 4096
    got = talk.feed(CLIENT, query("SELECT 2")) + talk.feed(SERVER, done("SELECT 5") + ready())
    check(kinds(got, "request", "response"), [req("SELECT", "SELECT 2"), ok(5)])


# --- refusals and sniffing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "data"),
    [
        (CLIENT, b"GET / HTTP/1.1\r\n\r\n"),
        (CLIENT, b"*1\r\n$4\r\nPING\r\n"),
        (CLIENT, b"\x16\x03\x01\x02\x00\x01\x00\x01"),
        (SERVER, b"HTTP/1.1 200 OK\r\n\r\n"),
        (SERVER, b"+OK\r\n"),
        (CLIENT, frame(b"Q", b"SELECT 1")),
        (CLIENT, frame(b"Q", b"a\0b\0")),
        (CLIENT, frame(b"S", b"x")),
        (SERVER, frame(b"Z", b"II")),
        (CLIENT, b"Q\0\0\0\3"),
        (CLIENT, startup(131072, {"user": "x"})),
        (CLIENT, frame(b"E", b"portal\0")),
        (CLIENT, b"Q\xff\xff\xff\xff"),
        (CLIENT, frame(b"D", b"Xname\0")),
        (CLIENT, b"\0\1\0\0\0\0\0\0"),
    ],
    ids=repr,
)
def test_refuses(side: bool, data: bytes) -> None:
    assert Conversation("postgresql").feed(side, data)[-1]["type"] == "not_mine"


@pytest.mark.parametrize(
    ("side", "data", "sure"),
    [
        (CLIENT, LOGIN, 3),
        (CLIENT, SSL, 3),
        (CLIENT, startup(80877104), 3),
        (CLIENT, startup(80877102, tail=bytes(8)), 3),
        (CLIENT, LOGIN[:7], 1),
        (CLIENT, LOGIN[:1], 1),
        (CLIENT, LOGIN[:20], 3),
        (CLIENT, query("SELECT 1"), 2),
        (CLIENT, query("  /* x */ insert into t values (1)"), 2),
        (CLIENT, query("SELECT '" + "x" * 1000)[:512], 2),
        (CLIENT, query("SELECT 1")[:4], 1),
        (CLIENT, query("SELECT 1")[:8], 1),
        (CLIENT, parse("SELECT 1 FROM t", "s") + describe("s", "S") + SYNC, 2),
        (CLIENT, parse("SELECT '" + "x" * 1000)[:512], 2),
        (CLIENT, bind([b"abc", None], "s1") + execute() + SYNC, 2),
        (CLIENT, bind([b"abc"], "S_1"), 2),
        (CLIENT, SYNC, 2),
        (SERVER, columns("a") + row(b"1") + done("SELECT 1") + ready(), 2),
        (SERVER, ready(), 2),
        (SERVER, columns("a") + row(b"x" * 999)[:300], 2),
        (SERVER, PARSED + BOUND, 2),
        (SERVER, NOTICE, 2),
        (SERVER, error("42601", "no"), 2),
        (SERVER, frame(b"R", bytes(4)), 2),
        (SERVER, CLOSED + ready(), 2),
        (CLIENT, b"GET / HTTP/1.1\r\n", 0),
        (CLIENT, b"POST /a HTTP/1.1\r\n", 0),
        (CLIENT, b"PUT /a HTTP/1.1\r\n", 0),
        (CLIENT, b"DELETE /a HTTP/1.1\r\n", 0),
        (CLIENT, b"CONNECT a:1 HTTP/1.1\r\n", 0),
        (SERVER, b"HTTP/1.1 200 OK\r\n", 0),
        (CLIENT, b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", 0),
        (CLIENT, b"PING\r\n", 0),
        (CLIENT, b"SET a b\r\n", 0),
        (SERVER, b"+OK\r\n", 0),
        (SERVER, b"$-1\r\n", 0),
        (SERVER, b"-ERR x\r\n", 0),
        (CLIENT, b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03", 0),
        (SERVER, b"\x15\x03\x03\x00\x02\x02\x28", 0),
        (CLIENT, bytes.fromhex("001d1234010000010000000000000161027a7a0000010001"), 0),
        (CLIENT, bytes.fromhex("0000001400030000000000010004726f6f74ffffffff"), 0),  # Kafka Metadata v0
        (CLIENT, bytes(64), 0),
        (SERVER, bytes(64), 0),
        (CLIENT, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0),
        (SERVER, bytes.fromhex("4a0000000a382e302e3336001100000000"), 0),  # MySQL greeting
        (CLIENT, query("hello world, this is no SQL at all"), 0),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_sniff(side: bool, data: bytes, sure: int) -> None:
    assert Conversation("postgresql").sniff(side, data) == sure


def test_sniff_takes_no_noise() -> None:
    noise = random.Random(7)
    talk = Conversation("postgresql")
    claimed = sum(talk.sniff(bool(i & 1), noise.randbytes(noise.randrange(5, 200))) >= 2 for i in range(100_000))
    assert claimed == 0


def test_passwords_never_come_out() -> None:
    """Of no feeding and no cut does a byte of the password reach a field."""
    secret = b"correct horse battery staple"
    turns = [(CLIENT, LOGIN), (SERVER, frame(b"R", b"\0\0\0\3")), (CLIENT, frame(b"p", secret + b"\0"))]
    for captured in range(1, 60):
        for message in cut_at("postgresql", Case("", turns), captured):
            assert all(secret[:4] not in v for v in message.values() if isinstance(v, bytes))
    assert IGN["type"] == "ignore"


def test_random_sessions_pair_as_they_were_made() -> None:
    """Sessions made at random, each with the true answer known, in pieces: all pairs are right."""
    dice = random.Random(2)
    for _ in range(300):
        talk, sent, answered = Conversation("postgresql"), [], []
        for number in range(dice.randrange(1, 8)):
            asked, reply = b"", b""
            for step in range(dice.randrange(1, 6)):
                sql = f"SELECT {number}, {step}"
                rows = dice.randrange(4)
                head = columns("a") + row(b"v") * rows
                if dice.random() < 0.3:
                    asked += query(sql)
                    good = dice.random() < 0.8
                    reply += (head + done(f"SELECT {rows}") if good else error("42P01", sql)) + ready()
                    sent.append((sql, rows if good else -1, "" if good else "42P01"))
                    continue
                if dice.random() < 0.2:
                    asked += parse("SELECT 0", "p") + describe("p", "S") + SYNC
                    reply += PARSED + PARAMETERS + columns("a") + ready()
                count, broken = dice.randrange(1, 4), dice.choice([None, None, 0, 1, 2])
                for i in range(count):
                    asked += parse(f"{sql}, {i}") + bind([b"x"]) + describe() + execute()
                    if broken is not None and i >= broken:
                        reply += error("23505", "again") if i == broken else b""
                        sent.append((f"{sql}, {i}", -1, "23505" if i == broken else ""))
                        continue
                    reply += PARSED + BOUND + head + done(f"SELECT {rows}")
                    sent.append((f"{sql}, {i}", rows, ""))
                asked += SYNC
                reply += ready()
            for side, data in ((CLIENT, asked), (SERVER, reply)):
                while data:
                    n = dice.randrange(1, 60)
                    answered += talk.feed(side, data[:n])
                    data = data[n:]
        requests, responses = kinds(answered, "request"), kinds(answered, "response")
        got = [
            (a["target"].decode(), b["rows"], b["status_text"].decode())
            for a, b in zip(requests, responses, strict=True)
        ]
        assert got == sent
