"""nginx: a call belongs to the request whose event directly precedes it, or during whose event its connection was
asked for.

The patterns are those of reference/async.md section 5: I request in, c connect, O call out, U upstream's answer, R
response.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import CLIENT, MS, SERVER, START, RigMaker, S, by_path, engines, get, ok
from engine_wire import Process, Wire
from test_link_threads import Flow, check_traces

rig = engines

CURL, APP, NGINX = Process(10, "curl"), Process(30, "db"), Process(50, "nginx", nginx=True)
T = 50


class Proxy(Flow):
    """A worker of nginx, driven by a text: "Ia ca Oa Ua Ra"; the letters behind are names of requests."""

    def __init__(self, rig: RigMaker) -> None:
        super().__init__(rig(CURL, APP, NGINX), NGINX)

    def play(self, text: str) -> Proxy:
        for word in text.split():
            event, name = word[0], word[1:]
            if event == "I":
                self.read(f"/in-{name}", T)
            elif event == "B":  # more of the request's body
                self.t = self.inbound[f"/in-{name}"].pass_on("client", b"b" * 10, self.t + MS, tids=(0, T))
            elif event == "H":  # a head that announces a body
                path = f"/in-{name}"
                wire = self.inbound.setdefault(path, Wire(self.r.kernel, (CURL, 11), (NGINX, T)))
                head = get(path, "Content-Length: 10", method="POST")
                self.t = wire.pass_on("client", head, self.t + MS, tids=(0, T))
            elif event == "c":
                wire = self.calls[f"/out-{name}"] = Wire(self.r.kernel, (NGINX, T), (APP, 31))
                self.t += MS
                wire.client.connect(self.t, T)
            elif event == "O":
                self.call(f"/out-{name}", T)
            elif event == "U":
                self.called(f"/out-{name}", T)
            elif event == "R":
                self.answer(f"/in-{name}", T)
            elif event == "L":  # what comes now is lost
                self.r.kernel.lose = lambda n: True
            elif event == "l":
                self.r.kernel.lose = lambda n: False
        return self

    def served(self) -> dict[str, str]:
        """Name of each call -> name of the request that it was linked to."""
        return {call[5:]: request[4:] for call, (request, _) in self.links().items()}


@pytest.mark.parametrize(
    "events",
    [
        "Ia Oa Ua Ra",
        "Ia Oa Ib Ob Ua Ra Ub Rb",
        "Ia Oa Ib Ob Ub Rb Ua Ra",
        "Ia ca Ib cb Oa Ob Ua Ra Ub Rb",
        "Ia ca Ib cb Ic cc Oc Ob Oa Ub Rb Uc Rc Ua Ra",
        "Ia Oa Ib Rb Ua Ra",  # b was answered from a file
        "Ia Oa Ua Ra Ia2 Oa2 Ua2 Ra2 Ib Ob Ub Rb",
        "Ha Ba Oa Ua Ra",
        "Ha Hb Ba Oa Bb Ob Ub Rb Ua Ra",  # bodies come later
        "Ia Oa Ha2 Ua Ra Ba2 Oa2 Ua2 Ra2",
    ],
)
def test_patterns(rig: RigMaker, events: str) -> None:
    """Each call serves the request of its name."""
    proxy = Proxy(rig).play(events)
    served = proxy.served()
    assert served == {name: name for name in served} and served
    assert {link for _, link in proxy.links().values()} == {"nginx"}
    assert proxy.r.engine.links()["disagreements"] == 0


def test_upstream_connections_that_are_kept(rig: RigMaker) -> None:
    """Calls of different requests on one connection: the connection says nothing, the order of events does."""
    proxy = Proxy(rig)
    shared = Wire(proxy.r.kernel, (NGINX, T), (APP, 31))
    names = [f"{i}" for i in range(20)]
    for name in names:
        proxy.calls[f"/out-{name}"] = shared
        proxy.play(f"I{name} O{name} U{name} R{name}")
    assert proxy.served() == {name: name for name in names}


def test_a_retry_after_a_refused_connection(rig: RigMaker) -> None:
    """The first upstream does not listen: the second connection is asked for in the same event. What was noted for the
    first leaves with its time."""
    proxy = Proxy(rig).play("Ia ca")
    first = proxy.calls.pop("/out-a")
    proxy.play("ca Ib cb Ob Oa Ub Rb Ua Ra")
    assert proxy.served() == {"a": "a", "b": "b"}
    assert not first.client.announced
    assert len(proxy.r.spans) == 8


def test_connections_that_never_come_to_be_are_forgotten(rig: RigMaker) -> None:
    proxy = Proxy(rig)
    for i in range(50):
        proxy.play(f"I{i} c{i} R{i}")
    r = proxy.r
    r.feed()
    assert r.engine.links()["connections"] == 150
    r.settle(proxy.t + 61 * S)
    assert r.engine.links()["connections"] == 100, "connections that were only asked for are kept"
    r.tick(proxy.t + 70 * S)
    assert r.engine.links()["registry_entries"] == 0, "they hold on to the requests that they were for"


def test_a_retry_after_a_broken_answer(rig: RigMaker) -> None:
    """The upstream closed before it answered; the second call is told by the answer that directly follows its own."""
    proxy = Proxy(rig).play("Ia ca Oa")
    proxy.calls["/out-a"].close(proxy.t)
    proxy.play("ca2 Oa2 Ua2 Ra")
    proxy.r.feed()
    proxy.r.settle(proxy.t + 2 * S)
    assert proxy.served() == {"a": "a", "a2": "a"}
    assert by_path(proxy.r.spans, CLIENT)["/out-a"].error


def test_swapped(rig: RigMaker) -> None:
    """Each answer follows the other's call: either order may be the wrong one, so there is no link."""
    proxy = Proxy(rig).play("Ia Oa Ib Ob Ua Rb Ub Ra")
    assert proxy.served() == {"a": "", "b": ""}
    assert proxy.r.engine.links()["disagreements"] > 0


