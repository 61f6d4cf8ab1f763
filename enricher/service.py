"""The tag service: gRPC before `fanout.py`, one asyncio loop in a thread of its own.

Messages go out as the bytes that fanout.py made. A subscriber that does not read is ended when one message has waited
for STALL_S or more waits for it than it may; it comes again and resumes, and it is counted. Built by `run.py`.
"""

import asyncio
import contextlib
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
import msgspec

from zerospan.enricher.client import RESOLVE, WATCH
from zerospan.enricher.fanout import Fanout, Subscriber, TooMuch
from zerospan.enricher.security import Rights
from zerospan.enricher.store import TagStore
from zerospan.enricher.wire import tags_pb2 as pb

log = logging.getLogger(__name__)

COALESCE_S = 0.02
HEARTBEAT_S = 30.0
STALL_S = 30.0
MAX_REQUEST_BYTES = 8 << 20
OPTIONS = [
    ("grpc.so_reuseport", 0),  # a second enricher on the port must fail, not share it
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_concurrent_streams", 64),  # of one connection
]


class ServiceStats(msgspec.Struct, kw_only=True):
    """Since the start, but for the sizes."""

    subscribers: int = 0
    wanted: int = 0  # keys that subscribers ask for
    pending: int = 0  # keys that wait to be told
    streams: int = 0
    resumed: int = 0
    snapshots: int = 0
    messages: int = 0
    bytes: int = 0
    resolved: int = 0  # keys, by Resolve
    refused: int = 0  # callers without rights
    cut: dict[str, int] = {}  # streams ended by us, by reason
    lag_s: float = 0.0  # from a change to its marking: how far the loop is behind


