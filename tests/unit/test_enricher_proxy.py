"""The OTLP proxy between real clients (SDK exporters, grpc, http.client) and real receivers."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from google.protobuf import json_format
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

sys.path.insert(0, str(Path(__file__).parent))
from otlp_cases import REQUESTS, changed, count, logs, metrics, traces
from proxy_kit import APP, CONTAINER, GrpcReceiver, Stub, grpc_receiver, post, proxy, tags_of
from sink_receivers import Answer, Certificates, Receiver, make_certificates, receiver, until

from zerospan.enricher.proxy.answers import PROTOBUF
from zerospan.enricher.proxy.metrics import families
from zerospan.enricher.proxy.proxy import Proxy
from zerospan.enricher.security import Rights, Security
from zerospan.exporter.config.secret import Secret

MINE = {"service_name": "mine", "container_id": CONTAINER}
BODY = traces(MINE).SerializeToString()
SPANS = 6


@pytest.fixture
def there() -> Iterator[GrpcReceiver]:
    with grpc_receiver() as made:
        yield made


@pytest.fixture
def site() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def export_all(protocol: str, made: Proxy) -> None:
    """A span, a metric and a log record by the SDK's exporters."""
    resource = Resource({"service.name": "mine", "container.id": CONTAINER})
    if protocol == "grpc":
        at: dict[str, Any] = {"endpoint": f"http://127.0.0.1:{made.grpc_port}", "insecure": True}
        spans, numbers, lines = GrpcSpans(**at), GrpcMetrics(**at), GrpcLogs(**at)
    else:
        base = f"http://127.0.0.1:{made.http_port}/v1/"
        zipped = Compression.Gzip
        spans = HttpSpans(base + "traces", compression=zipped)  # type: ignore[assignment]
        numbers = HttpMetrics(base + "metrics", compression=zipped)  # type: ignore[assignment]
        lines = HttpLogs(base + "logs")  # type: ignore[assignment]
    tracer = TracerProvider(resource=resource)
    tracer.add_span_processor(SimpleSpanProcessor(spans))
    with tracer.get_tracer("t").start_as_current_span("work", attributes={"a": 1}):
        pass
    meter = MeterProvider([PeriodicExportingMetricReader(numbers, 1e9)], resource)
    meter.get_meter("m").create_counter("done").add(3, {"k": "v"})
    logger = LoggerProvider(resource)
    logger.add_log_record_processor(SimpleLogRecordProcessor(lines))
    logger.get_logger("l").emit(LogRecord(body="hello", severity_text="WARN"))
    for provider in (tracer, meter, logger):
        provider.shutdown()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("onward", ["grpc", "http/protobuf", "http/protobuf+gzip"])
def test_sdks_through_the_proxy(protocol: str, onward: str, there: GrpcReceiver, site: Receiver) -> None:
    at = f"http://127.0.0.1:{there.port}" if onward == "grpc" else site.url
    way, _, packing = onward.partition("+")
    with proxy(at, protocol=way, compression=packing or "none", headers={"X-Key": "k"}) as made:
        export_all(protocol, made)
        stats = made.stats().signals
    if onward == "grpc":
        got = {type(r).DESCRIPTOR.name: r for r in there.requests}
        assert all(metadata["x-key"] == "k" for metadata in there.metadata)
    else:
        got = {}
        for r in site.requests:
            kind = REQUESTS[r.path.removeprefix("/v1/")]  # type: ignore[index]
            body = gzip.decompress(r.body) if packing else r.body
            got[kind.DESCRIPTOR.name] = kind.FromString(body)
            assert r.headers["x-key"] == "k" and r.headers["content-type"] == PROTOBUF
    assert set(got) == {kind.DESCRIPTOR.name for kind in REQUESTS.values()}
    for request in got.values():
        (group,) = getattr(request, request.DESCRIPTOR.fields_by_number[1].name)
        tags = tags_of(group)
        assert tags["service.name"] == "mine"
        assert {k: tags[k] for k in APP if k != "service.name"} == {k: v for k, v in APP.items() if k != "service.name"}
    spans = got["ExportTraceServiceRequest"].resource_spans[0].scope_spans[0].spans
    assert [s.name for s in spans] == ["work"]
    for signal in REQUESTS:
        assert (stats[signal].received, stats[signal].forwarded, stats[signal].forwarded_items) == (1, 1, 1), signal


