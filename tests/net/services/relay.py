"""A service that serves each request on a thread of its own, and asks the next one for the same path.

    relay.py NAME PORT NEXT SDK [COLLECTOR]

NEXT: the next service's port, 0: none. SDK: what is in the program: none; w3c, b3, b3multi (OpenTelemetry's SDK with
this propagator, and its instrumentation of `requests`; spans go as OTLP to the COLLECTOR's port); sw8 (SkyWalking's
agent, which instruments the server and `requests` itself). Headers are passed on only if SDK is `pass`. It listens at
RELAY_ADDRESS, and NEXT is at RELAY_NEXT (environment; both 127.0.0.1 if not given).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME, PORT, NEXT, SDK = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
COLLECTOR = f"127.0.0.1:{sys.argv[5]}" if len(sys.argv) > 5 else ""
ADDRESS, NEXT_HOST = (os.environ.get(name, "127.0.0.1") for name in ("RELAY_ADDRESS", "RELAY_NEXT"))
CONTEXTS = ("traceparent", "b3", "sw8", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled")

Serving = Callable[[Any, str], contextlib.AbstractContextManager[Any]]


def plain() -> tuple[Serving, Callable[[str, Any], bytes]]:
    def ask(path: str, headers: Any) -> bytes:
        connection = http.client.HTTPConnection(NEXT_HOST, NEXT, timeout=30)
        passed = {k: v for k, v in headers.items() if SDK == "pass" and k.lower() in CONTEXTS}
        connection.request("GET", path, headers=passed)
        answer = connection.getresponse().read()
        connection.close()
        return answer

    return lambda headers, path: contextlib.nullcontext(), ask


def by_requests() -> Callable[[str, Any], bytes]:
    import requests

    return lambda path, headers: requests.get(f"http://{NEXT_HOST}:{NEXT}{path}", timeout=30).content


def opentelemetry() -> tuple[Serving, Callable[[str, Any], bytes]]:
    from opentelemetry import propagate, trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.requests import RequestsInstrumentor
    from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    propagators = {"w3c": TraceContextTextMapPropagator, "b3": B3SingleFormat, "b3multi": B3MultiFormat}
    propagate.set_global_textmap(propagators[SDK]())
    provider = TracerProvider(resource=Resource({"service.name": NAME}))
    exporter = OTLPSpanExporter(endpoint=f"http://{COLLECTOR}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=200))
    trace.set_tracer_provider(provider)
    RequestsInstrumentor().instrument()
    tracer = trace.get_tracer("relay")

    @contextlib.contextmanager
    def serving(headers: Any, path: str) -> Iterator[None]:
        context = propagate.extract({k.lower(): v for k, v in headers.items()})
        with tracer.start_as_current_span("serve", context, kind=trace.SpanKind.SERVER, attributes={"url.path": path}):
            yield

    return serving, by_requests()


def skywalking() -> tuple[Serving, Callable[[str, Any], bytes]]:
    os.environ |= {"SW_AGENT_PROTOCOL": "http", "SW_AGENT_COLLECTOR_BACKEND_SERVICES": COLLECTOR,
                   "SW_AGENT_NAME": NAME, "SW_AGENT_INSTANCE_NAME": NAME,
                   "SW_AGENT_PROFILE_ACTIVE": "False", "SW_AGENT_METER_REPORTER_ACTIVE": "False",
                   "SW_AGENT_LOG_REPORTER_ACTIVE": "False"}  # fmt: skip
    from skywalking import agent

    agent.start()
    return lambda headers, path: contextlib.nullcontext(), by_requests()


serving, ask = {"none": plain, "pass": plain, "sw8": skywalking}.get(SDK, opentelemetry)()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with serving(self.headers, self.path):
            body = ask(self.path, self.headers) if NEXT else b"end"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


Server((ADDRESS, PORT), Handler).serve_forever()
