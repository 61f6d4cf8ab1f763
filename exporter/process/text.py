"""Text from other processes, made fit for a name or a label. It may be any bytes of any length."""

import posixpath
import re


def words(text: str) -> frozenset[str]:
    """The words of a table in the source."""
    return frozenset(text.split())


NAME_MAX = 255  # characters of a name; Prometheus and Loki take more, people do not
WORD = re.compile(r"\w[\w.+-]{0,99}")  # what an argument must be to become a name: no URL, no KEY=VALUE
VERSIONISH = re.compile(r"[\d.]+|[0-9a-f]{12,}|v?\d[\d.]*")  # releases/20261123120000, a commit, 1.2.3
SUFFIXES = words(
    """
    .py .pyc .pyz .pex .js .mjs .cjs .jsx .ts .mts .cts .tsx .rb .ru .php .phar .pl .psgi .sh .bash .jar .war
    .dll .exe .lua .r .R .jl .tcl .tac .ini .java
    """
)
# Folders that say where a program lies, not what it is.
PLACES = words(
    """
    bin sbin usr opt srv var lib lib64 libs libexec local etc home root mnt media data run proc share app apps
    application src source code work workspace workdir www html htdocs public public_html web dist build out
    output target release releases debug current shared quarkus-app classes main server node_modules
    site-packages dist-packages vendor venv .venv env .bin deploy deployments webapps nonexistent
    """
)
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm", "/home", "/Users")  # below them lies a user's or a random name


def decode(raw: bytes) -> str:
    """UTF-8, with a mark for what is none."""
    return raw.decode("utf-8", "replace")


def clean(text: str, limit: int = NAME_MAX) -> str:
    """Printable, without space at its ends, `limit` characters at most."""
    text = text[: 4 * limit]
    if not text.isprintable():
        text = "".join(c for c in text if c.isprintable())
    return text.strip()[:limit].rstrip()


def word(text: str) -> str:
    """The text if it may become a name, else "": an argument that is more than a word may hold a secret."""
    return text if WORD.fullmatch(text) else ""


def base(path: str) -> str:
    """The last part of a path or a URL, without query and fragment of the latter."""
    if "://" in path:
        path = re.split(r"[?#]", path, maxsplit=1)[0].partition("://")[2]
        if "/" not in path:
            return ""  # a host, perhaps with a password
    return path.rstrip("/").rpartition("/")[2]


def stem(path: str) -> str:
    """The base name without the suffix of a script, if it may become a name; else ""."""
    name = base(path)
    head, suffix = posixpath.splitext(name)
    return word(head if suffix in SUFFIXES else name)


def folder(path: str, cwd: str = "") -> str:
    """`path` (a folder, relative to `cwd`) or the nearest above it whose name says what runs; else ""."""
    path = posixpath.normpath(posixpath.join(cwd or "/", path))
    if not path.startswith("/"):
        return ""
    while path.strip("/"):
        path, _, name = path.rpartition("/")
        if path in TEMPORARY:
            return ""
        if name.lower() not in PLACES and not VERSIONISH.fullmatch(name) and not name.startswith("."):
            return word(name)
    return ""


def beside(script: str, cwd: str) -> str:
    """As `folder`, of the folder that holds a script."""
    return folder(posixpath.dirname(script), cwd)
