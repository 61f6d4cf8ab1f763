"""Spans for the tests of the encoders, and a second, plain model of what they must look like.

The model is written from the conventions and shares nothing with the encoders: names are spelled out, texts
are cleaned by Python's own codec.
"""

from __future__ import annotations

import ipaddress
import random
import socket
import struct
from typing import Any

HTTP, REDIS, POSTGRESQL, DNS, FASTCGI = 1, 2, 3, 4, 5
SERVER, CLIENT = 2, 3
UNSET, OK, ERROR = 0, 1, 2
TCP, UDP = 6, 17
REASONS = ["", "timeout", "connection_reset", "connection_closed", "tcp_timeout", ""]
LINKS = [
    "none",
    "tcp_isn",
    "dns_id",
    "traceparent",
    "b3",
    "sw8",
    "uber-trace-id",
    "x-request-id",
    "thread",
    "nginx",
]
CONFIDENCE = [0.0, 1.0, 0.99, 1.0, 1.0, 1.0, 1.0, 0.95, 0.99, 0.99]
METHODS = {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
LIMIT = 2048  # bytes of an attribute's value

Span = dict[str, Any]

SERVER_SPAN: Span = {
    "proto": HTTP,
    "kind": SERVER,
    "status": UNSET,
    "key": 0x0123456789ABCDEF,
    "start_ns": 10**9,
    "first_ns": 10**9 + 7_000_000,
    "end_ns": 10**9 + 12_345_678,
    "tid": 77,
    "code": 200,
    "request_size": 0,
    "response_size": 1234,
    "local_port": 5000,
    "remote_port": 40000,
    "transport": TCP,
    "version": 11,
    "local_addr": "10.0.0.1",
    "remote_addr": "10.0.0.2",
    "trace_id": bytes(range(1, 17)),
    "span_id": 0xA1B2,
    "parent_id": 0xC3D4,
    "wall_offset": 1_763_000_000 * 10**9,
    "method": 1,
    "trace_flags": 1,
    "operation": "GET",
    "target": "/orders/77",
    "query": "full=?",
    "domain": "shop.local:8080",
    "agent": "curl/8.5",
    "route": "/orders/{id}",
    "request_id": "r-1",
}
CLIENT_SPAN: Span = SERVER_SPAN | {"kind": CLIENT, "method": 8, "status": ERROR, "code": 404, "domain": ""}
SQL_SPAN: Span = {
    "proto": POSTGRESQL,
    "kind": CLIENT,
    "status": ERROR,
    "start_ns": 5,
    "end_ns": 1_200_005,
    "local_port": 40001,
    "remote_port": 5432,
    "transport": TCP,
    "local_addr": "::1",
    "remote_addr": "::1",
    "trace_id": bytes(15) + b"\1",
    "span_id": 9,
    "operation": "SELECT",
    "target": "SELECT * FROM orders WHERE id = ?",
    "domain": "shopdb",
    "collection": "orders",
    "status_text": "42P01",
    "rows": 0,
}
REDIS_SPAN: Span = SQL_SPAN | {
    "proto": REDIS,
    "status": UNSET,
    "version": 3,
    "operation": "HGETALL",
    "target": "HGETALL ?",
    "collection": "",
    "domain": "0",
    "status_text": "",
    "rows": -1,
    "remote_addr": "::ffff:127.0.0.1",
}
DNS_SPAN: Span = {
    "proto": DNS,
    "kind": CLIENT,
    "status": ERROR,
    "code": 3,
    "start_ns": 1,
    "end_ns": 345_001,
    "transport": UDP,
    "rows": 0,
    "remote_addr": "127.0.0.53",
    "local_addr": "127.0.0.1",
    "local_port": 3333,
    "remote_port": 53,
    "operation": "AAAA",
    "target": "pricing.shop.local",
    "status_text": "NXDOMAIN",
    "trace_id": bytes(range(16)),
    "span_id": 1,
}
TIMEOUT_SPAN: Span = CLIENT_SPAN | {
    "code": -1,
    "first_ns": 0,
    "reason": 1,
    "truncated": 1,
    "end_ns": 6 * 10**9,
}
FASTCGI_SPAN: Span = CLIENT_SPAN | {"proto": FASTCGI, "version": 0}
CASES = [SERVER_SPAN, CLIENT_SPAN, SQL_SPAN, REDIS_SPAN, DNS_SPAN, TIMEOUT_SPAN, FASTCGI_SPAN]


def clean(text: str | bytes, limit: int = LIMIT) -> str:
    """Valid UTF-8 of at most `limit` bytes, cut between characters."""
    data = text.encode() if isinstance(text, str) else text
    return data.decode("utf-8", "replace").encode()[:limit].decode("utf-8", "ignore")


def address(text: str) -> str:
    found = ipaddress.ip_address(text)
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or found.compressed)
    return str(found)


