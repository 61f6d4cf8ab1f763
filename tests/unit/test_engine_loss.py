"""Lost records: whatever is lost, an answer is never given to another request, and the ledger balances.

A conversation of four requests is repeated with each record lost, with each pair lost, and with random ones: as the
kernel loses them (a full ring: the next record of the connection says so, and no more of the run is copied), and as
nobody should (a record is simply not there).
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import CLIENT, MS, SERVER, START, Rig, RigMaker, S, engines, get, ok
from engine_wire import Kernel, Process, Record, Wire

from zerospan.exporter.abi import events

rig = engines

CURL, SHOP = Process(10, "curl"), Process(20, "shop")
ENDS = ((CURL, 10), (SHOP, 21))
BODY = b"b" * 1500
Conversation = Callable[[Wire], None]


def answer(i: int, body: bytes = b"ok") -> bytes:
    return ok(body, code=210 + i)


def in_turn(wire: Wire) -> None:
    t = START
    for i in range(4):
        t = wire.pass_on("client", get(f"/q{i}"), t + MS)
        t = wire.pass_on("server", answer(i), t + MS)
    wire.close(t + MS)


def with_bodies(wire: Wire) -> None:
    """Heads in pieces, bodies beyond the capture."""
    t = START
    for i in range(4):
        t = wire.pass_on("client", get(f"/q{i}", method="POST", body=BODY), t + MS, sizes=[30, 20, 700])
        t = wire.pass_on("server", answer(i, BODY), t + MS, sizes=[40, 600])
    wire.close(t + MS)


def pipelined(wire: Wire) -> None:
    """Two at a time, in one write or in two; the client waits for both."""
    t = START
    for i in (0, 2):
        asks = [get(f"/q{i}"), get(f"/q{i + 1}")]
        t = wire.pass_on("client", b"".join(asks), t + MS, sizes=[len(asks[0])] if i else None)
        t = wire.pass_on("server", answer(i), t + MS)
        t = wire.pass_on("server", answer(i + 1), t + MS)
    wire.close(t + MS)


def overlapping(wire: Wire) -> None:
    """The client does not wait: the next request leaves before the last answer has come."""
    t = START
    for i in range(2):
        t = wire.pass_on("client", get(f"/warm{i}"), t + MS)
    t = wire.pass_on("server", answer(8), t + MS)
    t = wire.pass_on("client", get("/q0"), t + MS)
    t = wire.pass_on("server", answer(9), t + MS)
    for i in range(1, 4):
        t = wire.pass_on("client", get(f"/q{i}"), t + MS)
        t = wire.pass_on("server", answer(i - 1), t + MS)
    t = wire.pass_on("server", answer(3), t + MS)
    wire.close(t + MS)


def continued(wire: Wire) -> None:
    """Expect: 100-continue."""
    t = START
    for i in range(4):
        head = get(f"/q{i}", "Expect: 100-continue", "Content-Length: 1500", method="PUT")
        t = wire.pass_on("client", head, t + MS)
        t = wire.pass_on("server", b"HTTP/1.1 100 Continue\r\n\r\n", t + MS)
        t = wire.pass_on("client", BODY, t + MS)
        t = wire.pass_on("server", answer(i), t + MS)
    wire.close(t + MS)


CONVERSATIONS = [in_turn, with_bodies, pipelined, overlapping, continued]
CODES = {"/warm0": 218, "/warm1": 219} | {f"/q{i}": 210 + i for i in range(4)}


def survivors(kernel: Kernel) -> int:
    """How many requests have their beginning in a record that was written: in a run whose beginning was written, too,
    and not as the last that is known of the connection, with the head's end missing."""
    found = 0
    parsed = [events.parse(record.data) for record in kernel.records]
    for fields in parsed:
        if fields["struct"] != "zs_msg":
            continue
        same = [p for p in parsed if p["conn_id"] == fields["conn_id"]]
        run = [p for p in same if p.get("run") == fields["run"] and p["struct"] == "zs_msg"]
        payload = bytes(fields["payload"])  # type: ignore[arg-type]
        # bodies are all "b": a request is a line of its own
        asks = len(re.findall(rb"(?:GET|POST|PUT) /\w+ HTTP", payload))
        whole = b"\r\n\r\n" in b"".join(bytes(p["payload"]) for p in run)  # type: ignore[arg-type]
        if run[0]["run_off"] or (not whole and same[-1] is run[-1]):
            continue
        found += asks
    return found


def check(r: Rig, context: str) -> None:
    spans = r.run(settle_s=5)
    r.check()
    ids = {(s.path, s.kind): s.span_id for s in spans}
    for span in spans:
        assert span.code in (None, CODES[span.path]), f"{context}: {span.path} was given the answer {span.code}"
        if span.kind == SERVER and span.parent_id:
            assert span.parent_id == ids[span.path, CLIENT], f"{context}: {span.path} has another's parent"
    expected = survivors(r.kernel)
    assert len(spans) == expected, f"{context}: {len(spans)} spans of {expected} requests whose records were written"


