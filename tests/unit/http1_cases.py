"""HTTP/1 conversations and what must be understood of them: RFC 9110, RFC 9112 and bad input.

The word s3cr3t stands only where masking must hide it. Used by test_http1.py and tests/fuzz/fuzz_proto.py.
"""

from __future__ import annotations

from proto_cases import Case, Message, Turn

C, S = True, False
UNKNOWN = -1


def ask(head: bytes, body: bytes = b"") -> Turn:
    """A request; lines are separated by \\n in the table and CR LF on the wire."""
    return (C, head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body)


def answer(head: bytes, body: bytes = b"") -> Turn:
    return (S, head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body)


def request(operation: bytes, target: bytes, **more: object) -> Message:
    return {"type": "request", "operation": operation, "target": target, "truncated": False, **more}


def response(code: int, **more: object) -> Message:
    status = "server_error" if code >= 500 else "client_error" if code >= 400 else "ok"
    return {"type": "response", "code": code, "status": status, "truncated": False, **more}


def one(name: str, turn: Turn, expect: Message) -> Case:
    return Case(name, [turn], [expect])


OK = answer(b"HTTP/1.1 200 OK\nContent-Length: 2", b"ok")
GET = ask(b"GET / HTTP/1.1\nHost: h")
IGNORE: Message = {"type": "ignore"}
REFUSED: Message = {"type": "not_mine"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"

REQUESTS = [
    Case(
        "get and answer",
        [
            ask(b"GET /cart/7?user=s3cr3t&n=2 HTTP/1.1\nHost: shop:80\nUser-Agent: curl/8\nX-Request-ID: r-1"),
            OK,
        ],
        [
            request(
                b"GET",
                b"/cart/7",
                query=b"user=s3cr3t&n=2",
                masked_query=b"user=*&n=*",
                masked=b"/cart/7",
                domain=b"shop:80",
                user_agent=b"curl/8",
                request_id=b"r-1",
                version=11,
                body_size=0,
            ),
            response(200, body_size=2, total=40, version=11),
        ],
    ),
    Case(
        "http/1.0 until the connection ends",
        [
            ask(b"GET /old HTTP/1.0"),
            answer(b"HTTP/1.0 200 OK\nContent-Type: text/plain", b"all of it\nHTTP/1.1 500 no"),
        ],
        [
            request(b"GET", b"/old", version=10, domain=b""),
            response(200, version=10, total=UNKNOWN, body_size=-1),
        ],
    ),
    *[
        one(
            f"method {m.decode()}",
            ask(m + b" /r HTTP/1.1\nHost: h\nContent-Length: 0"),
            request(m, b"/r", body_size=0),
        )
        for m in (
            b"POST",
            b"PUT",
            b"PATCH",
            b"DELETE",
            b"TRACE",
            b"PROPFIND",
            b"MKCOL",
            b"LOCK",
            b"REPORT",
            b"PURGE",
        )
    ],
    one("custom method token", ask(b"X-Do_it! /r HTTP/1.1\nHost: h"), request(b"X-Do_it!", b"/r")),
    one("method of 32", ask(b"M" * 32 + b" / HTTP/1.1"), request(b"M" * 32, b"/")),
    one("method of 33", ask(b"M" * 33 + b" / HTTP/1.1"), REFUSED),
    one("options *", ask(b"OPTIONS * HTTP/1.1\nHost: h"), request(b"OPTIONS", b"*", domain=b"h")),
    one(
        "absolute form",
        ask(b"GET http://user:s3cr3t@example.org:81/p/q?k=s3cr3t HTTP/1.1\nHost: other"),
        request(b"GET", b"/p/q", domain=b"example.org:81", query=b"k=s3cr3t"),
    ),
    one(
        "absolute form without a path",
        ask(b"GET http://example.org?x=1 HTTP/1.1\nHost: other"),
        request(b"GET", b"/", domain=b"example.org", query=b"x=1"),
    ),
    one(
        "authority form",
        ask(b"CONNECT user:s3cr3t@db.example:443 HTTP/1.1\nHost: x"),
        request(b"CONNECT", b"db.example:443", domain=b"db.example:443"),
    ),
    one("fragment is no path", ask(b"GET /a#s3cr3t HTTP/1.1"), request(b"GET", b"/a", query=b"")),
    one("utf-8 in the path", ask("GET /käse HTTP/1.1".encode()), request(b"GET", "/käse".encode())),
    one("space in the target", ask(b"GET /a b HTTP/1.1"), request(b"GET", b"/a b")),
    one("user in the Host field", ask(b"GET / HTTP/1.1\nHost: u:s3cr3t@h"), request(b"GET", b"/", domain=b"h")),
    one(
        "path parameters",
        ask(b"GET /a;jsessionid=s3cr3t/b;v=s3cr3t;w HTTP/1.1"),
        request(b"GET", b"/a;jsessionid=s3cr3t/b;v=s3cr3t;w", masked=b"/a;jsessionid=*/b;v=*;w"),
    ),
    one(
        "path parameters in percent code",
        ask(b"GET /a%3bsid%3Ds3cr3t/b HTTP/1.1"),
        request(b"GET", b"/a%3bsid%3Ds3cr3t/b", masked=b"/a%3bsid%3D*/b"),
    ),
    one(
        "user of a URL in the path",
        ask(b"GET /proxy/https://bob:s3cr3t@x.org/y HTTP/1.1"),
        request(b"GET", b"/proxy/https://bob:s3cr3t@x.org/y", masked=b"/proxy/https://*@x.org/y"),
    ),
    one(
        "queries: no value, empty value, two signs",
        ask(b"GET /q?flag&a=&b=s3cr3t=s3cr3t&&=s3cr3t HTTP/1.1"),
        request(b"GET", b"/q", masked_query=b"flag&a=*&b=*&&=*"),
    ),
    one(
        "bare line feeds",
        (C, b"GET /lf HTTP/1.1\nHost: h\n\n"),
        request(b"GET", b"/lf", domain=b"h", total=26),
    ),
    Case(
        "empty lines before a request",
        [(C, b"\r\n\r\nGET /x HTTP/1.1\r\n\r\n")],
        [{**IGNORE, "consumed": 4}, request(b"GET", b"/x", at=4)],
    ),
    Case("only empty lines", [(C, b"\r\n\r\n")], [IGNORE]),
    one(
        "folded field",
        (C, b"GET / HTTP/1.1\r\nUser-Agent: one\r\n\ttwo\r\nHost:\r\n h\r\nContent-Length:\r\n 0\r\n\r\n"),
        request(b"GET", b"/", user_agent=b"one", domain=b"h", body_size=0),
    ),
    one(
        "names in any case, blanks around",
        (C, b"GET / HTTP/1.1\r\nhOST :  h\t \r\nUSER-AGENT:ua\r\n\r\n"),
        request(b"GET", b"/", domain=b"h", user_agent=b"ua"),
    ),
    one(
        "line without a colon",
        ask(b"GET / HTTP/1.1\nrubbish\n: x\nHost: h"),
        request(b"GET", b"/", domain=b"h"),
    ),
    one(
        "NUL in a value",
        ask(b"GET / HTTP/1.1\nUser-Agent: a\0b\nHost: h"),
        request(b"GET", b"/", user_agent=b"", domain=b"h"),
    ),
    one(
        "many fields",
        ask(b"GET / HTTP/1.1" + b"\nX-A: b" * 800 + b"\nHost: h"),
        request(b"GET", b"/", domain=b"h"),
    ),
    one("long path", ask(b"GET /" + b"p" * 9000 + b" HTTP/1.1"), request(b"GET", b"/" + b"p" * 9000)),
    one(
        "head beyond all bounds",
        ask(b"GET /long HTTP/1.1\nHost: h\nX: " + b"y" * 20000),
        {
            "type": "request",
            "truncated": True,
            "target": b"/long",
            "domain": b"h",
            "total": UNKNOWN,
            "consumed": 16384,
        },
    ),
    Case(
        "pipelined requests and answers",
        [
            (
                C,
                GET[1] + ask(b"POST /b HTTP/1.1\nContent-Length: 3", b"abc")[1] + ask(b"HEAD /c HTTP/1.1")[1] + GET[1],
            ),
            (
                S,
                OK[1]
                + answer(b"HTTP/1.1 201 Created\nContent-Length: 0")[1]
                + answer(b"HTTP/1.1 200 OK\nContent-Length: 9")[1]
                + OK[1],
            ),
        ],
        [
            request(b"GET", b"/", at=0),
            request(b"POST", b"/b", body_size=3),
            request(b"HEAD", b"/c"),
            request(b"GET", b"/"),
            response(200),
            response(201, body_size=0),
            response(200, body_size=0, total=38),
            response(200, body_size=2),
        ],
    ),
    Case("keep-alive", [GET, OK] * 3, [request(b"GET", b"/"), response(200)] * 3),
]

BODIES = [
    Case(
        "chunked both ways, pipelined",
        [
            (C, ask(b"POST /c HTTP/1.1\nTransfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n")[1] + GET[1]),
            (
                S,
                answer(
                    b"HTTP/1.1 200 OK\nTransfer-Encoding: gzip, Chunked",
                    b"A;x=y\r\n0123456789\r\n1\r\n!\r\n0\r\nX-T: 1\r\n\r\n",
                )[1]
                + OK[1],
            ),
        ],
        [
            request(b"POST", b"/c", body_size=3, total=61),
            request(b"GET", b"/", at=61),
            response(200, body_size=11, total=91),
            response(200, at=91),
        ],
    ),
    one(
        "chunked, end not seen",
        answer(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"5\r\nab"),
        response(200, total=UNKNOWN, body_size=-1),
    ),
    one(
        "chunk too large to be seen",
        answer(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"FFFFFFFFFFFFFFFFF\r\nab"),
        response(200, total=UNKNOWN, body_size=-1, consumed=47),
    ),
    one(
        "broken chunks",
        answer(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"2\r\nabc\r\n0\r\n\r\n"),
        response(200, total=UNKNOWN, body_size=-1),
    ),
    one(
        "chunked with bare line feeds",
        (S, b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nab\n0\n\n"),
        response(200, body_size=2),
    ),
    one(
        "Transfer-Encoding beats Content-Length",
        ask(b"POST / HTTP/1.1\nContent-Length: 99\nTransfer-Encoding: chunked", b"1\r\na\r\n0\r\n\r\n"),
        request(b"POST", b"/", body_size=1),
    ),
    one(
        "identity is no coding",
        ask(b"POST / HTTP/1.1\nTransfer-Encoding: identity\nContent-Length: 2", b"ab"),
        request(b"POST", b"/", body_size=2),
    ),
    one(
        "chunked is not the last coding",
        ask(b"POST / HTTP/1.1\nTransfer-Encoding: chunked, gzip", b"x"),
        request(b"POST", b"/", total=UNKNOWN, body_size=-1),
    ),
    one(
        "equal lengths",
        ask(b"POST / HTTP/1.1\nContent-Length: 2, 2\nContent-Length: 2", b"ab"),
        request(b"POST", b"/", body_size=2),
    ),
    *[
        one(
            f"length {v!r}",
            ask(b"POST / HTTP/1.1\nContent-Length: " + v, b"ab"),
            request(b"POST", b"/", body_size=-1, total=UNKNOWN),
        )
        for v in (
            b"2, 3",
            b"2\nContent-Length: 3",
            b"-2",
            b"+2",
            b"0x2",
            b"2 2",
            b"99999999999999999999",
            b",",
            b"\xb2",
        )
    ],
    one(
        "longest length",
        ask(b"PUT / HTTP/1.1\nContent-Length: 999999999999999999"),
        request(b"PUT", b"/", body_size=999999999999999999, total=999999999999999999 + 54),
    ),
    one(
        "zeros before a length",
        ask(b"PUT / HTTP/1.1\nContent-Length: 00000000000000000000002", b"ab"),
        request(b"PUT", b"/", body_size=2),
    ),
    *[
        Case(
            f"{code} has no body",
            [
                GET,
                (
                    S,
                    answer(b"HTTP/1.1 %d X\nContent-Length: 50\nTransfer-Encoding: chunked" % code)[1] + OK[1],
                ),
            ],
            [request(b"GET", b"/"), response(code, body_size=0), response(200)],
        )
        for code in (204, 304)
    ],
    Case(
        "expect 100, then the body",
        [
            ask(b"POST /e HTTP/1.1\nExpect: 100-continue\nContent-Length: 4"),
            answer(b"HTTP/1.1 100 Continue"),
            (C, b"GET "),
            OK,
            GET,
            OK,
        ],
        [
            request(b"POST", b"/e", body_size=4),
            {"type": "interim", "code": 100},
            response(200),
            request(b"GET", b"/"),
            response(200),
        ],
    ),
    Case(
        "expect 100, then chunks",
        [
            ask(b"POST /e HTTP/1.1\nExpect: 100-continue\nTransfer-Encoding: chunked"),
            answer(b"HTTP/1.1 100 Continue"),
            (C, b"3\r\nabc\r\n0\r\n\r\n"),
            OK,
            GET,
        ],
        [
            request(b"POST", b"/e", total=UNKNOWN),
            {"type": "interim", "code": 100},
            response(200),
            request(b"GET", b"/"),
        ],
    ),
    Case(
        "early hints before the answer",
        [GET, (S, answer(b"HTTP/1.1 103 Early Hints\nLink: </s.css>")[1] + OK[1])],
        [request(b"GET", b"/"), {"type": "interim", "code": 103}, response(200)],
    ),
    Case(
        "refused before the body ended",
        [
            ask(b"POST /big HTTP/1.1\nContent-Length: 10", b"abc"),
            answer(b"HTTP/1.1 413 Too Large\nContent-Length: 0"),
            (C, b"defghij"),
            GET,
        ],
        [request(b"POST", b"/big"), response(413), request(b"GET", b"/")],
    ),
    Case(
        "upgrade",
        [
            ask(b"GET /ws HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket"),
            answer(b"HTTP/1.1 101 Switching Protocols\nUpgrade: websocket", b"\x81\x05hello"),
        ],
        [request(b"GET", b"/ws"), {"type": "upgrade", "code": 101, "total": UNKNOWN}],
    ),
    Case(
        "tunnel",
        [
            ask(b"CONNECT h:443 HTTP/1.1\nHost: h:443"),
            answer(b"HTTP/1.1 200 Connection established", b"\x16\x03\x01"),
        ],
        [request(b"CONNECT", b"h:443"), {"type": "upgrade", "code": 200}],
    ),
    Case(
        "tunnel refused",
        [ask(b"CONNECT h:443 HTTP/1.1"), answer(b"HTTP/1.1 403 No\nContent-Length: 2", b"no"), GET],
        [request(b"CONNECT", b"h:443"), response(403, body_size=2), request(b"GET", b"/")],
    ),
]

RESPONSES = [
    *[
        one(f"status {c}", answer(b"HTTP/1.1 %d Text\nContent-Length: 0" % c), response(c, body_size=0))
        for c in (202, 301, 400, 404, 429, 499, 500, 503, 599, 999)
    ],
    one("no reason phrase", (S, b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"), response(200)),
    one("empty reason phrase", (S, b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"), response(200)),
    one(
        "request id of the answer",
        answer(b"HTTP/1.1 200 OK\nX-Request-Id: r9\nContent-Length: 0"),
        response(200, request_id=b"r9"),
    ),
    *[
        one(f"refused answer {i}", (S, data), REFUSED)
        for i, data in enumerate(
            [
                b"HTTP/2 200\r\n\r\n",
                b"HTTP/1.1 20\r\n\r\n",
                b"HTTP/1.1 2000 X\r\n\r\n",
                b"HTTP/1.1  200 X\r\n\r\n",
                b"SSH-2.0-x\r\n",
                b"HTTP/1.1 099 X\r\n\r\n",
            ]
        )
    ],
    *[
        one(f"refused request {i}", (C, data), REFUSED)
        for i, data in enumerate(
            [
                b"\x16\x03\x01\x02\x00\x01",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"GET /\r\n",
                b"GET / HTTP/1.x\r\n\r\n",
                b" GET / HTTP/1.1\r\n\r\n",
                b"GET HTTP/1.1\r\n\r\n",
                b"GET /a\x00b HTTP/1.1\r\n\r\n",
                b"GET\t/ HTTP/1.1\r\n\r\n",
                b"*1\r\n$4\r\nPING\r\n",
                b"{}\r\n",
            ]
        )
    ],
]


def _ids(name: str, fields: bytes, request_id: bytes) -> Case:
    return one(name, ask(b"GET / HTTP/1.1\n" + fields), request(b"GET", b"/", request_id=request_id))


IDS = [
    _ids("x-request-id beats its kin", b"Request-Id: a\nStgw-Request-Id: c\nx-request-id: b", b"b"),
    _ids("first of two ids", b"X-Request-ID: a\nX-Request-ID: b", b"a"),
    _ids("bfe id", b"x-bfe-log-id: 42", b"42"),
    _ids("stgw id", b"stgw-request-id: 43", b"43"),
    _ids("request-id", b"Request-Id: |a.b.", b"|a.b."),
    _ids("empty id", b"X-Request-ID: \nRequest-Id: z", b"z"),
]

CASES = REQUESTS + BODIES + RESPONSES + IDS
