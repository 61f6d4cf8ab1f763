from typing import Final

ROWS: Final[list[tuple[str, str]]]
NAMES: Final[list[str]]
DROPS: Final[tuple[str, ...]]
