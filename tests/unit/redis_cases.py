"""Redis conversations and what must be understood of them: RESP2, RESP3, inline commands, pub/sub.

The word s3cr3t stands only where masking must hide it. Used by test_redis.py and tests/fuzz/fuzz_proto.py.
"""

from __future__ import annotations

from proto_cases import Case, Message, Turn

C, S = True, False
UNKNOWN = -1


def pack(*arguments: bytes) -> bytes:
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in arguments)


def ask(*arguments: bytes) -> Turn:
    return (C, pack(*arguments))


def answer(data: bytes) -> Turn:
    return (S, data)


def request(operation: bytes, **more: object) -> Message:
    return {"type": "request", "operation": operation, "truncated": False, **more}


def ok(**more: object) -> Message:
    return {"type": "response", "status": "ok", "truncated": False, **more}


def error(word: bytes, message: bytes) -> Message:
    return {"type": "response", "status": "server_error", "status_text": word, "message": message}


def push(operation: bytes, **more: object) -> Message:
    return {"type": "oneway", "operation": operation, "status": "unset", **more}


def confirm(kind: bytes, channel: bytes, count: int, mark: bytes = b"*") -> bytes:
    return mark + pack(kind, channel)[1:].replace(b"2\r\n", b"3\r\n", 1) + b":%d\r\n" % count


def one(name: str, turn: Turn, *expect: Message) -> Case:
    return Case(name, [turn], list(expect))


REFUSED: Message = {"type": "not_mine"}
OK = answer(b"+OK\r\n")
PING = ask(b"PING")

