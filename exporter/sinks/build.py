"""The sinks of a configuration. Builds all or none; starts nothing.

Called by the function that builds the topology. An error names the key to change. (/metrics and the console
tree are not sinks of encoded batches: they are built elsewhere.)
"""

import threading
from collections.abc import Callable, Sequence

from zerospan.exporter.config.model import Config, OtlpSignal
from zerospan.exporter.config.tree import ConfigError
from zerospan.exporter.sinks.base import Signal, Sink
from zerospan.exporter.sinks.files import FileSink
from zerospan.exporter.sinks.loki import LokiSink
from zerospan.exporter.sinks.otlp_grpc import OtlpGrpcSink
from zerospan.exporter.sinks.otlp_http import OtlpHttpSink
from zerospan.exporter.sinks.retry import RetryPolicy


def build(config: Config) -> list[Sink]:
    """OTLP, Loki and file sinks, not yet started. Raises ConfigError with all that cannot be built."""
    wanted: list[tuple[str, Callable[[], Sink]]] = []
    receivers: tuple[tuple[Signal, OtlpSignal | None], ...] = (
        ("traces", config.otlp.traces),
        ("logs", config.otlp.logs),
    )
    for signal, receiver in receivers:
        if receiver is not None:
            wanted.append((f"otlp.{signal}", _otlp(config, signal, receiver)))
    if (loki := config.loki) is not None:
        wanted.append(("loki", lambda: LokiSink("loki", loki)))
    paths: tuple[tuple[Signal, str | None], ...] = (
        ("traces", config.files.traces),
        ("logs", config.files.logs),
    )
    for signal, path in paths:
        if path is not None:
            wanted.append((f"files.{signal}", _file(config, signal, path)))

    sinks: list[Sink] = []
    problems: list[str] = []
    for key, make in wanted:
        try:
            sinks.append(make())
        except (OSError, ImportError, ValueError) as e:
            problems.append(_problem(key, e))
    if problems:
        for sink in sinks:
            sink.stop(0)
        raise ConfigError(problems)
    return sinks


def stop_all(sinks: Sequence[Sink], deadline_s: float) -> None:
    """Stops all at once: a dead receiver must not use up the time of the others."""
    threads = [threading.Thread(target=sink.stop, args=(deadline_s,), daemon=True) for sink in sinks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _otlp(config: Config, signal: Signal, receiver: OtlpSignal) -> Callable[[], Sink]:
    kind = OtlpGrpcSink if receiver.protocol == "grpc" else OtlpHttpSink
    return lambda: kind(
        f"otlp/{signal}",
        signal,
        receiver,
        queue_bytes=config.otlp.queue_bytes,
        overflow=config.otlp.overflow,
        retry=RetryPolicy(max_elapsed_s=config.otlp.retry_max_s),
    )


def _file(config: Config, signal: Signal, path: str) -> Callable[[], Sink]:
    files = config.files
    return lambda: FileSink(
        f"file/{signal}", signal, path, rotate_bytes=files.rotate_bytes, rotate_keep=files.rotate_keep
    )


def _problem(key: str, error: Exception) -> str:
    if isinstance(error, ImportError) and error.name == "grpc":
        package = "the package grpcio: pip install 'zerospan[grpc]'"
        return f"{key}.protocol: gRPC needs {package}; or use http/protobuf"
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        place = key if key.startswith("files.") else f"{key}.tls"
        return f"{place}: {what}{error.strerror or error}"
    return f"{key}: {error}"
