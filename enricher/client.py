"""The client of the tag service: follows a node's keys and those that it asks for, and resumes after a cut.

Used by the agent (exporter/tags), by a node's enricher that follows one of cluster scope (`upstream.py`), by `zerospan
enricher lookup` and by tests. What is told goes to a callback as it came, in the one thread of the client; `Mirror` is
a handler for those who want tags, not messages. Needs grpcio and protobuf (the extra `zerospan[enricher]`); imports
nothing else of the enricher or the agent.

What a handler may rely on (wire/tags.proto):
* `update.reset`: forget every binding before those of this update; what you asked for is told again.
* Each set comes before the first binding that refers to it, its base before it. Sets that no binding refers to, not as
  a base either, may be forgotten when `update.reset` is set and whenever `on_connect` is called (a new stream): what is
  needed again is sent again.
* A binding without pieces says that nothing is known of the key: the answer to one that you asked for; of another
  key: it is no longer your node's, forget it.
* Updates that say nothing but `revision` come every 30 s: the other end lives.
"""

import itertools
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import msgspec

from zerospan.enricher.wire import tags_pb2 as pb

log = logging.getLogger(__name__)

SERVICE = "zerospan.enricher.v1.TagService"
WATCH, RESOLVE = f"/{SERVICE}/Watch", f"/{SERVICE}/Resolve"
BACKOFF_S = (0.2, 15.0)  # first and longest wait between two attempts, each times 0.5 to 1
ASK_BYTES = 2 << 20  # of keys in one request
MAX_MESSAGE_BYTES = 16 << 20
KEEPALIVE_MS = 20_000
SILENCE_S = 90.0  # three heartbeats: this stream is dead, whatever TCP says


class Security(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach an enricher. Files are read at each connection: certificates and tokens may rotate."""

    tls: bool = False  # also where ca, cert or key is given
    ca: str = ""  # file of CA certificates, PEM; empty: those of the system
    cert: str = ""  # file of the client's certificate (mTLS)
    key: str = ""  # and its private key
    server_name: str = ""  # name in the server's certificate where it is not that of the address
    token: str = ""  # bearer token
    token_file: str = ""  # file that holds it; goes before `token`

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of each call. Raises OSError if the token's file cannot be read, or is none that a header may have."""
        token = self.token
        if self.token_file:
            token = Path(self.token_file).read_bytes().decode("latin-1").strip()
        if not token.isascii() or not token.isprintable():  # gRPC would raise in the middle of a call
            raise OSError(f"{self.token_file or 'the token'}: expected one line of ASCII text")
        return (("authorization", f"Bearer {token}"),) if token else ()


class ClientStats(msgspec.Struct, kw_only=True):
    """Of this moment."""

    connected: bool = False  # a stream is open and has told something
    in_sync: bool = False  # all of the node's keys have been told, and the enricher's sources are in sync
    epoch: int = 0
    revision: int = 0
    updates: int = 0
    bindings: int = 0
    resets: int = 0  # snapshots
    connections: int = 0  # streams that told something
    failures: int = 0  # streams and attempts that ended otherwise than by stop()
    handler_errors: int = 0  # on_update or on_connect raised: the state was asked for anew
    wanted: int = 0  # keys asked for now
    silent_s: float = 0.0  # since it last heard from the enricher; since start() if never
    last_error: str = ""


def channel(address: str, security: Security) -> grpc.Channel:
    """A channel to HOST:PORT or unix:/PATH. Raises OSError if a file of `security` cannot be read."""
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.enable_retries", 0),  # reconnecting is ours: it resumes
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection, with the files' new content
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5000),
    ]
    if not (security.tls or security.ca or security.cert):
        return grpc.insecure_channel(address, options)
    if security.server_name:
        options.append(("grpc.ssl_target_name_override", security.server_name))
    ca, key, cert = (Path(name).read_bytes() if name else None for name in (security.ca, security.key, security.cert))
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert), options)


def resolve(
    address: str, keys: Iterable[bytes], security: Security | None = None, *, at_ns: int = 0, timeout_s: float = 5.0
) -> pb.TagUpdate:
    """What an enricher knows of these keys, once. Raises OSError with a text for people if it does not answer."""
    security = security or Security()
    if address.startswith("unix:"):
        knock(address.removeprefix("unix:"))
    with channel(address, security) as made:
        ask = made.unary_unary(RESOLVE, pb.ResolveRequest.SerializeToString, pb.TagUpdate.FromString)
        try:
            update: pb.TagUpdate = ask(
                pb.ResolveRequest(keys=keys, at_ns=at_ns), timeout=timeout_s, metadata=security.metadata()
            )
        except grpc.RpcError as e:
            raise OSError(explain(address, e)) from None
    return update


def knock(path: str) -> None:
    """Raises OSError with a text for people if a Unix socket cannot be connected to: gRPC says less."""
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(1.0)
            s.connect(path)
    except FileNotFoundError:
        raise OSError(f"no enricher runs here: there is no {path}; start one, or say another address") from None
    except ConnectionRefusedError:
        raise OSError(f"no enricher runs here: nobody listens on {path} any more; start one") from None
    except PermissionError:
        raise OSError(f"{path} is for the enricher's user: permission denied; run as that user or as root") from None


