"""Which request a call serves, by threads: forward, backward, and when nothing is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import (
    CLIENT,
    MS,
    SERVER,
    START,
    Rig,
    RigMaker,
    S,
    Span,
    by_path,
    engines,
    get,
    ok,
)  # fmt: skip
from engine_wire import Process, Wire

rig = engines

CURL, SHOP, DB = Process(10, "curl"), Process(20, "shop"), Process(30, "db")
LOOP = Process(40, "node", loop=True)
CHUNKED = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + b"x" * 600


class Flow:
    """Connections to one service and from it to the database; threads are given with each event."""

    def __init__(self, r: Rig, service: Process = SHOP) -> None:
        self.r = r
        self.service = service
        self.t = START
        self.inbound: dict[str, Wire] = {}
        self.calls: dict[str, Wire] = {}

    def read(self, path: str, tid: int, *headers: str) -> None:
        """The service reads a request."""
        wire = self.inbound.setdefault(path, Wire(self.r.kernel, (CURL, 11), (self.service, tid)))
        self.t = wire.pass_on("client", get(path, *headers), self.t + MS, tids=(0, tid))

    def answer(self, path: str, tid: int, data: bytes = b"") -> None:
        self.t = self.inbound[path].pass_on("server", data or ok(), self.t + MS, tids=(tid, 0))

    def call(self, path: str, tid: int, *headers: str) -> None:
        """The service sends a request to the database."""
        wire = self.calls.setdefault(path, Wire(self.r.kernel, (self.service, tid), (DB, 31)))
        self.t = wire.pass_on("client", get(path, *headers), self.t + MS, tids=(tid, 0))

    def called(self, path: str, tid: int) -> None:
        self.t = self.calls[path].pass_on("server", ok(), self.t + MS, tids=(0, tid))

    def links(self) -> dict[str, tuple[str, str]]:
        """Path of each call -> (path of the request that it serves, link method)."""
        spans = self.r.finish()
        servers = {s.span_id: s for s in spans if s.kind == SERVER}
        out = {}
        for path in self.calls:
            span = by_path(spans, CLIENT).get(path)
            if span is None:
                continue  # its record was lost
            parent = servers.get(span.parent_id)
            if parent is not None:
                assert parent.service == self.service.service
                assert parent.trace_id == span.trace_id, "a span and its parent are in two traces"
            out[path] = (parent.path if parent else "", span.link)
        check_traces(spans)
        return out


def check_traces(spans: list[Span]) -> None:
    """A span stands in its parent's trace; a SERVER span's parent is the CLIENT span of the same request."""
    known = {s.span_id: s for s in spans}
    for span in spans:
        parent = known.get(span.parent_id)
        if parent is not None:
            assert parent.trace_id == span.trace_id
            assert (parent.kind, span.kind) in ((CLIENT, SERVER), (SERVER, CLIENT))
            assert span.kind == CLIENT or parent.path == span.path


def test_a_blocking_thread(rig: RigMaker) -> None:
    """Read, call, call, answer on one thread: both calls serve the request, in one trace with both ends of each."""
    f = Flow(rig(CURL, SHOP, DB))
    f.read("/in", 21)
    for path in ("/c1", "/c2"):
        f.call(path, 21)
        f.called(path, 21)
    f.answer("/in", 21)
    assert f.links() == {"/c1": ("/in", "thread"), "/c2": ("/in", "thread")}
    assert len({s.trace_id for s in f.r.spans}) == 1 and len(f.r.spans) == 6


def test_threads_side_by_side(rig: RigMaker) -> None:
    f = Flow(rig(CURL, SHOP, DB))
    for i in range(8):
        f.read(f"/in{i}", 21 + i)
    for i in reversed(range(8)):
        f.call(f"/c{i}", 21 + i)
    for i in range(8):
        f.called(f"/c{i}", 21 + i)
    for i in reversed(range(8)):
        f.answer(f"/in{i}", 21 + i)
    assert f.links() == {f"/c{i}": (f"/in{i}", "thread") for i in range(8)}


@pytest.mark.parametrize("reads", ["before the pick-up", "all at once"])
def test_a_reactor_reads_and_workers_answer(rig: RigMaker, reads: str) -> None:
    """Puma: the call is linked when its thread writes the answer."""
    f = Flow(rig(CURL, SHOP, DB))
    for i in range(6):
        f.read(f"/in{i}", 21)
        if reads != "all at once":
            f.call(f"/c{i}", 22 + i % 2)
            f.called(f"/c{i}", 22 + i % 2)
            f.answer(f"/in{i}", 22 + i % 2)
    if reads == "all at once":
        for pair in (0, 2, 4):
            for i in (pair, pair + 1):
                f.call(f"/c{i}", 22 + i % 2)
            for i in (pair, pair + 1):
                f.called(f"/c{i}", 22 + i % 2)
                f.answer(f"/in{i}", 22 + i % 2)
    assert f.links() == {f"/c{i}": (f"/in{i}", "thread") for i in range(6)}


def test_a_worker_after_a_streamed_answer(rig: RigMaker) -> None:
    """The worker's last answer had no known end: its next calls are for the next request, which the reactor read."""
    f = Flow(rig(CURL, SHOP, DB))
    for i in range(3):
        f.read(f"/in{i}", 21)
        f.call(f"/c{i}", 22)
        f.called(f"/c{i}", 22)
        f.answer(f"/in{i}", 22, CHUNKED)
    assert f.links() == {f"/c{i}": (f"/in{i}", "thread") for i in range(3)}