def losses(places: list[int], seed: str, few: int) -> Iterable[frozenset[int]]:
    """Each one of the places, each pair, and random subsets."""
    yield from (frozenset(c) for c in combinations(places, 1))
    yield from (frozenset(c) for c in combinations(places, 2))
    rng = random.Random(seed)
    for _ in range(few):
        share = rng.random()
        yield frozenset(i for i in places if rng.random() < share)


def after_the_beginning(talk: Conversation, records: list[Record]) -> list[int]:
    """Places that may be lost. That a client does not wait must have been seen once: before, nobody can know."""
    if talk is not overlapping:
        return list(range(len(records)))
    proof = [i for i, record in enumerate(records) if b"GET /q0" in record.data]
    return list(range(max(proof) + 1, len(records)))


@pytest.mark.parametrize("watch", ["client", "server", "both"])
@pytest.mark.parametrize("talk", CONVERSATIONS)
def test_records_that_the_ring_had_no_room_for(rig: RigMaker, talk: Conversation, watch: str) -> None:
    whole = Kernel()
    talk(Wire(whole, *ENDS, watch=watch))
    seen = 0
    for lost in losses(after_the_beginning(talk, whole.records), f"{talk.__name__}/{watch}", 150):
        kernel = Kernel(lose=lost.__contains__)
        r = Rig(CURL, SHOP, kernel=kernel, timeout_s=3)
        talk(Wire(kernel, *ENDS, watch=watch))
        check(r, f"lost {sorted(lost)}")
        seen += r.counts["gaps"]
    assert seen > 30


@pytest.mark.parametrize("talk", CONVERSATIONS)
def test_records_that_are_not_there(rig: RigMaker, talk: Conversation) -> None:
    whole = Kernel()
    talk(Wire(whole, *ENDS, watch="server"))
    messages = [i for i in after_the_beginning(talk, whole.records) if whole.records[i].struct == "zs_msg"]
    for lost in losses(messages, talk.__name__, 150):
        kernel = Kernel(records=[record for i, record in enumerate(whole.records) if i not in lost])
        check(Rig(CURL, SHOP, kernel=kernel, timeout_s=3), f"dropped {sorted(lost)}")


@pytest.mark.parametrize("talk", CONVERSATIONS)
def test_nothing_lost(rig: RigMaker, talk: Conversation) -> None:
    """The conversations themselves: every request has its answer."""
    r = rig(CURL, SHOP)
    talk(Wire(r.kernel, *ENDS))
    spans = r.run(settle_s=4)
    assert {(s.path, s.code, s.kind) for s in spans} == {
        (path, code, kind)
        for path, code in CODES.items()
        for kind in (CLIENT, SERVER)
        if path[1] == "q" or talk is overlapping
    }
    assert all(s.trace_id == o.trace_id for s in spans for o in spans if s.path == o.path)
    assert r.counts["gaps"] == r.counts["orphans"] == r.counts["not_seen"] == 0


def test_a_gap_is_counted_and_the_connection_goes_on(rig: RigMaker) -> None:
    """The answer of the second request is lost: it has none, and all others have theirs."""
    r = rig(CURL, SHOP, kernel=Kernel(lose=lambda n: n == 4))
    wire = Wire(r.kernel, *ENDS, watch="server")
    in_turn(wire)
    spans = r.run(settle_s=4)
    assert [(s.path, s.code, s.error) for s in spans] == [
        ("/q0", 210, False), ("/q1", None, False), ("/q2", 212, False), ("/q3", 213, False),
    ]  # fmt: skip
    assert r.counts["gaps"] == 1 and r.counts["not_seen"] == 1
    assert r.kernel.lost == {"ring_full_response": 1}


def test_requests_beyond_the_capture_of_a_client_that_does_not_wait(rig: RigMaker) -> None:
    """A connection that many threads share (multiplexed Redis clients): once a command was not captured, nobody can say
    whose the next answers are; after a second of silence everything has been answered, and pairing begins again."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS, watch="client")

    def command(key: str, size: int = 0) -> bytes:
        value = "v" * size
        return f"*3\r\n$3\r\nSET\r\n${len(key)}\r\n{key}\r\n${len(value)}\r\n{value}\r\n".encode()

    t = START
    for i in range(40):
        wire.client.send(command(f"first{i}", 5), t)  # one run; what is beyond 512 bytes makes no record
        t += MS
    wire.client.recv(b"+OK\r\n" * 10, t)
    wire.client.send(command("second"), t + MS)
    wire.client.recv(b"+OK\r\n" * 30, t + 2 * MS)
    wire.client.recv(b"-ERR second\r\n", t + 3 * MS)
    wire.client.send(command("third"), t + 4 * MS)
    wire.client.recv(b"-ERR third\r\n", t + 5 * MS)
    wire.client.send(command("fourth"), t + 2 * S)
    wire.client.recv(b"-ERR fourth\r\n", t + 2 * S + MS)
    spans = {s.path.split()[1]: s for s in r.finish() if s.path.startswith("SET")}
    assert not spans["first0"].error and spans["first0"].end - spans["first0"].start == 40 * MS
    assert [spans[k].end - spans[k].start for k in ("second", "third")] == [0, 0], "their answers are not known"
    assert spans["fourth"].error and not spans["second"].error
