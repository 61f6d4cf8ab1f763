"""A fake API server for tests: lists in pages, watches with bookmarks, 410, tokens; and all that can go wrong.

Objects are plain dicts as the API would write them. Plain HTTP on loopback. `Api.put` and `Api.delete` are events;
faults: see the attributes. Speaks what enricher/sources/kubernetes/reflector.py uses of the protocol, chunked as the
real one. The real one is in the e2e tests.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]


class Api:
    """resource: the plural's path without namespace: "/api/v1/pods"."""

    def __init__(self, token: str = "") -> None:
        self.lock = threading.Condition()
        self.version = 1000
        self.objects: dict[str, dict[str, Object]] = defaultdict(dict)  # resource: uid
        self.events: dict[str, list[tuple[int, str, Object]]] = defaultdict(list)
        self.oldest = 0  # versions before this one are gone (410)
        self.token = token
        self.client = ""  # name in the only client certificate that is let in, over TLS
        self.forbidden: set[str] = set()
        self.fail = 0  # so many requests answer 500
        self.expire_continue = 0  # so many continue tokens are too old
        self.expire_late = False  # 410 comes as an ERROR event, not as an answer
        self.garbage = 0  # so many watch lines are no JSON
        self.slow_s = 0.0  # before each answer
        self.silent = False  # watches say nothing more, and keep the connection
        self.bookmark_s = 0.0
        self.requests: list[str] = []
        self.accepts: list[str] = []
        self.sockets: set[socket.socket] = set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self.server.daemon_threads = True
        self.closing = False
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def put(self, resource: str, obj: Object) -> Object:
        with self.lock:
            self.version += 1
            obj = json.loads(json.dumps(obj))
            obj["metadata"]["resourceVersion"] = str(self.version)
            uid = obj["metadata"]["uid"]
            kind = "MODIFIED" if uid in self.objects[resource] else "ADDED"
            self.objects[resource][uid] = obj
            self.events[resource].append((self.version, kind, obj))
            self.lock.notify_all()
            return obj

    def delete(self, resource: str, uid: str, last: Object | None = None) -> None:
        with self.lock:
            self.version += 1
            known = self.objects[resource].pop(uid)
            obj = json.loads(json.dumps(last or known))
            obj["metadata"]["resourceVersion"] = str(self.version)
            self.events[resource].append((self.version, "DELETED", obj))
            self.lock.notify_all()

    def expire(self) -> None:
        """All versions so far are too old from now on."""
        with self.lock:
            self.version += 1
            self.oldest = self.version
            self.lock.notify_all()

    def cut(self) -> None:
        """Every connection breaks."""
        with self.lock:
            for each in list(self.sockets):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.closing = True
        with self.lock:
            self.lock.notify_all()
        self.cut()
        self.server.shutdown()
        self.server.server_close()

    def chosen(self, resource: str, namespace: str, selector: str) -> list[Object]:
        return [o for o in self.objects[resource].values() if fits(o, namespace, selector)]


def fits(obj: Object, namespace: str, selector: str) -> bool:
    if namespace and obj["metadata"].get("namespace") != namespace:
        return False
    if selector:
        path, _, wanted = selector.partition("=")
        at: Any = obj
        for part in path.split("."):
            at = at.get(part, {}) if isinstance(at, dict) else {}
        return bool(at == wanted)
    return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Api

    def log_message(self, *args: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        with self.api.lock:
            self.api.sockets.add(self.connection)

    def finish(self) -> None:
        with self.api.lock:
            self.api.sockets.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        try:
            self.answer()
        except OSError:
            self.close_connection = True

    def answer(self) -> None:
        api = self.api
        url = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        with api.lock:
            api.requests.append(self.path)
            api.accepts.append(self.headers.get("Accept", ""))
        if api.slow_s:
            time.sleep(api.slow_s)
        resource, namespace = url.path, ""
        head, found, rest = url.path.partition("/namespaces/")
        if found and "/" in rest:
            namespace, _, plural = rest.partition("/")
            resource = f"{head}/{plural}"
        if api.token and self.headers.get("Authorization") != f"Bearer {api.token}":
            return self.status(401, "Unauthorized")
        if api.client and api.client not in str(self.connection.getpeercert()):  # type: ignore[attr-defined]
            return self.status(401, "Unauthorized")
        if api.fail > 0:
            api.fail -= 1
            return self.status(500, "boom")
        if resource in api.forbidden:
            return self.status(403, "Forbidden")
        selector = query.get("fieldSelector", "")
        if "watch" in query:
            return self.watch(resource, namespace, selector, int(query["resourceVersion"]))
        return self.list(resource, namespace, selector, query)

    def status(self, code: int, reason: str) -> None:
        body = json.dumps({"kind": "Status", "code": code, "reason": reason, "status": "Failure"}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def list(self, resource: str, namespace: str, selector: str, query: dict[str, str]) -> None:
        api = self.api
        with api.lock:
            all = api.chosen(resource, namespace, selector)
            version = api.version
        start = 0
        if "continue" in query:
            start, version = map(int, query["continue"].split("."))
            if api.expire_continue > 0:
                api.expire_continue -= 1
                return self.status(410, "Expired")
        end = start + int(query.get("limit", "1000000"))
        meta: Object = {"resourceVersion": str(version)}
        if end < len(all):
            meta["continue"] = f"{end}.{version}"
        body = json.dumps({"kind": "List", "metadata": meta, "items": all[start:end]}).encode()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for i in range(0, len(body), 50_000):
            self.chunk(body[i : i + 50_000])
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def watch(self, resource: str, namespace: str, selector: str, version: int) -> None:
        api = self.api
        if version < api.oldest and not api.expire_late:
            return self.status(410, "Expired")
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        marked = time.monotonic()
        while not api.closing:
            with api.lock:
                news = [e for e in api.events[resource][sent:] if e[0] > version]
                sent = len(api.events[resource])
                expired = version < api.oldest
                last = api.version
                if not news and not expired:
                    api.lock.wait(0.05)
            if api.silent:
                continue
            if expired:
                if api.expire_late:
                    self.line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})
                self.wfile.write(b"0\r\n\r\n")
                return
            for _, kind, obj in news:
                if not fits(obj, namespace, selector):
                    continue
                if api.garbage > 0:
                    api.garbage -= 1
                    self.chunk(b'{"type":"ADDED","obj\n')
                else:
                    self.line(kind, obj)
            if news:
                version = news[-1][0]
            elif api.bookmark_s and time.monotonic() - marked > api.bookmark_s:
                marked, version = time.monotonic(), last
                self.line("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(last)}})

    def line(self, kind: str, obj: Object) -> None:
        data = json.dumps({"type": kind, "object": obj}).encode() + b"\n"
        half = len(data) // 2
        self.chunk(data[:half])  # lines and chunks have nothing to do with each other
        self.chunk(data[half:])
