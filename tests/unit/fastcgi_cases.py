"""FastCGI conversations and what must be understood of them. Used by test_fastcgi.py and tests/fuzz/fuzz_proto.py.

The word s3cr3t stands only where masking must hide it.
"""

from __future__ import annotations

import struct

from proto_cases import Case, Message, Turn

C, S = True, False
BEGIN, ABORT, END, PARAMS, STDIN, STDOUT, STDERR, GET_VALUES, GET_VALUES_RESULT = 1, 2, 3, 4, 5, 6, 7, 9, 10


def record(kind: int, content: bytes = b"", *, request: int = 1, padding: int | None = None) -> bytes:
    """Specification 1.0, section 3.3; padded to eight bytes as nginx does."""
    pad = -len(content) % 8 if padding is None else padding
    return struct.pack(">BBHHBB", 1, kind, request, len(content), pad, 0) + content + b"\0" * pad


def length(n: int) -> bytes:
    return bytes([n]) if n < 128 else struct.pack(">I", n | 1 << 31)


def pairs(**params: str) -> bytes:
    return b"".join(
        length(len(name)) + length(len(value)) + name.encode() + value.encode() for name, value in params.items()
    )


def ask(uri: str, method: str = "GET", body: bytes = b"", keep: bool = False, **more: str) -> Turn:
    path, _, query = uri.partition("?")
    params = pairs(QUERY_STRING=query, REQUEST_METHOD=method, CONTENT_LENGTH=str(len(body)) if body else "",
                   SCRIPT_NAME=path, REQUEST_URI=uri, HTTP_HOST="shop.test", **more)  # fmt: skip
    begin = record(BEGIN, struct.pack(">HB5x", 1, int(keep)))
    content = record(STDIN, body) if body else b""
    return (C, begin + record(PARAMS, params) + record(PARAMS) + content + record(STDIN))


def answer(head: bytes = b"Content-type: text/html\r\n", body: bytes = b"<p>", errors: bytes = b"") -> Turn:
    out = record(STDERR, errors) if errors else b""
    return (S, out + record(STDOUT, head + b"\r\n" + body) + record(END, bytes(8)))


def request(operation: bytes, target: bytes, **more: object) -> Message:
    return {"type": "request", "operation": operation, "target": target, "truncated": False, **more}


def response(code: int, **more: object) -> Message:
    status = "ok" if code < 400 else "client_error" if code < 500 else "server_error"
    return {"type": "response", "code": code, "status": status, "truncated": False, **more}


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
GET = request(b"GET", b"/a")

CASES = [
    Case("get", [ask("/a"), answer()], [GET, response(200)]),
    Case("host", [ask("/a"), answer()], [request(b"GET", b"/a", domain=b"shop.test"), response(200)]),
    Case("query", [ask("/a?q=s3cr3t"), answer()], [request(b"GET", b"/a"), response(200)]),
    Case("post", [ask("/a", "POST", b"x=1"), answer()], [request(b"POST", b"/a", body_size=3), response(200)]),
    Case("not found", [ask("/a"), answer(b"Status: 404 Not Found\r\nX: y\r\n")], [GET, response(404)]),
    Case("failed", [ask("/a"), answer(b"Status: 500 Oops\r\n", errors=b"PHP Fatal error")], [GET, response(500)]),
    Case("redirect", [ask("/a"), answer(b"Location: http://other/\r\n")], [GET, response(302)]),
    Case("redirect with a status", [ask("/a"), answer(b"Location: /b\r\nstatus:301\r\n")], [GET, response(301)]),
    Case("bare LF", [ask("/a"), (S, record(STDOUT, b"Status: 403\n\nno"))], [GET, response(403)]),
    Case("two on one connection", [ask("/a", keep=True), answer(), ask("/b", keep=True), answer()],
         [GET, response(200), request(b"GET", b"/b"), response(200)]),
    Case("a long value", [ask("/a", HTTP_COOKIE="x" * 300, HTTP_USER_AGENT="curl"), answer()],
         [request(b"GET", b"/a", user_agent=b"curl"), response(200)]),
    Case("ids", [ask("/a", HTTP_X_REQUEST_ID="r1", HTTP_TRACEPARENT=TRACE), answer()],
         [request(b"GET", b"/a", request_id=b"r1", wire="traceparent"), response(200)]),
    Case("no REQUEST_URI",
         [(C, record(BEGIN, struct.pack(">HB5x", 1, 0))
           + record(PARAMS, pairs(REQUEST_METHOD="GET", SCRIPT_NAME="/s.php")) + record(PARAMS) + record(STDIN)),
          answer()],
         [request(b"GET", b"/s.php"), response(200)]),
    Case("parameters in two records",
         [(C, record(BEGIN, struct.pack(">HB5x", 1, 0)) + record(PARAMS, pairs(REQUEST_METHOD="PUT"))
           + record(PARAMS, pairs(REQUEST_URI="/two")) + record(PARAMS) + record(STDIN)), answer()],
         [request(b"PUT", b"/two"), response(200)]),
    Case("refused", [ask("/a"), (S, record(END, struct.pack(">IB3x", 0, 2)))],
         [GET, {"type": "response", "code": -1, "status": "unset"}]),
    Case("questions about the application",
         [(C, record(GET_VALUES, pairs(FCGI_MAX_CONNS=""), request=0)),
          (S, record(GET_VALUES_RESULT, pairs(FCGI_MAX_CONNS="1"), request=0))],
         [{"type": "ignore"}, {"type": "ignore"}]),
    Case("not FastCGI", [(C, b"GET / HTTP/1.1\r\n\r\n")], [{"type": "not_mine"}]),
    Case("an answer where a request should be", [(C, record(STDOUT, b"x"))], [{"type": "not_mine"}]),
]  # fmt: skip
