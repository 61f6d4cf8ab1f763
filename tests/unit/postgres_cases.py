"""PostgreSQL conversations and what must be understood of them. See proto_cases.py.

Here: simple queries, sessions and COPY. The extended protocol is in postgres_extended.py.
"""

from __future__ import annotations

import struct

from postgres_extended import EXTENDED
from postgres_frames import (
    AUTH_CLEARTEXT,
    AUTH_OK,
    AUTH_SASL,
    BOUND,
    CLIENT,
    COPY_DONE,
    EMPTY,
    GSS,
    IGN,
    KEY,
    LOGIN,
    NOTICE,
    NOTIFICATION,
    PARSED,
    SERVER,
    SETTING,
    SSL,
    SYNC,
    TERMINATE,
    bind,
    columns,
    copy_data,
    copy_in,
    copy_out,
    done,
    error,
    execute,
    failed,
    frame,
    ok,
    parse,
    query,
    ready,
    req,
    row,
    startup,
)
from proto_cases import Case

SIMPLE = [
    Case(
        "select",
        [(CLIENT, query("SELECT 1")), (SERVER, columns("a") + row(b"1") + done("SELECT 1") + ready())],
        [req("SELECT", "SELECT 1", consumed=14, total=14), IGN, IGN, IGN, ok(1, total=6)],
    ),
    Case(
        "select masks",
        [(CLIENT, query("select * from users where name = 's3cr3t'"))],
        [req("SELECT", masked=b"select * from users where name = ?", collection=b"users")],
    ),
    Case(
        "insert",
        [(CLIENT, query("INSERT INTO a.b (x) VALUES (1)")), (SERVER, done("INSERT 0 1") + ready())],
        [req("INSERT", collection=b"a.b"), IGN, ok(1)],
    ),
    Case(
        "update rows",
        [(CLIENT, query("update t set a=1")), (SERVER, done("UPDATE 42") + ready())],
        [req("UPDATE", collection=b"t"), IGN, ok(42)],
    ),
    Case(
        "delete rows",
        [(CLIENT, query('DELETE FROM "T"')), (SERVER, done("DELETE 0") + ready())],
        [req("DELETE", collection=b"T"), IGN, ok(0)],
    ),
    Case("begin", [(CLIENT, query("BEGIN")), (SERVER, done("BEGIN") + ready(b"T"))], [req("BEGIN"), IGN, ok()]),
    Case(
        "create table",
        [(CLIENT, query("create table x (a int)")), (SERVER, done("CREATE TABLE") + ready())],
        [req("CREATE"), IGN, ok()],
    ),
    Case("empty query", [(CLIENT, query("")), (SERVER, EMPTY + ready())], [req("", ""), IGN, ok(0)]),
    Case(
        "only a comment",
        [(CLIENT, query("-- nothing")), (SERVER, EMPTY + ready())],
        [req("", masked=b""), IGN, ok(0)],
    ),
    Case(
        "several statements",
        [
            (CLIENT, query("INSERT INTO t VALUES (1); UPDATE t SET a = 2; SELECT 1")),
            (
                SERVER,
                done("INSERT 0 1") + done("UPDATE 3") + columns("a") + row(b"1") + done("SELECT 1") + ready(),
            ),
        ],
        [req("INSERT"), IGN, IGN, IGN, IGN, IGN, ok(5)],
    ),
    Case(
        "second of several fails",
        [
            (CLIENT, query("SELECT 1; SELECT 1/0")),
            (
                SERVER,
                columns("a") + row(b"1") + done("SELECT 1") + error("22012", "division by zero") + ready(),
            ),
        ],
        [req("SELECT"), IGN, IGN, IGN, failed("22012", "division by zero"), IGN],
    ),
    Case(
        "error",
        [(CLIENT, query("SELEC")), (SERVER, error("42601", "syntax error") + ready())],
        [req("", "SELEC"), failed("42601", "syntax error"), IGN],
    ),
    Case(
        "error, then works",
        [
            (CLIENT, query("SELECT x")),
            (SERVER, error("42703", "no x") + ready(b"E")),
            (CLIENT, query("ROLLBACK")),
            (SERVER, done("ROLLBACK") + ready()),
        ],
        [req("SELECT"), failed("42703", "no x"), IGN, req("ROLLBACK"), IGN, ok()],
    ),
    Case(
        "fatal error",
        [(CLIENT, query("SELECT 1")), (SERVER, error("57P01", "terminating connection", "FATAL"))],
        [req("SELECT"), failed("57P01", "terminating connection")],
    ),
    Case(
        "notice in answer",
        [(CLIENT, query("DROP TABLE IF EXISTS t")), (SERVER, NOTICE + done("DROP TABLE") + ready())],
        [req("DROP"), IGN, IGN, ok()],
    ),
    Case(
        "parameter status in answer",
        [(CLIENT, query("SET timezone = 'UTC'")), (SERVER, done("SET") + SETTING + ready())],
        [req("SET", masked=b"SET timezone = ?"), IGN, IGN, ok()],
    ),
    Case(
        "notification when idle",
        [(CLIENT, query("LISTEN c")), (SERVER, done("LISTEN") + ready()), (SERVER, NOTIFICATION)],
        [req("LISTEN"), IGN, ok(), IGN],
    ),
    Case(
        "pipelined simple queries",
        [
            (CLIENT, query("SELECT 1") + query("SELECT x") + query("SELECT 3")),
            (
                SERVER,
                columns("a")
                + row(b"1")
                + done("SELECT 1")
                + ready()
                + error("42703", "no x")
                + ready()
                + columns("a")
                + row(b"3")
                + done("SELECT 1")
                + ready(),
            ),
        ],
        [
            req("SELECT"),
            req("SELECT"),
            req("SELECT"),
            IGN,
            IGN,
            IGN,
            ok(1),
            failed("42703", "no x"),
            IGN,
            IGN,
            IGN,
            IGN,
            ok(1),
        ],
    ),
    Case(
        "function call",
        [
            (CLIENT, frame(b"F", struct.pack(">IHHH", 100, 0, 0, 0))),
            (SERVER, frame(b"V", struct.pack(">i", -1)) + ready()),
        ],
        [req("FUNCTION", ""), IGN, ok()],
    ),
    Case(
        "terminate",
        [(CLIENT, query("SELECT 1")), (SERVER, done("SELECT 0") + ready()), (CLIENT, TERMINATE)],
        [req("SELECT"), IGN, ok(0), IGN],
    ),
    Case(
        "sqlcommenter",
        [
            (
                CLIENT,
                query(
                    "SELECT 1 /*db_driver='x',traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'*/"
                ),
            )
        ],
        [
            req(
                "SELECT",
                wire="traceparent",
                trace_id="0af7651916cd43dd8448eb211c80319c",
                parent_id="b7ad6b7169203331",
                trace_flags=1,
                masked=b"SELECT ?",
            )
        ],
    ),
    Case("utf-8 names", [(CLIENT, query("SELECT * FROM größe"))], [req("SELECT", collection="größe".encode())]),
]

