"""Reflector: follows one kind of object: a list in pages, then a watch from there, for ever.

Rules of the API (Kubernetes' "Efficient detection of changes"): a watch goes on from the last resourceVersion seen,
bookmarks move it, 410 (as an answer or as an ERROR event) means that it is too old: list again. A `continue` token may
be too old, too: the list begins anew. What cannot be decoded is counted and left out; a connection that is silent for
longer than bookmarks would be is taken for dead.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.client import HTTPException
from typing import Any, Protocol

import msgspec

from zerospan.enricher.sources.kubernetes.client import Access, ApiError, Client, Silence
from zerospan.enricher.sources.kubernetes.model import Event, List, Partial, Status

log = logging.getLogger(__name__)

PARTIAL = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1,application/json"
SILENCE_S = 150.0  # bookmarks come once a minute
WATCH_S = (300, 600)
BACKOFF_S = (0.5, 30.0)
GATHER_S = 0.02  # changes that come within it are taken at once: a wake-up costs more than a change
AWAY_S = 60.0  # forbidden, or a kind that this server does not have


class Handler(Protocol):
    """What is done with the objects. Called by the reflector's thread, inside `batch`."""

    def begin(self) -> None:
        """A list begins: what it does not have is gone."""

    def seen(self, item: Any) -> None: ...

    def gone(self, item: Any) -> None: ...

    def whole(self) -> None:
        """The list was whole."""

    def batch(self) -> AbstractContextManager[None]: ...


class Gone(Exception):
    """The resourceVersion is too old."""