COMMANDS = [
    Case(
        "set and get",
        [
            ask(b"SET", b"user:1", b"s3cr3t word"),
            OK,
            ask(b"get", b"user:1"),
            answer(b"$11\r\ns3cr3t word\r\n"),
        ],
        [
            request(b"SET", target=b'SET user:1 "s3cr3t word"', masked=b"SET ? ?", version=2, total=43),
            ok(total=5, rows=-1),
            request(b"GET", target=b"GET user:1", masked=b"GET ?"),
            ok(total=18),
        ],
    ),
    Case(
        "pipeline",
        [(C, PING[1] * 3), (S, b"+PONG\r\n" * 3)],
        [request(b"PING", target=b"PING", masked=b"PING")] * 3 + [ok()] * 3,
    ),
    Case(
        "multi and exec",
        [
            (C, pack(b"MULTI") + pack(b"INCR", b"a") + pack(b"LPUSH", b"l", b"s3cr3t") + pack(b"EXEC")),
            (S, b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n-WRONGTYPE Operation\r\n"),
        ],
        [
            request(b"MULTI"),
            request(b"INCR"),
            request(b"LPUSH"),
            request(b"EXEC"),
            ok(),
            ok(),
            ok(),
            ok(rows=2),
        ],
    ),
    one(
        "subcommand stays an argument",
        ask(b"CLIENT", b"SETINFO", b"LIB-NAME", b"x"),
        request(b"CLIENT", target=b"CLIENT SETINFO LIB-NAME x"),
    ),
    one(
        "arguments are quoted",
        ask(b"SET", b"a b", b'"\\\r\n\t\x00\xff', b"", b"..."),
        request(b"SET", target=rb'SET "a b" "\"\\\r\n\t\x00\xff" "" "..."', masked=b"SET ? ? ? ?"),
    ),
    one(
        "many arguments",
        ask(b"DEL", *[b"s3cr3t%d" % i for i in range(40)]),
        request(b"DEL", masked=b"DEL" + b" ?" * 16 + b" ..."),
    ),
    one(
        "long arguments",
        ask(b"MSET", *[b"s3cr3t" + b"x" * 200 for _ in range(4)]),
        request(b"MSET", masked=b"MSET ? ? ? ...", truncated=False),
    ),
    *[
        one(f"credentials of {a[0].decode()}", ask(*a), request(a[0].upper(), target=shown, masked=shown))
        for a, shown in [
            ([b"AUTH", b"s3cr3t"], b"AUTH ?"),
            ([b"auth", b"bob", b"s3cr3t"], b"AUTH ? ?"),
            ([b"HELLO", b"3", b"AUTH", b"bob", b"s3cr3t"], b"HELLO ? ? ? ?"),
            ([b"ACL", b"SETUSER", b"bob", b">s3cr3t"], b"ACL ? ? ?"),
            ([b"CONFIG", b"SET", b"requirepass", b"s3cr3t"], b"CONFIG ? ? ?"),
            ([b"MIGRATE", b"h", b"6379", b"k", b"0", b"9", b"AUTH", b"s3cr3t"], b"MIGRATE ? ? ? ? ? ? ?"),
        ]
    ],
    one("no command word", ask(b"s3cr3t s3cr3t", b"s3cr3t"), request(b"", target=b"? ?", masked=b"? ?")),
    one("long command word", ask(b"s3cr3t" * 10), request(b"", masked=b"?")),
    one("empty command", ask(b""), request(b"")),
    one(
        "empty array",
        (C, b"*0\r\n*-1\r\n" + PING[1]),
        {"type": "ignore", "total": 4},
        {"type": "ignore"},
        request(b"PING", at=9),
    ),
    one(
        "big last argument",
        (C, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n" + b"s3cr3t" * 200),
        request(b"SET", total=1000032, consumed=542, masked=b"SET ? ?"),
    ),
    one(
        "big middle argument",
        (C, b"*3\r\n$3\r\nSET\r\n$100000\r\n" + b"s3cr3t" * 3000),
        {"type": "request", "operation": b"SET", "total": UNKNOWN, "truncated": True, "masked": b"SET ? ..."},
    ),
    Case(
        "argument longer than a head",
        [(C, pack(b"SET", b"k", b"v" * 20000) + PING[1])],
        [request(b"SET", total=20030), request(b"PING", at=20030)],
    ),
    one(
        "longest length",
        (C, b"*2\r\n$4\r\nECHO\r\n$999999999999999999\r\n" + b"s3cr3t" * 90),
        request(b"ECHO", total=999999999999999999 + 37),
    ),
    Case(
        "database of select",
        [ask(b"SELECT", b"3"), OK, ask(b"GET", b"k")],
        [request(b"SELECT", domain=b""), ok(), request(b"GET", domain=b"3")],
    ),
    Case(
        "client reply",
        [
            (C, pack(b"CLIENT", b"REPLY", b"OFF") + PING[1] + pack(b"CLIENT", b"REPLY", b"ON")),
            OK,
            (C, pack(b"client", b"reply", b"skip") + PING[1] + PING[1]),
            answer(b"+PONG\r\n"),
        ],
        [
            push(b"CLIENT"),
            push(b"PING"),
            request(b"CLIENT"),
            ok(),
            push(b"CLIENT"),
            push(b"PING"),
            request(b"PING"),
            ok(),
        ],
    ),
    *[
        one(f"refused command {i}", (C, data), REFUSED)
        for i, data in enumerate(
            [
                b"*x\r\n",
                b"*1\r\n+PING\r\n",
                b"*1\r\n$-1\r\n",
                b"*1\r\n$-5\r\nPING\r\n",
                b"*1\r\n$4\r\nPINGxx\r\n",
                b"*-2\r\n",
                b"*99999999999999999999\r\n",
                b"*4294967296\r\n",
                b"*1\r\n$99999999999999999999\r\n",
                b"*1\n$4\nPING\n",
                b"*1\rx",
                b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
                b"OPTIONS sip:x SIP/2.0\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01",
                b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
                b"Q\x00\x00\x00\x0dSELECT 1\x00",
                b'{"a": 1}\r\n',
            ]
        )
    ],
]

INLINE = [
    Case("inline ping", [(C, b"PING\r\n"), answer(b"+PONG\r\n")], [request(b"PING", total=6), ok()]),
    one(
        "inline with arguments",
        (C, b"set k s3cr3t\n"),
        request(b"SET", target=b"SET k s3cr3t", masked=b"SET ? ?"),
    ),
    one(
        "inline with quotes",
        (C, b"SET  \"a b\" 's3cr3t s3cr3t'\r\n"),
        request(b"SET", target=b'SET "a b" "\'s3cr3t s3cr3t\'"', masked=b"SET ? ?"),
    ),
    one("inline credentials", (C, b"AUTH s3cr3t\r\n"), request(b"AUTH", target=b"AUTH ?")),
    one(
        "empty inline lines",
        (C, b"\r\n\nPING\r\n"),
        {"type": "ignore"},
        {"type": "ignore"},
        request(b"PING", at=3),
    ),
    one("inline and arrays mixed", (C, b"PING\r\n" + PING[1] + b"PING\r\n"), *[request(b"PING")] * 3),
]


def _reply(name: str, data: bytes, expect: Message) -> Case:
    return Case(
        name,
        [PING, (S, data + b"+NEXT\r\n")],
        [request(b"PING"), {"total": len(data), **expect}, ok(at=len(data))],
    )


REPLIES = [
    _reply("simple string", b"+OK with words\r\n", ok(version=2)),
    _reply("integer", b":-12\r\n", ok()),
    _reply("bulk string", b"$3\r\na\r\n\r\n", ok()),
    _reply("empty bulk string", b"$0\r\n\r\n", ok()),
    _reply("null bulk string", b"$-1\r\n", ok(rows=-1)),
    _reply("null array", b"*-1\r\n", ok(rows=-1)),
    _reply("empty array", b"*0\r\n", ok(rows=0)),
    _reply("array", b"*3\r\n:1\r\n$1\r\na\r\n$-1\r\n", ok(rows=3)),
    _reply("nested arrays", b"*2\r\n*2\r\n:1\r\n*0\r\n*1\r\n+a\r\n", ok(rows=2)),
    _reply("deepest nesting", b"*1\r\n" * 32 + b":1\r\n", ok(rows=1)),
    _reply("message look-alike", b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n", ok(rows=3)),
    _reply("null", b"_\r\n", ok(version=3)),
    _reply("boolean", b"#t\r\n", ok(version=3)),
    _reply("double", b",-1.5e10\r\n", ok()),
    _reply("infinity", b",inf\r\n", ok()),
    _reply("big number", b"(3492890328409238509324850943850943825024385\r\n", ok()),
    _reply("verbatim string", b"=8\r\ntxt:text\r\n", ok()),
    _reply("map", b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n", ok(rows=2)),
    _reply("set", b"~2\r\n+a\r\n#f\r\n", ok(rows=2)),
    _reply("attributes", b"|1\r\n+ttl\r\n:3600\r\n*2\r\n:1\r\n|1\r\n+p\r\n,1.0\r\n:2\r\n", ok(rows=2, version=3)),
    _reply("empty attribute", b"|0\r\n+OK\r\n", ok()),
    _reply("streamed string", b"$?\r\n;4\r\nHell\r\n;1\r\no\r\n;0\r\n", ok()),
    _reply("streamed array", b"*?\r\n:1\r\n*?\r\n.\r\n$?\r\n;0\r\n.\r\n", ok(rows=3)),
    _reply("streamed map", b"%?\r\n+a\r\n:1\r\n+b\r\n:2\r\n.\r\n", ok(rows=2)),
    _reply("error", b"-ERR unknown command\r\n", error(b"ERR", b"unknown command")),
    _reply(
        "wrong type",
        b"-WRONGTYPE Operation against a key\r\n",
        error(b"WRONGTYPE", b"Operation against a key"),
    ),
    _reply("moved", b"-MOVED 3999 127.0.0.1:6381\r\n", error(b"MOVED", b"3999 127.0.0.1:6381")),
    _reply("bare error word", b"-LOADING\r\n", error(b"LOADING", b"")),
    _reply("error without a word", b"-my own error\r\n", error(b"", b"my own error")),
    _reply("bulk error", b"!21\r\nSYNTAX invalid syntax\r\n", error(b"SYNTAX", b"invalid syntax")),
    _reply("error in an array", b"*1\r\n-ERR x\r\n", ok(rows=1)),
    Case(
        "nesting too deep",
        [PING, (S, b"*1\r\n" * 33 + b":1\r\n")],
        [request(b"PING"), ok(total=UNKNOWN, rows=1)],
    ),
    Case(
        "big bulk string",
        [PING, (S, b"$1000000\r\n" + b"x" * 600)],
        [request(b"PING"), ok(total=1000012, consumed=10)],
    ),
    Case(
        "big last element",
        [PING, (S, b"*2\r\n:1\r\n$50000\r\n" + b"x" * 50000 + b"\r\n+NEXT\r\n")],
        [request(b"PING"), ok(rows=2, total=50018), ok(at=50018)],
    ),
    Case(
        "big middle element",
        [PING, (S, b"*2\r\n$50000\r\n" + b"x" * 600)],
        [request(b"PING"), ok(rows=2, total=UNKNOWN)],
    ),
    Case(
        "blocking command",
        [ask(b"BLPOP", b"q", b"0"), answer(b"*2\r\n$1\r\nq\r\n$1\r\nv\r\n")],
        [request(b"BLPOP"), ok(rows=2)],
    ),
    *[
        Case(f"refused reply {i}", [PING, (S, data)], [request(b"PING"), REFUSED])
        for i, data in enumerate(
            [
                b"HTTP/1.1 200 OK\r\n\r\n",
                b":1a\r\n",
                b":\r\n",
                b":99999999999999999999\r\n",
                b"$-2\r\n",
                b"$99999999999999999999\r\n",
                b"*2147483648\r\n",
                b"%-1\r\n",
                b"#x\r\n",
                b"_x\r\n",
                b",nope\r\n",
                b">?\r\n",
                b".\r\n",
                b";0\r\n",
                b"*1\r\n.\r\n",
                b"$?\r\n:1\r\n",
                b"*2\r\n$1\r\nab\r\n:1\r\n",
                b"+a\nb\r\n",
                b"+a\rb\r\n",
                b"+\x00\r\n",
                b"R\x00\x00\x00\x08\x00\x00\x00\x00",
            ]
        )
    ],
]

PUBSUB = [
    Case(
        "subscribe, messages, unsubscribe",
        [
            ask(b"SUBSCRIBE", b"news", b"more"),
            (S, confirm(b"subscribe", b"news", 1) + confirm(b"subscribe", b"more", 2)),
            (S, pack(b"message", b"news", b"s3cr3t") * 2),
            ask(b"PING"),
            (S, pack(b"pong", b"")),
            ask(b"UNSUBSCRIBE"),
            (S, confirm(b"unsubscribe", b"news", 1) + confirm(b"unsubscribe", b"more", 0)),
            ask(b"LRANGE", b"l", b"0", b"-1"),
            (S, pack(b"message", b"x", b"y")),
        ],
        [
            request(b"SUBSCRIBE"),
            ok(),
            push(b"SUBSCRIBE", target=b"SUBSCRIBE more"),
            push(b"MESSAGE", target=b"MESSAGE news", masked=b"MESSAGE ?"),
            push(b"MESSAGE"),
            request(b"PING"),
            ok(),
            request(b"UNSUBSCRIBE"),
            ok(),
            push(b"UNSUBSCRIBE"),
            request(b"LRANGE"),
            ok(rows=3),
        ],
    ),
    Case(
        "patterns and shards",
        [
            (C, pack(b"PSUBSCRIBE", b"n*") + pack(b"SSUBSCRIBE", b"s")),
            (S, confirm(b"psubscribe", b"n*", 1) + confirm(b"ssubscribe", b"s", 2)),
            (S, pack(b"pmessage", b"n*", b"news", b"s3cr3t") + pack(b"smessage", b"s", b"s3cr3t")),
        ],
        [
            request(b"PSUBSCRIBE"),
            request(b"SSUBSCRIBE"),
            ok(),
            ok(),
            push(b"PMESSAGE", target=b"PMESSAGE n* news", masked=b"PMESSAGE ? ?"),
            push(b"SMESSAGE", target=b"SMESSAGE s"),
        ],
    ),
    Case(
        "pushes of RESP3 among answers",
        [
            ask(b"HELLO", b"3"),
            (S, b"%1\r\n+proto\r\n:3\r\n"),
            ask(b"SUBSCRIBE", b"a"),
            (S, confirm(b"subscribe", b"a", 1, b">")),
            ask(b"GET", b"k"),
            (
                S,
                b">"
                + pack(b"message", b"a", b"s3cr3t")[1:]
                + b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n$1\r\nv\r\n",
            ),
        ],
        [
            request(b"HELLO", version=2),
            ok(rows=1, version=3),
            request(b"SUBSCRIBE", version=3),
            ok(),
            request(b"GET"),
            push(b"MESSAGE", target=b"MESSAGE a"),
            push(b"INVALIDATE", target=b"INVALIDATE"),
            ok(),
        ],
    ),
    Case(
        "subscription older than the agent",
        [(S, pack(b"message", b"news", b"s3cr3t") + confirm(b"subscribe", b"b", 2))],
        [push(b"MESSAGE"), push(b"SUBSCRIBE")],
    ),
    Case(
        "refused subscription",
        [
            ask(b"SUBSCRIBE", b"a", b"b"),
            answer(b"-NOPERM this user has no permissions\r\n"),
            ask(b"SUBSCRIBE", b"c"),
            (S, confirm(b"subscribe", b"c", 1) + pack(b"message", b"c", b"x")),
        ],
        [
            request(b"SUBSCRIBE"),
            error(b"NOPERM", b"this user has no permissions"),
            request(b"SUBSCRIBE"),
            ok(),
            push(b"MESSAGE"),
        ],
    ),
    Case(
        "monitor",
        [
            ask(b"MONITOR"),
            OK,
            answer(b'+1339518083.107412 [0 127.0.0.1:60866] "get" "s3cr3t"\r\n'),
            ask(b"QUIT"),
            OK,
        ],
        [request(b"MONITOR"), ok(), push(b"MONITOR", target=b"MONITOR"), request(b"QUIT"), ok()],
    ),
    Case(
        "reset ends a subscription",
        [
            ask(b"SUBSCRIBE", b"a"),
            (S, confirm(b"subscribe", b"a", 1)),
            ask(b"RESET"),
            answer(b"+RESET\r\n"),
            ask(b"LRANGE", b"l", b"0", b"-1"),
            (S, pack(b"message", b"x", b"y")),
        ],
        [request(b"SUBSCRIBE"), ok(), request(b"RESET"), ok(), request(b"LRANGE"), ok(rows=3)],
    ),
    Case(
        "replication",
        [
            ask(b"PSYNC", b"?", b"-1"),
            answer(b"+FULLRESYNC 8de1787ba490483314a4d30f1c628bc5025eb761 0\r\n$175\r\nREDIS"),
        ],
        [request(b"PSYNC"), {"type": "upgrade", "total": UNKNOWN}],
    ),
]

CASES = COMMANDS + INLINE + REPLIES + PUBSUB
