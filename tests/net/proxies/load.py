"""A closed-loop client: N requests in flight, all of one path, a thread and a connection each.

    python load.py PORT LOG REQUESTS IN_FLIGHT {keep,close} [HEADER]

Writes LOG: a line of JSON `[truth, local port, ns]` for each request that was answered with 200, `ns` is
CLOCK_REALTIME before it was sent. The only header that differs is X-Truth, which no part of the agent reads, and HEADER
if one is named. Exit code 1 if any request failed. Run by kit.py.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import uuid


def one(peer: socket.socket, truth: str, close: bool, header: str) -> bool:
    """Sends a request and reads its answer, whose length is announced. False: it was no 200."""
    extra = f"{header}: {uuid.uuid4()}\r\n" if header else ""
    extra += "Connection: close\r\n" if close else ""
    peer.sendall(f"GET /same HTTP/1.1\r\nHost: a\r\nX-Truth: {truth}\r\n{extra}\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data or not data.endswith(b"ok"):
        more = peer.recv(4096)
        if not more:
            return False
        data += more
        if b"\r\n\r\n" in data and not data.startswith(b"HTTP/1.1 200"):
            return False
    return True


def main() -> None:
    port, path, total, in_flight, mode = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    header = sys.argv[6] if len(sys.argv) > 6 else ""
    numbers = iter(range(total))
    log: list[tuple[str, int, int]] = []
    failed: list[str] = []

    def connect() -> socket.socket:
        peer = socket.create_connection(("127.0.0.1", port), 20)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return peer

    def work() -> None:
        peer = None
        for number in numbers:
            peer = peer or connect()
            truth, local, now = f"t{number}", peer.getsockname()[1], time.time_ns()
            try:
                ok = one(peer, truth, mode == "close", header)
            except OSError:
                ok = False
            if ok:
                log.append((truth, local, now))
            else:
                failed.append(truth)
            if not ok or mode == "close":
                peer.close()
                peer = None

    threads = [threading.Thread(target=work) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open(path, "w") as out:
        out.writelines(json.dumps(row) + "\n" for row in log)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
