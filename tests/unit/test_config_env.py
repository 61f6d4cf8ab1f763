"""The environment: OpenTelemetry's variables by the specification, and ZEROSPAN_<KEY>."""

import logging
from pathlib import Path

import pytest

from zerospan.exporter.config import Config, ConfigError, load
from zerospan.exporter.config.env import variables
from zerospan.exporter.config.model import OtlpSignal

BASE = "OTEL_EXPORTER_OTLP_"


def traces(env: dict[str, str]) -> OtlpSignal:
    receiver = load(None, env).otlp.traces
    assert receiver is not None
    return receiver


def urls(env: dict[str, str]) -> tuple[str | None, str | None]:
    otlp = load(None, env).otlp
    return (
        otlp.traces.endpoint.reveal() if otlp.traces else None,
        otlp.logs.endpoint.reveal() if otlp.logs else None,
    )


@pytest.mark.parametrize(
    ("env", "traces_url", "logs_url"),
    [
        ({"ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces", "http://c:4318/v1/logs"),
        ({"ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces", "http://c:4318/v1/logs"),
        (
            {"ENDPOINT": "http://c/my/path/?k=1"},
            "http://c/my/path/v1/traces?k=1",
            "http://c/my/path/v1/logs?k=1",
        ),
        ({"TRACES_ENDPOINT": "http://c:1/own"}, "http://c:1/own", None),
        ({"TRACES_ENDPOINT": "http://c:1"}, "http://c:1/", None),
        ({"ENDPOINT": "http://a", "LOGS_ENDPOINT": "http://b/l"}, "http://a/v1/traces", "http://b/l"),
        ({"ENDPOINT": "http://c:4317", "PROTOCOL": "grpc"}, "http://c:4317", "http://c:4317"),
        ({"ENDPOINT": "http://c:4317", "TRACES_PROTOCOL": "grpc"}, "http://c:4317", "http://c:4317/v1/logs"),
        ({"ENDPOINT": "  "}, None, None),
        ({"HEADERS": "a=b", "TIMEOUT": "3", "PROTOCOL": "grpc"}, None, None),
    ],
)
def test_endpoints(env: dict[str, str], traces_url: str | None, logs_url: str | None) -> None:
    assert urls({BASE + name: value for name, value in env.items()}) == (traces_url, logs_url)


def test_the_exporter_variables_switch_on_and_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert urls({"OTEL_TRACES_EXPORTER": "otlp"}) == ("http://localhost:4318/v1/traces", None)
    assert urls({"OTEL_LOGS_EXPORTER": "otlp", BASE + "PROTOCOL": "grpc"}) == (None, "http://localhost:4317")
    assert urls({BASE + "ENDPOINT": "http://c", "OTEL_LOGS_EXPORTER": "none"}) == ("http://c/v1/traces", None)
    path = tmp_path / "f"
    path.write_text("otlp: {traces: {endpoint: 'http://file/x'}}")
    assert load(str(path), {"OTEL_TRACES_EXPORTER": "none"}).otlp.traces is None
    kept = load(str(path), {"OTEL_TRACES_EXPORTER": "otlp"}).otlp.traces
    assert kept is not None and kept.endpoint.reveal() == "http://file/x"
    assert not caplog.records
    assert urls({"OTEL_TRACES_EXPORTER": "zipkin"}) == (None, None) and "zipkin" in caplog.text


def test_a_signals_own_variable_goes_before_the_general_one() -> None:
    env = {BASE + "ENDPOINT": "http://c", BASE + "TRACES_COMPRESSION": "gzip", BASE + "TIMEOUT": "1500"}
    env |= {BASE + "LOGS_TIMEOUT": "250", BASE + "HEADERS": "a=general", BASE + "TRACES_HEADERS": "a=own"}
    otlp = load(None, env).otlp
    assert otlp.traces is not None and otlp.logs is not None
    assert (otlp.traces.compression, otlp.logs.compression) == ("gzip", "none")
    assert (otlp.traces.timeout_s, otlp.logs.timeout_s) == (1.5, 0.25)
    assert otlp.traces.headers["a"].reveal() == "own" and otlp.logs.headers["a"].reveal() == "general"


def test_headers_are_percent_decoded() -> None:
    env = {BASE + "ENDPOINT": "http://c", BASE + "HEADERS": " Authorization=Basic%20YTpi== , x-b = 1%2C2 ,"}
    headers = traces(env).headers
    assert {k: v.reveal() for k, v in headers.items()} == {"Authorization": "Basic YTpi==", "x-b": "1,2"}


def test_tls_variables() -> None:
    env = {BASE + "ENDPOINT": "c:4317", BASE + "PROTOCOL": "grpc", BASE + "CERTIFICATE": "/ca"}
    env |= {BASE + "CLIENT_CERTIFICATE": "/c", BASE + "CLIENT_KEY": "/k", BASE + "TRACES_INSECURE": "TRUE"}
    tls = traces(env).tls
    assert (tls.ca, tls.cert, tls.key, tls.insecure) == ("/ca", "/c", "/k", True)
    logs = load(None, env).otlp.logs
    assert logs is not None and logs.tls.insecure is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROTOCOL", "http/json"),
        ("COMPRESSION", "zstd"),
        ("TIMEOUT", "10s"),
        ("TIMEOUT", "0"),
        ("HEADERS", "hunter2"),
    ],
)
def test_what_is_not_understood_is_ignored_with_a_warning(
    caplog: pytest.LogCaptureFixture, name: str, value: str
) -> None:
    with caplog.at_level(logging.WARNING):
        receiver = traces({BASE + "TRACES_ENDPOINT": "http://c/", BASE + name: value})
    assert receiver == traces({BASE + "TRACES_ENDPOINT": "http://c/"})
    assert BASE + name in caplog.text and "hunter2" not in caplog.text


