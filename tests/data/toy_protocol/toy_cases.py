"""Conversations of the toy protocol: for tests/unit/test_toy.py and tests/fuzz/fuzz_proto.py."""

from __future__ import annotations

from proto_cases import Case

SECRET = b"s3cr3t"
CASES = [
    Case(
        "one",
        [(True, b"PING hello\n"), (False, b"PONG hello\n")],
        [
            {"type": "request", "operation": b"PING", "target": b"hello", "masked": b"?"},
            {"type": "response", "operation": b"PONG", "status": "ok"},
        ],
    ),
    Case(
        "a pipeline, the second refused",
        [(True, b"PING a\nPING " + SECRET + b"\n"), (False, b"PONG a\nFAIL no such word\n")],
        [
            {"type": "request", "target": b"a"},
            {"type": "request", "target": SECRET, "masked": b"?"},
            {"type": "response", "status": "ok"},
            {"type": "response", "status": "server_error", "status_text": b"FAIL", "message": b"no such word"},
        ],
    ),
    Case("no word", [(True, b"PING \n")], [{"type": "request", "target": b""}]),
    Case("something else", [(True, b"PANG x\n")], [{"type": "not_mine"}]),
]
