"""POST to one URL over HTTP/1.1: keep-alive, TLS and mTLS, bounded in time and in memory.

Assumes one thread posts; abort() may come from another. Used by the OTLP/HTTP and Loki sinks. The standard
library's http.client does HTTP; it bounds each read, but not the whole, so that the socket given to it is one
that keeps a deadline. No redirect is followed (it could carry the headers' secrets elsewhere), no proxy
variable is read.
"""

import base64
import contextlib
import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
from isal import isal_zlib

from zerospan import __version__
from zerospan.exporter.config.model import Tls
from zerospan.exporter.config.secret import Secret, Url

MAX_RESPONSE_BYTES = 64 << 10
SEND_BYTES = 128 << 10  # of one system call: a kernel without preemption keeps the CPU until it is done
USER_AGENT = f"zerospan/{__version__}"
STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)


class Unreachable(Exception):
    """No answer: the network, TLS, the time-out, or something that is not HTTP. The text is safe to show."""


class Response(msgspec.Struct, frozen=True):
    """An answer; header names in lower case, at most MAX_RESPONSE_BYTES of the body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Poster:
    """Posts bodies to one URL. Raises OSError or ValueError if TLS files cannot be used."""

    def __init__(self, url: Url, path: str, headers: Mapping[str, Secret], timeout_s: float, tls: Tls) -> None:
        parts = urlsplit(url.reveal())
        self._shown = str(url)
        self._host = parts.hostname or ""
        self._tls = tls_context(tls) if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._target = path + (f"?{parts.query}" if parts.query else "")
        self._timeout_s = timeout_s
        self._headers = {
            "User-Agent": USER_AGENT,
            **{name: secret.reveal() for name, secret in headers.items()},
        }
        self._hidden = [secret.reveal() for secret in headers.values() if secret.reveal()]
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers.setdefault("Authorization", "Basic " + base64.b64encode(login).decode())
            self._hidden += [self._headers["Authorization"], *filter(None, [parts.password])]
        self._lock = threading.Lock()  # of the two below, against abort()
        self._connection: http.client.HTTPConnection | None = None
        self._socket: DeadlineSocket | None = None
        self._aborted = False

    def post(self, body: bytes | memoryview, headers: Mapping[str, str]) -> Response:
        """One request and its answer within the time-out. Raises Unreachable."""
        deadline = time.monotonic() + self._timeout_s
        reused = self._connection is not None
        try:
            try:
                return self._exchange(body, headers, deadline)
            except STALE:
                self.close()
                if not reused or self._aborted:
                    raise
                # The receiver closed the idle connection as we wrote: that says nothing about the receiver.
                return self._exchange(body, headers, deadline)
        except (OSError, http.client.HTTPException) as e:
            self.close()
            raise Unreachable(self.redact(f"{self._shown}: {_reason(e)}")) from None

    def _exchange(self, body: bytes | memoryview, headers: Mapping[str, str], deadline: float) -> Response:
        connection = self._connect(deadline)
        try:
            connection.request("POST", self._target, body, {**self._headers, **headers})
        except (BrokenPipeError, ConnectionResetError) as e:
            response = self._early_answer(connection, e)
        else:
            response = connection.getresponse()
        content = response.read(MAX_RESPONSE_BYTES)
        # A longer body is not worth reading, but must not meet the next answer either.
        if response.will_close or not response.isclosed():
            self.close()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Response(response.status, names, content)

    def _early_answer(self, connection: http.client.HTTPConnection, error: OSError) -> http.client.HTTPResponse:
        """The answer of a receiver that closed before it had the whole body (413, 401); else `error`."""
        try:
            response = connection.getresponse()
        except (OSError, http.client.HTTPException):
            raise error from None
        response.will_close = True
        return response

    def _connect(self, deadline: float) -> http.client.HTTPConnection:
        """The open connection, or a new one, with the deadline of this post."""
        if self._connection is not None and self._socket is not None:
            self._socket.deadline = deadline
            return self._connection
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.default_port = 443 if self._tls else 80
        sock = DeadlineSocket(self._dial(deadline), deadline)
        connection.sock = sock
        with self._lock:
            if self._aborted:
                connection.close()
                raise ConnectionAbortedError("the sink stops")
            self._connection, self._socket = connection, sock
        return connection

    def _dial(self, deadline: float) -> socket.socket:
        """Connects to the first address that answers, and does the TLS handshake, by the deadline."""
        error: OSError = OSError("the name has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(remaining(deadline))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    sock.settimeout(remaining(deadline))
                    return self._tls.wrap_socket(sock, server_hostname=self._host)
                return sock
            except OSError as e:
                sock.close()
                error = e
        raise error

    def redact(self, text: str) -> str:
        """`text` without the values of headers and the password, should the receiver have echoed one."""
        for secret in self._hidden:
            text = text.replace(secret, "***")
        return text

    def abort(self) -> None:
        """Breaks off a post under way and any later one; from another thread."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                self._socket.abort()

    def close(self) -> None:
        """Closes the connection; the next post makes a new one."""
        with self._lock:
            connection, self._connection, self._socket = self._connection, None, None
        if connection is not None:
            connection.close()


