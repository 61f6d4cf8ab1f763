"""The enricher's configuration: `load` makes a frozen `Config` from a YAML file, the environment and the command line.

By the machinery of exporter/config (its load, env, shape, tree); `model.py` defines every key, `rules.py` what must
hold between them. `python -m zerospan.enricher.config` renews docs/enricher-configuration.md.
"""

from collections.abc import Mapping
from typing import Any

from zerospan.enricher.config import rules
from zerospan.enricher.config.model import Config
from zerospan.exporter.config.load import describe, load_as
from zerospan.exporter.config.schema import markdown as table_of
from zerospan.exporter.config.schema import schema as schema_of
from zerospan.exporter.config.tree import ConfigError

__all__ = ["Config", "ConfigError", "describe", "load", "markdown", "schema"]

PREFIX = "ZEROSPAN_ENRICHER_"


def load(path: str | None, env: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration of this run: defaults < file < ZEROSPAN_ENRICHER_* < overrides ("listen.grpc": ...).

    path: None takes the file that ZEROSPAN_ENRICHER_CONFIG names, if any. Raises ConfigError.
    """
    return load_as(Config, path, env, overrides, prefix=PREFIX, rules=rules.problems)


def schema() -> dict[str, Any]:
    """The JSON schema of the YAML file."""
    return schema_of(Config, "Zerospan enricher configuration")


def markdown() -> str:
    """The table of docs/enricher-configuration.md."""
    return table_of(Config, PREFIX)
