"""SQL masking and summary: exact results; no planted secret survives any statement, cut or dialect."""

from __future__ import annotations

import random
import time

import pytest

from zerospan.exporter.proto.sql import mask, summary

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

MASKED = [
    # strings
    ("SELECT 'a'", "SELECT ?"),
    ("SELECT 'it''s'", "SELECT ?"),
    ("SELECT ''", "SELECT ?"),
    ("SELECT 'a' 'b'", "SELECT ? ?"),
    ("SELECT E'a\\'b', 1", "SELECT ?, ?"),
    ("SELECT e'a\\\\'", "SELECT ?"),
    ("SELECT E'a''b\\\\\\'c'", "SELECT ?"),
    ("SELECT U&'d\\0061t'", "SELECT ?"),
    ("SELECT B'1010', X'1FF', N'x', b'0', x'0'", "SELECT ?, ?, ?, ?, ?"),
    ("SELECT 'C:\\dir\\x'", "SELECT ?"),
    ("SELECT 'ends\\\\' FROM t", "SELECT ? FROM t"),
    ("SELECT name'x'", "SELECT name?"),
    ("SELECT _utf8'x'", "SELECT _utf8?"),
    ("SELECT $$it's$$", "SELECT ?"),
    ("SELECT $tag$a $$ b $tg$ $tag$ FROM t", "SELECT ? FROM t"),
    ("DO $do$ BEGIN RAISE 'x'; END $do$", "DO ?"),
    ("SELECT $ä$x$ä$", "SELECT ?"),
    ("SELECT '{\"a\": 1}'::jsonb -> 'a'", "SELECT ?::jsonb -> ?"),
    # numbers
    ("SELECT 1, 1.5, .5, 1., 1e10, 1.5E-3, 0xFF, 0b11, 1_000", "SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?"),
    ("SELECT -1", "SELECT -?"),
    ("WHERE a = -1 AND b > +2.5", "WHERE a = ? AND b > ?"),
    ("WHERE a - 1 = 2", "WHERE a - ? = ?"),
    ("WHERE a-1=2", "WHERE a-?=?"),
    ("WHERE f(a)-1=2", "WHERE f(a)-?=?"),
    ("SELECT 12ab, 1$x", "SELECT ?, ?"),
    ("LIMIT 10 OFFSET 20", "LIMIT ? OFFSET ?"),
    ("SELECT a[1], a[1:2]", "SELECT a[?], a[?:?]"),
    ("SELECT ARRAY[1,2]", "SELECT ARRAY[?,?]"),
    # what stays
    ("SELECT a1, t2.b3 FROM t2", "SELECT a1, t2.b3 FROM t2"),
    ('SELECT "a 1"."b""c" FROM "T"', 'SELECT "a 1"."b""c" FROM "T"'),
    ('SELECT U&"d" FROM t', 'SELECT U&"d" FROM t'),
    ("SELECT $1, $12::int", "SELECT $1, $12::int"),
    ("SELECT a$b FROM größe", "SELECT a$b FROM größe"),
    ("SELECT NULL, TRUE, DEFAULT", "SELECT NULL, TRUE, DEFAULT"),
    ("SELECT a::text || b", "SELECT a::text || b"),
    ("SELECT a ? b, c @> d, e #> f", "SELECT a ? b, c @> d, e #> f"),
    # blanks and comments
    ("  SELECT\n\t 1 ;  ", "SELECT ? ;"),
    ("SELECT 1 -- no 'x'\nFROM t", "SELECT ? FROM t"),
    ("SELECT 1 -- to the end", "SELECT ?"),
    ("/* a */SELECT/* b */1", "SELECT ?"),
    ("SELECT /* a /* b */ 'c' */ 2", "SELECT ?"),
    ("SELECT a/**/b", "SELECT a b"),
    ("SELECT '/* no */', '-- no'", "SELECT ?, ?"),
    ("SELECT a-b, a/b, a*b", "SELECT a-b, a/b, a*b"),
    ("", ""),
    ("-- only", ""),
    # lists
    ("IN (1, 2, 3)", "IN (?)"),
    ("IN (1,2,3)", "IN (?)"),
    ("IN ('a')", "IN (?)"),
    ("IN ( 'a' , 'b' )", "IN ( ? )"),
    ("IN (-1, +2, 3.5)", "IN (?)"),
    ("IN ($1, $2, $3)", "IN ($1, $2, $3)"),
    ("IN (1, $1, 2)", "IN (?, $1, ?)"),
    ("VALUES (1, 'x', now(), 2, 3)", "VALUES (?, ?, now(), ?, ?)"),
    ("VALUES (1, 2), (3, 4)", "VALUES (?), (?)"),
    ("VALUES ((1, 2), 3)", "VALUES ((?), ?)"),
    ("f(1, 2, a)", "f(?, ?, a)"),
    ("f()", "f()"),
    ("f(1, 2,)", "f(?, ?,)"),
    ("IN (1, 2, 3", "IN (?"),
    ("IN (1, 2, 'unclosed", "IN (?"),
    # what is not closed, or cannot be told, hides all behind it
    ("SELECT 'unclosed", "SELECT ?"),
    ("SELECT E'unclosed\\'", "SELECT ?"),
    ("SELECT E'unclosed\\", "SELECT ?"),
    ("SELECT $a$ unclosed $b$ x", "SELECT ?"),
    ("SELECT $unclose", "SELECT ?"),
    ("SELECT $$unclosed$", "SELECT ?"),
    ('SELECT "unclosed', "SELECT ?"),
    ("SELECT /* unclosed 'x'", "SELECT"),
    ("SELECT 'it\\'s', 'hidden'", "SELECT ?"),
    ("SELECT U&'d\\'s', 'hidden'", "SELECT ?"),
]