class DeadlineSocket:
    """As much of a socket as http.client uses, each operation bounded by one deadline (monotonic seconds)."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self.deadline = deadline

    def sendall(self, data: Any) -> None:
        """Sends all or raises OSError (TimeoutError at the deadline)."""
        view = memoryview(data).cast("B")
        while view:
            self.prepare()
            view = view[self._sock.send(view[:SEND_BYTES]) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        """A reader that keeps the deadline. The socket lives until both it and the reader are closed."""
        return io.BufferedReader(_Reader(self, self._sock.makefile("rb", buffering=0)))

    def prepare(self) -> None:
        """Gives the next operation the time that is left. Raises TimeoutError if none is."""
        self._sock.settimeout(remaining(self.deadline))

    def abort(self) -> None:
        """Ends a blocked operation of another thread with an error."""
        self.deadline = 0.0
        with contextlib.suppress(OSError):
            # The plain socket's: SSLSocket.shutdown would drop the TLS state that the other thread uses.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket."""
        self._sock.close()


class _Reader(io.RawIOBase):
    def __init__(self, sock: DeadlineSocket, raw: io.RawIOBase) -> None:
        super().__init__()
        self._sock = sock
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.prepare()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def remaining(deadline: float) -> float:
    """Seconds until `deadline`. Raises TimeoutError when it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def tls_context(tls: Tls) -> ssl.SSLContext:
    """A client's context: TLS 1.2 or later, the given CA or the system's, the client certificate if any.

    Raises OSError (also ssl.SSLError) if a file cannot be used; its `filename` names the file.
    """
    for name in (tls.ca, tls.cert, tls.key):
        if name is not None:
            with open(name, "rb"):  # ssl's own error does not name the file
                pass
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for name, load in ((tls.ca, _load_ca), (tls.cert, _load_client)):
        if name is None:
            continue
        try:
            load(context, tls)
        except ssl.SSLError as e:
            # An encrypted key ends here, too: nobody is there to be asked for its password.
            raise OSError(e.errno, f"not usable as PEM ({e.reason or 'no certificate or key'})", name) from None
    if tls.ca is None:
        context.load_default_certs()
    return context


def _load_ca(context: ssl.SSLContext, tls: Tls) -> None:
    context.load_verify_locations(cafile=tls.ca)


def _load_client(context: ssl.SSLContext, tls: Tls) -> None:
    assert tls.cert is not None
    context.load_cert_chain(tls.cert, tls.key, password=lambda: b"")


def gzip(payload: bytes | memoryview) -> bytes:
    """`payload` as gzip. Releases the GIL. ISA-L's level 1 takes an eighth of zlib's time for a smaller body."""
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
    return bytes(packer.compress(payload) + packer.flush())


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or type(error).__name__}"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, socket.gaierror):
        return f"name not found: {error.strerror}"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"no HTTP answer ({type(error).__name__})"
