"""The sinks of a configuration: all or none, and errors that name the key."""

import builtins
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from sink_receivers import batch, make_certificates, receiver, until

from zerospan.exporter.config import ConfigError, load
from zerospan.exporter.sinks import files
from zerospan.exporter.sinks.build import build, stop_all


@pytest.fixture(autouse=True)
def converter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_converter", lambda signal: lambda payload: b"{}")


def test_nothing_asked_for_is_no_sink() -> None:
    assert build(load(None, {})) == []


def test_all_kinds_with_their_settings(tmp_path: Path) -> None:
    settings = {
        "otlp.traces.endpoint": "http://127.0.0.1:4318",
        "otlp.logs.endpoint": "http://127.0.0.1:4317",
        "otlp.logs.protocol": "grpc",
        "otlp.queue_bytes": 70_000,
        "loki.url": "http://127.0.0.1:3100",
        "files.traces": str(tmp_path / "traces"),
        "files.logs": str(tmp_path / "logs"),
    }
    sinks = build(load(None, {}, settings))
    assert [(s.name, s.signal) for s in sinks] == [
        ("otlp/traces", "traces"),
        ("otlp/logs", "logs"),
        ("loki", "loki"),
        ("file/traces", "traces"),
        ("file/logs", "logs"),
    ]
    assert [s.stats.queue_limit_bytes for s in sinks[:3]] == [70_000, 70_000, 32 << 20]
    stop_all(sinks, 1)


def test_every_problem_is_told_with_its_key_and_nothing_stays_open(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    settings: dict[str, Any] = {
        "otlp.traces.endpoint": "https://127.0.0.1:4318",
        "otlp.traces.tls.ca": str(tmp_path / "missing.pem"),
        "otlp.logs.endpoint": "https://127.0.0.1:4317",
        "otlp.logs.protocol": "grpc",
        "otlp.logs.tls.ca": str(broken),
        "files.traces": str(tmp_path / "good"),
        "files.logs": str(tmp_path / "none" / "logs"),
    }
    with pytest.raises(ConfigError) as raised:
        build(load(None, {}, settings))
    first, second, third = raised.value.problems
    assert first == f"otlp.traces.tls: {tmp_path}/missing.pem: No such file or directory"
    assert second.startswith(f"otlp.logs.tls: {broken}: not usable as PEM")
    assert third == f"files.logs: {tmp_path}/none/logs: No such file or directory"
    assert not [fd for fd in Path("/proc/self/fd").iterdir() if fd.exists() and str(fd.resolve()).endswith("/good")]


def test_a_key_that_is_not_of_the_certificate(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    settings = {
        "loki.url": "https://127.0.0.1:3100",
        "loki.tls.cert": made.client_cert,
        "loki.tls.key": made.server_key,
    }
    with pytest.raises(ConfigError, match="loki.tls: .*client.pem: not usable as PEM"):
        build(load(None, {}, settings))


def test_without_grpcio_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "grpc":
            raise ModuleNotFoundError("No module named 'grpc'", name="grpc")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    config = load(None, {}, {"otlp.traces.endpoint": "http://127.0.0.1:4317", "otlp.traces.protocol": "grpc"})
    with pytest.raises(ConfigError, match=r"otlp\.traces\.protocol: gRPC needs .*zerospan\[grpc\].*http/protobuf"):
        build(config)


def test_grpcio_is_not_imported_for_http() -> None:
    code = """
import sys
from zerospan.exporter.config import load
from zerospan.exporter.sinks.build import build
assert len(build(load(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}))) == 2
assert "grpc" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_dead_receiver_does_not_use_up_the_time_of_the_others() -> None:
    with receiver() as dead, receiver() as alive:
        dead.gate.clear()
        settings = {"otlp.traces.endpoint": dead.url, "loki.url": alive.url}
        otlp, loki = sinks = build(load(None, {}, settings))
        for sink in sinks:
            sink.start()
        otlp.put(batch(count=2))
        until(lambda: dead.requests)
        loki.put(batch(b"{}", 3, "loki"))
        began = time.monotonic()
        stop_all(sinks, 0.5)
        assert time.monotonic() - began < 3
        assert otlp.stats.dropped == {"shutdown": 2} and loki.stats.sent_items == 3
