"""Brings requests to the endpoint and its answers back: attempts, time-outs, waits.

On the proxy's loop. Nothing is stored: a request is tried for `retry_max_s`, then its sender is told when to come
again.
Sources: the OTLP specification, "OTLP/gRPC" and "OTLP/HTTP" (retryable answers, throttling, partial success).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from zerospan.enricher.proxy import ledger
from zerospan.enricher.proxy.answers import JSON, PROTOBUF, RETRY_S, Done, Refusal, partial_bytes
from zerospan.enricher.proxy.config import SIGNALS, ProxyConfig, Signal
from zerospan.enricher.proxy.json_protobuf import REJECTED, answer_json
from zerospan.exporter.sinks.http import (
    MAX_RESPONSE_BYTES,
    USER_AGENT,
    Poster,
    Response,
    Unreachable,
    gzip,
)
from zerospan.exporter.sinks.otlp_grpc import METHODS, NO_ANSWER, RETRYABLE, STATUS_DETAILS, address
from zerospan.exporter.sinks.otlp_http import RETRYABLE as RETRYABLE_HTTP
from zerospan.exporter.sinks.queue import printable
from zerospan.exporter.sinks.retry import RetryPolicy, parse_retry_after, retry_info_s, status_message
from zerospan.exporter.sinks.wire import PartialSuccess, partial_success

POLICY = RetryPolicy(initial_s=0.1, max_s=2.0)


class Busy(msgspec.Struct, frozen=True):
    """It may work later; after_s: the endpoint's own wish."""

    message: str
    after_s: float | None = None


class Request(msgspec.Struct):
    """What goes to the endpoint. headers: names in lower case."""

    signal: Signal
    body: bytes
    content_type: str = PROTOBUF
    headers: dict[str, str] = {}


class Upstream(Protocol):
    """The endpoint, by one transport."""

    takes_json: bool

    async def send(self, request: Request) -> Done | Refusal | Busy:
        """One attempt, bounded in time."""

    async def close(self) -> None:
        """Breaks off what is under way."""


class Forwarder:
    """Attempts and waits, for all signals. Assumes the loop that made it."""

    def __init__(self, config: ProxyConfig, upstream: Upstream) -> None:
        self.upstream = upstream
        self.last_error = ""
        self._retry_max_s = config.retry_max_s
        self._room = asyncio.Semaphore(config.connections)
        self._not_before = 0.0  # monotonic: the endpoint's own wish holds for all
        self._failing = 0  # attempts in a row that did not work, of anyone
        self._stopping = asyncio.Event()

    async def deliver(
        self, request: Request, entry: ledger.Entry, left_s: float | None, gone: Callable[[], bool]
    ) -> Done | Refusal:
        """Tries until it is settled, for retry_max_s, or half of `left_s` where the sender's own deadline is nearer.
        gone(): whether the sender still waits. Never raises but CancelledError.
        """
        give_up = time.monotonic() + (self._retry_max_s if left_s is None else min(self._retry_max_s, left_s / 2))
        failures, pause = 0, 0.0
        while True:
            until = max(self._not_before, time.monotonic() + pause)
            while (wait := until - time.monotonic()) > 0:
                if until > give_up:
                    return self._later(wait)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), wait)
                if self._stopping.is_set():
                    return Refusal(ledger.SHUTDOWN, "the proxy stops", RETRY_S)
                until = max(until, self._not_before)
            waited = failures > 0 or self._room.locked()
            try:
                await asyncio.wait_for(self._room.acquire(), max(0.001, give_up - time.monotonic()))
            except TimeoutError:
                return self._later(RETRY_S)
            try:
                if waited and gone():  # at first it is asked for nothing: a sender may close its side at once
                    return Refusal(ledger.NOT_READ, "the sender broke off")
                if failures:
                    entry.retried()
                answer = await self.upstream.send(request)
            finally:
                self._room.release()
            if not isinstance(answer, Busy):
                self._failing = 0
                return answer
            failures += 1
            self._failing += 1
            self.last_error = printable(answer.message)
            if answer.after_s is None:
                pause = POLICY.wait_s(failures)
            else:
                self._not_before = max(self._not_before, time.monotonic() + answer.after_s)

    def _later(self, wait_s: float) -> Refusal:
        return Refusal(ledger.UNAVAILABLE, self.last_error or "the endpoint is too slow", max(wait_s, RETRY_S))

    @property
    def failing(self) -> bool:
        """Whether the last attempt did not work."""
        return self._failing > 0

    def stop(self) -> None:
        """No more waits: what would have to be tried again is refused."""
        self._stopping.set()


