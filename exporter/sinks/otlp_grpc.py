"""OTLP over gRPC; grpcio is imported when the first such sink is built (it costs 21 MB).

Source: the OTLP specification, "OTLP/gRPC" (which codes are retried, RetryInfo, partial success). Made by
`build.py`. The payload of a batch is a whole Export*ServiceRequest: it goes out as it is, without a protobuf
library. METHODS and `address` also serve the enricher's proxy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zerospan.exporter.config.model import OtlpSignal, Tls
from zerospan.exporter.sinks.base import REJECTED, TOO_LARGE, Batch, Overflow, Signal
from zerospan.exporter.sinks.http import MAX_RESPONSE_BYTES, USER_AGENT, tls_context
from zerospan.exporter.sinks.queue import DEFAULT_QUEUE_BYTES, Outcome, QueueSink, Refused, Retry, Sent
from zerospan.exporter.sinks.retry import RetryPolicy, retry_info_s
from zerospan.exporter.sinks.wire import partial_success

if TYPE_CHECKING:
    import grpc  # type: ignore[import-untyped]

METHODS = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
RETRYABLE = ("CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS")
NO_ANSWER = ("DEADLINE_EXCEEDED", "UNAVAILABLE")
STATUS_DETAILS = "grpc-status-details-bin"


class OtlpGrpcSink(QueueSink):
    """Calls Export with each batch. Raises ImportError without grpcio, OSError for a missing TLS file."""

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
        import grpc

        self._grpc = grpc
        self._timeout_s = receiver.timeout_s
        self._compression = grpc.Compression.Gzip if receiver.compression == "gzip" else None
        self._metadata = tuple((name.lower(), value.reveal()) for name, value in receiver.headers.items())
        self._hidden = [value for _, value in self._metadata if value]
        target, credentials = address(receiver.endpoint.reveal(), receiver.tls)
        self._shown = target
        options = [
            ("grpc.primary_user_agent", USER_AGENT),
            ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
            ("grpc.enable_retries", 0),  # retrying is ours: it must be counted
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", 5000),  # grpc's two minutes would outlast a receiver's restart
        ]
        self._channel: grpc.Channel = (
            grpc.insecure_channel(target, options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options)
        )
        self._export: Any = self._channel.unary_unary(METHODS[signal], _as_is, _as_is)
        self._call: grpc.Future | None = None
        self._wire_bytes = 0

    def _send(self, batch: Batch, first: bool) -> Outcome:
        grpc = self._grpc
        call = self._export.future(
            bytes(batch.payload), timeout=self._timeout_s, metadata=self._metadata, compression=self._compression
        )
        self._call = call
        if self._closed:  # stop() came in between: it may have missed this call
            call.cancel()
        try:
            response: bytes = call.result()
        except grpc.FutureCancelledError:
            return Retry("broken off: the sink stops", unreachable=True)
        except grpc.RpcError as e:
            return self._judge(e)
        finally:
            self._call = None
        partial = partial_success(response)
        words = self._redact(partial.message)
        if partial.rejected:
            said = f"the receiver rejected {partial.rejected} items: {words}"
            return Sent(len(batch.payload), {REJECTED: partial.rejected}, said)
        return Sent(len(batch.payload), message=f"the receiver warns: {words}" if words else "")

    def _judge(self, error: Any) -> Outcome:
        code: str = error.code().name
        words = self._redact(error.details() or "")
        message = f"{self._shown}: gRPC {code}: {words}"
        details = next((v for k, v in error.trailing_metadata() or () if k == STATUS_DETAILS), b"")
        after_s = retry_info_s(details) if isinstance(details, bytes) else None
        if code == "RESOURCE_EXHAUSTED":
            if after_s is not None:  # without RetryInfo it is no promise of recovery
                return Retry(message, after_s)
            too_large = "message larger than max" in words or "message too large" in words.lower()
            return Refused(message, TOO_LARGE if too_large else REJECTED)
        if code in RETRYABLE:
            return Retry(message, after_s, unreachable=code in NO_ANSWER and after_s is None)
        return Refused(message, REJECTED)

    def _redact(self, text: str) -> str:
        for secret in self._hidden:
            text = text.replace(secret, "***")
        return text

    def _abort(self) -> None:
        call = self._call
        if call is not None:
            call.cancel()

    def _close(self) -> None:
        self._channel.close()


def address(endpoint: str, tls: Tls) -> tuple[str, grpc.ChannelCredentials | None]:
    """HOST:PORT and credentials (None: plain text). The scheme decides; without one tls.insecure. Raises OSError for a
    TLS file that is of no use.
    """
    with_scheme = "://" in endpoint
    parts = urlsplit(endpoint if with_scheme else "//" + endpoint)
    plain = parts.scheme == "http" if with_scheme else tls.insecure
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    return f"{host}:{parts.port or 4317}", None if plain else _credentials(tls)


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    import grpc

    tls_context(tls)  # says which file is not usable; grpc would say it at the first connection, to nobody
    ca, key, cert = (Path(name).read_bytes() if name else None for name in (tls.ca, tls.key, tls.cert))
    return grpc.ssl_channel_credentials(ca, key, cert)


def _as_is(message: bytes) -> bytes:
    return message
