"""The file of `zerospan record`: what the kernel wrote, who the processes were, and when the agent looked.

    header: magic, format version, ABI version, length of a JSON object; the object (host, agent's pid,
    hooks) frame:  u32 size, u32 kind; `size` bytes; zeros up to a multiple of 8, so that records can be
    read in place

Little-endian, as the records are. Besides the kernel's records there is a frame for every step of the drain
loop (TICK, SETTLE, EXPIRE, FORGET, FINISH), so that a replay takes the same steps at the same times and
comes to the same spans with the same ids. PROCESS frames have the descriptions that the agent asked for, in
that order. END has the kernel's counters: a file without it was cut off. The kernel's records hold payload:
the file is readable by its owner only.

`Tape` writes it (for pipeline.py, with source.recorder); source.replay reads it.
"""

import json
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from zerospan import __version__
from zerospan.exporter.abi.events import ABI_VERSION
from zerospan.exporter.process import ProcessInfo
from zerospan.exporter.source.recorder import Recorder

log = logging.getLogger(__name__)

MAGIC = b"ZSRECORD"
FORMAT = 1
HEAD = struct.Struct("<8sIIII")  # magic, format, ABI version, length of the JSON object, reserved
HEAD_MAX = 1 << 20  # bytes of the JSON object

RECORD, TICK, SETTLE, EXPIRE, FORGET, PROCESS, FINISH, END = range(1, 9)
FRAME = struct.Struct("<II")
ONE, TWO = struct.Struct("<Q"), struct.Struct("<Qq")

Describe = Callable[[int, str, int], ProcessInfo]  # tgid, comm, cgroup id


class ReplayError(Exception):
    """A file that cannot be replayed: what, where, what to do."""


def pad(size: int) -> int:
    """Zeros after a body of `size` bytes."""
    return -size % 8


class Tape:
    """Writes a recording. Raises OSError if the file cannot be made; FileExistsError unless `force`.

    Used by the drain thread only, but for `records`, `written` and `error`.
    """

    def __init__(self, path: str, *, force: bool = False) -> None:
        self.path = path
        if force and os.path.isfile(path):
            os.unlink(path)
        # Exclusive: no link that someone else has put there is followed, no other file is written over.
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._out: Recorder | None = None

    def record(self, source: object, *, self_tgid: int, wall_offset: int, hooks: str) -> Recorder:
        """The source that passes on what `source` has, and writes it down. Writes the header."""
        about = {
            "host": socket.gethostname(),
            "agent_pid": self_tgid,
            "wall_offset_ns": wall_offset,
            "hooks": hooks,
            "version": __version__,
        }
        text = json.dumps(about).encode()
        text += b" " * pad(HEAD.size + len(text))
        self._out = Recorder(source, self._fd)
        self._out.raw(HEAD.pack(MAGIC, FORMAT, ABI_VERSION, len(text), 0) + text)
        return self._out

    def describing(self, describe: Describe) -> Describe:
        """`describe`, with each answer written down."""

        def described(tgid: int, comm: str, cgroup_id: int = 0) -> ProcessInfo:
            info = describe(tgid, comm, cgroup_id)
            self._write(PROCESS, msgspec.msgpack.encode((tgid, comm, info)))
            return info

        return described

    def tick(self, now: int, wall_offset: int) -> None:
        """Before Engine.tick of the same arguments; so all that follow."""
        self._write(TICK, TWO.pack(now, wall_offset))

    def settle(self, now: int) -> None:
        self._write(SETTLE, ONE.pack(now))

    def expire(self, now: int, idle_ns: int) -> None:
        self._write(EXPIRE, TWO.pack(now, idle_ns))

    def forget(self, tgids: Iterable[int]) -> None:
        gone = sorted(tgids)
        if gone:
            self._write(FORGET, struct.pack(f"<{len(gone)}I", *gone))

    def finish(self, now: int, wall_offset: int) -> None:
        self._write(FINISH, TWO.pack(now, wall_offset))

    def end(self, kernel: Mapping[str, int]) -> None:
        """The last frame; then the file is synced and closed. Raises OSError if not all could be written."""
        self._write(END, json.dumps({"kernel": dict(kernel)}).encode())
        if self._out is not None:
            self._out.flush()
        try:
            os.fsync(self._fd)
        finally:
            self.close()
        if self.error:
            raise OSError(self.error, os.strerror(self.error), self.path)

    def close(self) -> None:
        """Without an end: the recording is cut off. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def records(self) -> int:
        """Kernel records written."""
        return self._out.records if self._out is not None else 0

    @property
    def written(self) -> int:
        """Bytes of the file, those that still wait in the buffer included."""
        return self._out.written if self._out is not None else 0

    @property
    def error(self) -> int:
        """errno of the write that failed; 0. Nothing is written after it."""
        return self._out.error if self._out is not None else 0

    def _write(self, kind: int, body: bytes) -> None:
        if self._out is not None:
            self._out.write(kind, body)


def read_head(data: memoryview, path: str) -> tuple[dict[str, Any], int]:
    """What the header says, and where the frames begin. Raises ReplayError."""
    if len(data) < HEAD.size or bytes(data[:8]) != MAGIC:
        raise ReplayError(f"{path} is no recording of zerospan; make one with `zerospan record FILE`")
    _, version, abi, size, _ = HEAD.unpack_from(data)
    if version != FORMAT:
        raise ReplayError(f"{path} has format {version}, this zerospan reads {FORMAT}; use the version that wrote it")
    if abi != ABI_VERSION:
        raise ReplayError(
            f"{path} has events of ABI version {abi}, this zerospan reads {ABI_VERSION}; replay it with the"
            " version that recorded it"
        )
    start = HEAD.size + size
    if size > HEAD_MAX or start > len(data):
        raise ReplayError(f"{path} is cut off in its header ({len(data)} bytes); record it again")
    try:
        about = json.loads(bytes(data[HEAD.size : start]))
        int(about["agent_pid"])
    except (ValueError, KeyError, TypeError) as e:
        raise ReplayError(f"{path}: its header cannot be read ({e}); the file is damaged") from e
    return about, start


def read_process(body: bytes, path: str) -> tuple[int, str, ProcessInfo]:
    """A PROCESS frame. Raises ReplayError."""
    try:
        return msgspec.msgpack.decode(body, type=tuple[int, str, ProcessInfo])
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise ReplayError(f"{path} is damaged: the description of a process cannot be read ({e})") from e