def test_answered_before_its_own_call_was(rig: RigMaker) -> None:
    proxy = Proxy(rig).play("Ia Oa Ib Ob Ua Rb Ra Ub")
    assert proxy.served()["a"] == "" and proxy.served()["b"] == ""


def test_an_event_in_between_makes_no_doubt(rig: RigMaker) -> None:
    """A body is read between a call's answer and its response; others are answered meanwhile from a file."""
    proxy = Proxy(rig).play("Ia Oa Hb Ua Bb Ob Ra Ub Rb")
    assert proxy.served() == {"a": "a", "b": "b"}


def test_streamed_answers(rig: RigMaker) -> None:
    """More of an upstream's answer, then more of the response, of several requests by turns."""
    proxy = Proxy(rig).play("Ia Oa Ib Ob")
    head = b"HTTP/1.1 200 X\r\nContent-Length: 300\r\n\r\n"
    for _ in range(3):
        for name in "ab":
            up, down = proxy.calls[f"/out-{name}"], proxy.inbound[f"/in-{name}"]
            proxy.t = up.pass_on("server", head or b"x" * 150, proxy.t, tids=(0, T))
            proxy.t = down.pass_on("server", head or b"x" * 150, proxy.t, tids=(T, 0))
        head = b""
    assert proxy.served() == {"a": "a", "b": "b"}


def test_curl_nginx_application_database(rig: RigMaker) -> None:
    """The demo's chain: one trace from curl to the database, through nginx and a blocking thread."""
    db = Process(60, "postgres")
    r = rig(CURL, NGINX, APP, db)
    t = START
    for i in range(5):
        front = Wire(r.kernel, (CURL, 11), (NGINX, T))
        up = Wire(r.kernel, (NGINX, T), (APP, 31))
        down = Wire(r.kernel, (APP, 31), (db, 61))
        t = front.pass_on("client", get(f"/r{i}/a"), t)
        up.client.connect(t, T)
        t = up.pass_on("client", get(f"/r{i}/b"), t + MS)
        t = down.pass_on("client", get(f"/r{i}/c"), t + MS)
        for wire in (down, up, front):
            t = wire.pass_on("server", ok(), t + MS)
    spans = r.finish()
    check_traces(spans)
    for i in range(5):
        mine = [s for s in spans if s.path.startswith(f"/r{i}/")]
        assert len({s.trace_id for s in mine}) == 1 and len(mine) == 6
        assert [s.link for s in mine if s.kind == CLIENT] == ["none", "nginx", "thread"]
        assert [s.link for s in mine if s.kind == SERVER] == ["tcp_isn"] * 3


@pytest.mark.parametrize(
    "events",
    [
        "Ha L Ib l Ob Ba Oa Ub Rb Ua Ra",  # b's request was lost while a's body was awaited
        "Ia ca L Ib l cb Oa Ob Ub Rb Ua Ra",
        "Ia Oa Ib L Ob l Ub Rb Ua Ra",
        "Ia Oa Ib Ob L Ua l Ra Ub Rb",
        "Ia Oa Ib Ob Ua L Ra l Rb Ub",
        "L Ia l Oa Ib Ob Ua Ra Ub Rb",
    ],
)
def test_no_wrong_link_by_a_lost_record(rig: RigMaker, events: str) -> None:
    """As soon as the kernel's counters have said that something was lost."""
    proxy = Proxy(rig).play(events)
    proxy.r.feed()
    proxy.r.engine.lossy(proxy.t)
    assert all(request in ("", call) for call, request in proxy.served().items())
