"""The index file of a block of Prometheus: what of it belongs to which series. Used by smart_prometheus.py.

Format 2, as Prometheus' own documentation of the TSDB's index has it: header, symbols, series (each on a multiple of 16
bytes), ..., postings (4 bytes for each series under each of its labels, and under "all"), offset tables, TOC.
The table of symbols and the offset tables belong to values, not to series: a value costs them once.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

MAGIC, VERSION = 0xBAAAD700, 2
TOC = struct.Struct(">6Q")
CRC, ALIGN, POSTING = 4, 16, 4
NAME = b"__name__"


class IndexFileError(ValueError):
    """The file is not what this reads."""


@dataclass
class Part:
    """Of the series with one choice of names."""

    series: int = 0
    labels: int = 0  # pairs, over all of these series
    bytes: int = 0  # entries (checksums and padding, too) and what stands for them in the postings


@dataclass
class Index:
    """bytes: of the whole file; of which `info` and `others` are the series', and `shared` is the rest."""

    bytes: int
    info: Part
    others: Part

    @property
    def shared(self) -> int:
        """Symbols, offset tables, heads of lists: what values cost, however many series have them."""
        return self.bytes - self.info.bytes - self.others.bytes


def read(path: Path, info: str = "target_info") -> Index:
    """info: the metric whose series are told apart. Raises IndexFileError."""
    data = path.read_bytes()
    if len(data) < 5 + TOC.size + CRC or struct.unpack_from(">IB", data) != (MAGIC, VERSION):
        raise IndexFileError(f"{path} is no index of format {VERSION}")
    symbols_at, series_at, end, *_ = TOC.unpack_from(data, len(data) - TOC.size - CRC)
    name, wanted = _numbers(data, symbols_at, (NAME, info.encode()))
    found = Index(len(data), Part(), Part())
    at = series_at
    while True:
        at += -at % ALIGN
        if at >= end:
            return found
        begin = at
        n, at = varint(data, at)
        after = at + n + CRC
        labels, at = varint(data, at)
        part = found.others
        for _ in range(labels):
            key, at = varint(data, at)
            value, at = varint(data, at)
            if key == name:
                if value == wanted:
                    part = found.info
                break
        at = after
        part.series += 1
        part.labels += labels
        part.bytes += at + -at % ALIGN - begin + POSTING * (labels + 1)


def varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned varint and where it ends."""
    byte = data[at]
    if byte < 128:
        return byte, at + 1
    value, shift = byte & 127, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at + 1
        shift += 7


def _numbers(data: bytes, at: int, wanted: tuple[bytes, ...]) -> list[int]:
    """Numbers of symbols; -1: not there."""
    (count,) = struct.unpack_from(">I", data, at + 4)
    at += 8
    found = dict.fromkeys(wanted, -1)
    for number in range(count):
        n, at = varint(data, at)
        if data[at : at + n] in found:
            found[data[at : at + n]] = number
        at += n
    return [found[text] for text in wanted]
