# cython: language_level=3, boundscheck=True, wraparound=False
"""A recording as a source; see recording.py for the format. Needs no rights but those to read the file.

The file is mapped and checked as a whole when it is opened: sizes, kinds, order, the end. Then records are handed out in place up
to the next step of the loop that recorded them (Replay.step); whoever drives it takes that step with the recorded time, so a replay
comes to the same spans, times and ids as the run that was recorded. Used by one thread (pipeline.py).
"""

import json
import mmap
import os
import struct
from collections import deque

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from cpython.bytes cimport PyBytes_FromStringAndSize

from zerospan.exporter.abi.events cimport zs_hdr

from zerospan.exporter.process import ProcessInfo
from zerospan.exporter.source import recording
from zerospan.exporter.source.recording import ReplayError

cdef enum:
    FRAME_HEAD = 8
    KIND_RECORD = 1          # the numbers of recording.py
    KIND_TICK = 2
    KIND_SETTLE = 3
    KIND_EXPIRE = 4
    KIND_FORGET = 5
    KIND_PROCESS = 6
    KIND_FINISH = 7
    KIND_END = 8

TICK, SETTLE, EXPIRE, FORGET, FINISH = KIND_TICK, KIND_SETTLE, KIND_EXPIRE, KIND_FORGET, KIND_FINISH


cdef inline uint32_t word(const uint8_t *p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return v


cdef inline uint64_t padded(uint32_t n) noexcept nogil:
    return (<uint64_t>n + 7) & ~<uint64_t>7


cdef class Replay(Source):
    """path: the file; partial: a recording that was cut off is taken as far as it goes. Raises ReplayError, OSError."""

    def __init__(self, str path, bint partial=False):
        self.path = path
        self.processes = {}
        self.kernel = {}
        self.wall_offset = 0
        with open(path, "rb") as f:
            if os.fstat(f.fileno()).st_size == 0:
                raise ReplayError(f"{path} is empty: no recording, or one that was cut off; record it again")
            self.map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        self.view = self.map
        self.data = &self.view[0]
        self.about, start = recording.read_head(memoryview(self.map), path)
        self.at = start
        self.end = start
        self.check(partial)

    def check(self, bint partial):
        """One pass over the frames. Raises ReplayError with the place of what is wrong."""
        cdef uint64_t at = self.at, total = len(self.view), step
        cdef uint32_t size, kind
        cdef uint32_t least
        cdef bint finished = False, ended = False
        while at < total and not ended:
            if total - at < FRAME_HEAD:
                break
            size = word(self.data + at)
            kind = word(self.data + at + 4)
            if kind < KIND_RECORD or kind > KIND_END:
                raise ReplayError(f"{self.path} is damaged: no known frame at byte {at} (kind {kind})")
            if padded(size) > total - at - FRAME_HEAD:
                break
            least = 16 if kind in (KIND_TICK, KIND_EXPIRE, KIND_FINISH) else 8 if kind == KIND_SETTLE else 0
            if kind == KIND_RECORD:
                least = sizeof(zs_hdr)
                self.records += 1
            if size < least or (finished and kind not in (KIND_RECORD, KIND_PROCESS, KIND_END)):
                raise ReplayError(f"{self.path} is damaged: a wrong frame at byte {at} (kind {kind}, {size} bytes)")
            if kind == KIND_PROCESS:
                tgid, comm, info = recording.read_process(self.body(at), self.path)
                self.processes.setdefault((tgid, comm), deque()).append(info)
            elif kind == KIND_TICK and self.first_ns == 0:
                self.first_ns = struct.unpack_from("<Q", self.body(at))[0]
            elif kind == KIND_FINISH:
                finished = True
            elif kind == KIND_END:
                ended = True
                try:
                    counters = json.loads(self.body(at))["kernel"]
                    self.kernel = {str(name): int(n) for name, n in counters.items()}
                except (ValueError, KeyError, TypeError, AttributeError) as e:
                    raise ReplayError(f"{self.path} is damaged: its last frame cannot be read ({e})") from e
            at += FRAME_HEAD + padded(size)
            self.end = at
        if ended and at < total:
            raise ReplayError(f"{self.path} is damaged: {total - at} bytes after the end of the recording")
        if not ended and not partial:
            raise ReplayError(
                f"{self.path} is cut off at byte {total}: the end of the recording is missing. Record it again, or take what"
                " there is with --partial"
            )
        self.now = self.first_ns

    cdef bytes body(self, uint64_t at):
        return PyBytes_FromStringAndSize(<const char *>self.data + at + FRAME_HEAD, word(self.data + at))

    cdef const uint8_t *next(self, uint32_t *size) noexcept nogil:
        cdef const uint8_t *record
        cdef uint32_t kind
        while self.at < self.end:
            kind = word(self.data + self.at + 4)
            if kind != KIND_RECORD and kind != KIND_PROCESS:
                break
            size[0] = word(self.data + self.at)
            record = self.data + self.at + FRAME_HEAD
            self.at += FRAME_HEAD + padded(size[0])
            if kind == KIND_RECORD:
                return record
        size[0] = 0
        return NULL

    cdef void release(self) noexcept nogil:
        pass

    def step(self):
        """The next step of the loop that was recorded: (kind, time, wall offset, idle time or tgids); None at the end.

        After a TICK or FINISH the records of that step come from this source.
        """
        cdef uint32_t size = 0
        cdef uint32_t kind
        while self.next(&size) != NULL:      # records that nobody asked for: a recording that was put together
            pass
        if self.at >= self.end:
            return None
        kind = word(self.data + self.at + 4)
        body = self.body(self.at)
        self.at += FRAME_HEAD + padded(word(self.data + self.at))
        if kind == KIND_TICK or kind == KIND_FINISH:
            self.now, self.wall_offset = recording.TWO.unpack_from(body)
            return kind, self.now, self.wall_offset
        if kind == KIND_SETTLE:
            return kind, recording.ONE.unpack_from(body)[0], 0
        if kind == KIND_EXPIRE:
            now, idle_ns = recording.TWO.unpack_from(body)
            return kind, now, idle_ns
        if kind == KIND_FORGET:
            return kind, self.now, [tgid for (tgid,) in struct.iter_unpack("<I", body[:len(body) & ~3])]
        return None

    def describe(self, tgid, comm, cgroup_id=0):
        """What was said of the process at this point of the recording."""
        known = self.processes.get((tgid, comm))
        if not known:
            return ProcessInfo(tgid=tgid, service=comm or "unknown_service", resource=b"", labels=b"", series=b"",
                               target_info=b"")
        return known.popleft() if len(known) > 1 else known[0]

    def share(self):
        """How much has been replayed, 0 to 1."""
        return self.at / self.end

    def close(self):
        """Nothing may be asked for after it."""
        self.at = self.end = 0