class TagService:
    """listen: HOST:PORT and unix:/PATH; port 0 takes a free one, see `ports`. The sockets are bound by start()
    (OSError). more: keyword arguments of Fanout.
    """

    def __init__(
        self,
        store: TagStore,
        listen: list[str],
        rights: Rights,
        in_sync: Callable[[], bool],
        *,
        stall_s: float = STALL_S,
        heartbeat_s: float = HEARTBEAT_S,
        **more: Any,
    ) -> None:
        self._store = store
        self._listen = listen
        self._rights = rights
        self._stall_s, self._heartbeat_s = stall_s, heartbeat_s
        self._fanout = Fanout(store, in_sync, **more)
        self._stats = ServiceStats()
        self._streams: dict[Subscriber, _Stream] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="zerospan-tag-service", daemon=True)
        self._started: threading.Event = threading.Event()
        self._failure: BaseException | None = None
        self._woken = False
        self._changed_at = 0.0
        self._stopping: asyncio.Event | None = None
        self._grace_s = 2.0
        self.ports: dict[str, int] = {}  # what was asked for -> port

    def start(self) -> None:
        """Serves from now on. Raises OSError."""
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure
        self._store.listen(self._wake)

    def stop(self, grace_s: float = 2.0) -> None:
        """Ends all streams; their clients come again, elsewhere or later, and resume."""
        self._grace_s = grace_s
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._end)
            self._thread.join(grace_s + 3)

    def stats(self) -> ServiceStats:
        """Of this moment; from any thread."""
        sizes: dict[str, int] = {}
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            with contextlib.suppress(RuntimeError, TimeoutError):
                sizes = asyncio.run_coroutine_threadsafe(self._sizes(), self._loop).result(2)
        known = {name: sizes[name] for name in ("subscribers", "wanted", "pending") if name in sizes}
        return msgspec.structs.replace(
            self._stats,
            resumed=self._fanout.resumed,
            snapshots=self._fanout.snapshots,
            cut=dict(self._stats.cut),
            **known,
        )

    async def _sizes(self) -> dict[str, int]:
        return self._fanout.stats()

    # -- the loop

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as e:
            if self._started.is_set():
                log.exception("the tag service ended: a bug")
            self._failure = e
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((_Handler(self),))
        for address in self._listen:
            self._bind(server, address)
        await server.start()
        self._started.set()
        chores = [asyncio.ensure_future(self._every(min(1.0, self._stall_s / 4), self._cut_stalled))]
        chores.append(asyncio.ensure_future(self._every(self._heartbeat_s, self._fanout.renew)))
        # in_sync may change with no change in the store
        chores.append(asyncio.ensure_future(self._every(1.0, self._tick)))
        try:
            await self._stopping.wait()
        finally:
            for chore in chores:
                chore.cancel()
            for stream in list(self._streams.values()):
                stream.event.set()
            await server.stop(self._grace_s)
            for address in self._listen:
                if address.startswith("unix:"):
                    with contextlib.suppress(OSError):
                        os.unlink(address.removeprefix("unix:"))

    def _bind(self, server: Any, address: str) -> None:
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            _clear(path)
            before = os.umask(0o177)  # no moment in which others may connect
            try:
                bound = server.add_insecure_port(address)
            except RuntimeError:
                bound = 0
            finally:
                os.umask(before)
            if not bound:
                raise OSError(f"cannot listen on {address}; is its folder there, and may this user write to it?")
            os.chmod(path, 0o600)
            return
        credentials = self._rights.grpc_credentials()
        target = f"[::]{address}" if address.startswith(":") else address
        try:
            port = server.add_secure_port(target, credentials) if credentials else server.add_insecure_port(target)
        except RuntimeError:
            port = 0
        if not port:
            raise OSError(f"listen.grpc: cannot listen on {address}: it is taken or not of this host; choose another")
        self.ports[address] = port

    def _end(self) -> None:
        if self._stopping is not None:
            self._stopping.set()

    async def _every(self, seconds: float, chore: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(seconds)
            chore()

    def _wake(self) -> None:
        """The store has changed; in the thread that changed it, perhaps with the store's lock."""
        if not self._woken:
            self._woken = True
            self._changed_at = time.monotonic()
            with contextlib.suppress(RuntimeError):  # the loop is closed: the end
                self._loop.call_soon_threadsafe(self._loop.call_later, COALESCE_S, self._tick)

    def _tick(self) -> None:
        if self._woken:
            self._stats.lag_s = max(0.0, time.monotonic() - self._changed_at - COALESCE_S)
        self._woken = False  # before the reading: what changes from now on wakes again
        try:
            self._fanout.tick()
        except Exception:
            log.exception("changes could not be handed out; everyone is told everything: a bug")
            self._fanout.anew()

    def _cut_stalled(self) -> None:
        before = time.monotonic() - self._stall_s
        for stream in list(self._streams.values()):
            if stream.sub.cut == "" and stream.writing and stream.writing < before:
                stream.sub.cut = "stalled"
            if stream.sub.cut and stream.writing:
                self._release(stream)

    def _release(self, stream: "_Stream") -> None:
        """Nothing more is kept for this stream. gRPC ends no call before the message that it holds is taken, neither by
        abort nor by cancelling the handler: one that does not read keeps that message, and is told when it reads.
        """
        sub = stream.sub
        if self._streams.pop(sub, None) is None:
            return
        self._fanout.close(sub)
        if sub.cut:
            self._stats.cut[sub.cut] = self._stats.cut.get(sub.cut, 0) + 1

    # -- calls

    def allowed(self, context: Any) -> bool:
        """Whether this caller has rights."""
        if context.peer().startswith("unix:"):
            return True
        given = [value for name, value in context.invocation_metadata() or () if name == "authorization"]
        if self._rights.allows(given[0] if len(given) == 1 else None):
            return True
        self._stats.refused += 1
        return False

    async def watch(self, requests: AsyncIterator[pb.WatchRequest], context: Any) -> None:
        """The handler of Watch."""
        if not self.allowed(context):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "")
        try:
            first = await asyncio.wait_for(context.read(), self._stall_s)
        except TimeoutError:
            first = grpc.aio.EOF
        if first is grpc.aio.EOF or not first.HasField("open"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message needs `open`")
        event = asyncio.Event()
        try:
            sub = self._fanout.open(first.open.node, first.open.epoch, first.open.revision, event.set)
        except TooMuch as e:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(e))
        stream = _Stream(sub, event)
        self._streams[sub] = stream
        self._stats.streams += 1
        reader: asyncio.Task[None] | None = None
        try:
            self._ask(sub, first)
            reader = asyncio.ensure_future(self._read(stream, context))
            await self._write(stream, context)
        except TooMuch as e:
            sub.cut = e.reason
            stream.text = str(e)
        finally:
            if reader is not None:
                reader.cancel()
            self._release(stream)
        if sub.cut == "renewed" or (self._stopping is not None and self._stopping.is_set()):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "come again")
        if sub.cut:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, stream.text or f"this stream is {sub.cut}")

    def _ask(self, sub: Subscriber, request: pb.WatchRequest) -> None:
        self._fanout.ask(sub, request.want, request.drop)

    async def _read(self, stream: "_Stream", context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            if stream.sub.cut:
                return
            try:
                self._ask(stream.sub, request)
            except TooMuch as e:
                stream.sub.cut, stream.text = e.reason, str(e)
                stream.event.set()
                return

    async def _write(self, stream: "_Stream", context: Any) -> None:
        sub, event = stream.sub, stream.event
        assert self._stopping is not None
        while not sub.cut and not self._stopping.is_set():
            event.clear()
            data = self._fanout.message(sub)
            if data is None:
                await event.wait()
                continue
            stream.writing = time.monotonic()
            await context.write(data)
            stream.writing = 0.0
            self._stats.messages += 1
            self._stats.bytes += len(data)

    async def resolve(self, request: pb.ResolveRequest, context: Any) -> bytes:
        """The handler of Resolve."""
        if not self.allowed(context):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "")
        try:
            answer = self._fanout.resolve(request.keys, request.at_ns)
        except TooMuch as e:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(e))
        self._stats.resolved += len(request.keys)
        return answer

    async def unknown(self, _: bytes, context: Any) -> bytes:
        """Any other method: who has no rights does not learn that it is not there."""
        allowed = self.allowed(context)
        code = grpc.StatusCode.UNIMPLEMENTED if allowed else grpc.StatusCode.UNAUTHENTICATED
        await context.abort(code, "")
        return b""


class _Stream:
    """What the loop knows of one Watch."""

    __slots__ = ("event", "sub", "text", "writing")

    def __init__(self, sub: Subscriber, event: asyncio.Event) -> None:
        self.sub = sub
        self.event = event
        self.writing = 0.0  # since when one message waits to be taken; 0: none
        self.text = ""


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, service: TagService) -> None:
        self._watch = grpc.stream_stream_rpc_method_handler(service.watch, pb.WatchRequest.FromString, None)
        self._resolve = grpc.unary_unary_rpc_method_handler(service.resolve, pb.ResolveRequest.FromString, None)
        self._unknown = grpc.unary_unary_rpc_method_handler(service.unknown, None, None)

    def service(self, handler_call_details: Any) -> Any:
        return {WATCH: self._watch, RESOLVE: self._resolve}.get(handler_call_details.method, self._unknown)


def _clear(path: str) -> None:
    """Makes room for a socket: one that nobody listens on any more goes. Raises OSError if somebody does."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(f"listen.unix: {path} is there and is no socket; remove it or choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
    raise OSError(f"listen.unix: another enricher listens on {path}; stop it or choose another path")
