"""OTLP/HTTP in: HTTP/1.1 on asyncio's streams, as much of it as OTLP needs; bounded in time, memory and connections.

POST /v1/traces, /v1/metrics, /v1/logs; Content-Length or chunked; gzip; protobuf or JSON. Rights are asked for and
memory is taken before a body is read. Sources: RFC 9112; the OTLP specification, "OTLP/HTTP".
"""

import asyncio
import contextlib
import email.utils
import logging
import socket
from collections.abc import Mapping
from typing import Any

import msgspec
from isal import isal_zlib
from isal.igzip_lib import IsalError

from zerospan.enricher.keys import packed
from zerospan.enricher.proxy import ledger
from zerospan.enricher.proxy.answers import JSON, PROTOBUF, Done, Refusal
from zerospan.enricher.proxy.config import SIGNALS, ProxyConfig, Signal
from zerospan.enricher.proxy.intake import Intake
from zerospan.enricher.proxy.ledger import Entry
from zerospan.enricher.security import Rights
from zerospan.exporter.config.rules import listen_address

log = logging.getLogger("zerospan.proxy")

HEAD_BYTES = 32 << 10
READ_AHEAD = 64 << 10  # of a connection, beyond what was taken: asyncio buffers up to twice that and one read
CHUNK = 256 << 10
LINGER_BYTES = 1 << 20  # of a refused body, read so that the answer is not lost by a reset
LINGER_S = 2.0
INFLATE_AWAY = 256 << 10  # larger bodies are decompressed in a thread
GIVEN = 64 << 10  # of a compressed body, at a time
MEMBERS = 1024  # of a gzip body (RFC 1952, 2.2); one of 16 MiB in bgzip's blocks has 256
CHALLENGE = {"WWW-Authenticate": "Bearer"}  # of a 401
PATHS: dict[str, Signal] = {f"/v1/{signal}": signal for signal in SIGNALS}
REASONS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 413: "Content Too Large", 415: "Unsupported Media Type", 429: "Too Many Requests",
    500: "Internal Server Error", 503: "Service Unavailable", 505: "HTTP Version Not Supported",
}  # fmt: skip


class Head(msgspec.Struct):
    """Request line and headers; names in lower case, repeated ones joined by commas."""

    method: str
    path: str
    version: str
    headers: dict[str, str]

    def keep_alive(self) -> bool:
        connection = self.headers.get("connection", "").lower()
        return "close" not in connection if self.version == "HTTP/1.1" else "keep-alive" in connection


