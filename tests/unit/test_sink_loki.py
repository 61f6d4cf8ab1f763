"""Loki's push API against a server that answers as Loki does."""

import gzip
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from sink_receivers import Answer, Receiver, batch, receiver, until

from zerospan.exporter.config.model import Loki
from zerospan.exporter.config.secret import Secret, Url
from zerospan.exporter.sinks.loki import LokiSink, rejections
from zerospan.exporter.sinks.retry import RetryPolicy

FAST = RetryPolicy(initial_s=0.001, max_s=0.004, max_elapsed_s=60)
LINES = json.dumps({"streams": [{"stream": {"service_name": "a"}, "values": [["1", "GET /", {"trace_id": "ab"}]]}]})
BEHIND = (
    "entry with timestamp 2026-11-23 04:00:00 +0000 UTC ignored, reason: 'entry too far behind, entry "
    "timestamp is: 2026-11-23T04:00:00Z, oldest acceptable timestamp is: 2026-11-23T05:00:00Z',\n"
    "user 'fake', total ignored: 3 out of 10 for stream: {service_name=\"a\"}"
)


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiver() as made:
        made.script = []
        yield made


def sink_to(url: str, **settings: Any) -> LokiSink:
    sink = LokiSink("loki", Loki(Url(url), **settings), retry=FAST)
    sink.start()
    return sink


def test_a_push_is_gzip_json_with_tenant_and_login(server: Receiver) -> None:
    server.script = [Answer(204)]
    url = server.url.replace("//", "//me:pw@")
    sink = sink_to(url, tenant="team-a", headers={"X-Extra": Secret("1")})
    sink.put(batch(LINES.encode(), 1, "loki"))
    sink.stop(5)
    (request,) = server.requests
    assert request.path == "/loki/api/v1/push"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-scope-orgid"] == "team-a" and request.headers["x-extra"] == "1"
    assert request.headers["authorization"] == "Basic bWU6cHc="
    assert gzip.decompress(request.body).decode() == LINES
    assert sink.stats.sent_items == 1 and sink.stats.sent_wire_bytes == len(request.body)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/", "/loki/api/v1/push"),
        ("/loki/api/v1/push", "/loki/api/v1/push"),
        ("/gateway/", "/gateway/loki/api/v1/push"),
    ],
)
def test_the_path(server: Receiver, path: str, asked: str) -> None:
    sink = sink_to(server.url + path)
    sink.put(batch(b"{}", 1, "loki"))
    sink.stop(5)
    assert [r.path for r in server.requests] == [asked]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_429_and_5xx_are_retried(server: Receiver, status: int) -> None:
    server.script = [Answer(status, b"Ingestion rate limit exceeded"), Answer(204)]
    sink = sink_to(server.url)
    sink.put(batch(b"{}", 5, "loki"))
    until(lambda: sink.stats.sent_items == 5)
    assert sink.stats.retries == 1 and "rate limit" in sink.stats.last_error
    sink.stop(5)


def test_retry_after_is_honoured(server: Receiver) -> None:
    server.script = [Answer(429, headers={"Retry-After": "1"}), Answer(204)]
    sink = sink_to(server.url)
    began = time.monotonic()
    sink.put(batch(b"{}", 5, "loki"))
    until(lambda: sink.stats.sent_items == 5)
    assert time.monotonic() - began >= 1
    sink.stop(5)


def test_a_400_is_counted_by_lokis_reason_and_not_retried(server: Receiver) -> None:
    server.script = [
        Answer(400, BEHIND.encode()),
        Answer(400, b"Max entry size '262144' bytes exceeded for stream '{}'"),
    ]
    sink = sink_to(server.url)
    sink.put(batch(b"{}", 10, "loki"))
    sink.put(batch(b"{}", 2, "loki"))
    sink.stop(5)
    assert sink.stats.sent_items == 7 and sink.stats.retries == 0
    assert sink.stats.dropped == {"rejected_too_far_behind": 3, "rejected_line_too_long": 2}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (BEHIND, {"rejected_too_far_behind": 3}),
        (BEHIND + "\n" + BEHIND, {"rejected_too_far_behind": 6}),
        ("total ignored: 999999999 out of 999999999, entry out of order", {"rejected_out_of_order": 10}),
        ("entry for stream '{}' has timestamp too old: x", {"rejected_greater_than_max_sample_age": 10}),
        ("entry for stream '{}' has timestamp too new: x", {"rejected_too_far_in_future": 10}),
        (
            "stream '{}' has structured metadata too large: '9' bytes",
            {"rejected_structured_metadata_too_large": 10},
        ),
        ("loghttp.PushRequest.Streams: decode error", {"rejected": 10}),
        ("", {"rejected": 10}),
    ],
)
def test_reasons(words: str, expected: dict[str, int]) -> None:
    assert rejections(words, 10) == expected


def test_other_answers(server: Receiver) -> None:
    server.script = [Answer(401), Answer(413), Answer(404)]
    sink = sink_to(server.url)
    for count in (1, 2, 4):
        sink.put(batch(b"{}", count, "loki"))
    sink.stop(5)
    assert sink.stats.dropped == {"rejected": 5, "too_large": 2} and "/loki/api/v1/push" in sink.stats.last_error
