"""OTLP over HTTP against real servers on loopback: paths, headers, TLS, answers, bounds."""

import gzip as stdlib_gzip
import socket
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

sys.path.insert(0, str(Path(__file__).parent))
from sink_receivers import Answer, Certificates, Receiver, balanced, batch, make_certificates, receiver, until

from zerospan.exporter.config.model import OtlpSignal, Tls
from zerospan.exporter.config.secret import Secret, Url
from zerospan.exporter.sinks.base import Signal
from zerospan.exporter.sinks.otlp_http import OtlpHttpSink
from zerospan.exporter.sinks.retry import RetryPolicy

FAST = RetryPolicy(initial_s=0.001, max_s=0.004, max_elapsed_s=60)


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def sink_to(url: str, signal: Signal = "traces", retry: RetryPolicy = FAST, **settings: object) -> OtlpHttpSink:
    sink = OtlpHttpSink("otlp/x", signal, OtlpSignal(Url(url), **settings), retry=retry)  # type: ignore[arg-type]
    sink.start()
    return sink


@pytest.mark.parametrize("signal", ["traces", "logs"])
def test_the_payload_arrives_as_it_is(server: Receiver, signal: Signal) -> None:
    sink = sink_to(server.url, signal, headers={"X-Token": Secret("s3cret")})
    sink.put(batch(b"\x0a\x00payload", 2, signal))
    sink.stop(5)
    (request,) = server.requests
    assert request.path == f"/v1/{signal}" and request.body == b"\x0a\x00payload"
    assert request.headers["content-type"] == "application/x-protobuf"
    assert request.headers["x-token"] == "s3cret" and request.headers["user-agent"].startswith("zerospan/")
    assert "content-encoding" not in request.headers
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert sink.stats.sent_items == 2


@pytest.mark.parametrize(
    ("path", "asked"),
    [("", "/v1/traces"), ("/", "/"), ("/custom", "/custom"), ("/v1/traces?tenant=7", "/v1/traces?tenant=7")],
)
def test_a_path_is_used_as_it_is(server: Receiver, path: str, asked: str) -> None:
    sink = sink_to(server.url + path)
    sink.put(batch())
    sink.stop(5)
    assert [r.path for r in server.requests] == [asked]


def test_gzip(server: Receiver) -> None:
    sink = sink_to(server.url, compression="gzip")
    payload = b"span" * 5000
    sink.put(batch(payload, 9))
    sink.stop(5)
    (request,) = server.requests
    assert request.headers["content-encoding"] == "gzip" and stdlib_gzip.decompress(request.body) == payload
    assert sink.stats.sent_bytes == len(payload) and sink.stats.sent_wire_bytes == len(request.body) < 1000


def test_one_connection_serves_many_batches(server: Receiver) -> None:
    sink = sink_to(server.url)
    for _ in range(50):
        sink.put(batch())
    sink.stop(5)
    assert sink.stats.sent_items == 50 and len({r.client for r in server.requests}) == 1


def test_a_connection_that_the_server_closed_while_idle_costs_nothing(server: Receiver) -> None:
    closed = threading.Event()

    def answer_then_close(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")  # says nothing of closing
        handler.close_connection = True
        closed.set()

    server.script = [answer_then_close, answer_then_close, Answer()]
    sink = sink_to(server.url)
    for n in range(3):
        sink.put(batch())
        until(lambda n=n: sink.stats.sent_items == n + 1)
    assert sink.stats.retries == 0 and sink.stats.last_error == "" and closed.is_set()
    sink.stop(5)
    assert len(server.requests) == 3


@pytest.mark.parametrize("extra", [b"Connection: close\r\nContent-Length: 2\r\n", b"Connection: close\r\n"])
def test_an_answer_that_ends_the_connection_is_read(server: Receiver, extra: bytes) -> None:
    def step(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 400 Bad\r\n" + extra + b"\r\nno")
        handler.close_connection = True

    server.script = [step]
    sink = sink_to(server.url)
    sink.put(batch())
    sink.put(batch())
    sink.stop(5)
    assert sink.stats.last_error == "HTTP 400: no" and sink.stats.sent_items == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_retryable_answers_are_retried(server: Receiver, status: int) -> None:
    server.script = [Answer(status, b"later"), Answer(status)]
    sink = sink_to(server.url)
    sink.put(batch(b"same", 3))
    until(lambda: sink.stats.sent_items == 3)
    assert sink.stats.retries == 2 and [r.body for r in server.requests] == [b"same"] * 3
    sink.stop(5)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 408, 500, 501])
