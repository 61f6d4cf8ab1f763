"""Recordings for tests, put together without a kernel: requests through a proxy, and the loop's steps."""

from __future__ import annotations

import json
import struct
from typing import Any

import msgspec
from engine_wire import Kernel, Process, Wire
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from zerospan.exporter.abi.events import ABI_VERSION
from zerospan.exporter.process import ProcessInfo
from zerospan.exporter.source import recording

MS, S = 1_000_000, 1_000_000_000
START, WALL = 5_000 * S, 1_763_000_000 * S
CURL, SHOP, PRICES = Process(101, "curl"), Process(102, "shop"), Process(103, "prices")
REQUEST = b"GET /orders/7?token=secret HTTP/1.1\r\nHost: shop.local\r\n\r\n"
INNER = b"GET /prices/7 HTTP/1.1\r\nHost: prices.local\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ERROR = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def info(process: Process, service: str = "") -> ProcessInfo:
    """As Describer would have it."""
    resource = Resource()
    attribute = resource.attributes.add()
    attribute.key, attribute.value.string_value = "service.name", service or process.service
    return ProcessInfo(
        tgid=process.tgid,
        service=service or process.service,
        resource=resource.SerializeToString(),
        labels=b'"service_name":"x"',
        series=b'job="x",instance="1"',
        target_info=b"",
        hidden=process.hidden,
    )


def conversation(requests: int = 1, answer: bytes = ANSWER) -> list[bytes]:
    """curl -> shop -> prices, `requests` times on the same connections, 10 ms apart. The kernel's records."""
    kernel = Kernel()
    outer = Wire(kernel, (CURL, 11), (SHOP, 12))
    inner = Wire(kernel, (SHOP, 12), (PRICES, 13))
    for i in range(requests):
        t = START + 10 * MS * (i + 1)
        outer.pass_on("client", REQUEST, t)
        inner.pass_on("client", INNER, t + MS)
        inner.pass_on("server", answer, t + 2 * MS)
        outer.pass_on("server", answer, t + 3 * MS)
    outer.close(t + 4 * MS)
    inner.close(t + 4 * MS)
    return [record.data for record in kernel.records]


def frame(kind: int, body: bytes) -> bytes:
    """One frame, padded."""
    return recording.FRAME.pack(len(body), kind) + body + bytes(recording.pad(len(body)))


def head(*, magic: bytes = recording.MAGIC, version: int = recording.FORMAT, abi: int = ABI_VERSION) -> bytes:
    text = json.dumps({"agent_pid": 1, "host": "test"}).encode()
    text += b" " * recording.pad(recording.HEAD.size + len(text))
    return recording.HEAD.pack(magic, version, abi, len(text), 0) + text


def tick(now: int) -> bytes:
    return frame(recording.TICK, recording.TWO.pack(now, WALL))


def process(known: Process, service: str = "") -> bytes:
    body: tuple[Any, ...] = (known.tgid, known.comm, info(known, service))
    return frame(recording.PROCESS, msgspec.msgpack.encode(body))


def end(now: int, kernel: dict[str, int] | None = None) -> bytes:
    """FINISH and END."""
    return frame(recording.FINISH, recording.TWO.pack(now, WALL)) + frame(
        recording.END, json.dumps({"kernel": kernel or {}}).encode()
    )


def whole(requests: int = 1, answer: bytes = ANSWER, kernel: dict[str, int] | None = None) -> bytes:
    """A recording as a run of the agent writes it: the records come in ticks of 8 ms."""
    parts = [head(), process(CURL), process(SHOP), process(PRICES)]
    records = conversation(requests, answer)
    now = START
    for record in records:
        at = struct.unpack_from("<Q", record, 8)[0]
        while now <= at:
            now += 8 * MS
            parts.append(tick(now))
        parts.append(frame(recording.RECORD, record))
    parts.append(frame(recording.SETTLE, recording.ONE.pack(now)))
    return b"".join(parts) + end(now + S, kernel)