def test_two_requests_open_on_one_thread(rig: RigMaker) -> None:
    """An event loop: from then on its threads say nothing."""
    f = Flow(rig(CURL, SHOP, DB))
    f.read("/a", 21)
    f.read("/b", 21)
    f.call("/c1", 21)
    f.call("/c2", 21)
    for path in ("/c1", "/c2"):
        f.called(path, 21)
    f.answer("/a", 21)
    f.answer("/b", 21)
    f.read("/d", 21)
    f.call("/c3", 21)
    f.called("/c3", 21)
    f.answer("/d", 21)
    assert f.links() == {f"/c{i}": ("", "none") for i in (1, 2, 3)}
    assert f.r.engine.links()["ambiguous"] > 0


def test_what_was_concluded_before_a_loop_showed(rig: RigMaker) -> None:
    """With one request open the call seemed its own; when a second is read on the thread, nothing was sure."""
    f = Flow(rig(CURL, SHOP, DB))
    f.read("/a", 21)
    f.call("/c", 21)
    f.read("/b", 21)
    f.called("/c", 21)
    f.answer("/a", 21)
    f.answer("/b", 21)
    assert f.links() == {"/c": ("", "none")}


def test_a_loop_by_its_profile(rig: RigMaker) -> None:
    f = Flow(rig(CURL, LOOP, DB), LOOP)
    f.read("/a", 41)
    f.call("/c", 41)
    f.called("/c", 41)
    f.answer("/a", 41)
    assert f.links() == {"/c": ("", "none")}


def test_a_call_after_the_answer(rig: RigMaker) -> None:
    """Work that goes on when the answer is out is not the request's."""
    f = Flow(rig(CURL, SHOP, DB))
    f.read("/in", 21)
    f.answer("/in", 21)
    f.call("/after", 21)
    f.called("/after", 21)
    f.read("/next", 21)
    f.answer("/next", 21)
    assert f.links() == {"/after": ("", "none")}


def test_a_call_before_the_request(rig: RigMaker) -> None:
    """A pool thread's own call, then a request that another thread had read later is answered by it."""
    f = Flow(rig(CURL, SHOP, DB))
    f.call("/early", 22)
    f.called("/early", 22)
    f.read("/in", 21)
    f.call("/mine", 22)
    f.called("/mine", 22)
    f.answer("/in", 22)
    assert f.links() == {"/early": ("", "none"), "/mine": ("/in", "thread")}


def test_calls_while_the_answer_streams(rig: RigMaker) -> None:
    """The head of a chunked answer has left; rows are still fetched for it. After its end they are not."""
    f = Flow(rig(CURL, SHOP, DB))
    f.read("/in", 21)
    f.answer("/in", 21, CHUNKED)
    f.call("/row", 21)
    f.called("/row", 21)
    f.answer("/in", 21, b"y" * 424 + b"\r\n0\r\n\r\n")
    f.read("/in", 25)  # the next request on that connection ends the answer
    f.call("/later", 21)
    f.called("/later", 21)
    f.answer("/in", 25)
    spans = f.r.finish()
    served = next(s for s in spans if s.kind == SERVER and s.path == "/in")
    row, later = (by_path([s for s in spans if s.path != "/in"], CLIENT)[p] for p in ("/row", "/later"))
    assert (row.parent_id, row.link, row.trace_id) == (served.span_id, "thread", served.trace_id)
    assert (later.parent_id, later.link) == ("", "none")


def test_an_unanswered_call_makes_the_worker_doubtful(rig: RigMaker) -> None:
    """Calls before the last one that had no answer were not waited for: the thread does not block."""
    f = Flow(rig(CURL, SHOP, DB))
    f.read("/in", 21)
    f.call("/c1", 22)
    f.call("/c2", 22)
    f.called("/c2", 22)
    f.answer("/in", 22)
    f.called("/c1", 22)
    assert f.links() == {"/c1": ("", "none"), "/c2": ("", "none")}
    assert f.r.engine.links()["ambiguous"] == 2


