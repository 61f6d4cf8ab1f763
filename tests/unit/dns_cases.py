"""DNS conversations and what must be understood of them. See proto_cases.py.

Messages are built by RFC 1035 section 4.1, independently of the parser.
"""

from __future__ import annotations

import struct

from proto_cases import Case, Message

ASK, ANSWER = True, False
TYPES = {
    "A": 1,
    "NS": 2,
    "CNAME": 5,
    "SOA": 6,
    "PTR": 12,
    "HINFO": 13,
    "MX": 15,
    "TXT": 16,
    "RP": 17,
    "AAAA": 28,
    "LOC": 29,
    "SRV": 33,
    "NAPTR": 35,
    "CERT": 37,
    "DNAME": 39,
    "OPT": 41,
    "DS": 43,
    "SSHFP": 44,
    "RRSIG": 46,
    "NSEC": 47,
    "DNSKEY": 48,
    "NSEC3": 50,
    "TLSA": 52,
    "SVCB": 64,
    "HTTPS": 65,
    "SPF": 99,
    "IXFR": 251,
    "AXFR": 252,
    "ANY": 255,
    "URI": 256,
    "CAA": 257,
}
RCODES = [
    "NOERROR",
    "FORMERR",
    "SERVFAIL",
    "NXDOMAIN",
    "NOTIMP",
    "REFUSED",
    "YXDOMAIN",
    "YXRRSET",
    "NXRRSET",
    "NOTAUTH",
    "NOTZONE",
    "DSOTYPENI",
]
RD, TC, AA, QR, CD = 0x0100, 0x0200, 0x0400, 0x8000, 0x0010


def wire(name: str | list[bytes]) -> bytes:
    labels = [s.encode() for s in name.split(".") if s] if isinstance(name, str) else name
    return b"".join(bytes([len(s)]) + s for s in labels) + b"\0"


def question(name: str | list[bytes] | bytes, qtype: str | int = "A", cls: int = 1) -> bytes:
    raw = name if isinstance(name, bytes) else wire(name)
    return raw + struct.pack(">HH", TYPES[qtype] if isinstance(qtype, str) else qtype, cls)


def record(name: bytes, rtype: str | int, data: bytes, ttl: int = 60, cls: int = 1) -> bytes:
    number = TYPES[rtype] if isinstance(rtype, str) else rtype
    return name + struct.pack(">HHIH", number, cls, ttl, len(data)) + data


def message(
    ident: int,
    flags: int,
    questions: list[bytes],
    answers: list[bytes] | None = None,
    authorities: list[bytes] | None = None,
    additional: list[bytes] | None = None,
) -> bytes:
    parts = [questions, answers or [], authorities or [], additional or []]
    return struct.pack(">HH4H", ident, flags, *map(len, parts)) + b"".join(b"".join(p) for p in parts)


