"""Every command explains itself, and a mistake of its user ends in a sentence, not in a traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import recording_cases as cases

from zerospan.exporter.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
WRONG = {
    "unknown key": ("config", "--config", "{tmp}/typo.yaml"),
    "no file": ("config", "--config", "{tmp}/nothing.yaml"),
    "no duration": ("run", "--duration", "0"),
    "no interval": ("watch", "--interval", "-1"),
    "no size": ("record", "{tmp}/x.zsr", "--max-mib", "0"),
    "bad listen": ("config", "--metrics-listen", "nowhere"),
}


def run(*argv: str) -> int:
    try:
        return main(argv)
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 1


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_examples_and_fits_the_terminal(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(*([command] if command else []), "--help") == 0
    text = capsys.readouterr().out
    assert "xamples:" in text and "zerospan " in text
    assert max(map(len, text.splitlines())) <= 80
    if not command:
        assert all(name in text for name in COMMANDS)


def test_recording_warns_of_what_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    run("record", "--help")
    text = capsys.readouterr().out
    assert "PASSWORDS" in text and "0600" in text


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_is_exit_code_2_and_a_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "typo.yaml").write_text("capture: {ring_byte: 1}\n")
    assert run(*(part.replace("{tmp}", str(tmp_path)) for part in WRONG[name])) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("zerospan") and "Traceback" not in said.err
    if name == "unknown key":
        assert "ring_bytes" in said.err, "the nearest right name"


def test_no_agent_is_exit_code_1_and_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status", "--json", "--run-dir", str(tmp_path)) == 1
    said = capsys.readouterr()
    assert said.out == "" and "zerospan run" in said.err and str(tmp_path) in said.err


# ---- config ----


def test_config_prints_what_it_amounts_to_without_secrets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "otlp: {traces: {endpoint: 'http://u:hunter2@127.0.0.1:4318', headers: {Authorization: Bearer hunter2}}}\n"
    )
    assert run("config", "--config", str(path), "--port", "8080") == 0
    out = capsys.readouterr().out
    settings = yaml.safe_load(out)
    assert "hunter2" not in out and settings["filter"]["port"] == [8080]
    assert settings["otlp"]["traces"]["endpoint"].endswith("127.0.0.1:4318")
    assert run("config", "--config", str(path), "--port", "8080", "--json") == 0
    assert json.loads(capsys.readouterr().out) == settings


def test_config_output_is_a_configuration_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config") == 0
    first = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(first)
    assert run("config", "--config", str(tmp_path / "again.yaml")) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(first)


def test_the_schema_takes_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    assert run("config", "--schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert run("config", "--json") == 0
    jsonschema.validate(json.loads(capsys.readouterr().out), schema)


# ---- replay ----


def test_replay_needs_no_root_and_writes_the_same_file_twice(tmp_path: Path) -> None:
    path = tmp_path / "r.zsr"
    path.write_bytes(cases.whole(5))
    nobody = []
    if os.geteuid() == 0 and shutil.which("setpriv"):
        tmp_path.chmod(0o777)
        for folder in tmp_path.parents:
            if str(folder).startswith("/tmp/"):
                folder.chmod(0o755)
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    files = []
    for n in (1, 2):
        files.append(tmp_path / f"{n}.jsonl")
        done = subprocess.run(
            [*nobody, sys.executable, "-m", "zerospan.exporter.cli", "replay", str(path), "--json",
             "--traces-file", str(files[-1])],
            capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        ledger = json.loads(done.stdout)
        assert (ledger["seen"], ledger["exported"], ledger["balanced"]) == (20, 20, True)
        assert ledger["replayed"] == ledger["records"] == len(cases.conversation(5))
    assert files[0].read_bytes() == files[1].read_bytes() != b""


def test_replay_in_real_time_keeps_the_recorded_pace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """40 requests, 10 ms apart, and a second until the end: 1.4 s."""
    import time

    path = tmp_path / "r.zsr"
    path.write_bytes(cases.whole(40))
    before = time.monotonic()
    assert run("replay", str(path), "--json", "--speed", "real") == 0
    took = time.monotonic() - before
    assert took >= 1.3, took
    ledger = json.loads(capsys.readouterr().out)
    before = time.monotonic()
    assert run("replay", str(path), "--json") == 0
    assert time.monotonic() - before < took
    assert json.loads(capsys.readouterr().out) == ledger


@pytest.mark.parametrize("data", [b"", b"foreign", cases.whole()[:-9]])
def test_replay_of_a_wrong_file_is_exit_code_1(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.zsr"
    path.write_bytes(data)
    assert run("replay", str(path)) == 1
    said = capsys.readouterr()
    assert said.out == "" and str(path) in said.err and "Traceback" not in said.err
    assert run("replay", str(tmp_path / "nothing")) == 1