MYSQL = [
    ('SELECT "secret", `col` FROM `t`', "SELECT ?, `col` FROM `t`"),
    ("SELECT 'it\\'s', 1 FROM t", "SELECT ?, ? FROM t"),
    ('SELECT "a""b\\"c" FROM t', "SELECT ? FROM t"),
    ("SELECT 1 # comment 'x'\nFROM t", "SELECT ? FROM t"),
    ("SELECT /* a /* b */ c", "SELECT c"),
    ("SELECT 'a\\", "SELECT ?"),
    ("SELECT x'ab', 0xab, @v, :n", "SELECT ?, ?, @v, :n"),
    ("SELECT $$ FROM t", "SELECT $$ FROM t"),
]


@pytest.mark.parametrize(("sql", "expected"), MASKED, ids=[s for s, _ in MASKED])
def test_mask(sql: str, expected: str) -> None:
    assert mask(sql.encode()).decode() == expected


@pytest.mark.parametrize(("sql", "expected"), MYSQL, ids=[s for s, _ in MYSQL])
def test_mask_mysql(sql: str, expected: str) -> None:
    assert mask(sql.encode(), dialect="mysql").decode() == expected


@pytest.mark.parametrize(
    "sql", [s for s, _ in MASKED if s.count("'") % 2 == 0 and "\\'" not in s and "unclose" not in s]
)
def test_masking_twice_changes_nothing(sql: str) -> None:
    once = mask(sql.encode())
    assert mask(once) == once


def test_output_is_bounded_and_ends_with_a_whole_token() -> None:
    sql = b"SELECT alpha, beta, 'x', $12 FROM gamma WHERE a IN (1, b, 2)"
    full = mask(sql)
    for cap in range(len(full) + 2):
        got = mask(sql, cap)
        assert len(got) <= cap and full.startswith(got)
        assert not got or len(got) == len(full) or not (got[-1:].isalnum() and full[len(got) : len(got) + 1].isalnum())


def test_a_thousand_literals_take_one_place() -> None:
    assert (
        mask(b"SELECT * FROM t WHERE a IN (" + b"'x', " * 5000 + b"'y') LIMIT 1")
        == b"SELECT * FROM t WHERE a IN (?) LIMIT ?"
    )


