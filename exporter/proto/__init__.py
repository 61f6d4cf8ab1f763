"""Sans-IO parsers of application protocols: bytes in, messages out. No socket, clock or configuration here."""
