"""A trace as a tree for people: one line a request, CLIENT and SERVER span of it together.

    shop ─ SELECT products → postgresql       1.20 ms  → 0.05 ms  ← 0.04 ms
      time: client host 0.01 ms, network 0.06 ms, server host 0.02 ms, server process 1.11 ms
      seen: client.pod eth0 1.19 ms, veth10 1.19 ms; server.pod veth11 1.13 ms, eth0 1.13 ms

The arrows are the time between the two processes, there and back: CLIENT start to SERVER start, SERVER end to
CLIENT end, by the clocks of their hosts. Where network interfaces saw the request, too, two lines more: where its time
went (zerospan.hop.*, which compares no clocks), and how long it took at each interface. Assumes spans as this agent
exports them. Used by the console sink and the demo.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from zerospan.exporter.encode import otlp_json
from zerospan.exporter.terminal import cut, duration, paint, plain

INTERNAL, SERVER, CLIENT = 1, 2, 3  # opentelemetry.proto.trace.v1.Span.SpanKind
ERROR = 2  # opentelemetry.proto.trace.v1.Status.StatusCode
WIDTH = 100
TIMES = 34  # columns of duration and hops
STATUS = 10
HOPS = ("client_process", "client_host", "network", "server_host", "server_process")  # zerospan.hop.*
POINTS = ("client.pod", "client.node", "gateway.node", "server.node", "server.pod")  # zerospan.point of interfaces
LABEL = 28  # columns that service, name and service have at least; what is deeper is not moved further


class Span(msgspec.Struct, gc=False):
    """What is needed of a span. Ids in hex, `parent_id` empty for a root; times in ns of the wall clock."""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    error: bool
    attributes: dict[str, Any]


class Call(msgspec.Struct):
    """One request: the spans of its two ends, at least one of them."""

    client: Span | None
    server: Span | None

    @property
    def outer(self) -> Span:
        return self.client or self.server  # type: ignore[return-value]

    @property
    def inner(self) -> Span:
        return self.server or self.client  # type: ignore[return-value]


def decode(payload: bytes | memoryview) -> list[Span]:
    """The spans of an encoded ExportTraceServiceRequest. ValueError if it is malformed."""
    return list(spans_of(msgspec.json.decode(otlp_json.traces_json(bytes(payload)))))


def spans_of(request: dict[str, Any]) -> Iterator[Span]:
    """The same of OTLP JSON: a line of `--traces-file`."""
    for resource in request.get("resourceSpans", ()):
        service = str(attributes_of(resource.get("resource", {})).get("service.name", "unknown_service"))
        for scope in resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                yield Span(
                    trace_id=span.get("traceId", ""),
                    span_id=span.get("spanId", ""),
                    parent_id=span.get("parentSpanId", ""),
                    service=service,
                    name=span.get("name", ""),
                    kind=int(span.get("kind", 0)),
                    start_ns=int(span.get("startTimeUnixNano", 0)),
                    end_ns=int(span.get("endTimeUnixNano", 0)),
                    error=span.get("status", {}).get("code", 0) == ERROR,
                    attributes=attributes_of(span),
                )


def attributes_of(owner: dict[str, Any]) -> dict[str, Any]:
    """OTLP JSON attributes as plain values; 64-bit integers come as text (OTLP, "JSON Protobuf Encoding")."""
    return {a["key"]: _value(a.get("value", {})) for a in owner.get("attributes", ())}


def _value(value: dict[str, Any]) -> Any:
    for kind, v in value.items():
        if kind == "intValue":
            return int(v)
        if kind == "arrayValue":
            return [_value(each) for each in v.get("values", ())]
        return v
    return None


def render_trace(spans: Sequence[Span], *, width: int = WIDTH, color: bool = False) -> str:
    """One trace, a line a request, with a heading; ends with a line break. Empty for no spans."""
    if not spans:
        return ""
    spans, points = _points(spans)
    children = _calls(spans)
    start, end = min(s.start_ns for s in spans), max(s.end_ns for s in spans)
    services, errors = len({s.service for s in spans}), sum(s.error for s in spans)
    seen = sum(map(len, points.values()))
    counted = f"{_count(len(spans) + seen, 'span')}  {_count(services, 'service')}"
    counted += f"  {seen} at interfaces" if seen else ""
    head = paint(f"trace {spans[0].trace_id}  {duration(end - start)}  {counted}", "bold", color)
    lines = [head + (paint(f"  {_count(errors, 'error')}", "red", color) if errors else "")]
    # depth first without recursion: (call, prefix of its line, prefix of the lines below it)
    stack = [(call, "", "") for call in reversed(children.get("", []))]
    while stack:
        call, branch, below = stack.pop()
        lines.append(_line(call, branch, width, color))
        nested = [c for end_of in (call.server, call.client) if end_of for c in children.get(end_of.span_id, ())]
        nested.sort(key=lambda c: c.outer.start_ns)
        below = below[: max(0, width - TIMES - STATUS - LABEL - 3)]
        beside = below + ("│  " if nested else "   ")
        lines += [paint(beside + text, "dim", color) for text in _network(call, points, width - len(beside))]
        for i, inner in enumerate(reversed(nested)):
            stack.append((inner, below + ("└─ " if i == 0 else "├─ "), below + ("   " if i == 0 else "│  ")))
    return "\n".join(lines) + "\n"


def _points(spans: Sequence[Span]) -> tuple[list[Span], dict[str, list[Span]]]:
    """What is no span of an interface below a call of this trace, and those that are, by their parent's id."""
    ends = {s.span_id for s in spans if s.kind != INTERNAL}
    rest: list[Span] = []
    points: dict[str, dict[str, Span]] = {}
    for s in spans:
        if s.kind == INTERNAL and s.attributes.get("zerospan.point") in POINTS and s.parent_id in ends:
            points.setdefault(s.parent_id, {})[s.span_id] = s
        else:
            rest.append(s)
    return rest, {parent: list(those.values()) for parent, those in points.items()}


