"""What happens to a request whatever it came by: admission, rewriting, forwarding, the ledger. Used by both servers.

On the proxy's loop, which is why one request is rewritten at a time (some us for each hundred spans).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from zerospan.enricher.proxy import json_body, ledger
from zerospan.enricher.proxy.answers import JSON, PROTOBUF, RETRY_S, Done, Refusal
from zerospan.enricher.proxy.config import ProxyConfig, Signal
from zerospan.enricher.proxy.forward import Forwarder, Request, passed
from zerospan.enricher.proxy.json_body import Json
from zerospan.enricher.proxy.json_protobuf import answer_json, to_protobuf
from zerospan.enricher.proxy.ledger import Entry, Ledger
from zerospan.enricher.proxy.resources import Codec, Protobuf, Resources
from zerospan.enricher.proxy.rewrite import Malformed, rewrite
from zerospan.enricher.security import Rights

log = logging.getLogger("zerospan.proxy")

RESOURCES_MAX = 1 << 16  # of one request; a Collector's largest batch has 8192 items
RESOURCE_BYTES = 256 << 10  # larger ones are left as they are
TREE = 20  # what the objects of a JSON body take, in its bytes; no more than half of queue_bytes is held for them
PROTOBUF_CODEC, JSON_CODEC = Protobuf(), Json()


class TooMany(Exception):
    """A request has more resources than anyone needs."""


class Full(Exception):
    """There is no memory for what a request needs meanwhile."""


class Intake:
    """One for a proxy."""

    def __init__(
        self, config: ProxyConfig, rights: Rights, books: Ledger, resources: Resources, forwarder: Forwarder
    ) -> None:
        self.ledger = books
        self.max_request_bytes = config.max_request_bytes
        self.stopping = False
        self.crowded = 0  # resources left as they were: too large, or their request would have grown too much
        self._most = config.max_senders
        self._rights = rights
        self._resources = resources
        self._forwarder = forwarder
        own = {name.lower() for name in config.headers}  # which nobody else may say
        self._pass = frozenset(name.lower() for name in config.pass_headers) - own
        self._translating = asyncio.Semaphore(1)
        self._tasks: set[asyncio.Task[Done | Refusal]] = set()

    def admit(self, headers: Mapping[str, str]) -> Refusal | None:
        """Before the body is read: None, or why not."""
        if not self._rights.check(headers):
            return Refusal(ledger.UNAUTHORIZED, "no right to send")
        if self.stopping:
            return Refusal(ledger.SHUTDOWN, "the proxy stops", RETRY_S)
        if self.ledger.held_bytes >= self.ledger.limit_bytes or len(self._tasks) >= self._most:
            return self.full()
        return None

    def full(self) -> Refusal:
        """There is no memory for the request now."""
        held, most = self.ledger.held_bytes, self.ledger.limit_bytes
        return Refusal(ledger.QUEUE_FULL, f"{len(self._tasks)} requests wait already: {held} of {most} bytes", RETRY_S)

    def begin(
        self,
        entry: Entry,
        body: bytes,
        content_type: str,
        peer: bytes,
        headers: Mapping[str, str],
        left_s: float | None,
        gone: Callable[[], bool],
    ) -> asyncio.Task[Done | Refusal]:
        """All that follows, in a task that outlives its sender: an attempt under way is not broken off, since nobody
        would know what became of it. `entry` holds the body's memory; the task settles it.
        """
        task = asyncio.create_task(self._handle(entry, body, content_type, peer, headers, left_s, gone))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self, deadline_s: float) -> None:
        """Waits for what is in flight, then breaks it off."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=deadline_s)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=0.5)

    async def _handle(
        self,
        entry: Entry,
        body: bytes,
        content_type: str,
        peer: bytes,
        headers: Mapping[str, str],
        left_s: float | None,
        gone: Callable[[], bool],
    ) -> Done | Refusal:
        try:
            signal = entry.signal
            translate = content_type == JSON and not self._forwarder.upstream.takes_json
            if translate:
                body = await self._translated(entry, body)
                content_type = PROTOBUF
            made = self._rewritten(entry, body, content_type, peer)
            del body  # one of the two is enough
            answer: Done | Refusal
            if isinstance(made, Refusal):
                answer = made
            else:
                request = Request(signal, made, content_type, passed(headers, self._pass))
                answer = await self._forwarder.deliver(request, entry, left_s, gone)
            if translate and isinstance(answer, Done):
                answer = Done(answer_json(answer.body, signal), JSON, answer.rejected)
        except Malformed as e:
            answer = Refusal(ledger.MALFORMED, str(e))
        except Full:
            answer = self.full()
        except TooMany:
            answer = Refusal(ledger.TOO_LARGE, f"a request may have {RESOURCES_MAX} resources")
        except asyncio.CancelledError:
            answer = Refusal(ledger.SHUTDOWN, "the proxy stops", RETRY_S)
        except Exception:
            log.exception("proxy: a request failed with an error of our own")
            answer = Refusal(ledger.INTERNAL_ERROR, "internal error")
        if isinstance(answer, Done):
            entry.forwarded(answer.rejected, heard=not gone())
        else:
            entry.refuse(answer.reason)
        return answer

    async def _translated(self, entry: Entry, body: bytes) -> bytes:
        """The body in protobuf; one at a time, for it is a tree of objects meanwhile. Raises Malformed and Full."""
        async with self._translating:
            tree = min(TREE * len(body), self.ledger.limit_bytes // 2)
            if not entry.hold(tree):
                raise Full
            try:
                return await asyncio.get_running_loop().run_in_executor(None, to_protobuf, body, entry.signal)
            finally:
                entry.release(tree)

    def _rewritten(self, entry: Entry, body: bytes, content_type: str, peer: bytes) -> bytes | Refusal:
        """The body with tags, counted; raises Malformed."""
        json = content_type == JSON
        codec: Codec = JSON_CODEC if json else PROTOBUF_CODEC
        room = self.max_request_bytes
        left = RESOURCES_MAX

        def replace(resource: bytes) -> bytes | None:
            nonlocal room, left
            left -= 1
            if left < 0:
                raise TooMany
            if len(resource) > RESOURCE_BYTES:
                self.crowded += 1
                return None
            new = self._resources.replace(resource, peer, codec)
            if new is not None:
                if len(new) - len(resource) > room:
                    self.crowded += 1
                    return None
                room -= len(new) - len(resource)
            return new

        signal: Signal = entry.signal
        made, items = (json_body.rewrite if json else rewrite)(body, signal, replace)
        entry.count(items)
        if not entry.resize(len(made)):
            return self.full()
        return made
