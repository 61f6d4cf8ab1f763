"""The demo's judge finds every way in which a trace can be wrong; one that always says whole proves nothing.

Spans are made as OTLP JSON from `demo.expected` itself, one tree a request, then damaged one way a test.
"""

from __future__ import annotations

import copy
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from demo import drive, truth  # noqa: E402
from demo.expected import KINDS, Edge  # noqa: E402

Message = dict[str, Any]
SENT = [(f"zs00000an{number:06d}", kind) for number, kind in enumerate(KINDS)]
PROTOCOL_ATTRIBUTE = {
    "http": "http.request.method",
    "dns": "dns.question.name",
    "redis": "db.system.name",
    "postgresql": "db.system.name",
}
_ids = itertools.count(1)


def span(service: str, kind: int, trace: str, parent: str, protocol: str, path: str = "") -> Message:
    """One span in an ExportTraceServiceRequest of its own, as OTLP JSON has it."""
    attributes = {PROTOCOL_ATTRIBUTE[protocol]: protocol}
    if path and protocol == "http":
        attributes["url.path" if kind == 2 else "url.full"] = path if kind == 2 else f"http://127.0.0.1:80{path}"
    body = {
        "traceId": trace,
        "spanId": f"{next(_ids):016x}",
        "parentSpanId": parent,
        "name": protocol,
        "kind": kind,
        "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()],
    }
    if not parent:
        del body["parentSpanId"]
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [body]}]}]}


