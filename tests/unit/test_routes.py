"""Routes: few templates for many paths, and never more than allowed."""

import random
import string
import uuid
from collections.abc import Callable

import pytest

from zerospan.exporter.metrics.harness import Feeder
from zerospan.exporter.metrics.routes import Routes

TEMPLATES = [
    ("/", "/"),
    ("/products", "/products"),
    ("/products/", "/products"),
    ("//products//42", "/products/{id}"),
    ("/r/1/products/2", "/r/{id}/products/{id}"),
    ("/r/000123/x", "/r/{id}/x"),
    ("/u/550e8400-e29b-41d4-a716-446655440000", "/u/{id}"),
    ("/u/550E8400E29B41D4A716446655440000", "/u/{id}"),
    ("/c/deadbeef", "/c/{id}"),
    ("/c/facade", "/c/facade"),
    ("/d/2024-01-31", "/d/{id}"),
    ("/d/2024-01-31T10:00:00Z", "/d/{id}"),
    ("/t/eyJhbGciOiJIUzI1NiIsInR5cCI", "/t/{id}"),
    ("/t/dQw4w9WgXcQ", "/t/{id}"),
    ("/t/aGVsbGBXbxKqJy", "/t/{id}"),
    ("/t/YWJj==", "/t/{id}"),
    ("/m/joe@example.org", "/m/{id}"),
    ("/m/joe%40example.org", "/m/{id}"),
    ("/o/order-12", "/o/{id}"),
    ("/o/1,2,3", "/o/{id}"),
    ("/v1/users/me", "/v1/users/me"),
    ("/api/v2.1/x", "/api/v2.1/x"),
    ("/api/v1beta1/pods", "/api/v1beta1/pods"),
    ("/i18n/oauth2/s3/b2b/k8s", "/i18n/oauth2/s3/b2b/k8s"),
    ("/getUserAccountBalanceHistory", "/getUserAccountBalanceHistory"),
    ("/terms-of-use", "/terms-of-use"),
    ("/static/app.js", "/static/app.js"),
    ("/static/12345.png", "/static/{id}.png"),
    ("/static/main.3f2a9c1b.js", "/static/{id}.js"),
    ("/robots.txt", "/robots.txt"),
    ("/.env", "/.env"),
    ("/café", "/{id}"),
    ("/a;jsessionid=77/b", "/a/b"),
    ("/a?id=7#x", "/a"),
    ("/x{id}", "/{id}"),
    ("*", "*"),
    ("", ""),
    ("example.org:443", ""),
    ("/" + "a" * 41, "/{id}"),
    ("/" + "/".join("abcdefghijklmnopqrst"), "/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/{rest}"),
]


@pytest.mark.parametrize(("path", "template"), TEMPLATES)
def test_template(path: str, template: str) -> None:
    f = Feeder()
    assert f.route("a", path.encode()).decode() == template
    assert f.route("a", path.encode()).decode() == template, "the same the second time"


@pytest.mark.parametrize("limit", [1, 5, 200])
def test_a_service_has_at_most_limit_templates_and_one_more_constant(limit: int) -> None:
    rng = random.Random(limit)
    f = Feeder(routes=Routes(limit=limit))
    words = ["".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(60)]
    paths = ["/" + "/".join(rng.choices(words, k=rng.randrange(1, 6))) for _ in range(20_000)]
    got = [f.route("a", p.encode()) for p in paths]
    assert len(set(got)) <= limit + 1
    stats = f.routes.stats()
    assert stats["templates"] <= limit
    assert stats["capped"] == got.count(b"/{other}")
    assert f.route("b", b"/fresh") == b"/fresh", "another service has its own"


def test_capping_is_visible_for_each_service() -> None:
    f = Feeder(routes=Routes(limit=2))
    for path in (b"/a", b"/b", b"/c", b"/d"):
        f.route("shop", path)
    f.route("other", b"/a")
    text = f.render().decode()
    assert 'zerospan_routes_capped_total{service="shop"} 2' in text
    assert 'zerospan_routes_capped_total{service="other"} 0' in text
    assert 'zerospan_routes{service="shop"} 2' in text


