"""Checks a tree of plain values (as YAML gives them) against the model, in a user's words.

Assumes the model uses only the types named in `check`. Called by `load.py`; a value that may hold a secret is
never part of a message. `fields` is the walk that `env.py` and `schema.py` share.
"""

import difflib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import inspect

from zerospan.exporter.config.secret import Secret, Url

Path = tuple[str, ...]
Complain = Callable[[Path, str], None]
SWITCHES = (("capture", "nic"),)  # numbers from 0 to 1 that may be written `off` and `on`, too
SHOWN = 60  # characters of a wrong value in a message


def root(model: type[msgspec.Struct]) -> inspect.StructType:
    """The walkable description of a model."""
    described = inspect.type_info(model)
    assert isinstance(described, inspect.StructType)
    return described


def bare(kind: inspect.Type) -> tuple[inspect.Type, bool]:
    """`kind` without its documentation and without null; and whether null is allowed."""
    if isinstance(kind, inspect.Metadata):
        return bare(kind.type)
    if isinstance(kind, inspect.UnionType):
        others = [t for t in kind.types if not isinstance(t, inspect.NoneType)]
        assert len(others) == 1, "the model has no other unions than with null"
        return bare(others[0])[0], True
    return kind, False


def description(field: inspect.Field) -> str:
    """The documentation of a field; empty if it has none."""
    kind = field.type
    return str((kind.extra_json_schema or {}).get("description", "")) if isinstance(kind, inspect.Metadata) else ""


def fields(struct: inspect.StructType, above: Path = ()) -> Iterator[tuple[Path, inspect.Field]]:
    """All leaves, depth first, those of nullable sections too; a section itself only where it may be null."""
    for field in struct.fields:
        kind, nullable = bare(field.type)
        path = (*above, field.encode_name)
        if not isinstance(kind, inspect.StructType):
            yield path, field
            continue
        if nullable:
            yield path, field
        yield from fields(kind, path)


def expectation(kind: inspect.Type) -> str:
    """What a value of `kind` must be, for a message or a table."""
    kind, nullable = bare(kind)
    text = _expectation(kind)
    return f"{text} or null" if nullable else text


def _expectation(kind: inspect.Type) -> str:
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "an integer" + _range(kind)
        case inspect.FloatType():
            return "a number" + _range(kind)
        case inspect.LiteralType():
            return "one of " + ", ".join(map(str, kind.values))
        case inspect.CustomType():
            return "a URL" if kind.cls is Url else "a text"
        case inspect.StrType():
            if kind.max_length:
                return f"a text of 1 to {kind.max_length} characters"
            return "a text that is not empty" if kind.min_length else "a text"
        case inspect.VarTupleType():
            return "a list, each " + _expectation(bare(kind.item_type)[0])
        case inspect.DictType():
            return "a mapping of names to texts"
        case inspect.StructType():
            return "a mapping with the keys " + ", ".join(f.encode_name for f in kind.fields)
    raise TypeError(f"the model uses a type that shape.py does not know: {kind}")


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    return f" from {kind.ge} to {kind.le}" if kind.ge is not None and kind.le is not None else ""


def check(kind: inspect.Type, value: Any, path: Path, complain: Complain) -> None:
    """Calls complain(path, text) for each place where `value` does not fit `kind`."""
    kind, nullable = bare(kind)
    if value is None and nullable:
        return
    match kind:
        case inspect.StructType():
            _check_struct(kind, {} if value is None else value, path, complain)  # "capture:" with nothing below
        case inspect.DictType():
            if not isinstance(value, dict):
                _wrong(kind, value, path, complain)
                return
            for name, item in value.items():
                if not isinstance(name, str):
                    complain((*path, str(name)), f"expected a text as name, got {_shown(name)}")
                check(kind.value_type, item, (*path, str(name)), complain)
        case inspect.VarTupleType():
            if not isinstance(value, list | tuple):
                _wrong(kind, value, path, complain)
                return
            for i, item in enumerate(value):
                check(kind.item_type, item, (*path, str(i)), complain)
        case _:
            if not _fits(kind, value):
                _wrong(kind, value, path, complain)


def _check_struct(kind: inspect.StructType, value: Any, path: Path, complain: Complain) -> None:
    if not isinstance(value, dict):
        _wrong(kind, value, path, complain)
        return
    known = {f.encode_name: f for f in kind.fields}
    for name, item in value.items():
        if name in known:
            check(known[name].type, item, (*path, name), complain)
            continue
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]}?" if near else "known keys: " + ", ".join(known)
        complain((*path, str(name)), f"unknown key; {advice}")
    for name, field in known.items():
        if field.required and name not in value:
            complain((*path, name), f"missing; expected {expectation(field.type)}")


def _fits(kind: inspect.Type, value: Any) -> bool:
    match kind:
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool) and _within(kind, value)
        case inspect.FloatType():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and _within(kind, value)
        case inspect.LiteralType():
            return isinstance(value, str) and value in kind.values
        case inspect.StrType():
            most = kind.max_length if kind.max_length is not None else 1 << 20
            return isinstance(value, str) and (kind.min_length or 0) <= len(value) <= most and "\0" not in value
        case inspect.CustomType():
            return isinstance(value, str) and bool(value or kind.cls is not Url)
    raise TypeError(f"the model uses a type that shape.py does not know: {kind}")


def _within(kind: inspect.IntType | inspect.FloatType, value: float) -> bool:
    return (kind.ge is None or value >= kind.ge) and (kind.le is None or value <= kind.le)  # nan fits no range


def _wrong(kind: inspect.Type, value: Any, path: Path, complain: Complain) -> None:
    hidden = isinstance(kind, inspect.CustomType | inspect.StructType | inspect.DictType | inspect.VarTupleType)
    got = _sort(value) if hidden else _shown(value)
    complain(path, f"expected {_expectation(kind)}, got {got}")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        return _sort(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _sort(value: Any) -> str:
    """The kind of a value whose content must not be shown."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case str():
            return "a text" if value else "an empty text"
        case int() | float():
            return "a number"
    return f"a {type(value).__name__}"


def decode(kind: type, value: Any) -> Any:
    """msgspec's hook for the types of secret.py."""
    if issubclass(kind, Secret) and isinstance(value, str):
        return kind(value)
    raise NotImplementedError(kind)
