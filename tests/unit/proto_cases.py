"""How every parser is fed in its tests and by its fuzz target: one table of cases, five ways of feeding.

A case is a list of turns (from_client, bytes) and the messages that must come out, each a dict of the fields
that matter. Used by tests/unit/test_<proto>.py and tests/fuzz/.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zerospan.exporter.proto.harness import Conversation

Message = dict[str, object]
Turn = tuple[bool, bytes]


@dataclass(frozen=True)
class Case:
    """One conversation and what must be understood of it."""

    name: str
    turns: list[Turn]
    expect: list[Message] = field(default_factory=list)
    server_port: int = 0
    datagram: bool = False  # each turn is one UDP datagram


def whole(proto: str, case: Case) -> list[Message]:
    """Each turn in one piece."""
    return _run(proto, case, lambda data: [data])


def byte_by_byte(proto: str, case: Case) -> list[Message]:
    """Each turn one byte at a time: the same messages must come out. A datagram comes whole or not at all."""
    if case.datagram:
        return whole(proto, case)
    return _run(proto, case, lambda data: [data[i : i + 1] for i in range(len(data))])


def cut_at(proto: str, case: Case, captured: int) -> list[Message]:
    """Only the first `captured` bytes of each turn are seen: nothing may be refused that was accepted
    whole, and nothing may be invented."""
    talk = Conversation(proto, case.server_port, case.datagram)
    out: list[Message] = []
    for from_client, data in case.turns:
        out += talk.feed(from_client, data, captured=captured)
    out += talk.finish()
    return out


def with_trailing(proto: str, case: Case, tail: bytes) -> list[Message]:
    """Bytes that belong to nothing after the last turn must not change what came before."""
    turns = [*case.turns[:-1], (case.turns[-1][0], case.turns[-1][1] + tail)]
    return whole(proto, Case(case.name, turns, case.expect, case.server_port, case.datagram))


def _run(proto: str, case: Case, split: object) -> list[Message]:
    talk = Conversation(proto, case.server_port, case.datagram)
    out: list[Message] = []
    for from_client, data in case.turns:
        for piece in split(data):  # type: ignore[operator]
            out += [dict(m) for m in talk.feed(from_client, piece)]
    out += talk.finish()
    return out


def check(got: list[Message], expect: list[Message]) -> None:
    """The messages, in order, each with at least the expected fields."""
    assert len(got) == len(expect), f"{len(got)} messages, expected {len(expect)}: {got}"
    for i, (message, wanted) in enumerate(zip(got, expect, strict=True)):
        for key, value in wanted.items():
            assert message[key] == value, f"message {i}: {key} = {message[key]!r}, expected {value!r}"
