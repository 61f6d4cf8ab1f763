"""process.runtime.version, where it can be known from outside at the cost of a path or one small file.

Nothing is run, nothing guessed: a version that is told only in part ("3.11") is told so. By language: the path
(python3.11, /versions/3.11.7/, java-17, node-v20.11.1, erts-13.1), the JDK's `release` file, node's own header beside
it, Go's build information. Called by describe.py, once for each executable file.
"""

import ctypes
import os
import re
import stat
import struct

from zerospan.exporter.process.program import Program
from zerospan.exporter.process.runtime import ELF64, PAGE, first_page
from zerospan.exporter.process.text import clean, decode

CACHE = 1024
FILE_MAX = 16 << 10  # bytes; a release file has 2 KiB, node_version.h 4 KiB
GO_MAX = 64 << 10  # Go's information stands at the beginning of its section, and that at the data's
VERSION = r"\d+(?:\.\d+)+(?:[-+.]?(?:a|b|rc|p|pre|preview|dev)\d*)?"
# Folders of version managers and of archives unpacked: their name is exact.
EXACT = {
    "python": re.compile(rf"/(?:cpython-|pypy-?|[Pp]ython-?|versions/|pythons/)({VERSION})(?=[/-])"),
    "java": re.compile(r"/(?:jdk|jre|java)-?v?(\d+(?:\.\d+)+(?:[_+]\d+)?)(?=[/-])"),
    "node": re.compile(rf"/(?:node-|node/|versions/|node-versions/)v?({VERSION})(?=[/-])"),
    "ruby": re.compile(rf"/(?:ruby-|versions/|rubies/)({VERSION})(?=[/-])"),
    "beam": re.compile(rf"/erts-({VERSION})/"),
    "php": re.compile(rf"/(?:php-|php/|versions/)({VERSION})(?=[/-])"),
}
NAMED = re.compile(r"[a-z-]+?(\d+\.\d+(?:\.\d+)?)(?:-fpm)?[dmtw]{0,2}")
JAVA_MAJOR = re.compile(r"/(?:java|jdk|jre|temurin|zulu|corretto|openjdk)-?(\d+)(?=[/-])")
RELEASE = re.compile(r'^(?:JAVA_RUNTIME_VERSION|(JAVA_VERSION))="?([\w.+-]+)"?', re.MULTILINE)
NODE_HEADER = re.compile(r"^#define NODE_(MAJOR|MINOR|PATCH)_VERSION (\d+)", re.MULTILINE)
GO_MAGIC = b"\xff Go buildinf:"
GO_VERSION = re.compile(rb"go\d+(?:\.\d+)*[\w.-]*")
PT_LOAD, PF_W = 1, 2

SYS_OPENAT2 = 437  # the same on all architectures
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x01, 0x02, 0x10
libc = ctypes.CDLL(None, use_errno=True)

_known: dict[tuple[int, int, str], str] = {}


def version_of(p: Program, language: str, folder: str) -> str:
    """process.runtime.version of /proc/PID (folder), "" if it cannot be told."""
    if not p.exe or not (p.family or language == "go"):
        return ""
    try:
        at = os.stat(f"{folder}/exe")
    except OSError:
        return _by_path(p)
    key = (at.st_dev, at.st_ino, p.exe)
    found = _known.get(key)
    if found is None:
        found = clean(_read(p, language, folder), 100)
        if len(_known) >= CACHE:
            del _known[next(iter(_known))]
        _known[key] = found
    return found


def _read(p: Program, language: str, folder: str) -> str:
    home = p.exe.rpartition("/")[0].rpartition("/")[0]  # /usr/lib/jvm/java-17 of .../bin/java
    if p.family == "java":
        for place in (home, home.removesuffix("/jre")):
            found = RELEASE.findall(decode(read_inside(f"{folder}/root", f"{place}/release")))
            if found:
                return str(min(found)[1])  # the runtime's version before the specification's
    elif p.family == "node":
        text = decode(read_inside(f"{folder}/root", f"{home}/include/node/node_version.h"))
        parts = dict(NODE_HEADER.findall(text))
        if len(parts) == 3:
            return f"{parts['MAJOR']}.{parts['MINOR']}.{parts['PATCH']}"
    elif language == "go":
        return _go(f"{folder}/exe")
    return _by_path(p)


def _by_path(p: Program) -> str:
    family = "php" if p.family == "phpfpm" else p.family
    exact = EXACT[family].findall(p.exe) if family in EXACT else []
    if exact:
        return str(exact[-1])
    if family == "java":
        major = JAVA_MAJOR.findall(p.exe)
        return str(major[-1]) if major else ""
    named = NAMED.fullmatch(p.name) if family in ("python", "ruby", "php") and not p.name.startswith("pypy") else None
    return named[1] if named else ""


def read_inside(root: str, path: str) -> bytes:
    """A small regular file below `root`, symbolic links resolved as if it were `/`; b"" if there is none.

    Other mounts are not entered: a file system of the process's own could make its reader wait. openat2(2), Linux 5.6.
    """
    try:
        base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return b""
    how = struct.pack(
        "=QQQ",
        os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY,
        0,
        RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_IN_ROOT,
    )
    fd = int(libc.syscall(SYS_OPENAT2, base, os.fsencode(path.lstrip("/")), how, ctypes.c_size_t(len(how))))
    os.close(base)
    if fd < 0:
        return b""
    try:
        return os.read(fd, FILE_MAX) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(fd)


def _go(exe_link: str) -> str:
    """Go writes its version into the program's data (runtime/debug, BuildInfo), since 1.18 as text."""
    page = first_page(exe_link)
    if len(page) < 64 or not page.startswith(ELF64):
        return ""
    at, size, count = struct.unpack_from("<32xQ14xHH", page)
    for i in range(min(count, 32)):
        begin = at + i * size
        if size < 56 or begin + 56 > len(page):
            return ""
        kind, flags, offset, _, _, length = struct.unpack_from("<IIQQQQ", page, begin)
        if kind == PT_LOAD and flags & PF_W:
            return _build_info(_pread(exe_link, offset, min(length, GO_MAX)))
    return ""


def _build_info(data: bytes) -> str:
    at = data.find(GO_MAGIC)
    if at < 0 or at + 34 > len(data) or not data[at + 15] & 2:
        return ""
    n = data[at + 32]  # a varint; a version of more than 127 characters is none
    match = GO_VERSION.match(data[at + 33 : at + 33 + n]) if n < 128 else None
    return decode(match[0]) if match else ""


def _pread(path: str, offset: int, size: int) -> bytes:
    """As runtime.first_page: what is not in memory is not fetched."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        data = bytearray((size + PAGE - 1) // PAGE * PAGE)
        return bytes(data[: os.preadv(fd, [data], offset, os.RWF_NOWAIT)])
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(fd)
