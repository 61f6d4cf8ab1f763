"""The HTTP server of /metrics: one thread, non-blocking sockets, nothing that a client can hold up.

The standard library's servers take a thread for each connection and wait for it without end;
prometheus_client's stood with 62 threads before 60 half-open clients. Here a connection is a small record
in a selector loop, and there are at most `max_connections` of them. When all are taken, the one that has
waited longest without a whole request makes room; only if all are busy with answers the new one gets 503.
A request's head is at most 8 KiB and must be there within `timeout_s`; an answer must be taken within
`timeout_s`; what waits to be sent is bounded in bytes. A scrape is rendered in this thread, so that there is
never more than one.

Assumes that `render` is safe to call from this thread. Built and stopped by the pipeline, which serves without TLS (put
a proxy before it), and by the enricher, with TLS, rights and pages of its own.
"""

import contextlib
import errno
import logging
import selectors
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from zerospan.exporter.config.rules import listen_address

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
HEAD_MAX = 8192
PENDING_MAX = 64 << 20
"""Bytes of answers that may wait for slow clients, all together."""
SEND_PIECE = 256 << 10
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
log = logging.getLogger(__name__)

Page = Callable[[dict[str, list[str]]], tuple[int, str, bytes]]
"""Parameters of the query -> status, content type, body; called in the server's thread."""


def qualities(header: str) -> list[tuple[str, dict[str, str], float]]:
    """The members of Accept or Accept-Encoding as (value, parameters, q); RFC 9110 section 12.4.2.

    A q that is none counts as 0.
    """
    out = []
    for member in header.split(","):
        value, *params = (part.strip() for part in member.split(";"))
        if not value:
            continue
        pairs = (param.partition("=") for param in params)
        named = {name.strip().lower(): text.strip().strip('"') for name, _, text in pairs}
        try:
            q = float(named.pop("q", "1"))
        except ValueError:
            q = 0.0
        out.append((value.lower(), named, q if 0 <= q <= 1 else 0.0))
    return out


def wants_openmetrics(accept: str) -> bool:
    """Whether OpenMetrics 1.0 is asked for by name, and no less than the old text."""
    openmetrics = text = 0.0
    for value, params, q in qualities(accept):
        if value == "application/openmetrics-text" and params.get("version", "1.0.0") == "1.0.0":
            openmetrics = max(openmetrics, q)
        elif value == "text/plain" and params.get("version", "0.0.4") == "0.0.4":
            text = max(text, q)
    return openmetrics > 0 and openmetrics >= text


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether the client takes gzip: by name, or by "*" if it does not refuse it by name."""
    named = {value: q for value, _, q in qualities(accept_encoding)}
    return named.get("gzip", named.get("*", 0.0)) > 0


def gzipped(body: bytes) -> bytes:
    """Fast rather than small: level 1 makes a twentieth of it."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    return compressor.compress(body) + compressor.flush()


@dataclass(eq=False)
class _Connection:
    sock: socket.socket
    deadline: float
    head: bytearray = field(default_factory=bytearray)
    answer: memoryview = memoryview(b"")
    close: bool = False  # after the answer


