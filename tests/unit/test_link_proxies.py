"""HAProxy and Envoy: calls are linked by the order of events on a thread, and only where that order leaves no doubt.

Words as in test_link_nginx: I request in, c connect, O call out, U upstream's answer, R response; the letters behind
are names of requests. What real proxies do is measured in tests/net/proxies.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import MS, RigMaker, S, engines, ok
from engine_wire import Process, Wire
from test_link_threads import Flow

rig = engines

CURL, APP = Process(10, "curl"), Process(30, "db")
HAPROXY = Process(50, "haproxy", loop=True, order=1)
ENVOY = Process(51, "envoy", loop=True, order=2)
T = 50


class Proxy(Flow):
    """One thread of a proxy. A name's digits are left out of its connections: `a` and `a2` use the same ones."""

    def __init__(self, rig: RigMaker, process: Process) -> None:
        super().__init__(rig(CURL, APP, process), process)
        self.names: list[str] = []
        self.fronts: dict[str, Wire] = {}
        self.backs: dict[str, Wire] = {}

    def wire(self, table: dict[str, Wire], name: str, client: tuple[Process, int], server: tuple[Process, int]) -> Wire:
        return table.setdefault(name.rstrip("0123456789"), Wire(self.r.kernel, client, server))

    def play(self, text: str) -> Proxy:
        for word in text.split():
            event, name = word[0], word[1:]
            front = self.inbound[f"/in-{name}"] = self.wire(self.fronts, name, (CURL, 11), (self.service, T))
            back = self.wire(self.backs, name, (self.service, T), (APP, 31))
            if event == "I":
                self.read(f"/in-{name}", T)
            elif event == "c":
                self.t += MS
                back.client.connect(self.t, T)
            elif event == "O":
                self.calls[f"/out-{name}"] = back
                self.call(f"/out-{name}", T)
            elif event == "U":
                self.t = back.pass_on("server", ok(), self.t + MS, tids=(0, T))
            elif event == "R":
                self.answer(f"/in-{name}", T)
            elif event == "X":  # the client has gone
                front.close(self.t)
                self.r.feed()
                self.t += 2 * S
                self.r.settle(self.t)
        return self

    def served(self) -> dict[str, str]:
        """Name of each call -> name of the request that it was linked to."""
        return {call[5:]: request[4:] for call, (request, _) in self.links().items()}


@pytest.mark.parametrize(
    "events",
    [
        "Ia Oa Ua Ra",
        "Ia Ib Ic Oa Ob Oc Ub Ua Rb Ra Uc Rc",
        "Ia Ib ca cb Ia2 Oa Ob Ua Ub Ra Rb",  # connected in the middle of a phase
        "Ia ca Oa Ua Ra Ia2 Ib2 Oa2 cb2 Ob2 Ub2 Ua2 Rb2 Ra2",
        "Ia Ib Rb Oa Ua Ra",  # b was answered by the proxy itself
        "Ia Ib Oa Ic Ob Oc Ua Ra Ub Rb Uc Rc",  # c was accepted while tasks ran
    ],
)
def test_haproxy_in_the_order_of_reading(rig: RigMaker, events: str) -> None:
    proxy = Proxy(rig, HAPROXY).play(events)
    served = proxy.served()
    assert {link for _, link in proxy.links().values() if _} <= {"haproxy"}
    calls = {word[1:] for word in events.split() if word[0] == "O"}
    assert served == {name: name for name in calls}


def test_haproxy_keeps_connections(rig: RigMaker) -> None:
    """A hundred requests, three in a phase, on kept connections that change hands."""
    proxy = Proxy(rig, HAPROXY).play("Ia Ib Ic ca cb cc Oa Ob Oc Ua Ub Uc Ra Rb Rc")
    for i in range(2, 35):
        proxy.backs = dict(zip("abc", (proxy.backs[name] for name in "bca"), strict=True))
        proxy.play(f"Ib{i} Ia{i} Ic{i} Ob{i} Oa{i} Oc{i} Uc{i} Ua{i} Ub{i} Rc{i} Ra{i} Rb{i}")
    served = proxy.served()
    assert len(served) == 102 and all(call == request for call, request in served.items())


@pytest.mark.parametrize(
    "events",
    [
        "Ia Ib Ob Ub Rb Oa Ua Ra",  # a was put off (its server is busy), b's call came first
        "Ia Ob Ub Rb",  # b was read before the agent came
        "Ia cx ca Oa Ua Ra",  # a check of the server asked for a connection in a's place
    ],
)
def test_haproxy_no_link_where_an_account_does_not_balance(rig: RigMaker, events: str) -> None:
    served = Proxy(rig, HAPROXY).play(events).served()
    assert all(request in ("", call) for call, request in served.items()), served


