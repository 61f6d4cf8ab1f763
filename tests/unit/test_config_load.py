"""The YAML file and the command line: precedence, and errors in a user's words."""

import datetime
from pathlib import Path
from typing import Any

import pytest

from zerospan.exporter.config import Config, ConfigError, Secret, Url, describe, load, ring_size
from zerospan.exporter.config.rules import listen_address
from zerospan.exporter.config.secret import mask_url


def load_text(tmp_path: Path, text: str, env: dict[str, str] | None = None, **overrides: Any) -> Config:
    (tmp_path / "zerospan.yaml").write_text(text)
    return load(str(tmp_path / "zerospan.yaml"), env or {}, overrides)


def problems(tmp_path: Path, text: str, env: dict[str, str] | None = None, **overrides: Any) -> list[str]:
    """Each problem, with "zerospan.yaml" for the path of the file."""
    with pytest.raises(ConfigError) as raised:
        load_text(tmp_path, text, env, **overrides)
    assert str(raised.value) == "\n".join(raised.value.problems)
    return [p.replace(f"{tmp_path}/", "") for p in raised.value.problems]


def test_without_anything_all_is_default() -> None:
    assert load(None, {}) == Config()


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "capture:\nfilter:\notlp:\n", "---\n"])
def test_empty_files_and_empty_sections_are_default(tmp_path: Path, text: str) -> None:
    assert load_text(tmp_path, text) == Config()


def test_a_whole_file(tmp_path: Path) -> None:
    config = load_text(
        tmp_path,
        """
capture: {ring_bytes: 65537, hooks: sys_exit, large_ports: [5432, 6379]}
filter: {pid: [1, 2], exe: [nginx], netns: [self]}
privacy: {mask: false}
assemble: {timeout_s: 5}
service:
  rules:
    - {match: {exe: "/usr/bin/python*", cmdline: "*gunicorn*"}, name: web}
otlp:
  traces:
    endpoint: https://tempo:4318
    headers: {Authorization: Basic abc}
    tls: {ca: /ca.pem}
loki: {url: "http://loki:3100", labels: {env: dev}}
run_dir: /tmp/zs
""",
    )
    assert config.capture.ring_bytes == 65537 and config.capture.hooks == "sys_exit"
    assert config.filter.pid == (1, 2) and config.capture.large_ports == (5432, 6379)
    assert config.privacy.mask is False and config.assemble.timeout_s == 5
    assert config.service.rules[0].match.cmdline == "*gunicorn*" and config.service.rules[0].name == "web"
    assert config.otlp.traces is not None and config.otlp.logs is None and config.loki is not None
    assert config.otlp.traces.headers == {"Authorization": Secret("Basic abc")}
    assert config.otlp.traces.endpoint == Url("https://tempo:4318") and config.otlp.traces.tls.ca == "/ca.pem"
    assert config.loki.labels == {"env": "dev"} and config.run_dir == "/tmp/zs"


def test_precedence_is_file_then_otel_then_zerospan_then_command_line(tmp_path: Path) -> None:
    text = "otlp: {traces: {endpoint: 'http://file:1', timeout_s: 1}}\ncapture: {payload_bytes: 100}\n"
    otel = {"OTEL_EXPORTER_OTLP_TIMEOUT": "2000"}
    own = {"ZEROSPAN_OTLP_TRACES_TIMEOUT_S": "3", "ZEROSPAN_CAPTURE_PAYLOAD_BYTES": "300"}
    key = "otlp.traces.timeout_s"
    seen = [
        load_text(tmp_path, text),
        load_text(tmp_path, text, otel),
        load_text(tmp_path, text, otel | own),
        load_text(tmp_path, text, otel | own, **{key: 4}),
        load_text(tmp_path, text, otel | own, **{key: None}),
    ]
    assert [c.otlp.traces.timeout_s for c in seen if c.otlp.traces] == [1, 2, 3, 4, 3]
    assert [c.capture.payload_bytes for c in seen] == [100, 100, 300, 300, 300]


def test_zerospan_config_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("selftest: false")
    assert load(None, {"ZEROSPAN_CONFIG": str(tmp_path / "f")}).selftest is False


