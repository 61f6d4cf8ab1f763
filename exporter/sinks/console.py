"""Sinks for a person at a terminal: traces as trees, requests as lines.

Both take the encoded batches that every other sink takes, decode them on their own thread and write to
standard output. A reader that goes away ends the output, not the agent: what comes then is dropped and
counted.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from zerospan.exporter import requestlog, tree
from zerospan.exporter.requestlog import Request
from zerospan.exporter.sinks.base import REJECTED, Batch
from zerospan.exporter.sinks.queue import Outcome, QueueSink, Refused, Sent
from zerospan.exporter.terminal import wants_color
from zerospan.exporter.tree import Span

QUIET_S = 1.5  # a trace is printed when nothing more came for so long
MAX_TRACES = 1000  # kept; the oldest is printed before its time
MAX_SPANS = 20_000  # of all traces that are kept
QUEUE_BYTES = 8 << 20

Write = Callable[[str], None]


def write_stdout(text: str) -> None:
    """All of it, or BrokenPipeError. Not through sys.stdout: what that buffers would fail again at exit."""
    data = memoryview(text.encode("utf-8", "replace"))
    while data:
        data = data[os.write(1, data) :]


class TreeSink(QueueSink):
    """Prints each trace as a tree once nothing more came of it for `quiet_s` seconds."""

    def __init__(self, *, write: Write = write_stdout, quiet_s: float = QUIET_S, color: bool | None = None) -> None:
        super().__init__("console/tree", "traces", queue_bytes=QUEUE_BYTES)
        self._out = write
        self._quiet_s = quiet_s
        self._color = wants_color() if color is None else color
        self._trees: OrderedDict[str, tuple[float, list[Span]]] = OrderedDict()  # grew last: last
        self._spans = 0
        self._trees_lock = threading.Lock()
        self._broken = False

    def start(self) -> None:
        """Begins to print."""
        super().start()
        threading.Thread(target=self._watch, name="zs-console", daemon=True).start()

    def _send(self, batch: Batch, first: bool) -> Outcome:
        try:
            spans = tree.decode(batch.payload)
        except ValueError as e:
            return Refused(f"the batch cannot be shown: {e}", REJECTED)
        now = time.monotonic()
        with self._trees_lock:
            if self._broken:
                return Refused("standard output is closed: its reader has ended", REJECTED)
            for span in spans:
                _, known = self._trees.pop(span.trace_id, (now, []))
                known.append(span)
                self._trees[span.trace_id] = (now, known)
                self._spans += 1
            # after the batch: its spans are grouped by process, not by trace
            while len(self._trees) > MAX_TRACES or self._spans > MAX_SPANS:
                self._print_oldest()
        return Sent(0)

    def _watch(self) -> None:
        while not self._stopping.wait(min(0.25, self._quiet_s / 4)):
            with self._trees_lock:
                before = time.monotonic() - self._quiet_s
                while self._trees and next(iter(self._trees.values()))[0] <= before:
                    self._print_oldest()

    def _close(self) -> None:
        with self._trees_lock:
            while self._trees:
                self._print_oldest()

    def _print_oldest(self) -> None:
        """With the lock held."""
        _, (_, spans) = self._trees.popitem(last=False)
        self._spans -= len(spans)
        if self._broken:
            return
        try:
            self._out(tree.render_trace(spans, color=self._color) + "\n")
        except OSError:
            self._broken = True


class RequestSink(QueueSink):
    """Hands the requests of each batch to `show`, in the order of their time.

    `closed` is set when `show` found no reader any more.
    """

    def __init__(self, show: Callable[[list[Request]], None]) -> None:
        super().__init__("console/requests", "logs", queue_bytes=QUEUE_BYTES)
        self._show = show
        self.closed = threading.Event()

    def _send(self, batch: Batch, first: bool) -> Outcome:
        if self.closed.is_set():
            return Refused("standard output is closed: its reader has ended", REJECTED)
        try:
            requests = requestlog.decode(batch.payload)
        except ValueError as e:
            return Refused(f"the batch cannot be shown: {e}", REJECTED)
        try:
            self._show(sorted(requests, key=lambda r: r.time))
        except OSError:
            self.closed.set()
            return Refused("standard output is closed: its reader has ended", REJECTED)
        return Sent(0)