def test_other_answers_are_not_retried(server: Receiver, status: int) -> None:
    server.script = [Answer(status, b"why\x1b[2J", {"Location": "http://127.0.0.1:1/"})]
    sink = sink_to(server.url)
    sink.put(batch(count=3))
    until(lambda: sink.stats.queued_items == 0)
    assert sink.stats.dropped == {"rejected": 3} and sink.stats.retries == 0 and len(server.requests) == 1
    assert sink.stats.last_error.startswith(f"HTTP {status}: why [2J")
    sink.stop(5)


def test_413_is_too_large_and_an_error_status_in_protobuf_is_read(server: Receiver) -> None:
    body = Status(code=3, message="bad span").SerializeToString()
    server.script = [Answer(413), Answer(400, body, {"Content-Type": "application/x-protobuf"})]
    sink = sink_to(server.url)
    sink.put(batch(count=2))
    sink.put(batch(count=3))
    sink.stop(5)
    assert sink.stats.dropped == {"too_large": 2, "rejected": 3}
    assert sink.stats.last_error == "HTTP 400: bad span"


def test_retry_after_is_honoured(server: Receiver) -> None:
    server.script = [
        Answer(429, headers={"Retry-After": "1"}),
        Answer(503, headers={"Retry-After": formatdate(time.time() + 3, usegmt=True)}),
    ]
    times: list[float] = []
    sink = sink_to(server.url)
    sink.put(batch())
    for n in range(3):
        until(lambda n=n: len(server.requests) == n + 1)
        times.append(time.time())
    sink.stop(5)
    assert times[1] - times[0] >= 0.95 and times[2] - times[1] >= 0.1 and times[2] - times[0] < 6


def test_partial_success_is_counted(server: Receiver) -> None:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = 2
    response.partial_success.error_message = "two too old"
    warning = ExportTraceServiceResponse()
    warning.partial_success.error_message = "soon gone"
    server.script = [Answer(body=response.SerializeToString()), Answer(body=warning.SerializeToString())]
    sink = sink_to(server.url)
    sink.put(batch(count=10))
    until(lambda: sink.stats.queued_items == 0)
    assert sink.stats.sent_items == 8 and sink.stats.dropped == {"rejected": 2}
    assert "two too old" in sink.stats.last_error and not sink.stats.failing
    sink.put(batch(count=1))
    sink.stop(5)
    assert sink.stats.sent_items == 9 and "soon gone" in sink.stats.last_error


def test_a_receiver_that_comes_later_gets_all() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        sink = sink_to(f"http://127.0.0.1:{port}")
        sink.put(batch(count=5))
        until(lambda: sink.stats.retries >= 2)
        assert "Connection refused" in sink.stats.last_error and sink.stats.failing
    made = Receiver(port=port)
    try:
        until(lambda: sink.stats.sent_items == 5)
    finally:
        sink.stop(5)
        made.close()
    assert balanced(sink.stats) and not sink.stats.failing


def test_a_drip_of_an_answer_ends_at_the_time_out(server: Receiver) -> None:
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not stop.wait(0.02):
            handler.wfile.write(b"X-Drip: 1\r\n"[:1])
        handler.close_connection = True

    server.script = [drip]
    sink = sink_to(server.url, timeout_s=0.3, retry=RetryPolicy(max_elapsed_s=0))
    began = time.monotonic()
    sink.put(batch())
    until(lambda: sink.stats.queued_items == 0)
    assert 0.25 <= time.monotonic() - began < 3
    assert sink.stats.dropped == {"retries_exhausted": 1} and "timed out" in sink.stats.last_error
    stop.set()
    sink.stop(5)


def test_an_endless_answer_is_cut_off(server: Receiver) -> None:
    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 400 No\r\n\r\n")
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    server.script = [flood]
    sink = sink_to(server.url)
    sink.put(batch())
    sink.put(batch())
    sink.stop(10)
    assert sink.stats.dropped == {"rejected": 1} and sink.stats.sent_items == 1
    assert len(sink.stats.last_error) <= 300


