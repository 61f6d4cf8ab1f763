from collections.abc import Sequence
from typing import Any, Literal

def encode(
    end: Literal["c", "s", "t"],
    key: int,
    up: int = 0,
    flags: int = 0,
    method: int = 0,
    wire: int = 0,
    trace_flags: int = 0,
    trace_id: bytes = ...,
    parent: int = 0,
    name: bytes = b"",
    points: Sequence[tuple[int, int]] = (),
    address: tuple[bytes, int] | None = None,
) -> bytes: ...
def decode(value: bytes, end: Literal["c", "s", "t"], key: int) -> dict[str, Any] | None: ...
def stored_as(key: int, end: Literal["c", "s", "t"]) -> bytes: ...
def is_agents(command: bytes) -> bool: ...
