"""What a person sees is true, fits, and cannot be made to harm the terminal."""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import recording_cases as cases

from zerospan.exporter import pipeline, requestlog, terminal, tree
from zerospan.exporter.config import Config
from zerospan.exporter.config.model import Console
from zerospan.exporter.requestlog import Red, Request
from zerospan.exporter.sinks import console
from zerospan.exporter.sinks.base import Batch
from zerospan.exporter.sinks.console import RequestSink, TreeSink
from zerospan.exporter.source.replay import Replay
from zerospan.exporter.tree import CLIENT, INTERNAL, SERVER, Span, render_trace

MS = 1_000_000
EVIL = "/\x1b[2J\x07\r\n\u202eadmin"


def span(number: int, parent: int = 0, kind: int = SERVER, service: str = "s", **more) -> Span:  # type: ignore[no-untyped-def]
    given = {
        "trace_id": "t1", "span_id": f"{number:016x}", "parent_id": f"{parent:016x}" if parent else "",
        "service": service, "name": "GET /x", "kind": kind, "start_ns": number * MS,
        "end_ns": number * MS + MS, "error": False, "attributes": {},
    }  # fmt: skip
    return Span(**(given | more))


def pair() -> list[Span]:
    """nginx calls shop: 12.3 ms, 0.05 ms there, 0.04 ms back."""
    return [
        span(1, 0, CLIENT, "nginx", name="GET /r/{id}", start_ns=0, end_ns=12_300_000),
        span(2, 1, SERVER, "shop", name="GET /r/{id}", start_ns=50_000, end_ns=12_260_000,
             attributes={"http.response.status_code": 200}),
    ]  # fmt: skip


def play(folder: Path, config: Config, sinks: list[object], requests: int = 2, answer: bytes = cases.ANSWER) -> None:
    path = folder / "r.zsr"
    path.write_bytes(cases.whole(requests, answer))
    agent = pipeline.build(config, extra_sinks=sinks, replay=Replay(str(path)), control=False)  # type: ignore[arg-type]
    agent.start()
    assert agent.ended.wait(30)
    agent.stop()


# ---- the tree ----


def test_both_ends_of_a_request_are_one_line_with_the_time_between_them() -> None:
    head, line = render_trace(pair()).splitlines()
    assert head == "trace t1  12.3 ms  2 spans  2 services"
    assert line.startswith("nginx ─ GET /r/{id} → shop ")
    assert line.split()[-9:] == ["12.3", "ms", "→", "0.05", "ms", "←", "0.04", "ms", "200"]


def test_the_order_of_the_spans_does_not_matter() -> None:
    spans = [
        *pair(),
        span(3, 2, CLIENT, "shop"),
        span(4, 3, SERVER, "prices"),
        span(5, 2, CLIENT, "shop", name="B"),
    ]
    wanted = render_trace(spans)
    chance = random.Random(1)
    for _ in range(20):
        chance.shuffle(spans)
        assert render_trace(spans) == wanted


def test_nested_calls_stand_below_their_cause_in_the_order_of_their_start() -> None:
    spans = [
        *pair(),
        span(5, 2, CLIENT, "shop", name="second", start_ns=3 * MS),
        span(3, 2, CLIENT, "shop", name="first", start_ns=2 * MS),
        span(4, 3, SERVER, "db", name="first", start_ns=2 * MS),
        span(6, 4, CLIENT, "db", name="deeper", start_ns=2 * MS),
    ]
    lines = [line[:30].rstrip() for line in render_trace(spans).splitlines()[2:]]
    assert [line.split(" ─ ")[0] for line in lines] == ["├─ shop", "│  └─ db", "└─ shop"]
    assert ["first" in lines[0], "deeper" in lines[1], "second" in lines[2]] == [True] * 3


def test_every_span_is_shown_whatever_is_missing() -> None:
    """Without a CLIENT end, without a SERVER end, with a parent that is not there."""
    text = render_trace([
        span(1, 99, SERVER, "orphan", attributes={"client.address": "10.0.0.9"}),
        span(2, 1, CLIENT, "orphan", attributes={"server.address": "db.example", "server.port": 5432}),
        span(3, 98, CLIENT, "other"),
    ])  # fmt: skip
    assert "10.0.0.9 ─ GET /x → orphan" in text
    assert "orphan ─ GET /x → db.example:5432" in text
    assert "other ─ GET /x → outside" in text


def point(number: int, parent: int, where: str, interface: str, took_ns: int) -> Span:
    return span(number, parent, INTERNAL, "zerospan-network", name=f"{where} {interface}", start_ns=0, end_ns=took_ns,
                attributes={"zerospan.point": where, "network.interface.name": interface})  # fmt: skip


