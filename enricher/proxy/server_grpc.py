"""OTLP/gRPC in: generic handlers of grpc.aio with the messages as bytes. On the proxy's loop.

grpcio itself refuses what is larger than max_request_bytes (RESOURCE_EXHAUSTED), before it is ours to count.
"""

import asyncio
import functools
from typing import Any

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]

from zerospan.enricher.keys import packed
from zerospan.enricher.proxy.answers import PROTOBUF, Refusal
from zerospan.enricher.proxy.config import SIGNALS, ProxyConfig, Signal
from zerospan.enricher.proxy.intake import Intake
from zerospan.enricher.proxy.ledger import UNAUTHORIZED
from zerospan.enricher.security import Rights
from zerospan.exporter.sinks.otlp_grpc import METHODS, STATUS_DETAILS

STREAMS = (
    100  # of one connection (RFC 9113, 6.5.2: no fewer); a sender's further ones wait on its own side. grpcio holds
)
# their messages before we can refuse them, so that this bounds memory, too
BY_METHOD = {METHODS[signal]: signal for signal in SIGNALS}


class GrpcServer(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Made and started on the loop."""

    def __init__(self, config: ProxyConfig, rights: Rights, intake: Intake) -> None:
        self._intake = intake
        self._handlers = {
            signal: grpc.unary_unary_rpc_method_handler(functools.partial(self._export, signal)) for signal in SIGNALS
        }
        self._server = grpc.aio.server(
            # The last resort, without a hint to come again. Ours (Intake.admit) comes first, but does not see requests
            # whose message is still on its way.
            maximum_concurrent_rpcs=4 * config.max_senders,
            options=[
                ("grpc.max_receive_message_length", config.max_request_bytes),
                ("grpc.max_concurrent_streams", STREAMS),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_time_ms", int(config.idle_s * 1000)),
            ],
        )
        self._server.add_generic_rpc_handlers((self,))
        self._credentials = rights.grpc_credentials()

    async def start(self, address: str) -> int:
        """Listens; returns the port. Raises OSError if it cannot."""
        address = f"[::]{address}" if address.startswith(":") else address
        try:
            if self._credentials is None:
                port: int = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as e:
            raise OSError(f"cannot listen at {address}: {e}") from None
        if port == 0:
            raise OSError(f"cannot listen at {address}")
        await self._server.start()
        return port

    async def stop(self, grace_s: float) -> None:
        """No new requests; those under way have grace_s seconds."""
        await self._server.stop(grace_s)

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call, chosen when its headers are there and its message is not read yet."""
        signal = BY_METHOD.get(handler_call_details.method)
        refusal = self._intake.admit(dict(handler_call_details.invocation_metadata))
        if signal is None and (refusal is None or refusal.reason != UNAUTHORIZED):
            return None  # who has no rights does not learn what is there
        if signal is not None and refusal is None:
            return self._handlers[signal]
        assert refusal is not None
        # A handler of a stream reads no message unless it asks for one.
        return grpc.stream_unary_rpc_method_handler(functools.partial(self._refuse, signal, refusal))

    async def _refuse(self, signal: Signal | None, refusal: Refusal, requests: Any, context: Any) -> None:
        if signal is not None:
            self._intake.ledger.open(signal).refuse(refusal.reason)
        await _abort(context, refusal)

    async def _export(self, signal: Signal, body: bytes, context: Any) -> bytes:
        intake = self._intake
        entry = intake.ledger.open(signal)
        if not entry.hold(len(body)):
            refusal = intake.full()
            entry.refuse(refusal.reason)
            await _abort(context, refusal)
        gone = False
        headers = {k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)}
        left_s = context.time_remaining()
        task = intake.begin(entry, body, PROTOBUF, peer_of(context.peer()), headers, left_s, lambda: gone)
        del body
        try:
            answer = await asyncio.shield(task)
        except asyncio.CancelledError:
            gone = True
            raise
        if isinstance(answer, Refusal):
            await _abort(context, answer)
            raise AssertionError("abort() has returned")
        return answer.body


async def _abort(context: Any, refusal: Refusal) -> None:
    code = getattr(grpc.StatusCode, refusal.grpc)
    await context.abort(code, refusal.message, ((STATUS_DETAILS, refusal.status()),))


@functools.lru_cache(4096)
def peer_of(peer: str) -> bytes:
    """16 bytes of the address in gRPC's words ("ipv4:10.0.0.7:4000", "ipv6:%5B::1%5D:4000"); empty for others."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return b""
    try:
        return packed(rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]"))
    except ValueError:
        return b""
