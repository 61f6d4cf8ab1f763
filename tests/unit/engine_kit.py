"""An engine fed with records from Python, and its spans read back by OpenTelemetry's own classes.

Ids are computed here a second time, in plain Python, from design.md's formulas (link/ids.pxd is the other). The
fixture `rig` ends every engine that a test made and checks what must hold for each: the ledger is balanced, every
reference to the registry was given back, nothing stays open, no two spans have one id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from engine_wire import Kernel, Process, Record
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from zerospan.exporter.engine import Engine
from zerospan.exporter.process import ProcessInfo
from zerospan.exporter.source.memory import Records

US, MS, S = 1_000, 1_000_000, 1_000_000_000
START = 5_000 * S  # CLOCK_MONOTONIC at the beginning of a test
WALL = 1_763_000_000 * S  # CLOCK_REALTIME - CLOCK_MONOTONIC
M64 = (1 << 64) - 1
SERVER, CLIENT = 2, 3

# ---- ids ----


def mix64(x: int) -> int:
    """MurmurHash3's 64-bit finalizer."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x ^= x >> 33
        x = x * factor & M64
    return x ^ x >> 33


def hash64(a: int, b: int) -> int:
    h = mix64((a + 0x9E3779B97F4A7C15) & M64) ^ mix64(b ^ 0x6A09E667F3BCC909)
    return mix64((h + (a << 1)) & M64) or 1


def request_key(isns: tuple[int, int], seq: int) -> int:
    return hash64(hash64(*isns), seq)


def client_id(key: int) -> str:
    return f"{hash64(key, 1):016x}"


def server_id(key: int) -> str:
    return f"{hash64(key, 6):016x}"


def trace_of(key: int) -> str:
    return f"{hash64(key, 0x7472616365206964):016x}{hash64(key, 0x7A65726F7370616E):016x}"


def hash_bytes(data: bytes, seed: int) -> int:
    """FNV-1a, mixed with the length."""
    h = 0xCBF29CE484222325 ^ seed
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & M64
    return hash64(h, len(data))


def dns_key(query_id: int, name: bytes, kind: bytes, client_port: int) -> int:
    return hash64(hash64(query_id, hash_bytes(name, len(kind)) & 0xFFFFFFFF), client_port)


# ---- spans ----


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    start: int  # CLOCK_MONOTONIC again
    end: int
    error: bool
    message: str
    attributes: dict[str, Any] = field(hash=False)
    links: tuple[tuple[str, str], ...] = ()  # (trace id, span id)

    @property
    def path(self) -> str:
        """What the request asked for: URL path, statement, DNS name."""
        for name in ("url.path", "db.query.text", "dns.question.name"):
            if name in self.attributes:
                return str(self.attributes[name])
        return self.name

    @property
    def code(self) -> int | None:
        return self.attributes.get("http.response.status_code")

    @property
    def link(self) -> str:
        return str(self.attributes["zerospan.link.method"])

    @property
    def reason(self) -> str:
        return str(self.attributes.get("error.type", ""))


def value(any_value: Any) -> Any:
    which = any_value.WhichOneof("value")
    if which == "array_value":
        return [value(v) for v in any_value.array_value.values]
    return getattr(any_value, which)


def decode(payload: bytes) -> list[Span]:
    out = []
    for rs in ExportTraceServiceRequest.FromString(payload).resource_spans:
        service = {a.key: value(a.value) for a in rs.resource.attributes}["service.name"]
        for s in (s for ss in rs.scope_spans for s in ss.spans):
            out.append(
                Span(
                    service, s.name, s.kind, s.trace_id.hex(), s.span_id.hex(), s.parent_span_id.hex(),
                    s.start_time_unix_nano - WALL, s.end_time_unix_nano - WALL, s.status.code == 2, s.status.message,
                    {a.key: value(a.value) for a in s.attributes},
                    tuple((x.trace_id.hex(), x.span_id.hex()) for x in s.links),
                )
            )  # fmt: skip
    return out


# ---- the engine ----


def describe(process: Process) -> ProcessInfo:
    resource = Resource()
    attribute = resource.attributes.add()
    attribute.key, attribute.value.string_value = "service.name", process.service
    return ProcessInfo(
        tgid=process.tgid,
        service=process.service,
        resource=resource.SerializeToString(),
        labels=f'"service_name":"{process.service}"'.encode(),
        series=f'job="{process.service}",instance="{process.tgid}"'.encode(),
        target_info=b"",
        nginx=process.nginx,
        loop=process.loop,
        order=process.order,
        hidden=process.hidden,
    )


