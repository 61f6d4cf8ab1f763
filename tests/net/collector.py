"""A collector on loopback that keeps what SDKs report, in one form: OTLP/HTTP or segments of SkyWalking."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SERVER, CLIENT = 2, 3


@dataclass(frozen=True)
class SdkSpan:
    """Ids in lower-case hexadecimal; parent_id "": a root."""

    path: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str


def hash64(text: bytes, seed: int = 0) -> int:
    """FNV-1a 64, then MurmurHash3's finaliser: as exporter/proto/wire.pyx documents it."""
    h = 0xCBF29CE484222325 ^ seed
    for byte in text:
        h = (h ^ byte) * 0x100000001B3 & (1 << 64) - 1
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        h = (h ^ h >> 33) * factor & (1 << 64) - 1
    return h ^ h >> 33


def skywalking_trace(text: str) -> str:
    """The 16 bytes that a SkyWalking trace id stands for."""
    plain = text.replace("-", "")
    if len(text) in (32, 36) and len(plain) == 32:
        return plain.lower()
    return f"{hash64(text.encode()):016x}{hash64(text.encode(), 0x9E3779B97F4A7C15):016x}"


def skywalking_span(segment: str, span: int) -> str:
    return f"{hash64(f'{segment}:{span}'.encode()):016x}"


class Collector:
    """`with Collector() as c:`; c.port, c.spans."""

    def __init__(self) -> None:
        self.spans: list[SdkSpan] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/v1/traces":
                    outer.spans += otlp(body)
                elif self.path == "/v3/segment":
                    outer.spans += segment(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port: int = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def __enter__(self) -> Collector:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def of(self, path: str, kind: int) -> SdkSpan:
        (span,) = (s for s in self.spans if (s.path, s.kind) == (path, kind))
        return span


def otlp(body: bytes) -> list[SdkSpan]:
    out = []
    for rs in ExportTraceServiceRequest.FromString(body).resource_spans:
        for s in (s for ss in rs.scope_spans for s in ss.spans):
            attributes = {a.key: a.value.string_value for a in s.attributes}
            url = attributes.get("url.path") or attributes.get("http.url") or attributes.get("url.full") or ""
            path = "/" + url.rpartition("/")[2]
            out.append(SdkSpan(path, s.kind, s.trace_id.hex(), s.span_id.hex(), s.parent_span_id.hex()))
    return out


def segment(body: bytes) -> list[SdkSpan]:
    told = json.loads(body)
    out = []
    for s in told["spans"]:
        trace, own = skywalking_trace(told["traceId"]), told["traceSegmentId"]
        parent = skywalking_span(own, s["parentSpanId"]) if s["parentSpanId"] >= 0 else ""
        for ref in s["refs"]:
            parent = skywalking_span(ref["parentTraceSegmentId"], ref["parentSpanId"])
        kind = {"Entry": SERVER, "Exit": CLIENT}.get(s["spanType"], 1)
        out.append(SdkSpan(s["operationName"], kind, trace, skywalking_span(own, s["spanId"]), parent))
    return out


def sw8(trace: str, sample: int = 1) -> str:
    """A header as SkyWalking's agents write it."""

    def b64(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    return "-".join(
        [str(sample), b64(trace), b64("segment"), "3", *map(b64, ("svc", "instance", "/endpoint", "host:80"))]
    )
