"""RED metrics: names, labels, buckets and counts are those of reference/grafana-conventions.md."""

import random
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from metrics_text import Labels, find, samples, total, value

from zerospan.exporter.metrics.harness import Feeder

S = 1_000_000_000
HTTP = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
DB = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10]
SPAN = [0.002 * 2**n for n in range(14)]
GRAPH = [0.1 * 2**n for n in range(8)]
SIZES = [0.0, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]

HTTP_SERVER = "http_server_request_duration_seconds"
HTTP_CLIENT = "http_client_request_duration_seconds"

SPANS: list[tuple[str, list[float], dict[str, Any], dict[str, str]]] = [
    (
        HTTP_SERVER,
        HTTP,
        {"kind": "server", "code": 200, "version": 11, "operation": b"GET", "route": b"/r/{id}"},
        {
            "http_request_method": "GET",
            "url_scheme": "http",
            "http_route": "/r/{id}",
            "http_response_status_code": "200",
            "network_protocol_version": "1.1",
        },
    ),
    (
        HTTP_SERVER,
        HTTP,
        {"kind": "server", "code": 503, "version": 10, "operation": b"BREW", "status": "error"},
        {
            "http_request_method": "_OTHER",
            "url_scheme": "http",
            "http_response_status_code": "503",
            "error_type": "503",
            "network_protocol_version": "1.0",
        },
    ),
    (
        HTTP_CLIENT,
        HTTP,
        {
            "kind": "client",
            "operation": b"POST",
            "domain": b"api.example:8443",
            "status": "error",
            "reason": "timeout",
            "version": 11,
        },
        {
            "http_request_method": "POST",
            "error_type": "timeout",
            "network_protocol_version": "1.1",
            "server_address": "api.example",
            "server_port": "8443",
        },
    ),
    (
        "db_client_operation_duration_seconds",
        DB,
        {
            "kind": "client",
            "proto": "postgresql",
            "operation": b"SELECT",
            "collection": b"orders",
            "domain": b"shop",
            "status": "error",
            "status_text": b"42P01",
            "remote": "[2001:db8::7]:5432",
        },
        {
            "db_system_name": "postgresql",
            "db_operation_name": "SELECT",
            "db_collection_name": "orders",
            "db_namespace": "shop",
            "db_response_status_code": "42P01",
            "error_type": "42P01",
            "server_address": "2001:db8::7",
            "server_port": "5432",
        },
    ),
    (
        "zerospan_db_server_operation_duration_seconds",
        DB,
        {"kind": "server", "proto": "redis", "operation": b"HGETALL", "domain": b"0"},
        {"db_system_name": "redis", "db_operation_name": "HGETALL", "db_namespace": "0"},
    ),
    (
        "dns_lookup_duration_seconds",
        HTTP,
        {
            "kind": "client",
            "proto": "dns",
            "operation": b"A",
            "target": b"No.SUCH.example",
            "status": "error",
            "status_text": b"NXDOMAIN",
            "code": 3,
        },
        {"dns_question_name": "no.such.example", "error_type": "NXDOMAIN"},
    ),
    (
        "zerospan_dns_server_lookup_duration_seconds",
        HTTP,
        {"kind": "server", "proto": "dns", "operation": b"AAAA", "target": b"a.example", "code": 0},
        {"dns_question_name": "a.example"},
    ),
]


def buckets(raw: bytes, name: str) -> dict[float, float]:
    """{le: cumulative count} of a family that has one series."""
    found = find(raw, f"{name}_bucket")
    out = {float(dict(labels)["le"]): v for labels, v in found.items()}
    assert len(out) == len(found)
    return out


@pytest.mark.parametrize(("family", "bounds", "span", "labels"), SPANS)
def test_the_family_has_exactly_its_labels_and_buckets(
    family: str, bounds: list[float], span: dict[str, Any], labels: dict[str, str]
) -> None:
    f = Feeder()
    f.observe(f.process("shop", "host:7"), duration_ns=30_000_000, **span)
    raw = f.render()
    expected = {"job": "shop", "instance": "host:7", **labels}
    assert list(find(raw, f"{family}_count")) == [frozenset(expected.items())]
    assert value(raw, f"{family}_count") == 1
    assert value(raw, f"{family}_sum") == 0.03
    got = buckets(raw, family)
    assert sorted(got) == pytest.approx([*bounds, float("inf")])
    assert all(got[le] == (le >= 0.03) for le in got)
    others = {name for _, _, s, _ in SPANS for name in [_family(s)]} - {family}
    assert not any(find(raw, f"{other}_count") for other in others), "one request, one family"


def _family(span: dict[str, Any]) -> str:
    return next(name for name, _, s, _ in SPANS if s is span)


@pytest.mark.parametrize(
    ("family", "bounds"),
    [
        (HTTP_SERVER, HTTP),
        ("traces_spanmetrics_latency", SPAN),
        ("traces_service_graph_request_server_seconds", GRAPH),
    ],
)
def test_a_bound_is_inclusive_and_the_next_nanosecond_is_not(family: str, bounds: list[float]) -> None:
    for i, bound in enumerate(bounds):
        f = Feeder()
        p = f.process("a")
        exact = round(bound * S)
        f.observe(p, duration_ns=exact)
        f.observe(p, duration_ns=exact + 1)
        got = sorted(buckets(f.render(), family).items())
        assert [n for _, n in got] == [0] * i + [1] + [2] * (len(bounds) - i)