class Rig:
    """An engine with its source. processes: all that speak; options: of the Engine. Literals are not masked."""

    def __init__(
        self, *processes: Process, kernel: Kernel | None = None, source_bytes: int = 64 << 20, **options: Any
    ) -> None:
        self.known = {p.tgid: p for p in processes}
        own = [p.tgid for p in processes if p.agent]
        options = {"mask": False, "self_tgid": own[0] if own else 0, "flush_s": 0.0, **options}
        self.kernel = kernel or Kernel()
        self.source = Records(source_bytes)
        self.engine = Engine(self.source, self.describe, **options)
        self.spans: list[Span] = []
        self.sizes: list[int] = []  # of the batches, in bytes
        self.fed = 0
        self.now = START
        self.done = False
        self.unique = True  # whether two spans with one id are an error of the engine

    def describe(self, tgid: int, comm: str, cgroup_id: int = 0) -> ProcessInfo:
        return describe(self.known.get(tgid) or Process(tgid, "unknown"))

    def push(self, records: list[Record] | list[bytes]) -> None:
        for record in records:
            data = record.data if isinstance(record, Record) else record
            assert self.source.push(data), "the test's source is full"
            if isinstance(record, Record):
                self.now = max(self.now, record.time)

    def feed(self) -> None:
        """Hands over what the kernel has written since the last time, and lets the engine drain it."""
        self.push(self.kernel.records[self.fed :])
        self.fed = len(self.kernel.records)
        self.tick()

    def tick(self, now: int | None = None) -> list[Span]:
        """One step of the drain loop. Returns the spans that left."""
        self.now = max(self.now, now or 0)
        return self._took(self.engine.tick(self.now, WALL))

    def settle(self, now: int) -> list[Span]:
        """What the pipeline does every half second."""
        self.now = max(self.now, now)
        self.engine.settle(self.now)
        return self.tick()

    def finish(self) -> list[Span]:
        """The end. Returns all spans, in the order in which they began."""
        if not self.done:
            self.feed()
            self.done = True
            self._took(self.engine.finish(self.now, WALL))
        return sorted(self.spans, key=lambda s: (s.start, s.kind == SERVER))

    def run(self, settle_s: float = 70) -> list[Span]:
        """Feeds everything, lets all time-outs pass, ends."""
        self.feed()
        end = self.now + int(settle_s * S)
        while self.now < end:
            self.settle(self.now + S // 2)
        return self.finish()

    def _took(self, batches: Sequence[tuple[str, bytes, int]]) -> list[Span]:
        out = []
        for signal, payload, n in batches:
            if signal == "traces":
                self.sizes.append(len(payload))
                spans = decode(payload)
                assert len(spans) == n, "a batch's count is not the number of its spans"
                out += spans
        self.spans += out
        return out

    @property
    def counts(self) -> dict[str, int]:
        return self.engine.counts()

    @property
    def in_flight(self) -> dict[str, int]:
        ledger: dict[str, Any] = self.engine.ledger()
        return dict(ledger["in_flight"])

    def balance(self) -> None:
        """The ledger, at any moment."""
        ledger: dict[str, Any] = self.engine.ledger()
        total = ledger["released"] + sum(ledger["dropped"].values()) + sum(ledger["in_flight"].values())
        assert ledger["seen"] == total, f"the ledger does not balance: {ledger}"

    def check(self) -> None:
        """What must hold of every engine at its end."""
        self.finish()
        self.balance()
        engine: Any = self.engine
        assert engine.ledger()["in_flight"] == {"open": 0, "held": 0}
        assert engine.memory()["open"] == 0, "bytes of open requests were not given back"
        assert engine.links()["registry_entries"] == 0, "references to the registry were not given back"
        assert len(self.spans) == self.counts["released"]
        ids = [s.span_id for s in self.spans]
        assert not self.unique or len(ids) == len(set(ids)), "two spans have one id"


RigMaker = Callable[..., Rig]


@pytest.fixture(name="rig")
def engines() -> Iterator[RigMaker]:
    """Makes engines; each is ended and checked after the test. A test module says `rig = engines`."""
    made: list[Rig] = []

    def make(*processes: Process, **options: Any) -> Rig:
        made.append(Rig(*processes, **options))
        return made[-1]

    yield make
    for each in made:
        each.check()


def by_path(spans: list[Span], kind: int) -> dict[str, Span]:
    """Spans of one kind by what they asked for; each must have asked for something else."""
    out = {s.path: s for s in spans if s.kind == kind}
    assert len(out) == sum(s.kind == kind for s in spans), "two requests asked for the same"
    return out


# ---- HTTP ----


def get(path: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: shop", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def ok(body: bytes = b"ok", *headers: str, code: int = 200) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {code} X", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body