class HttpUpstream:
    """POST by the sinks' Poster, each in a thread while it sends: one connection for each request under way."""

    takes_json = True

    def __init__(self, config: ProxyConfig) -> None:
        base = urlsplit(config.endpoint.reveal()).path.rstrip("/")
        self._base, self._config = base, config
        self._idle: dict[Signal, list[Poster]] = {signal: [self._make(signal)] for signal in SIGNALS}
        self._busy: set[Poster] = set()
        self._gzip = config.compression == "gzip"
        self._threads = ThreadPoolExecutor(config.connections, "zs-proxy-post")
        self._closed = False

    def _make(self, signal: Signal) -> Poster:
        c = self._config
        return Poster(c.endpoint, f"{self._base}/v1/{signal}", c.headers, c.timeout_s, c.tls)

    async def send(self, request: Request) -> Done | Refusal | Busy:
        idle = self._idle[request.signal]
        poster = idle.pop() if idle else self._make(request.signal)
        self._busy.add(poster)
        try:
            response = await asyncio.shield(
                asyncio.get_running_loop().run_in_executor(self._threads, self._post, poster, request)
            )
        except Unreachable as e:
            self._back(idle, poster)
            return Busy(str(e))
        self._back(idle, poster)
        return self._judge(request, response, poster)

    def _back(self, idle: list[Poster], poster: Poster) -> None:
        self._busy.discard(poster)
        if self._closed:
            poster.close()
        else:
            idle.append(poster)

    def _post(self, poster: Poster, request: Request) -> Response:
        headers = {**request.headers, "Content-Type": request.content_type}
        body = request.body
        if self._gzip:
            body = gzip(body)
            headers["Content-Encoding"] = "gzip"
        return poster.post(body, headers)

    def _judge(self, request: Request, response: Response, poster: Poster) -> Done | Refusal | Busy:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if 200 <= response.status < 300:
            return _understood(response, kind, request.signal, request.content_type == JSON)
        words = status_message(response.body) if kind == PROTOBUF else response.body[:300].decode("utf-8", "replace")
        message = f"the endpoint says HTTP {response.status}: {printable(poster.redact(words))}"
        if response.status in RETRYABLE_HTTP:
            return Busy(message, parse_retry_after(response.headers.get("retry-after")))
        if response.status == 413:
            return Refusal(ledger.TOO_LARGE, message)
        return Refusal(ledger.REJECTED, message)

    async def close(self) -> None:
        self._closed = True
        for poster in list(self._busy):
            poster.abort()
        for idle in self._idle.values():
            while idle:
                idle.pop().close()
        self._threads.shutdown(wait=False, cancel_futures=True)


class GrpcUpstream:
    """Calls Export with the bytes as they are. Made on the loop."""

    takes_json = False

    def __init__(self, config: ProxyConfig) -> None:
        import grpc  # type: ignore[import-untyped]
        import grpc.aio  # type: ignore[import-untyped]

        self._timeout_s = config.timeout_s
        self._compression = grpc.Compression.Gzip if config.compression == "gzip" else None
        self._metadata = tuple((name.lower(), secret.reveal()) for name, secret in config.headers.items())
        self._hidden = [value for _, value in self._metadata if value]
        self._target, credentials = address(config.endpoint.reveal(), config.tls)
        options = [
            ("grpc.primary_user_agent", USER_AGENT),
            ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_retries", 0),  # retrying is ours: it must be counted
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self._channel = (
            grpc.aio.insecure_channel(self._target, options)
            if credentials is None
            else grpc.aio.secure_channel(self._target, credentials, options)
        )
        self._calls = {signal: self._channel.unary_unary(METHODS[signal]) for signal in SIGNALS}
        self._errors: tuple[type[Exception], ...] = (grpc.aio.AioRpcError,)

    async def send(self, request: Request) -> Done | Refusal | Busy:
        metadata = self._metadata
        if request.headers:
            metadata += tuple(request.headers.items())
        try:
            body: bytes = await self._calls[request.signal](
                request.body, timeout=self._timeout_s, metadata=metadata, compression=self._compression
            )
        except self._errors as e:
            return self._judge(e)
        return Done(body, PROTOBUF, partial_success(body).rejected)

    def _judge(self, error: Any) -> Refusal | Busy:
        code: str = error.code().name
        words = error.details() or ""
        for secret in self._hidden:
            words = words.replace(secret, "***")
        message = f"{self._target}: gRPC {code}: {printable(words)}"
        details = next((v for k, v in error.trailing_metadata() or () if k == STATUS_DETAILS), b"")
        after_s = retry_info_s(details) if isinstance(details, bytes) else None
        if code == "RESOURCE_EXHAUSTED":
            if after_s is not None:  # without RetryInfo it is no promise of recovery
                return Busy(message, after_s)
            too_large = "message larger than max" in words or "message too large" in words.lower()
            return Refusal(ledger.TOO_LARGE if too_large else ledger.REJECTED, message)
        if code in RETRYABLE or code in NO_ANSWER:
            return Busy(message, after_s)
        return Refusal(ledger.REJECTED, message)

    async def close(self) -> None:
        await self._channel.close()


def upstream(config: ProxyConfig) -> Upstream:
    """The endpoint of the configuration. Raises OSError for a TLS file that is of no use, ImportError without grpc."""
    return GrpcUpstream(config) if config.protocol == "grpc" else HttpUpstream(config)


def passed(headers: Mapping[str, str], names: frozenset[str]) -> dict[str, str]:
    """The sender's headers that go on; values that no header may have do not."""
    found = {name: headers[name] for name in names if name in headers}
    return {name: value for name, value in found.items() if value.isascii() and value.isprintable()}


def _understood(response: Response, kind: str, signal: Signal, json: bool) -> Done:
    """A good answer in the request's own language, whatever it came in: a sender that cannot read it sends again."""
    if kind == JSON:
        partial = _partial_json(response.body)
        body = (response.body or b"{}") if json else partial_bytes(partial)
    else:
        known = response.body if kind == PROTOBUF else b""  # "OK" in plain text, say
        partial = partial_success(known)
        body = answer_json(known, signal) if json else known
    return Done(body, JSON if json else PROTOBUF, partial.rejected)


def _partial_json(body: bytes) -> PartialSuccess:
    try:
        told = msgspec.json.decode(body or b"{}", type=dict[str, Any]).get("partialSuccess") or {}
        rejected = max(0, *(int(told.get(name) or 0) for name in REJECTED.values()))
        return PartialSuccess(rejected, str(told.get("errorMessage") or ""))
    except (msgspec.DecodeError, ValueError, TypeError, AttributeError, RecursionError):
        return PartialSuccess()
