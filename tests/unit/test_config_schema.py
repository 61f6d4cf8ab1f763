"""The JSON schema says what load() does; the documentation's table is the model's."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from zerospan.exporter.config import ConfigError, load
from zerospan.exporter.config.schema import markdown, schema

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


def test_every_key_has_a_description_and_unknown_keys_are_refused() -> None:
    for name, definition in schema()["$defs"].items():
        assert definition["additionalProperties"] is False, name
        for key, rule in definition["properties"].items():
            assert rule["description"].rstrip().endswith((".", "?")), f"{name}.{key}"


GOOD = [
    "{}",
    "capture:",
    "capture: {nic: on}",
    "capture: {nic: 'off'}",
    "capture: {nic: 0.25}",
    "otlp: {traces: null, logs: {endpoint: 'http://x'}}",
    "otlp: {traces: {endpoint: x, protocol: grpc, headers: {a: b}, tls: {insecure: true}, timeout_s: 0.5}}",
    "loki: {url: 'http://x', labels: {a: b}, tenant: null}",
    "filter: {pid: [1], exe: [a]}\nmetrics: {listen: ':1'}",
    "service: {rules: [{match: {exe: a}, name: b}]}",
]
BAD = [
    "capturs: {}",
    "capture: {ring_bytes: 0}",
    "capture: {payload_bytes: 20000}",
    "capture: {hooks: x}",
    "capture: {nic: 1.5}",
    "capture: {nic: some}",
    "privacy: {mask: 'yes please'}",
    "filter: {port: [0]}",
    "filter: {port: null}",
    "otlp: {traces: {}}",
    "otlp: {traces: {endpoint: ''}}",
    "otlp: {queue_bytes: 1}",
    "loki: {url: 'http://x', headers: {a: 1}}",
    "service: {rules: [{name: b}]}",
    "run_dir: ''",
    "[]",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_load_takes_the_schema_takes(validator: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_text(text)
    load(str(tmp_path / "f"), {})
    validator.validate(yaml.safe_load(text))


@pytest.mark.parametrize("text", BAD)
def test_what_load_refuses_the_schema_refuses(validator: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_text(text)
    with pytest.raises(ConfigError):
        load(str(tmp_path / "f"), {})
    assert not validator.is_valid(yaml.safe_load(text))


def test_the_table_of_the_documentation_is_in_step() -> None:
    text = DOCS.read_text()
    begin, end = "<!-- table: begin -->\n", "<!-- table: end -->"
    table = text[text.index(begin) + len(begin) : text.index(end)]
    assert table == markdown(), "run: python -m zerospan.exporter.config.schema --write-docs docs/configuration.md"


def test_the_examples_of_the_documentation_load(validator: Any, tmp_path: Path) -> None:
    blocks = DOCS.read_text().split("```yaml\n")[1:]
    assert blocks
    for block in blocks:
        text = block.partition("```")[0]
        (tmp_path / "f").write_text(text)
        load(str(tmp_path / "f"), {})
        validator.validate(yaml.safe_load(text))