SESSION = [
    Case(
        "start-up names the database",
        [(CLIENT, LOGIN), (SERVER, AUTH_OK + SETTING + KEY + ready()), (CLIENT, query("SELECT 1"))],
        [IGN, IGN, IGN, IGN, IGN, req("SELECT", domain=b"shop")],
    ),
    Case(
        "start-up without a database",
        [(CLIENT, startup(params={"user": "ann"})), (CLIENT, query("SELECT 1"))],
        [IGN, req("SELECT", domain=b"ann")],
    ),
    Case(
        "start-up 3.2",
        [
            (CLIENT, startup(196610, {"user": "ann"})),
            (SERVER, frame(b"v", struct.pack(">II", 0, 0)) + AUTH_OK),
        ],
        [IGN, IGN, IGN],
    ),
    Case(
        "password is never told",
        [
            (CLIENT, LOGIN),
            (SERVER, AUTH_CLEARTEXT),
            (CLIENT, frame(b"p", b"s3cr3t\0")),
            (SERVER, AUTH_OK + ready()),
        ],
        [
            IGN,
            IGN,
            {"type": "ignore", "target": b"", "operation": b"", "message": b"", "masked": b""},
            IGN,
            IGN,
        ],
    ),
    Case(
        "sasl",
        [
            (CLIENT, LOGIN),
            (SERVER, AUTH_SASL),
            (CLIENT, frame(b"p", b"SCRAM-SHA-256\0\0\0\0\x05n,,n=")),
            (SERVER, AUTH_OK + ready()),
        ],
        [IGN] * 5,
    ),
    Case(
        "login refused",
        [(CLIENT, LOGIN), (SERVER, error("28P01", "password authentication failed", "FATAL"))],
        [IGN, IGN],
    ),
    Case(
        "ssl refused",
        [
            (CLIENT, SSL),
            (SERVER, b"N"),
            (CLIENT, LOGIN),
            (SERVER, AUTH_OK + ready()),
            (CLIENT, query("SELECT 1")),
        ],
        [IGN, IGN, IGN, IGN, IGN, req("SELECT", domain=b"shop")],
    ),
    Case("ssl granted", [(CLIENT, SSL), (SERVER, b"S")], [IGN, {"type": "upgrade", "consumed": 1, "total": 1}]),
    Case(
        "ssl answered by an error",
        [(CLIENT, SSL), (SERVER, error("0A000", "unsupported protocol", "FATAL"))],
        [IGN, IGN],
    ),
    Case("gss granted", [(CLIENT, GSS), (SERVER, b"G")], [IGN, {"type": "upgrade"}]),
    Case(
        "gss refused, ssl refused",
        [(CLIENT, GSS), (SERVER, b"N"), (CLIENT, SSL), (SERVER, b"N"), (CLIENT, LOGIN)],
        [IGN, IGN, IGN, IGN, IGN],
    ),
    Case(
        "cancel",
        [(CLIENT, startup(80877102, tail=struct.pack(">II", 4711, 42)))],
        [{"type": "oneway", "operation": b"CANCEL", "target": b"", "total": 16}],
    ),
    Case(
        "seen from the middle of an answer",
        [
            (SERVER, row(b"1") + done("SELECT 1") + ready()),
            (CLIENT, query("SELECT 2")),
            (SERVER, columns("a") + row(b"2") + done("SELECT 1") + ready()),
        ],
        [IGN, IGN, IGN, req("SELECT"), IGN, IGN, IGN, ok(1)],
    ),
]

