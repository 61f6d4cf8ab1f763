"""For the tests of the OTLP proxy: a store that knows some pods, real receivers, a proxy between."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from zerospan.enricher import keys
from zerospan.enricher.proxy.config import load
from zerospan.enricher.proxy.proxy import Proxy
from zerospan.enricher.security import Rights, Security
from zerospan.enricher.source import Layer
from zerospan.enricher.store import TagStore

UID = "3ff9a5c2-1111-4222-8333-444455556666"
CONTAINER = "5d" * 32
POD = {"k8s.pod.name": "cart-1", "k8s.pod.uid": UID, "k8s.namespace.name": "shop", "k8s.node.name": "n1"}
APP = {
    **POD,
    "k8s.container.name": "app",
    "container.id": CONTAINER,
    "service.name": "cart",
    "service.version": "1.4.2",
}
NODE = {"k8s.node.name": "n1", "cloud.region": "eu-central-1"}
PEER = {"k8s.pod.name": "sender", "k8s.pod.uid": "other"}
Step = Callable[[Any], Any]


def known() -> TagStore:
    """One pod at 10.1.2.3 with one container, on node n1; another pod at 192.0.2.9."""
    store = TagStore()
    node = store.make(NODE)
    pod = store.make(POD, node)
    app = store.make({k: v for k, v in APP.items() if k not in POD}, pod)
    for key, tags in (
        (keys.node("n1"), node),
        (keys.pod(UID), pod),
        (keys.address("10.1.2.3"), pod),
        (keys.container(CONTAINER), app),
        (keys.address("192.0.2.9"), store.make(PEER)),
    ):
        store.put(key, tags, layer=Layer.KUBERNETES, since_ns=1)
    return store


class GrpcReceiver(
    trace_service_pb2_grpc.TraceServiceServicer,
    logs_service_pb2_grpc.LogsServiceServicer,
    metrics_service_pb2_grpc.MetricsServiceServicer,
):
    """A real OTLP/gRPC server that keeps the requests; `script` gives the next answers, made from the context."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.script: list[Step] = []
        self.gate = threading.Event()  # cleared: answers wait
        self.gate.set()
        self.port = 0

    def Export(self, request: Any, context: Any) -> Any:
        self.metadata.append(dict(context.invocation_metadata()))
        self.gate.wait(20)
        if self.script:
            answer = self.script.pop(0)(context)
            self.requests.append(request)
            return answer
        self.requests.append(request)
        if isinstance(request, logs_service_pb2.ExportLogsServiceRequest):
            return logs_service_pb2.ExportLogsServiceResponse()
        if isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest):
            return metrics_service_pb2.ExportMetricsServiceResponse()
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def grpc_receiver(credentials: Any = None) -> Iterator[GrpcReceiver]:
    service = GrpcReceiver()
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(service, server)
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(service, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(service, server)
    at = "localhost:0"
    service.port = server.add_secure_port(at, credentials) if credentials else server.add_insecure_port(at)
    server.start()
    try:
        yield service
    finally:
        service.gate.set()
        server.stop(0).wait()


@contextmanager
def proxy(endpoint: str, store: TagStore | None = None, rights: Rights | None = None, **keys: Any) -> Iterator[Proxy]:
    """A running proxy on free ports. Its books must balance whenever it stops, and nothing may be in flight."""
    values = {"endpoint": endpoint, "listen_grpc": "127.0.0.1:0", "listen_http": "127.0.0.1:0", **keys}
    made = Proxy(store or known(), load(values), rights or Rights(Security()))
    made.start()
    try:
        yield made
    finally:
        made.stop(1)
        stats = made.stats()
        for signal, one in stats.signals.items():
            assert one.balanced() and one.in_flight == 0 and one.in_flight_items == 0, (signal, one)
        assert stats.held_bytes == 0, stats


class Stub:
    """Raw bytes to the proxy over gRPC."""

    METHODS = {
        "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }

    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.max_send_message_length", -1)])

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def future(self, body: bytes, signal: str = "traces", timeout: float = 20, **more: Any) -> Any:
        return self.channel.unary_unary(self.METHODS[signal]).future(body, timeout=timeout, **more)

    def send(self, body: bytes, signal: str = "traces", timeout: float = 20, **more: Any) -> bytes:
        return bytes(self.future(body, signal, timeout, **more).result())


def post(
    port: int, body: bytes, path: str = "/v1/traces", kind: str = "application/x-protobuf", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, body, {"Content-Type": kind, **named})
        response = connection.getresponse()
        return response.status, response.read(), {k.lower(): v for k, v in response.getheaders()}
    finally:
        connection.close()


def tags_of(group: Any) -> dict[str, str]:
    """The string attributes of a group's resource."""
    return {a.key: a.value.string_value for a in group.resource.attributes}
