from typing import Any, Final

from zerospan.exporter.process import ProcessInfo

class Replay:
    path: str
    about: dict[str, Any]
    kernel: dict[str, int]
    records: int
    first_ns: int
    now: int
    wall_offset: int
    def __init__(self, path: str, partial: bool = False) -> None: ...
    def step(self) -> tuple[int, int, Any] | None: ...
    def describe(self, tgid: int, comm: str, cgroup_id: int = 0) -> ProcessInfo: ...
    def share(self) -> float: ...
    def close(self) -> None: ...

TICK: Final[int]
SETTLE: Final[int]
EXPIRE: Final[int]
FORGET: Final[int]
FINISH: Final[int]
