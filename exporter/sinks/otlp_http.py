"""OTLP over HTTP with binary protobuf.

Source: the OTLP specification, "OTLP/HTTP" (which answers are retried, partial success, Status in error
bodies). Made by `build.py`. The payload of a batch is a whole ExportTraceServiceRequest or
ExportLogsServiceRequest.
"""

from urllib.parse import urlsplit

from zerospan.exporter.config.model import OtlpSignal
from zerospan.exporter.sinks.base import REJECTED, TOO_LARGE, Batch, Overflow, Signal
from zerospan.exporter.sinks.http import Poster, Response, Unreachable, gzip
from zerospan.exporter.sinks.queue import DEFAULT_QUEUE_BYTES, Outcome, QueueSink, Refused, Retry, Sent
from zerospan.exporter.sinks.retry import RetryPolicy, parse_retry_after, status_message
from zerospan.exporter.sinks.wire import partial_success

RETRYABLE = (429, 502, 503, 504)  # the specification's list; all other errors must not be retried
CONTENT_TYPE = "application/x-protobuf"


class OtlpHttpSink(QueueSink):
    """Posts each batch to `<endpoint>`, or `<endpoint>/v1/<signal>` if the endpoint has no path at all."""

    def __init__(
        self,
        name: str,
        signal: Signal,
        receiver: OtlpSignal,
        *,
        queue_bytes: int = DEFAULT_QUEUE_BYTES,
        overflow: Overflow = "drop_oldest",
        retry: RetryPolicy | None = None,
    ) -> None:
        super().__init__(name, signal, queue_bytes=queue_bytes, overflow=overflow, retry=retry)
        path = urlsplit(receiver.endpoint.reveal()).path or f"/v1/{signal}"
        self._poster = Poster(receiver.endpoint, path, receiver.headers, receiver.timeout_s, receiver.tls)
        self._gzip = receiver.compression == "gzip"
        self._headers = {"Content-Type": CONTENT_TYPE}
        if self._gzip:
            self._headers["Content-Encoding"] = "gzip"
        self._body: bytes | memoryview = b""

    def _send(self, batch: Batch, first: bool) -> Outcome:
        if first:
            self._body = gzip(batch.payload) if self._gzip else batch.payload
        try:
            response = self._poster.post(self._body, self._headers)
        except Unreachable as e:
            return Retry(str(e), unreachable=True)
        return self._judge(response)

    def _judge(self, response: Response) -> Outcome:
        status = response.status
        if 200 <= status < 300:
            partial = partial_success(response.body)
            words = self._poster.redact(partial.message)
            if partial.rejected:
                said = f"the receiver rejected {partial.rejected} items: {words}"
                return Sent(len(self._body), {REJECTED: partial.rejected}, said)
            return Sent(len(self._body), message=f"the receiver warns: {words}" if words else "")
        message = f"HTTP {status}: {self._poster.redact(self._words(response))}"
        if status in RETRYABLE:
            return Retry(message, parse_retry_after(response.headers.get("retry-after")))
        if status == 413:
            return Refused(message, TOO_LARGE)
        if status in (404, 405):
            message += f" (is the path right? OTLP/HTTP is at /v1/{self.signal})"
        return Refused(message, REJECTED)

    def _words(self, response: Response) -> str:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == CONTENT_TYPE:
            return status_message(response.body)
        return response.body[:1000].decode("utf-8", "replace")

    def _abort(self) -> None:
        self._poster.abort()

    def _close(self) -> None:
        self._poster.close()
