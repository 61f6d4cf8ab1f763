"""Language and runtime of a process, where they can be known from outside. Called by describe.py.

Values: semantic conventions, telemetry.sdk.language and process.runtime.name. Versions: versions.py.
"""

import os
import re
import struct

from zerospan.exporter.process.program import Program

LANGUAGES = {
    "python": "python",
    "java": "java",
    "node": "nodejs",
    "deno": "webjs",
    "bun": "webjs",
    "ruby": "ruby",
    "php": "php",
    "phpfpm": "php",
    "dotnet": "dotnet",
    "beam": "erlang",
}
RUNTIMES = {
    "node": "nodejs",
    "deno": "deno",
    "bun": "bun",
    "php": "cli",
    "phpfpm": "fpm-fcgi",
    "beam": "BEAM",
}
# Builds of OpenJDK, by the folders that they are installed to; all say the same java.runtime.name.
OPENJDK = re.compile(r"openjdk|temurin|corretto|zulu|semeru|sapmachine|liberica|microsoft|/java-\d+-")
PAGE = 4096
PT_NOTE = 4
ELF64 = b"\x7fELF\x02\x01"  # 64 bits, little-endian


def language_of(p: Program, exe_link: str) -> str:
    """telemetry.sdk.language, "" if not known. exe_link: /proc/PID/exe, read if it is no interpreter."""
    if p.family:
        return LANGUAGES.get(p.family, "")
    return "go" if p.exe and _is_go(first_page(exe_link)) else ""


def runtime_of(p: Program, language: str) -> str:
    """process.runtime.name, "" if not known."""
    if p.family == "python":
        return "pypy" if p.name.startswith("pypy") else "cpython"
    if p.family == "ruby":
        return "truffleruby" if p.name.startswith("truffle") else "ruby"
    if p.family == "java":
        return "OpenJDK Runtime Environment" if OPENJDK.search(p.exe) else ""
    if p.family == "dotnet":
        return ".NET" if p.name == "dotnet" else "Mono"
    return RUNTIMES.get(p.family, "go" if language == "go" else "")


def first_page(path: str) -> bytes:
    """The first page of a file if it is in memory, b"" if not: it is not fetched from a disk for this."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        page = bytearray(PAGE)
        n = os.preadv(fd, [page], 0, os.RWF_NOWAIT)
        return bytes(page[:n])
    except OSError:
        return b""  # not in memory, or a file system that cannot say
    finally:
        os.close(fd)


def _is_go(page: bytes) -> bool:
    """Go's linker marks its programs by an ELF note named "Go" (its build id), which stands in the first
    page.
    """
    if len(page) < 64 or not page.startswith(ELF64):
        return False
    at, size, count = struct.unpack_from("<32xQ14xHH", page)
    for i in range(min(count, 32)):
        begin = at + i * size
        if size < 56 or begin + 56 > len(page):
            return False
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", page, begin)
        if kind == PT_NOTE and _has_go_note(page[offset : offset + length]):
            return True
    return False


def _has_go_note(notes: bytes) -> bool:
    at = 0
    while at + 12 <= len(notes):
        name, data, kind = struct.unpack_from("<III", notes, at)
        if kind == 4 and notes[at + 12 : at + 12 + name] == b"Go\0\0":
            return True
        at += 12 + (name + 3 & ~3) + (data + 3 & ~3)
    return False
