"""Both ends of the truth harness (kit/truth.py), too small to be what is measured: the end point and the driver.

`python truth_peers.py leaf PORT [ADDRESS]`: answers GET /t/<hop>/0/<ms> after ms milliseconds, kept connections or not.
`python truth_peers.py drive URL REQUESTS IN_FLIGHT [--keep-alive] [--plans 1,2,3] [--seed N]`: sends the requests, so
many at once, prints a line for each that was answered with 200: its number and its plan. Exit code 1 if one was not.
One event loop each; standard library only.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from urllib.parse import urlsplit

TIMEOUT_S = 60.0


class Leaf(asyncio.Protocol):
    """One connection; a request at a time (nobody pipelines here)."""

    def __init__(self) -> None:
        self.data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        while b"\r\n\r\n" in self.data:
            head, _, self.data = self.data.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].split(b"/")
            ms = int(path[4]) if len(path) > 4 else 0
            close = b"\r\nconnection: close" in head.lower() or b" HTTP/1.0\r\n" in head + b"\r\n"
            asyncio.get_running_loop().call_later(ms / 1000, self.answer, close)

    def answer(self, close: bool) -> None:
        if self.transport.is_closing():
            return
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"
        self.transport.write(head + (b"Connection: close\r\n" if close else b"") + b"\r\nleaf\n")
        if close:
            self.transport.close()


async def leaf(port: int, address: str) -> None:
    """Serves until it is killed."""
    server = await asyncio.get_running_loop().create_server(Leaf, address, port, backlog=1024)
    await server.serve_forever()


async def ask(connection: list[asyncio.StreamReader | asyncio.StreamWriter], url: str, path: str, keep: bool) -> int:
    """One request; the status. `connection`: what is kept from one to the next, empty if nothing is."""
    parts = urlsplit(url)
    if not connection:
        connection += await asyncio.open_connection(parts.hostname, parts.port or 80)
    reader, writer = connection
    assert isinstance(reader, asyncio.StreamReader) and isinstance(writer, asyncio.StreamWriter)
    ending = "" if keep else "Connection: close\r\n"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{ending}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    if b"\r\ntransfer-encoding: chunked" in head:
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    elif b"\r\ncontent-length:" in head:
        await reader.readexactly(int(head.split(b"\r\ncontent-length:")[1].split(b"\r\n")[0]))
    else:
        await reader.read()
        keep = False
    if not keep or b"\r\nconnection: close" in head:
        writer.close()
        connection.clear()
    return status


async def drive(url: str, requests: int, in_flight: int, keep: bool, plans: list[str], seed: int) -> int:
    """Sends all; how many failed."""
    chance = random.Random(seed)
    todo = [(number, chance.choice(plans), chance.randrange(6)) for number in range(requests, 0, -1)]
    failed = 0

    async def worker() -> None:
        nonlocal failed
        connection: list[asyncio.StreamReader | asyncio.StreamWriter] = []
        while todo:
            number, plan, ms = todo.pop()
            try:
                status = await asyncio.wait_for(ask(connection, url, f"/t/{number}/{plan}/{ms}", keep), TIMEOUT_S)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                connection.clear()
                status = 0
                print(f"request {number}: {error!r}", file=sys.stderr)
            if status == 200:
                print(number, plan)
            else:
                failed += 1
                print(f"request {number}: status {status}", file=sys.stderr)

    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return failed


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("leaf")
    one.add_argument("port", type=int)
    one.add_argument("address", nargs="?", default="127.0.0.1")
    two = commands.add_parser("drive")
    two.add_argument("url")
    two.add_argument("requests", type=int)
    two.add_argument("in_flight", type=int)
    two.add_argument("--keep-alive", action="store_true")
    two.add_argument("--plans", default="1,2,3")
    two.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.command == "leaf":
        asyncio.run(leaf(given.port, given.address))
        return 0
    plans = given.plans.split(",")
    return min(1, asyncio.run(drive(given.url, given.requests, given.in_flight, given.keep_alive, plans, given.seed)))


if __name__ == "__main__":
    sys.exit(main())
