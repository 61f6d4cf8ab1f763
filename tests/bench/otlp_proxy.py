"""What the OTLP proxy costs: CPU time of its process for each request and span, with a receiver and senders beside it.

    .venv/bin/python tests/bench/otlp_proxy.py [--requests 2000] [--spans 100,500] [--json FILE]

CPU time, not wall time: the machine may be shared. Each of proxy, receiver and sender is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import socket
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
CONCURRENT = 8


def body(spans: int) -> bytes:
    """A request as an SDK makes it: one resource, spans with ten attributes (about 470 bytes each)."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from otlp_cases import resource as fill
    from proxy_kit import CONTAINER

    message = ExportTraceServiceRequest()
    group = message.resource_spans.add()
    fill(group.resource, service_name="shop", telemetry_sdk_language="python", container_id=CONTAINER)
    scope = group.scope_spans.add()
    for i in range(spans):
        span = scope.spans.add(trace_id=b"t" * 16, span_id=b"s" * 8, parent_span_id=b"p" * 8, name=f"GET /{i}", kind=2)
        for k in range(10):
            span.attributes.add(key=f"http.request.header.{k}").value.string_value = "value" * 3
    return message.SerializeToString()


def receiver(protocol: str, pipe: Any) -> None:
    """Takes everything and does nothing with it."""

    async def over_grpc() -> None:
        import grpc
        import grpc.aio

        async def export(message: bytes, context: Any) -> bytes:
            return b""

        class Any_(grpc.GenericRpcHandler):  # type: ignore[misc]
            def service(self, details: Any) -> Any:
                return grpc.unary_unary_rpc_method_handler(export)

        server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        server.add_generic_rpc_handlers((Any_(),))
        pipe.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await asyncio.sleep(3600)

    async def over_http() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                at = head.lower().index(b"content-length:") + 15
                await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Type: application/x-protobuf\r\n\r\n")

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 22)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.sleep(3600)

    asyncio.run(over_grpc() if protocol == "grpc" else over_http())


def proxy(endpoint: str, protocol: str, compression: str, pipe: Any) -> None:
    """Runs until told; then says its CPU seconds between the two words, its memory (KiB) and its books."""
    from proxy_kit import known

    from zerospan.enricher.proxy.config import load
    from zerospan.enricher.proxy.proxy import Proxy
    from zerospan.enricher.security import Rights, Security

    values = {"endpoint": endpoint, "protocol": protocol, "compression": compression}
    config = load({**values, "listen_grpc": "127.0.0.1:0", "listen_http": "127.0.0.1:0"})
    made = Proxy(known(), config, Rights(Security()))
    made.start()
    pipe.send((made.grpc_port, made.http_port))
    pipe.recv()
    before = time.process_time()
    pipe.send(None)
    pipe.recv()
    used = time.process_time() - before
    stats = made.stats()
    pipe.send((used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, stats.signals["traces"].forwarded_items))
    made.stop()


def over_grpc(port: int, data: bytes, requests: int) -> None:
    """Some calls at once on one channel, as Collectors do."""

    async def run() -> None:
        import grpc.aio

        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(METHOD)
            left = iter(range(requests))

            async def one() -> None:
                for _ in left:
                    await call(data)

            await asyncio.gather(*(one() for _ in range(CONCURRENT)))

    asyncio.run(run())


def over_http(port: int, data: bytes, requests: int) -> None:
    """Some keep-alive connections."""
    head = (
        b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n"
        % len(data)
    )
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONCURRENT)]
    for i in range(0, requests, CONCURRENT):
        for s in connections[: requests - i]:
            s.sendall(head + data)
        for s in connections[: requests - i]:
            answer = s.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 "), answer


def whole(spans: int, requests: int, sender: str, onward: str, compression: str) -> dict[str, Any]:
    """One line of the table."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    sink = context.Process(target=receiver, args=(onward, there), daemon=True)
    sink.start()
    endpoint = f"http://127.0.0.1:{here.recv()}"
    here, there = context.Pipe()
    middle = context.Process(target=proxy, args=(endpoint, onward, compression, there), daemon=True)
    middle.start()
    ports = here.recv()
    data = body(spans)
    send = over_grpc if sender == "grpc" else over_http
    send(ports[sender != "grpc"], data, 50)  # warm
    here.send(None)
    here.recv()
    send(ports[sender != "grpc"], data, requests)
    here.send(None)
    used, rss, items = here.recv()
    middle.join()
    sink.terminate()
    assert items == spans * (requests + 50), "something was lost"
    return {
        "in": sender, "out": onward, "compression": compression, "spans": spans, "bytes": len(data),
        "us_request": round(used / requests * 1e6), "spans_s_core": round(spans * requests / used),
        "rss_mib": rss >> 10,
    }  # fmt: skip


def rewriting(spans: int) -> dict[str, Any]:
    """The rewriting alone, its cache included."""
    from proxy_kit import known

    from zerospan.enricher.proxy.config import load
    from zerospan.enricher.proxy.resources import Protobuf, Resources
    from zerospan.enricher.proxy.rewrite import rewrite

    resources, codec, data = Resources(known(), load({"endpoint": "http://x"}).associate), Protobuf(), body(spans)
    rounds = 3000
    before = time.process_time()
    for _ in range(rounds):
        rewrite(data, "traces", lambda found: resources.replace(found, b"", codec))
    used = time.process_time() - before
    return {
        "rewrite": True,
        "spans": spans,
        "us_request": round(used / rounds * 1e6, 1),
        "spans_s_core": round(spans * rounds / used),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU cost of the OTLP proxy.")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--spans", default="100,500")
    parser.add_argument("--json", metavar="FILE", help="write the lines as one list")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []

    def tell(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)
        found.append(line)

    for spans in map(int, options.spans.split(",")):
        tell(rewriting(spans))
        for sender in ("grpc", "http"):
            for onward, compression in (("grpc", "none"), ("http/protobuf", "none"), ("http/protobuf", "gzip")):
                tell(whole(spans, options.requests, sender, onward, compression))
    if options.json:
        Path(options.json).write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
