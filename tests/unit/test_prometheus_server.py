"""The HTTP server of /metrics on real sockets: what it says, and that no client can hold it up."""

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPResponse

import pytest

from zerospan.exporter.config.rules import listen_address
from zerospan.exporter.metrics.harness import Feeder
from zerospan.exporter.sinks.prometheus import (
    OPENMETRICS,
    TEXT,
    MetricsServer,
    accepts_gzip,
    wants_openmetrics,
)

Start = Callable[..., MetricsServer]
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def render(openmetrics: bool) -> bytes:
    return b"# EOF\n" if openmetrics else b"up 1\n"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers on a free port, and stops them all."""
    with ExitStack() as stack:

        def make(listen: str = "127.0.0.1:0", *args: object, **options: object) -> MetricsServer:
            server = MetricsServer(listen, *(args or (render,)), **options)  # type: ignore[arg-type]
            server.start()
            stack.callback(server.stop, 0.5)
            return server

        yield make


def ask(
    server: MetricsServer, method: str = "GET", path: str = "/metrics", headers: dict[str, str] | None = None
) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection(server.host, server.port, timeout=10)
    connection.request(method, path, headers=headers or {})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def raw(server: MetricsServer, data: bytes) -> bytes:
    """What the server says to these bytes until it closes."""
    with socket.create_connection((server.host, server.port), timeout=10) as s:
        s.sendall(data)
        out = b""
        while piece := s.recv(65536):
            out += piece
        return out


def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.005)


def half_open(server: MetricsServer, n: int, data: bytes = b"GET /metrics HTTP/1.1\r\nHo") -> list[socket.socket]:
    out = []
    for _ in range(n):
        s = socket.create_connection((server.host, server.port), timeout=10)
        s.sendall(data)
        out.append(s)
    return out


def test_text_openmetrics_health_and_not_found(start: Start) -> None:
    server = start()
    response, body = ask(server)
    assert (response.status, body) == (200, b"up 1\n")
    assert response.headers["Content-Type"] == TEXT and response.headers["Content-Length"] == "5"
    response, body = ask(server, headers={"Accept": PROMETHEUS_3})
    assert (response.status, body, response.headers["Content-Type"]) == (200, b"# EOF\n", OPENMETRICS)
    assert ask(server, path="/healthz")[1] == b"ok\n"
    assert ask(server, path="/metrics?x=1")[0].status == 200
    assert ask(server, path="/")[0].status == ask(server, path="/metricsx")[0].status == 404


def test_head_has_no_body_and_other_methods_are_refused(start: Start) -> None:
    server = start()
    for path in ("/metrics", "/healthz", "/nowhere"):
        response, body = ask(server, "HEAD", path)
        assert body == b"" and response.status == (404 if path == "/nowhere" else 200)
    response, _ = ask(server, "POST", headers={"Content-Length": "0"})
    assert response.status == 405 and response.headers["Allow"] == "GET, HEAD"
    assert raw(server, b"DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("*", True),
        ("*;q=1, gzip;q=0", False),
        ("br", False),
        ("", False),
        ("gzip;q=x", False),
    ],
)
def test_gzip_when_accepted(start: Start, header: str, expected: bool) -> None:
    assert accepts_gzip(header) is expected
    response, body = ask(start(), headers={"Accept-Encoding": header})
    assert response.headers.get("Content-Encoding") == ("gzip" if expected else None)
    assert (gzip.decompress(body) if expected else body) == b"up 1\n"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        (PROMETHEUS_3, True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        ('Application/OpenMetrics-Text; version="1.0.0"', True),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;version=0.0.1", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.8", False),
        ("text/plain;q=0.2,application/openmetrics-text;q=0.8", True),
        ("application/openmetrics-text;q=nan", False),
        (",;=,application/openmetrics-text;=;;q", False),
    ],
)
def test_openmetrics_when_it_is_wanted(accept: str, expected: bool) -> None:
    assert wants_openmetrics(accept) is expected


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:1", ("localhost", 1)),
        (":9464", ("", 9464)),
    ],
)
def test_listen_addresses(listen: str, expected: tuple[str, int]) -> None:
    assert listen_address(listen) == expected


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "9464",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:99999",
        "127.0.0.1:-1",
        "::1:9464",
        "[::1:9464",
        "a b:1",
        "http://a:1",
        "a:٣",
    ],
)
def test_a_bad_listen_address_is_explained(listen: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT.*9464"):
        MetricsServer(listen, render)


def test_an_address_in_use_is_explained(start: Start) -> None:
    server = start()
    with pytest.raises(OSError, match=f"metrics.listen: cannot listen on 127.0.0.1:{server.port}: .*choose"):
        MetricsServer(f"127.0.0.1:{server.port}", render)


def test_ipv6_and_all_addresses(start: Start) -> None:
    assert ask(start("[::1]:0"))[1] == b"up 1\n"
    every = start(":0")
    for host in ("127.0.0.1", "::1"):
        connection = HTTPConnection(host, every.port, timeout=10)
        connection.request("GET", "/metrics")
        assert connection.getresponse().read() == b"up 1\n"
        connection.close()


def test_keep_alive_and_pipelined_requests(start: Start) -> None:
    server = start()
    connection = HTTPConnection(server.host, server.port, timeout=10)
    for _ in range(50):
        connection.request("GET", "/metrics")
        assert connection.getresponse().read() == b"up 1\n"
    connection.close()
    one = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert raw(server, one * 300 + last).count(b"HTTP/1.1 200 OK") == 301
    old = raw(server, b"GET /metrics HTTP/1.0\r\n\r\n")
    assert old.startswith(b"HTTP/1.1 200 ") and b"Connection: close" in old


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 505),
        (b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nA: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 200),
        (b"GET http://a/metrics HTTP/1.1\r\nConnection: close\r\n\r\n", 200),
    ],
)
def test_odd_requests_get_an_answer_and_harm_no_one(start: Start, data: bytes, status: int) -> None:
    server = start()
    answer = raw(server, data)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and answer.count(b"Content-Type: ") == 1
    assert ask(server)[0].status == 200


def test_a_byte_at_a_time(start: Start) -> None:
    server = start()
    with socket.create_connection((server.host, server.port), timeout=10) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n":
            s.sendall(bytes([byte]))
        assert s.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_half_open_clients_neither_block_a_scrape_nor_take_threads(start: Start) -> None:
    server = start(max_connections=64)
    threads = threading.active_count()
    stuck = half_open(server, 300)
    begin = time.monotonic()
    assert ask(server)[1] == b"up 1\n"
    assert time.monotonic() - begin < 2
    assert threading.active_count() == threads
    until(lambda: server.stats().get("evicted", 0) >= 300 - 64)
    for s in stuck:
        s.close()


def test_half_open_and_idle_clients_are_closed_in_time(start: Start) -> None:
    server = start(timeout_s=0.2)
    (slow,) = half_open(server, 1)
    (idle,) = half_open(server, 1, b"")
    (kept,) = half_open(server, 1, b"GET /healthz HTTP/1.1\r\n\r\n")
    with slow, idle, kept:
        assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert slow.recv(4096) == b"" == idle.recv(4096)
        assert kept.recv(4096).startswith(b"HTTP/1.1 200 ") and kept.recv(4096) == b""
    assert server.stats()["timeout"] == 1


def test_a_client_that_drips_does_not_prolong_its_time(start: Start) -> None:
    server = start(timeout_s=0.3)
    begin = time.monotonic()
    with socket.create_connection((server.host, server.port), timeout=10) as s, pytest.raises(OSError):
        while time.monotonic() - begin < 5:
            s.sendall(b"x")
            time.sleep(0.02)
    assert time.monotonic() - begin < 3


def test_clients_that_do_not_read_are_cut_off_and_the_rest_is_served(start: Start) -> None:
    body = b"x" * (8 << 20)
    server = start("127.0.0.1:0", lambda _: body, timeout_s=0.5, max_connections=2)
    deaf = []
    for _ in range(2):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect((server.host, server.port))
        s.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        deaf.append(s)
    until(lambda: server.stats().get("200", 0) == 2)
    refused = raw(server, b"")
    assert refused.startswith(b"HTTP/1.1 503 ") and server.stats()["refused"] == 1
    until(lambda: server.stats().get("timeout", 0) == 2)
    assert ask(server)[1] == body
    for s in deaf:
        s.close()


def test_answers_that_wait_are_bounded_in_bytes(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerospan.exporter.sinks.prometheus.PENDING_MAX", 20 << 20)
    server = start("127.0.0.1:0", lambda _: b"x" * (16 << 20))
    deaf = half_open(server, 1, b"GET /metrics HTTP/1.1\r\n\r\n")
    until(lambda: server.stats().get("200", 0) == 1)
    assert ask(server)[0].status == 503
    assert ask(server, path="/healthz")[0].status == 200
    deaf[0].close()


def test_a_renderer_that_fails_costs_that_scrape_only(start: Start) -> None:
    calls = iter([RuntimeError("boom"), None])

    def fragile(_: bool) -> bytes:
        if problem := next(calls):
            raise problem
        return b"up 1\n"

    server = start("127.0.0.1:0", fragile)
    assert ask(server)[0].status == 500
    assert ask(server)[1] == b"up 1\n"


def test_health_says_what_is_wrong(start: Start) -> None:
    response, body = ask(start(health=lambda: "no hook is attached"), path="/healthz")
    assert (response.status, body) == (503, b"no hook is attached\n")


def test_stop_lets_an_answer_finish_and_is_bounded(start: Start) -> None:
    body = b"x" * (8 << 20)
    server = start("127.0.0.1:0", lambda _: body)
    with socket.create_connection((server.host, server.port), timeout=10) as s:
        s.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        until(lambda: server.stats().get("200", 0) == 1)
        stopper = threading.Thread(target=server.stop, args=(10,))
        stopper.start()
        got = b""
        while piece := s.recv(1 << 20):
            got += piece
        stopper.join(5)
        assert not stopper.is_alive() and got.endswith(body)
    with pytest.raises(OSError):
        socket.create_connection((server.host, server.port), timeout=1)
    deaf = start("127.0.0.1:0", lambda _: body)
    (stuck,) = half_open(deaf, 1, b"GET /metrics HTTP/1.1\r\n\r\n")
    until(lambda: deaf.stats().get("200", 0) == 1)
    begin = time.monotonic()
    deaf.stop(0.2)
    assert time.monotonic() - begin < 2
    stuck.close()


def test_a_server_that_never_started_can_be_stopped() -> None:
    server = MetricsServer("127.0.0.1:0", render)
    server.stop()
    server.stop()


def test_the_real_exposition_through_the_real_server(start: Start) -> None:
    f = Feeder()
    f.observe(f.process("shop"), code=200, route=b"/r/{id}")
    server: MetricsServer = start("127.0.0.1:0", lambda om: f.render(om, server.self_metrics()))
    for _ in range(2):
        _, body = ask(server, headers={"Accept": PROMETHEUS_3, "Accept-Encoding": "gzip"})
    text = gzip.decompress(body).decode()
    assert 'http_server_request_duration_seconds_count{job="shop"' in text
    assert 'zerospan_metrics_http_requests_total{result="200"} 1' in text
    assert text.endswith("# EOF\n")
