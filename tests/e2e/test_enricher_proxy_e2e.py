"""The OTLP proxy before a real Collector: what Tempo and Loki then know of a program that knows nothing of its pod."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import pytest
from backends.query import poll, request
from backends.stack import Stack
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from proxy_kit import CONTAINER, proxy


def points(stack: Stack) -> float:
    """Data points that the Collector has taken."""
    lines = request(stack.collector_metrics_url).decode().splitlines()
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith("otelcol_receiver_accepted_metric_points"))


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_through_the_collector(stack: Stack, protocol: str) -> None:
    name = f"proxied-{secrets.token_hex(4)}"
    resource = Resource({"service.name": name, "container.id": CONTAINER})
    endpoint = f"http://{stack.collector_otlp_grpc}" if protocol == "grpc" else stack.collector_otlp_http
    before = points(stack)
    with proxy(endpoint, protocol=protocol, compression="gzip") as made:
        if protocol == "grpc":
            at = f"http://127.0.0.1:{made.grpc_port}"
            exporters = GrpcSpans(at, insecure=True), GrpcMetrics(at, insecure=True), GrpcLogs(at, insecure=True)
        else:
            base = f"http://127.0.0.1:{made.http_port}/v1/"
            exporters = HttpSpans(base + "traces"), HttpMetrics(base + "metrics"), HttpLogs(base + "logs")  # type: ignore[assignment]
        tracer = TracerProvider(resource=resource)
        tracer.add_span_processor(BatchSpanProcessor(exporters[0]))
        meter = MeterProvider([PeriodicExportingMetricReader(exporters[1], 1e9)], resource)
        logger = LoggerProvider(resource)
        logger.add_log_record_processor(BatchLogRecordProcessor(exporters[2]))
        with tracer.get_tracer("t").start_as_current_span("work") as span:
            logger.get_logger("l").emit(LogRecord(body="at work", severity_text="INFO"))
        meter.get_meter("m").create_counter("done").add(1)
        for provider in (tracer, meter, logger):
            provider.shutdown()
        stats = made.stats().signals
        assert {signal: one.forwarded_items for signal, one in stats.items()} == dict.fromkeys(stats, 1)

    trace_id = format(span.get_span_context().trace_id, "032x")
    (found,) = stack.spans(trace_id)
    assert found.resource["service.name"] == name
    expected = {"k8s.pod.name": "cart-1", "k8s.namespace.name": "shop", "cloud.region": "eu-central-1"}
    assert {k: found.resource.get(k) for k in expected} == expected
    query = f'{{ resource.service.name = "{name}" && resource.k8s.namespace.name = "shop" }}'
    assert [t["traceID"] for t in stack.traceql(query)] == [trace_id]

    (line,) = stack.logql(f'{{service_name="{name}"}}')
    assert line.line == "at work" and {**line.labels, **line.metadata}["k8s_pod_name"] == "cart-1"
    poll(lambda: points(stack), lambda now: now >= before + 1, what="the Collector's accepted data points")