def test_a_position_with_many_words_becomes_a_parameter() -> None:
    f = Feeder(routes=Routes(max_words=20))
    tenants = ["tenant" + a + b for a in "abcde" for b in "vwxyz"]
    got = [f.route("a", f"/t/{t}/orders".encode()) for t in tenants]
    assert got[:20] == [f"/t/{t}/orders".encode() for t in tenants[:20]]
    assert set(got[20:]) == {b"/t/{param}/orders"}
    assert f.route("a", b"/t/tenantav/orders") == b"/t/{param}/orders", "known words, too"
    assert f.route("a", b"/other/word") == b"/other/word", "only after that prefix"
    assert f.routes.stats()["collapsed"] == 1


def test_words_by_words_do_not_use_up_the_templates() -> None:
    """20 tenants with 10 operations each would be 200 templates: positions become stricter before that."""
    rng = random.Random(3)
    f = Feeder()
    paths = [f"/{t * 3}/{o * 4}".encode() for t in string.ascii_lowercase for o in string.ascii_lowercase[:10]]
    got = [f.route("a", rng.choice(paths)) for _ in range(20_000)]
    assert f.routes.stats()["capped"] == 0
    assert len(set(got)) <= 200


def test_ids_of_every_sort_are_one_template() -> None:
    rng = random.Random(5)
    f = Feeder()
    makers: list[Callable[[], str]] = [
        lambda: str(rng.randrange(10**12)),
        lambda: str(uuid.UUID(int=rng.getrandbits(128))),
        lambda: f"{rng.getrandbits(96):024x}",
        lambda: f"{rng.getrandbits(64):016X}",
        lambda: f"20{rng.randrange(100):02}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}",
        lambda: f"user{rng.randrange(10**6)}@example.org",
    ]
    for make in makers:
        got = {f.route("a", f"/things/{make()}/parts".encode()) for _ in range(300)}
        assert got == {b"/things/{id}/parts"}


def test_a_path_that_nobody_else_used_is_not_learnt_from_a_refused_request() -> None:
    f = Feeder()
    assert f.route("a", b"/wp-admin/setup.php", known=True) == b""
    assert f.routes.stats()["templates"] == 0
    assert f.route("a", b"/products/7") == b"/products/{id}"
    assert f.route("a", b"/products/8", known=True) == b"/products/{id}"
    assert f.route("a", b"/products", known=True) == b"", "a prefix is no route"


def test_any_bytes_give_a_short_ascii_template() -> None:
    rng = random.Random(9)
    f = Feeder(routes=Routes(limit=100_000))
    for _ in range(20_000):
        path = b"/" + rng.randbytes(rng.randrange(60))
        if rng.random() < 0.3:
            path = path.replace(b"\x00", b"/") + b"/" + bytes(rng.choices(b"aZ09-_.~:+$/{}", k=rng.randrange(90)))
        got = f.route("a", path)
        assert got.startswith(b"/") and got.isascii() and got.decode().isprintable()
        assert len(got) <= 1280 and not set(got) & set(b'"\\?# ')
        for segment in got.split(b"/"):
            assert b"{" not in segment or segment.startswith((b"{id}", b"{param}", b"{rest}", b"{other}"))


def test_memory_is_bounded_and_what_finds_no_room_is_counted() -> None:
    f = Feeder(routes=Routes(limit=1_000_000, max_words=1_000_000, max_bytes=200_000))
    n = 20_000
    got = [
        f.route("a", f"/{'abcdefghij'[i % 10]}/{''.join(chr(97 + int(c)) for c in str(i))}xx".encode())
        for i in range(n)
    ]
    stats = f.routes.stats()
    assert stats["bytes"] <= 200_000
    assert stats["capped"] == got.count(b"/{other}") > 0
    assert f.route("b", b"/x") == b"/{other}" or f.routes.stats()["bytes"] <= 200_000


def test_templates_stay_where_they_are_while_the_tree_grows() -> None:
    f = Feeder(routes=Routes(limit=50_000, max_words=50_000, max_bytes=64 << 20))
    names = ["".join(chr(97 + int(c)) for c in str(i)) + "zz" for i in range(20_000)]
    for name in names:
        assert f.route("a", f"/{name}".encode()) == f"/{name}".encode()
    for name in names:
        assert f.route("a", f"/{name}".encode()) == f"/{name}".encode()
    assert f.routes.stats()["templates"] == 20_000


def test_a_very_long_path_is_cut_not_followed() -> None:
    f = Feeder()
    assert f.route("a", b"/" * 1_000_000 + b"end") == b"/"
    assert f.route("a", b"/" + b"x" * 1_000_000) == b"/{id}"
