"""Fan-out, keep-alive, pipelines, retries, long and streamed answers, WebSockets: real programs, known parents.

The path of a call says whose it is: /plain/7/c0 is one that /plain/7 made. Times that are minutes in life are seconds
here (tests/unit/test_engine_streams.py has them at their full length).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from agent import Agent, spans
from cgroup import own_cgroup
from nginx import free_port
from running import running
from venvs import python_with

HERE = Path(__file__).parent
SERVER, CLIENT = 2, 3
NAMES = [
    {"match": {"cmdline": "*relay.py next *"}, "name": "next"},
    {"match": {"cmdline": "*services/streams.py *"}, "name": "app"},
    {"match": {"cmdline": "*gunicorn*fanout*"}, "name": "app"},
]
PAUSE = 2.5  # longer than the agent waits for a chunk that may be the last one


class Seen:
    """What the agent has written: spans of the application's requests and calls, by path."""

    def __init__(self, agent: Agent) -> None:
        self.spans = [s for s in spans(agent.traces_file) if "url.path" in s["attributes"]]

    def at(self, path: str, service: str, kind: int) -> dict[str, Any]:
        found = [
            s for s in self.spans if (s["attributes"]["url.path"], s["service"], s["kind"]) == (path, service, kind)
        ]
        assert len(found) == 1, f"{len(found)} spans of {path} at {service}"
        return found[0]

    def calls(self) -> list[dict[str, Any]]:
        return [s for s in self.spans if s["service"] == "app" and s["kind"] == CLIENT]

    def check(self, linked: bool = True) -> int:
        """Each call of the application stands below its request (or nowhere, if not `linked`). Returns how many."""
        servers = {s["spanId"]: s for s in self.spans if s["kind"] == SERVER}
        for call in self.calls():
            path = call["attributes"]["url.path"]
            above = servers.get(call.get("parentSpanId", ""))
            assert (above is not None) == linked, f"{path}: parent {above and above['attributes']['url.path']}"
            if above is not None:
                assert above["attributes"]["url.path"] == path.rpartition("/")[0]
                assert above["traceId"] == call["traceId"]
        return len(self.calls())


def seconds(span: dict[str, Any]) -> float:
    return (int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])) / 1e9


def get(port: int, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse().read()
    assert answer == b"end", answer
    connection.close()


@contextlib.contextmanager
def resets() -> Iterator[int]:
    """A port where each connection is reset (SO_LINGER 0) once its request was read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    s, _ = listener.accept()
                    s.recv(65536)
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    s.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def watch(
    folder: Path,
    command: Callable[[int, int], list[str]],
    drive: Callable[[int], None],
    settings: dict[str, Any] | None = None,
) -> Seen:
    """Runs the application (command(port, next)) and its next service under an agent; what the agent has seen."""
    port, following = free_port(), free_port()
    config = {"service": {"rules": NAMES}, **(settings or {})}
    env = {"NEXT": str(following), "PAUSE": str(PAUSE), "PYTHONDONTWRITEBYTECODE": "1"}
    relay = [sys.executable, str(HERE / "services/relay.py"), "next", str(following), "0", "none"]
    with own_cgroup("streams") as cgroup, Agent(folder, config, "--cgroup", cgroup) as agent:
        with running(relay, command(port, following), ports=[following, port], env=env):
            drive(port)
            agent.settled()
        agent.stop()
    assert agent.ledger["dropped"] == {}
    return Seen(agent)


@pytest.fixture(scope="session")
def gunicorn() -> list[str]:
    python = python_with("gunicorn==23.0.0", "pycurl==7.45.6")
    return [
        python,
        "-m",
        "gunicorn",
        "--log-level",
        "warning",
        "-k",
        "sync",
        "-w",
        "3",
        "--chdir",
        str(HERE / "services"),
    ]


@pytest.mark.parametrize(("how", "linked"), [("select", True), ("curl", True), ("pool", False)])
def test_ten_calls_at_once(tmp_path: Path, gunicorn: list[str], how: str, linked: bool) -> None:
    """By one thread: all have their parent. By a pool's threads: none has, as nothing tells."""
    requests = 40

    def drive(port: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: get(port, f"/{how}/{i}"), range(requests)))

    seen = watch(tmp_path, lambda port, _: [*gunicorn, "-b", f"127.0.0.1:{port}", "fanout:app"], drive,
                 {"link": {"max_hold_s": 5}})  # fmt: skip
    assert seen.check(linked) == 10 * requests
    for i in range(requests):
        above = seen.at(f"/{how}/{i}", "app", SERVER)
        calls = [seen.at(f"/{how}/{i}/c{k}", "app", CLIENT) for k in range(10)]
        starts, ends = ([int(c[f"{edge}TimeUnixNano"]) for c in calls] for edge in ("start", "end"))
        assert min(ends) > min(starts) and max(ends) <= int(above["endTimeUnixNano"])
        for k in range(10):
            assert seen.at(f"/{how}/{i}/c{k}", "next", SERVER)["parentSpanId"] == calls[k]["spanId"]


def streams(port: int, following: int, reset: int = 1) -> list[str]:
    return [sys.executable, str(HERE / "services/streams.py"), str(port), str(following), str(reset)]