@pytest.mark.parametrize("signal", REQUESTS)
def test_json(signal: Any, site: Receiver) -> None:
    message = {"traces": traces, "metrics": metrics, "logs": logs}[signal](MINE)
    site.script = [Answer(200, b'{"partialSuccess":{"errorMessage":"hm"}}', {"Content-Type": "application/json"})]
    with proxy(site.url + "/base/", protocol="http/protobuf") as made:
        body = json_format.MessageToJson(message).encode()
        status, said, headers = post(made.http_port, body, f"/v1/{signal}", "application/json; charset=utf-8")
    assert (status, msgspec.json.decode(said)) == (200, {"partialSuccess": {"errorMessage": "hm"}})
    assert headers["content-type"] == "application/json"
    (request,) = site.requests
    assert request.path == f"/base/v1/{signal}" and request.headers["content-type"] == "application/json"
    after = json_format.Parse(request.body, REQUESTS[signal]())
    more = {k: v for k, v in tags_of(after_group(after)).items() if k not in ("service.name", "container.id")}
    assert more["k8s.pod.name"] == "cart-1"
    assert after == changed(message, "", more)


def after_group(message: Any) -> Any:
    return getattr(message, message.DESCRIPTOR.fields_by_number[1].name)[0]


@pytest.mark.parametrize("signal", REQUESTS)
def test_json_goes_on_as_grpc(signal: Any, there: GrpcReceiver) -> None:
    message = {"traces": traces, "metrics": metrics, "logs": logs}[signal](MINE)
    body = json.dumps(hex_ids(json_format.MessageToDict(message))).encode()
    with proxy(f"http://127.0.0.1:{there.port}") as made:
        status, said, headers = post(made.http_port, body, f"/v1/{signal}", "application/json")
        assert (status, said, headers["content-type"]) == (200, b"{}", "application/json")
        assert made.stats().signals[signal].forwarded_items == count(message)
    (request,) = there.requests
    more = {k: v for k, v in tags_of(after_group(request)).items() if k not in ("service.name", "container.id")}
    assert more["k8s.pod.name"] == "cart-1"
    assert request == changed(message, "", more)


def hex_ids(value: Any) -> Any:
    """json_format writes ids in base64, OTLP in hex."""
    if isinstance(value, list):
        return [hex_ids(v) for v in value]
    if isinstance(value, dict):
        ids = ("traceId", "spanId", "parentSpanId")
        return {k: base64.b64decode(v).hex() if k in ids else hex_ids(v) for k, v in value.items()}
    return value


def test_partial_success_is_passed_on(there: GrpcReceiver, site: Receiver) -> None:
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 2
    answer.partial_success.error_message = "two are too old"
    there.script = [lambda context: answer]
    with proxy(f"http://127.0.0.1:{there.port}") as made, Stub(made.grpc_port) as stub:
        assert ExportTraceServiceResponse.FromString(stub.send(BODY)) == answer
        stats = made.stats().signals["traces"]
        assert (stats.forwarded, stats.forwarded_items, stats.refused_items) == (1, SPANS - 2, {"rejected": 2})
    as_json = b'{"partialSuccess":{"rejectedSpans":"3"}}'
    site.script = [Answer(200, as_json, {"Content-Type": "application/json"})]
    with proxy(site.url, protocol="http/protobuf") as made:
        status, said, _ = post(
            made.http_port, json_format.MessageToJson(traces(MINE)).encode(), kind="application/json"
        )
        assert (status, said) == (200, as_json)
        assert made.stats().signals["traces"].refused_items == {"rejected": 3}