def test_interfaces_stand_below_their_call_in_the_order_of_the_way_with_its_hops() -> None:
    spans = [
        *pair(),
        point(10, 1, "server.pod", "eth0", 12 * MS),
        point(11, 1, "client.pod", "veth7", 12_260_000),
        point(12, 1, "client.pod", "eth0", 12_280_000),
        span(3, 2, CLIENT, "shop"),
    ]
    spans[0].attributes = {"zerospan.hop.network": 200_000, "zerospan.hop.client_process": 100_000}
    head, call, times, seen, nested = render_trace(spans).splitlines()
    assert head == "trace t1  12.3 ms  6 spans  2 services  3 at interfaces"
    assert call.startswith("nginx ─ GET /r/{id} → shop ")
    assert times == "│  time: client process 0.10 ms, network 0.20 ms"
    assert seen == "│  seen: client.pod eth0 12.3 ms, veth7 12.3 ms; server.pod eth0 12.0 ms"
    assert nested.startswith("└─ shop")
    assert render_trace(spans[::-1]) == render_trace(spans)


def test_a_point_without_its_call_is_shown() -> None:
    text = render_trace([*pair(), point(10, 99, "client.pod", "eth0", MS)])
    assert "zerospan-network ─ client.pod eth0 " in text and "outside" not in text


def test_errors_are_marked_and_counted() -> None:
    spans = pair()
    spans[1] = span(2, 1, SERVER, "shop", error=True, attributes={"error.type": "503"})
    text = render_trace(spans)
    assert text.splitlines()[0].endswith("1 error") and text.splitlines()[1].endswith("✗ 503")
    assert "\x1b" not in text and "\x1b[31m" in render_trace(spans, color=True)


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_is_wider_than_asked(width: int) -> None:
    spans = [span(i, i - 1, CLIENT if i % 2 else SERVER, "service-" + "x" * 60, name="N" * 300) for i in range(1, 400)]
    points = [point(1000 + i, 2 * i + 1, "client.node", "i" * (i + 1), MS) for i in range(100)]
    assert max(map(len, render_trace([*spans, *points], width=width).splitlines())) <= width
    lines = render_trace(spans, width=width).splitlines()
    assert len(lines) == 201, "a chain of 399 spans is 200 requests"
    # beyond the indent that is shown nothing gets narrower
    assert max(map(len, lines)) <= width


def test_nothing_from_the_wire_reaches_the_terminal_raw() -> None:
    shown = render_trace([span(1, 0, CLIENT, "a" + EVIL, name="GET " + EVIL, attributes={"server.address": EVIL})])
    assert EVIL not in render_trace([*pair(), point(3, 1, "client.pod", EVIL, MS)])
    assert terminal.plain(shown.replace("\n", "")) == shown.replace("\n", "")
    assert shown.count("\n") == 2


def test_no_spans_no_text() -> None:
    assert render_trace([]) == ""


# ---- the sinks ----


def test_console_tree_prints_each_trace_of_the_pipeline_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    play(tmp_path, Config(console=Console(tree=True)), [], requests=3)
    out = capfd.readouterr().out
    assert out.count("trace ") == 3
    assert out.count("curl ─ GET /orders/{id} → shop") == 3
    assert out.count("└─ shop ─ GET /prices/{id} → prices") == 3


def batch(tmp_path: Path, requests: int, signal: str = "traces") -> Batch:
    taken: list[Batch] = []

    class Take(TreeSink):
        def put(self, batch: Batch) -> None:
            taken.append(batch)

    sink = Take()
    sink.signal = signal  # type: ignore[assignment]
    play(tmp_path, Config(), [sink], requests)
    assert len(taken) == 1
    return taken[0]


def test_a_trace_is_printed_once_it_was_quiet(tmp_path: Path) -> None:
    shown: list[str] = []
    printed = threading.Event()
    sink = TreeSink(write=lambda text: (shown.append(text), printed.set())[0], quiet_s=0.2, color=False)
    given = batch(tmp_path, 1)
    sink.start()
    before = time.monotonic()
    sink.put(given)
    assert printed.wait(5) and time.monotonic() - before >= 0.2
    sink.stop(5)
    assert len(shown) == 1 and sink.stats.sent_items == given.count == 4


