"""service.* of Kubernetes: the table of the semantic conventions (reference/grafana-conventions.md, section 7)."""

from __future__ import annotations

import msgspec
import pytest

from zerospan.enricher.naming import NAME_ORDER, PREFIX, Naming, first, image_version, instance, split_image

ANNOTATED = {PREFIX + "service.name": "annotated"}
INSTANCE, NAME = {"app.kubernetes.io/instance": "instance"}, {"app.kubernetes.io/name": "name"}
OWNERS = ("deployment", "replicaset", "statefulset", "daemonset", "cronjob", "job", "pod", "container")
FACTS = {word: f"the-{word}" for word in OWNERS}


def test_each_rule_wins_over_all_that_stand_behind_it() -> None:
    assert first(NAME_ORDER, "service.name", ANNOTATED, INSTANCE | NAME, FACTS) == "annotated"
    assert first(NAME_ORDER, "service.name", {}, INSTANCE | NAME, FACTS) == "instance"
    assert first(NAME_ORDER, "service.name", {}, NAME, FACTS) == "name"
    for i, word in enumerate(OWNERS):
        left = {w: FACTS[w] for w in OWNERS[i:]}
        assert first(NAME_ORDER, "service.name", {}, {}, left) == f"the-{word}"
    assert first(NAME_ORDER, "service.name", {}, {}, {}) == ""


def test_an_owner_of_an_unknown_kind_names_before_its_replicaset() -> None:
    assert first(NAME_ORDER, "service.name", {}, {}, {"custom": "cart", "replicaset": "cart-5d4"}) == "cart"


def test_an_empty_annotation_or_label_is_no_name() -> None:
    assert (
        first(NAME_ORDER, "service.name", {PREFIX + "service.name": ""}, {"app.kubernetes.io/name": ""}, FACTS)
        == "the-deployment"
    )


def test_the_order_is_the_users() -> None:
    order = msgspec.convert({"name": ["label:app", "annotation:team/service", "pod"]}, Naming).name
    assert first(order, "service.name", ANNOTATED, NAME, FACTS) == "the-pod"
    assert first(order, "service.name", {"team/service": "x"}, NAME, FACTS) == "x"
    assert first(order, "service.name", {"team/service": "x"}, {"app": "y"}, FACTS) == "y"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": ["deploymnt"]}, Naming)


def test_namespace_and_version() -> None:
    naming = Naming()
    assert first(naming.namespace, "service.namespace", {}, {}, {"namespace": "shop"}) == "shop"
    annotated = {PREFIX + "service.namespace": "store"}
    assert first(naming.namespace, "service.namespace", annotated, {}, {"namespace": "shop"}) == "store"
    labels = {"app.kubernetes.io/version": "1.2"}
    assert first(naming.version, "service.version", {}, labels, {"image": "9"}) == "1.2"
    assert first(naming.version, "service.version", {}, {}, {"image": "9"}) == "9"
    assert instance("shop", "cart-5d4-x2x", "app") == "shop.cart-5d4-x2x.app"


@pytest.mark.parametrize(
    ("image", "parts", "version"),
    [
        ("nginx", ("nginx", "", ""), ""),
        ("nginx:1.25", ("nginx", "1.25", ""), "1.25"),
        ("registry:5000/shop/cart", ("registry:5000/shop/cart", "", ""), ""),
        ("registry:5000/shop/cart:2", ("registry:5000/shop/cart", "2", ""), "2"),
        ("registry:5000/cart:2@sha256:ab", ("registry:5000/cart", "2", "sha256:ab"), "2@sha256:ab"),
        ("cart@sha256:ab", ("cart", "", "sha256:ab"), "sha256:ab"),
        ("", ("", "", ""), ""),
    ],
)
def test_images(image: str, parts: tuple[str, str, str], version: str) -> None:
    assert split_image(image) == parts
    assert image_version(image) == version
