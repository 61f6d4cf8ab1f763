"""Bounds: values, series, memory and time to live. What is refused its own series is still counted."""

import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from metrics_text import find, samples, total, value

from zerospan.exporter.metrics.harness import Feeder

CALLS = "traces_spanmetrics_calls_total"
SERVER = "http_server_request_duration_seconds_count"


def test_span_names_of_a_service_are_limited_to_a_hundred() -> None:
    f = Feeder()
    a, b = f.process("a"), f.process("b")
    for i in range(300):
        f.observe(a, "client", "postgresql", operation=f"OP{i}".encode())
    f.observe(b, "client", "postgresql", operation=b"OP299")
    raw = f.render()
    names = {dict(labels)["span_name"]: n for labels, n in find(raw, CALLS, {"service": "a"}).items()}
    assert len(names) == 101 and names["AGGREGATED"] == 200
    assert total(raw, CALLS, service="a") == 300
    assert value(raw, CALLS, service="b", span_name="OP299") == 1
    capped = "zerospan_label_values_capped_total"
    assert value(raw, capped, family="spanmetrics", label="span_name") == 200
    assert value(raw, capped, family="db_client", label="db_operation_name") == 200


def test_values_of_a_service_are_limited_over_all_its_processes() -> None:
    f = Feeder(max_values=4)
    for i in range(12):
        f.observe(f.process("a", f"host:{i}"), "client", "dns", target=f"n{i}.example".encode())
    names = {dict(labels)["dns_question_name"] for labels in find(f.render(), "dns_lookup_duration_seconds_count")}
    assert names == {"n0.example", "n1.example", "n2.example", "n3.example", "AGGREGATED"}


def test_a_forgotten_value_makes_room_for_another() -> None:
    f = Feeder(max_values=1, ttl_s=10)
    p = f.process("a")
    for name in (b"one", b"two"):
        f.observe(p, "client", "dns", target=name)
        f.tick(100, times=100)
    assert [dict(x)["dns_question_name"] for x in find(f.render(), "dns_lookup_duration_seconds_count")] == []
    f.observe(p, "client", "dns", target=b"three")
    assert [dict(x)["dns_question_name"] for x in find(f.render(), "dns_lookup_duration_seconds_count")] == ["three"]


@pytest.mark.parametrize("limit", [{"max_series": 500}, {"max_bytes": 20_000}])
def test_beyond_the_limit_observations_go_to_a_visible_overflow_series(limit: dict[str, int]) -> None:
    f = Feeder(**limit)  # type: ignore[arg-type]
    for i in range(400):
        f.observe(f.process(f"s{i}"), code=200)
    raw = f.render()
    shown = sum(n.startswith(("http_", "traces_")) for n, _ in samples(raw))
    overflow = value(raw, SERVER, otel_metric_overflow="true")
    assert total(raw, SERVER) == 400 and 0 < overflow < 400
    assert total(raw, CALLS) == total(raw, "traces_service_graph_request_total") == 400
    assert value(raw, "zerospan_series_dropped_total", family="http_server") == overflow
    if "max_series" in limit:
        assert shown <= 500 + 100, "the overflow series of the kinds come on top"
    else:
        assert value(raw, "zerospan_series_bytes") <= 20_000 + 8 * 1024


def test_a_series_lives_until_the_ttl_after_its_last_change() -> None:
    f = Feeder(ttl_s=300)
    old, busy = f.process("old"), f.process("busy")
    f.observe(old)
    f.observe(busy)
    for _ in range(29):
        f.tick(10)
        f.observe(busy)
    assert value(f.render(), SERVER, job="old") == 1, "290 s are within the TTL"
    for _ in range(10):
        f.tick(10, times=20)
        f.observe(busy)
    raw = f.render()
    assert not find(raw, SERVER, {"job": "old"}) and not find(raw, "target_info", {"job": "old"})
    assert value(raw, SERVER, job="busy") == 40 and value(raw, "target_info", job="busy") == 1
    assert value(raw, "zerospan_series_expired_total") == 3, "http, span metrics, edge"
    f.observe(old)
    assert value(f.render(), SERVER, job="old") == 1, "a counter that comes back begins anew"


def test_processes_that_come_and_go_leave_no_memory_behind() -> None:
    f = Feeder(ttl_s=60)
    sizes = []
    for i in range(20):
        for j in range(500):
            f.observe(f.process("curl", f"host:{i}-{j}"), "client")
        f.tick(30, times=50)
        f.tick(31, times=50)
        raw = f.render()
        sizes.append(value(raw, "zerospan_series_bytes"))
        assert total(raw, "http_client_request_duration_seconds_count") <= 500
    assert max(sizes[2:]) <= sizes[1] <= 4 << 20
    assert f.red.observed == 10_000


def test_every_series_is_found_again_after_others_were_forgotten() -> None:
    f = Feeder(ttl_s=100)
    procs = [f.process(f"s{i}") for i in range(1000)]
    for p in procs:
        f.observe(p)
    f.tick(60)
    for p in procs[::3]:
        f.observe(p)
    for _ in range(4):
        f.tick(13, times=200)
    for p in procs:
        f.observe(p)
    raw = f.render()
    for i in range(1000):
        assert value_of(raw, f"s{i}") == (3 if i % 3 == 0 else 1)


_cache: dict[bytes, dict[str, float]] = {}


def value_of(raw: bytes, job: str) -> float:
    if raw not in _cache:
        _cache.clear()
        _cache[raw] = {dict(labels)["job"]: n for labels, n in find(raw, SERVER).items()}
    return _cache[raw][job]


def test_scrapes_and_observations_at_the_same_time_lose_nothing() -> None:
    f = Feeder(ttl_s=3600)
    procs = [f.process(f"s{i}") for i in range(50)]
    done = threading.Event()
    problems: list[str] = []

    def scrape() -> None:
        last = 0.0
        while not done.is_set():
            raw = f.render()
            now = total(raw, SERVER)
            if now < last:
                problems.append(f"count fell from {last} to {now}")
            last = now

    readers = [threading.Thread(target=scrape) for _ in range(2)]
    for r in readers:
        r.start()
    for turn in range(20):
        for p in procs:
            f.observe(p, route=f"/{turn}".encode(), times=100)
        f.tick(1)
    done.set()
    for r in readers:
        r.join()
    assert not problems
    assert total(f.render(), SERVER) == 20 * 50 * 100