def test_a_connection_that_is_kept(tmp_path: Path) -> None:
    """Fifty requests on one connection, their calls on another: each call has its own request."""

    def drive(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for i in range(50):
            connection.request("GET", f"/plain/{i}")
            assert connection.getresponse().read() == b"end"
        connection.close()

    seen = watch(tmp_path, streams, drive)
    assert seen.check() == 50
    ports = {s["attributes"]["server.port"]: s["attributes"]["network.peer.port"] for s in seen.calls()}
    assert len(ports) == 1 and len({s["traceId"] for s in seen.spans}) == 50


def test_a_pipelined_connection(tmp_path: Path) -> None:
    """Eight requests in one write, four times: read at once by the server's thread, done one after the other."""

    def drive(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 60) as s:
            for turn in range(4):
                asks = [f"GET /plain/{8 * turn + i} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for i in range(8)]
                s.sendall(b"".join(asks))
                got = b""
                while got.count(b"end") < 8:
                    got += s.recv(65536)

    seen = watch(tmp_path, streams, drive)
    assert seen.check() == 32
    for i in range(32):
        above, call = seen.at(f"/plain/{i}", "app", SERVER), seen.at(f"/plain/{i}/c0", "app", CLIENT)
        assert above["attributes"]["http.response.status_code"] == 200
        assert call["parentSpanId"] == above["spanId"]
        assert int(call["endTimeUnixNano"]) <= int(above["endTimeUnixNano"])
    assert len({s["traceId"] for s in seen.spans}) == 32


def test_a_retry_after_a_reset(tmp_path: Path) -> None:
    with resets() as reset:
        seen = watch(
            tmp_path, lambda port, following: streams(port, following, reset), lambda port: get(port, "/retry/0")
        )
    assert seen.check() == 2
    first, second = (seen.at(f"/retry/0/c{i}", "app", CLIENT) for i in range(2))
    assert first["status"] == {"code": 2, "message": "connection reset"} or first["status"]["code"] == 2
    assert first["attributes"]["error.type"] == "connection_reset"
    assert second["attributes"]["http.response.status_code"] == 200 and "error.type" not in second["attributes"]
    assert first["traceId"] == second["traceId"]


@pytest.mark.parametrize("timeout_s", [60, 1])
def test_a_request_that_waits(tmp_path: Path, timeout_s: float) -> None:
    """Its first call's spans leave long before its own; one trace all the same. Beyond assemble.timeout_s it is an
    error that ends then, and what it does later is no child of what has ended."""

    def drive(port: int) -> None:
        get(port, "/slow/0")

    settings = {"assemble": {"timeout_s": timeout_s}, "link": {"hold_s": 0.5, "max_hold_s": 1}}
    seen = watch(tmp_path, streams, drive, settings)
    above = seen.at("/slow/0", "app", SERVER)
    first, last = (seen.at(f"/slow/0/c{i}", "app", CLIENT) for i in range(2))
    assert first["parentSpanId"] == above["spanId"] and first["traceId"] == above["traceId"]
    if timeout_s > PAUSE:
        assert seen.check() == 2
        assert PAUSE <= seconds(above) < PAUSE + 2 and last["traceId"] == above["traceId"]
    else:
        assert above["attributes"]["error.type"] == "timeout" and timeout_s <= seconds(above) < PAUSE
        assert last.get("parentSpanId", "") == ""


def test_server_sent_events(tmp_path: Path) -> None:
    """One span from the request to the last event at both ends, although there is silence in between; the call that was
    made in the middle is its child."""

    def drive(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/events/0")
        assert connection.getresponse().read().count(b"data: ") == 4
        time.sleep(0.5)
        connection.close()

    seen = watch(tmp_path, streams, drive)
    assert seen.check() == 1
    (client,) = (s for s in seen.spans if s["attributes"]["url.path"] == "/events/0" and s["kind"] == CLIENT)
    server = seen.at("/events/0", "app", SERVER)
    for end in (client, server):
        assert 3 * PAUSE <= seconds(end) <= 4 * PAUSE + 0.4
        assert end["attributes"]["zerospan.time_to_first_byte"] < 1e9
        assert "error.type" not in end["attributes"]
    assert server["parentSpanId"] == client["spanId"]


def test_a_websocket(tmp_path: Path) -> None:
    """One span at each end: the handshake. Frames, whatever they look like, are no requests."""
    said = b"GET /hidden HTTP/1.1\r\n\r\n"

    def drive(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 60) as s:
            key = base64.b64encode(os.urandom(16)).decode()
            s.sendall(f"GET /chat/0 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())  # fmt: skip
            assert b" 101 " in s.recv(65536)
            for _ in range(3):
                time.sleep(0.5)
                s.sendall(bytes([0x81, 0x80 | len(said)]) + bytes(4) + said)
                assert s.recv(65536)[2:] == said
            s.sendall(bytes([0x88, 0x80]) + bytes(4))

    seen = watch(tmp_path, streams, drive)
    assert {s["attributes"]["url.path"] for s in seen.spans} == {"/chat/0"} and len(seen.spans) == 2
    for span in seen.spans:
        assert span["attributes"]["http.response.status_code"] == 101 and seconds(span) < 0.5