COPY = [
    Case(
        "copy in",
        [
            (CLIENT, query("COPY t FROM STDIN")),
            (SERVER, copy_in()),
            (CLIENT, copy_data(b"1\n") + copy_data(b"2\n") + COPY_DONE),
            (SERVER, done("COPY 2") + ready()),
        ],
        [req("COPY", collection=b"t"), IGN, IGN, IGN, IGN, IGN, ok(2)],
    ),
    Case(
        "copy fails",
        [
            (CLIENT, query("COPY t FROM STDIN")),
            (SERVER, copy_in()),
            (CLIENT, frame(b"f", b"no more\0")),
            (SERVER, error("57014", "COPY from stdin failed") + ready()),
        ],
        [req("COPY"), IGN, IGN, failed("57014", "COPY from stdin failed"), IGN],
    ),
    Case(
        "copy out",
        [
            (CLIENT, query("COPY t TO STDOUT")),
            (
                SERVER,
                copy_out() + copy_data(b"1\n") + copy_data(b"2\n") + COPY_DONE + done("COPY 2") + ready(),
            ),
        ],
        [req("COPY"), IGN, IGN, IGN, IGN, IGN, ok(2)],
    ),
    Case(
        "copy in, extended",
        [
            (CLIENT, parse("COPY t FROM STDIN") + bind() + execute() + SYNC),
            (SERVER, PARSED + BOUND + copy_in()),
            (CLIENT, copy_data(b"1\n") + COPY_DONE + SYNC),
            (SERVER, done("COPY 1") + ready()),
            (CLIENT, query("SELECT 1")),
            (SERVER, done("SELECT 0") + ready()),
        ],
        [IGN, IGN, req("COPY"), IGN, IGN, IGN, IGN, IGN, IGN, IGN, ok(1), IGN, req("SELECT"), IGN, ok(0)],
    ),
    Case(
        "copy both",
        [
            (CLIENT, query("START_REPLICATION SLOT s LOGICAL 0/0")),
            (SERVER, frame(b"W", b"\0\0\0")),
            (SERVER, copy_data(b"w" + bytes(24))),
            (CLIENT, copy_data(b"r" + bytes(33))),
            (SERVER, copy_data(b"k" + bytes(17))),
        ],
        [req("START_REPLICATION"), ok(), IGN, IGN, IGN],
    ),
]

CASES: list[Case] = SIMPLE + SESSION + EXTENDED + COPY
