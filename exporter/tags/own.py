"""The tags of own processes: which keys each depends on, and who must be described again when one changes.

Used by the drain thread alone: process/describe.py asks, the pipeline takes the changes to the engine.
"""

from datetime import datetime
from typing import Protocol

from zerospan.enricher import keys
from zerospan.exporter.process.cgroup import Place

NOT_ANSWERED, NOTHING_KNOWN = 1, 2  # ProcessInfo.waits
ENVIRONMENT = "zerospan.process.env."
SAME_S = 2.0  # the enricher reckons a process's begin by a clock that it read at another time
STEP = 32  # processes described again between two steps of the drain: some 0.1 ms each


class Source(Protocol):
    """follow.Follower."""

    def find(self, key: bytes) -> dict[str, str] | None: ...

    def answered(self, key: bytes) -> bool: ...

    def want(self, wanted: tuple[bytes, ...]) -> None: ...

    def drop(self, dropped: tuple[bytes, ...]) -> None: ...

    def changes(self) -> list[bytes]: ...


def same_time(a: str, b: str) -> bool:
    """Whether two process.creation.time can be of one process."""
    try:
        return abs((datetime.fromisoformat(a) - datetime.fromisoformat(b)).total_seconds()) < SAME_S
    except ValueError:
        return False


class Own:
    """node: this node's name; what its key says is under all that is said of processes."""

    def __init__(self, source: Source, node: str) -> None:
        self._source = source
        self._name = node
        self._node = keys.node(node)
        self._of: dict[str, tuple[bytes, ...]] = {}  # ProcessInfo.shared -> keys
        self._users: dict[bytes, set[str]] = {}
        self._due: dict[str, None] = {}  # to be described again, in the order in which it was noticed
        source.want((self._node,))

    def node(self) -> dict[str, str]:
        """The node's tags."""
        return self._source.find(self._node) or {}

    def of(self, tgid: int, place: Place, shared: str, created: str = "") -> tuple[dict[str, str], int]:
        """Tags of a process: the container's, else the pod's, over its environment (opted in) and the node's. And
        ProcessInfo.waits. shared: follow it by this name. created: process.creation.time, to tell it from others that
        had or will have its number.
        """
        container = keys.container(place.container) if place.container else b""
        pod = keys.pod(place.pod) if place.pod else b""
        process = keys.process(self._name, tgid) if tgid else b""
        if shared and shared not in self._of:
            self._follow(shared, tuple(key for key in (container, pod, process) if key))
        tags = self.node()
        if process:
            # Said once and not followed, what else it has is of that time; and its names are the describer's to choose.
            said = self._source.find(process) or {}
            if same_time(said.get("process.creation.time", ""), created):
                tags = tags | {name: value for name, value in said.items() if name.startswith(ENVIRONMENT)}
        found = None
        for key in (container, pod):
            if key and found is None:
                found = self._source.find(key)
        waits = 0
        if found is None and (container or pod):
            asked = [key for key in (container, pod) if key]
            waits = NOTHING_KNOWN if all(self._source.answered(key) for key in asked) else NOT_ANSWERED
        return tags | (found or {}), waits

    def retire(self, shared: str) -> None:
        """The process has ended, and its last spans have left."""
        unused = []
        for key in self._of.pop(shared, ()):
            users = self._users.get(key)
            if users is not None:
                users.discard(shared)
                if not users:
                    del self._users[key]
                    unused.append(key)
        self._due.pop(shared, None)
        if unused:
            self._source.drop(tuple(unused))

    def due(self) -> list[str]:
        """Processes (ProcessInfo.shared) whose tags have changed, some of them: the others at the next call."""
        for key in self._source.changes():
            if key == self._node:
                self._due.update(dict.fromkeys(self._of))
                self._due[""] = None  # the interfaces' spans
            elif key[:1] == keys.PROCESS and self._source.find(key) is None:
                pass  # most often nothing is known of it: nothing to say anew
            elif key in self._users:
                self._due.update(dict.fromkeys(self._users[key]))
        some = list(self._due)[:STEP]
        for shared in some:
            del self._due[shared]
        return some

    def _follow(self, shared: str, asked: tuple[bytes, ...]) -> None:
        new = tuple(key for key in asked if key not in self._users)
        self._of[shared] = asked
        for key in asked:
            self._users.setdefault(key, set()).add(shared)
        if new:
            self._source.want(new)