def test_forward_and_backward_disagree(rig: RigMaker) -> None:
    """The thread that had read /a made the call and then answered /b, which another had read: no link, counted."""
    f = Flow(rig(CURL, SHOP, DB))
    f.read("/a", 21)
    f.read("/b", 22)
    f.call("/c", 21)
    f.called("/c", 21)
    f.answer("/b", 21)
    f.answer("/a", 22)
    assert f.links() == {"/c": ("", "none")}
    assert f.r.engine.links()["disagreements"] == 1


def test_a_request_that_is_given_up_gives_its_thread_back(rig: RigMaker) -> None:
    """Closed without an answer: the next request on the thread is its only one again."""
    f = Flow(rig(CURL, SHOP, DB))
    f.read("/gone", 21)
    f.inbound["/gone"].close(f.t)
    f.r.feed()
    f.r.settle(f.t + 2 * S)
    f.t += 2 * S
    f.read("/in", 21)
    f.call("/c", 21)
    f.called("/c", 21)
    f.answer("/in", 21)
    assert f.links() == {"/c": ("/in", "thread")}


def test_a_full_registry_loses_links_and_nothing_else(rig: RigMaker) -> None:
    """Requests that find no room are counted; their threads and processes are not taken for busy for ever."""
    f = Flow(rig(CURL, SHOP, DB, registry_bytes=1, timeout_s=5))
    for i in range(1500):  # the registry has at least 512 entries
        f.t -= MS
        f.read(f"/open{i}", 1000 + i)
    f.r.feed()
    assert f.r.engine.links()["registry_refused"] > 0
    f.r.balance()
    f.r.settle(f.t + 6 * S)
    f.t += 6 * S
    f.r.tick(f.t + 3 * S)
    f.t += 3 * S
    f.read("/in", 1499)
    f.call("/c", 1499)
    f.called("/c", 1499)
    f.answer("/in", 1499)
    assert f.links() == {"/c": ("/in", "thread")}


def test_three_services_in_a_row(rig: RigMaker) -> None:
    """The chain is followed to its root: one trace, five spans deep."""
    a, b, c, d = (Process(10 * i, f"s{i}") for i in range(1, 5))
    r = rig(a, b, c, d)
    first, second, third = (Wire(r.kernel, (x, x.tgid), (y, y.tgid)) for x, y in ((a, b), (b, c), (c, d)))
    t = START
    for round_ in range(3):
        for i, wire in enumerate((first, second, third)):
            t = wire.pass_on("client", get(f"/r{round_}/hop{i}"), t)
        for wire in (third, second, first):
            t = wire.pass_on("server", ok(), t)
    spans = r.finish()
    check_traces(spans)
    for round_ in range(3):
        mine = [s for s in spans if s.path.startswith(f"/r{round_}/")]
        assert len(mine) == 6 and len({s.trace_id for s in mine}) == 1
        ids = {s.span_id for s in mine}
        assert [s.parent_id in ids for s in mine] == [False] + [True] * 5


# ---- lost records: a link that one of them could have made is not made ----


def test_an_answer_whose_request_was_lost(rig: RigMaker) -> None:
    """The worker's call was for a request that nobody saw; the next answer of that worker does not get it."""
    f = Flow(rig(CURL, SHOP, DB))
    f.read("/b", 21)
    f.r.kernel.lose = lambda n: True
    f.read("/lost", 21)
    f.r.kernel.lose = lambda n: False
    f.call("/c", 22)
    f.called("/c", 22)
    f.answer("/lost", 22)
    f.answer("/b", 22)
    assert f.links() == {"/c": ("", "none")}


def test_records_were_lost_somewhere(rig: RigMaker) -> None:
    """The answer of /a was lost: the worker's calls would all seem to be /b's. The kernel's counters tell in time."""
    for told in (True, False):
        f = Flow(rig(CURL, SHOP, DB))
        f.read("/a", 21)
        f.read("/b", 21)
        f.read("/d", 23)
        f.call("/c", 22)
        f.called("/c", 22)
        f.r.kernel.lose = lambda n: True
        f.answer("/a", 22)
        f.r.kernel.lose = lambda n: False
        f.call("/other", 23)
        f.called("/other", 23)
        f.answer("/b", 22)
        f.answer("/d", 23)
        f.r.feed()
        if told:
            f.r.engine.lossy(f.t)
        links = f.links()
        assert links["/other"] == ("/d", "thread"), "a thread that reads, calls and answers proves its link alone"
        assert links["/c"] == (("", "none") if told else ("/b", "thread"))


def test_two_losses_on_a_blocking_thread(rig: RigMaker) -> None:
    """Its answer and its next request were lost: the call seems to serve the old request until the next event shows."""
    f = Flow(rig(CURL, SHOP, DB))
    f.read("/a", 21)
    f.r.kernel.lose = lambda n: True
    f.answer("/a", 21)
    f.read("/b", 21)
    f.r.kernel.lose = lambda n: False
    f.call("/c", 21)
    f.called("/c", 21)
    f.answer("/b", 21)
    assert f.links() == {"/c": ("", "none")}
