"""Batches: nothing lost, nothing twice, sizes that can be relied on, memory that comes back."""

import gc
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

sys.path.insert(0, str(Path(__file__).parent))
from encode_cases import CASES, SERVER_SPAN, Span, random_span

from zerospan import __version__
from zerospan.exporter.encode import harness
from zerospan.exporter.encode.batch import BatchEncoder

KINDS = ["traces", "logs", "loki"]


def process(name: str) -> dict[str, object]:
    resource = Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value=name))])
    return {"name": name, "resource": resource.SerializeToString(), "labels": f'"service_name":"{name}"'}


PROCESSES = [process(f"service-{i}") for i in range(40)]


def contents(kind: str, body: bytes) -> dict[str, list[int]]:
    """Span ids by service name."""
    if kind == "loki":
        streams = json.loads(body)["streams"]
        return {s["stream"]["service_name"]: [int(v[2]["span_id"], 16) for v in s["values"]] for s in streams}
    groups: Any
    if kind == "traces":
        groups = ExportTraceServiceRequest.FromString(body).resource_spans
        items = [g.scope_spans[0].spans for g in groups]
        scopes = [g.scope_spans for g in groups]
    else:
        groups = ExportLogsServiceRequest.FromString(body).resource_logs
        items = [g.scope_logs[0].log_records for g in groups]
        scopes = [g.scope_logs for g in groups]
    assert all(len(s) == 1 and (s[0].scope.name, s[0].scope.version) == ("zerospan", __version__) for s in scopes)
    names = [g.resource.attributes[0].value.string_value for g in groups]
    assert len(set(names)) == len(names)
    return {n: [int.from_bytes(x.span_id, "big") for x in group] for n, group in zip(names, items, strict=True)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_reused_and_holds_each_span_once_with_its_service(kind: str) -> None:
    r = random.Random(10)
    batch = BatchEncoder(kind)  # type: ignore[arg-type]
    assert batch.take() is None
    for _ in range(25):
        table = r.sample(PROCESSES, r.randrange(1, 40))  # an index may stand for another process in the next batch
        spans = [
            random_span(r) | {"proc": r.randrange(len(table) + 1), "span_id": i} for i in range(r.randrange(1, 200))
        ]
        spans.sort(key=lambda s: s["end_ns"])
        assert harness.fill(batch, spans, table) == len(spans) == batch.count
        size = batch.size
        taken = batch.take()
        assert taken is not None
        view, count = taken
        body = bytes(view)
        assert count == len(spans)
        groups = len({s["proc"] for s in spans})
        assert size - 256 * (groups + 1) <= len(body) <= size
        wanted: dict[str, list[int]] = {}
        for span in spans:
            name = table[span["proc"] - 1]["name"] if span["proc"] else "unknown_service"
            wanted.setdefault(str(name), []).append(span["span_id"])
        assert contents(kind, body) == wanted
        assert batch.count == 0
        assert batch.take() is None


@pytest.mark.parametrize("kind", KINDS)
def test_full_says_when_and_clear_says_how_many(kind: str) -> None:
    batch = BatchEncoder(kind)  # type: ignore[arg-type]
    assert not batch.full(0)
    limit = 100_000
    while not batch.full(limit):
        assert harness.fill(batch, [SERVER_SPAN]) == 1
    assert limit <= batch.size < limit + 48 * 1024
    count = batch.count
    assert batch.clear() == count > 50
    assert (batch.count, batch.take()) == (0, None)


def test_a_body_may_be_left_to_the_collector() -> None:
    """As at the end of the process, when a sink that still holds one is part of a cycle."""
    batch = BatchEncoder("traces")
    for _ in range(3):
        harness.fill(batch, [SERVER_SPAN])
        taken = batch.take()
        assert taken is not None
        assert not gc.is_tracked(taken[0].obj), "the collector would take the shelf first"
        cycle: list[object] = [taken[0]]
        cycle.append(cycle)
        del taken, cycle
        gc.collect()


def test_a_kind_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="there are traces, logs, loki"):
        BatchEncoder("metrics")  # type: ignore[arg-type]


def test_an_unknown_process_is_unknown_service() -> None:
    out = harness.encode([SERVER_SPAN])
    assert contents("traces", out["traces"]).keys() == {"unknown_service"}
    assert contents("logs", out["logs"]).keys() == {"unknown_service"}
    assert contents("loki", out["loki"]).keys() == {"unknown_service"}


STARVED = """
import json, resource, sys
from zerospan.exporter.encode import harness
from zerospan.exporter.encode.batch import BatchEncoder
kind, span = sys.argv[1], eval(sys.argv[2])
batch = BatchEncoder(kind)
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (48 << 20), resource.RLIM_INFINITY))
taken = harness.flood(batch, span, 200000)
count = batch.count
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
body, said = batch.take()
sys.stdout.buffer.write(json.dumps([taken, count, said]).encode() + b"\\n" + body)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_without_memory_spans_are_refused_and_counted_and_the_batch_stays_whole(kind: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", STARVED, kind, repr(SERVER_SPAN)], capture_output=True, check=True, timeout=120
    )
    head, body = run.stdout.split(b"\n", 1)
    taken, count, said = json.loads(head)
    assert 0 < taken < 200_000, "the limit was not reached: the test tests nothing"
    assert taken == count == said
    assert [len(ids) for ids in contents(kind, body).values()] == [taken]


def test_memory_of_a_burst_is_given_back() -> None:
    """Peak and later resident size in a process of its own."""
    script = """
import resource
from zerospan.exporter.encode import harness
from zerospan.exporter.encode.batch import BatchEncoder
def rss(): return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
batch = BatchEncoder("traces")
before = rss()
harness.flood(batch, {"operation": "GET", "target": "/x" * 900}, 40000)
high = rss() - before
batch.clear()
for _ in range(3):
    harness.flood(batch, {"operation": "GET"}, 10); batch.take()
print(high >> 20, (rss() - before) >> 20)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=120)
    high, later = map(int, run.stdout.split())
    assert high > 60
    assert later < 8


def test_one_batch_of_every_case_and_every_process() -> None:
    spans: list[Span] = [case | {"proc": i % 41, "span_id": i} for i in range(410) for case in CASES[:1]]
    assert sum(map(len, contents("traces", harness.encode(spans, PROCESSES)["traces"]).values())) == 410
