"""Sends requests to the demo shop: the first ones by real `curl` processes, the rest over kept connections.

Assumes a started shop. Every request has an id of its own in its path; the mix of kinds follows from the seed
alone, the ids also from the run, so that two runs with one seed can be told apart. Called by `Shop.drive`.
"""

from __future__ import annotations

import http.client
import json
import queue
import random
import secrets
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from demo.expected import KINDS
from demo.process import CLEAN_ENV

ITEMS = 100  # products in services/postgresql/schema.sql
TIMEOUT_S = 30.0


class Request(NamedTuple):
    """A request that was sent. `status` 0: no answer. `latency` in seconds, as the sender saw it."""

    rid: str
    kind: str
    status: int
    latency: float

    @property
    def right(self) -> bool:
        """Whether the status is the one that this kind must get."""
        return self.status == KINDS[self.kind].status


class _Job(NamedTuple):
    number: int
    rid: str
    kind: str
    path: str
    body: bytes | None


def drive(host: str, port: int, n: int, concurrency: int, seed: int, curl: int = 10) -> list[Request]:
    """Sends `n` requests, `concurrency` at a time, the first `curl` by curl; returns them in their order."""
    jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
    for job in _plan(n, seed):
        jobs.put(job)
    done: list[Request | None] = [None] * n

    def work() -> None:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        try:
            while True:
                job = jobs.get_nowait()
                begin = time.perf_counter()
                by_curl = job.number < curl
                status = _by_curl(host, port, job) if by_curl else _by_connection(connection, job)
                done[job.number] = Request(job.rid, job.kind, status, time.perf_counter() - begin)
        except queue.Empty:
            pass
        finally:
            connection.close()

    threads = [threading.Thread(target=work, name=f"drive-{i}") for i in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [request for request in done if request is not None]


def _plan(n: int, seed: int) -> Iterable[_Job]:
    """The mix: one of each kind first, so that a short run has all, then by the shares."""
    chance = random.Random(seed)
    run = secrets.token_hex(3)
    kinds = list(KINDS)
    for index in range(n):
        picked = chance.choices(kinds, [KINDS[kind].share for kind in kinds])[0]
        kind = kinds[index] if index < len(kinds) else picked
        item, quantity = chance.randint(1, ITEMS), chance.randint(1, 3)
        rid = f"zs{run}n{index:06d}"
        body = (
            json.dumps({"item": item, "quantity": quantity}).encode()
            if KINDS[kind].method == "POST"
            else None
        )
        yield _Job(index, rid, kind, KINDS[kind].path.format(rid=rid, item=item), body)


def _by_connection(connection: http.client.HTTPConnection, job: _Job) -> int:
    headers = {"Content-Type": "application/json"} if job.body is not None else {}
    try:
        connection.request(KINDS[job.kind].method, job.path, job.body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0


def _by_curl(host: str, port: int, job: _Job) -> int:
    command = [
        "/usr/bin/curl",
        "--silent",
        "--noproxy",
        "*",
        "--max-time",
        str(TIMEOUT_S),
        "--output",
        "/dev/null",
    ]
    command += ["--write-out", "%{http_code}", f"http://{host}:{port}{job.path}"]
    if job.body is not None:
        command += ["--header", "Content-Type: application/json", "--data", job.body.decode()]
    result = subprocess.run(command, capture_output=True, text=True, env=CLEAN_ENV)
    return int(result.stdout) if result.stdout.isdigit() else 0


def save(path: Path, requests: Sequence[Request]) -> None:
    """Writes the requests as JSON lines, for `truth.py`."""
    path.write_text("".join(json.dumps(request._asdict()) + "\n" for request in requests))


def load(path: Path) -> list[Request]:
    """Reads what `save` wrote."""
    return [Request(**json.loads(line)) for line in path.read_text().splitlines() if line]