def _network(call: Call, points: dict[str, list[Span]], room: int) -> list[str]:
    """What interfaces saw of the request, in lines of at most `room` columns."""
    seen = [s for end in (call.client, call.server) if end for s in points.get(end.span_id, ())]
    if not seen:
        return []
    hops = call.outer.attributes
    times = [f"{name.replace('_', ' ')} {duration(hops[f'zerospan.hop.{name}'])}"
             for name in HOPS if f"zerospan.hop.{name}" in hops]  # fmt: skip
    # the longer it took, the nearer to the client
    seen.sort(key=lambda s: (POINTS.index(s.attributes["zerospan.point"]), s.start_ns - s.end_ns, s.span_id))
    at: list[str] = []
    last = ""
    for s in seen:
        point = s.attributes["zerospan.point"]
        interface = plain(str(s.attributes.get("network.interface.name", "?")))
        if at:
            at[-1] += "," if point == last else ";"
        at.append(f"{'' if point == last else f'{point} '}{interface} {duration(s.end_ns - s.start_ns)}")
        last = point
    times[:-1] = [f"{time}," for time in times[:-1]]
    return [*_wrapped("time: ", times, room), *_wrapped("seen: ", at, room)]


def _wrapped(head: str, items: Sequence[str], room: int) -> list[str]:
    """`head` and the items in lines of at most `room` columns."""
    lines: list[str] = []
    for item in items:
        item = cut(item, max(1, room - len(head)))
        if lines and len(lines[-1]) + 1 + len(item) <= room:
            lines[-1] += f" {item}"
        else:
            lines.append((" " * len(head) if lines else head) + item)
    return lines


def _calls(spans: Iterable[Span]) -> dict[str, list[Call]]:
    """Calls by the id of the span that caused them; "": roots, and those whose cause is not in this trace."""
    ordered = sorted({s.span_id: s for s in spans}.values(), key=lambda s: (s.start_ns, s.span_id))
    by_id = {s.span_id: s for s in ordered}
    calls: dict[str, Call] = {}
    for s in ordered:
        if s.kind != SERVER:
            calls[s.span_id] = Call(s, None)
    for s in ordered:
        if s.kind == SERVER:
            call = calls.get(s.parent_id)
            if call is not None and call.client is not None and call.client.kind == CLIENT and call.server is None:
                call.server = s
            else:
                calls[s.span_id] = Call(None, s)
    children: dict[str, list[Call]] = {}
    for call in calls.values():
        parent = call.outer.parent_id
        children.setdefault(parent if parent in by_id else "", []).append(call)
    for nested in children.values():
        nested.sort(key=lambda c: c.outer.start_ns)
    return children


def _line(call: Call, branch: str, width: int, color: bool) -> str:
    outer, inner = call.outer, call.inner
    caller = plain(outer.service) if call.client else _caller(inner)
    callee = plain(inner.service) if call.server else _callee(outer)
    room = max(LABEL, width - TIMES - STATUS - len(branch))
    caller, callee = cut(caller, room // 3 - 1), cut(callee, room // 3 - 1)
    name = cut(_name(inner), max(4, room - len(caller) - len(callee) - 6))
    label = f"{caller} ─ {name}" + (f" → {callee}" if outer.kind != INTERNAL else "")
    times = f"{duration(outer.end_ns - outer.start_ns):>10}  "
    if call.client and call.server:
        there, back = inner.start_ns - outer.start_ns, outer.end_ns - inner.end_ns
        times += f"→ {duration(there)}  ← {duration(back)}"
    status = _status(call)
    bad = outer.error or inner.error
    pieces = [
        paint(branch, "dim", color),
        label,
        " " * max(1, room - len(label)),
        times.ljust(TIMES),
        paint(cut(status, STATUS), "red" if bad else "dim", color),
    ]
    return "".join(pieces).rstrip()


def _name(span: Span) -> str:
    name = span.name
    question = span.attributes.get("dns.question.name")
    return plain(f"{name} {question}" if question else name)


def _caller(server: Span) -> str:
    return plain(str(server.attributes.get("client.address", "outside")))


def _callee(client: Span) -> str:
    known = client.attributes.get("service.peer.name")
    if known:
        return plain(str(known))
    port = client.attributes.get("server.port")
    return plain(str(client.attributes.get("server.address", "outside"))) + (f":{port}" if port else "")


def _status(call: Call) -> str:
    bad = call.outer.error or call.inner.error
    said = ""
    for span in (call.inner, call.outer):
        a = span.attributes
        keys = ("http.response.status_code", "db.response.status_code", "zerospan.dns.response_code")
        said = said or next((str(a[key]) for key in keys if a.get(key) is not None), "")
        if bad:
            said = str(a.get("error.type") or said)
    return plain(f"✗ {said}" if bad else said)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
