"""Istio's Bookinfo (demo/bookinfo) under one agent: one curl is one trace in a real Tempo, span by span; a load.

Two nodes joined by VXLAN, an Envoy with each of four services and one at the door, dnsmasq. The table of what must be
there is demo/bookinfo/expected.py.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from agent import Agent
from backends.query import Span as TempoSpan
from backends.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from demo.bookinfo import judge  # noqa: E402
from demo.bookinfo.client import Request  # noqa: E402
from demo.bookinfo.cluster import Bookinfo  # noqa: E402
from demo.bookinfo.expected import CLIENT, HOPS, KINDS, NICS, PROCESSES, SPANS, Row  # noqa: E402

from zerospan.exporter.tree import HOPS as SHARES  # noqa: E402
from zerospan.exporter.tree import Span  # noqa: E402

RATE, SECONDS = 40, 10  # the machine is shared; `python -m demo.bookinfo --rate 100 --seconds 60` is the acceptance


class Run(NamedTuple):
    curl: Request
    load: list[Request]
    traces: dict[str, list[list[Span]]]  # of the agent's file
    tempo: list[TempoSpan]  # of curl's request


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    subprocess.run([ROOT / "demo/bookinfo/setup.sh"], check=True)


def told(bookinfo: Bookinfo, **more: Any) -> tuple[Any, ...]:
    """Settings and options of an agent that watches all of it."""
    options = [word for name in bookinfo.namespaces for word in ("--netns", name)]
    return {**bookinfo.settings(), **more}, *options


@pytest.fixture(scope="module")
def run(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    otlp = {"traces": {"endpoint": stack.tempo_otlp_http}}
    with Bookinfo("bookinfoe2e", tag=True) as bookinfo:
        with Agent(tmp_path_factory.mktemp("bookinfo"), *told(bookinfo, otlp=otlp)) as agent:
            curl = bookinfo.curl()
            load = bookinfo.load(RATE, SECONDS)
            agent.settled(2.5)
            traces = judge.by_request(judge.read([agent.traces_file]))
            [trace] = traces[curl.rid]
            stack.flush()
            tempo = stack.spans(trace[0].trace_id, at_least=len(trace))
            agent.stop()
        assert bookinfo.dead() == []
    assert agent.ledger["dropped"] == {}, agent.ledger
    yield Run(curl, load, traces, tempo)


def as_exported(spans: list[TempoSpan]) -> list[Span]:
    """Tempo's spans as the judge reads them."""
    kinds = {name: number for number, name in KINDS.items()}
    return [
        Span(trace_id=s.trace_id, span_id=s.span_id, parent_id=s.parent_id, service=s.service, name=s.name,
             kind=kinds[s.kind.removeprefix("SPAN_KIND_")], start_ns=s.start_ns, end_ns=s.end_ns, error=False,
             attributes=s.attributes)
        for s in spans
    ]  # fmt: skip


@pytest.mark.parametrize("row", SPANS, ids=lambda row: row.id)
def test_tempo_has_this_span_below_that_parent(run: Run, row: Row) -> None:
    found, lacking, _ = judge.compare(as_exported(run.tempo))
    assert row not in lacking, f"not below {row.parent or 'nothing'}: {row}"
    span = found[row.id]
    assert span.parent_id == (found[row.parent].span_id if row.parent else "")


def test_tempo_has_them_all_and_no_other(run: Run) -> None:
    assert run.curl.status == 200
    assert len(PROCESSES) == 2 * len(HOPS) == 36  # 24 as DeepFlow counts them, and 12 of look-ups
    assert len(NICS) == 2 * 4 + 3 * 8 == 32  # two hops within one node, three by VXLAN; DeepFlow's have 14
    _, lacking, surplus = judge.compare(as_exported(run.tempo))
    assert (lacking, surplus) == ([], [])
    assert len(run.tempo) == len(SPANS)


def test_traceql_finds_the_whole_way(run: Run, stack: Stack) -> None:
    way = ["productpage-envoy", "productpage", "reviews-envoy", "reviews", "ratings-envoy", "ratings"]
    first = f'{{ resource.service.name = "ingress-envoy" && kind = server && span.url.path =~ ".*{run.curl.rid}.*" }}'
    query = " >> ".join([first, *(f'{{ resource.service.name = "{name}" && kind = server }}' for name in way)])
    assert [t["traceID"].rjust(32, "0") for t in stack.traceql(query)] == [run.tempo[0].trace_id]


