"""The text: what prometheus_client's parsers and promtool take, whatever remote parties put into labels."""

import math
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from metrics_text import find, parsed, samples

from zerospan.exporter.metrics.exposition import number
from zerospan.exporter.metrics.harness import Feeder

if TYPE_CHECKING:
    from zerospan.exporter.metrics.exposition import Metric

BOTH = pytest.mark.parametrize("openmetrics", [False, True])
HOSTILE = [
    b'"} 1\nevil_total 666\n# {',
    b"back\\slash\\",
    b"\x00\x01\x7f\r\n\t",
    b"\xff\xfe\xc0\x80\xed\xa0\x80",
    "für 日本 🙂".encode(),
    b"x" * 5000,
    "é".encode() * 200,
    b"{}=,# EOF",
    b"",
    " \u2028\u0085".encode(),
]


def fed(**options: bool) -> Feeder:
    """Every family, with a few spans each."""
    f = Feeder(body_sizes=True, **options)  # type: ignore[arg-type]
    a, b = f.process("shop/a", "host:1"), f.process("shop/b", "host:2")
    f.target_info(a, b'os_type="linux",k8s_pod_name="a\\"b"')
    for proto in ("http", "redis", "postgresql", "dns"):
        for i in range(3):
            f.observe(a, "client", proto, peer=b, peer_seen=True, duration_ns=10**8 * i, operation=b"GET")
            f.observe(b, "server", proto, peer=a, peer_seen=True, duration_ns=10**7 * i, request_size=5)
    f.observe(a, "client", status="error", reason="timeout", operation=b"GET")
    return f


EXTRA: "list[Metric]" = [
    (
        "zerospan_ring_lost_total",
        "counter",
        "Records lost.",
        [({"reason": "full"}, 3), ({"reason": 'a"b\\c\nd'}, 0)],
    ),
    ("zerospan_rss_bytes", "gauge", 'Memory: a "number"\nof bytes \\.', [({}, 12.5)]),
    ("zerospan_build_info", "info", "Version.", [({"version": "1.0"}, 1)]),
    ("zerospan_odd", "gauge", "Odd values.", [({"v": "nan"}, math.nan), ({"v": "inf"}, -math.inf)]),
    ("zerospan_ring_lost_total", "counter", "Records lost.", [({"reason": "late"}, 2**63)]),
]


@BOTH
def test_an_independent_parser_reads_all_of_it(openmetrics: bool) -> None:
    raw = fed().render(openmetrics, EXTRA)
    got = samples(raw, openmetrics)
    assert got[("zerospan_ring_lost_total", frozenset({("reason", 'a"b\\c\nd')}))] == 0
    assert got[("zerospan_ring_lost_total", frozenset({("reason", "late")}))] == 2**63
    assert got[("zerospan_rss_bytes", frozenset())] == 12.5
    assert math.isnan(got[("zerospan_odd", frozenset({("v", "nan")}))])
    targets = {labels for name, labels in got if name == "target_info"}
    assert {"job": "shop/a", "instance": "host:1", "os_type": "linux", "k8s_pod_name": 'a"b'} in [
        dict(t) for t in targets
    ]
    for family in parsed(raw, openmetrics):
        assert family.documentation and family.type != "unknown", family.name
    assert raw.endswith(b"# EOF\n") == openmetrics
    assert b"_created" not in raw


def test_both_formats_say_the_same() -> None:
    f = fed()
    assert samples(f.render(False)) == samples(f.render(True), True)


def test_types_and_names_are_those_of_each_format() -> None:
    f = fed()
    types = {
        openmetrics: {
            line.split()[2]: line.split()[3]
            for line in f.render(openmetrics, EXTRA).decode().splitlines()
            if line.startswith("# TYPE")
        }
        for openmetrics in (False, True)
    }
    assert types[False]["traces_spanmetrics_calls_total"] == types[True]["traces_spanmetrics_calls"] == "counter"
    assert types[False]["target_info"] == "gauge" and types[True]["target"] == "info"
    assert types[False]["zerospan_build_info"] == "gauge" and types[True]["zerospan_build"] == "info"
    assert types[False]["http_server_request_duration_seconds"] == "histogram"


def test_exemplars_stand_on_the_bucket_that_holds_their_value_and_only_in_openmetrics() -> None:
    f = Feeder()
    p = f.process("a")
    for i, ms in enumerate((1, 30, 400, 2)):
        f.observe(
            p,
            duration_ns=ms * 10**6,
            trace_id=bytes([i]) * 16,
            span_id=i + 1,
            wall_ns=1_700_000_000_123_456_789,
        )
    assert b"trace_id" not in f.render()
    for family in parsed(f.render(True), True):
        with_exemplar = [s for s in family.samples if s.exemplar]
        if family.type == "histogram" and family.name != "traces_service_graph_request_client_seconds":
            assert len(with_exemplar) == 1, family.name
        for s in with_exemplar:
            bounds = sorted(float(x.labels["le"]) for x in family.samples if "le" in x.labels)
            below = [b for b in bounds if b < float(s.labels["le"])]
            assert s.exemplar.value <= float(s.labels["le"]) and (not below or s.exemplar.value > below[-1])
            assert s.exemplar.value == 0.4, "the slowest one is worth looking at"
            assert s.exemplar.labels == {"trace_id": "02" * 16, "span_id": f"{3:016x}"}
            assert str(s.exemplar.timestamp) == "1700000000.123456789"
    assert b"trace_id" not in Feeder(exemplars=False).render(True)