def test_a_wrong_endpoint_is_told_with_its_variable_and_without_its_password() -> None:
    with pytest.raises(ConfigError) as raised:
        load(None, {BASE + "ENDPOINT": "c:pw@host"})
    assert len(raised.value.problems) == 2 and "pw" not in str(raised.value)
    assert raised.value.problems[0].startswith("environment OTEL_EXPORTER_OTLP_ENDPOINT: otlp.traces.endpoint: ")


def test_resource_attributes(caplog: pytest.LogCaptureFixture) -> None:
    env = {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=dev%20x,service.name=agent,broken"}
    assert load(None, env).resource.attributes == {"deployment.environment.name": "dev x"}
    assert "service.name ignored" in caplog.text


def test_every_key_has_a_variable_of_its_own_name() -> None:
    names = variables()
    assert len({path for path, _ in names.values()}) == len(names)
    assert names["ZEROSPAN_CAPTURE_RING_BYTES"][0] == ("capture", "ring_bytes")
    assert names["ZEROSPAN_RUN_DIR"][0] == ("run_dir",)
    assert "ZEROSPAN_SERVICE_RULES" not in names and "ZEROSPAN_CONFIG" not in names


def test_zerospan_variables_of_each_type() -> None:
    config = load(
        None,
        {
            "ZEROSPAN_CAPTURE_RING_BYTES": "65536",
            "ZEROSPAN_CAPTURE_HOOKS": "fexit",
            "ZEROSPAN_FILTER_PORT": "80, 443",
            "ZEROSPAN_FILTER_EXE": "nginx",
            "ZEROSPAN_PRIVACY_MASK": "off",
            "ZEROSPAN_ASSEMBLE_TIMEOUT_S": "1.5",
            "ZEROSPAN_METRICS_LISTEN": "127.0.0.1:9464",
            "ZEROSPAN_LOKI_URL": "http://loki:3100",
            "ZEROSPAN_LOKI_LABELS": "env=dev,zone=a",
            "ZEROSPAN_OTLP_TRACES_ENDPOINT": "http://c:4318",
            "ZEROSPAN_RUN_DIR": "",
        },
    )
    assert config.capture.ring_bytes == 65536 and config.capture.hooks == "fexit"
    assert config.filter.port == (80, 443) and config.filter.exe == ("nginx",)
    assert config.privacy.mask is False and config.assemble.timeout_s == 1.5
    assert config.metrics.listen == "127.0.0.1:9464" and config.run_dir == Config().run_dir
    assert config.loki is not None and config.loki.labels == {"env": "dev", "zone": "a"}
    assert config.otlp.traces is not None and config.otlp.traces.endpoint.reveal() == "http://c:4318"


def test_otel_details_apply_to_a_receiver_that_a_later_layer_names() -> None:
    env = {BASE + "HEADERS": "a=b", "ZEROSPAN_OTLP_TRACES_ENDPOINT": "http://c:4318"}
    assert traces(env).headers["a"].reveal() == "b"
    named = load(None, {BASE + "HEADERS": "a=b"}, {"otlp.logs.endpoint": "http://c:4318"}).otlp
    assert named.logs is not None and named.logs.headers["a"].reveal() == "b" and named.traces is None


def test_a_misspelt_variable_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert load(None, {"ZEROSPAN_CAPTURE_RING_BYTE": "1", "ZEROSPAN_EXT": "proto.http1"}) == Config()
    assert "did you mean ZEROSPAN_CAPTURE_RING_BYTES?" in caplog.text and "ZEROSPAN_EXT:" not in caplog.text