class _BadRequest(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class MetricsServer:
    """GET and HEAD of /metrics and /healthz.

    listen: HOST:PORT, as in the configuration (ValueError); port 0 takes a free one, see `port`.
    render: the text of a scrape; called with True for OpenMetrics.
    health: None if all is well, else what is wrong, which is answered with 503.
    timeout_s: seconds for a whole request to come, and for an answer to be taken.
    key: of the configuration, for messages. tls: the context for a new connection; None: plain text.
    allow: whether a request with these headers (names in lower case) may be answered, but for paths in `public`.
    pages: further paths.
    The socket is bound here (OSError) and served from start() on.
    """

    def __init__(
        self,
        listen: str,
        render: Callable[[bool], bytes],
        max_connections: int = 64,
        timeout_s: float = 10,
        health: Callable[[], str | None] | None = None,
        *,
        key: str = "metrics.listen",
        tls: ssl.SSLContext | None = None,
        allow: Callable[[Mapping[str, str]], bool] | None = None,
        public: frozenset[str] = frozenset(),
        pages: Mapping[str, Page] | None = None,
    ) -> None:
        self.listen = listen
        self._key, self._tls, self._allow, self._public = key, tls, allow, public
        self._pages = pages or {}
        self._render = render
        self._health = health
        self._max = max_connections
        self._timeout = timeout_s
        self._listener = self._bind(*listen_address(listen))
        self.host: str = self._listener.getsockname()[0]
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._waker = socket.socketpair()
        self._connections: dict[_Connection, None] = {}  # by when they came, or last finished an answer
        self._pending = 0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._counts: dict[str, int] = {}

    def _bind(self, host: str, port: int) -> socket.socket:
        if not host:
            with contextlib.suppress(OSError):
                return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
            host = "0.0.0.0"
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, *_, address = found[0]
            return socket.create_server(address, family=family, backlog=128)
        except OSError as e:
            raise OSError(
                e.errno,
                f"{self._key}: cannot listen on {self.listen}: {e.strerror}; choose another address",
            ) from e

    def start(self) -> None:
        """Serves from now on, in a thread of its own."""
        self._listener.setblocking(False)
        self._wake.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="zerospan-metrics", daemon=True)
        self._thread.start()

    def stop(self, deadline_s: float = 2.0) -> None:
        """No new connection from now on; answers on their way may finish for `deadline_s` seconds."""
        if self._stopping:
            return
        self._stop_at = time.monotonic() + deadline_s
        self._stopping = True
        self._waker.send(b"x")
        if self._thread is not None:
            self._thread.join(deadline_s + 5)
            self._thread = None
        for sock in (self._listener, self._wake, self._waker):
            sock.close()

    def stats(self) -> dict[str, int]:
        """Since the start: answers by status; connections "refused", "evicted", "timeout", "failed"."""
        return dict(self._counts)

    def self_metrics(self) -> list[tuple[str, str, str, list[tuple[dict[str, str], float]]]]:
        """The same as a family for Exposition.render(extra=...)."""
        counts = sorted(self._counts.items())
        samples: list[tuple[dict[str, str], float]] = [({"result": result}, n) for result, n in counts]
        help_ = "Answers of the metrics endpoint by status, and connections that got none."
        return [("zerospan_metrics_http_requests_total", "counter", help_, samples)]

    def _count(self, what: str) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1

    def _run(self) -> None:
        with selectors.DefaultSelector() as self._selector:
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._selector.register(self._wake, selectors.EVENT_READ)
            while not (self._stopping and self._drained()):
                for key, _ in self._selector.select(self._patience()):
                    if key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.data, _Connection) and key.data in self._connections:
                        self._serve(key.data)
                    elif key.fileobj is self._wake:
                        self._wake.recv(64)
                self._expire()
            for connection in list(self._connections):
                self._drop(connection)

    def _drained(self) -> bool:
        if self._listener in self._selector.get_map():
            self._selector.unregister(self._listener)
        return time.monotonic() >= self._stop_at or not any(c.answer for c in self._connections)

    def _patience(self) -> float:
        first = min((c.deadline for c in self._connections), default=time.monotonic() + 60)
        if self._stopping:
            first = min(first, self._stop_at)
        return max(0.0, first - time.monotonic())

    def _expire(self) -> None:
        now = time.monotonic()
        for connection in [c for c in self._connections if c.deadline <= now]:
            if connection.head or connection.answer:
                self._count("timeout")
            if connection.head and not connection.answer:
                with contextlib.suppress(OSError):
                    self._answer(connection, 408, b"the request was not complete in time\n", close=True)
            self._drop(connection)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as e:
            if e.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EINTR):
                self._count("failed")
                time.sleep(0.05)  # no file descriptor or memory left: the selector would call again at once
            return
        sock.setblocking(False)
        if self._tls is not None:
            try:  # the handshake goes on with the first reads, within the time for a request
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            except OSError:  # gone already
                self._count("failed")
                sock.close()
                return
        connection = _Connection(sock, time.monotonic() + self._timeout)
        if len(self._connections) >= self._max:
            waiting = next((c for c in self._connections if not c.answer), None)
            if waiting is None:
                self._count("refused")
                with contextlib.suppress(OSError, ValueError):
                    sock.send(_response(503, b"too many connections\n", close=True))
                _close(sock)
                return
            self._count("evicted")
            self._drop(waiting)
        self._connections[connection] = None
        self._selector.register(sock, selectors.EVENT_READ, connection)
        self._serve(connection)

    def _drop(self, connection: _Connection) -> None:
        if connection in self._connections:
            del self._connections[connection]
            self._pending -= len(connection.answer)
            self._selector.unregister(connection.sock)
            _close(connection.sock)

    def _serve(self, connection: _Connection) -> None:
        """One turn: sends what waits, or takes what came.

        Anything unforeseen costs this connection, never the thread.
        """
        try:
            if connection.answer:
                self._send(connection)
            else:
                self._receive(connection)
            while connection in self._connections and not connection.answer and self._next_request(connection):
                pass
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            pass
        except ssl.SSLWantWriteError:
            self._selector.modify(connection.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)
        except OSError:
            self._count("failed")
            self._drop(connection)
        except Exception:
            log.exception("metrics: a connection was dropped because of an error in the server")
            self._count("failed")
            self._drop(connection)

    def _receive(self, connection: _Connection) -> None:
        data = connection.sock.recv(HEAD_MAX)
        if not data:
            if connection.head:
                self._count("failed")
            self._drop(connection)
            return
        if not connection.head:
            connection.deadline = time.monotonic() + self._timeout
        connection.head += data
        if isinstance(connection.sock, ssl.SSLSocket):
            while len(connection.head) < HEAD_MAX and connection.sock.pending():  # the selector does not see these
                connection.head += connection.sock.recv(HEAD_MAX)

    def _next_request(self, connection: _Connection) -> bool:
        """Answers the next request if its head is whole; False if it is not."""
        end = connection.head.find(b"\r\n\r\n", 0, HEAD_MAX)
        if end < 0:
            if len(connection.head) >= HEAD_MAX:
                self._answer(connection, 431, b"the request's head is longer than 8 KiB\n", close=True)
            return False
        head = bytes(connection.head[:end])
        del connection.head[: end + 4]
        try:
            self._handle(connection, head.decode("latin-1"))
        except _BadRequest as e:
            self._answer(connection, e.status, f"{e}\n".encode(), close=True)
        return True

    def _handle(self, connection: _Connection, head: str) -> None:
        first, *lines = head.split("\r\n")
        parts = first.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/"):
            raise _BadRequest(400, "this is not an HTTP request")
        method, target, version = parts
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise _BadRequest(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise _BadRequest(400, "a header line is malformed")
            name = name.lower()
            headers[name] = f"{headers[name]},{value.strip()}" if name in headers else value.strip()
        tokens = [t.strip() for t in headers.get("connection", "").lower().split(",")]
        close = version == "HTTP/1.0" or "close" in tokens or self._stopping
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            close = True  # a body would be taken for the next request
        if "://" in target:  # absolute-form, RFC 9112 section 3.2.2
            target = "/" + target.partition("://")[2].partition("/")[2]
        path, _, query = target.partition("?")
        if self._allow is not None and path not in self._public and not self._allow(headers):
            self._answer(connection, 401, b"", close=True, extra="WWW-Authenticate: Bearer\r\n", head=method == "HEAD")
            return
        if method not in ("GET", "HEAD"):
            self._answer(connection, 405, b"only GET and HEAD\n", close=True, extra="Allow: GET, HEAD\r\n")
            return
        if path == "/metrics":
            self._metrics(connection, headers, method == "HEAD", close)
        elif path == "/healthz":
            wrong = self._health() if self._health is not None else None
            body = b"ok\n" if wrong is None else f"{wrong}\n".encode()
            self._answer(connection, 200 if wrong is None else 503, body, close=close, head=method == "HEAD")
        elif path in self._pages:
            self._page(connection, self._pages[path], query, method == "HEAD", close)
        else:
            known = " and ".join(["/metrics", "/healthz", *self._pages])
            self._answer(connection, 404, f"see {known}\n".encode(), close=close, head=method == "HEAD")

    def _page(self, connection: _Connection, page: Page, query: str, head: bool, close: bool) -> None:
        try:
            status, kind, body = page(parse_qs(query, max_num_fields=16))
        except ValueError:
            raise _BadRequest(400, "the query cannot be understood") from None
        except Exception:
            log.exception("a page of %s failed", self.listen)
            status, kind, body = 500, "text/plain; charset=utf-8", b"this failed; see the log\n"
        self._answer(connection, status, body, close=close, extra=f"Content-Type: {kind}\r\n", head=head)

    def _metrics(self, connection: _Connection, headers: dict[str, str], head: bool, close: bool) -> None:
        openmetrics = wants_openmetrics(headers.get("accept", ""))
        extra = f"Content-Type: {OPENMETRICS if openmetrics else TEXT}\r\nVary: Accept, Accept-Encoding\r\n"
        if head:
            self._answer(connection, 200, None, close=close, extra=extra, head=True)
            return
        try:
            body = self._render(openmetrics)
        except Exception:
            log.exception("metrics: the scrape of %s failed in the renderer", self.listen)
            self._answer(connection, 500, b"rendering failed; see the agent's log\n", close=close)
            return
        if accepts_gzip(headers.get("accept-encoding", "")):
            body = gzipped(body)
            extra += "Content-Encoding: gzip\r\n"
        if self._pending and self._pending + len(body) > PENDING_MAX:
            self._answer(connection, 503, b"too many slow clients\n", close=True)
            return
        self._answer(connection, 200, body, close=close, extra=extra)

    def _answer(
        self,
        connection: _Connection,
        status: int,
        body: bytes | None,
        *,
        close: bool,
        extra: str = "",
        head: bool = False,
    ) -> None:
        self._count(str(status))
        connection.answer = memoryview(_response(status, body, close, extra, head))
        connection.close = close
        connection.deadline = time.monotonic() + self._timeout
        self._pending += len(connection.answer)
        self._selector.modify(connection.sock, selectors.EVENT_WRITE, connection)
        with contextlib.suppress(BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self._send(connection)

    def _send(self, connection: _Connection) -> None:
        sent = connection.sock.send(connection.answer[:SEND_PIECE])
        connection.answer = connection.answer[sent:]
        self._pending -= sent
        if connection.answer:
            return
        if connection.close:
            self._drop(connection)
            return
        # Kept alive: to the end of the queue of those that may have to make room.
        self._connections[connection] = self._connections.pop(connection)
        self._selector.modify(connection.sock, selectors.EVENT_READ, connection)


def _close(sock: socket.socket) -> None:
    """Closes so that the client can read the answer: bytes left unread would turn the FIN into a reset."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1 << 16)
    sock.close()


def _response(status: int, body: bytes | None, close: bool, extra: str = "", head: bool = False) -> bytes:
    lines = f"HTTP/1.1 {status} {REASONS[status]}\r\n"
    if "Content-Type" not in extra:
        lines += "Content-Type: text/plain; charset=utf-8\r\n"
    if body is not None:
        lines += f"Content-Length: {len(body)}\r\n"
    lines += extra + ("Connection: close\r\n" if close else "") + "\r\n"
    return lines.encode() + (b"" if head or body is None else body)
