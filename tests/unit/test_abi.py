"""The event ABI is one thing: what the agent was compiled with is what the BPF objects were compiled with.

Needs no kernel: the objects' BTF is read from the files. Format: Documentation/bpf/btf.rst of the kernel.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from zerospan.exporter.abi import events
from zerospan.exporter.source.capture import LAYOUTS, object_path

HEADER = Path(__file__).parents[2] / "bpf" / "include" / "zs_abi.h"
BTF_MAGIC = 0xEB9F
INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, PROTO, VAR, DATASEC = range(1, 16)
FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(16, 20)


def section(path: str, name: bytes) -> bytes:
    """One section of a 64-bit little-endian ELF file."""
    data = Path(path).read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01", path
    shoff, shentsize, shnum, shstrndx = struct.unpack_from("<Q10xHHH", data, 40)
    heads = [struct.unpack_from("<IIQQQQIIQQ", data, shoff + i * shentsize) for i in range(shnum)]
    names = heads[shstrndx][4]
    for head in heads:
        at = names + head[0]
        if data[at : data.index(b"\0", at)] == name:
            return data[head[4] : head[4] + head[5]]
    raise AssertionError(f"{path} has no section {name.decode()}")


@dataclass
class Type:
    name: str
    kind: int
    size: int
    extra: list[tuple[int, ...]]


class Btf:
    """Structs and sizes of the .BTF section."""

    def __init__(self, data: bytes) -> None:
        magic, _, _, head, types_at, types_len, strings_at, _ = struct.unpack_from("<HBBIIIII", data)
        assert magic == BTF_MAGIC
        self._strings = head + strings_at
        self._data = data
        self.types = [Type("void", 0, 0, [])]
        at, end = head + types_at, head + types_at + types_len
        while at < end:
            name, info, size = struct.unpack_from("<III", data, at)
            at += 12
            kind, vlen = info >> 24 & 31, info & 0xFFFF
            words = {INT: 1, ARRAY: 3, VAR: 1, DECL_TAG: 1}.get(kind, 0)
            words += vlen * {STRUCT: 3, UNION: 3, ENUM: 2, PROTO: 2, DATASEC: 3, ENUM64: 3}.get(kind, 0)
            row = struct.unpack_from(f"<{words}I", data, at)
            at += 4 * words
            step = {ENUM: 2, PROTO: 2}.get(kind, 3)
            self.types.append(Type(self.string(name), kind, size, list(zip(*[iter(row)] * step, strict=False))))
        assert at == end

    def string(self, offset: int) -> str:
        start = self._strings + offset
        return self._data[start : self._data.index(b"\0", start)].decode()

    def size(self, number: int) -> int:
        t = self.types[number]
        if t.kind in (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG):
            return self.size(t.size)
        if t.kind == ARRAY:
            element, _, count = t.extra[0]
            return count * self.size(element)
        return 8 if t.kind == PTR else t.size

    def structs(self) -> dict[str, tuple[int, dict[str, tuple[int, int]]]]:
        """name -> (size, field -> (offset, size)) of the structs that are ours."""
        out = {}
        for t in self.types:
            if t.kind == STRUCT and t.name.startswith("zs_"):
                fields = {self.string(n): (bits // 8, self.size(type_)) for n, type_, bits in t.extra}
                out[t.name] = (t.size, fields)
        return out


@pytest.fixture(scope="module", params=LAYOUTS)
def built(request: pytest.FixtureRequest) -> dict[str, tuple[int, dict[str, tuple[int, int]]]]:
    return Btf(section(object_path(request.param), b".BTF")).structs()


Built = dict[str, tuple[int, dict[str, tuple[int, int]]]]


def declared() -> list[str]:
    names = re.findall(r"^struct (zs_\w+) \{", HEADER.read_text(), re.MULTILINE)
    assert len(names) >= 8
    return names


def test_every_struct_of_the_header_is_compared() -> None:
    assert set(declared()) == set(events.SIZES) == {name for name, _ in events.FIELDS}


@pytest.mark.parametrize("name", declared())
def test_sizes(built: Built, name: str) -> None:
    assert built[name][0] == events.SIZES[name]


@pytest.mark.parametrize("name", declared())
def test_every_field_is_where_the_agent_looks(built: Built, name: str) -> None:
    """Both ways: a field that only one side knows fails, too."""
    ours = {field: place for (struct_, field), place in events.FIELDS.items() if struct_ == name}
    assert built[name][1] == ours


@pytest.mark.parametrize("name", declared())
def test_no_padding_is_implicit(built: Built, name: str) -> None:
    size, fields = built[name]
    at = 0
    for offset, width in sorted(fields.values()):
        assert offset == at
        at += width
    assert at == size


def test_records_begin_with_the_header() -> None:
    for name, kind in events.KINDS.items():
        assert events.FIELDS[name, "hdr"] == (0, events.SIZES["zs_hdr"])
        assert f"ZS_{name.removeprefix('zs_').upper()} = {kind}," in HEADER.read_text()


def test_build_and_parse_are_inverse() -> None:
    for name in events.KINDS:
        values: dict[str, int | bytes] = {}
        for (owner, field), (_, width) in events.FIELDS.items():
            if owner == name and field not in ("hdr", "pad"):
                values[field] = bytes(range(1, width + 1)) if width > 8 else (1 << 8 * width) - 2
        record = events.build(name, b"payload", dir=1, flags=5, **values)
        parsed = events.parse(record)
        assert {k: parsed[k] for k in values} == values
        assert (parsed["struct"], parsed["payload"], parsed["dir"], parsed["flags"]) == (
            name,
            b"payload",
            1,
            5,
        )
        for n in range(events.SIZES[name]):
            with pytest.raises(ValueError):
                events.parse(record[:n])


def test_counters_are_named_once() -> None:
    names = [name for name, _ in events.COUNTERS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) and text for name, text in events.COUNTERS)
    assert re.findall(r'^\tX\(\w+, "(\w+)"', HEADER.read_text(), re.MULTILINE) == names