def test_haproxy_answered_before_its_call_was(rig: RigMaker) -> None:
    """The order of reading says a, but a's answer leaves first: it was not a's call."""
    assert Proxy(rig, HAPROXY).play("Ia Ob Ra Ub").served()["b"] == ""


def test_haproxy_with_a_queue_of_its_own(rig: RigMaker) -> None:
    """Somebody is left over phase after phase: nothing is said of such a thread, and nothing that was said stays."""
    proxy = Proxy(rig, HAPROXY).play("Ia Ib Ic Id Ie Oe Ue Re")
    for i in range(2, 12):
        proxy.play(f"Ie{i} Oe{i} Ue{i} Re{i}")  # always the latest: the others wait
    assert set(proxy.served().values()) == {""}


@pytest.mark.parametrize(
    ("events", "known"),
    [
        ("Ia Oa Ua Ra Ib Ob Ub Rb", "ab"),
        ("Ia Oa Ib Ob Ub Rb Ua Ra", "ab"),  # only a was there to call
        ("Ia Ib Oa Ua Ra Ob Ub Rb", "ab"),  # a is answered when only its call was
        ("Ia Ib Ob Oa Ua Ra Ub Rb", "ab"),
        ("Ia Ib Ic Oc Oa Ob Ua Ra Uc Rc Ub Rb", "abc"),
        ("Ia Ib Oa Ob Ua Ub Ra Rb", ""),  # either could be either's
        ("Ia Ib Rb Oa Ua Ra", "a"),  # b was answered by the proxy itself
        ("Ia Ib Oa Rb Ua Ra", "a"),
        ("Ia Oa Ua Oa2 Ua2 Ra", "a"),  # a second try, nothing else open
    ],
)
def test_envoy_what_cannot_be_otherwise(rig: RigMaker, events: str, known: str) -> None:
    proxy = Proxy(rig, ENVOY).play(events)
    served = proxy.served()
    for call, request in served.items():
        own = call.rstrip("0123456789")
        assert request == (own if own in known else ""), served
    assert {link for request, link in proxy.links().values() if request} <= {"envoy"}


def test_envoy_calls_twice(rig: RigMaker) -> None:
    """A mirror: what was said before it showed is taken back, and nothing is said for a while."""
    proxy = Proxy(rig, ENVOY)
    for i in range(2, 40):
        proxy.play(f"Ia{i} Ib{i} Oa{i} Ox{i} Ob{i} Oy{i} Ua{i} Ub{i} Ra{i} Rb{i} Ux{i} Uy{i}")
    served = proxy.served()
    assert not {call: request for call, request in served.items() if call[0] in "xy" and request}, served
    assert all(request in ("", call) for call, request in served.items()), served


def test_envoy_too_many_to_be_sorted_out(rig: RigMaker) -> None:
    """More than there is room for: they are given up, and none is linked wrongly; later ones are sorted out again."""
    names = [f"{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(100)]
    proxy = Proxy(rig, ENVOY)
    for event in "IOUR":
        proxy.play(" ".join(event + name for name in (names if event in "IU" else names[::-1])))
    proxy.play("Iz Oz Uz Rz")
    served = proxy.served()
    assert all(request in ("", call) for call, request in served.items())
    assert served["z"] == "z"
    assert proxy.r.engine.links()["ambiguous"] > 0


@pytest.mark.parametrize("process", [HAPROXY, ENVOY])
def test_a_client_that_goes_away(rig: RigMaker, process: Process) -> None:
    proxy = Proxy(rig, process).play("Ia Xa Ib Ob Ub Rb Ic Oc Uc Rc")
    served = proxy.served()
    assert all(request in ("", call) for call, request in served.items()), served
    assert served["c"] == "c"


@pytest.mark.parametrize("process", [HAPROXY, ENVOY, Process(52, "unknown", loop=True)])
def test_an_id_that_comes_from_behind(rig: RigMaker, process: Process) -> None:
    """The upstream's answer names itself, and the proxy passes that on: stronger than any order."""
    proxy = Proxy(rig, process).play("Ia Ib Oa Ob")
    for name in "ba":
        proxy.t = proxy.backs[name].pass_on("server", ok(b"ok", f"X-Request-ID: id-{name}"), proxy.t + MS, tids=(0, T))
    for name in "ab":
        proxy.answer(f"/in-{name}", T, ok(b"ok", f"X-Request-ID: id-{name}"))
    assert proxy.links() == {f"/out-{name}": (f"/in-{name}", "x-request-id") for name in "ab"}
