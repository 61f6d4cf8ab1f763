"""Programs under test: started together, ended together, and where they listen."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def running(*commands: list[str], ports: list[int], env: Mapping[str, str] | None = None) -> Iterator[None]:
    """Programs that listen on these ports; all are ended."""
    processes = [subprocess.Popen(command, env={**os.environ, **(env or {})}) for command in commands]
    try:
        for port in ports:
            end = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                assert all(p.poll() is None for p in processes), "a service ended"
                assert time.monotonic() < end, f"nobody listens on port {port}"
                time.sleep(0.05)
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)
