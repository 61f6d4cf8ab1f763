"""io_uring: no system call carries the message, so its place, length and peer are known, not its bytes."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peer import compiled
from records import Trace, check_pair
from wire import Wire

from zerospan.exporter.abi import events

REQUEST, ANSWER = b"GET /uring HTTP/1.1\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"
ROUNDS = 5


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("uring", tmp_path_factory.mktemp("uring"))


@pytest.fixture
def talk(
    program: Path, load: Callable[..., Trace], tap: Callable[[int], Wire]
) -> Iterator[Callable[[str, bool], tuple[Any, Any, Trace]]]:
    """talk(mode, mixed): the two ends of a conversation, its numbers compared with those of the packets."""
    made: list[subprocess.Popen[str]] = []

    def run(mode: str, mixed: bool) -> tuple[Any, Any, Trace]:
        process = subprocess.Popen(
            [str(program), str(ROUNDS), mode, str(int(mixed))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        made.append(process)
        assert process.stdin and process.stdout
        client_port, port = map(int, process.stdout.readline().split())
        trace, wire = load(port=(port,)), tap(port)
        process.stdin.write("x")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        trace.drain()
        starts = {s.seq for f in ((client_port, port), (port, client_port)) for s in wire.read().flow(*f) if s.length}
        for m in trace.of("zs_msg"):
            assert m["seq"] in starts
        ends = {e.conn["local_port"]: e for e in trace.ends().values()}
        return ends.get(client_port), ends.get(port), trace

    yield run
    for process in made:
        process.communicate("x", timeout=5)


@pytest.mark.parametrize("mode", ["plain", "sqpoll"])
def test_every_message_is_told_without_its_bytes(talk: Any, layout: str, mode: str) -> None:
    client, server, trace = talk(mode, False)
    if layout == "sys_exit":
        assert client is None and server is None, "this layout has no hook that could see it"
        return
    check_pair(client, server, None)
    for end in (client, server):
        assert [m["len"] for m in end.msgs] == [len(REQUEST), len(ANSWER)] * ROUNDS
        assert {m["flags"] for m in end.msgs} == {events.F_NO_PAYLOAD | events.F_CUT}
        assert end.payloads == [b""] * 2 * ROUNDS
    assert trace.lost() == {}, "bytes that cannot be read are no fault"


@pytest.mark.parametrize("mode", ["plain", "sqpoll"])
def test_requests_by_io_uring_and_answers_by_calls(talk: Any, layout: str, mode: str) -> None:
    """What no hook saw is told when the answer passes: a run without bytes, in its place, with its length."""
    client, server, _ = talk(mode, True)
    check_pair(client, server, None) if layout == "sock_length" else None
    whole = [b"", ANSWER] * ROUNDS
    for end in (client, server):
        runs = end.runs()
        assert [r.payload for r in runs] == (whole if layout == "sock_length" else whole[1:])
        blind = [r for r in runs if not r.payload]
        assert all(r.flags & events.F_NO_PAYLOAD for r in blind)
        assert {r.length for r in blind} == {len(REQUEST)}
