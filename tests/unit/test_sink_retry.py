"""Back-off, Retry-After, RetryInfo and the tiny protobuf reader."""

import random
import time
from email.utils import formatdate

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from zerospan.exporter.sinks import wire
from zerospan.exporter.sinks.retry import RetryPolicy, parse_retry_after, retry_info_s, status_message


def test_wait_is_uniform_below_a_ceiling_that_doubles_and_is_bounded() -> None:
    policy = RetryPolicy(initial_s=0.5, max_s=30)
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    for failures in (1, 2, 3, 7, 8, 10_000):
        policy.wait_s(failures, uniform)
    assert asked == [(0, 0.5), (0, 1), (0, 2), (0, 30), (0, 30), (0, 30)]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("7", 7), (" 120 ", 120), ("9" * 400, 999_999_999), (None, None), ("", None)]
    + [(bad, None) for bad in ("-1", "1.5", "soon", "Mon, 99 Foo 2020 00:00:00 GMT", "\u0663", "1e3")],
)
def test_retry_after_in_seconds(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text) == seconds


def test_retry_after_as_a_date() -> None:
    now = time.time()
    assert parse_retry_after(formatdate(now + 90, usegmt=True), now=lambda: now) == pytest.approx(90, abs=1)
    assert parse_retry_after(formatdate(now - 90, usegmt=True), now=lambda: now) == 0


def status(*details: object) -> bytes:
    message = Status(code=8, message="slow down")
    for detail in details:
        packed = Any()
        packed.Pack(detail)  # type: ignore[arg-type]
        message.details.append(packed)
    return message.SerializeToString()


def test_retry_info_is_found_among_other_details() -> None:
    info = RetryInfo(retry_delay=Duration(seconds=5, nanos=250_000_000))
    assert retry_info_s(status(ErrorInfo(reason="x"), info)) == 5.25
    assert retry_info_s(status(RetryInfo())) == 0
    assert retry_info_s(status(RetryInfo(retry_delay=Duration(seconds=-5)))) == 0
    assert retry_info_s(status(ErrorInfo(reason="x"))) is None
    assert retry_info_s(b"") is None
    assert status_message(status()) == "slow down"


@pytest.mark.parametrize("response", [ExportTraceServiceResponse, ExportLogsServiceResponse])
def test_partial_success_as_protobuf_writes_it(response: type) -> None:
    made = response()
    assert wire.partial_success(made.SerializeToString()) == wire.PartialSuccess()
    made.partial_success.error_message = "zu spät"
    assert wire.partial_success(made.SerializeToString()) == wire.PartialSuccess(0, "zu spät")
    setattr(
        made.partial_success,
        "rejected_spans" if "Trace" in response.__name__ else "rejected_log_records",
        300,
    )
    assert wire.partial_success(made.SerializeToString()) == wire.PartialSuccess(300, "zu spät")


def test_any_bytes_are_read_without_an_error() -> None:
    good = status(RetryInfo(retry_delay=Duration(seconds=5)))
    chance = random.Random(7)
    for _ in range(3000):
        cut = bytearray(good[: chance.randrange(len(good) + 1)])
        for _ in range(chance.randrange(4)):
            if cut:
                cut[chance.randrange(len(cut))] = chance.randrange(256)
        delay = retry_info_s(bytes(cut))
        assert delay is None or delay >= 0
        assert wire.partial_success(bytes(cut)).rejected >= 0
    assert list(wire.fields(b"\xff" * 1000)) == []
    assert list(wire.fields(b"\x0a\xff\xff\xff\xff\x0f" + b"x" * 50)) == []  # announces 4 GB