def test_spanmetrics_has_the_labels_of_tempos_generator() -> None:
    f = Feeder()
    p = f.process("shop")
    f.observe(p, operation=b"GET", route=b"/r/{id}", times=3)
    f.observe(p, "client", operation=b"GET", route=b"/x", status="error", code=500)
    raw = f.render()
    common = {"job": "shop", "instance": "host:1", "service": "shop", "source": "zerospan"}
    server = {"span_name": "GET /r/{id}", "span_kind": "SPAN_KIND_SERVER", "status_code": "STATUS_CODE_UNSET"}
    client = {"span_name": "GET /x", "span_kind": "SPAN_KIND_CLIENT", "status_code": "STATUS_CODE_ERROR"}
    assert find(raw, "traces_spanmetrics_calls_total") == {
        frozenset({**common, **server}.items()): 3,
        frozenset({**common, **client}.items()): 1,
    }
    assert sorted(buckets_of(raw, "traces_spanmetrics_latency", server)) == pytest.approx([*SPAN, float("inf")])


def buckets_of(raw: bytes, name: str, labels: dict[str, str]) -> list[float]:
    return [float(dict(have)["le"]) for have in find(raw, f"{name}_bucket", labels)]


def test_body_sizes_only_when_asked_for_and_only_when_known() -> None:
    for asked in (False, True):
        f = Feeder(body_sizes=asked)
        p = f.process("a")
        f.observe(p, request_size=0, response_size=300)
        f.observe(p, "client", request_size=-1, response_size=9000)
        raw = f.render()
        names = {n for n, _ in samples(raw)}
        if not asked:
            assert not any("body_size" in n for n in names)
            continue
        assert sorted(buckets(raw, "http_server_response_body_size_bytes")) == [*SIZES, float("inf")]
        assert value(raw, "http_server_request_body_size_bytes_bucket", le="0.0") == 1
        assert value(raw, "http_server_response_body_size_bytes_sum") == 300
        assert value(raw, "http_client_response_body_size_bytes_bucket", le="8192.0") == 0
        assert value(raw, "http_client_response_body_size_bytes_count") == 1
        assert "http_client_request_body_size_bytes_count" not in names


def test_each_span_is_in_each_count_once_whatever_the_mix() -> None:
    rng = random.Random(7)
    f = Feeder(max_values=5)
    procs = [f.process(f"s{i}") for i in range(4)]
    sums = {"http": 0, "redis": 0, "postgresql": 0, "dns": 0}
    ns = 0
    for _ in range(1000):
        proto = rng.choice(list(sums))
        duration = rng.randrange(20 * S)
        f.observe(
            rng.choice(procs),
            rng.choice(["server", "client"]),
            proto,
            operation=rng.choice([b"GET", b"SET", bytes([rng.randrange(256)])]),
            target=rng.randbytes(2),
            domain=rng.randbytes(1),
            status=rng.choice(["unset", "ok", "error"]),
            code=rng.choice([-1, 200, 404]),
            duration_ns=duration,
        )
        sums[proto] += 1
        ns += duration
    raw = f.render()
    assert total(raw, "traces_spanmetrics_calls_total") == 1000
    assert total(raw, "traces_spanmetrics_latency_count") == 1000
    assert total(raw, "traces_spanmetrics_latency_sum") == pytest.approx(ns / S, rel=1e-12)
    assert total(raw, "traces_service_graph_request_total") == 1000
    by_family = {
        "http": (HTTP_SERVER, HTTP_CLIENT),
        "dns": ("dns_lookup_duration_seconds", "zerospan_dns_server_lookup_duration_seconds"),
    }
    for proto, families in by_family.items():
        assert sum(total(raw, f"{n}_count") for n in families) == sums[proto]
    databases = ("db_client_operation_duration_seconds", "zerospan_db_server_operation_duration_seconds")
    assert sum(total(raw, f"{n}_count") for n in databases) == sums["redis"] + sums["postgresql"]
    # every histogram: buckets never fall, and +Inf is the count
    everything = samples(raw)
    rows: dict[tuple[str, Labels], list[tuple[float, float]]] = {}
    for (name, labels), v in everything.items():
        if name.endswith("_bucket"):
            rest = frozenset(x for x in labels if x[0] != "le")
            rows.setdefault((name.removesuffix("_bucket"), rest), []).append((float(dict(labels)["le"]), v))
    assert len(rows) == sum(name.endswith("_count") for name, _ in everything)
    for (name, labels), row in rows.items():
        row.sort()
        assert [v for _, v in row] == sorted(v for _, v in row)
        assert row[-1] == (float("inf"), everything[(f"{name}_count", labels)])


def test_hidden_processes_leave_no_trace_in_metrics() -> None:
    f = Feeder()
    f.observe(f.process("selftest", hidden=True))
    raw = f.render()
    assert f.red.observed == 0
    assert not find(raw, "traces_spanmetrics_calls_total") and not find(raw, "target_info")


def test_target_info_once_for_each_instance_with_the_labels_that_python_set() -> None:
    f = Feeder()
    a, twin, b, silent = f.process("a"), f.process("a"), f.process("b"), f.process("c")
    for p in (a, twin):
        f.target_info(p, b'os_type="linux"')
    f.target_info(silent, b'os_type="linux"')
    for p in (a, twin, b):
        f.observe(p)
    assert find(f.render(), "target_info") == {
        frozenset({"job": "a", "instance": "host:1", "os_type": "linux"}.items()): 1,
        frozenset({"job": "b", "instance": "host:1"}.items()): 1,
    }


def test_processes_with_equal_labels_share_their_series() -> None:
    f = Feeder()
    for _ in range(3):
        f.observe(f.process("a"))
    assert value(f.render(), f"{HTTP_SERVER}_count") == 3