def inner(message: Message) -> Message:
    found: Message = message["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    return found


def service(message: Message) -> str:
    return str(message["resourceSpans"][0]["resource"]["attributes"][0]["value"]["stringValue"])


def trace_of(rid: str, kind: str, *, client: bool = True) -> list[Message]:
    """The whole trace of one request: each expected edge as a CLIENT span with its SERVER span."""
    trace = f"{int(rid[-6:]) + 1:032x}"
    path = f"/r/{rid}/{kind}/17"
    messages = []
    above = ""
    if client:
        messages.append(span("curl", 3, trace, "", "http", path))
        above = inner(messages[-1])["spanId"]
    messages.append(span("nginx", 2, trace, above, "http", path))
    served = {"nginx": inner(messages[-1])["spanId"]}
    for edge, count in KINDS[kind].edges.items():
        for _ in range(count):
            caller = span(edge.client, 3, trace, served[edge.client], edge.protocol, path)
            answerer = span(edge.server, 2, trace, inner(caller)["spanId"], edge.protocol, path)
            served[edge.server] = inner(answerer)["spanId"]
            messages += [caller, answerer]
    return messages


def all_traces(*, client: bool = True) -> dict[str, list[Message]]:
    return {kind: trace_of(rid, kind, client=client) for rid, kind in SENT}


def judged(traces: dict[str, list[Message]], **options: Any) -> truth.Truth:
    spans = (one for messages in traces.values() for message in messages for one in truth.spans_of(message))
    return truth.judge(spans, SENT, **options)


def pick(messages: list[Message], who: str, kind: int, protocol: str) -> Message:
    """The first span of a service, kind and protocol."""
    return next(
        message
        for message in messages
        if service(message) == who
        and inner(message)["kind"] == kind
        and inner(message)["attributes"][0]["key"] == PROTOCOL_ATTRIBUTE[protocol]
        and inner(message)["name"] == protocol
    )


def verdicts(result: truth.Truth) -> dict[str, str]:
    return {finding.kind: finding.verdict for finding in result.findings}


def only(kind: str, verdict: str) -> dict[str, str]:
    return {name: verdict if name == kind else "whole" for name in KINDS}


@pytest.mark.parametrize("client", [True, False])
def test_intact_traces_are_whole_with_and_without_the_client_watched(client: bool) -> None:
    result = judged(all_traces(client=client))
    assert result.right
    assert result.counts == {"whole": len(SENT), "broken": 0, "mixed": 0, "surplus": 0, "missing": 0}


EVERY_CALL = [(kind, edge) for kind, about in KINDS.items() for edge in about.edges]


@pytest.mark.parametrize(("kind", "edge"), EVERY_CALL, ids=lambda value: str(value).replace(" ", "-"))
def test_no_call_can_be_left_out(kind: str, edge: Edge) -> None:
    traces = all_traces()
    gone = pick(traces[kind], edge.client, 3, edge.protocol)
    doomed = {inner(gone)["spanId"]}
    while True:  # the call and all below it
        below = {inner(m)["spanId"] for m in traces[kind] if inner(m).get("parentSpanId") in doomed} - doomed
        if not below:
            break
        doomed |= below
    traces[kind] = [message for message in traces[kind] if inner(message)["spanId"] not in doomed]
    assert verdicts(judged(traces)) == only(kind, "broken")


def test_no_single_span_can_be_lost() -> None:
    intact = all_traces(client=False)
    for kind, messages in intact.items():
        for index in range(len(messages)):
            traces = copy.deepcopy(intact)
            del traces[kind][index]
            assert verdicts(judged(traces)) == only(kind, "broken"), (kind, index)


def test_a_cut_trace_is_broken() -> None:
    traces = all_traces()
    new = "f" * 32
    caller = pick(traces["products"], "pricing", 3, "postgresql")
    answerer = pick(traces["products"], "postgresql", 2, "postgresql")
    first = inner(caller)["spanId"]
    for message in (caller, *(m for m in traces["products"] if inner(m).get("parentSpanId") == first)):
        inner(message)["traceId"] = new
    del inner(caller)["parentSpanId"]
    result = judged(traces)
    assert verdicts(result) == only("products", "broken")
    assert result.strays == 1  # the cut-off statement has no id of its own
    assert inner(answerer)["traceId"] != new  # catalog's stayed


def test_a_request_in_two_traces_is_broken() -> None:
    traces = all_traces()
    shop = pick(traces["recommend"], "shop", 2, "http")
    inner(shop)["traceId"] = "e" * 32
    del inner(shop)["parentSpanId"]
    result = judged(traces)
    assert verdicts(result) == only("recommend", "broken")
    assert "2 traces" in next(finding.reason for finding in result.findings if finding.kind == "recommend")


def test_two_requests_in_one_trace_are_mixed() -> None:
    traces = all_traces()
    taken = inner(traces["missing"][0])["traceId"]
    for message in traces["recommend"]:
        inner(message)["traceId"] = taken
    assert verdicts(judged(traces)) == {**only("missing", "mixed"), "recommend": "mixed"}


def test_one_foreign_span_makes_a_trace_mixed() -> None:
    traces = all_traces()
    door = pick(traces["broken"], "nginx", 2, "http")
    stolen = pick(traces["recommend"], "recommend", 2, "http")
    inner(stolen)["traceId"] = inner(door)["traceId"]
    inner(stolen)["parentSpanId"] = inner(door)["spanId"]
    assert verdicts(judged(traces)) == {**only("broken", "mixed"), "recommend": "mixed"}


def test_a_statement_of_another_request_is_surplus_there_and_lacks_here() -> None:
    traces = all_traces()
    statement = pick(traces["missing"], "catalog", 3, "postgresql")
    host = pick(traces["orders"], "catalog", 2, "http")
    moved = [
        statement,
        *(m for m in traces["missing"] if inner(m).get("parentSpanId") == inner(statement)["spanId"]),
    ]
    for message in moved:
        inner(message)["traceId"] = inner(host)["traceId"]
    inner(statement)["parentSpanId"] = inner(host)["spanId"]
    assert verdicts(judged(traces)) == {**only("missing", "broken"), "orders": "surplus"}


def test_statements_swapped_between_requests_are_mixed_where_they_carry_the_id() -> None:
    """Counts alone cannot see a swap; that is what the shop's `tag` is for."""
    traces = all_traces()
    pair = [pick(traces[kind], "pricing", 3, "postgresql") for kind in ("orders", "broken")]
    for message, (rid, _) in zip(pair, (SENT[2], SENT[4]), strict=True):
        text = {"key": "db.query.text", "value": {"stringValue": f"SELECT ? /* {rid} */"}}
        inner(message)["attributes"].append(text)
    assert judged(traces).right
    texts = [inner(message)["attributes"].pop() for message in pair]
    for message, text in zip(pair, reversed(texts), strict=True):
        inner(message)["attributes"].append(text)
    assert verdicts(judged(traces)) == {**only("orders", "mixed"), "broken": "mixed"}


def test_a_call_under_the_wrong_service_is_broken() -> None:
    traces = all_traces()
    statement = pick(traces["orders"], "pricing", 3, "redis")
    inner(statement)["parentSpanId"] = inner(pick(traces["orders"], "catalog", 2, "http"))["spanId"]
    assert verdicts(judged(traces)) == only("orders", "broken")


def test_a_ring_of_parents_is_broken() -> None:
    traces = all_traces()
    caller = pick(traces["broken"], "pricing", 3, "postgresql")
    answerer = pick(traces["broken"], "postgresql", 2, "postgresql")
    inner(caller)["parentSpanId"] = inner(answerer)["spanId"]
    assert verdicts(judged(traces)) == only("broken", "broken")


def test_a_request_with_no_span_is_missing() -> None:
    traces = all_traces()
    traces["orders"] = []
    assert verdicts(judged(traces)) == only("orders", "missing")


def test_nothing_at_all_is_not_right() -> None:
    assert not truth.judge([], []).right


def test_server_spans_can_be_left_out_on_request() -> None:
    traces = all_traces(client=False)
    databases = {"postgresql", "redis", "dns"}
    traces = {kind: [m for m in messages if service(m) not in databases] for kind, messages in traces.items()}
    assert judged(traces).counts["broken"] == len(SENT)
    assert judged(traces, servers=False).right


def test_names_can_be_given_to_roles() -> None:
    traces = all_traces()
    for messages in traces.values():
        for message in messages:
            if service(message) == "pricing":
                message["resourceSpans"][0]["resource"]["attributes"][0]["value"]["stringValue"] = "Java"
    assert judged(traces).counts["broken"] == 3
    assert judged(traces, roles={**truth.ROLES, "java": "pricing"}).right


def test_files_go_through_the_command_line(tmp_path: Path) -> None:
    traces = all_traces()
    spans, requests = tmp_path / "spans.jsonl", tmp_path / "requests.jsonl"
    drive.save(requests, [drive.Request(rid, kind, 200, 0.1) for rid, kind in SENT])
    assert [(one.rid, one.kind) for one in drive.load(requests)] == SENT

    def run() -> tuple[int, dict[str, Any]]:
        lines = [json.dumps(message) for messages in traces.values() for message in messages]
        spans.write_text("\n".join(lines) + "\n")
        command = [
            sys.executable,
            str(ROOT / "demo" / "truth.py"),
            str(spans),
            "--requests",
            str(requests),
            "--json",
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        return result.returncode, json.loads(result.stdout)

    code, counts = run()
    assert (code, counts["whole"]) == (0, len(SENT))
    traces["orders"].pop()
    code, counts = run()
    assert (code, counts["whole"], counts["broken"]) == (1, len(SENT) - 1, 1)


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    spans = tmp_path / "spans.jsonl"
    spans.write_text("{}\n{\n")
    with pytest.raises(ValueError, match=r"spans\.jsonl:2: not a line of OTLP JSON"):
        list(truth.read_spans([spans]))
