"""The way to the API server (or a kubelet): who we are, TLS, one HTTP request at a time. Bytes in, bytes out.

A kubeconfig with all that can stand in one (exec plugins, OIDC, client certificates) is read by the `kubernetes`
package in a process of its own (kubeconfig.py). A pod's own service account is two files and two variables, read
here; its token changes every hour and is read again.
"""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from io import BufferedReader
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import urlencode, urlsplit

from zerospan.enricher.sources.kubernetes import kubeconfig

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CONNECT_S = 10.0
READ_S = 60.0
TOKEN_S = 60.0  # a token's file is looked at this often
CREDENTIALS_S = 240.0  # a kubeconfig with a token, this often where anything is asked; a refused one at once
RENEW_S = 10.0  # a refused one that was read again is not read more often than so
MAX_BODY = 256 << 20
WINDOW = 256 << 10  # bytes read at once
LINE = 4096  # longest line of HTTP's own
MAX_LINE = 16 << 20  # an object is at most 1.5 MiB in etcd, its JSON some times that
AGENT = "zerospan-enricher"


class ApiError(Exception):
    """An answer that is no 2xx. retry_after: seconds that the server asks for, 0: none."""

    def __init__(self, status: int, text: str, retry_after: float = 0) -> None:
        super().__init__(f"HTTP {status}: {text}" if text else f"HTTP {status}")
        self.status = status
        self.retry_after = retry_after


class Silence(TimeoutError):
    """An answer that goes on has not gone on for so long: perhaps a dead connection, perhaps nothing happens."""


class _Response(HTTPResponse):
    """With a buffer as large as what comes at once."""

    chunked: bool
    length: int | None
    will_close: bool
    fp: Any

    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp.close()
        self.fp = sock.makefile("rb", WINDOW)


def _chunk_size(line: bytes) -> int:
    try:
        size = int(line.partition(b";")[0], 16)
    except ValueError:
        raise IncompleteRead(line) from None
    if size < 0:
        raise IncompleteRead(line)
    return size


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """The bytes of a chunked body as they come, many chunks at a time. IncompleteRead if it is cut."""
    source: BufferedReader = response.fp
    held, left = b"", -2  # bytes that are left of a chunk; -2: its head comes next, 0: the line's end behind it
    while True:
        data = source.read1(WINDOW)
        if not data:
            raise IncompleteRead(held)
        data = held + data if held else data
        at, found = 0, []
        while at < len(data):
            if left > 0:
                found.append(data[at : at + left])
                at += len(found[-1])
                left -= len(found[-1])
                continue
            end = data.find(b"\n", at)
            if end < 0:
                if len(data) - at > LINE:
                    raise IncompleteRead(b"")
                break
            if left == -2:
                left = _chunk_size(data[at:end])
                if left == 0:
                    yield b"".join(found)
                    return
            else:
                left = -2
            at = end + 1
        held = data[at:]
        if found:
            yield b"".join(found)


class Access:
    """Where a server is and how to speak to it. headers: asked for every request, context (if it is a function): for
    every connection, after them; renew: called after a refusal (401, or TLS fails).
    """

    def __init__(
        self,
        url: str,
        context: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        headers: Callable[[], dict[str, str]] = dict,
        renew: Callable[[], None] = lambda: None,
        server_name: str = "",
        proxy: str = "",
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"no http or https address: {url!r}")
        self.url = url
        self.tls = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.tls else 80)
        self.path = parts.path.rstrip("/")
        self.headers = headers
        self.renew = renew
        self._context = (context or ssl.create_default_context()) if self.tls else None  # of connect()
        self._server_name = server_name
        self._proxy = urlsplit(proxy) if proxy else None

    def connect(self) -> HTTPConnection:
        """A connection that is not open yet."""
        host, port = (self._proxy.hostname or "", self._proxy.port or 3128) if self._proxy else (self.host, self.port)
        made: HTTPConnection
        if self._context is not None:
            context = self._context if isinstance(self._context, ssl.SSLContext) else self._context()
            made = _Tls(host, port, timeout=CONNECT_S, context=context)
            made.server_name = self._server_name
        else:
            made = HTTPConnection(host, port, timeout=CONNECT_S)
        made.response_class = _Response
        if self._proxy and self.tls:
            made.set_tunnel(self.host, self.port)
        return made


