"""Redis or Valkey as a place to connect to: its URL, its handshake, who is the master, which node has which slots.

Blocking, each step bounded by a time-out; no request passes here: `exchange.py` sends and reads rounds by itself, in
blocks (`shared_wire.pyx`). Assumes RESP2, which every version speaks. The store is a remote party: replies are bounded.

References: the Redis documentation's pages on ACL (AUTH), Sentinel clients, the cluster specification (CLUSTER SLOTS);
URL forms as redis-py, Lettuce and the IANA registration of redis:// have them.
"""

import contextlib
import socket
import ssl
from array import array
from typing import IO, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from zerospan.exporter.config.secret import MASK, Url

MEMORY = "memory"
PORT, SENTINEL_PORT = 6379, 26379
SLOTS = 16384
REPLY_MAX = 4 << 20  # of a handshake: CLUSTER SLOTS of a thousand nodes is less
DEPTH_MAX = 8
NODES_MAX = 1024
SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")
OPTIONS = ("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname",
           "sentinel_username", "sentinel_password")  # fmt: skip
Address = tuple[str, int]


class StoreError(Exception):
    """It cannot be reached, or says no; the message is for people and holds no secret."""


class Store(msgspec.Struct, frozen=True):
    """What a URL says."""

    kind: Literal["single", "sentinel", "cluster"]
    addresses: tuple[Address, ...]
    path: str | None  # of a UNIX socket
    tls: bool
    username: str | None
    password: str | None
    db: int
    master: str | None
    options: dict[str, str]


def parse(url: Url) -> Store:
    """The URL of `links`. Raises ValueError, without the password, if it is none of the forms.

    redis:// rediss:// (TLS) valkey:// valkeys:// unix:///PATH; redis+cluster://H1,H2  redis+sentinel://H1,H2/MASTER[/DB],
    each with s for TLS; [USER:]PASSWORD@ before the hosts, percent-encoded.
    """
    parts = urlsplit(url.reveal())
    scheme, _, form = parts.scheme.replace("-", "+").partition("+")
    if scheme not in SCHEMES or form not in ("", "cluster", "sentinel") or (scheme == "unix" and form):
        raise ValueError("expected memory, redis://, rediss://, redis+cluster:// or redis+sentinel://")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ValueError(f"unknown option {unknown[0][:40]!r}; known: {', '.join(OPTIONS)}")
    login, _, hosts = parts.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    if login and not colon:
        user, password = "", user
    segments = [unquote(s) for s in parts.path.split("/") if s]
    master = None
    if form == "sentinel":
        if parts.fragment:  # Lettuce: redis-sentinel://H1,H2/DB#MASTER
            master = unquote(parts.fragment)
        elif segments:
            master = segments.pop(0)
        else:
            raise ValueError("expected the master's name: redis+sentinel://HOST,HOST/MASTER")
    path = None
    if scheme == "unix":
        path, segments = unquote(parts.path), []
        if not path:
            raise ValueError("expected unix:///PATH")
    text = segments[0] if segments else options.get("db", "0")
    if len(segments) > 1 or not (text.isascii() and text.isdigit()) or int(text) > 1 << 20:
        raise ValueError("the part after the last / is a database's number")
    if form == "cluster" and int(text):
        raise ValueError("a cluster has only database 0")
    default = SENTINEL_PORT if form == "sentinel" else PORT
    addresses = () if path else tuple(_address(one, default) for one in hosts.split(","))
    return Store(
        "cluster" if form == "cluster" else "sentinel" if form == "sentinel" else "single",
        addresses, path, scheme in ("rediss", "valkeys"), unquote(user) or None,
        unquote(password) or None, int(text), master, options,
    )  # fmt: skip


