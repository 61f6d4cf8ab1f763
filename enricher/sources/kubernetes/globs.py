"""Which names of labels, annotations and variables become tags: those that a glob of the configuration matches."""

from collections.abc import Callable, Iterable
from fnmatch import translate
from functools import lru_cache
from re import compile as regex
from sys import intern


class Glob:
    """Whether a name is among those picked; names are few, so answers are remembered."""

    def __init__(self, globs: Iterable[str]) -> None:
        self.any = bool(globs := tuple(globs))
        found = regex("|".join(map(translate, globs))) if globs else None
        self.match: Callable[[str], bool] = lru_cache(4096)(lambda name: bool(found and found.match(name)))

    def pick(self, prefix: str, named: dict[str, str] | None, into: dict[str, str]) -> None:
        """Those of `named` that are picked, with the prefix before their names."""
        if self.any:
            for name, value in (named or {}).items():
                if self.match(name):
                    into[intern(prefix + name)] = value
