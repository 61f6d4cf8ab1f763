"""The JSON schema (draft 2020-12) and the table of docs/configuration.md, both made from the model.

`python -m zerospan.exporter.config.schema` prints the schema; with `--write-docs FILE` it renews the table in
FILE. Assumes that defaults are plain values or sections. Used by editors, the documentation and tests.
"""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import NODEFAULT, inspect

from zerospan.exporter.config import shape
from zerospan.exporter.config.env import variables
from zerospan.exporter.config.model import Config
from zerospan.exporter.config.secret import Secret, Url

DIALECT = "https://json-schema.org/draft/2020-12/schema"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->"


def schema(model: type[msgspec.Struct] = Config, title: str = "Zerospan configuration") -> dict[str, Any]:
    """The schema of the YAML file. Accepts what `load` accepts as to keys, types and ranges."""
    made = msgspec.json.schema(model, schema_hook=_secret)
    for section, key in shape.SWITCHES if model is Config else ():
        rule = made["$defs"][section.capitalize()]["properties"][key]
        number = {name: rule.pop(name) for name in ("type", "minimum", "maximum")}
        rule["anyOf"] = [number, {"enum": [True, False, "on", "off"]}]
    for definition in made["$defs"].values():
        for name, rule in definition.get("properties", {}).items():
            if "$ref" in rule and name not in definition.get("required", ()):  # "capture:" with nothing below it
                definition["properties"][name] = {
                    "description": rule.get("description", ""),
                    "anyOf": [{"$ref": rule["$ref"]}, {"type": "null"}],
                }
    return {"$schema": DIALECT, "title": title, **made}


def _secret(kind: type) -> dict[str, Any]:
    if kind is Url:
        return {"type": "string", "minLength": 1}
    if kind is Secret:
        return {"type": "string"}
    raise NotImplementedError(kind)


def markdown(model: type[msgspec.Struct] = Config, prefix: str = "ZEROSPAN_") -> str:
    """One table row a key: key, expectation, default, environment variable, meaning."""
    by_path = {path: name for name, (path, _) in variables(model, prefix).items()}
    rows = ["| key | value | default | environment | meaning |", "|---|---|---|---|---|"]
    for path, field in shape.fields(shape.root(model)):
        rows.append(_row(".".join(path), field, by_path.get(path)))
        kind, _ = shape.bare(field.type)
        if isinstance(kind, inspect.VarTupleType):
            item, _ = shape.bare(kind.item_type)
            if isinstance(item, inspect.StructType):
                rows += [_row(f"{'.'.join(path)}[].{'.'.join(p)}", f, None) for p, f in shape.fields(item)]
    return "\n".join(rows) + "\n"


def _row(key: str, field: inspect.Field, variable: str | None) -> str:
    default = "required" if field.required else f"`{_plain(field)}`"
    cells = [
        f"`{key}`",
        shape.expectation(field.type),
        default,
        f"`{variable}`" if variable else "",
        shape.description(field),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(field: inspect.Field) -> str:
    value = field.default if field.default is not NODEFAULT else field.default_factory()
    return json.dumps(msgspec.to_builtins(value, enc_hook=str))


def write_docs(name: str, table: str | None = None) -> None:
    """Puts the (agent's) table between its marks in a Markdown file. Raises OSError; ValueError without the marks."""
    file = Path(name)
    text = file.read_text()
    begin = text.index(BEGIN) + len(BEGIN)
    file.write_text(text[:begin] + (table if table is not None else markdown()) + text[text.index(END, begin) :])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write-docs"]:
        write_docs(sys.argv[2])
    else:
        print(json.dumps(schema(), indent=2))
