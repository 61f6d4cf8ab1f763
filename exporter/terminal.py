"""Text for a terminal: cut to its width, coloured only where wanted, and safe.

What programs send each other ends up in names and paths: nothing of it may move the cursor or ring the
bell. Used by the console sinks and the commands.
"""

import os
import shutil
import sys
from typing import TextIO

RESET = "\x1b[0m"
COLORS = {"red": "\x1b[31m", "green": "\x1b[32m", "yellow": "\x1b[33m", "dim": "\x1b[2m", "bold": "\x1b[1m"}
WIDTH = 80
MIN_WIDTH, MAX_WIDTH = 60, 160


def wants_color(stream: TextIO | None = None) -> bool:
    """Only a terminal, and not against the user's wish (NO_COLOR, https://no-color.org)."""
    stream = sys.stdout if stream is None else stream
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def width() -> int:
    """Columns of the terminal; 80 where there is none."""
    return max(MIN_WIDTH, min(MAX_WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def paint(text: str, color: str, wanted: bool) -> str:
    """`text` in a colour of COLORS, if colours are wanted."""
    return f"{COLORS[color]}{text}{RESET}" if wanted and text else text


def plain(text: str) -> str:
    """`text` without control characters and other things that do not print."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def cut(text: str, columns: int) -> str:
    """At most `columns` characters; … stands for what is missing."""
    if len(text) <= columns:
        return text
    return text[: columns - 1] + "…" if columns > 0 else ""


def duration(ns: float) -> str:
    """At most 8 characters, three significant digits: 0.05 ms, 12.3 ms, 1.24 s, 345 s."""
    ms = max(0.0, ns / 1e6)
    if ms < 999.5:
        return f"{ms:.2f} ms" if ms < 9.995 else f"{ms:.1f} ms" if ms < 99.95 else f"{ms:.0f} ms"
    return f"{ms / 1e3:.2f} s" if ms < 9_995 else f"{ms / 1e3:.1f} s" if ms < 99_950 else f"{ms / 1e3:.0f} s"
