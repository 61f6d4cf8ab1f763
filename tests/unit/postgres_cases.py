"""PostgreSQL conversations and what must be understood of them. See proto_cases.py.

Frames are built by the rules of the manual's chapter "Message Formats", independently of the parser.
"""

from __future__ import annotations

import struct

from proto_cases import Case, Message

CLIENT, SERVER = True, False


def frame(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def startup(code: int = 196608, params: dict[str, str] | None = None, tail: bytes = b"") -> bytes:
    body = struct.pack(">I", code) + tail
    if params is not None:
        body += b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in params.items()) + b"\0"
    return struct.pack(">I", len(body) + 4) + body


def query(sql: str) -> bytes:
    return frame(b"Q", sql.encode() + b"\0")


def parse(sql: str, name: str = "", types: int = 0) -> bytes:
    return frame(b"P", name.encode() + b"\0" + sql.encode() + b"\0" + struct.pack(">H", types) + bytes(4 * types))


def bind(values: list[bytes | None] | None = None, name: str = "", portal: str = "") -> bytes:
    body = portal.encode() + b"\0" + name.encode() + b"\0" + struct.pack(">HH", 0, len(values or []))
    for value in values or []:
        body += struct.pack(">i", -1) if value is None else struct.pack(">I", len(value)) + value
    return frame(b"B", body + struct.pack(">H", 0))


def describe(name: str = "", kind: str = "P") -> bytes:
    return frame(b"D", kind.encode() + name.encode() + b"\0")


def execute(portal: str = "", limit: int = 0) -> bytes:
    return frame(b"E", portal.encode() + b"\0" + struct.pack(">I", limit))


def close(name: str = "", kind: str = "S") -> bytes:
    return frame(b"C", kind.encode() + name.encode() + b"\0")