class Reflector:
    """path: of the kind ("/api/v1/pods"). type: of its objects. partial: metadata only."""

    def __init__(
        self,
        name: str,
        access: Access,
        path: str,
        type: type[Any],
        handler: Handler,
        *,
        selector: str = "",
        partial: bool = False,
        page: int = 500,
        wait_for: Callable[[], bool] = lambda: True,
        silence_s: float = SILENCE_S,
        backoff_s: tuple[float, float] = BACKOFF_S,
    ) -> None:
        self.name = name
        self._access = access
        self._client = Client(access)
        self._path = path
        self._handler = handler
        self._query = {"fieldSelector": selector} if selector else {}
        self._accept = PARTIAL.format("List") if partial else "application/json"
        self._watch_accept = PARTIAL.format("") if partial else "application/json"
        self._page = page
        self._wait_for = wait_for
        self._silence_s = silence_s
        self._backoff_s = backoff_s
        self._pages = msgspec.json.Decoder(List[type])  # type: ignore[valid-type]
        self._raw_pages = msgspec.json.Decoder(List[msgspec.Raw])
        self._items = msgspec.json.Decoder(type)
        self._events = msgspec.json.Decoder(Event)
        self._partials = msgspec.json.Decoder(Partial)
        self._statuses = msgspec.json.Decoder(Status)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._version = ""
        self.in_sync = False
        self.away = False  # the server refuses this kind: nothing is known of it
        self._told = ""  # what was said of that
        self.heard = time.monotonic()
        self.connected = False
        self.changes = self.errors = self.resyncs = 0
        self.undecodable = self.forbidden = self.absent = 0  # objects; requests that were answered so
        self.last_error = ""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"k8s-{self.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Asks for the end; `join` waits for it."""
        self._stop.set()
        self._client.close()

    def join(self, timeout_s: float) -> bool:
        if self._thread is not None:
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    def lag_s(self) -> float:
        """Since it last heard of the server: 0 while a watch stands and speaks."""
        return 0.0 if self.connected or self.away else time.monotonic() - self.heard

    # -- the thread

    def _run(self) -> None:
        while not self._wait_for() and not self._stop.wait(0.02):
            pass
        low, high = self._backoff_s
        wait = low
        while not self._stop.is_set():
            began = time.monotonic()
            pause = 0.0
            try:
                if not self._version:
                    self._list()
                self._watch()
            except Gone:
                self._version = ""
                self.resyncs += 1
                pause = wait if time.monotonic() - began < 1 else 0.0
            except Silence:  # of a watch: perhaps a dead connection; go on from the same place
                pass
            except ApiError as e:
                if e.status == 410:
                    self._version = ""
                    self.resyncs += 1
                self._failed(e)
                pause = e.retry_after or wait
                if e.status in (403, 404):
                    self.away = True
                    self.forbidden += e.status == 403
                    self.absent += e.status == 404
                    self._lacks(str(e))
                    pause = AWAY_S
            except (OSError, HTTPException, msgspec.DecodeError) as e:
                self._failed(e)
                pause = wait
            except Exception as e:  # a source never dies: what it holds may be wrong now, so all is listed anew
                self._failed(e)
                self._version = ""
                pause = wait
            else:
                pause = low if time.monotonic() - began < low else 0.0  # a watch that ends at once, over and over
            self.connected = False
            wait = min(wait * 2, high) if pause and time.monotonic() - began < high else low
            if pause:
                self._stop.wait(pause * (0.5 + random.random() / 2))

    def _failed(self, e: Exception) -> None:
        if not self._stop.is_set():
            self.errors += 1
            self.last_error = f"{self.name}: {type(e).__name__ if not str(e) else e}"

    def _lacks(self, why: str) -> None:
        """Says once what is refused, and what of."""
        if why != self._told:
            self._told = why
            log.warning("kubernetes: %s: %s; what they tell is missing, it is asked for again", self.name, why)

    def _alive(self) -> None:
        self.heard = time.monotonic()
        self.connected = True
        self.away = False

    def _list(self) -> None:
        query = self._query | {"limit": str(self._page)}
        begun = False
        while True:
            page = self._decode(self._client.get(self._path, query, self._accept))
            items, page.items = page.items or [], None
            items.reverse()
            self._alive()
            with self._handler.batch():
                if not begun:
                    self._handler.begin()
                    begun = True
                while items:  # what is done with is freed while it is in the cache
                    self._handler.seen(items.pop())
                if not page.metadata.continue_:
                    self._handler.whole()
            if self._stop.is_set():
                return
            if not page.metadata.continue_:
                self._version = page.metadata.resource_version
                self.in_sync = True
                self._client.release()
                return
            query["continue"] = page.metadata.continue_

    def _decode(self, body: memoryview) -> List[Any]:
        try:
            return self._pages.decode(body)
        except msgspec.ValidationError:
            raw = self._raw_pages.decode(body)
            items = []
            for each in raw.items or ():
                try:
                    items.append(self._items.decode(each))
                except msgspec.ValidationError as e:
                    self._undecodable(e)
            return List(raw.metadata, items)

    def _undecodable(self, e: Exception) -> None:
        self.undecodable += 1
        self._failed(e)

    def _watch(self) -> None:
        query = self._query | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(random.randint(*WATCH_S)),
        }
        for lines in self._client.lines(self._path, query, self._silence_s, self._watch_accept):
            self._alive()
            self._told = ""
            with self._handler.batch():
                for line in lines:
                    if line:
                        self._event(line)
            if self._stop.wait(GATHER_S):
                return

    def _event(self, line: bytes) -> None:
        event = self._events.decode(line)
        kind = event.type
        if kind == "ERROR":
            status = self._statuses.decode(event.object)
            if status.code == 410:
                raise Gone(status.message)
            raise ApiError(status.code or 500, status.message or "")
        if kind == "BOOKMARK":
            self._version = self._partials.decode(event.object).metadata.resource_version or self._version
            return
        try:
            item = self._items.decode(event.object)
        except msgspec.ValidationError as e:
            self._undecodable(e)
            self._version = self._partials.decode(event.object).metadata.resource_version or self._version
            return
        self.changes += 1
        if kind == "DELETED":
            self._handler.gone(item)
        elif kind in ("ADDED", "MODIFIED"):
            self._handler.seen(item)
        self._version = item.metadata.resource_version or self._version
