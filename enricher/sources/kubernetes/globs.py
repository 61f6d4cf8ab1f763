"""Which names of labels, annotations and variables become tags: those that a glob of the configuration matches.

Whoever may write an object may write as much as etcd takes (1.5 MB in one annotation), and it would be kept in memory,
sent to agents and put on each span's resource. So there is a bound for each object, and what goes over it is counted.
"""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import translate
from functools import lru_cache
from re import compile as regex
from sys import intern

MAX_TAGS = 256  # of one object, by one glob
MAX_VALUE = 4096  # bytes of a value, UTF-8; a larger one is left out: a part of it would be another value
TOO_MANY, TOO_LARGE = "tags_too_many", "tag_too_large"
BAD_ADDRESS = "bad_address"  # no IP address
REFUSED = "annotation_refused"  # it says what only the API may say: pods.pyx
Dropped = dict[str, int]  # reason: how often


def count(dropped: Dropped, reason: str, n: int = 1) -> None:
    """Under the lock of whoever owns the counters."""
    dropped[reason] = dropped.get(reason, 0) + n


def fits(value: str) -> bool:
    """Whether a value is small enough to be a tag's."""
    return len(value) <= MAX_VALUE // 4 or len(value.encode("utf-8", "surrogatepass")) <= MAX_VALUE


class Glob:
    """Whether a name is among those picked; names are few, so answers are remembered."""

    def __init__(self, globs: Iterable[str]) -> None:
        self.any = bool(globs := tuple(globs))
        found = regex("|".join(map(translate, globs))) if globs else None
        self.match: Callable[[str], bool] = lru_cache(4096)(lambda name: bool(found and found.match(name)))

    def pick(self, prefix: str, named: Mapping[str, str] | None, into: dict[str, str], dropped: Dropped) -> None:
        """Those of `named` that are picked, with the prefix before their names. dropped: counts what is left out; where
        there are too many, the first by name are taken, so that it is always the same ones.
        """
        if not self.any or not named:
            return
        picked = [name for name in named if self.match(name)]
        if len(picked) > MAX_TAGS:
            count(dropped, TOO_MANY, len(picked) - MAX_TAGS)
            picked = sorted(picked)[:MAX_TAGS]
        for name in picked:
            if fits(named[name]):
                into[intern(prefix + name)] = named[name]
            else:
                count(dropped, TOO_LARGE)