def test_answers_come_in_the_senders_own_language(site: Receiver) -> None:
    """An endpoint may say yes in plain text, or answer protobuf in JSON: a sender that cannot read it sends again."""
    partial = ExportTraceServiceResponse()
    partial.partial_success.rejected_spans = 2
    partial.partial_success.error_message = "old"
    in_json = b'{"partialSuccess": {"rejectedSpans": "2", "errorMessage": "old"}}'
    as_json = json.dumps(hex_ids(json_format.MessageToDict(traces(MINE)))).encode()
    plain, told = {"Content-Type": "text/plain"}, {"Content-Type": "application/json"}
    protobuf = {"Content-Type": PROTOBUF}
    site.script = [Answer(200, b"OK", plain), Answer(200, in_json, told), Answer(200, b"[[", told), Answer(200, b"OK")]
    site.script += [Answer(202, b"OK", plain), Answer(200, partial.SerializeToString(), protobuf), Answer(204)]
    with proxy(site.url, protocol="http/protobuf") as made, Stub(made.grpc_port) as stub:
        assert [stub.send(BODY) for _ in range(4)] == [b"", partial.SerializeToString(), b"", b""]
        said = [post(made.http_port, as_json, kind="application/json") for _ in range(3)]
        assert [(status, headers["content-type"]) for status, _, headers in said] == [(200, "application/json")] * 3
        assert [json.loads(body) for _, body, _ in said] == [{}, json.loads(in_json), {}]
        assert made.stats().signals["traces"].refused_items == {"rejected": 4}


@pytest.mark.parametrize("onward", ["grpc", "http/protobuf"])
def test_malformed_requests_go_nowhere(onward: str, there: GrpcReceiver, site: Receiver) -> None:
    at = f"http://127.0.0.1:{there.port}" if onward == "grpc" else site.url
    with proxy(at, protocol=onward) as made, Stub(made.grpc_port) as stub:
        for body in (b"hello", BODY[:-1], BODY + b"\x0a"):
            with pytest.raises(grpc.RpcError) as error:
                stub.send(body)
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            status, said, _ = post(made.http_port, body)
            assert status == 400 and Status.FromString(said).code == 3
        assert post(made.http_port, b"[]", kind="application/json")[0] == 400
        assert post(made.http_port, b"\x1f\x8bxyz", Content_Encoding="gzip")[0] == 400
        assert post(made.http_port, gzip.compress(BODY)[:-4], Content_Encoding="gzip")[0] == 400
        assert made.stats().signals["traces"].refused["malformed"] >= 8
    assert not there.requests and not site.requests


def test_an_endpoint_that_is_away_for_a_while_gets_everything_once(there: GrpcReceiver, site: Receiver) -> None:
    """503, 429 with Retry-After, then UNAVAILABLE and RESOURCE_EXHAUSTED with RetryInfo: each accepted request once."""
    site.script = [Answer(503), Answer(429, headers={"Retry-After": "1"}), Answer(502), Answer(504)] * 5
    with proxy(site.url, protocol="http/protobuf", retry_max_s=15) as made, Stub(made.grpc_port) as stub:
        calls = [stub.future(traces({"n": f"{i}", **MINE}).SerializeToString()) for i in range(20)]
        assert [c.result() for c in calls] == [b""] * 20
        stats = made.stats().signals["traces"]
        assert stats.forwarded == 20 and stats.retries == 20 and not stats.refused
    seen = [r.body for r in site.requests]
    names = [tags_of(ExportTraceServiceRequest.FromString(body).resource_spans[0])["n"] for body in seen]
    assert len(names) == 40 and set(names) == {str(i) for i in range(20)}

    def busy(context: Any) -> Any:
        status = Status(code=8, message="slowly")
        status.details.add().Pack(RetryInfo())
        status.details[0].Pack(retry(0.2))
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "slowly")

    def away(context: Any) -> Any:
        context.abort(grpc.StatusCode.UNAVAILABLE, "away")

    there.script = [busy, away] * 5
    with proxy(f"http://127.0.0.1:{there.port}", retry_max_s=15) as made:
        for i in range(20):
            assert post(made.http_port, traces({"n": f"{i}", **MINE}).SerializeToString())[0] == 200
        assert made.stats().signals["traces"].retries == 10
    names = [tags_of(request.resource_spans[0])["n"] for request in there.requests]
    assert sorted(names) == sorted(str(i) for i in range(20)), "what was taken came once each"


def retry(seconds: float) -> RetryInfo:
    info = RetryInfo()
    info.retry_delay.FromNanoseconds(int(seconds * 1e9))
    return info


