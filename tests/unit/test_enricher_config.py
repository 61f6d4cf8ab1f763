"""The enricher's configuration: layers, contradictions, the schema and the documentation's table."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from zerospan.enricher.config import Config, ConfigError, load, markdown, schema
from zerospan.enricher.sources import registry

DOCS = Path(__file__).parents[2] / "docs" / "enricher-configuration.md"


def test_layers_lie_over_one_another(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("scope: cluster\ncluster: {name: file}\nlimits: {keep_s: 5, max_keys: 5000}\n")
    env = {
        "ZEROSPAN_ENRICHER_CONFIG": str(tmp_path / "f"),
        "ZEROSPAN_ENRICHER_CLUSTER_NAME": "env",
        "ZEROSPAN_ENRICHER_LIMITS_KEEP_S": "7",
        "ZEROSPAN_CLUSTER_NAME": "the agent's prefix",
        "ZEROSPAN_ENRICHER_SECURITY_TOKEN_FILES": "/a, /b",
    }
    config = load(None, env, {"cluster.name": "option", "node": None})
    assert (config.scope, config.cluster.name, config.limits.keep_s) == ("cluster", "option", 7)
    assert config.limits.max_keys == 5000 and config.security.token_files == ("/a", "/b")


def test_defaults_need_nothing() -> None:
    config = load(None, {})
    assert config == Config() and config.listen.grpc is None and config.listen.unix


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("listen: {grpc: '0.0.0.0:4319'}", "listen.grpc: beyond loopback"),
        ("listen: {http: ':9465'}", "listen.http: beyond loopback"),
        ("listen: {http: 'x'}", "listen.http: expected HOST:PORT"),
        ("security: {cert: a}", "cert and key need each other"),
        ("security: {client_ca: a}", "security.client_ca: needs cert"),
        ("security: {tokens: ['']}", "a token that is empty"),
        ("listen: {unix: null}", "there is no face"),
        ("scope: cluster\nupstream: {address: 'a:1'}", "only an enricher of scope"),
        ("upstream: {address: 'a:1', cert: x}", "upstream: cert and key"),
        ("upstream: {}", "upstream.address: missing"),
        ("scop: node", "did you mean scope"),
    ],
)
def test_contradictions_are_told_with_their_place(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "f").write_text(text)
    with pytest.raises(ConfigError) as e:
        load(str(tmp_path / "f"), {})
    assert problem in str(e.value)


def test_a_bad_address_of_the_proxy_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("proxy: {endpoint: 'http://x:1', listen_http: 'y', listen_grpc: ':99999'}")
    with pytest.raises(ConfigError) as e:
        load(str(tmp_path / "f"), {})
    for key in ("listen_http", "listen_grpc"):
        assert str(e.value).count(f"proxy.{key}: expected HOST:PORT") == 1 == str(e.value).count(key)


@pytest.mark.parametrize(
    "text",
    [
        "listen: {grpc: '127.0.0.1:4319', http: '[::1]:9465'}",
        "listen: {grpc: '0.0.0.0:4319'}\nsecurity: {tokens: [a]}",
        "listen: {grpc: ':4319'}\nsecurity: {anyone: true}",
        "upstream: {address: 'a:1', token: x}\nlimits:\nsources:",
    ],
)
def test_what_load_takes_the_schema_takes(tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_text(text)
    load(str(tmp_path / "f"), {})
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.Draft202012Validator(schema()).validate(yaml.safe_load(text))


def test_every_key_has_a_description() -> None:
    made: dict[str, Any] = schema()
    for name, definition in made["$defs"].items():
        assert definition["additionalProperties"] is False, name
        for key, rule in definition["properties"].items():
            if "$ref" not in str(rule):  # a section's keys have their own
                assert rule["description"].rstrip().endswith("."), f"{name}.{key}"


def test_the_table_of_the_documentation_is_in_step() -> None:
    text = DOCS.read_text()
    begin, end = "<!-- table: begin -->\n", "<!-- table: end -->"
    table = text[text.index(begin) + len(begin) : text.index(end)]
    assert table == markdown(), "run: python -m zerospan.enricher.config --write-docs docs/enricher-configuration.md"


def test_the_registry_builds_only_what_is_here() -> None:
    for name in registry.settings():
        assert name in registry.SOURCES
    with pytest.raises(ImportError):
        registry.find("zerospan.enricher.sources.none:Source")