def test_the_memory_for_traces_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are printed before they are quiet; none is lost."""
    monkeypatch.setattr(console, "MAX_TRACES", 5)
    shown: list[str] = []
    sink = TreeSink(write=shown.append, quiet_s=3600, color=False)
    given = batch(tmp_path, 20)
    sink.start()
    sink.put(given)
    sink.stop(5)
    assert sink.stats.sent_items == 80
    assert len(shown) == 20 and len(set(shown)) == 20
    assert sink._spans == 0


def test_a_reader_that_went_away_ends_the_output_not_the_agent(tmp_path: Path) -> None:
    def broken(text: str) -> None:
        raise BrokenPipeError

    given = batch(tmp_path, 1)
    sink = TreeSink(write=broken, quiet_s=0.05, color=False)
    sink.start()
    sink.put(given)
    end = time.monotonic() + 5
    while not sink._broken and time.monotonic() < end:
        time.sleep(0.01)
    sink.put(given)
    sink.stop(5)
    stats = sink.stats
    assert stats.dropped == {"rejected": given.count}
    assert stats.put_items == stats.sent_items + sum(stats.dropped.values())

    def closed(requests: list[Request]) -> None:
        raise BrokenPipeError

    lines = RequestSink(closed)
    lines.start()
    lines.put(batch(tmp_path, 1, "logs"))
    assert lines.closed.wait(5)
    lines.stop(5)


# ---- the request log ----


def requests_of(tmp_path: Path, requests: int = 1, answer: bytes = cases.ANSWER) -> list[Request]:
    found: list[Request] = []
    play(tmp_path, Config(), [RequestSink(found.extend)], requests, answer)
    return found


def test_a_request_is_one_line_with_all_its_keys(tmp_path: Path) -> None:
    found = requests_of(tmp_path, 2)
    assert [(r.service, r.kind) for r in found] == [("prices", "server"), ("shop", "server")] * 2
    r = found[1]
    assert (r.protocol, r.operation, r.route, r.status, r.error) == (
        "http",
        "GET",
        "/orders/{id}",
        "200",
        None,
    )
    assert r.target is not None and r.target.startswith("/orders/7?token=") and "secret" not in r.target
    assert r.duration_ms == pytest.approx(3, abs=0.01)
    assert len(r.trace_id) == 32 and len(r.span_id) == 16 and r.time.endswith("Z")


REQUESTS = {
    "http": {"protocol": "http", "operation": "GET", "target": "/a?x=?", "route": "/a", "status": "200"},
    "error": {"protocol": "http", "operation": "POST", "target": "/" + "p" * 200, "error": "500"},
    "timeout": {"protocol": "http", "operation": "GET", "target": "/slow", "error": "timeout"},
    "sql": {"protocol": "postgresql", "operation": "SELECT", "target": "SELECT * FROM orders WHERE id = ?"},
    "sql-error": {"protocol": "postgresql", "operation": "SELECT", "status": "42P01", "error": "42P01"},
    "redis": {"protocol": "redis", "operation": "HGETALL", "target": "HGETALL ?"},
    "dns": {"protocol": "dns", "operation": "AAAA", "target": "a.example", "error": "NXDOMAIN"},
    "bare": {"protocol": "redis"},
    "evil": {"protocol": "http", "operation": "GET", "target": EVIL, "service": EVIL, "status": EVIL},
    "client": {"protocol": "http", "operation": "GET", "target": "/o", "kind": "client", "duration_ms": 6e4},
}  # fmt: skip


def request(**more) -> Request:  # type: ignore[no-untyped-def]
    nothing = dict.fromkeys(Request.__struct_fields__)
    given = {"time": "2026-11-23T05:14:23.334807Z", "service": "shop", "kind": "server", "protocol": "http",
             "duration_ms": 1.25, "trace_id": "", "span_id": ""}  # fmt: skip
    return Request(**(nothing | given | more))


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("width", [80, 60, 120])
def test_a_line_fits_and_is_harmless(name: str, width: int) -> None:
    r = request(**REQUESTS[name])
    line = requestlog.line(r, width=width)
    assert len(line) <= width and line.isprintable()
    assert "None" not in line
    if width >= 80:
        for text in (r.status if not r.error else r.error, terminal.duration(r.duration_ms * MS)):
            assert text is None or terminal.plain(text)[:8] in line


def test_red_figures_are_right_within_the_width_of_a_bucket() -> None:
    red = Red()
    durations = [float(i) for i in range(1, 1001)]
    random.Random(3).shuffle(durations)
    for i, ms in enumerate(durations):
        red.add(request(operation="GET", route="/a", duration_ms=ms, error="500" if i % 10 == 0 else None))
    endpoint = red._rows["shop", "GET /a"]
    assert endpoint.requests == 1000 and endpoint.errors == 100 and endpoint.most == 1000
    for q, wanted in ((0.5, 500), (0.95, 950), (1.0, 1000)):
        assert endpoint.quantile(q) == pytest.approx(wanted, rel=0.03)
    table = red.table(width=80)
    assert "10.0" in table and max(map(len, table.splitlines())) <= 80
    assert red.table() == "", "a table begins anew"


def test_red_figures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requestlog, "MAX_ENDPOINTS", 10)
    red = Red()
    for i in range(1000):
        red.add(request(operation="GET", route=f"/{i}", duration_ms=10 ** random.Random(i).uniform(-6, 9)))
    assert len(red._rows) == 11 and red._rows["(other)", "(other)"].requests == 990
    assert all(len(e._buckets) < 1000 for e in red._rows.values())
    assert "(other)" in red.table(rows=11)


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0.00 ms"), (-5, "0.00 ms"), (40_000, "0.04 ms"), (9_994_000, "9.99 ms"), (9_996_000, "10.0 ms"),
     (99_960_000, "100 ms"), (999_600_000, "1.00 s"), (61e9, "61.0 s"), (100e9, "100 s"), (1e14, "100000 s")],
)  # fmt: skip
def test_durations_have_three_digits(ns: float, text: str) -> None:
    assert terminal.duration(ns) == text


def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.wants_color(Terminal())  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not terminal.wants_color(Terminal())  # type: ignore[arg-type]
    assert tree.WIDTH == 100 and terminal.WIDTH == 80