RING = "expected an integer from 1 to 1073741824"
PAYLOAD = "expected an integer from 64 to 16384"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("capture: {ring_byts: 1}", "capture.ring_byts: unknown key; did you mean ring_bytes?"),
        ("\ncaptur: {}", "captur: unknown key; did you mean capture? (line 2)"),
        ("privacy: {zzz: 1}", "privacy.zzz: unknown key; known keys: mask"),
        ("8: 1", None),
        ("capture: {ring_bytes: '8 MiB'}", f"capture.ring_bytes: {RING}, got '8 MiB'"),
        ("capture: {ring_bytes: true}", f"capture.ring_bytes: {RING}, got true"),
        ("capture: {payload_bytes: 63}", f"capture.payload_bytes: {PAYLOAD}, got 63"),
        ("capture: {payload_bytes: 16385}", f"capture.payload_bytes: {PAYLOAD}, got 16385"),
        ("capture: {payload_bytes: null}", f"capture.payload_bytes: {PAYLOAD}, got null"),
        (
            "capture: {hooks: kprobe}",
            "capture.hooks: expected one of auto, fexit, sock_length, sys_exit, got 'kprobe'",
        ),
        ("assemble: {timeout_s: .nan}", "assemble.timeout_s: expected a number from 0.1 to 3600, got nan"),
        ("assemble: {timeout_s: 2020-01-01}", None),
        ("privacy: {mask: 1}", "privacy.mask: expected true or false, got 1"),
        ("filter: {port: 80}", "filter.port: expected a list, each an integer from 1 to 65535, got a number"),
        (
            "filter:\n  port: [80,\n    x]",
            "filter.port[1]: expected an integer from 1 to 65535, got 'x' (line 3)",
        ),
        (
            "filter: [80]",
            "filter: expected a mapping with the keys pid, exe, port, cgroup, netns, got a list",
        ),
        ("otlp: {traces: {timeout_s: 3}}", "otlp.traces.endpoint: missing; expected a URL"),
        ("service: {rules: [{name: a}]}", None),
        (
            "service: {rules: [{name: a, match: {}}]}",
            "service.rules[0].match: needs exe or cmdline; without both it would name every process",
        ),
        ("loki: {url: 'http://x', labels: {a: 1}}", "loki.labels.a: expected a text, got 1"),
        ("loki: {url: 'http://x', labels: {a-b: x}}", None),
        ("metrics: {listen: 9464}", "metrics.listen: expected a text, got 9464"),
        (
            "metrics: {listen: localhost}",
            "metrics.listen: expected HOST:PORT (127.0.0.1:9464, [::1]:9464), got 'localhost'",
        ),
        ("link: {hold_s: 5, max_hold_s: 4}", "link.max_hold_s: must not be less than link.hold_s (5)"),
        (
            "otlp: {logs: {endpoint: 'ftp://x'}}",
            "otlp.logs.endpoint: expected http://HOST:PORT/PATH or https://..., got 'ftp://x'",
        ),
        (
            "otlp: {logs: {endpoint: 'x:4317', protocol: grpc, tls: {cert: a}}}",
            "otlp.logs.tls.key: missing: a client certificate needs both tls.cert and tls.key",
        ),
        ("resource: {attributes: {service.name: x}}", None),
        ("files: {traces: /a, logs: /a}", "files.logs: must not be the file of files.traces"),
        ("run_dir: ''", "run_dir: expected a text that is not empty, got ''"),
        ("- a\n- b", None),
        ("a: [", None),
        ("selftest: true\nselftest: false", "selftest: stands twice (lines 1 and 2)"),
        ("capture: {drain_ms: 5, drain_ms: 6}", "capture.drain_ms: stands twice (lines 1 and 1)"),
        ("a: &x {b: *x}", None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_place_expectation_and_value(tmp_path: Path, text: str, problem: str | None) -> None:
    found = problems(tmp_path, text)
    assert all(p.startswith("zerospan.yaml: ") for p in found)
    if problem is not None:
        where = "" if "(line" in problem else " (line 1)"
        assert found == [f"zerospan.yaml: {problem}{where}"]


def test_all_problems_are_told_at_once_each_with_its_own_place(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "selftest: 3\ncapture: {drain_ms: 0}\n",
        {"ZEROSPAN_FILTER_PORT": "80,http"},
        **{"metrics.listen": 7},
    )
    assert found == [
        "zerospan.yaml: selftest: expected true or false, got 3 (line 1)",
        "zerospan.yaml: capture.drain_ms: expected an integer from 1 to 1000, got 0 (line 2)",
        "environment ZEROSPAN_FILTER_PORT: filter.port[1]: expected an integer from 1 to 65535, got 'http'",
        "command line: metrics.listen: expected a text, got 7",
    ]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none.yaml: cannot be read: No such file"):
        load(str(tmp_path / "none.yaml"), {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(str(tmp_path), {})
    (tmp_path / "big").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load(str(tmp_path / "big"), {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01\xff")
    with pytest.raises(ConfigError, match="binary: "):
        load(str(tmp_path / "binary"), {})


SECRET = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        "otlp: {traces: {endpoint: 'http://me:hunter2@x:1', headers: {A: hunter2}}}",
        "loki: {url: 'https://x/?token=hunter2', headers: {Authorization: Bearer hunter2}}",
    ],
)
def test_secrets_are_not_in_what_is_shown(tmp_path: Path, text: str) -> None:
    config = load_text(tmp_path, text)
    for shown in (repr(config), str(config), str(describe(config)), f"{config.otlp} {config.loki}"):
        assert SECRET not in shown and "***" in shown
    assert isinstance(describe(config)["capture"]["ring_bytes"], int)


@pytest.mark.parametrize(
    "text",
    [
        "otlp: 'http://me:hunter2@x'",
        "otlp: {traces: 'http://me:hunter2@x'}",
        "otlp: {traces: ['http://me:hunter2@x']}",
        "otlp: {traces: {endpoint: [hunter2]}}",
        "otlp: {traces: {endpoint: 'ftp://me:hunter2@x'}}",
        "otlp: {traces: {endpoint: 'me:hunter2@x:4317', protocol: grpc}}",
        "otlp: {traces: {endpoint: 'http://x', headers: hunter2}}",
        "otlp: {traces: {endpoint: 'http://x', headers: {a: [hunter2]}}}",
        "otlp: {traces: {endpoint: 'http://x', headers: {a: \"hunter2\\nX: y\"}}}",
        "otlp: {traces: {endpoint: 'http://x', headers: {'a: hunter2': b}}}",
        "otlp: {traces: {endpoint: 'http://x', headers: {a: *hunter2}}}",
        "loki: {url: 'https://x:port/?token=hunter2'}",
        "loki: {url: 'https://x/', headers: {a: 'hunter2}",
    ],
)
def test_secrets_are_not_in_errors(tmp_path: Path, text: str) -> None:
    assert SECRET not in str(problems(tmp_path, text))


@pytest.mark.parametrize("header", ["Host", "content-length", "Content-Type"])
def test_headers_that_the_agent_sets_itself_are_refused(tmp_path: Path, header: str) -> None:
    text = f"loki: {{url: 'http://x', headers: {{{header}: a}}}}"
    assert "is set by the agent itself" in problems(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://x:1/p", "http://x:1/p"),
        ("http://u:p@x:1/p?q#f", "http://***@x:1/p?***"),
        ("http://u:p@q@x", "http://***@x"),
        ("u:p@x:1", "***@x:1"),
        ("u:p://x@y", "***://***@y"),
        ("x:1", "x:1"),
    ],
)
def test_masked_urls(url: str, shown: str) -> None:
    assert mask_url(url) == shown == str(Url(url))
    assert Url(url).reveal() == url and Url(url) != Secret(url)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:1", ("::1", 1)),
        (":80", ("", 80)),
        ("a-b.c:0", ("a-b.c", 0)),
    ],
)
def test_listen_addresses(text: str, address: tuple[str, int]) -> None:
    assert listen_address(text) == address


@pytest.mark.parametrize("text", ["", "x", "::1:80", "x:", "x:65536", "x:80/", "[x]:80:", "x: 80"])
def test_wrong_listen_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        listen_address(text)


@pytest.mark.parametrize(
    ("asked", "page", "given"),
    [
        (1, 4096, 65536),
        (65536, 4096, 65536),
        (65537, 4096, 131072),
        (8 << 20, 4096, 8 << 20),
        (1, 131072, 131072),
    ]
    + [(1 << 30, 4096, 1 << 30), (100_000, 65536, 131072)],
)
def test_ring_size(asked: int, page: int, given: int) -> None:
    assert ring_size(asked, page) == given


def test_a_date_is_no_number(tmp_path: Path) -> None:
    assert repr(datetime.date(2020, 1, 1)) in problems(tmp_path, "assemble: {timeout_s: 2020-01-01}")[0]
