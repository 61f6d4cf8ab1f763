"""Trace contexts in header fields, as the HTTP parser hands them over: which counts, and which is ignored.

Specifications: W3C Trace Context section 3.2, B3 propagation, Jaeger's uber-trace-id, SkyWalking v3 (sw8).
"""

from __future__ import annotations

import base64

import pytest

from zerospan.exporter.proto.harness import Conversation

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
W3C = f"traceparent: 00-{TRACE}-{SPAN}-01"


def context(*fields: str) -> tuple[object, ...]:
    data = "GET / HTTP/1.1\r\n" + "".join(f"{f}\r\n" for f in fields) + "\r\n"
    (message,) = Conversation("http").feed(True, data.encode())
    return tuple(message[k] for k in ("wire", "trace_id", "parent_id", "trace_flags"))


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def sw8(trace: str, segment: str = "seg.1", span: str = "3", sample: str = "1") -> str:
    rest = "-".join(b64(text) for text in ("svc", "instance", "/endpoint", "host:80"))
    return f"sw8: {sample}-{b64(trace)}-{b64(segment)}-{span}-{rest}"


NONE = ("", "", "", 0)


@pytest.mark.parametrize(
    ("field", "flags"),
    [
        (W3C, 1),
        (W3C.replace("-01", "-00"), 0),
        (W3C.replace("-01", "-03"), 3),
        (W3C.upper().replace(TRACE.upper(), TRACE).replace(SPAN.upper(), SPAN), 1),
        (W3C.replace(": 00-", ": cc-") + "-more-of-it", 1),
        (W3C.replace(": 00-", ": cc-"), 1),
    ],
)
def test_traceparent(field: str, flags: int) -> None:
    assert context(field) == ("traceparent", TRACE, SPAN, flags)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}-01-x",
        f"cc-{TRACE}-{SPAN}-01x",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}_{SPAN}-01",
        f"0x-{TRACE}-{SPAN}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
    ],
)
def test_malformed_traceparent_is_ignored(value: str) -> None:
    assert context(f"traceparent: {value}") == NONE
    assert context(f"traceparent: {value}", f"b3: {TRACE}-{SPAN}-1")[0] == "b3"


def test_traceparents_that_differ_count_for_nothing() -> None:
    other = W3C.replace("0af7", "1af7")
    assert context(W3C, other) == NONE
    assert context(W3C, W3C)[0] == "traceparent"


@pytest.mark.parametrize(
    ("value", "trace", "flags"),
    [
        (f"{TRACE}-{SPAN}-1", TRACE, 1),
        (f"{TRACE}-{SPAN}-d", TRACE, 1),
        (f"{TRACE}-{SPAN}-0", TRACE, 0),
        (f"{TRACE}-{SPAN}", TRACE, 0),
        (f"{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90", TRACE, 1),
        (f"{TRACE.upper()}-{SPAN.upper()}-1", TRACE, 1),
        (f"{TRACE[:16]}-{SPAN}-1", "0" * 16 + TRACE[:16], 1),
    ],
)
def test_b3_single(value: str, trace: str, flags: int) -> None:
    assert context(f"b3: {value}") == ("b3", trace, SPAN, flags)


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "1",
        "d",
        TRACE,
        f"{TRACE}-{SPAN[:-1]}",
        f"{TRACE[:-2]}-{SPAN}",
        f"{TRACE}-{SPAN}-yes",
        f"{'0' * 32}-{SPAN}",
    ],
)
def test_malformed_b3_is_ignored(value: str) -> None:
    assert context(f"b3: {value}") == NONE


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        (["X-B3-Sampled: 1"], 1),
        (["x-b3-sampled: true"], 1),
        (["X-B3-Sampled: 0"], 0),
        (["X-B3-Flags: 1"], 1),
        ([], 0),
    ],
)
def test_b3_multi(fields: list[str], flags: int) -> None:
    ids = [f"X-B3-TraceId: {TRACE}", f"X-B3-SpanId: {SPAN}", "X-B3-ParentSpanId: 05e3ac9a4f6e3b90"]
    assert context(*ids, *fields) == ("b3", TRACE, SPAN, flags)
    assert context(*fields, *ids) == ("b3", TRACE, SPAN, flags)


def test_b3_multi_64_bit_and_incomplete() -> None:
    assert context(f"X-B3-TraceId: {SPAN}", f"X-B3-SpanId: {SPAN}")[1] == "0" * 16 + SPAN
    assert context(f"X-B3-TraceId: {TRACE}") == NONE
    assert context(f"X-B3-SpanId: {SPAN}") == NONE


@pytest.mark.parametrize(
    ("value", "trace", "span", "flags"),
    [
        (f"{TRACE}:{SPAN}:0:1", TRACE, SPAN, 1),
        (f"{TRACE}%3A{SPAN}%3a0%3A3", TRACE, SPAN, 1),
        ("abc:1f:0:0", "abc".rjust(32, "0"), "1f".rjust(16, "0"), 0),
        (f"{SPAN}:{SPAN}:{SPAN}:02", SPAN.rjust(32, "0"), SPAN, 0),
    ],
)
def test_uber_trace_id(value: str, trace: str, span: str, flags: int) -> None:
    assert context(f"uber-trace-id: {value}") == ("uber-trace-id", trace, span, flags)


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"{TRACE}:{SPAN}:0",
        f"{TRACE}0:{SPAN}:0:1",
        f"0:{SPAN}:0:1",
        f"{TRACE}:0:0:1",
        "x:y:0:1",
        f"{TRACE}:{SPAN}:0:zz",
    ],
)
def test_malformed_uber_is_ignored(value: str) -> None:
    assert context(f"uber-trace-id: {value}") == NONE


