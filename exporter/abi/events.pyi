from typing import Final

ABI_VERSION: Final[int]
SIZES: Final[dict[str, int]]
KINDS: Final[dict[str, int]]
SEND: Final[int]
RECV: Final[int]
CONNECTING: Final[int]
ACCEPTING: Final[int]
F_CUT: Final[int]
F_NO_PAYLOAD: Final[int]
F_FAULT: Final[int]
F_GAP: Final[int]
FILTERS: Final[dict[str, int]]
FILTER_ENTRIES: Final[int]
PAYLOAD_MAX: Final[int]
CPU_RING_BYTES: Final[int]
FIELDS: Final[dict[tuple[str, str], tuple[int, int]]]
COUNTERS: Final[list[tuple[str, str]]]

def fields() -> dict[tuple[str, str], tuple[int, int]]: ...
def counters() -> list[tuple[str, str]]: ...
def build(struct: str, payload: bytes = b"", **values: int | bytes) -> bytes: ...
def parse(record: bytes) -> dict[str, int | bytes | str]: ...
