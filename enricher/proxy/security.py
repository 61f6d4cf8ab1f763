"""What the proxy asks of whoever guards its doors; the enricher's own answer stands in enricher/security.py.

Made before the proxy starts: files are read then, and an error names the file.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import grpc  # type: ignore[import-untyped]


class Security(Protocol):
    """TLS of the listeners, and who may send."""

    def grpc_credentials(self) -> grpc.ServerCredentials | None:
        """For add_secure_port; None: plain text."""

    def ssl_context(self) -> ssl.SSLContext | None:
        """For the HTTP listener; None: plain text."""

    def check(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers (names in lower case; gRPC: metadata) may come in. Asked before the
        body is read, on the proxy's thread: must not block.
        """


class Open:
    """No TLS, everyone may send: for loopback and tests."""

    def grpc_credentials(self) -> grpc.ServerCredentials | None:
        return None

    def ssl_context(self) -> ssl.SSLContext | None:
        return None

    def check(self, headers: Mapping[str, str]) -> bool:
        return True