class _Tls(HTTPSConnection):
    """server_name: what the certificate is to name, where it is not the host."""

    server_name = ""

    def connect(self) -> None:
        HTTPConnection.connect(self)
        name = self.server_name or str(getattr(self, "_tunnel_host", None) or self.host)
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]
        self.sock = context.wrap_socket(self.sock, server_hostname=name)


class TokenFile:
    """A bearer token in a file that is replaced from time to time. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = float("-inf")
        self._token = ""

    def headers(self) -> dict[str, str]:
        if time.monotonic() - self._read_at > TOKEN_S:
            with suppress(OSError):
                self._token = self._path.read_text().strip()
                self._read_at = time.monotonic()
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def renew(self) -> None:
        self._read_at = float("-inf")


def access(path: str = "", context: str = "", account: Path = ACCOUNT) -> Access:
    """By a kubeconfig (its path, else KUBECONFIG), else by the service account of the own pod, else by
    ~/.kube/config. ValueError or OSError where none is usable.
    """
    path = path or os.environ.get("KUBECONFIG", "")
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    if not path and host and (account / "token").exists():
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        token = TokenFile(account / "token")
        trust = ssl.create_default_context(cafile=str(account / "ca.crt"))
        name = f"[{host}]" if ":" in host else host
        return Access(f"https://{name}:{port}", trust, token.headers, token.renew)
    return _by_kubeconfig(path, context)


class _Kubeconfig:
    """What a kubeconfig says now. A token is read again after a while, what is refused at once. Thread-safe."""

    def __init__(self, path: str, context: str) -> None:
        self._path, self._context = path, context
        self._lock = threading.Lock()
        self._refused = False
        self._renewed_at = float("-inf")
        self.said = kubeconfig.read(path, context)
        self._trust = _trust(self.said)
        self._read_at = time.monotonic()

    def headers(self) -> dict[str, str]:
        with self._lock:
            now = time.monotonic()
            renews = self._refused and now - self._renewed_at > RENEW_S
            if renews or (self.said.authorization and now - self._read_at > CREDENTIALS_S):  # a plugin's end some day
                if renews:
                    self._refused, self._renewed_at = False, now
                with suppress(ValueError, OSError):
                    said = kubeconfig.read(self._path, self._context)
                    if (said.ca, said.cert, said.key) != (self.said.ca, self.said.cert, self.said.key):
                        self._trust = _trust(said)
                    self.said = said
                self._read_at = time.monotonic()
            return {"Authorization": self.said.authorization} if self.said.authorization else {}

    def renew(self) -> None:
        self._refused = True

    def trust(self) -> ssl.SSLContext:
        with self._lock:
            return self._trust


def _trust(c: kubeconfig.Said) -> ssl.SSLContext:
    made = ssl.create_default_context(cadata=c.ca or None)
    if not c.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if c.cert:
        with NamedTemporaryFile("w", prefix="zerospan-") as file:  # 0600, and gone at once
            file.write(c.cert + "\n" + c.key)
            file.flush()
            made.load_cert_chain(file.name)
    return made


def _by_kubeconfig(path: str, context: str) -> Access:
    read = _Kubeconfig(path, context)
    c = read.said
    return Access(c.host, read.trust, read.headers, read.renew, c.server_name, c.proxy)


class Client:
    """One connection, for one thread; `close` from any thread ends what is going on."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._connection: HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._closed = False
        self._body = bytearray()
        self._lock = threading.Lock()

    def get(self, path: str, query: dict[str, str], accept: str = "application/json") -> memoryview:
        """The body, until the next request. ApiError, OSError, HTTPException."""
        response = self._send(path, query, accept)
        size = 0
        if response.chunked:
            source: BufferedReader = response.fp
            while n := _chunk_size(source.readline(LINE)):
                size = self._read(source, n, size)
                source.readline(LINE)
            while source.readline(LINE) not in (b"\r\n", b"\n", b""):
                pass  # trailers
        elif response.length is None:
            while data := response.read1(1 << 18):
                self._room(size + len(data), size)[size : size + len(data)] = data
                size += len(data)
        else:
            size = self._read(response.fp, response.length, 0)
        if response.will_close:
            self.drop()
        else:
            response.close()  # of the answer only: the next request may be sent
        return memoryview(self._body)[:size]

    def release(self) -> None:
        """Lets go of the last body's memory."""
        self._body = bytearray()

    def lines(
        self, path: str, query: dict[str, str], timeout_s: float, accept: str = "application/json"
    ) -> Iterator[list[bytes]]:
        """Lines of an answer that goes on, as many at a time as have come. Ends with the answer; Silence after so long
        a silence. Errors as with `get`.
        """
        response = self._send(path, query, accept)
        if self._socket is not None:
            self._socket.settimeout(timeout_s)
        held: list[bytes] = []
        size = 0
        try:
            for data in _chunks(response) if response.chunked else iter(lambda: response.read1(WINDOW), b""):
                head, found, rest = data.rpartition(b"\n")
                if not found:
                    held.append(data)
                    size += len(data)
                    if size > MAX_LINE:
                        raise ApiError(response.status, f"a line of more than {MAX_LINE} bytes")
                    continue
                held.append(head)
                lines = b"".join(held).split(b"\n")
                held = [rest] if rest else []
                size = len(rest)
                yield lines
        except TimeoutError as e:
            raise Silence from e
        finally:
            self.drop()

    def _room(self, size: int, used: int) -> bytearray:
        if size > MAX_BODY:
            raise ApiError(200, f"a body of more than {MAX_BODY} bytes")
        if size > len(self._body):  # another one: something may still look into the old one
            body = bytearray(max(size, min(len(self._body) * 5 // 4, MAX_BODY)))
            body[:used] = memoryview(self._body)[:used]
            self._body = body
        return self._body

    def _read(self, source: BufferedReader, size: int, at: int) -> int:
        """Exactly so many bytes into the body. Returns where they end."""
        view = memoryview(self._room(at + size, at))
        end = at + size
        while at < end:
            n = source.readinto(view[at:end])
            if not n:
                raise IncompleteRead(b"", end - at)
            at += n
        return end

    def drop(self) -> None:
        """Closes the connection; the next request opens another."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = self._socket = None

    def close(self) -> None:
        """For good. A thread that reads meets the end."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _send(self, path: str, query: dict[str, str], accept: str) -> HTTPResponse:
        target = self._access.path + path + ("?" + urlencode(query) if query else "")
        headers = {"Accept": accept, "User-Agent": AGENT, **self._access.headers()}
        fresh = self._connection is None
        try:
            response = self._request(target, headers)
        except (OSError, HTTPException) as e:
            self.drop()
            if isinstance(e, ssl.SSLError):
                self._access.renew()
            if fresh or self._closed:
                raise
            response = self._request(target, headers)  # the server had closed what was kept open
        if response.status >= 300:
            body = response.read(4096)
            wait = response.headers.get("Retry-After") or ""
            self.drop()
            if response.status == 401:
                self._access.renew()
            text = " ".join(body.decode("utf-8", "replace").split())[:300]
            raise ApiError(response.status, text, float(wait) if wait.isdigit() else 0)
        return response

    def _request(self, target: str, headers: dict[str, str]) -> HTTPResponse:
        connection = self._connection
        if connection is None:
            connection = self._access.connect()
            connection.connect()
            sock: socket.socket = connection.sock
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.settimeout(READ_S)
            with self._lock:
                if self._closed:
                    connection.close()
                    raise OSError("closed")
                self._connection, self._socket = connection, sock
        elif self._socket is not None:
            self._socket.settimeout(READ_S)
        connection.request("GET", target, headers=headers)
        return connection.getresponse()