def test_spans_lie_within_what_caused_them(run: Run) -> None:
    found, _, _ = judge.compare(as_exported(run.tempo))
    for row in PROCESSES:
        if row.parent:
            inner, outer = found[row.id], found[row.parent]
            assert outer.start_ns <= inner.start_ns, row
            # a server's send may return after the client has read it all; one kernel, one clock here
            assert inner.end_ns <= outer.end_ns or row.kind != CLIENT, row


def test_interfaces_saw_it_in_the_order_of_the_way(run: Run) -> None:
    """The request passes them one after the other, the answer back: each span lies within the one before."""
    found, _, _ = judge.compare(as_exported(run.tempo))
    for before, row in pairwise(NICS):
        if before.parent == row.parent:
            outer, inner = found[before.id], found[row.id]
            assert outer.start_ns < inner.start_ns <= inner.end_ns < outer.end_ns, (before, row)


def test_hop_times_are_the_calls_time(run: Run) -> None:
    found, _, _ = judge.compare(as_exported(run.tempo))
    for parent in {row.parent for row in NICS}:
        call = found[parent]
        shares = {key: int(value) for key, value in call.attributes.items() if key.startswith("zerospan.hop.")}
        assert sum(shares.values()) == call.end_ns - call.start_ns, call
        assert {"zerospan.hop.network", "zerospan.hop.server_host", "zerospan.hop.server_process"} <= shares.keys()


def test_under_load_all_are_whole_and_none_is_mixed(run: Run) -> None:
    assert [r for r in run.load if r.status != 200] == []
    judged = judge.judge(run.traces, [r.rid for r in run.load], visitor="client")
    assert len(judged.findings) == RATE * SECONDS
    assert judged.wrong == 0, judged.text()
    assert judged.whole >= 0.999, judged.text()


def test_requests_that_nothing_but_evidence_tells_apart(tmp_path: Path) -> None:
    """One path for all; the ids, which only the judge reads, travel in User-Agent."""
    with Bookinfo("bookinfoe2e", same_path=True) as bookinfo, Agent(tmp_path, *told(bookinfo)) as agent:
        load = bookinfo.load(RATE, SECONDS)
        agent.settled(2.5)
        agent.stop()
    assert [r for r in load if r.status != 200] == []
    judged = judge.judge(judge.by_request(judge.read([agent.traces_file])), [r.rid for r in load], visitor="client")
    assert judged.wrong == 0, judged.text()
    assert judged.whole >= 0.999, judged.text()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """A Redis of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None, "redis-server does not answer"
                time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def test_an_agent_for_each_host(tmp_path: Path, store: str) -> None:
    """Two nodes and the client's host share their links: the same traces, interfaces and hop times included."""
    agents = []
    with Bookinfo("bookinfoe2e") as bookinfo, ExitStack() as running:
        for name, namespaces in bookinfo.hosts.items():
            (folder := tmp_path / name).mkdir()
            options = [word for netns in namespaces for word in ("--netns", netns)]
            agents.append(Agent(folder, {**bookinfo.settings(), "links": store}, *options))
            running.enter_context(agents[-1])
        load = bookinfo.load(RATE, SECONDS)
        for agent in agents:
            agent.settled(2.5)
            agent.stop()
            assert agent.ledger["dropped"] == {}, agent.ledger
    assert [r for r in load if r.status != 200] == []
    traces = judge.by_request(judge.read([agent.traces_file for agent in agents]))
    judged = judge.judge(traces, [r.rid for r in load], visitor="client")
    assert judged.wrong == 0, judged.text()
    assert judged.whole >= 0.999, judged.text()
    across = {row.parent for row in NICS if row.name == "client.node vxlan0"}
    assert len(across) == 3
    spans = [judge.compare(traces[r.rid][0], visitor="client")[0] for r in load]
    calls = [found[row] for found in spans for row in across if row in found]
    told_all = sum(all(f"zerospan.hop.{name}" in call.attributes for name in SHARES) for call in calls)
    assert told_all >= 0.999 * len(load) * len(across), "what the server's host measured is not on the CLIENT span"