def error_type(span: Span) -> str:
    if span.get("status", 0) != ERROR:
        return ""
    if span["proto"] in (HTTP, FASTCGI) and span.get("code", -1) >= 400:
        return str(span["code"])
    return clean(span.get("status_text", "")) or REASONS[span.get("reason", 0)] or "_OTHER"


def server(span: Span) -> tuple[str, int]:
    """The Host header's, else those of the socket."""
    side = "remote" if span["kind"] == CLIENT else "local"
    host, port = "", span.get(f"{side}_port", 0)
    if span["proto"] == HTTP:
        host = clean(span.get("domain", ""))
        head, colon, tail = host.rpartition(":")
        digits = tail.isascii() and len(tail) <= 5 and (tail or "0").isdecimal()  # RFC 3986: a port may be empty
        if colon and digits and int(tail or 0) < 65536 and ":" not in head:
            host, port = head, int(tail or 0) or port
    if not host and f"{side}_addr" in span:
        host = address(span[f"{side}_addr"])
    return host, port


def attributes(span: Span, peer: str = "") -> dict[str, Any]:
    """What a span must carry, by the mapping table of this project."""
    get, client = span.get, span["kind"] == CLIENT
    texts: dict[str, str | bytes] = {}
    numbers: dict[str, int] = {}
    protocols = ["", "http", "redis", "postgresql", "dns", "fastcgi"]
    out: dict[str, Any] = {"network.protocol.name": protocols[span["proto"]]}
    operation = get("operation", "")
    if span["proto"] in (HTTP, FASTCGI):
        method = clean(operation)
        known = method in METHODS
        out |= {"http.request.method": method if known else "_OTHER", "url.scheme": "http"}
        texts |= {
            "url.path": get("target", ""),
            "url.query": get("query", ""),
            "user_agent.original": get("agent", ""),
        }
        texts["url.template" if client else "http.route"] = get("route", "")
        if not known:
            texts["http.request.method_original"] = operation
        if get("code", -1) > 0:
            numbers["http.response.status_code"] = span["code"]
        if get("request_size", -1) >= 0:
            numbers["http.request.body.size"] = span["request_size"]
        if get("response_size", -1) >= 0:
            numbers["http.response.body.size"] = span["response_size"]
        if get("request_id"):
            out["http.request.header.x-request-id"] = [clean(span["request_id"])]
        version = {10: "1.0", 11: "1.1"}.get(get("version", 0))
    elif span["proto"] == DNS:
        texts |= {"dns.question.name": get("target", ""), "zerospan.dns.question.type": operation}
        texts["zerospan.dns.response_code"] = get("status_text", "") or ("NOERROR" if get("code", -1) == 0 else "")
        if get("rows", -1) >= 0:
            numbers["zerospan.dns.answers"] = span["rows"]
        version = None
    else:
        out |= {"db.system.name": out["network.protocol.name"], "db.system": out["network.protocol.name"]}
        texts |= {
            "db.operation.name": operation,
            "db.namespace": get("domain", ""),
            "db.query.text": get("target", ""),
        }
        texts |= {
            "db.collection.name": get("collection", ""),
            "db.response.status_code": get("status_text", ""),
        }
        if get("rows", -1) >= 0:
            numbers["db.response.returned_rows"] = span["rows"]
        version = {2: "2", 3: "3"}.get(get("version", 0)) if span["proto"] == REDIS else None
    if version:
        out["network.protocol.version"] = version
    if get("transport"):
        out["network.transport"] = {TCP: "tcp", UDP: "udp"}[span["transport"]]
    if "remote_addr" in span:
        out |= {
            "network.peer.address": address(span["remote_addr"]),
            "network.peer.port": get("remote_port", 0),
        }
        end, port = address(span["remote_addr"]), get("remote_port", 0)
        if "peer" in span:
            end, port = real_peer(span["peer"])
            out |= {"zerospan.peer.address": end, "zerospan.peer.port": port}
        if not client:
            out |= {"client.address": end, "client.port": port}
    host, port = server(span)
    if host:
        out["server.address"] = host
        if port:
            out["server.port"] = port
    texts["service.peer.name"] = peer
    if client:
        texts["peer.service"] = peer
    texts["error.type"] = error_type(span)
    if get("tid"):
        numbers["thread.id"] = span["tid"]
    out["zerospan.point"] = "client.process" if client else "server.process"
    out["zerospan.request_key"] = f"{get('key', 0):016x}"
    out["zerospan.link.method"] = LINKS[get("method", 0)]
    out["zerospan.link.confidence"] = CONFIDENCE[get("method", 0)]
    if get("truncated"):
        out["zerospan.truncated"] = True
    if get("first_ns") and span["first_ns"] >= get("start_ns", 0):
        numbers["zerospan.time_to_first_byte"] = span["first_ns"] - get("start_ns", 0)
    return out | numbers | {name: clean(text) for name, text in texts.items() if text}


