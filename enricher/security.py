"""Who may ask the enricher: bearer tokens, TLS and mTLS, with files that are read again when they change.

Shared by all faces: the tag service, HTTP, the OTLP proxy. A caller without rights is told nothing but that it has
none. Peers of a Unix socket have their right from the socket's file mode.
"""

import hmac
import logging
import os
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from zerospan.exporter.config.model import Section, Text
from zerospan.exporter.config.secret import Secret

log = logging.getLogger(__name__)

MAX_TOKEN_FILE = 1 << 16


class Security(Section, frozen=True):
    """Rights on every TCP face. Files are PEM and are read again when they change."""

    cert: Annotated[Text | None, Meta(description="File of the server's certificate chain; null: no TLS.")] = None
    key: Annotated[Text | None, Meta(description="File of the server's private key.")] = None
    client_ca: Annotated[
        Text | None, Meta(description="File of CA certificates; callers need a certificate of one of them (mTLS).")
    ] = None
    tokens: Annotated[
        tuple[Secret, ...],
        Meta(description="Bearer tokens of which a caller needs one; empty, here and in `token_files`: none needed."),
    ] = ()
    token_files: Annotated[
        tuple[Text, ...],
        Meta(description="Files with such tokens, one a line; empty lines and `#` lines are left out."),
    ] = ()
    anyone: Annotated[
        bool,
        Meta(description="Listen beyond loopback though neither a token nor a client certificate is asked for."),
    ] = False


class Watched:
    """Files and what is made of them; made again when one has changed. Thread-safe.

    What cannot be read or made any more is said once, and the last good one stays: a rotation in the middle of its
    renames must not shut anyone out. Raises OSError or ValueError of the first time.
    """

    def __init__(self, names: Iterable[str], make: Callable[[], Any]) -> None:
        self._names = tuple(names)
        self._make = make
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._made = make()
        self.generation = 0

    def get(self) -> Any:
        """What is made of the files as they are now."""
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen and None not in stamp:
                self._seen = stamp
                try:
                    self._made = self._make()
                    self.generation += 1
                except (OSError, ValueError) as e:
                    log.warning("%s cannot be used now, the old content stays: %s", ", ".join(self._names), e)
            return self._made

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_stamp, self._names))


def _stamp(name: str) -> tuple[int, int, int] | None:
    try:
        at = os.stat(name)
    except OSError:
        return None
    return at.st_mtime_ns, at.st_ino, at.st_size


class Rights:
    """The checks of one configuration. Raises OSError or ValueError if a file cannot be used."""

    def __init__(self, config: Security) -> None:
        self.tls = config.cert is not None
        self.mutual = config.client_ca is not None
        self.needs_token = bool(config.tokens or config.token_files)
        self._config = config
        self._tokens = Watched(config.token_files, self._read_tokens) if self.needs_token else None
        files = [name for name in (config.cert, config.key, config.client_ca) if name]
        self._pems = Watched(files, self._read_pems) if self.tls else None
        self._context = Watched(files, self._make_context) if self.tls else None

    def allows(self, authorization: str | None) -> bool:
        """Whether an Authorization header's value is one of the tokens; the time taken does not tell how far it is."""
        if self._tokens is None:
            return True
        scheme, _, token = (authorization or "").partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        found = False
        for known in self._tokens.get():
            found |= hmac.compare_digest(known, given)
        return found and scheme.lower() == "bearer"

    def check(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers (names in lower case; gRPC: metadata) may be answered. Asked before a
        body is read, on the loops of the faces: does not block for longer than a stat(2) of each file.
        """
        return self.allows(headers.get("authorization"))

    def ssl_context(self) -> ssl.SSLContext | None:
        """For a server of the standard library; None without TLS. It follows the files: OpenSSL's servername callback
        comes with each handshake, also with one that names no server.
        """
        if self._context is None:
            return None
        watched, context = self._context, self._make_context()

        def current(sock: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
            sock.context = watched.get()

        context.sni_callback = current
        return context

    def grpc_credentials(self) -> Any:
        """grpc.ServerCredentials that follow the files; None without TLS."""
        if self._pems is None:
            return None
        import grpc  # type: ignore[import-untyped]

        pems, told = self._pems, -1

        def fetch() -> Any:
            nonlocal told
            key, cert, ca = pems.get()
            if told == pems.generation:
                return None  # as it was
            told = pems.generation
            return grpc.ssl_server_certificate_configuration([(key, cert)], ca)

        first = fetch()
        return grpc.dynamic_ssl_server_credentials(first, fetch, require_client_authentication=self.mutual)

    def _read_tokens(self) -> list[bytes]:
        found = [secret.reveal().encode() for secret in self._config.tokens]
        for name in self._config.token_files:
            with open(name, "rb") as file:
                lines = file.read(MAX_TOKEN_FILE).splitlines()
            found += [line.strip() for line in lines if line.strip() and not line.startswith(b"#")]
        if not all(found) or not found:
            raise ValueError("there is no token in it")
        return found

    def _read_pems(self) -> tuple[bytes, bytes, bytes | None]:
        self._make_context()  # says what is wrong with them: grpc would say it to nobody
        config = self._config
        assert config.cert is not None and config.key is not None
        ca = Path(config.client_ca).read_bytes() if config.client_ca else None
        return Path(config.key).read_bytes(), Path(config.cert).read_bytes(), ca

    def _make_context(self) -> ssl.SSLContext:
        config = self._config
        assert config.cert is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(config.cert, config.key)
        if config.client_ca:
            context.load_verify_locations(config.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