def test_sw8_ids() -> None:
    uuid = f"{TRACE[:8]}-{TRACE[8:12]}-{TRACE[12:16]}-{TRACE[16:20]}-{TRACE[20:]}"
    assert context(sw8(TRACE))[:2] == ("sw8", TRACE)
    assert context(sw8(uuid))[:2] == ("sw8", TRACE)
    assert context(sw8(TRACE, sample="0"))[3] == 0 and context(sw8(TRACE))[3] == 1
    free = "a12445c7a3.57.16789123450001"
    wire, trace, parent, _ = context(sw8(free))
    assert wire == "sw8" and len(str(trace)) == 32 and len(str(parent)) == 16
    assert context(sw8(free))[1:3] == (trace, parent), "the same text gives the same ids"
    assert context(sw8(free + "2"))[1] != trace
    assert context(sw8(free, span="4"))[2] != parent
    assert context(sw8(free, segment="seg.2"))[2] != parent


def test_sw8_hash_is_as_documented() -> None:
    """FNV-1a 64 and MurmurHash3's finaliser: other agents and versions must find the same ids."""

    def hash64(text: bytes, seed: int = 0) -> int:
        h = 0xCBF29CE484222325 ^ seed
        for byte in text:
            h = (h ^ byte) * 0x100000001B3 & (1 << 64) - 1
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            h = (h ^ h >> 33) * factor & (1 << 64) - 1
        return h ^ h >> 33

    _, trace, parent, _ = context(sw8("free text", "segment", "12"))
    assert trace == f"{hash64(b'free text'):016x}{hash64(b'free text', 0x9E3779B97F4A7C15):016x}"
    assert parent == f"{hash64(b'segment:12'):016x}"


@pytest.mark.parametrize(
    "value",
    [
        "1",
        f"2-{b64('t')}-{b64('s')}-3-{b64('a')}-{b64('b')}-{b64('c')}-{b64('d')}",
        f"1-{b64('t')}-{b64('s')}-3-{b64('a')}-{b64('b')}-{b64('c')}",
        f"1-!!!!-{b64('s')}-3-{b64('a')}-{b64('b')}-{b64('c')}-{b64('d')}",
        f"1-{b64('t')}-{b64('s')}-x-{b64('a')}-{b64('b')}-{b64('c')}-{b64('d')}",
        f"1-{b64('t' * 400)}-{b64('s')}-3-{b64('a')}-{b64('b')}-{b64('c')}-{b64('d')}",
        f"1-A-{b64('s')}-3-{b64('a')}-{b64('b')}-{b64('c')}-{b64('d')}",
    ],
)
def test_malformed_sw8_is_ignored(value: str) -> None:
    assert context(f"sw8: {value}") == NONE


def unsampled(*fields: str) -> bool:
    data = "GET / HTTP/1.1\r\n" + "".join(f"{f}\r\n" for f in fields) + "\r\n"
    (message,) = Conversation("http").feed(True, data.encode())
    return bool(message["unsampled"])


B3_IDS = (f"X-B3-TraceId: {TRACE}", f"X-B3-SpanId: {SPAN}")


@pytest.mark.parametrize(
    ("fields", "denied"),
    [
        ([W3C], False),
        ([W3C.replace("-01", "-00")], True),
        ([W3C.replace("-01", "-02")], True),
        ([f"b3: {TRACE}-{SPAN}-1"], False),
        ([f"b3: {TRACE}-{SPAN}-d"], False),
        ([f"b3: {TRACE}-{SPAN}"], False),  # B3: the receiver decides
        ([f"b3: {TRACE}-{SPAN}-0"], True),
        (["b3: 0"], True),
        (["b3: 1"], False),
        ([*B3_IDS], False),
        ([*B3_IDS, "X-B3-Sampled: 0"], True),
        ([*B3_IDS, "X-B3-Sampled: false"], True),
        ([*B3_IDS, "X-B3-Sampled: 0", "X-B3-Flags: 1"], False),
        (["X-B3-Sampled: 0"], True),
        ([f"uber-trace-id: {TRACE}:{SPAN}:0:0"], True),
        ([f"uber-trace-id: {TRACE}:{SPAN}:0:3"], False),
        ([sw8(TRACE, sample="0")], True),
        ([sw8(TRACE)], False),
        ([W3C, "b3: 0"], False),  # the context that counts decides
        ([], False),
    ],
)
def test_a_decision_against_recording(fields: list[str], denied: bool) -> None:
    assert unsampled(*fields) is denied


def test_precedence_holds_in_any_order() -> None:
    fields = [W3C, f"b3: {SPAN}-{SPAN}-1", "uber-trace-id: abc:1:0:1", sw8("free")]
    wires = ["traceparent", "b3", "uber-trace-id", "sw8"]
    for first in range(4):
        assert context(*fields[first:])[0] == wires[first]
        assert context(*reversed(fields[first:]))[0] == wires[first]


def test_responses_carry_no_context() -> None:
    data = f"HTTP/1.1 200 OK\r\n{W3C}\r\nContent-Length: 0\r\n\r\n".encode()
    (message,) = Conversation("http").feed(False, data)
    assert message["wire"] == ""
