"""HTTP with a metadata service, and what may be taken from its answers.

An answer is bytes from elsewhere (any process on the machine may sit on the address): its size is bounded, a whole
reading has a deadline that neither slow heads nor slow bodies move, redirects are errors, proxies of the environment
are not asked, and a value becomes a tag only if it is short printable text. Used by the files of the clouds, which one
thread calls; `close` may come from another.
"""

import contextlib
import http.client
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import msgspec

MAX_BYTES = 1 << 18  # of one answer; the largest honest ones (Azure) have 20 KB
MAX_TEXT = 256  # characters of one value
MAX_TAGS = 128  # opt-in tags of one machine; AWS and Azure allow 50
MAX_INTERFACES = 16
TAG = "zerospan.cloud.tag."


class MetadataError(Exception):
    """The service did not say what is needed. The text says what to look at."""


class Machine(msgspec.Struct):
    """What a cloud says of a machine. Addresses in text form, checked; the first is the primary one."""

    tags: dict[str, str] = {}
    private: list[str] = []
    public: list[str] = []


class Cloud(Protocol):
    """One cloud's service. Kept from one reading to the next, so that tokens are used again."""

    def read(self, globs: tuple[str, ...]) -> Machine:
        """All that is known, with the machine's own tags whose names match a glob. Raises MetadataError, OSError or
        HTTPException.
        """


