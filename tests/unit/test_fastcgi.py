"""The FastCGI parser against its case table, fed whole, byte by byte and cut anywhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fastcgi_cases import CASES, TRACE, C, ask, pairs, record
from proto_cases import Case, byte_by_byte, check, cut_at, whole

IDS = [case.name for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_whole(case: Case) -> None:
    check(whole("fastcgi", case), case.expect)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_any_split_gives_the_same_messages(case: Case) -> None:
    assert byte_by_byte("fastcgi", case) == whole("fastcgi", case)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_cut_anywhere_invents_nothing(case: Case) -> None:
    """What a cut run says stands in the whole run; what was not seen is not said, and it is marked."""
    full = whole("fastcgi", case)
    for captured in range(1, max(len(data) for _, data in case.turns)):
        got = cut_at("fastcgi", case, captured)
        if all(m["type"] != "not_mine" for m in full):
            assert all(m["type"] != "not_mine" for m in got), captured
            for kind in ("request", "response"):
                cut, known = ([m for m in some if m["type"] == kind] for some in (got, full))
                assert len(cut) <= len(known)
                for message, true in zip(cut, known, strict=False):
                    for key in ("operation", "domain", "request_id", "code", "status"):
                        nothing = {"code": -1, "status": "unset"}.get(key, b"")
                        assert message[key] == true[key] or (message[key] == nothing and message["truncated"])


def test_the_first_512_bytes_of_what_nginx_sends_name_the_request() -> None:
    """nginx puts the request's line first and the header fields last: a long cookie hides nothing that matters."""
    turn = ask("/r/1/a?x=1", HTTP_COOKIE="c" * 4000, HTTP_TRACEPARENT=TRACE)
    got = cut_at("fastcgi", Case("", [turn]), 512)
    assert len(got) == 1
    assert (got[0]["operation"], got[0]["target"], got[0]["truncated"]) == (b"GET", b"/r/1/a", True)


def test_a_length_that_lies_is_no_value() -> None:
    lying = pairs(REQUEST_METHOD="GET") + b"\x0b\xff\xff\xff\xffREQUEST_URI/secret"
    begin = record(1, b"\0\1" + bytes(6))
    got = whole("fastcgi", Case("", [(C, begin + record(4, lying) + record(4) + record(5))]))
    assert [(m["operation"], m["target"]) for m in got] == [(b"GET", b"")]