def test_an_endpoint_that_stays_away(site: Receiver) -> None:
    """The sender is asked to come again, in both languages; nothing is held meanwhile."""
    site.script = [Answer(503, headers={"Retry-After": "7"})]
    with proxy(site.url, protocol="http/protobuf", retry_max_s=0.5) as made, Stub(made.grpc_port) as stub:
        status, said, headers = post(made.http_port, BODY)
        assert (status, headers["retry-after"]) == (503, "7")
        assert Status.FromString(said).code == 14
        with pytest.raises(
            grpc.RpcError
        ) as error:  # the endpoint's wish holds for the next one, which is not even sent
            stub.send(BODY)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        details = Status.FromString(dict(error.value.trailing_metadata())["grpc-status-details-bin"])
        info = RetryInfo()
        assert details.details[0].Unpack(info) and 5 < info.retry_delay.ToMilliseconds() / 1000 <= 7
        assert made.stats().signals["traces"].refused == {"unavailable": 2}
        assert made.stats().failing and "503" in made.stats().last_error
    assert len(site.requests) == 1


def test_nobody_at_the_endpoint() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        for protocol in ("grpc", "http/protobuf"):
            with proxy(f"http://127.0.0.1:{nobody.getsockname()[1]}", protocol=protocol, retry_max_s=0.4) as made:
                assert post(made.http_port, BODY)[0] == 503
                assert made.stats().signals["traces"].retries >= 1


@pytest.mark.parametrize(
    ("status", "expected", "reason"), [(400, 400, "rejected"), (401, 400, "rejected"), (413, 413, "too_large")]
)
def test_what_the_endpoint_will_never_take(status: int, expected: int, reason: str, site: Receiver) -> None:
    site.script = [Answer(status, b"no, not with s3cret")]
    with proxy(site.url, protocol="http/protobuf", headers={"Authorization": "s3cret"}) as made:
        got, said, headers = post(made.http_port, BODY)
        assert got == expected and b"s3cret" not in said and "retry-after" not in headers
        assert made.stats().signals["traces"].refused == {reason: 1}
        assert made.stats().signals["traces"].refused_items == {reason: SPANS}