def test_an_old_slow_exemplar_makes_room_for_a_new_fast_one() -> None:
    f = Feeder()
    p = f.process("a")
    f.observe(p, duration_ns=10**9, trace_id=b"\x01" * 16, wall_ns=1_700_000_000 * 10**9)
    f.observe(p, duration_ns=10**6, trace_id=b"\x02" * 16, wall_ns=1_700_000_029 * 10**9)
    assert b"01" * 16 in f.render(True)
    f.observe(p, duration_ns=10**6, trace_id=b"\x03" * 16, wall_ns=1_700_000_031 * 10**9)
    assert b"03" * 16 in f.render(True) and b"01" * 16 not in f.render(True)


@BOTH
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_within_its_label(text: bytes, openmetrics: bool) -> None:
    f = Feeder()
    p = f.process("a")
    f.observe(
        p,
        "client",
        "postgresql",
        operation=text,
        collection=text,
        domain=text,
        status_text=text,
        status="error",
    )
    f.observe(p, "client", "http", operation=text, domain=text, route=text)
    f.observe(p, "client", "dns", operation=text, target=text)
    raw = f.render(openmetrics)
    got = samples(raw, openmetrics)
    assert not any("evil" in name for name, _ in got)
    plain = text.decode("utf-8", "replace")
    seen = [dict(labels) for name, labels in got if name == "db_client_operation_duration_seconds_count"]
    assert len(seen) == 1
    label = seen[0].get("db_collection_name", "")
    assert len(label.encode()) <= 256
    if plain.isprintable() and len(text) <= 256:
        assert label == plain, "what is harmless is not changed"
    assert all(c == "\t" or ord(c) >= 32 for c in label)


def test_random_bytes_in_every_label_give_valid_text_without_duplicates() -> None:
    rng = random.Random(11)
    f = Feeder(max_values=1000)
    procs = [f.process(f"s{i}") for i in range(3)]
    for _ in range(600):
        t = rng.randbytes(rng.randrange(4))
        proto = rng.choice(["http", "redis", "postgresql", "dns"])
        f.observe(
            rng.choice(procs),
            rng.choice(["client", "server"]),
            proto,
            operation=t,
            target=rng.randbytes(2),
            domain=rng.randbytes(rng.randrange(3)),
            collection=rng.randbytes(rng.randrange(2)),
            route=rng.randbytes(rng.randrange(3)),
            status_text=rng.randbytes(1),
            status=rng.choice(["error", "unset"]),
        )
    for openmetrics in (False, True):
        got = samples(f.render(openmetrics), openmetrics)
        assert sum(v for (n, _), v in got.items() if n == "traces_spanmetrics_calls_total") == 600


def test_service_names_are_escaped_too() -> None:
    f = Feeder()
    f.observe(f.process('a"b\\c\nd'))
    ((labels, _),) = find(f.render(), "traces_spanmetrics_calls_total").items()
    assert dict(labels)["job"] == 'a"b\\c\nd'
    assert dict(labels)["service"].startswith('a"b\\c')


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (("zerospan_x", "counter", "h", [({}, 1)]), "_total"),
        (("zerospan_x_total", "histogram", "h", [({}, 1)]), "gauge"),
        (("zero span", "gauge", "h", [({}, 1)]), "zero span"),
        (("zerospan_x", "gauge", "h", [({"a b": "c"}, 1)]), "label name"),
    ],
)
def test_a_family_that_would_break_the_text_is_refused(
    metric: tuple[str, str, str, list[tuple[dict[str, str], float]]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Feeder().render(False, [metric])


@pytest.mark.parametrize(
    ("v", "text"),
    [
        (1, "1"),
        (2**64, str(2**64)),
        (0.1, "0.1"),
        (1e22, "1e+22"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
        (True, "1"),
    ],
)
def test_numbers_are_the_shortest_text_that_gives_them_back(v: float, text: str) -> None:
    assert number(v) == text


def test_sums_are_exact_to_the_nanosecond() -> None:
    f = Feeder()
    p = f.process("a")
    for _ in range(10):
        f.observe(p, duration_ns=100_000_001)
    assert b"http_server_request_duration_seconds_sum{" in f.render()
    line = next(x for x in f.render().splitlines() if x.startswith(b"http_server_request_duration_seconds_sum"))
    assert line.endswith(b" 1.00000001")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_has_nothing_to_say() -> None:
    result = subprocess.run(
        ["promtool", "check", "metrics"],
        input=fed().render(False, EXTRA[:3]),
        capture_output=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_fill_makes_as_many_lines_as_asked_for() -> None:
    f = Feeder()
    made = f.fill(10_000)
    raw = f.render()
    assert 10_000 <= made < 10_020
    lines = [x for x in raw.splitlines() if x.startswith(b"http_server_request_duration_seconds")]
    assert len(lines) == made