def _address(text: str, default: int) -> Address:
    try:
        parts = urlsplit("//" + text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0:
        raise ValueError("expected HOST or HOST:PORT, several with commas between them")
    return host, port or default


class Nodes(msgspec.Struct, frozen=True):
    """Connections that are ready; for a cluster, which of them has each slot."""

    sockets: list[socket.socket]
    owners: "array[int] | None"


def connect(store: Store, timeout_s: float) -> Nodes:
    """Connects, logs in, finds the master or the nodes. Raises StoreError. Blocks for a few time-outs at most."""
    if store.kind == "cluster":
        return _cluster(store, timeout_s)
    errors = []
    for address in store.addresses or (None,):
        try:
            if store.kind == "single":
                return Nodes([open_socket(store, address, timeout_s)], None)
            assert address is not None
            return Nodes([_master(store, address, timeout_s)], None)
        except StoreError as e:
            errors.append(str(e))
    raise StoreError("; ".join(errors))


def open_socket(store: Store, address: Address | None, timeout_s: float, *, sentinel: bool = False) -> socket.socket:
    """One connection, logged in and at its database; address None: the UNIX socket. Raises StoreError."""
    name = f"{address[0]}:{address[1]}" if address is not None else str(store.path)
    made: socket.socket | None = None
    try:
        if address is None:
            made = socket.socket(socket.AF_UNIX)
            made.settimeout(timeout_s)
            made.connect(str(store.path))
        else:
            made = socket.create_connection(address, timeout_s)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if store.tls:
                made = _tls(store).wrap_socket(made, server_hostname=address[0])
        user, password = store.username, store.password
        if sentinel:
            user, password = store.options.get("sentinel_username"), store.options.get("sentinel_password")
        if password:
            ask(made, *(["AUTH", user, password] if user else ["AUTH", password]))
        if not sentinel:
            if store.db:
                ask(made, "SELECT", str(store.db))
            ask(made, "PING")
    except (OSError, ValueError, StoreError) as e:
        if made is not None:
            made.close()
        said = "no answer in time" if isinstance(e, TimeoutError) else str(e)
        for secret in (store.password, store.options.get("sentinel_password")):
            if secret:
                said = said.replace(secret, MASK)  # a server that knows no AUTH repeats its words
        raise StoreError(f"{name}: {said}") from e
    return made


def _tls(store: Store) -> ssl.SSLContext:
    options = store.options
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    if options.get("ssl_check_hostname", "").lower() in ("false", "0", "no"):
        context.check_hostname = False
    if options.get("ssl_cert_reqs", "").lower() in ("none", "0"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _master(store: Store, sentinel: Address, timeout_s: float) -> socket.socket:
    with contextlib.closing(open_socket(store, sentinel, timeout_s, sentinel=True)) as s:
        try:
            said = ask(s, "SENTINEL", "get-master-addr-by-name", str(store.master))
        except (OSError, ValueError) as e:
            raise StoreError(f"sentinel {sentinel[0]}:{sentinel[1]}: {e}") from e
    if not (isinstance(said, list) and len(said) == 2 and all(isinstance(part, bytes) for part in said)):
        raise StoreError(f"sentinel {sentinel[0]}:{sentinel[1]} knows no master {store.master!r}")
    address = (said[0].decode("ascii", "replace"), _port(said[1]))
    made = open_socket(store, address, timeout_s)
    try:
        role = ask(made, "ROLE")
    except (OSError, ValueError, StoreError) as e:
        made.close()
        raise StoreError(f"{address[0]}:{address[1]}: {e}") from e
    if not (isinstance(role, list) and role and role[0] == b"master"):
        made.close()
        raise StoreError(f"{address[0]}:{address[1]} is not the master yet")
    return made


def _cluster(store: Store, timeout_s: float) -> Nodes:
    errors = []
    for address in store.addresses:
        made: list[socket.socket] = []
        try:
            with contextlib.closing(open_socket(store, address, timeout_s)) as s:
                owners, nodes = slots(ask(s, "CLUSTER", "SLOTS"), address[0])
            for node in nodes:
                made.append(open_socket(store, node, timeout_s))
        except (OSError, ValueError, StoreError) as e:
            for s in made:
                s.close()
            errors.append(str(e))
        else:
            return Nodes(made, owners)
    raise StoreError("; ".join(errors))


def slots(said: object, host: str) -> "tuple[array[int], list[Address]]":
    """The answer to CLUSTER SLOTS: the node of each slot (65535: none) and the masters. Raises StoreError.

    host: who answered; it stands for a node that does not know its own address.
    """
    owners = array("H", [0xFFFF]) * SLOTS
    nodes: list[Address] = []
    if not isinstance(said, list) or not said:
        raise StoreError("the cluster has no slots")
    for part in said:
        match part:
            case [int(first), int(last), [bytes(ip), int(port), *_], *_] if (
                0 <= first <= last < SLOTS and 0 < port < 65536
            ):
                node = (ip.decode("ascii", "replace") or host, port)
            case _:
                raise StoreError("an answer to CLUSTER SLOTS that cannot be understood")
        if node not in nodes:
            nodes.append(node)
        if len(nodes) > NODES_MAX:
            raise StoreError(f"a cluster of more than {NODES_MAX} masters")
        for slot in range(first, last + 1):
            owners[slot] = nodes.index(node)
    return owners, nodes


def _port(text: bytes) -> int:
    port = int(text) if text.isdigit() and len(text) < 6 else 0
    if not 0 < port < 65536:
        raise StoreError("a port that is none")
    return port


def ask(s: socket.socket, *words: str) -> object:
    """One command and its reply: bytes, int, None or a list. StoreError if the reply is an error."""
    parts = [w.encode() for w in words]
    s.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts))
    with s.makefile("rb") as reader:
        return _reply(_Bounded(reader), words[0], 0)


class _Bounded:
    """A file that ends after REPLY_MAX bytes. ValueError at its end."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, REPLY_MAX

    def line(self) -> bytes:
        text = bytes(self.file.readline(min(self.left, 1 << 16)))
        self.left -= len(text)
        if not text.endswith(b"\r\n"):
            raise ValueError("the connection was closed" if not text else "not a Redis server")
        return text[:-2]

    def exactly(self, n: int) -> bytes:
        if n > self.left:
            raise ValueError("a reply that is too long")
        self.left -= n
        text = bytes(self.file.read(n) or b"")
        if len(text) != n:
            raise ValueError("the connection was closed")
        return text


def _reply(reader: _Bounded, command: str, depth: int) -> object:
    line = reader.line()
    kind, rest = line[:1], line[1:]
    if kind == b"+":
        return rest
    if kind == b"-":
        raise StoreError(f"{command}: {rest[:200].decode('utf-8', 'replace')}")
    try:
        number = int(rest)
    except ValueError:
        raise ValueError("not a Redis server") from None
    if kind == b":":
        return number
    if kind == b"$":
        return None if number < 0 else reader.exactly(number + 2)[:-2]
    if kind == b"*" and depth < DEPTH_MAX and number <= REPLY_MAX:
        return None if number < 0 else [_reply(reader, command, depth + 1) for _ in range(number)]
    raise ValueError("not a Redis server")
