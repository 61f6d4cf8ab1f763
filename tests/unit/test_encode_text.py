"""Text, numbers and addresses: always valid, never longer than allowed, the same as Python's own."""

import ipaddress
import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from encode_cases import CASES, SERVER_SPAN, clean, error_type, random_span, random_text, server

from zerospan.exporter.encode import harness


def test_every_lead_byte_and_every_second_byte_is_judged_as_python_judges_it() -> None:
    for lead in range(256):
        for second in range(256):
            for tail in (b"", b"\x80", b"\x80\x80", b"\xbf\xbf\xbf", b"A"):
                data = bytes([lead, second]) + tail
                assert harness.text(data, 64) == data.decode("utf-8", "replace").encode(), data


@pytest.mark.parametrize("text", ["plain ascii text", "aé€😀" * 9, "\ufffd", ""])
def test_a_cut_never_splits_a_character(text: str) -> None:
    for cap in range(len(text.encode()) + 2):
        assert harness.text(text.encode(), cap).decode() == clean(text, cap)


def test_random_texts_within_any_capacity() -> None:
    r = random.Random(1)
    for _ in range(3000):
        data, cap = random_text(r), r.randrange(3000)
        assert harness.text(data, cap).decode() == clean(data, cap)


def test_json_text_reads_back_as_the_cleaned_text() -> None:
    r = random.Random(2)
    assert json.loads(b'"' + harness.json_text(bytes(range(128))) + b'"') == bytes(range(128)).decode()
    for _ in range(3000):
        data = random_text(r) * r.choice([1, 1, 1, 5])
        escaped = harness.json_text(data)
        assert json.loads(b'"' + escaped + b'"') == data.decode("utf-8", "replace")


@pytest.mark.parametrize("at", [4094, 4095, 4096, 4097, 8191])
def test_json_text_where_a_character_lies_across_a_chunk(at: int) -> None:
    data = b"x" * at + "😀\u20ac".encode() + b"\x01\xff" + b"y" * 5000
    assert json.loads(b'"' + harness.json_text(data) + b'"') == data.decode("utf-8", "replace")


def test_addresses_are_the_canonical_ones() -> None:
    r = random.Random(3)
    for _ in range(2000):
        v6 = b"".join(r.choice([b"\0\0", b"\0\0", r.randbytes(2), b"\0" + r.randbytes(1)]) for _ in range(8))
        mapped = ipaddress.IPv6Address(v6).ipv4_mapped
        assert harness.address(v6) == str(mapped or ipaddress.IPv6Address(v6).compressed)
        v4 = r.randbytes(4)
        assert harness.address(v4) == str(ipaddress.IPv4Address(v4))
        assert harness.address(bytes(10) + b"\xff\xff" + v4) == str(ipaddress.IPv4Address(v4))
    assert harness.address(bytes(16)) == "::"


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0.000ms"),
        (123_456, "0.123ms"),
        (999_999, "0.999ms"),
        (1_000_000, "1.0ms"),
        (12_345_678, "12.3ms"),
        (5_000_000_000, "5000.0ms"),
        (2**64 - 1, "18446744073709.5ms"),
    ],
)
def test_durations(ns: int, text: str) -> None:
    assert harness.milliseconds(ns) == text


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, "GET /orders/{id}"),
        ({"route": ""}, "GET"),
        ({"operation": "get"}, "HTTP /orders/{id}"),
        ({"operation": "PROPFIND", "route": ""}, "HTTP"),
        ({"operation": "QUERY", "route": ""}, "QUERY"),
        ({"operation": "", "route": ""}, "HTTP"),
        ({"proto": 3, "operation": "SELECT", "collection": "orders"}, "SELECT orders"),
        ({"proto": 3, "operation": "BEGIN", "domain": "shopdb"}, "BEGIN shopdb"),
        ({"proto": 2, "operation": "PING", "domain": ""}, "PING"),
        ({"proto": 2, "operation": "", "domain": ""}, "redis"),
        ({"proto": 3, "operation": "", "domain": ""}, "postgresql"),
        ({"proto": 4, "operation": "AAAA"}, "DNS AAAA"),
        ({"proto": 4, "operation": ""}, "DNS"),
        ({"route": b"/\xff/" + b"x" * 5000}, clean(b"GET /\xff/" + b"x" * 5000)),
    ],
)
def test_span_names(change: dict[str, object], name: str) -> None:
    assert harness.name(SERVER_SPAN | change)["span_name"] == name


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        ("shop", "shop", 5000),
        ("shop:81", "shop", 81),
        ("[2001:db8::1]:81", "2001:db8::1", 81),
        ("[2001:db8::1]", "2001:db8::1", 5000),
        ("[broken", "[broken", 5000),
        ("[::1]x", "[::1]x", 5000),
        ("shop:", "shop", 5000),
        ("shop:0", "shop", 5000),
        ("shop:65536", "shop:65536", 5000),
        ("shop:999999", "shop:999999", 5000),
        ("shop:8a", "shop:8a", 5000),
        (":80", "10.0.0.1", 80),
        ("", "10.0.0.1", 5000),
    ],
)
def test_server_address_from_a_host_header(host: str, address: str, port: int) -> None:
    said = harness.name(SERVER_SPAN | {"domain": host})
    assert (said["server_address"], said["server_port"]) == (address, str(port))


def test_an_answer_that_breaks_off_fails_for_its_reason() -> None:
    broken = SERVER_SPAN | {"status": 2, "code": 200, "reason": 2}
    assert harness.name(broken)["error_type"] == "connection_reset"
    assert harness.name(broken | {"code": 502})["error_type"] == "502"
    assert harness.name(broken | {"status": 0})["error_type"] == ""


def test_names_of_any_span_agree_with_the_model() -> None:
    r = random.Random(4)
    for span in CASES + [random_span(r) for _ in range(500)]:
        said = harness.name(span)
        assert said["error_type"] == error_type(span)
        if b"[" not in bytes(span.get("domain", b"") if isinstance(span.get("domain"), bytes) else b""):
            assert (said["server_address"], int(said["server_port"])) == server(span)
