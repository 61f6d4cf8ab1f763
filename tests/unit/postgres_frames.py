"""PostgreSQL's frames and the messages that are expected of them, for postgres_cases.py and test_postgres.py.

Frames are built by the rules of the manual's chapter "Message Formats", independently of the parser.
"""

from __future__ import annotations

import struct

from proto_cases import Message

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


IGN: Message = {"type": "ignore"}


def req(op: str, sql: str | None = None, **more: object) -> Message:
    out: Message = {"type": "request", "operation": op.encode(), "code": -1, "truncated": False, **more}
    if sql is not None:
        out["target"] = sql.encode()
    return out


def ok(rows: int = -1, **more: object) -> Message:
    return {"type": "response", "status": "ok", "rows": rows, "truncated": False, **more}


def failed(state: str, text: str, **more: object) -> Message:
    return {
        "type": "response",
        "status": "server_error",
        "status_text": state.encode(),
        "message": text.encode(),
        "rows": -1,
        **more,
    }


SKIPPED: Message = {
    "type": "response",
    "status": "server_error",
    "status_text": b"",
    "message": b"skipped after error",
    "consumed": 0,
    "total": 0,
}
ONE_SHOT = BOUND + columns("a") + row(b"1") + done("SELECT 1")  # 4 frames
NAMED = "select id from items where id = $1"