class Bad(Exception):
    """What came is no such request: (HTTP status, words). The connection ends."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Refused(Exception):
    """The request is refused, and counted when this is caught."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class HttpServer:
    """Made on the loop."""

    def __init__(self, config: ProxyConfig, rights: Rights, intake: Intake) -> None:
        self.connections = 0
        self.turned_away = 0  # connections beyond max_senders
        self.not_found = 0  # requests that are no OTLP, or no HTTP
        self._config = config
        self._intake = intake
        self._ssl = rights.ssl_context()
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], bool] = {}  # connection -> a request is under way
        self._stopping = False

    async def start(self, address: str) -> int:
        """Listens; returns the port. Raises OSError if it cannot."""
        host, port = listen_address(address)
        self._server = await asyncio.start_server(
            self._connection,
            **_where(host, port),
            limit=READ_AHEAD,
            backlog=512,
            ssl=self._ssl,
            ssl_handshake_timeout=self._config.read_s if self._ssl else None,
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """No new connections; idle ones end. What is under way goes on until `close`."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
        for task, busy in list(self._open.items()):
            if not busy:
                task.cancel()

    async def close(self) -> None:
        """Ends all connections."""
        for task in list(self._open):
            task.cancel()
        if self._open:
            await asyncio.wait(self._open, timeout=1)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.connections >= self._config.max_senders or self._stopping:
            self.turned_away += 1
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        self._open[task] = False
        if hasattr(writer.transport, "max_size"):  # of one read; 256 KiB for each connection are too much
            writer.transport.max_size = READ_AHEAD
        try:
            await self._requests(reader, writer, task)
        except OSError:  # it was too slow, or is gone: nothing more is kept for it
            writer.transport.abort()
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            try:
                await self._closed(writer)
            finally:
                self.connections -= 1
                del self._open[task]

    async def _closed(self, writer: asyncio.StreamWriter) -> None:
        """Closes, when the last answer has been taken; a peer that does not read is one of max_senders until then."""
        try:
            writer.close()
            with contextlib.suppress(OSError):
                async with asyncio.timeout(self._config.read_s):
                    await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]
    ) -> None:
        peer = _peer(writer)
        going_on = True
        while going_on and not self._stopping:
            self._open[task] = False
            try:
                async with asyncio.timeout(self._config.idle_s):
                    first = await reader.read(1)
            except TimeoutError:
                return
            if not first:
                return
            self._open[task] = True
            try:
                async with asyncio.timeout(self._config.read_s):
                    try:
                        head = parse_head(first + await reader.readuntil(b"\r\n\r\n"))
                    except asyncio.LimitOverrunError:
                        raise Bad(400, "the headers are too long") from None
                going_on = await self._request(head, reader, writer, peer)
            except Bad as e:
                self.not_found += 1
                more = CHALLENGE if e.status == 401 else None
                _answer(writer, e.status, "text/plain", str(e).encode(), close=True, more=more)
                await _linger(reader, writer)
                return
            async with asyncio.timeout(self._config.read_s):
                await writer.drain()

    async def _request(
        self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: bytes
    ) -> bool:
        """One request; whether another may follow. Raises Bad."""
        intake = self._intake
        refusal = intake.admit(head.headers)
        signal = PATHS.get(head.path)
        if refusal is not None and refusal.reason == ledger.UNAUTHORIZED and (signal is None or head.method != "POST"):
            raise Bad(401, refusal.message)  # who has no rights does not learn what is there
        if signal is None:
            raise Bad(404, "OTLP is at /v1/traces, /v1/metrics and /v1/logs")
        if head.method != "POST":
            raise Bad(405, "OTLP is POST")
        length = body_length(head.headers)
        entry = intake.ledger.open(signal)
        content_type = head.headers.get("content-type", "").partition(";")[0].strip().lower()
        read = False
        try:
            if refusal is None and content_type not in (PROTOBUF, JSON):
                refusal = Refusal(ledger.UNSUPPORTED, f"the content type must be {PROTOBUF} or {JSON}")
            if refusal is not None:
                raise Refused(refusal)
            encoding = head.headers.get("content-encoding", "identity").strip().lower()
            if encoding not in ("identity", "gzip", ""):
                raise Refused(Refusal(ledger.UNSUPPORTED, "the content encoding must be gzip or none"))
            body = await self._body(head, length, entry, reader, writer)
            read = True
            if encoding == "gzip":
                body = await self._inflated(body, entry)
        except Refused as e:
            entry.refuse(e.refusal.reason)
            # A body that is short is read away, so that the connection lives on; else it ends.
            close = (
                not head.keep_alive() or length is None or length > LINGER_BYTES or e.refusal.reason == ledger.NOT_READ
            )
            close = close or "expect" in head.headers
            _refuse(writer, e.refusal, content_type, close and not (read and head.keep_alive()))
            if read:
                return head.keep_alive()
            if not close:
                return await _skip(reader, length or 0, self._config.read_s)
            await _linger(reader, writer)
            return False
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            entry.refuse(ledger.NOT_READ)
            raise
        except Exception:
            log.exception("proxy: a request could not be read by an error of our own")
            entry.refuse(ledger.INTERNAL_ERROR)
            _refuse(writer, Refusal(ledger.INTERNAL_ERROR, "internal error"), content_type, close=True)
            await _linger(reader, writer)
            return False

        def gone() -> bool:
            return writer.transport.is_closing() or reader.at_eof()

        task = intake.begin(entry, body, content_type, peer, head.headers, None, gone)
        del body
        answer = await asyncio.shield(task)
        close = not head.keep_alive() or self._stopping
        if isinstance(answer, Done):
            _answer(writer, 200, answer.content_type, answer.body, close)
        else:
            _refuse(writer, answer, content_type, close)
        return not close

    async def _body(
        self,
        head: Head,
        length: int | None,
        entry: Entry,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bytes:
        """The body as it comes; its memory is held by the entry. length None: chunked. Raises Refused."""
        most = self._intake.max_request_bytes
        if length is not None:
            if length > most:
                raise Refused(Refusal(ledger.TOO_LARGE, f"a request may have {most} bytes"))
            if not entry.hold(length):
                raise Refused(self._intake.full())
        if head.headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(self._config.read_s):
                return await _exactly(reader, length) if length is not None else await self._chunked(entry, reader)
        except asyncio.LimitOverrunError:  # of READ_AHEAD, without an end of line
            raise Refused(Refusal(ledger.MALFORMED, "a broken chunk")) from None
        except TimeoutError:
            raise Refused(Refusal(ledger.NOT_READ, f"the body did not come in {self._config.read_s} s")) from None

    async def _inflated(self, body: bytes, entry: Entry) -> bytes:
        if len(body) <= INFLATE_AWAY:
            return self._inflate(body, entry)
        return await asyncio.get_running_loop().run_in_executor(None, self._inflate, body, entry)

    async def _chunked(self, entry: Entry, reader: asyncio.StreamReader) -> bytes:
        """RFC 9112, section 7.1; extensions and trailers are read away."""
        parts, size = [], 0
        while True:
            line = await reader.readuntil(b"\r\n")
            digits = line.partition(b";")[0].strip()
            if len(line) > 1024 or not digits or len(digits) > 8 or digits.strip(b"0123456789abcdefABCDEF"):
                raise Refused(Refusal(ledger.MALFORMED, "a broken chunk"))
            n = int(digits, 16)
            if n == 0:
                break
            size += n
            if size > self._intake.max_request_bytes:
                raise Refused(Refusal(ledger.TOO_LARGE, f"a request may have {self._intake.max_request_bytes} bytes"))
            if not entry.hold(n):
                raise Refused(self._intake.full())
            parts.append(await _exactly(reader, n))
            if await reader.readexactly(2) != b"\r\n":
                raise Refused(Refusal(ledger.MALFORMED, "a broken chunk"))
        for _ in range(64):
            if await reader.readuntil(b"\r\n") == b"\r\n":
                return b"".join(parts)
        raise Refused(Refusal(ledger.MALFORMED, "too many trailers"))

    def _inflate(self, body: bytes, entry: Entry) -> bytes:
        """gzip, never more of it than may be held at a time. Raises Refused."""
        parts: list[bytes] = []
        size, most = len(body), self._intake.max_request_bytes
        view = memoryview(body)
        at = total = members = 0
        while at < size or not members:
            members += 1
            if members > MEMBERS:
                raise Refused(Refusal(ledger.MALFORMED, "too many gzip members"))
            stream = isal_zlib.decompressobj(31)
            while not stream.eof:
                step = min(CHUNK, most - total + 1)
                if not entry.hold(step):
                    raise Refused(self._intake.full())
                given = view[at : at + GIVEN]  # what it does not use is copied: never all the rest
                try:
                    part = stream.decompress(given, step)
                except (IsalError, ValueError):  # type: ignore[misc]
                    raise Refused(Refusal(ledger.MALFORMED, "not gzip")) from None
                entry.release(step - len(part))
                at += len(given) - len(stream.unused_data if stream.eof else stream.unconsumed_tail)
                total += len(part)
                if part:
                    parts.append(part)
                if total > most:
                    raise Refused(Refusal(ledger.TOO_LARGE, f"a request may have {most} bytes"))
                if not part and at == size and not stream.eof:
                    raise Refused(Refusal(ledger.MALFORMED, "gzip without its end"))
        entry.release(size)
        return b"".join(parts)


def parse_head(data: bytes) -> Head:
    """The head with its empty line. Raises Bad."""
    if len(data) > HEAD_BYTES:
        raise Bad(400, "the headers are too long")
    lines = data.decode("latin-1").lstrip("\r\n").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3:
        raise Bad(400, "no HTTP request")
    method, target, version = words
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise Bad(505, "HTTP/1.1 is spoken here")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        if not line:
            continue
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or "\n" in value or "\r" in value or "\0" in value:
            raise Bad(400, "a broken header")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Head(method, target.partition("?")[0], version, headers)


def body_length(headers: Mapping[str, str]) -> int | None:
    """Bytes of the body; None: chunked. Raises Bad where both or neither are said (RFC 9112, section 6)."""
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if length is not None or coding.lower() != "chunked":
            raise Bad(400, "Transfer-Encoding must be chunked, alone")
        return None
    if length is None or not length.isascii() or not length.isdigit() or len(length) > 15:
        raise Bad(400, "no Content-Length")
    return int(length)


async def _exactly(reader: asyncio.StreamReader, n: int) -> bytes:
    parts = []
    while n:
        part = await reader.read(min(n, CHUNK))
        if not part:
            raise asyncio.IncompleteReadError(b"", n)
        parts.append(part)
        n -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _skip(reader: asyncio.StreamReader, n: int, seconds: float) -> bool:
    """Reads n bytes away; whether they came."""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(seconds):
            while n:
                part = await reader.read(min(n, CHUNK))
                if not part:
                    return False
                n -= len(part)
            return True
    return False


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Lets the sender read the answer: a connection closed with bytes unread is reset (RFC 9112, section 9.6)."""
    with contextlib.suppress(OSError, TimeoutError, NotImplementedError):
        async with asyncio.timeout(LINGER_S):
            await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
            n = 0
            while n < LINGER_BYTES and (part := await reader.read(CHUNK)):
                n += len(part)


def _refuse(writer: asyncio.StreamWriter, refusal: Refusal, content_type: str, close: bool) -> None:
    more = {}
    if (after := refusal.retry_after()) is not None:
        more["Retry-After"] = after
    if refusal.http == 401:
        more |= CHALLENGE
    if content_type == JSON:
        _answer(writer, refusal.http, JSON, refusal.json(), close, more)
    else:
        _answer(writer, refusal.http, PROTOBUF, refusal.status(), close, more)


def _answer(
    writer: asyncio.StreamWriter,
    status: int,
    content_type: str,
    body: bytes,
    close: bool,
    more: Mapping[str, str] | None = None,
) -> None:
    lines = [
        f"HTTP/1.1 {status} {REASONS[status]}",
        f"Date: {email.utils.formatdate(usegmt=True)}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in (more or {}).items()),
    ]
    if close:
        lines.append("Connection: close")
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)


def _where(host: str, port: int) -> dict[str, Any]:
    """For start_server; no host is `::`. That is IPv4, too, as with gRPC; asyncio's own sockets are of one family."""
    host = host or "::"
    if host == "::" and socket.has_dualstack_ipv6():
        return {"sock": socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)}
    return {"host": host, "port": port}


def _peer(writer: asyncio.StreamWriter) -> bytes:
    name = writer.get_extra_info("peername")
    try:
        return packed(name[0])
    except (TypeError, IndexError, ValueError):
        return b""