class Metadata:
    """address: "HOST:PORT" or "HOST". timeout_s: for one request's connection and each wait; a reading of many requests
    may take total_s.
    """

    def __init__(self, address: str, *, timeout_s: float, total_s: float) -> None:
        self.address = address
        self._connection = http.client.HTTPConnection(*host_port(address), timeout=timeout_s)
        self._timeout_s, self._total_s = timeout_s, total_s
        self._until = 0.0
        self._closed = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """A reading begins: its deadline is set."""
        self._until = time.monotonic() + self._total_s

    def end(self) -> None:
        """A reading has ended: the connection is closed."""
        self._connection.close()

    def close(self) -> None:
        """For good, from any thread: a request that waits for its answer fails at once."""
        self._closed = True
        self._cut()

    def ask(
        self, path: str, headers: Mapping[str, str], method: str = "GET"
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        """Status, body and head of one answer. Raises OSError (TimeoutError among them) or HTTPException."""
        left = min(self._timeout_s, self._until - time.monotonic())
        if left <= 0 or self._closed:
            raise TimeoutError(f"no time left to ask {self.address}")
        # A socket's time-out is for one recv: bytes that trickle in would never end. This ends them.
        over = threading.Event()

        def cut() -> None:
            over.set()
            self._cut()

        watch = threading.Timer(left, cut)
        watch.daemon = True
        watch.start()
        try:
            for fresh in (self._connection.sock is None, True):
                try:
                    found = self._once(path, headers, method, left)
                    if over.is_set():  # a body without a length ends where it was cut
                        raise TimeoutError
                    return found
                except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                    self._connection.close()
                    if fresh or over.is_set():  # else: it had closed a connection that we kept
                        raise
            raise AssertionError("unreachable")
        except (OSError, http.client.HTTPException, ValueError, AttributeError, MetadataError) as e:
            self._connection.close()
            if over.is_set() or isinstance(e, TimeoutError):
                raise TimeoutError(f"{self.address}: no whole answer within {left:.1f} s") from None
            if isinstance(e, ValueError | AttributeError):  # http.client over a socket that was cut, or over garbage
                raise MetadataError(f"{self.address}: an answer that is no HTTP") from None
            raise
        finally:
            watch.cancel()

    def _once(
        self, path: str, headers: Mapping[str, str], method: str, timeout_s: float
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = self._connection
        if connection.sock is None:
            connection.timeout = timeout_s
            connection.connect()
        if self._closed:
            raise TimeoutError("closed")
        connection.request(method, path, headers=dict(headers))
        response = connection.getresponse()
        body = response.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise MetadataError(f"{self.address}{path}: an answer of more than {MAX_BYTES} bytes")
        if response.length:  # http.client tells a cut body only to those who read without a limit
            raise http.client.IncompleteRead(body, response.length)
        return response.status, body, response.headers

    def _cut(self) -> None:
        sock = self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def get(self, path: str, headers: Mapping[str, str]) -> bytes | None:
        """The body; None if there is no such thing (404). Raises MetadataError for any other status."""
        status, body, _ = self.ask(path, headers)
        return self.body(path, status, body)

    def body(self, path: str, status: int, body: bytes) -> bytes | None:
        """What an answer with this status means."""
        if status == 404:
            return None
        if status != 200:
            raise MetadataError(f"{self.address}{path}: status {status}")
        return body


class Tokens:
    """A service that wants a token for each request (AWS's IMDSv2, Alibaba's hardened mode): made by PUT, used until
    its time is nearly over or the service does not know it any more.
    """

    def __init__(
        self, http: Metadata, prefix: str, *, ttl_s: int = 21600, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._http, self._prefix, self._ttl_s, self._clock = http, prefix, ttl_s, clock
        self._token = ""
        self._until = 0.0

    def get(self, path: str) -> bytes | None:
        """As Metadata.get; a token that is refused is renewed once."""
        http = self._http
        for renewed in (self._renew(force=False), True):
            status, body, _ = http.ask(path, {self._prefix: self._token})
            if status not in (401, 403) or renewed:
                return http.body(path, status, body)
            self._renew(force=True)
        raise AssertionError("unreachable")

    def _renew(self, force: bool) -> bool:
        now = self._clock()
        if not force and now < self._until:
            return False
        path, ttl = "/latest/api/token", f"{self._prefix}-ttl-seconds"
        try:
            status, body, head = self._http.ask(path, {ttl: str(self._ttl_s), "Content-Length": "0"}, "PUT")
        except TimeoutError as e:
            raise MetadataError(
                f"no token: {e}. In a container without the host's network the hop limit may be 1: set "
                "HttpPutResponseHopLimit to 2, or run with hostNetwork"
            ) from None
        token = body.decode("latin-1").strip()
        if status != 200 or not token.isprintable() or not 0 < len(token) <= 4096 or not token.isascii():
            raise MetadataError(f"{self._http.address}{path}: no token (status {status})")
        given = head.get(ttl, "")
        lives = int(given) if given.isdecimal() and len(given) < 10 else self._ttl_s
        self._token, self._until = token, now + lives * 0.9
        return True


def host_port(address: str) -> tuple[str, int]:
    """Of "HOST", "HOST:PORT", "[IPv6]:PORT". Raises ValueError for anything else, a scheme or a path among it."""
    at = urlsplit("//" + address)
    if (
        not at.hostname
        or at.netloc != address
        or at.username is not None
        or address.count(":") > 1
        and "[" not in address
    ):
        raise ValueError(f"expected HOST:PORT, got {address!r}")
    return at.hostname, at.port or 80


def text(value: object) -> str:
    """A value as a tag's: printable, short; "" for anything else."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return ""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        value = str(value)
    if not isinstance(value, str):
        return ""
    value = value.strip()
    return value if len(value) <= MAX_TEXT and value.isprintable() else ""


def last(value: object) -> str:
    """The last part of a name such as projects/1/zones/b."""
    return text(value).rpartition("/")[2]


def lines(body: bytes | None) -> list[str]:
    """A list of names, one a line; those that are no text are left out."""
    return [name for line in (body or b"").splitlines()[:1024] if (name := text(line))]


def segment(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def json(body: bytes | None, of: str) -> Any:
    """Decoded JSON. Raises MetadataError."""
    try:
        return msgspec.json.decode(body or b"")
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise MetadataError(f"{of} is no JSON") from None


def pick(document: Any, *path: str) -> Any:
    """What stands below these keys; None if nothing does."""
    for name in path:
        if not isinstance(document, dict):
            return None
        document = document.get(name)
    return document


def items(document: Any, *path: str, limit: int = MAX_INTERFACES) -> list[Any]:
    """A list below these keys; [] if there is none."""
    found = pick(document, *path)
    return found[:limit] if isinstance(found, list) else []


def addresses(values: Iterable[object]) -> list[str]:
    """Those that are addresses, in their usual form, each once."""
    found: dict[str, None] = {}
    for value in values:
        with contextlib.suppress(ValueError):
            ip = ipaddress.ip_address(text(value))
            if not (ip.is_unspecified or ip.is_loopback or ip.is_link_local or ip.is_multicast):
                found[str(ip)] = None
    return list(found)


def network(address: object, mask: object) -> str:
    """A CIDR of an address and a prefix length or mask; "" if they are none."""
    try:
        return str(ipaddress.ip_network(f"{text(address)}/{text(mask)}", strict=False))
    except ValueError:
        return ""


def cidr(value: object) -> str:
    """A CIDR in its usual form; "" if it is none."""
    address, slash, bits = text(value).partition("/")
    return network(address, bits) if slash else ""


def matching(names: Iterable[str], globs: tuple[str, ...]) -> list[str]:
    """Names of tags that somebody asked for; no more than MAX_TAGS."""
    return [name for name in names if any(fnmatchcase(name, glob) for glob in globs)][:MAX_TAGS]
