"""Loki's push API, JSON with gzip.

Source: Loki's HTTP API documentation (POST /loki/api/v1/push) and its reasons for discarding lines
(`loki_discarded_samples_total{reason}`), which name what was dropped here, too, as `rejected_<reason>`. Made
by `build.py`.
"""

import re
from urllib.parse import urlsplit

from zerospan.exporter.config.model import Loki
from zerospan.exporter.config.secret import Secret
from zerospan.exporter.sinks.base import REJECTED, TOO_LARGE, Batch
from zerospan.exporter.sinks.http import Poster, Response, Unreachable, gzip
from zerospan.exporter.sinks.queue import Outcome, QueueSink, Refused, Retry, Sent
from zerospan.exporter.sinks.retry import RetryPolicy, parse_retry_after

PUSH = "/loki/api/v1/push"

# Words of Loki's error -> its own name of the reason; the first that is found counts.
REASONS = (
    ("entry too far behind", "too_far_behind"),
    ("out of order", "out_of_order"),
    ("max entry size", "line_too_long"),
    ("timestamp too old", "greater_than_max_sample_age"),
    ("timestamp too new", "too_far_in_future"),
    ("structured metadata too large", "structured_metadata_too_large"),
    ("too many structured metadata", "structured_metadata_too_many"),
    ("includes structured metadata", "disallowed_structured_metadata"),
    ("label names; limit", "max_label_names_per_series"),
    ("label name too long", "label_name_too_long"),
    ("label value too long", "label_value_too_long"),
    ("duplicate label name", "duplicate_label_names"),
    ("missing required labels", "missing_enforced_labels"),
    ("at least one label pair", "missing_labels"),
    ("error parsing labels", "invalid_labels"),
    ("ingestion blocked", "blocked_ingestion"),
)
IGNORED = re.compile(r"total ignored: ([0-9]{1,9}) out of ([0-9]{1,9})")


class LokiSink(QueueSink):
    """Pushes each batch (a whole push request as JSON); `count` is its number of lines."""

    def __init__(self, name: str, loki: Loki, *, retry: RetryPolicy | None = None) -> None:
        policy = retry or RetryPolicy(max_elapsed_s=loki.retry_max_s)
        super().__init__(name, "loki", queue_bytes=loki.queue_bytes, overflow=loki.overflow, retry=policy)
        path = urlsplit(loki.url.reveal()).path.rstrip("/")
        if not path.endswith("/api/v1/push"):
            path += PUSH
        headers = dict(loki.headers)
        if loki.tenant is not None:
            headers["X-Scope-OrgID"] = Secret(loki.tenant)
        self._poster = Poster(loki.url, path, headers, loki.timeout_s, loki.tls)
        self._headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        self._body = b""

    def _send(self, batch: Batch, first: bool) -> Outcome:
        if first:
            self._body = gzip(batch.payload)
        try:
            response = self._poster.post(self._body, self._headers)
        except Unreachable as e:
            return Retry(str(e), unreachable=True)
        return self._judge(response, batch.count)

    def _judge(self, response: Response, count: int) -> Outcome:
        status = response.status
        if 200 <= status < 300:
            return Sent(len(self._body))
        words = response.body.decode("utf-8", "replace")
        message = f"HTTP {status}: {self._poster.redact(words)}"
        if status == 429 or status >= 500:
            return Retry(message, parse_retry_after(response.headers.get("retry-after")))
        if status == 413:
            return Refused(message, TOO_LARGE)
        if status == 400:
            rejected = rejections(words, count)
            if sum(rejected.values()) < count:
                return Sent(len(self._body), rejected, message)
            return Refused(message, next(iter(rejected)))
        if status in (404, 405):
            message += f" (is loki.url right? the push API is at {PUSH})"
        return Refused(message, REJECTED)

    def _abort(self) -> None:
        self._poster.abort()

    def _close(self) -> None:
        self._poster.close()


def rejections(words: str, count: int) -> dict[str, int]:
    """Reason -> lines of a batch of `count` lines that Loki did not take, from the text of its 400.

    Loki takes the good lines of a request and answers 400 for the others. It says how many only for lines
    that came too late; otherwise all are counted as rejected, which is the most that can be lost.
    """
    lower = words.lower()
    reason = next((f"{REJECTED}_{name}" for text, name in REASONS if text in lower), REJECTED)
    ignored = sum(int(m[1]) for m in IGNORED.finditer(words))
    return {reason: min(ignored, count) if ignored else count}