def test_a_dead_endpoint_bounds_memory_and_pushes_back(there: GrpcReceiver) -> None:
    """The endpoint takes requests and does not answer: what waits is bounded in bytes, the others are asked to wait."""
    there.gate.clear()
    body = traces(MINE, text="x" * 3000).SerializeToString()  # about 60 KB
    limit = 1 << 20
    with (
        proxy(f"http://127.0.0.1:{there.port}", queue_bytes=limit, max_request_bytes=limit, connections=4,
              retry_max_s=20, timeout_s=20) as made,
        Stub(made.grpc_port) as stub,
    ):  # fmt: skip
        calls = [stub.future(body) for _ in range(40)]
        until(lambda: sum(c.done() for c in calls) >= 40 - limit // len(body))
        threads = []
        codes: list[tuple[int, str | None]] = []

        def one() -> None:
            status, _, headers = post(made.http_port, body)
            codes.append((status, headers.get("retry-after")))

        for _ in range(8):
            threads.append(threading.Thread(target=one))
            threads[-1].start()
        until(lambda: len(codes) >= 8)
        assert set(codes) == {(429, "1")}
        stats = made.stats()
        assert limit - 2 * len(body) < stats.held_bytes <= limit
        assert stats.signals["traces"].in_flight == limit // (stats.held_bytes // stats.signals["traces"].in_flight)
        refused = [c for c in calls if c.done()]
        for call in refused:
            assert call.exception().code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            status = Status.FromString(dict(call.exception().trailing_metadata())["grpc-status-details-bin"])
            assert status.details[0].Is(RetryInfo.DESCRIPTOR)
        there.gate.set()
        taken = [c for c in calls if c not in refused]
        assert len([c.result() for c in taken]) == len(taken) >= 10
        until(lambda: made.stats().held_bytes == 0)
        stats = made.stats()
        assert stats.signals["traces"].forwarded == len(taken) == len(there.requests)
        assert stats.signals["traces"].refused == {"queue_full": 40 - len(taken) + 8}


def test_a_sender_that_goes_is_not_sent_for_again(there: GrpcReceiver) -> None:
    """Its attempt under way is not broken off; once it is known that it went, there is no other one."""
    there.gate.clear()
    there.script = [lambda context: context.abort(grpc.StatusCode.UNAVAILABLE, "away")] * 1000
    with proxy(f"http://127.0.0.1:{there.port}", retry_max_s=60) as made, Stub(made.grpc_port) as stub:
        call = stub.future(BODY)
        until(lambda: there.metadata)
        call.cancel()
        there.gate.set()
        until(lambda: made.stats().signals["traces"].in_flight == 0)
        assert made.stats().signals["traces"].refused == {"not_read": 1}
        assert not there.requests


def test_rights_are_asked_for_before_the_body_is_read(there: GrpcReceiver, certificates: Certificates) -> None:
    rights = Rights(Security(tokens=(Secret("t0ken"),)))
    with proxy(f"http://127.0.0.1:{there.port}", rights=rights) as made, Stub(made.grpc_port) as stub:
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.RpcError) as error:
                stub.send(BODY, metadata=metadata)
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert post(made.http_port, BODY)[0] == 401
        good = (("authorization", "Bearer t0ken"),)
        for metadata, code in (((), grpc.StatusCode.UNAUTHENTICATED), (good, grpc.StatusCode.UNIMPLEMENTED)):
            with pytest.raises(grpc.RpcError) as error:
                stub.channel.unary_unary("/a.B/C")(b"", metadata=metadata, timeout=10)
            assert error.value.code() == code, "who has no rights learns what is there"
        for headers, status in (({}, 401), ({"Authorization": "Bearer t0ken"}, 404)):
            answered, _, told = post(made.http_port, BODY, "/v1/spans", **headers)
            assert answered == status and ("www-authenticate" in told) == (status == 401)
        assert not there.requests
        with socket.create_connection(("127.0.0.1", made.http_port), 10) as s:  # the body never comes
            s.sendall(b"POST /v1/logs HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9000000\r\n\r\n")
            assert s.recv(100).startswith(b"HTTP/1.1 401 ")
        stub.send(BODY, metadata=(("authorization", "Bearer t0ken"),))
        assert post(made.http_port, BODY, Authorization="Bearer t0ken")[0] == 200
        stats = made.stats().signals
        assert stats["traces"].refused == {"unauthorized": 3} and stats["logs"].refused == {"unauthorized": 1}
        assert stats["traces"].received_items == 2 * SPANS
    assert all("authorization" not in metadata for metadata in there.metadata), "the sender's token has gone on"


