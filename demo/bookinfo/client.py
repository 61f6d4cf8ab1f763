"""Bookinfo's visitors: one real `curl`, or so many requests a second over kept connections.

Each request has an id of its own in its path, or (`same_path`) in its User-Agent, with one path for all. The rate is
an open loop: request n is due at n / rate, whatever became of the others; what finds no free connection waits and is
sent late (told as `late_s`). Runs in the client's namespace, as `python3 client.py`; writes one JSON line a request.
Standard library only. Called by cluster.py.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import secrets
import sys
import threading
import time
from typing import NamedTuple

TIMEOUT_S = 30.0


class Request(NamedTuple):
    """`status` 0: no answer. `latency_s`: from sending to the whole answer; `late_s`: sent after it was due."""

    rid: str
    status: int
    latency_s: float
    late_s: float


def request_line(rid: str, same_path: bool) -> tuple[str, str]:
    """Path and User-Agent of a request."""
    return f"/r/{0 if same_path else rid}/productpage", f"bookinfo/{rid if same_path else 1}"


def send(host: str, port: int, rate: float, count: int, connections: int, same_path: bool) -> list[Request]:
    """Sends `count` requests, `rate` a second, over at most `connections` connections at once."""
    run = secrets.token_hex(3)
    numbers = itertools.count()
    done: list[Request] = []
    begin = time.monotonic() + 0.2

    def work() -> None:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        while (number := next(numbers)) < count:
            due = begin + number / rate
            time.sleep(max(0.0, due - time.monotonic()))
            rid, sent, status = f"zs{run}n{number:06d}", time.monotonic(), 0
            try:
                path, agent = request_line(rid, same_path)
                connection.request("GET", path, headers={"User-Agent": agent})
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                connection.close()
            done.append(Request(rid, status, time.monotonic() - sent, sent - due))
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def main() -> int:
    """The command line; exit code 0 if all were answered with 200."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--same-path", action="store_true")
    args = parser.parse_args()
    done = send(args.host, args.port, args.rate, args.count, args.connections, args.same_path)
    for request in done:
        print(json.dumps(request._asdict()))
    return 0 if all(request.status == 200 for request in done) else 1


if __name__ == "__main__":
    sys.exit(main())
