"""Layers of settings laid over one another, each value with the place it came from.

Assumes the layers are laid in rising precedence (file, environment, command line). Used by `load.py` and
`env.py`; knows nothing of the model: what does not fit it is found afterwards, by `shape.py`, and told with
its place.
"""

import re
from pathlib import Path as File
from typing import Any

import yaml

from zerospan.exporter.config.shape import Path

MAX_FILE_BYTES = 1 << 20


class ConfigError(Exception):
    """The configuration cannot be used. `problems`: one text for each thing that is wrong, with its place."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Tree:
    """Nested plain values, and where each came from."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._places: dict[Path, tuple[str, int | None]] = {}

    def get(self, path: Path) -> Any:
        """The value at `path`; None if nothing is there."""
        node: Any = self.values
        for name in path:
            if not isinstance(node, dict):
                return None
            node = node.get(name)
        return node

    def set(self, path: Path, value: Any, place: str) -> None:
        """Lays one value over what is at `path`; sections on the way are made."""
        node = self.values
        for i, name in enumerate(path[:-1]):
            below = node.get(name)
            if below is None:
                below = node[name] = {}
            if not isinstance(below, dict):
                return  # the file has no section there: its own mistake, reported with the file's place
            node = below
            self._places.setdefault(path[: i + 1], (place, None))
        node[path[-1]] = value
        self._places = {p: at for p, at in self._places.items() if p[: len(path)] != path}
        self._places[path] = (place, None)

    def lay_file(self, name: str) -> None:
        """Lays a YAML file over what is there.

        Raises ConfigError if it cannot be read, is not YAML, is no mapping, or has a key twice.
        """
        values, lines = _read(name)
        for key in values:
            self.set((str(key),), values[key], name)
        for path, line in lines.items():
            self._places[path] = (name, line)

    def problem(self, path: Path, text: str) -> str:
        """`PLACE: KEY: text (line N)`."""
        place, line = "configuration", None
        for end in range(len(path), 0, -1):
            if path[:end] in self._places:
                place, line = self._places[path[:end]]
                break
        return f"{place}: {dotted(path)}: {text}" + (f" (line {line})" if line else "")


def dotted(path: Path) -> str:
    """`("service", "rules", "0", "name")` as `service.rules[0].name`."""
    return "".join(f"[{p}]" if p.isdecimal() and i else ("." if i else "") + p for i, p in enumerate(path))


def _read(name: str) -> tuple[dict[Any, Any], dict[Path, int]]:
    try:
        with File(name).open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as e:
        raise ConfigError([f"{name}: cannot be read: {e.strerror or e}"]) from None
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError([f"{name}: larger than {MAX_FILE_BYTES} bytes; is this the right file?"])
    lines: dict[Path, int] = {}
    twice: list[str] = []
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            _lines(node, (), lines, twice, name, 0)
            values = loader.construct_document(node) if node is not None else {}
        finally:
            loader.dispose()
    except yaml.YAMLError as e:
        # The full text of the error quotes the file, which may hold a secret: the problem and the line are
        # enough.
        mark = getattr(e, "problem_mark", None)
        problem = re.sub(
            r"(undefined alias|duplicate anchor) '.*'", r"\1", str(getattr(e, "problem", None) or "not YAML")
        )
        raise ConfigError([f"{name}: {problem}" + (f" (line {mark.line + 1})" if mark else "")]) from None
    except (ValueError, RecursionError) as e:  # PyYAML: an impossible date, not UTF-8, endless nesting
        raise ConfigError([f"{name}: not YAML: {type(e).__name__}"]) from None
    if twice:
        raise ConfigError(twice)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError([f"{name}: expected a mapping of sections (capture:, otlp:, ...) at the top"])
    return values, lines


def _lines(node: yaml.Node | None, path: Path, lines: dict[Path, int], twice: list[str], name: str, depth: int) -> None:
    """Notes the line of each key, and each key that stands twice (YAML would take the last silently)."""
    if depth > 16:  # deeper than any model; an alias that holds itself ends here
        return
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            below = (*path, str(key.value))
            if below[-1] in seen and key.tag != "tag:yaml.org,2002:merge":
                twice.append(f"{name}: {dotted(below)}: stands twice (lines {seen[below[-1]]} and {line})")
            seen[below[-1]] = line
            lines[below] = line
            _lines(value, below, lines, twice, name, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            lines[*path, str(i)] = item.start_mark.line + 1
            _lines(item, (*path, str(i)), lines, twice, name, depth + 1)