def test_tls_on_all_sides(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # which requests prefers to what the SDK is told
        monkeypatch.delenv(name, raising=False)

    guard = Security(cert=certificates.server_cert, key=certificates.server_key, client_ca=certificates.ca)
    client = {
        "certificate_file": certificates.ca,
        "client_certificate_file": certificates.client_cert,
        "client_key_file": certificates.client_key,
    }
    ca, key, cert = (Path(p).read_bytes() for p in (certificates.ca, certificates.client_key, certificates.client_cert))
    onward = {"ca": certificates.ca, "cert": certificates.client_cert, "key": certificates.client_key}
    server = grpc.ssl_server_credentials(
        [(Path(certificates.server_key).read_bytes(), Path(certificates.server_cert).read_bytes())], ca, True
    )
    with (
        grpc_receiver(server) as there,
        proxy(f"https://localhost:{there.port}", rights=Rights(guard), tls=onward) as made,
    ):
        resource = Resource({"container.id": CONTAINER})
        for exporter in (
            GrpcSpans(f"https://localhost:{made.grpc_port}", credentials=grpc.ssl_channel_credentials(ca, key, cert)),
            HttpSpans(f"https://localhost:{made.http_port}/v1/traces", **client),
        ):
            provider = TracerProvider(resource=resource)
            provider.add_span_processor(SimpleSpanProcessor(exporter))
            provider.get_tracer("t").start_span("work").end()
            provider.shutdown()
        assert [tags_of(r.resource_spans[0])["k8s.pod.name"] for r in there.requests] == ["cart-1"] * 2
        with pytest.raises(OSError):  # plain text
            post(made.http_port, BODY)
        with Stub(made.grpc_port) as stub, pytest.raises(grpc.RpcError):
            stub.send(BODY, timeout=3)
        assert made.stats().signals["traces"].received == 2
    with receiver(certificates.server_context(client_needed=True)) as site:
        with proxy(site.url, protocol="http/protobuf", tls=onward) as made:
            assert post(made.http_port, BODY)[0] == 200
        with proxy(site.url, protocol="http/protobuf", retry_max_s=0, tls={"ca": certificates.other_ca}) as made:
            assert post(made.http_port, BODY)[0] == 503
            assert "certificate" in made.stats().last_error


def test_requests_that_are_too_large(there: GrpcReceiver) -> None:
    body = traces(MINE, text="x" * 3000).SerializeToString()
    with proxy(f"http://127.0.0.1:{there.port}", max_request_bytes=50_000) as made, Stub(made.grpc_port) as stub:
        assert len(body) > 50_000
        assert post(made.http_port, body)[0] == 413
        assert post(made.http_port, gzip.compress(body), Content_Encoding="gzip")[0] == 413  # a bomb is one of these
        with pytest.raises(grpc.RpcError) as error:
            stub.send(body)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as error:
            stub.send(body, compression=grpc.Compression.Gzip)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert post(made.http_port, BODY)[0] == 200
        assert made.stats().signals["traces"].refused == {"too_large": 2}


def test_tags_do_not_multiply_a_request_beyond_its_bounds(there: GrpcReceiver) -> None:
    """Many small resources with all their tags would be many times the request."""
    body = traces(*[{"host_name": "n1"}] * 5000, spans=0).SerializeToString()
    with proxy(f"http://127.0.0.1:{there.port}", max_request_bytes=1 << 20) as made, Stub(made.grpc_port) as stub:
        stub.send(body)
        crowded = made.stats().crowded
    (request,) = there.requests
    tagged = sum("cloud.region" in tags_of(group) for group in request.resource_spans)
    assert tagged + crowded == 5000 and request.ByteSize() <= 2 << 20


def test_requests_of_nothing_but_resources(there: GrpcReceiver) -> None:
    many = b"\x0a\x00" * (1 << 16)
    large = traces({"host_name": "n1", "x": "y" * (256 << 10)}).SerializeToString()
    with proxy(f"http://127.0.0.1:{there.port}") as made, Stub(made.grpc_port) as stub:
        stub.send(many)
        stub.send(large)
        with pytest.raises(grpc.RpcError) as error:
            stub.send(many + b"\x0a\x00")
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        as_json = b'{"resourceSpans": [' + b"{}," * (1 << 16) + b"{}]}"
        assert post(made.http_port, as_json, kind="application/json")[0] == 413
        assert made.stats().crowded == 1
        assert made.stats().signals["traces"].refused == {"too_large": 2}
    assert there.requests[1].SerializeToString() == large


def test_json_needs_room_for_its_tree(there: GrpcReceiver) -> None:
    """Meanwhile, where the endpoint takes no JSON; who finds none comes again."""
    body = traces(MINE, text="x" * 11_000).SerializeToString()
    as_json = json.dumps(hex_ids(json_format.MessageToDict(traces(MINE, text="x" * 1500)))).encode()
    with proxy(f"http://127.0.0.1:{there.port}", queue_bytes=1 << 20, max_request_bytes=1 << 19, retry_max_s=0) as made:
        there.gate.clear()
        with Stub(made.grpc_port) as stub:
            assert 20 * len(as_json) > 1 << 19 and len(body) * 3 < 1 << 20 < len(body) * 3 + (1 << 19) + len(as_json)
            waiting = [stub.future(body) for _ in range(3)]
            until(lambda: made.stats().held_bytes > 3 * len(body))
            assert post(made.http_port, as_json, kind="application/json")[0] == 429
            there.gate.set()
            for one in waiting:
                one.result()
        assert post(made.http_port, as_json, kind="application/json")[0] == 200
        assert made.stats().signals["traces"].refused == {"queue_full": 1}


def test_metrics_tell_the_books(there: GrpcReceiver) -> None:
    with proxy(f"http://127.0.0.1:{there.port}") as made, Stub(made.grpc_port) as stub:
        stub.send(BODY)
        stub.send(logs({"service_name": "x"}, {"host_name": "gone"}).SerializeToString(), "logs")
        post(made.http_port, b"hello")
        told = {name: samples for _, name, _, samples in families(made.stats())}
    for unit in ("requests", "items"):
        for signal in REQUESTS:
            sums = {
                what: sum(n for labels, n in told[f"proxy_{what}_{unit}"] if labels["signal"] == signal)
                for what in ("received", "forwarded", "refused", "in_flight")
            }
            assert sums["received"] == sums["forwarded"] + sums["refused"] + sums["in_flight"]
    assert ({"signal": "traces"}, 2) in told["proxy_received_requests"]
    assert ({"signal": "traces", "reason": "malformed"}, 1) in told["proxy_refused_requests"]
    assert ({"signal": "logs"}, 8) in told["proxy_forwarded_items"]
    outcomes = {labels["outcome"]: n for labels, n in told["proxy_resources"]}
    assert outcomes == {"enriched": 1, "known": 0, "unknown": 1, "contradicted": 0, "anonymous": 1, "crowded": 0}


def test_headers_that_go_on(there: GrpcReceiver, site: Receiver) -> None:
    options: dict[str, Any] = {"pass_headers": ["X-Scope-OrgID", "x-mine"], "headers": {"X-Mine": "ours"}}
    with proxy(f"http://127.0.0.1:{there.port}", **options) as made, Stub(made.grpc_port) as stub:
        stub.send(BODY, metadata=(("x-scope-orgid", "a"), ("x-mine", "theirs"), ("x-other", "b")))
        assert post(made.http_port, BODY, X_Scope_OrgID="c")[0] == 200
    assert [(m.get("x-scope-orgid"), m["x-mine"], m.get("x-other")) for m in there.metadata] == [
        ("a", "ours", None),
        ("c", "ours", None),
    ]


def test_the_connections_address(there: GrpcReceiver) -> None:
    """Loopback is everyone's: nothing is added; another address of this machine is known, and is added."""
    from proxy_kit import known

    from zerospan.enricher import keys
    from zerospan.enricher.source import Layer

    store = known()
    store.put(keys.address("127.0.0.1"), store.make({"wrong": "yes"}), layer=Layer.STATIC, since_ns=1)
    with proxy(f"http://127.0.0.1:{there.port}", store) as made, Stub(made.grpc_port) as stub:
        stub.send(traces({"a": "b"}).SerializeToString())
        assert post(made.http_port, traces({"a": "b"}).SerializeToString())[0] == 200
    assert [tags_of(r.resource_spans[0]) for r in there.requests] == [{"a": "b"}] * 2


def test_stopping_answers_everyone(there: GrpcReceiver) -> None:
    there.gate.clear()
    with proxy(f"http://127.0.0.1:{there.port}", retry_max_s=60, timeout_s=60) as made, Stub(made.grpc_port) as stub:
        calls = [stub.future(BODY) for _ in range(3)]
        answers: list[int] = []
        thread = threading.Thread(target=lambda: answers.append(post(made.http_port, BODY)[0]))
        thread.start()
        until(lambda: made.stats().signals["traces"].in_flight == 4)
        began = time.monotonic()
        made.stop(0.3)
        assert time.monotonic() - began < 4
        thread.join(5)
        assert answers == [503]
        assert {c.exception().code() for c in calls} == {grpc.StatusCode.UNAVAILABLE}
        assert made.stats().signals["traces"].refused == {"shutdown": 4}
    made.stop()


def test_an_address_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        for key in ("listen_grpc", "listen_http"):
            with pytest.raises(OSError), proxy("http://127.0.0.1:1", **{key: at}):
                pass


def test_a_tls_file_that_is_not_there() -> None:
    for protocol in ("grpc", "http/protobuf"):
        with (
            pytest.raises(OSError, match="nowhere"),
            proxy("https://x:1", protocol=protocol, tls={"ca": "/nowhere.pem"}),
        ):
            pass
