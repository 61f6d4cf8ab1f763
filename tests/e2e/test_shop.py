"""The demo's shop under the agent, seen in the real back ends by their own query APIs.

Twice: everything through the Collector (OTLP/HTTP), and straight to each back end (Tempo by OTLP/gRPC, Loki's push).
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from agent import Agent, spans
from backends import stack as stack_module
from backends.stack import Stack
from cgroup import own_cgroup

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from demo import truth
from demo.drive import Request
from demo.shop import Shop

REQUESTS = 60


class Run(NamedTuple):
    agent: Agent
    requests: list[Request]
    spans: list[dict[str, Any]]
    metrics: str
    openmetrics: str


def settings(road: str, stack: Stack) -> dict[str, Any]:
    if road == "collector":
        return {"otlp": {"traces": {"endpoint": stack.collector_otlp_http, "compression": "gzip"},
                         "logs": {"endpoint": stack.collector_otlp_http}}}  # fmt: skip
    return {"otlp": {"traces": {"endpoint": f"http://{stack.tempo_otlp_grpc}", "protocol": "grpc"}},
            "loki": {"url": stack.loki_url}}  # fmt: skip


@pytest.fixture(scope="module", params=["collector", "straight"])
def run(request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp(request.param)
    with own_cgroup("shop") as cgroup, Agent(folder, settings(request.param, stack), "--cgroup", cgroup) as agent:
        stack.scrape([agent.metrics_address])
        with Shop() as shop:
            done = shop.drive(REQUESTS, 4, 3)
        agent.settled(2.5)
        texts = agent.metrics(), agent.metrics(openmetrics=True)
        stack.flush()
        yield Run(agent, done, spans(agent.traces_file), *texts)
        agent.stop()
    assert agent.ledger["dropped"] == {}, agent.ledger


def whole_trace(run: Run) -> tuple[str, set[str]]:
    """Trace id of a request for a product, and the ids of its spans, as the file has them."""
    rid = next(r.rid for r in run.requests if r.kind == "products")
    trace = next(s["traceId"] for s in run.spans if rid in str(s["attributes"].get("url.path")))
    return trace, {s["spanId"] for s in run.spans if s["traceId"] == trace}


def test_every_request_is_one_whole_trace(run: Run) -> None:
    judged = truth.judge(truth.read_spans([str(run.agent.traces_file)]), [(r.rid, r.kind) for r in run.requests])
    assert judged.right, judged.text()
    assert all(r.right for r in run.requests)


def test_tempo_has_the_whole_trace(run: Run, stack: Stack) -> None:
    trace, ids = whole_trace(run)
    found = stack.spans(trace, at_least=len(ids))
    assert {s.span_id for s in found} == ids
    by_id = {s.span_id: s for s in found}
    roots = [s for s in found if s.parent_id not in by_id]
    assert len(roots) == 1
    services = {s.resource["service.name"] for s in found}
    assert {"nginx", "shop", "catalog", "pricing", "postgresql", "redis", "dnsmasq"} <= services


def test_traceql_finds_it_by_structure(run: Run, stack: Stack) -> None:
    trace, _ = whole_trace(run)
    rid = next(r.rid for r in run.requests if r.kind == "products")
    query = (
        f'{{ resource.service.name = "nginx" && kind = server && span.url.path =~ ".*{rid}.*" }}'
        ' >> { resource.service.name = "pricing" && kind = server } >> { resource.service.name = "postgresql" }'
    )
    assert [t["traceID"].rjust(32, "0") for t in stack.traceql(query)] == [trace]


def test_loki_has_the_line_of_the_request(run: Run, stack: Stack) -> None:
    trace, _ = whole_trace(run)
    lines = stack.logql(f'{{service_name="nginx"}} | trace_id="{trace}"')
    rid = next(r.rid for r in run.requests if r.kind == "products")
    assert len(lines) == 1
    assert rid in lines[0].line
    assert lines[0].metadata["http_response_status_code"] == "200"
    assert lines[0].metadata["span_id"] in {s["spanId"] for s in run.spans}


def test_prometheus_has_red_and_edges(run: Run, stack: Stack) -> None:
    door = sum(1 for s in run.spans if s["service"] == "nginx" and s["kind"] == 2)
    assert door >= REQUESTS
    instance = run.agent.metrics_address

    def total(query: str, expected: int) -> None:
        answer = stack.promql(query.replace("$i", f'exported_instance!="",instance="{instance}"'),
                              until=lambda rows: bool(rows) and float(rows[0]["value"][1]) == expected)  # fmt: skip
        assert float(answer[0]["value"][1]) == expected, query

    total('sum(http_server_request_duration_seconds_count{$i,exported_job="nginx"})', door)
    edges = Counter((s["service"], s["attributes"].get("service.peer.name")) for s in run.spans if s["kind"] == 3)
    for client, server in (("nginx", "shop"), ("shop", "catalog"), ("pricing", "postgresql"), ("catalog", "redis")):
        query = f'sum(traces_service_graph_request_total{{instance="{instance}",client="{client}",server="{server}"}})'
        total(query, edges[client, server])


def test_promtool_finds_nothing_to_say(run: Run) -> None:
    said = subprocess.run([str(stack_module.BIN / "promtool"), "check", "metrics"], input=run.metrics,
                          capture_output=True, text=True)  # fmt: skip
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_exemplars_name_traces_that_exist(run: Run) -> None:
    import re

    named = set(re.findall(r'# \{[^}]*trace_id="([0-9a-f]{32})"', run.openmetrics))
    assert named
    assert named <= {s["traceId"] for s in run.spans}