SECRET = "s3cr3tw0rd"
LITERALS = [
    "'{}'",
    "'a{}b'",
    "'it''s {}'",
    "E'{}'",
    "E'\\'{}'",
    "e'\\\\{}'",
    "$${}$$",
    "$t${}$t$",
    "$t$ $$ {} ' $t$",
    "N'{}'",
    "U&'{}'",
    "X'{}'",
    "'\\{}'",
    "'{}\\\\'",
    "'\"{}\"'",
    "'--{}'",
    "'/*{}*/'",
    "'${}$'",
    "77{}",
    "0x{}",
    "1.{}",
]
TEMPLATES = [
    "SELECT * FROM users WHERE name = {} AND age > 3",
    "INSERT INTO t (a, b) VALUES ({}, 'x'), (2, {})",
    "UPDATE t SET a={}, b = b || {} WHERE c IN ({}, {}, {})",
    "ALTER ROLE bob PASSWORD {}",
    "CALL p({})",
    "SELECT f({})::jsonb->{}",
    "SELECT 'x'{}",
    "/* c */ SELECT {} -- {}",
    "SELECT /* {} */ 1",
    'SELECT "col" = {}',
    "SELECT a-{}",
    "SET x = {}",
    "SELECT {};SELECT {}",
    "SELECT ({})",
    "COPY t FROM {}",
    "SELECT ARRAY[{},{}]",
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("literal", LITERALS)
def test_no_secret_survives(template: str, literal: str) -> None:
    """Whole, and cut at each byte: not four letters in a row of it come out."""
    sql = template.format(*[literal.format(SECRET)] * 5).encode()
    parts = {SECRET[i : i + 4].encode() for i in range(len(SECRET) - 3)}
    for end in range(len(sql) + 1):
        got = mask(sql[:end])
        assert not any(part in got for part in parts), (sql[:end], got)


@pytest.mark.parametrize(
    "literal", ["'{}'", '"{}"', "'\\'{}'", '"\\"{}"', "'it''s{}'", "x'{}'", "0x{}", "'\"{}'", '"\'{}"']
)
def test_no_secret_survives_mysql(literal: str) -> None:
    for template in TEMPLATES[:9]:
        sql = template.format(*[literal.format(SECRET)] * 5).encode()
        for end in range(len(sql) + 1):
            assert SECRET[:4].encode() not in mask(sql[:end], dialect="mysql")


@pytest.mark.parametrize("conforming", [True, False])
def test_backslashes_hide_under_either_setting(conforming: bool) -> None:
    """Random strings as a client writes them with standard_conforming_strings on or off."""
    dice = random.Random(3)
    for _ in range(3000):
        parts = []
        for _ in range(3):
            text = "".join(dice.choice("ab\\'\\ ") for _ in range(dice.randrange(6))) + SECRET
            text += "".join(dice.choice("\\'x") for _ in range(dice.randrange(4)))
            text = text.replace("'", "''")
            parts.append("'" + (text if conforming else text.replace("\\", "\\\\")) + "'")
        sql = f"SELECT {', '.join(parts)} FROM t"
        assert SECRET.encode() not in mask(sql.encode()), sql


SUMMARY = [
    ("select 1", "SELECT", ""),
    ("SELECT * FROM t", "SELECT", "t"),
    ("SELECT * FROM a.b.c WHERE x = 1", "SELECT", "a.b.c"),
    ('SELECT * FROM "A"."b"', "SELECT", "A.b"),
    ("SELECT * FROM ONLY t", "SELECT", "t"),
    ("SELECT * FROM t AS x", "SELECT", "t"),
    ("SELECT * FROM t, u", "SELECT", ""),
    ("SELECT * FROM t x, u", "SELECT", ""),
    ("SELECT * FROM t JOIN u USING (a)", "SELECT", ""),
    ("SELECT * FROM (SELECT 1) x", "SELECT", ""),
    ("SELECT * FROM generate_series(1, 2)", "SELECT", ""),
    ("SELECT a FROM t WHERE b IN (SELECT c FROM d)", "SELECT", ""),
    ("SELECT a FROM t UNION SELECT b FROM u", "SELECT", ""),
    ("SELECT extract(year FROM d) FROM t", "SELECT", "t"),
    ("SELECT a IS DISTINCT FROM b FROM t", "SELECT", "t"),
    ("SELECT 'x FROM y' FROM t", "SELECT", "t"),
    ("SELECT $$ FROM y $$ /* FROM z */ FROM t", "SELECT", "t"),
    ("SELECT a FROM t ORDER BY b, c LIMIT 1", "SELECT", "t"),
    ("SELECT a FROM t FOR UPDATE", "SELECT", "t"),
    ("SELECT a FROM t; SELECT b FROM u", "SELECT", "t"),
    ("(SELECT a FROM t)", "SELECT", "t"),
    ('SELECT a FROM "odd.name"', "SELECT", ""),
    ("INSERT INTO t(a) VALUES (1)", "INSERT", "t"),
    ("INSERT INTO s.t SELECT * FROM u", "INSERT", "s.t"),
    ("INSERT OVERWRITE INTO t VALUES (1)", "INSERT", "t"),
    ("UPDATE t SET a = 1", "UPDATE", "t"),
    ("UPDATE ONLY s.t AS x SET a = 1", "UPDATE", "s.t"),
    ("UPDATE t, u SET a = 1", "UPDATE", ""),
    ("DELETE FROM t", "DELETE", "t"),
    ("DELETE FROM t USING u WHERE a = 1", "DELETE", "t"),
    ("DELETE t FROM t", "DELETE", ""),
    ("MERGE INTO t USING u ON (a = b)", "MERGE", "t"),
    ("TRUNCATE TABLE t", "TRUNCATE", "t"),
    ("TRUNCATE t, u", "TRUNCATE", ""),
    ("COPY t (a, b) FROM STDIN", "COPY", "t"),
    ("COPY (SELECT 1) TO STDOUT", "COPY", ""),
    ("create  table t (a int)", "CREATE", ""),
    ("begin", "BEGIN", ""),
    ("Commit;", "COMMIT", ""),
    ("; ;SELECT 1", "SELECT", ""),
    ("WITH x AS (SELECT 1) SELECT * FROM x", "WITH", ""),
    ("EXPLAIN SELECT * FROM t", "EXPLAIN", ""),
    ("/* c */ -- d\n delete from t", "DELETE", "t"),
    ("frobnicate 'x'", "", ""),
    ("'SELECT'", "", ""),
    ("", "", ""),
    ("selects", "", ""),
]


@pytest.mark.parametrize(("sql", "operation", "collection"), SUMMARY, ids=[s for s, _, _ in SUMMARY])
def test_summary(sql: str, operation: str, collection: str) -> None:
    got = summary(sql.encode())
    assert (got["operation"], got["collection"]) == (operation.encode(), collection.encode())


@pytest.mark.parametrize(
    ("sql", "collection"),
    [
        ("SELECT * FROM t", ""),
        ("SELECT * FROM t WH", ""),
        ("SELECT * FROM t WHERE a = ", "t"),
        ("SELECT * FROM t WHERE a = 'x", "t"),
        ("INSERT INTO t", ""),
        ("INSERT INTO t (", "t"),
        ("INSERT INTO s.", ""),
        ("UPDATE t", ""),
        ("UPDATE t SET", "t"),
        ("DELETE FROM t", ""),
        ('SELECT * FROM "t', ""),
    ],
)
def test_a_name_that_the_cut_may_have_shortened_is_left_out(sql: str, collection: str) -> None:
    assert summary(sql.encode(), cut=True)["collection"] == collection.encode()


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        (f"SELECT 1 /*traceparent='{PARENT}'*/", True),
        (f"/*controller='x',traceparent='{PARENT}',tracestate='a%3Db'*/ SELECT 1", True),
        (f"SELECT 1 /* a='b', traceparent='{PARENT}' */;", True),
        (f"SELECT 1 /*traceparent='{PARENT.replace('-', '%2D')}'*/", True),
        (f"SELECT * FROM t JOIN u /*traceparent='{PARENT}'*/", True),
        (f"SELECT 1 /*traceparent='{PARENT}'", True),
        (f"SELECT 1 /*xtraceparent='{PARENT}'*/", False),
        (f"SELECT '/*traceparent=''{PARENT}''*/'", False),
        (f"SELECT 1 /*traceparent={PARENT}*/", False),
        (f"SELECT 1 /*traceparent='{PARENT}", False),
        (f"SELECT 1 /*traceparent='{PARENT.upper()}'*/", False),
        (f"SELECT 1 /*traceparent='{PARENT}-more'*/", False),
        (f"SELECT 1 /*traceparent='ff{PARENT[2:]}'*/", False),
        (f"SELECT 1 /*traceparent='00-{'0' * 32}{PARENT[35:]}'*/", False),
        ("SELECT 1 /*traceparent=''*/", False),
        ("SELECT 1 /*traceparent='" + "%" * 500 + "'*/", False),
    ],
)
def test_sqlcommenter(sql: str, found: bool) -> None:
    got = summary(sql.encode())
    expected = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1) if found else ("", "", 0)
    assert (got["trace_id"], got["parent_id"], got["trace_flags"]) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"$a" * 30_000,
        b"$" * 60_000,
        b"/*" * 30_000,
        b"'\\" * 30_000,
        b"(1," * 20_000,
        b"((((" * 15_000,
        b"traceparent='" * 5000,
        b"/*" + b"traceparent='" * 5000 + b"*/",
        b"/**/" * 15_000,
        b"$a$" + b"$a" * 30_000,
        b"--\n" * 20_000,
        b"1," * 30_000,
    ],
    ids=lambda t: repr(t[:8]),
)
def test_hostile_text_takes_linear_time(text: bytes) -> None:
    """60 KB within 0.1 s of CPU: quadratic work would need seconds."""
    begin = time.process_time()
    mask(text, 100_000)
    summary(text)
    assert time.process_time() - begin < 0.1


def test_noise_never_passes_the_bound() -> None:
    dice = random.Random(5)
    pieces = [
        b"'",
        b'"',
        b"$",
        b"$a$",
        b"\\",
        b"(",
        b")",
        b",",
        b"1",
        b"SELECT",
        b"FROM",
        b" ",
        b"--",
        b"\n",
        b"/*",
        b"*/",
        b".",
        b"\xff",
        b"-",
    ]
    for _ in range(20_000):
        text = b"".join(dice.choices(pieces, k=dice.randrange(30)))
        cap = dice.randrange(40)
        for dialect in ("postgresql", "mysql"):
            assert len(mask(text, cap, dialect)) <= cap
            assert len(summary(text, False, dialect)["collection"]) <= 128
