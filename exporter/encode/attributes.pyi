NAMES: dict[int, str]

def names() -> tuple[str, ...]:
    """The OpenTelemetry names of all attributes that a span or a log record may carry."""

def loki_name(name: str) -> str:
    """The structured-metadata key under which Loki has an attribute of this name."""
