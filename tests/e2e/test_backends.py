"""The back ends themselves: what goes in can be found again, on every road that the agent's tests will take.

If one of these fails, the end-to-end tests of the agent say nothing about the agent.
"""

from __future__ import annotations

import http.server
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc  # type: ignore[import-untyped,unused-ignore] # no stubs, unless types-grpcio is there
import pytest
from backends import stack as stack_module
from backends.program import Program, ProgramError
from backends.query import BadQuery, NotFound, poll, request
from backends.stack import Stack
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PROTOBUF = {"Content-Type": "application/x-protobuf"}


def pair(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def resource(service: str) -> Resource:
    return Resource(attributes=[pair("service.name", service)])


class OneTrace:
    """A SERVER span of `front` with a CLIENT child of `back`; ids and attribute `e2e.run` of its own."""

    def __init__(self) -> None:
        self.trace_id, self.parent_id, self.child_id = (secrets.token_bytes(n) for n in (16, 8, 8))
        self.run = secrets.token_hex(6)

    def message(self) -> ExportTraceServiceRequest:
        now = time.time_ns()
        server, client = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT
        outgoing = ExportTraceServiceRequest()
        for service, name, kind, own, parent, start, end in (
            ("front", "GET /cart", server, self.parent_id, b"", now - 9_000_000, now),
            ("back", "SELECT shop", client, self.child_id, self.parent_id, now - 6_000_000, now - 3_000_000),
        ):
            group = outgoing.resource_spans.add(resource=resource(service))
            group.scope_spans.add().spans.add(
                trace_id=self.trace_id,
                span_id=own,
                parent_span_id=parent,
                name=name,
                kind=kind,
                start_time_unix_nano=start,
                end_time_unix_nano=end,
                attributes=[pair("e2e.run", self.run)],
            )
        return outgoing


def send_http(base: str, message: ExportTraceServiceRequest) -> None:
    request(f"{base}/v1/traces", body=message.SerializeToString(), headers=PROTOBUF)


def send_grpc(address: str, message: ExportTraceServiceRequest) -> None:
    with grpc.insecure_channel(address) as channel:
        export = channel.unary_unary(
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            request_serializer=ExportTraceServiceRequest.SerializeToString,
            response_deserializer=ExportTraceServiceResponse.FromString,
        )
        export(message, timeout=10)


ROADS: dict[str, Callable[[Stack, ExportTraceServiceRequest], None]] = {
    "collector-http": lambda stack, message: send_http(stack.collector_otlp_http, message),
    "collector-grpc": lambda stack, message: send_grpc(stack.collector_otlp_grpc, message),
    "tempo-http": lambda stack, message: send_http(stack.tempo_otlp_http, message),
    "tempo-grpc": lambda stack, message: send_grpc(stack.tempo_otlp_grpc, message),
}


@pytest.mark.parametrize("road", ROADS)
def test_trace_is_found_by_structure_and_by_id(stack: Stack, road: str) -> None:
    sent = OneTrace()
    ROADS[road](stack, sent.message())

    server = f'{{ span.e2e.run = "{sent.run}" && kind = server && resource.service.name = "front" }}'
    client = f'{{ span.e2e.run = "{sent.run}" && kind = client && resource.service.name = "back" }}'
    assert [found["traceID"] for found in stack.traceql(f"{server} >> {client}")] == [sent.trace_id.hex()]
    assert stack.traceql(f"{client} >> {server}", at_least=0) == []  # the child is above nobody

    parent, child = stack.spans(sent.trace_id.hex(), at_least=2)
    assert (parent.name, parent.kind, parent.service, parent.parent_id) == (
        "GET /cart",
        "SERVER",
        "front",
        "",
    )
    assert (child.name, child.kind, child.service) == ("SELECT shop", "CLIENT", "back")
    assert child.parent_id == parent.span_id == sent.parent_id.hex()
    assert child.trace_id == parent.trace_id == sent.trace_id.hex()
    assert child.end_ns - child.start_ns == 3_000_000
    assert child.attributes == {"e2e.run": sent.run}


def test_trace_in_pieces_is_one_structure_after_flush(stack: Stack) -> None:
    sent = OneTrace()
    whole = sent.message()
    for group in whole.resource_spans:
        send_http(stack.collector_otlp_http, ExportTraceServiceRequest(resource_spans=[group]))
        name = group.scope_spans[0].spans[0].name
        stack.traceql(f'{{ span.e2e.run = "{sent.run}" && name = "{name}" }}')  # cut from the rest that comes later
    stack.flush()
    one = f'span.e2e.run = "{sent.run}"'
    found = stack.traceql(f"{{ {one} && kind = server }} >> {{ {one} && kind = client }}")
    assert [trace["traceID"] for trace in found] == [sent.trace_id.hex()]


def test_the_collector_counts_what_it_took(stack: Stack) -> None:
    def accepted() -> float:
        lines = request(stack.collector_metrics_url).decode().splitlines()
        name = "otelcol_receiver_accepted_spans"
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    before = accepted()
    send_http(stack.collector_otlp_http, OneTrace().message())
    poll(accepted, lambda now: now == before + 2, what="the Collector's accepted spans")


def test_log_line_is_found_by_its_trace_id(stack: Stack) -> None:
    trace_id, other = secrets.token_hex(16), secrets.token_hex(16)
    now = time.time_ns()
    labels = {"service_name": "front", "zerospan_e2e": "push"}
    values = [
        [str(now), "GET /cart 200", {"trace_id": trace_id, "span_id": "00f067aa0ba902b7"}],
        [str(now + 1), "GET /cart 500", {"trace_id": other}],
    ]
    body = json.dumps({"streams": [{"stream": labels, "values": values}]}).encode()
    request(f"{stack.loki_url}/loki/api/v1/push", body=body, headers={"Content-Type": "application/json"})

    (line,) = stack.logql(f'{{service_name="front"}} | trace_id="{trace_id}"')
    assert (line.labels, line.ts_ns, line.line) == (labels, now, "GET /cart 200")
    assert line.metadata["trace_id"] == trace_id
    assert line.metadata["span_id"] == "00f067aa0ba902b7"
    (total,) = stack.logql_metric('sum(count_over_time({zerospan_e2e="push"}[5m]))')
    assert total["value"][1] == "2"


def test_otlp_log_reaches_loki_through_the_collector(stack: Stack) -> None:
    trace_id, now = secrets.token_bytes(16), time.time_ns()
    message = ExportLogsServiceRequest()
    group = message.resource_logs.add(resource=resource("otlp-front"))
    record = group.scope_logs.add().log_records.add(
        time_unix_nano=now, trace_id=trace_id, severity_text="INFO", attributes=[pair("http.route", "/cart")]
    )
    record.body.string_value = "GET /cart 200"
    request(f"{stack.collector_otlp_http}/v1/logs", body=message.SerializeToString(), headers=PROTOBUF)

    (line,) = stack.logql(f'{{service_name="otlp-front"}} | trace_id="{trace_id.hex()}"')
    assert (line.ts_ns, line.line, line.metadata["http_route"]) == (now, "GET /cart 200", "/cart")


@contextmanager
def exposition(text: str) -> Iterator[str]:
    """Serves `text` as OpenMetrics on a free loopback port; gives HOST:PORT."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_prometheus_scrapes_targets_and_keeps_exemplars(stack: Stack) -> None:
    run, trace_id = secrets.token_hex(6), secrets.token_hex(16)
    text = (
        "# TYPE e2e_request_duration_seconds histogram\n"
        f'e2e_request_duration_seconds_bucket{{run="{run}",le="0.1"}} 3 # {{trace_id="{trace_id}"}} 0.05\n'
        f'e2e_request_duration_seconds_bucket{{run="{run}",le="+Inf"}} 4\n'
        f'e2e_request_duration_seconds_count{{run="{run}"}} 4\n'
        f'e2e_request_duration_seconds_sum{{run="{run}"}} 1.5\n# EOF\n'
    )
    with exposition(text) as first, exposition("# EOF\n") as second:
        stack.scrape([first, second])
        (count,) = stack.promql(f'e2e_request_duration_seconds_count{{run="{run}"}}')
        assert count["metric"]["job"] == "zerospan"
        assert count["metric"]["instance"] == first
        assert count["value"][1] == "4"
        assert len(stack.promql('up{job="zerospan"} == 1', at_least=2)) == 2
        (series,) = stack.exemplars(f'e2e_request_duration_seconds_bucket{{run="{run}"}}')
        assert series["exemplars"][0]["labels"] == {"trace_id": trace_id}

        stack.scrape([second])  # what a running stack is told later counts
        stack.promql('count(up{job="zerospan"})', until=lambda found: found[0]["value"][1] == "1")
    stack.scrape([])


def test_a_wrong_query_is_told_at_once_and_a_missing_answer_in_time(stack: Stack) -> None:
    for ask in (stack.traceql, stack.promql, stack.logql):
        with pytest.raises(BadQuery):
            ask("{ nonsense")
    with pytest.raises(NotFound, match="no_such_metric.*last answer"):
        stack.promql("no_such_metric", wait_s=0.2)
    with pytest.raises(NotFound, match="404"):
        stack.trace("0" * 31 + "1", wait_s=0.2)


def listening(pid: int) -> set[str]:
    """Addresses (in the kernel's hex) on which a process listens, TCP over IPv4 and IPv6."""
    own = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = row.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in own:
                found.add(columns[1].split(":")[0])
    return found


def test_every_program_listens_on_loopback_only(stack: Stack) -> None:
    assert {name: listening(pid) for name, pid in stack.pids.items()} == {
        name: {"0100007F"} for name in ("tempo", "loki", "prometheus", "otelcol")
    }


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_leaving_the_stack_stops_all_and_removes_its_data() -> None:
    with Stack() as other:
        pids, data = other.pids, other.data
        assert all(alive(pid) for pid in pids.values())
        assert data.is_dir()
    assert [name for name, pid in pids.items() if alive(pid)] == []
    assert not data.exists()


def test_a_killed_run_takes_the_programs_with_it(tmp_path: Path) -> None:
    command = [sys.executable, str(stack_module.HERE / "stack.py"), "--run", "--data", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        lines = []
        for line in owner.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        pids = [int(line.split("pid ")[1].split(",")[0]) for line in lines if " pid " in line]
        owner.send_signal(signal.SIGKILL)
    assert len(pids) == 4, lines
    poll(
        lambda: [pid for pid in pids if alive(pid)],
        lambda left: not left,
        what="orphans of stack.py",
        wait_s=5,
    )


def test_missing_programs_are_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_module, "BIN", tmp_path)
    with (
        pytest.raises(ProgramError, match="tempo, loki, prometheus, otelcol, promtool.*make e2e-backends"),
        Stack(),
    ):
        pass


def test_a_program_that_fails_shows_its_log_and_command(tmp_path: Path) -> None:
    program = Program("unwell", ["sh", "-c", "echo no such luck; exit 3"], tmp_path / "unwell.log", lambda: "asked")
    program.start()
    try:
        with pytest.raises(ProgramError) as failure:
            poll(program.ready, bool, what="unwell", wait_s=10)
    finally:
        program.stop()
    text = str(failure.value)
    assert "ended with status 3" in text
    assert "no such luck" in text
    assert "sh -c 'echo no such luck; exit 3'" in text