def real_peer(end: bytes) -> tuple[str, int]:
    """Address and port of a link.ends.EndAddress."""
    raw, port, family, _ = struct.unpack("=16sHBB", end)
    return address(str(ipaddress.ip_address(raw if family == socket.AF_INET6 else raw[:4]))), port


def random_text(r: random.Random) -> bytes:
    """What may come over a wire: nothing, ASCII, UTF-8, control characters, noise; too much of each."""
    long = r.random() < 0.1
    n = r.randrange(4000, 6000) if long else r.choice([0, 1, 7, 8, 9, 30])
    kind = r.randrange(5)
    if kind == 0:
        return bytes(r.randrange(32, 127) for _ in range(n))
    if kind == 1:
        return "".join(r.choice('aé€😀"\\\n\x00') for _ in range(n // 2)).encode()
    if kind == 2:
        return r.randbytes(n)
    if kind == 3:
        return b"".join(
            r.choice([b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"ok"]) for _ in range(n // 3)
        )
    return b"plain" * (n // 5)


def random_span(r: random.Random) -> Span:
    proto = r.choice([HTTP, REDIS, POSTGRESQL, DNS, FASTCGI])
    start = r.randrange(1, 10**12)
    status = r.choice([UNSET, OK, ERROR])
    span: Span = {
        "proto": proto,
        "kind": r.choice([SERVER, CLIENT]),
        "status": status,
        "reason": r.randrange(6) if status == ERROR else 0,
        "key": r.getrandbits(64),
        "start_ns": start,
        "end_ns": start + r.randrange(10**10),
        "first_ns": r.choice([0, start, start + 5]),
        "tid": r.choice([0, 1, 2**22]),
        "code": r.choice([-1, 0, 3, 200, 404, 503]),
        "rows": r.choice([-1, 0, 2**40]),
        "request_size": r.choice([-1, 0, 2**33]),
        "response_size": r.choice([-1, 5]),
        "local_port": r.randrange(65536),
        "remote_port": r.randrange(65536),
        "transport": r.choice([0, TCP, UDP]),
        "version": r.choice([0, 2, 3, 10, 11]),
        "truncated": r.randrange(2),
        "trace_id": r.randbytes(16),
        "span_id": r.getrandbits(64),
        "parent_id": r.choice([0, r.getrandbits(64)]),
        "wall_offset": 1_763_000_000 * 10**9,
        "method": r.randrange(10),
        "trace_flags": r.choice([0, 1, 255]),
        "operation": r.choice([b"GET", b"get", b"SELECT", random_text(r)]),
    }
    for name in (
        "target",
        "query",
        "domain",
        "collection",
        "status_text",
        "message",
        "agent",
        "route",
        "request_id",
    ):
        if r.random() < 0.6:
            span[name] = random_text(r)
    if r.random() < 0.9:
        v6 = r.random() < 0.5
        for side in ("local_addr", "remote_addr"):
            span[side] = str(
                ipaddress.IPv6Address(r.getrandbits(128)) if v6 else ipaddress.IPv4Address(r.getrandbits(32))
            )
        if r.random() < 0.3:
            family = r.choice([socket.AF_INET, socket.AF_INET6])
            span["peer"] = struct.pack("=16sHBB", r.randbytes(16), r.randrange(65536), family, 0)
    return span