def tcp(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def opt(extended: int = 0, size: int = 1232, data: bytes = b"") -> bytes:
    return record(b"\0", "OPT", data, extended << 24, size)


PTR = b"\xc0\x0c"  # the first question's name
A1 = record(PTR, "A", b"\x7f\0\0\1")


def ask(ident: int = 1, name: str = "www.example.org", qtype: str | int = "A", flags: int = RD) -> bytes:
    return message(ident, flags, [question(name, qtype)])


def answer(ident: int = 1, name: str = "www.example.org", qtype: str | int = "A", rcode: int = 0, n: int = 1) -> bytes:
    return message(ident, QR | RD | 0x80 | rcode, [question(name, qtype)], [A1] * n)


def req(op: str, name: str, ident: int = 1, **more: object) -> Message:
    return {
        "type": "request",
        "operation": op.encode(),
        "target": name.encode(),
        "masked": name.encode(),
        "id": ident,
        "code": -1,
        "rows": -1,
        "truncated": False,
        **more,
    }


def res(op: str, name: str, ident: int = 1, code: int = 0, rows: int = 0, **more: object) -> Message:
    status = {0: "ok", 1: "client_error", 3: "client_error"}.get(code, "server_error")
    return {
        "type": "response",
        "operation": op.encode(),
        "target": name.encode(),
        "id": ident,
        "code": code,
        "rows": rows,
        "status": status,
        "truncated": False,
        **more,
    }


def udp(name: str, turns: list[tuple[bool, bytes]], expect: list[Message]) -> Case:
    return Case(name, turns, expect, 53, True)


WWW = "www.example.org"
UDP = [
    udp(
        "query and answer",
        [(ASK, ask()), (ANSWER, answer())],
        [req("A", WWW), res("A", WWW, rows=1, status_text=b"")],
    ),
    udp(
        "two questions at once",
        [(ASK, ask(1)), (ASK, ask(2, qtype="AAAA")), (ANSWER, answer(2, qtype="AAAA")), (ANSWER, answer(1))],
        [req("A", WWW, 1), req("AAAA", WWW, 2), res("AAAA", WWW, 2, rows=1), res("A", WWW, 1, rows=1)],
    ),
    udp(
        "the accepting side asks",
        [(ANSWER, ask(7)), (ASK, answer(7))],
        [req("A", WWW, 7), res("A", WWW, 7, rows=1)],
    ),
    udp("lower case", [(ASK, ask(name="wWw.ExAmPlE.ORG"))], [req("A", WWW)]),
    udp("root", [(ASK, ask(name="", qtype="NS"))], [req("NS", ".")]),
    udp("longest label", [(ASK, ask(name="x" * 63 + ".org"))], [req("A", "x" * 63 + ".org")]),
    udp(
        "longest name",
        [(ASK, ask(name=".".join(["y" * 63] * 3 + ["z" * 61])))],
        [req("A", ".".join(["y" * 63] * 3 + ["z" * 61]))],
    ),
    udp(
        "escapes",
        [(ASK, message(1, RD, [question([b"a.b\\c", b"\x00 \xff", b"Org"])]))],
        [req("A", "a\\.b\\\\c.\\000\\032\\255.org")],
    ),
    udp(
        "longest presentation",
        [(ASK, message(1, RD, [question([b"\xff" * 63] * 3 + [b"\xff" * 61])]))],
        [req("A", ".".join(["\\255" * 63] * 3 + ["\\255" * 61]))],
    ),
    udp(
        "underscores",
        [(ASK, ask(name="_ldap._tcp.example.org", qtype="SRV"))],
        [req("SRV", "_ldap._tcp.example.org")],
    ),
    udp(
        "several questions",
        [(ASK, message(1, RD, [question("a.b"), question("c.d", "MX"), question("e.f")]))],
        [req("A", "a.b", rows=3)],
    ),
    udp(
        "second question is compressed",
        [(ASK, message(1, RD, [question("a.b"), question(PTR, "MX")]))],
        [req("A", "a.b", rows=2)],
    ),
    udp(
        "EDNS0",
        [
            (ASK, message(1, RD, [question("a.b")], additional=[opt()])),
            (ANSWER, message(1, QR, [question("a.b")], [A1], additional=[opt()])),
        ],
        [req("A", "a.b"), res("A", "a.b", rows=1)],
    ),
    udp(
        "EDNS0 with a cookie",
        [(ASK, message(1, RD, [question("a.b")], additional=[opt(data=b"\0\n\0\10" + bytes(8))]))],
        [req("A", "a.b")],
    ),
    udp(
        "truncated, again over TCP",
        [(ASK, ask()), (ANSWER, message(1, QR | TC, [question(WWW)]))],
        [req("A", WWW), res("A", WWW, truncated=True)],
    ),
    udp(
        "cname chain",
        [
            (ASK, ask()),
            (
                ANSWER,
                message(
                    1,
                    QR,
                    [question(WWW)],
                    [
                        record(PTR, "CNAME", wire("edge.example.net")),
                        record(wire("edge.example.net"), "A", bytes(4)),
                        record(b"\xc0\x2b", "A", bytes(4)),
                    ],
                ),
            ),
        ],
        [req("A", WWW), res("A", WWW, rows=3)],
    ),
    udp(
        "nxdomain with soa",
        [
            (ASK, ask()),
            (
                ANSWER,
                message(
                    1,
                    QR | AA | 3,
                    [question(WWW)],
                    authorities=[record(b"\xc0\x10", "SOA", wire("ns.example.org") + wire("x.y") + bytes(20))],
                ),
            ),
        ],
        [req("A", WWW), res("A", WWW, code=3, status_text=b"NXDOMAIN")],
    ),
    udp("no data", [(ANSWER, message(1, QR, [question(WWW, "AAAA")]))], [res("AAAA", WWW)]),
    udp(
        "BADVERS",
        [(ANSWER, message(1, QR, [question(WWW)], additional=[opt(1)]))],
        [res("A", WWW, code=16, status_text=b"BADVERS")],
    ),
    udp(
        "BADCOOKIE",
        [(ANSWER, message(1, QR | 7, [question(WWW)], additional=[opt(1)]))],
        [res("A", WWW, code=23, status_text=b"BADCOOKIE")],
    ),
    udp(
        "rcode without a name",
        [(ANSWER, message(1, QR | 12, [question(WWW)]))],
        [res("A", WWW, code=12, status_text=b"RCODE12")],
    ),
    udp(
        "largest rcode",
        [(ANSWER, message(1, QR | 15, [question(WWW)], additional=[opt(255)]))],
        [res("A", WWW, code=4095, status_text=b"RCODE4095")],
    ),
    udp(
        "formerr without a question",
        [(ASK, ask()), (ANSWER, message(1, QR | 1, []))],
        [req("A", WWW), res("", "", code=1, status_text=b"FORMERR")],
    ),
    udp(
        "notify",
        [
            (ASK, message(1, 4 << 11 | AA, [question("example.org", "SOA")])),
            (ANSWER, message(1, QR | 4 << 11 | AA, [question("example.org", "SOA")])),
        ],
        [req("NOTIFY", "example.org"), res("NOTIFY", "example.org")],
    ),
    udp(
        "update",
        [
            (
                ASK,
                message(
                    1,
                    5 << 11,
                    [question("example.org", "SOA")],
                    authorities=[record(wire("h.example.org"), "A", bytes(4))],
                ),
            ),
            (ANSWER, message(1, QR | 5 << 11 | 5, [question("example.org", "SOA")])),
        ],
        [req("UPDATE", "example.org"), res("UPDATE", "example.org", code=5, status_text=b"REFUSED")],
    ),
    udp("status", [(ASK, message(1, 2 << 11, []))], [req("STATUS", "")]),
    udp(
        "chaos version",
        [(ASK, message(1, RD, [question("version.bind", "TXT", 3)]))],
        [req("TXT", "version.bind")],
    ),
    udp(
        "mdns",
        [
            (ASK, message(0, 0, [question("printer.local", "A", 0x8001)])),
            (ANSWER, message(0, QR | AA, [], [record(wire("printer.local"), "A", bytes(4), cls=0x8001)])),
        ],
        [req("A", "printer.local", 0), res("", "", 0, rows=1)],
    ),
    udp(
        "llmnr",
        [(ASK, message(9, 0, [question("desktop")])), (ANSWER, message(9, QR, [question("desktop")], [A1]))],
        [req("A", "desktop", 9), res("A", "desktop", 9, rows=1)],
    ),
    udp(
        "reverse",
        [(ASK, ask(name="1.0.0.127.in-addr.arpa", qtype="PTR"))],
        [req("PTR", "1.0.0.127.in-addr.arpa")],
    ),
    udp("unknown type", [(ASK, ask(qtype=4711))], [req("TYPE4711", WWW)]),
    udp("largest type", [(ASK, ask(qtype=65535))], [req("TYPE65535", WWW)]),
    udp("records run past the end", [(ANSWER, answer()[:-3])], [res("A", WWW, rows=1, truncated=True)]),
]
TYPE_CASES = [
    udp(
        f"type {name}",
        [(ASK, ask(i, qtype=name)), (ANSWER, answer(i, qtype=name, n=2))],
        [req(name, WWW, i), res(name, WWW, i, rows=2)],
    )
    for i, name in enumerate(TYPES)
]
RCODE_CASES = [
    udp(
        f"rcode {name}",
        [(ANSWER, answer(rcode=code, n=0))],
        [res("A", WWW, code=code, status_text=name.encode())],
    )
    for code, name in enumerate(RCODES)
    if code
]
TRANSFER = message(
    4, QR | AA, [question("example.org", "AXFR")], [record(PTR, "SOA", wire("a") + wire("b") + bytes(20))]
)
TCP = [
    Case(
        "tcp",
        [(ASK, tcp(ask())), (ANSWER, tcp(answer()))],
        [req("A", WWW, consumed=35, total=35), res("A", WWW, rows=1, total=51)],
        53,
    ),
    Case(
        "tcp, pipelined",
        [(ASK, tcp(ask(1)) + tcp(ask(2, qtype="MX"))), (ANSWER, tcp(answer(2, qtype="MX")) + tcp(answer(1)))],
        [req("A", WWW, 1), req("MX", WWW, 2), res("MX", WWW, 2, rows=1), res("A", WWW, 1, rows=1)],
        53,
    ),
    Case(
        "tcp, many answers",
        [(ASK, tcp(ask())), (ANSWER, tcp(answer(n=200)))],
        [req("A", WWW), res("A", WWW, rows=200, total=2 + 33 + 3200)],
        53,
    ),
    Case(
        "zone transfer",
        [
            (ASK, tcp(ask(4, "example.org", "AXFR"))),
            (ANSWER, tcp(TRANSFER) + tcp(message(4, QR, [], [A1])) + tcp(message(4, QR, [], [A1]))),
            (ASK, tcp(ask(5))),
            (ANSWER, tcp(answer(5))),
        ],
        [
            req("AXFR", "example.org", 4),
            res("AXFR", "example.org", 4, rows=1),
            {"type": "ignore"},
            {"type": "ignore"},
            req("A", WWW, 5),
            res("A", WWW, 5, rows=1),
        ],
        53,
    ),
    Case(
        "tcp, id in use again behind a transfer",
        [
            (ASK, tcp(ask(4, "example.org", "AXFR"))),
            (ANSWER, tcp(TRANSFER)),
            (ASK, tcp(ask(4))),
            (ANSWER, tcp(answer(4))),
        ],
        [
            req("AXFR", "example.org", 4),
            res("AXFR", "example.org", 4, rows=1),
            req("A", WWW, 4),
            res("A", WWW, 4, rows=1),
        ],
        53,
    ),
]

CASES: list[Case] = UDP + TYPE_CASES + RCODE_CASES + TCP
