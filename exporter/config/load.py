"""Makes the Config of a run: defaults < file < OTEL_* < ZEROSPAN_* < command line.

Called once, by the command line; `load_as` by the enricher's, too, for its own model. Everything that is wrong is
reported at once, each with its place.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from zerospan.exporter.config import env as environment
from zerospan.exporter.config import rules, shape
from zerospan.exporter.config.model import Config
from zerospan.exporter.config.secret import Secret
from zerospan.exporter.config.shape import Path
from zerospan.exporter.config.tree import ConfigError, Tree

Model = TypeVar("Model", bound=msgspec.Struct)
PREFIX = "ZEROSPAN_"


def load(path: str | None, env: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration of this run.

    `path`: YAML file; None: the one that ZEROSPAN_CONFIG names, if any. `env`: the environment. `overrides`:
    values of the command line by key ("metrics.listen", "filter.pid"); None values are not given and do not
    count. Raises ConfigError.
    """
    return load_as(Config, path, env, overrides, prefix=PREFIX, rules=rules.problems, standard=environment.lay_otel)


def load_as(
    model: type[Model],
    path: str | None,
    env: Mapping[str, str],
    overrides: Mapping[str, Any] | None,
    *,
    prefix: str,
    rules: Callable[[Model], Iterable[tuple[Path, str]]],
    standard: Callable[[Tree, Mapping[str, str], frozenset[Path]], None] | None = None,
) -> Model:
    """`load` for any model of Sections. prefix: of its variables; PREFIX + CONFIG names the file. rules: what is wrong
    between values. standard: lays variables that others defined, under those of the prefix. Raises ConfigError.
    """
    tree = Tree()
    path = path if path is not None else env.get(f"{prefix}CONFIG") or None
    if path is not None:
        tree.lay_file(path)
    given = {tuple(key.split(".")): value for key, value in (overrides or {}).items() if value is not None}
    if standard is not None:
        variables = {at for name, (at, _) in environment.variables(model, prefix).items() if env.get(name)}
        standard(tree, env, frozenset(given) | variables)
    environment.lay_zerospan(tree, env, model, prefix)
    for key, value in given.items():
        tree.set(key, value, "command line")

    _switches(tree.values)
    wrong: list[str] = []
    shape.check(shape.root(model), tree.values, (), lambda at, text: wrong.append(tree.problem(at, text)))
    if wrong:
        raise ConfigError(wrong)
    config = msgspec.convert(_without_empty(tree.values, shape.root(model)), model, dec_hook=shape.decode)
    wrong = [tree.problem(at, text) for at, text in rules(config)]
    if wrong:
        raise ConfigError(wrong)
    return config


def _switches(values: dict[str, Any]) -> None:
    """Numbers for the words of keys that are a share and a switch; YAML 1.1 reads `on` and `off` as true and false."""
    for section, key in shape.SWITCHES:
        below = values.get(section)
        if isinstance(below, dict) and isinstance(below.get(key), bool | str):
            below[key] = {False: 0, True: 1, "off": 0, "on": 1}.get(below[key], below[key])
    enricher = values.get("enricher")
    if isinstance(enricher, dict) and enricher.get("address") is False:
        enricher["address"] = "off"


def describe(config: msgspec.Struct) -> dict[str, Any]:
    """`config` as plain values, secrets masked: for `zerospan check` and support."""
    return dict(msgspec.to_builtins(config, enc_hook=_masked))


def _masked(value: Any) -> str:
    if isinstance(value, Secret):
        return str(value)
    raise NotImplementedError(type(value))


def _without_empty(values: dict[str, Any], struct: msgspec.inspect.StructType) -> dict[str, Any]:
    """Leaves out sections that are written but empty ("capture:" alone), which the model has no null for."""
    kept = {}
    for field in struct.fields:
        if field.encode_name not in values:
            continue
        value = values[field.encode_name]
        kind, nullable = shape.bare(field.type)
        if isinstance(kind, msgspec.inspect.StructType):
            if value is None and not nullable:
                continue
            value = _without_empty(value, kind) if value is not None else None
        kept[field.encode_name] = value
    return kept