def explain(address: str, error: Any) -> str:
    """A failed call in words."""
    code = error.code().name if callable(getattr(error, "code", None)) else type(error).__name__
    details = (error.details() or "") if callable(getattr(error, "details", None)) else str(error)
    if code == "UNAUTHENTICATED":
        return f"the enricher at {address} refuses: {code}: it wants a bearer token that it knows"
    return f"the enricher at {address} does not answer: {code}: {details}"


class TagClient:
    """Follows one enricher. start(), ..., stop(); want() and drop() from any thread, also before start().

    address: HOST:PORT or unix:/PATH. node: the node's name as Kubernetes has it, else the host's; empty: only keys that
    are asked for. on_update: see the module; it must not block for long, and an exception out of it makes the client
    ask for everything anew. on_connect: called in the same thread before the first update of each stream; the same.
    """

    def __init__(
        self,
        address: str,
        node: str,
        security: Security | None,
        on_update: Callable[[pb.TagUpdate], None],
        *,
        on_connect: Callable[[], None] | None = None,
        backoff_s: tuple[float, float] = BACKOFF_S,
    ) -> None:
        self.address = address
        self.node = node
        self._security = security or Security()
        self._on_update = on_update
        self._on_connect = on_connect
        self._backoff_s = backoff_s
        self._lock = threading.Lock()
        self._wanted: dict[bytes, None] = {}
        self._stats = ClientStats()
        self._heard = time.monotonic()
        self._stream: _Stream | None = None
        self._anew = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Connects from now on, in a thread of its own; returns at once."""
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="zerospan-tags", daemon=True)
        self._thread.start()

    def stop(self, deadline_s: float = 2.0) -> None:
        """No callback after it has returned in time."""
        with self._lock:
            self._stopping.set()
            stream = self._stream
        if stream is not None:
            stream.close()
        if self._thread is not None:
            self._thread.join(deadline_s)

    def want(self, keys: Iterable[bytes]) -> None:
        """To be told of these keys, now and when they change; each is answered. Those wanted already are not asked for
        again. They are asked for again after a reconnect.
        """
        with self._lock:
            new = [key for key in dict.fromkeys(keys) if key not in self._wanted]
            self._wanted.update(dict.fromkeys(new))
            if new and self._stream is not None:
                self._stream.ask(new, ())

    def drop(self, keys: Iterable[bytes]) -> None:
        """These keys are of no more interest; an update of one may be on its way. Keys of the node are told further."""
        with self._lock:
            gone = [key for key in dict.fromkeys(keys) if key in self._wanted]
            for key in gone:
                del self._wanted[key]
            if gone and self._stream is not None:
                self._stream.ask((), gone)

    def again(self) -> None:
        """Everything is to be told anew, by a new stream: what this one has told was let go."""
        with self._lock:
            self._anew = True
            stream = self._stream
        if stream is not None:
            stream.close()

    def stats(self) -> ClientStats:
        """A copy, of this moment."""
        with self._lock:
            return msgspec.structs.replace(
                self._stats, wanted=len(self._wanted), silent_s=time.monotonic() - self._heard
            )

    # -- in the client's thread

    def _run(self) -> None:
        first, longest = self._backoff_s
        wait = first
        while not self._stopping.is_set():
            before = self._stats.connections
            error = self._follow()
            with self._lock:
                if self._stopping.is_set():
                    self._stats.connected = False
                    return
                if self._anew:
                    continue
                self._stats.connected = False
                self._stats.failures += 1
                self._stats.last_error = error
            if self._stats.connections > before:
                wait = first
            log.log(
                logging.WARNING if wait == first else logging.DEBUG,
                "%s; what is known stays, and it is tried again",
                error,
            )
            self._stopping.wait(wait * random.uniform(0.5, 1))
            wait = min(wait * 2, longest)

    def _follow(self) -> str:
        """One stream, to its end. Returns why it ended."""
        try:
            made = channel(self.address, self._security)
        except OSError as e:
            return f"a file for the connection to the enricher at {self.address} cannot be used: {e}"
        with made:
            try:
                metadata = self._security.metadata()
            except OSError as e:
                return f"the token for the enricher at {self.address} cannot be read: {e}"
            with self._lock:
                if self._stopping.is_set():
                    return ""
                if self._anew:
                    self._stats.epoch = self._stats.revision = 0
                    self._anew = False
                opening = pb.Open(node=self.node, epoch=self._stats.epoch, revision=self._stats.revision)
                stream = self._stream = _Stream(opening, self._wanted)
            try:
                watch = made.stream_stream(WATCH, pb.WatchRequest.SerializeToString, pb.TagUpdate.FromString)
                updates = watch(iter(stream), metadata=metadata)
                stream.call = updates
                if self._stopping.is_set():
                    stream.close()
                with _Watchdog(self, updates):
                    told = False
                    for update in updates:
                        self._told(update, not told)
                        told = True
                return f"the enricher at {self.address} ended the stream"
            except grpc.RpcError as e:
                return explain(self.address, e)
            except _HandlerError as e:
                return str(e)
            finally:
                with self._lock:
                    self._stream = None
                stream.close()

    def _told(self, update: pb.TagUpdate, first: bool) -> None:
        try:
            if first and self._on_connect is not None:
                self._on_connect()
            self._on_update(update)
        except Exception as e:
            log.exception("what the enricher told could not be used")
            with self._lock:
                self._stats.handler_errors += 1
                self._stats.epoch = self._stats.revision = 0
            raise _HandlerError(f"what the enricher told could not be used: {type(e).__name__}: {e}") from e
        with self._lock:
            s = self._stats
            self._heard = time.monotonic()
            s.connected = True
            s.connections += first
            s.updates += 1
            s.bindings += len(update.bindings)
            s.resets += update.reset
            s.epoch, s.revision, s.in_sync = update.epoch, update.revision, update.in_sync

    def _silent_s(self) -> float:
        with self._lock:
            return time.monotonic() - self._heard


class _HandlerError(Exception):
    pass


class _Watchdog:
    """Cuts a call that has been silent for longer than three heartbeats."""

    def __init__(self, client: TagClient, call: Any) -> None:
        self._client, self._call = client, call
        self._began = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zerospan-tags-watchdog", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(SILENCE_S / 3):
            if min(self._client._silent_s(), time.monotonic() - self._began) > SILENCE_S:
                self._call.cancel()
                return


class _Stream:
    """The requests of one stream: the opening, then keys as they are asked for; gRPC iterates in its own thread."""

    def __init__(self, opening: pb.Open, wanted: Iterable[bytes]) -> None:
        self.call: Any = None
        self._opening = opening
        self._changed = threading.Condition()
        self._want: dict[bytes, bool] = dict.fromkeys(wanted, True)  # or drop; the last word counts
        self._closed = False

    def ask(self, want: Iterable[bytes], drop: Iterable[bytes]) -> None:
        with self._changed:
            for key, wanted in itertools.chain(((k, True) for k in want), ((k, False) for k in drop)):
                self._want.pop(key, None)
                self._want[key] = wanted
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self.call is not None:
            self.call.cancel()

    def __iter__(self) -> Iterator[pb.WatchRequest]:
        request = pb.WatchRequest(open=self._opening)
        while True:
            with self._changed:
                while not self._want and not self._closed and not request.HasField("open"):
                    self._changed.wait()
                if self._closed:
                    return
                room = ASK_BYTES
                while self._want and room > 0:
                    key, wanted = self._want.popitem()
                    (request.want if wanted else request.drop).append(key)
                    room -= len(key) + 4
            yield request
            request = pb.WatchRequest()


class Mirror:
    """What was told, as a handler of TagClient: bindings, and tags by key and time. Not thread-safe."""

    def __init__(self) -> None:
        self.sets: dict[int, tuple[int, tuple[str, ...]]] = {}  # id -> base, own tags
        self.bindings: dict[bytes, list[tuple[int, int, int]]] = {}  # key -> (set, since_ns, until_ns)
        self.in_sync = False

    def update(self, update: pb.TagUpdate) -> None:
        """Takes one update. Raises KeyError if it refers to a set that was not told."""
        if update.reset:
            self.forget()
        for s in update.sets:
            if s.base and s.base not in self.sets:
                raise KeyError(f"set {s.id:016x} stands on {s.base:016x}, which was not told")
            self.sets[s.id] = (s.base, tuple(s.tags))
        for b in update.bindings:
            for piece in b.pieces:
                if piece.set not in self.sets:
                    raise KeyError(f"set {piece.set:016x} was not told")
            self.bindings[b.key] = [(p.set, p.since_ns, p.until_ns) for p in b.pieces]
        self.in_sync = update.in_sync

    def forget(self) -> None:
        """All bindings, and with them all sets."""
        self.bindings.clear()
        self.sets.clear()

    def prune(self) -> None:
        """Forgets sets that no binding refers to: as `on_connect`."""
        used: dict[int, tuple[int, tuple[str, ...]]] = {}
        for pieces in self.bindings.values():
            for at, _, _ in pieces:
                while at and at not in used:
                    used[at] = self.sets[at]
                    at = used[at][0]
        self.sets = used

    def tags(self, set_id: int) -> dict[str, str]:
        """All tags of a set, those of its bases included."""
        base, own = self.sets[set_id]
        found = self.tags(base) if base else {}
        found.update(zip(own[::2], own[1::2], strict=True))
        return found

    def find(self, key: bytes, at_ns: int = 0) -> dict[str, str] | None:
        """What the key was at that time (0: now); None if nothing is known."""
        at_ns = at_ns or time.time_ns()
        for set_id, since, until in self.bindings.get(key, ()):
            if since <= at_ns and (not until or at_ns < until):
                return self.tags(set_id)
        return None