def test_not_http_is_retried_as_unreachable(server: Receiver) -> None:
    def nonsense(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        handler.close_connection = True

    server.script = [nonsense]
    sink = sink_to(server.url)
    sink.put(batch())
    until(lambda: sink.stats.sent_items == 1)
    assert sink.stats.retries == 1 and "no HTTP answer" in sink.stats.last_error
    sink.stop(5)


def test_an_answer_before_the_body_was_read_counts() -> None:
    """A receiver that refuses by the head alone: its 413 must not be taken for a broken network."""
    listener = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # so that the kernel does not answer the body with a reset
                pass

    thread = threading.Thread(target=refuse, daemon=True)
    thread.start()
    sink = sink_to(f"http://127.0.0.1:{listener.getsockname()[1]}")
    sink.put(batch(b"x" * 3_000_000, count=4))
    until(lambda: sink.stats.queued_items == 0)
    assert sink.stats.dropped == {"too_large": 4} and sink.stats.retries == 0
    sink.stop(5)
    listener.close()


@pytest.mark.parametrize("tls", [False, True])
def test_stop_breaks_off_a_request_under_way(certificates: Certificates, tls: bool) -> None:
    with receiver(certificates.server_context(False) if tls else None) as server:
        server.gate.clear()
        sink = sink_to(server.url, timeout_s=60, tls=Tls(ca=certificates.ca))
        sink.put(batch(count=2))
        until(lambda: len(server.requests) == 1)
        began = time.monotonic()
        sink.stop(0.2)
        assert time.monotonic() - began < 2
        assert sink.stats.dropped == {"shutdown": 2} and balanced(sink.stats)
        assert sink._thread is not None and not sink._thread.is_alive()


def test_secrets_are_in_no_error(server: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    def echo(handler: BaseHTTPRequestHandler) -> None:
        words = str(dict(handler.headers)).encode()
        handler.wfile.write(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n%s" % (len(words), words))
        handler.close_connection = True

    server.script = [echo]
    url = server.url.replace("http://", "http://me:pa55word@") + "?key=t0ken"
    sink = sink_to(url, headers={"X-Key": Secret("s3cret")})
    sink.put(batch())
    until(lambda: sink.stats.queued_items == 0)
    assert server.requests[0].headers["authorization"] == "Basic bWU6cGE1NXdvcmQ="
    assert server.requests[0].path == "/v1/traces?key=t0ken"
    server.close()
    sink.put(batch())
    until(lambda: sink.stats.retries > 0)
    sink.stop(5)
    told = caplog.text + sink.stats.last_error + repr(sink.stats)
    assert "401" in told and "refused" in told
    for secret in ("s3cret", "pa55word", "bWU6cGE1NXdvcmQ=", "t0ken"):
        assert secret not in told


def test_tls_with_our_ca(certificates: Certificates) -> None:
    with receiver(certificates.server_context(False)) as server:
        sink = sink_to(server.url, tls=Tls(ca=certificates.ca))
        for _ in range(3):
            sink.put(batch(b"x" * 200_000))
        sink.stop(5)
        assert sink.stats.sent_items == 3 and len(server.requests[0].body) == 200_000
        assert len({r.client for r in server.requests}) == 1


def test_an_unknown_ca_is_refused_unless_verification_is_off(certificates: Certificates) -> None:
    once = RetryPolicy(max_elapsed_s=0)
    with receiver(certificates.server_context(False)) as server:
        for tls in (Tls(ca=certificates.other_ca), Tls()):
            sink = sink_to(server.url, retry=once, tls=tls)
            sink.put(batch())
            until(lambda sink=sink: sink.stats.queued_items == 0)
            assert "certificate not accepted" in sink.stats.last_error and not server.requests
            sink.stop(1)
        sink = sink_to(server.url, retry=once, tls=Tls(insecure_skip_verify=True))
        sink.put(batch())
        sink.stop(5)
        assert sink.stats.sent_items == 1


def test_the_name_in_the_certificate_counts(certificates: Certificates) -> None:
    """127.0.0.2 is the same server, under a name that its certificate does not have."""
    made = Receiver(certificates.server_context(False), host="0.0.0.0")
    for host, sent in (("127.0.0.2", 0), ("127.0.0.1", 1), ("localhost", 1)):
        retry = RetryPolicy(max_elapsed_s=0)
        sink = sink_to(f"https://{host}:{made.port}", retry=retry, tls=Tls(ca=certificates.ca))
        sink.put(batch())
        until(lambda sink=sink: sink.stats.queued_items == 0)
        assert sink.stats.sent_items == sent
        assert ("certificate not accepted" in sink.stats.last_error) != bool(sent)
        sink.stop(1)
    made.close()


def test_mutual_tls(certificates: Certificates) -> None:
    with receiver(certificates.server_context(True)) as server:
        bare = sink_to(server.url, retry=RetryPolicy(max_elapsed_s=0), tls=Tls(ca=certificates.ca))
        bare.put(batch())
        until(lambda: bare.stats.queued_items == 0)
        assert bare.stats.sent_items == 0 and not server.requests
        assert bare.stats.dropped == {"retries_exhausted": 1}
        bare.stop(1)
        tls = Tls(ca=certificates.ca, cert=certificates.client_cert, key=certificates.client_key)
        sink = sink_to(server.url, tls=tls)
        sink.put(batch())
        sink.stop(5)
        assert sink.stats.sent_items == 1 and len(server.requests) == 1


def test_ipv6() -> None:
    try:
        server = Receiver(host="::1")
    except OSError:
        pytest.skip("no ::1 on this machine")
    sink = sink_to(f"http://[::1]:{server.port}")
    sink.put(batch())
    sink.stop(5)
    server.close()
    assert sink.stats.sent_items == 1 and server.requests[0].headers["host"] == f"[::1]:{server.port}"
