"""Conversations in PostgreSQL's extended query protocol. See postgres_cases.py."""

from __future__ import annotations

from postgres_frames import (
    BOUND,
    CLIENT,
    CLOSED,
    EMPTY,
    FLUSH,
    IGN,
    NAMED,
    NO_DATA,
    ONE_SHOT,
    PARAMETERS,
    PARSED,
    SERVER,
    SKIPPED,
    SUSPENDED,
    SYNC,
    bind,
    close,
    columns,
    describe,
    done,
    error,
    execute,
    failed,
    ok,
    parse,
    query,
    ready,
    req,
    row,
)
from proto_cases import Case

EXTENDED = [
    Case(
        "unnamed",
        [
            (CLIENT, parse("SELECT * FROM t WHERE a = $1") + bind([b"x"]) + describe() + execute() + SYNC),
            (SERVER, PARSED + ONE_SHOT + ready()),
        ],
        [
            IGN,
            IGN,
            IGN,
            req("SELECT", "SELECT * FROM t WHERE a = $1", collection=b"t", at=62, total=10),
            IGN,
            IGN,
            IGN,
            IGN,
            IGN,
            ok(1, total=14),
            IGN,
        ],
    ),
    Case(
        "named, twice",
        [
            (CLIENT, parse(NAMED, "s1") + describe("s1", "S") + SYNC),
            (SERVER, PARSED + PARAMETERS + columns("id") + ready()),
            (CLIENT, bind([b"1"], "s1") + execute() + SYNC),
            (SERVER, ONE_SHOT + ready()),
            (CLIENT, bind([b"2"], "s1") + execute() + SYNC),
            (SERVER, BOUND + done("SELECT 0") + ready()),
        ],
        [
            IGN,
            IGN,
            IGN,
            IGN,
            IGN,
            IGN,
            IGN,
            IGN,
            req("SELECT", NAMED, collection=b"items"),
            IGN,
            IGN,
            IGN,
            IGN,
            ok(1),
            IGN,
            IGN,
            req("SELECT", NAMED),
            IGN,
            IGN,
            ok(0),
            IGN,
        ],
    ),
    Case(
        "prepared before we watched",
        [(CLIENT, bind([b"1"], "S_9") + execute() + SYNC), (SERVER, ONE_SHOT + ready())],
        [IGN, req("EXECUTE", "", collection=b""), IGN, IGN, IGN, IGN, ok(1), IGN],
    ),
    Case(
        "portal before we watched",
        [(CLIENT, execute("C_1", 50) + SYNC), (SERVER, row(b"1") + SUSPENDED + ready(b"T"))],
        [req("EXECUTE", ""), IGN, IGN, ok(1), IGN],
    ),
    Case(
        "portal suspended and resumed",
        [
            (CLIENT, parse("SELECT a FROM t") + bind(portal="c") + execute("c", 2) + SYNC),
            (SERVER, PARSED + BOUND + row(b"1") + row(b"2") + SUSPENDED + ready(b"T")),
            (CLIENT, execute("c", 2) + SYNC),
            (SERVER, row(b"3") + done("SELECT 1") + ready(b"T")),
        ],
        [
            IGN,
            IGN,
            req("SELECT", "SELECT a FROM t"),
            IGN,
            IGN,
            IGN,
            IGN,
            IGN,
            ok(2),
            IGN,
            req("SELECT", "SELECT a FROM t"),
            IGN,
            IGN,
            ok(1),
            IGN,
        ],
    ),
    Case(
        "statement closed",
        [
            (CLIENT, parse(NAMED, "s1") + SYNC),
            (SERVER, PARSED + ready()),
            (CLIENT, close("s1") + SYNC),
            (SERVER, CLOSED + ready()),
            (CLIENT, bind([], "s1") + execute() + SYNC),
            (SERVER, error("26000", "no such statement") + ready()),
        ],
        [
            IGN,
            IGN,
            IGN,
            IGN,
            IGN,
            IGN,
            IGN,
            IGN,
            IGN,
            req("EXECUTE", ""),
            IGN,
            failed("26000", "no such statement"),
            IGN,
        ],
    ),
    Case(
        "close behind execute",
        [
            (CLIENT, parse("SELECT 1") + bind() + execute() + close("", "P") + SYNC),
            (SERVER, PARSED + BOUND + row(b"1") + done("SELECT 1") + CLOSED + ready()),
            (CLIENT, query("COMMIT")),
            (SERVER, done("COMMIT") + ready()),
        ],
        [IGN, IGN, req("SELECT"), IGN, IGN, IGN, IGN, IGN, ok(1), IGN, IGN, req("COMMIT"), IGN, ok()],
    ),
    Case(
        "statement replaced",
        [(CLIENT, parse("SELECT 1") + parse("SELECT 2") + bind() + execute() + SYNC)],
        [IGN, IGN, IGN, req("SELECT", "SELECT 2"), IGN],
    ),
    Case(
        "portal keeps its statement",
        [(CLIENT, parse("SELECT 1") + bind(portal="p") + parse("DELETE FROM t") + execute("p"))],
        [IGN, IGN, IGN, req("SELECT", "SELECT 1")],
    ),
    Case(
        "parse fails",
        [
            (CLIENT, parse("SELEC 1") + bind() + describe() + execute() + SYNC),
            (SERVER, error("42601", "syntax error") + ready()),
            (CLIENT, query("SELECT 1")),
            (SERVER, done("SELECT 0") + ready()),
        ],
        [
            IGN,
            IGN,
            IGN,
            req("EXECUTE", "SELEC 1"),
            IGN,
            failed("42601", "syntax error"),
            IGN,
            req("SELECT"),
            IGN,
            ok(0),
        ],
    ),
    Case(
        "prepare alone fails",
        [
            (CLIENT, parse("SELEC 1") + describe("", "S") + SYNC),
            (SERVER, error("42601", "syntax error") + ready()),
            (CLIENT, query("SELECT 1")),
            (SERVER, done("SELECT 0") + ready()),
        ],
        [IGN, IGN, IGN, IGN, IGN, req("SELECT"), IGN, ok(0)],
    ),
    Case(
        "pipeline",
        [
            (CLIENT, parse("INSERT INTO t VALUES ($1)", "i") + (bind([b"1"], "i") + execute()) * 3 + SYNC),
            (SERVER, PARSED + (BOUND + done("INSERT 0 1")) * 3 + ready()),
        ],
        [IGN] + [IGN, req("INSERT", collection=b"t")] * 3 + [IGN, IGN] + [IGN, ok(1)] * 3 + [IGN],
    ),
    Case(
        "pipeline of syncs",
        [
            (CLIENT, (parse("SELECT 1") + bind() + execute() + SYNC) * 2),
            (SERVER, (PARSED + BOUND + row(b"1") + done("SELECT 1") + ready()) * 2),
        ],
        [IGN, IGN, req("SELECT"), IGN] * 2 + [IGN, IGN, IGN, ok(1), IGN] * 2,
    ),
    Case(
        "pipeline, skipped after an error",
        [
            (
                CLIENT,
                parse("INSERT INTO t VALUES ($1)", "i") + (bind([b"1"], "i") + execute()) * 4 + SYNC + query("COMMIT"),
            ),
            (
                SERVER,
                PARSED
                + BOUND
                + done("INSERT 0 1")
                + BOUND
                + error("23505", "duplicate key")
                + ready(b"E")
                + done("ROLLBACK")
                + ready(),
            ),
        ],
        [IGN]
        + [IGN, req("INSERT")] * 4
        + [
            IGN,
            req("COMMIT"),
            IGN,
            IGN,
            ok(1),
            IGN,
            failed("23505", "duplicate key"),
            SKIPPED,
            SKIPPED,
            IGN,
            IGN,
            ok(),
        ],
    ),
    Case(
        "more skipped than ReadyForQuery has bytes",
        [(CLIENT, (bind([], "x") + execute()) * 40 + SYNC), (SERVER, error("26000", "unknown") + ready())],
        [IGN, req("EXECUTE")] * 40 + [IGN, failed("26000", "unknown")] + [SKIPPED] * 39 + [IGN],
    ),
    Case(
        "error, next group works",
        [
            (CLIENT, bind() + execute() + SYNC + bind() + execute() + SYNC),
            (SERVER, error("26000", "gone") + ready() + ONE_SHOT + ready()),
        ],
        [IGN, req("EXECUTE"), IGN] * 2 + [failed("26000", "gone"), IGN, IGN, IGN, IGN, ok(1), IGN],
    ),
    Case(
        "deferred constraint fails at Sync",
        [
            (CLIENT, parse("INSERT INTO t VALUES (1)") + bind() + execute() + SYNC),
            (SERVER, PARSED + BOUND + done("INSERT 0 1") + error("23503", "deferred") + ready()),
            (CLIENT, query("SELECT 1")),
            (SERVER, done("SELECT 0") + ready()),
        ],
        [IGN, IGN, req("INSERT"), IGN, IGN, IGN, ok(1), IGN, IGN, req("SELECT"), IGN, ok(0)],
    ),
    Case(
        "empty statement",
        [(CLIENT, parse("") + bind() + execute() + SYNC), (SERVER, PARSED + BOUND + EMPTY + ready())],
        [IGN, IGN, req("EXECUTE", ""), IGN, IGN, IGN, ok(0), IGN],
    ),
    Case(
        "flush instead of sync",
        [
            (CLIENT, parse(NAMED, "a") + describe("a", "S") + FLUSH),
            (SERVER, PARSED + PARAMETERS + columns("id")),
            (CLIENT, bind([b"1"], "a") + execute() + SYNC),
            (SERVER, ONE_SHOT + ready()),
        ],
        [IGN, IGN, IGN, IGN, IGN, IGN, IGN, req("SELECT", NAMED), IGN, IGN, IGN, IGN, ok(1), IGN],
    ),
    Case(
        "answers while requests go on",
        [
            (CLIENT, bind() + execute() + FLUSH),
            (SERVER, BOUND + row(b"1")),
            (CLIENT, bind() + execute() + SYNC),
            (SERVER, done("SELECT 1") + BOUND + done("SELECT 0") + ready()),
        ],
        [IGN, req("EXECUTE"), IGN, IGN, IGN, IGN, req("EXECUTE"), IGN, ok(1), IGN, ok(0), IGN],
    ),
    Case(
        "long statement is bounded",
        [(CLIENT, parse("SELECT '" + "s3cr3t" * 150 + "' FROM t") + bind() + execute() + SYNC)],
        [
            IGN,
            IGN,
            {
                "type": "request",
                "truncated": True,
                "target": b"SELECT '" + b"s3cr3t" * 84,
                "masked": b"SELECT ?",
            },
            IGN,
        ],
    ),
    Case(
        "no data",
        [
            (CLIENT, parse("UPDATE t SET a = $1") + bind([None]) + describe() + execute() + SYNC),
            (SERVER, PARSED + BOUND + NO_DATA + done("UPDATE 0") + ready()),
        ],
        [IGN, IGN, IGN, req("UPDATE", collection=b"t"), IGN, IGN, IGN, IGN, ok(0), IGN],
    ),
    Case(
        "trace context speaks of one execution",
        [
            (
                CLIENT,
                parse("SELECT 1 /*traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00'*/", "s")
                + (bind([], "s") + execute()) * 2
                + SYNC,
            )
        ],
        [IGN, IGN, req("SELECT", wire="traceparent"), IGN, req("SELECT", wire=""), IGN],
    ),
]
