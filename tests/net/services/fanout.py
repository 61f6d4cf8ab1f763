"""A WSGI application for gunicorn's sync workers: each request calls the next service (port in NEXT) ten times at once.

    /select/N   non-blocking sockets and one selector, all on the thread of the request
    /curl/N     the same by libcurl's multi interface (pycurl)
    /pool/N     on the threads of a pool

The calls of /select/7 ask for /select/7/c0 ... /select/7/c9.
"""

from __future__ import annotations

import http.client
import os
import selectors
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

PORT = int(os.environ["NEXT"])
CALLS = 10
pool = None


def by_select(paths: list[str]) -> int:
    """All requests are on their way before an answer is read."""
    done, waiting = 0, {}
    with selectors.DefaultSelector() as selector:
        for path in paths:
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", PORT))
            selector.register(s, selectors.EVENT_WRITE, path)
            waiting[s] = b""
        while waiting:
            for key, _ in selector.select(10):
                s: Any = key.fileobj
                if key.data:
                    s.send(f"GET {key.data} HTTP/1.1\r\nHost: next\r\nConnection: close\r\n\r\n".encode())
                    selector.modify(s, selectors.EVENT_READ, "")
                elif part := s.recv(65536):
                    waiting[s] += part
                else:
                    done += waiting.pop(s).endswith(b"end")
                    selector.unregister(s)
                    s.close()
    return done


def by_curl(paths: list[str]) -> int:
    import pycurl

    multi, handles = pycurl.CurlMulti(), []
    for path in paths:
        handle = pycurl.Curl()
        handle.setopt(pycurl.URL, f"http://127.0.0.1:{PORT}{path}")
        handle.setopt(pycurl.WRITEFUNCTION, lambda data: len(data))
        handle.setopt(pycurl.NOSIGNAL, 1)
        multi.add_handle(handle)
        handles.append(handle)
    active = 1
    while active:
        multi.select(0.05)
        _, active = multi.perform()
    return sum(handle.getinfo(pycurl.RESPONSE_CODE) == 200 for handle in handles)


def ask(path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse().read()
    connection.close()
    return answer == b"end"


def by_pool(paths: list[str]) -> int:
    global pool
    pool = pool or ThreadPoolExecutor(CALLS)
    return sum(pool.map(ask, paths))


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    how = {"select": by_select, "curl": by_curl, "pool": by_pool}[path.split("/")[1]]
    done = how([f"{path}/c{i}" for i in range(CALLS)])
    body = b"end" if done == CALLS else b"%d of the calls were answered" % done
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
