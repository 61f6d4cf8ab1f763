"""Files of OTLP JSON lines: one line a batch, as the OpenTelemetry Collector's file exporter writes them.

Takes protobuf batches and converts them on the sink's thread. A line is in the file whole or not at all (a
torn one is cut off again); "-" is standard output. A file that was moved away (logrotate) is made anew. Made
by `build.py`.
"""

import contextlib
import errno
import os
import select
import stat
import threading
import time
from collections.abc import Callable

from zerospan.exporter.sinks.base import REJECTED, Batch, Signal
from zerospan.exporter.sinks.queue import DEFAULT_QUEUE_BYTES, Outcome, QueueSink, Refused, Retry, Sent
from zerospan.exporter.sinks.retry import RetryPolicy

Convert = Callable[[bytes], bytes]
STDOUT = "-"
_stdout_lock = threading.Lock()  # two sinks may share standard output; lines must not


class FileSink(QueueSink):
    """Appends a line for each batch. Raises OSError if the file cannot be opened."""

    def __init__(
        self,
        name: str,
        signal: Signal,
        path: str,
        *,
        rotate_bytes: int = 0,
        rotate_keep: int = 5,
        convert: Convert | None = None,
        queue_bytes: int = DEFAULT_QUEUE_BYTES,
        retry: RetryPolicy | None = None,
    ) -> None:
        super().__init__(name, signal, queue_bytes=queue_bytes, retry=retry)
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._rotate_keep = rotate_keep
        self._convert = convert or _converter(signal)
        self._line = b""
        self._fd = -1
        self._regular = False
        self._identity = (0, 0)
        self._open()

    def _send(self, batch: Batch, first: bool) -> Outcome:
        if first:
            try:
                self._line = self._convert(bytes(batch.payload)).rstrip(b"\n") + b"\n"
            except ValueError as e:
                return Refused(f"{self._path}: the batch cannot be written as JSON: {e}", REJECTED)
        try:
            if self._path == STDOUT:
                with _stdout_lock:
                    self._write()
            else:
                self._follow()
                self._write()
        except BrokenPipeError:
            if self._path == STDOUT:
                return Refused("standard output is closed: its reader has ended", REJECTED)
            self._close()
            return Retry(f"{self._path}: its reader has ended", unreachable=True)
        except OSError as e:
            if e.errno in (errno.EBADF, errno.ENXIO):
                self._close()
            return Retry(f"{self._path}: {e.strerror or e}", unreachable=True)
        return Sent(len(self._line))

    def _open(self) -> None:
        if self._path == STDOUT:
            self._fd = os.dup(1)
            self._mark()
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            # Without O_NONBLOCK the opening of a pipe would wait for a reader.
            self._fd = os.open(self._path, flags | os.O_NONBLOCK, 0o640)
        except OSError as e:
            if e.errno == errno.ENXIO and self._fd == -1 and stat.S_ISFIFO(os.stat(self._path).st_mode):
                return  # a pipe that nobody reads yet: _follow tries again
            raise
        self._mark()

    def _mark(self) -> None:
        status = os.fstat(self._fd)
        self._regular = stat.S_ISREG(status.st_mode)
        self._identity = (status.st_dev, status.st_ino)

    def _follow(self) -> None:
        """Opens the file if it is not open, was moved away, or must be rotated for the line to come."""
        if self._fd >= 0 and self._regular:
            try:
                status = os.stat(self._path)
                moved = (status.st_dev, status.st_ino) != self._identity
            except FileNotFoundError:
                moved = True
            if not moved and self._full(status.st_size):
                self._rotate()
                moved = True
            if moved:
                self._close()
        if self._fd < 0:
            self._open()
            if self._fd < 0:
                raise OSError(errno.ENXIO, "the pipe has no reader")

    def _full(self, size: int) -> bool:
        return bool(self._rotate_bytes) and size > 0 and size + len(self._line) > self._rotate_bytes

    def _rotate(self) -> None:
        """FILE -> FILE.1 -> FILE.2 ...; the one after the last is deleted by being replaced."""
        for n in range(self._rotate_keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{self._path}.{n}", f"{self._path}.{n + 1}")
        os.rename(self._path, f"{self._path}.1")

    def _write(self) -> None:
        """Writes the line whole, or leaves a regular file as it was. Raises OSError."""
        start = os.fstat(self._fd).st_size if self._regular else 0
        view = memoryview(self._line)
        try:
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    self._wait_writable()
        except OSError:
            if self._regular and len(view) < len(self._line):
                os.ftruncate(self._fd, start)
            raise

    def _wait_writable(self) -> None:
        """For a pipe whose reader is slow. Raises TimeoutError once the time of stop() is over."""
        while not select.select([], [self._fd], [], 0.1)[1]:
            if self._closed or time.monotonic() > self._deadline:
                raise TimeoutError(errno.ETIMEDOUT, "the reader does not read")

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                if self._regular:
                    os.fsync(fd)
            finally:
                os.close(fd)


def _converter(signal: Signal) -> Convert:
    from zerospan.exporter.encode import otlp_json  # only who writes files pays for it

    convert: Convert = otlp_json.traces_json if signal == "traces" else otlp_json.logs_json
    return convert