SYNC, FLUSH, TERMINATE, COPY_DONE = frame(b"S"), frame(b"H"), frame(b"X"), frame(b"c")
PARSED, BOUND, CLOSED, NO_DATA, EMPTY, SUSPENDED = (frame(c) for c in (b"1", b"2", b"3", b"n", b"I", b"s"))
PARAMETERS = frame(b"t", struct.pack(">HI", 1, 23))
AUTH_OK, AUTH_CLEARTEXT = frame(b"R", struct.pack(">I", 0)), frame(b"R", struct.pack(">I", 3))
AUTH_SASL = frame(b"R", struct.pack(">I", 10) + b"SCRAM-SHA-256\0\0")
KEY = frame(b"K", bytes(8))
NOTICE = frame(b"N", b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0")
SETTING = frame(b"S", b"TimeZone\0UTC\0")
NOTIFICATION = frame(b"A", struct.pack(">I", 7) + b"channel\0payload\0")
LOGIN = startup(params={"user": "ann", "database": "shop", "application_name": "psql"})
SSL, GSS = startup(80877103), startup(80877104)


def ready(status: bytes = b"I") -> bytes:
    return frame(b"Z", status)


def columns(*names: str) -> bytes:
    rows = b"".join(n.encode() + b"\0" + struct.pack(">IHIHiH", 0, 0, 25, 0xFFFF, -1, 0) for n in names)
    return frame(b"T", struct.pack(">H", len(names)) + rows)


def row(*values: bytes) -> bytes:
    return frame(b"D", struct.pack(">H", len(values)) + b"".join(struct.pack(">I", len(v)) + v for v in values))


def done(tag: str) -> bytes:
    return frame(b"C", tag.encode() + b"\0")


def error(state: str, text: str, severity: str = "ERROR") -> bytes:
    return frame(b"E", f"S{severity}\0V{severity}\0C{state}\0M{text}\0Fparse.c\0\0".encode())


def copy_in(columns_n: int = 1) -> bytes:
    return frame(b"G", struct.pack(">BH", 0, columns_n) + bytes(2 * columns_n))


def copy_out(columns_n: int = 1) -> bytes:
    return frame(b"H", struct.pack(">BH", 0, columns_n) + bytes(2 * columns_n))


def copy_data(data: bytes) -> bytes:
    return frame(b"d", data)


I: Message = {"type": "ignore"}


def req(op: str, sql: str | None = None, **more: object) -> Message:
    out: Message = {"type": "request", "operation": op.encode(), "code": -1, "truncated": False, **more}
    if sql is not None:
        out["target"] = sql.encode()
    return out


def ok(rows: int = -1, **more: object) -> Message:
    return {"type": "response", "status": "ok", "rows": rows, "truncated": False, **more}


def failed(state: str, text: str, **more: object) -> Message:
    return {"type": "response", "status": "server_error", "status_text": state.encode(), "message": text.encode(), "rows": -1, **more}


SKIPPED: Message = {"type": "response", "status": "server_error", "status_text": b"", "message": b"skipped after error",
                    "consumed": 0, "total": 0}
ONE_SHOT = BOUND + columns("a") + row(b"1") + done("SELECT 1")     # 4 frames
NAMED = "select id from items where id = $1"

SIMPLE = [
    Case("select", [(CLIENT, query("SELECT 1")), (SERVER, columns("a") + row(b"1") + done("SELECT 1") + ready())],
         [req("SELECT", "SELECT 1", consumed=14, total=14), I, I, I, ok(1, total=6)]),
    Case("select masks", [(CLIENT, query("select * from users where name = 'hunter2'"))],
         [req("SELECT", masked=b"select * from users where name = ?", collection=b"users")]),
    Case("insert", [(CLIENT, query("INSERT INTO a.b (x) VALUES (1)")), (SERVER, done("INSERT 0 1") + ready())],
         [req("INSERT", collection=b"a.b"), I, ok(1)]),
    Case("update rows", [(CLIENT, query("update t set a=1")), (SERVER, done("UPDATE 42") + ready())],
         [req("UPDATE", collection=b"t"), I, ok(42)]),
    Case("delete rows", [(CLIENT, query('DELETE FROM "T"')), (SERVER, done("DELETE 0") + ready())],
         [req("DELETE", collection=b"T"), I, ok(0)]),
    Case("begin", [(CLIENT, query("BEGIN")), (SERVER, done("BEGIN") + ready(b"T"))], [req("BEGIN"), I, ok()]),
    Case("create table", [(CLIENT, query("create table x (a int)")), (SERVER, done("CREATE TABLE") + ready())],
         [req("CREATE"), I, ok()]),
    Case("empty query", [(CLIENT, query("")), (SERVER, EMPTY + ready())], [req("", ""), I, ok(0)]),
    Case("only a comment", [(CLIENT, query("-- nothing")), (SERVER, EMPTY + ready())], [req("", masked=b""), I, ok(0)]),
    Case("several statements", [(CLIENT, query("INSERT INTO t VALUES (1); UPDATE t SET a = 2; SELECT 1")),
                                (SERVER, done("INSERT 0 1") + done("UPDATE 3") + columns("a") + row(b"1")
                                 + done("SELECT 1") + ready())],
         [req("INSERT"), I, I, I, I, I, ok(5)]),
    Case("second of several fails", [(CLIENT, query("SELECT 1; SELECT 1/0")),
                                     (SERVER, columns("a") + row(b"1") + done("SELECT 1")
                                      + error("22012", "division by zero") + ready())],
         [req("SELECT"), I, I, I, failed("22012", "division by zero"), I]),
    Case("error", [(CLIENT, query("SELEC")), (SERVER, error("42601", "syntax error") + ready())],
         [req("", "SELEC"), failed("42601", "syntax error"), I]),
    Case("error, then works", [(CLIENT, query("SELECT x")), (SERVER, error("42703", "no x") + ready(b"E")),
                               (CLIENT, query("ROLLBACK")), (SERVER, done("ROLLBACK") + ready())],
         [req("SELECT"), failed("42703", "no x"), I, req("ROLLBACK"), I, ok()]),
    Case("fatal error", [(CLIENT, query("SELECT 1")), (SERVER, error("57P01", "terminating connection", "FATAL"))],
         [req("SELECT"), failed("57P01", "terminating connection")]),
    Case("notice in answer", [(CLIENT, query("DROP TABLE IF EXISTS t")), (SERVER, NOTICE + done("DROP TABLE") + ready())],
         [req("DROP"), I, I, ok()]),
    Case("parameter status in answer", [(CLIENT, query("SET timezone = 'UTC'")), (SERVER, done("SET") + SETTING + ready())],
         [req("SET", masked=b"SET timezone = ?"), I, I, ok()]),
    Case("notification when idle", [(CLIENT, query("LISTEN c")), (SERVER, done("LISTEN") + ready()),
                                    (SERVER, NOTIFICATION)], [req("LISTEN"), I, ok(), I]),
    Case("pipelined simple queries", [(CLIENT, query("SELECT 1") + query("SELECT x") + query("SELECT 3")),
                                      (SERVER, columns("a") + row(b"1") + done("SELECT 1") + ready()
                                       + error("42703", "no x") + ready()
                                       + columns("a") + row(b"3") + done("SELECT 1") + ready())],
         [req("SELECT"), req("SELECT"), req("SELECT"), I, I, I, ok(1), failed("42703", "no x"), I, I, I, I, ok(1)]),
    Case("function call", [(CLIENT, frame(b"F", struct.pack(">IHHH", 100, 0, 0, 0))),
                           (SERVER, frame(b"V", struct.pack(">i", -1)) + ready())], [req("FUNCTION", ""), I, ok()]),
    Case("terminate", [(CLIENT, query("SELECT 1")), (SERVER, done("SELECT 0") + ready()), (CLIENT, TERMINATE)],
         [req("SELECT"), I, ok(0), I]),
    Case("sqlcommenter", [(CLIENT, query("SELECT 1 /*db_driver='x',traceparent="
                                         "'00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'*/"))],
         [req("SELECT", wire="traceparent", trace_id="0af7651916cd43dd8448eb211c80319c", parent_id="b7ad6b7169203331",
              trace_flags=1, masked=b"SELECT ?")]),
    Case("utf-8 names", [(CLIENT, query("SELECT * FROM größe"))], [req("SELECT", collection="größe".encode())]),
]

SESSION = [
    Case("start-up names the database", [(CLIENT, LOGIN), (SERVER, AUTH_OK + SETTING + KEY + ready()),
                                         (CLIENT, query("SELECT 1"))],
         [I, I, I, I, I, req("SELECT", domain=b"shop")]),
    Case("start-up without a database", [(CLIENT, startup(params={"user": "ann"})), (CLIENT, query("SELECT 1"))],
         [I, req("SELECT", domain=b"ann")]),
    Case("start-up 3.2", [(CLIENT, startup(196610, {"user": "ann"})),
                          (SERVER, frame(b"v", struct.pack(">II", 0, 0)) + AUTH_OK)], [I, I, I]),
    Case("password is never told", [(CLIENT, LOGIN), (SERVER, AUTH_CLEARTEXT), (CLIENT, frame(b"p", b"hunter2\0")),
                                    (SERVER, AUTH_OK + ready())],
         [I, I, {"type": "ignore", "target": b"", "operation": b"", "message": b"", "masked": b""}, I, I]),
    Case("sasl", [(CLIENT, LOGIN), (SERVER, AUTH_SASL), (CLIENT, frame(b"p", b"SCRAM-SHA-256\0\0\0\0\x05n,,n=")),
                  (SERVER, AUTH_OK + ready())], [I] * 5),
    Case("login refused", [(CLIENT, LOGIN), (SERVER, error("28P01", "password authentication failed", "FATAL"))], [I, I]),
    Case("ssl refused", [(CLIENT, SSL), (SERVER, b"N"), (CLIENT, LOGIN), (SERVER, AUTH_OK + ready()),
                         (CLIENT, query("SELECT 1"))], [I, I, I, I, I, req("SELECT", domain=b"shop")]),
    Case("ssl granted", [(CLIENT, SSL), (SERVER, b"S")], [I, {"type": "upgrade", "consumed": 1, "total": 1}]),
    Case("ssl answered by an error", [(CLIENT, SSL), (SERVER, error("0A000", "unsupported protocol", "FATAL"))], [I, I]),
    Case("gss granted", [(CLIENT, GSS), (SERVER, b"G")], [I, {"type": "upgrade"}]),
    Case("gss refused, ssl refused", [(CLIENT, GSS), (SERVER, b"N"), (CLIENT, SSL), (SERVER, b"N"), (CLIENT, LOGIN)],
         [I, I, I, I, I]),
    Case("cancel", [(CLIENT, startup(80877102, tail=struct.pack(">II", 4711, 42)))],
         [{"type": "oneway", "operation": b"CANCEL", "target": b"", "total": 16}]),
    Case("seen from the middle of an answer", [(SERVER, row(b"1") + done("SELECT 1") + ready()), (CLIENT, query("SELECT 2")),
                                               (SERVER, columns("a") + row(b"2") + done("SELECT 1") + ready())],
         [I, I, I, req("SELECT"), I, I, I, ok(1)]),
]

EXTENDED = [
    Case("unnamed", [(CLIENT, parse("SELECT * FROM t WHERE a = $1") + bind([b"x"]) + describe() + execute() + SYNC),
                     (SERVER, PARSED + ONE_SHOT + ready())],
         [I, I, I, req("SELECT", "SELECT * FROM t WHERE a = $1", collection=b"t", at=62, total=10), I,
          I, I, I, I, ok(1, total=14), I]),
    Case("named, twice", [(CLIENT, parse(NAMED, "s1") + describe("s1", "S") + SYNC),
                          (SERVER, PARSED + PARAMETERS + columns("id") + ready()),
                          (CLIENT, bind([b"1"], "s1") + execute() + SYNC),
                          (SERVER, ONE_SHOT + ready()),
                          (CLIENT, bind([b"2"], "s1") + execute() + SYNC),
                          (SERVER, BOUND + done("SELECT 0") + ready())],
         [I, I, I, I, I, I, I, I, req("SELECT", NAMED, collection=b"items"), I, I, I, I, ok(1), I,
          I, req("SELECT", NAMED), I, I, ok(0), I]),
    Case("prepared before we watched", [(CLIENT, bind([b"1"], "S_9") + execute() + SYNC), (SERVER, ONE_SHOT + ready())],
         [I, req("EXECUTE", "", collection=b""), I, I, I, I, ok(1), I]),
    Case("portal before we watched", [(CLIENT, execute("C_1", 50) + SYNC), (SERVER, row(b"1") + SUSPENDED + ready(b"T"))],
         [req("EXECUTE", ""), I, I, ok(1), I]),
    Case("portal suspended and resumed", [(CLIENT, parse("SELECT a FROM t") + bind(portal="c") + execute("c", 2) + SYNC),
                                          (SERVER, PARSED + BOUND + row(b"1") + row(b"2") + SUSPENDED + ready(b"T")),
                                          (CLIENT, execute("c", 2) + SYNC),
                                          (SERVER, row(b"3") + done("SELECT 1") + ready(b"T"))],
         [I, I, req("SELECT", "SELECT a FROM t"), I, I, I, I, I, ok(2), I, req("SELECT", "SELECT a FROM t"), I, I, ok(1), I]),
    Case("statement closed", [(CLIENT, parse(NAMED, "s1") + SYNC), (SERVER, PARSED + ready()),
                              (CLIENT, close("s1") + SYNC), (SERVER, CLOSED + ready()),
                              (CLIENT, bind([], "s1") + execute() + SYNC),
                              (SERVER, error("26000", "no such statement") + ready())],
         [I, I, I, I, I, I, I, I, I, req("EXECUTE", ""), I, failed("26000", "no such statement"), I]),
    Case("close behind execute", [(CLIENT, parse("SELECT 1") + bind() + execute() + close("", "P") + SYNC),
                                  (SERVER, PARSED + BOUND + row(b"1") + done("SELECT 1") + CLOSED + ready()),
                                  (CLIENT, query("COMMIT")), (SERVER, done("COMMIT") + ready())],
         [I, I, req("SELECT"), I, I, I, I, I, ok(1), I, I, req("COMMIT"), I, ok()]),
    Case("statement replaced", [(CLIENT, parse("SELECT 1") + parse("SELECT 2") + bind() + execute() + SYNC)],
         [I, I, I, req("SELECT", "SELECT 2"), I]),
    Case("portal keeps its statement", [(CLIENT, parse("SELECT 1") + bind(portal="p") + parse("DELETE FROM t") + execute("p"))],
         [I, I, I, req("SELECT", "SELECT 1")]),
    Case("parse fails", [(CLIENT, parse("SELEC 1") + bind() + describe() + execute() + SYNC),
                         (SERVER, error("42601", "syntax error") + ready()), (CLIENT, query("SELECT 1")),
                         (SERVER, done("SELECT 0") + ready())],
         [I, I, I, req("EXECUTE", "SELEC 1"), I, failed("42601", "syntax error"), I, req("SELECT"), I, ok(0)]),
    Case("prepare alone fails", [(CLIENT, parse("SELEC 1") + describe("", "S") + SYNC),
                                 (SERVER, error("42601", "syntax error") + ready()), (CLIENT, query("SELECT 1")),
                                 (SERVER, done("SELECT 0") + ready())], [I, I, I, I, I, req("SELECT"), I, ok(0)]),
    Case("pipeline", [(CLIENT, parse("INSERT INTO t VALUES ($1)", "i") + (bind([b"1"], "i") + execute()) * 3 + SYNC),
                      (SERVER, PARSED + (BOUND + done("INSERT 0 1")) * 3 + ready())],
         [I] + [I, req("INSERT", collection=b"t")] * 3 + [I, I] + [I, ok(1)] * 3 + [I]),
    Case("pipeline of syncs", [(CLIENT, (parse("SELECT 1") + bind() + execute() + SYNC) * 2),
                               (SERVER, (PARSED + BOUND + row(b"1") + done("SELECT 1") + ready()) * 2)],
         [I, I, req("SELECT"), I] * 2 + [I, I, I, ok(1), I] * 2),
    Case("pipeline, skipped after an error", [(CLIENT, parse("INSERT INTO t VALUES ($1)", "i")
                                               + (bind([b"1"], "i") + execute()) * 4 + SYNC + query("COMMIT")),
                                              (SERVER, PARSED + BOUND + done("INSERT 0 1") + BOUND
                                               + error("23505", "duplicate key") + ready(b"E") + done("ROLLBACK") + ready())],
         [I] + [I, req("INSERT")] * 4 + [I, req("COMMIT"), I, I, ok(1), I, failed("23505", "duplicate key"),
                                         SKIPPED, SKIPPED, I, I, ok()]),
    Case("more skipped than ReadyForQuery has bytes", [(CLIENT, (bind([], "x") + execute()) * 40 + SYNC),
                                                       (SERVER, error("26000", "unknown") + ready())],
         [I, req("EXECUTE")] * 40 + [I, failed("26000", "unknown")] + [SKIPPED] * 39 + [I]),
    Case("error, next group works", [(CLIENT, bind() + execute() + SYNC + bind() + execute() + SYNC),
                                     (SERVER, error("26000", "gone") + ready() + ONE_SHOT + ready())],
         [I, req("EXECUTE"), I] * 2 + [failed("26000", "gone"), I, I, I, I, ok(1), I]),
    Case("deferred constraint fails at Sync", [(CLIENT, parse("INSERT INTO t VALUES (1)") + bind() + execute() + SYNC),
                                               (SERVER, PARSED + BOUND + done("INSERT 0 1") + error("23503", "deferred") + ready()),
                                               (CLIENT, query("SELECT 1")), (SERVER, done("SELECT 0") + ready())],
         [I, I, req("INSERT"), I, I, I, ok(1), I, I, req("SELECT"), I, ok(0)]),
    Case("empty statement", [(CLIENT, parse("") + bind() + execute() + SYNC), (SERVER, PARSED + BOUND + EMPTY + ready())],
         [I, I, req("EXECUTE", ""), I, I, I, ok(0), I]),
    Case("flush instead of sync", [(CLIENT, parse(NAMED, "a") + describe("a", "S") + FLUSH),
                                   (SERVER, PARSED + PARAMETERS + columns("id")),
                                   (CLIENT, bind([b"1"], "a") + execute() + SYNC), (SERVER, ONE_SHOT + ready())],
         [I, I, I, I, I, I, I, req("SELECT", NAMED), I, I, I, I, ok(1), I]),
    Case("answers while requests go on", [(CLIENT, bind() + execute() + FLUSH), (SERVER, BOUND + row(b"1")),
                                          (CLIENT, bind() + execute() + SYNC),
                                          (SERVER, done("SELECT 1") + BOUND + done("SELECT 0") + ready())],
         [I, req("EXECUTE"), I, I, I, I, req("EXECUTE"), I, ok(1), I, ok(0), I]),
    Case("long statement is bounded", [(CLIENT, parse("SELECT '" + "x" * 900 + "' FROM t") + bind() + execute() + SYNC)],
         [I, I, {"type": "request", "truncated": True, "target": b"SELECT '" + b"x" * 504, "masked": b"SELECT ?"}, I]),
    Case("no data", [(CLIENT, parse("UPDATE t SET a = $1") + bind([None]) + describe() + execute() + SYNC),
                     (SERVER, PARSED + BOUND + NO_DATA + done("UPDATE 0") + ready())],
         [I, I, I, req("UPDATE", collection=b"t"), I, I, I, I, ok(0), I]),
    Case("trace context speaks of one execution", [
        (CLIENT, parse("SELECT 1 /*traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00'*/", "s")
         + (bind([], "s") + execute()) * 2 + SYNC)],
         [I, I, req("SELECT", wire="traceparent"), I, req("SELECT", wire=""), I]),
]

COPY = [
    Case("copy in", [(CLIENT, query("COPY t FROM STDIN")), (SERVER, copy_in()),
                     (CLIENT, copy_data(b"1\n") + copy_data(b"2\n") + COPY_DONE), (SERVER, done("COPY 2") + ready())],
         [req("COPY", collection=b"t"), I, I, I, I, I, ok(2)]),
    Case("copy fails", [(CLIENT, query("COPY t FROM STDIN")), (SERVER, copy_in()), (CLIENT, frame(b"f", b"no more\0")),
                        (SERVER, error("57014", "COPY from stdin failed") + ready())],
         [req("COPY"), I, I, failed("57014", "COPY from stdin failed"), I]),
    Case("copy out", [(CLIENT, query("COPY t TO STDOUT")),
                      (SERVER, copy_out() + copy_data(b"1\n") + copy_data(b"2\n") + COPY_DONE + done("COPY 2") + ready())],
         [req("COPY"), I, I, I, I, I, ok(2)]),
    Case("copy in, extended", [(CLIENT, parse("COPY t FROM STDIN") + bind() + execute() + SYNC),
                               (SERVER, PARSED + BOUND + copy_in()), (CLIENT, copy_data(b"1\n") + COPY_DONE + SYNC),
                               (SERVER, done("COPY 1") + ready()), (CLIENT, query("SELECT 1")),
                               (SERVER, done("SELECT 0") + ready())],
         [I, I, req("COPY"), I, I, I, I, I, I, I, ok(1), I, req("SELECT"), I, ok(0)]),
    Case("copy both", [(CLIENT, query("START_REPLICATION SLOT s LOGICAL 0/0")), (SERVER, frame(b"W", b"\0\0\0")),
                       (SERVER, copy_data(b"w" + bytes(24))), (CLIENT, copy_data(b"r" + bytes(33))),
                       (SERVER, copy_data(b"k" + bytes(17)))], [req("START_REPLICATION"), ok(), I, I, I]),
]

CASES: list[Case] = SIMPLE + SESSION + EXTENDED + COPY
