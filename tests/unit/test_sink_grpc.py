"""OTLP over gRPC against a real grpc server with opentelemetry-proto's services."""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

sys.path.insert(0, str(Path(__file__).parent))
from sink_receivers import Certificates, balanced, batch, make_certificates, until

from zerospan.exporter.config.model import OtlpSignal, Tls
from zerospan.exporter.config.secret import Secret, Url
from zerospan.exporter.sinks.base import Batch, Signal
from zerospan.exporter.sinks.otlp_grpc import OtlpGrpcSink
from zerospan.exporter.sinks.retry import RetryPolicy

FAST = RetryPolicy(initial_s=0.001, max_s=0.004, max_elapsed_s=60)
Step = Callable[[Any], Any]


class Service(trace_service_pb2_grpc.TraceServiceServicer, logs_service_pb2_grpc.LogsServiceServicer):
    """Keeps the requests; `script` gives the next answers, each made from the call's context."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.script: list[Step] = []
        self.port = 0

    def Export(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.script:
            return self.script.pop(0)(context)
        logs = isinstance(request, logs_service_pb2.ExportLogsServiceRequest)
        return (logs_service_pb2.ExportLogsServiceResponse if logs else trace_service_pb2.ExportTraceServiceResponse)()


@contextmanager
def serving(credentials: grpc.ServerCredentials | None = None, **options: Any) -> Iterator[Service]:
    service = Service()
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[*options.get("options", [])])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(service, server)
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(service, server)
    at = "127.0.0.1:0"
    service.port = server.add_secure_port(at, credentials) if credentials else server.add_insecure_port(at)
    server.start()
    try:
        yield service
    finally:
        server.stop(0).wait()


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def sink_to(endpoint: str, signal: Signal = "traces", retry: RetryPolicy = FAST, **settings: Any) -> OtlpGrpcSink:
    sink = OtlpGrpcSink("otlp/x", signal, OtlpSignal(Url(endpoint), protocol="grpc", **settings), retry=retry)
    sink.start()
    return sink


def request_of(name: str) -> trace_service_pb2.ExportTraceServiceRequest:
    request = trace_service_pb2.ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name=name, trace_id=b"t" * 16, span_id=b"s" * 8)
    return request


def spans(count: int) -> Batch:
    return batch(request_of("GET /").SerializeToString(), count)


def fail(code: grpc.StatusCode, words: str = "no", details: bytes = b"") -> Step:
    def step(context: Any) -> Any:
        if details:
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(code, words)

    return step


def test_the_request_arrives_whole_with_its_headers(service: Service) -> None:
    sink = sink_to(f"http://127.0.0.1:{service.port}", headers={"X-Token": Secret("s3cret")})
    sink.put(batch(request_of("GET /").SerializeToString()))
    sink.stop(5)
    assert service.requests == [request_of("GET /")] and sink.stats.sent_items == 1
    assert service.metadata[0]["x-token"] == "s3cret"
    assert service.metadata[0]["user-agent"].startswith("zerospan/")


def test_logs_go_to_the_logs_service(service: Service) -> None:
    request = logs_service_pb2.ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.add(severity_text="INFO")
    sink = sink_to(f"127.0.0.1:{service.port}", "logs", tls=Tls(insecure=True))
    sink.put(batch(request.SerializeToString(), 1, "logs"))
    sink.stop(5)
    assert service.requests == [request]


@contextmanager
def counting_relay(port: int) -> Iterator[tuple[int, list[int]]]:
    """A relay in front of `port`: its own port, and the sizes of what the client sent."""
    sizes: list[int] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, target: socket.socket, count: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if count:
                    sizes.append(len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                threading.Thread(target=copy, args=(client, server, True), daemon=True).start()
                threading.Thread(target=copy, args=(server, client, False), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1], sizes
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize(("compression", "least", "most"), [("none", 100_000, 110_000), ("gzip", 200, 10_000)])
def test_compression_is_on_the_wire(service: Service, compression: str, least: int, most: int) -> None:
    big = request_of("x" * 100_000)
    with counting_relay(service.port) as (port, sizes):
        sink = sink_to(f"http://127.0.0.1:{port}", compression=compression)
        sink.put(batch(big.SerializeToString()))
        sink.stop(5)
    assert service.requests == [big] and sink.stats.sent_items == 1
    assert least < sum(sizes) < most


def test_a_message_that_the_server_finds_too_large() -> None:
    with serving(options=[("grpc.max_receive_message_length", 1000)]) as service:
        sink = sink_to(f"http://127.0.0.1:{service.port}")
        sink.put(batch(request_of("x" * 2000).SerializeToString(), 2))
        sink.stop(5)
        assert sink.stats.dropped == {"too_large": 2} and sink.stats.retries == 0


@pytest.mark.parametrize("code", ["UNAVAILABLE", "ABORTED", "CANCELLED", "DATA_LOSS", "OUT_OF_RANGE"])
def test_retryable_codes(service: Service, code: str) -> None:
    service.script = [fail(grpc.StatusCode[code])]
    sink = sink_to(f"http://127.0.0.1:{service.port}")
    sink.put(spans(3))
    until(lambda: sink.stats.sent_items == 3)
    assert sink.stats.retries == 1 and code in sink.stats.last_error
    sink.stop(5)


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "UNAUTHENTICATED", "UNIMPLEMENTED", "INTERNAL", "UNKNOWN"])
def test_other_codes_are_not_retried(service: Service, code: str) -> None:
    service.script = [fail(grpc.StatusCode[code], "because s3cret")]
    sink = sink_to(f"http://127.0.0.1:{service.port}", headers={"k": Secret("s3cret")})
    sink.put(spans(3))
    sink.stop(5)
    assert sink.stats.dropped == {"rejected": 3} and sink.stats.retries == 0
    assert f"gRPC {code}: because ***" in sink.stats.last_error


def test_resource_exhausted_is_retried_only_with_retry_info(service: Service) -> None:
    info = AnyMessage()
    info.Pack(RetryInfo(retry_delay=Duration(nanos=200_000_000)))
    details = Status(code=8, message="slow", details=[info]).SerializeToString()
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    service.script = [fail(code, "slow", details)]
    sink = sink_to(f"http://127.0.0.1:{service.port}")
    began = time.monotonic()
    sink.put(spans(2))
    until(lambda: sink.stats.sent_items == 2)
    assert time.monotonic() - began >= 0.2 and sink.stats.retries == 1
    service.script = [fail(code, "quota used up")]
    sink.put(spans(3))
    sink.stop(5)
    assert sink.stats.dropped == {"rejected": 3}


def test_partial_success_is_counted(service: Service) -> None:
    def step(context: Any) -> Any:
        response = trace_service_pb2.ExportTraceServiceResponse()
        response.partial_success.rejected_spans = 4
        response.partial_success.error_message = "four bad"
        return response

    service.script = [step]
    sink = sink_to(f"http://127.0.0.1:{service.port}")
    sink.put(spans(10))
    sink.stop(5)
    assert sink.stats.sent_items == 6 and sink.stats.dropped == {"rejected": 4}
    assert "four bad" in sink.stats.last_error


def test_nobody_there_is_retried_and_stop_is_quick() -> None:
    sink = sink_to("http://127.0.0.1:1")
    sink.put(spans(2))
    until(lambda: sink.stats.retries >= 2)
    assert "UNAVAILABLE" in sink.stats.last_error
    began = time.monotonic()
    sink.stop(20)
    assert time.monotonic() - began < 5
    assert sink.stats.dropped == {"shutdown": 2} and balanced(sink.stats)


def test_stop_breaks_off_a_call_and_a_slow_call_times_out(service: Service) -> None:
    go = threading.Event()

    def slow(context: Any) -> Any:
        go.wait(20)
        return trace_service_pb2.ExportTraceServiceResponse()

    service.script = [slow]
    sink = sink_to(f"http://127.0.0.1:{service.port}", timeout_s=60)
    sink.put(spans(2))
    until(lambda: service.requests)
    began = time.monotonic()
    sink.stop(0.2)
    assert time.monotonic() - began < 3 and sink.stats.dropped == {"shutdown": 2}
    service.script = [slow]
    sink = sink_to(f"http://127.0.0.1:{service.port}", timeout_s=0.2, retry=RetryPolicy(max_elapsed_s=0))
    sink.put(spans(3))
    until(lambda: sink.stats.dropped == {"retries_exhausted": 3})
    assert "DEADLINE_EXCEEDED" in sink.stats.last_error
    go.set()
    sink.stop(1)


def test_tls_and_mutual_tls(certificates: Certificates) -> None:
    pem = {name: Path(getattr(certificates, name)).read_bytes() for name in ("server_key", "server_cert", "ca")}
    pair = [(pem["server_key"], pem["server_cert"])]
    mutual = grpc.ssl_server_credentials(pair, pem["ca"], require_client_auth=True)
    once = RetryPolicy(max_elapsed_s=0)
    with serving(mutual) as service:
        endpoint = f"https://localhost:{service.port}"
        bare = sink_to(endpoint, retry=once, tls=Tls(ca=certificates.ca))
        bare.put(spans(1))
        until(lambda: bare.stats.dropped == {"retries_exhausted": 1}, 20)
        assert not service.requests
        bare.stop(1)
        tls = Tls(ca=certificates.ca, cert=certificates.client_cert, key=certificates.client_key)
        sink = sink_to(f"localhost:{service.port}", tls=tls)  # no scheme: TLS
        sink.put(spans(1))
        sink.stop(10)
        assert sink.stats.sent_items == 1 and len(service.requests) == 1
    with serving(grpc.ssl_server_credentials(pair)) as service:
        wrong = sink_to(f"https://localhost:{service.port}", retry=once, tls=Tls(ca=certificates.other_ca))
        wrong.put(spans(1))
        until(lambda: wrong.stats.dropped == {"retries_exhausted": 1}, 20)
        assert not service.requests
        wrong.stop(1)
