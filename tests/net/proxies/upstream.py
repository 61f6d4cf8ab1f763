"""The program behind the proxy: a thread a connection, 0 to 5 ms of work for a request, HTTP/1.1 keep-alive.

    python upstream.py PORT LOG [HEADER]

Writes LOG when told to end (SIGTERM): a line of JSON `[truth, peer port, ns]` for each request, in which `truth` is the
value of X-Truth and `ns` CLOCK_REALTIME after the request was read. HEADER: a header of the request that the answer
repeats, or makes if the request has none. Run by kit.py.
"""

from __future__ import annotations

import json
import random
import signal
import socket
import sys
import threading
import time
import uuid


def field(head: bytes, name: bytes) -> bytes:
    """Value of a header field; empty if it is not there."""
    at = head.lower().find(b"\r\n" + name.lower() + b":")
    return head[at:].split(b"\r\n", 2)[1].split(b":", 1)[1].strip() if at >= 0 else b""


def serve(peer: socket.socket, log: list[tuple[str, int, int]], echoed: bytes) -> None:
    port = peer.getpeername()[1]
    data = b""
    with peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            while b"\r\n\r\n" not in data:
                try:
                    more = peer.recv(4096)
                except OSError:
                    return
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            head += b"\r\n"
            log.append((field(head, b"X-Truth").decode(), port, time.time_ns()))
            time.sleep(random.uniform(0, 0.005))
            again = b"%s: %s\r\n" % (echoed, field(head, echoed) or uuid.uuid4().hex.encode()) if echoed else b""
            try:
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + again + b"\r\nok")
            except OSError:
                return
            if field(head, b"Connection").lower() == b"close":
                return


def main() -> None:
    port, path, echoed = int(sys.argv[1]), sys.argv[2], sys.argv[3].encode() if len(sys.argv) > 3 else b""
    log: list[tuple[str, int, int]] = []
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())

    def accept() -> None:
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=serve, args=(peer, log, echoed), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    while not done.wait(0.2):
        pass
    with open(path, "w") as out:
        out.writelines(json.dumps(row) + "\n" for row in list(log))


if __name__ == "__main__":
    main()
