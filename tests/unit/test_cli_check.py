"""`zerospan check` answers whoever asks: with root or without, whatever the kernel lacks."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from zerospan.exporter.cli import check, machine, main
from zerospan.exporter.cli.machine import Finding
from zerospan.exporter.config import Config, load
from zerospan.exporter.source import capture

ROOT = Path(__file__).resolve().parents[2]
ALL = {name for _, name, _ in machine.CAPABILITIES}


def status(*bits: int) -> str:
    return f"Name:\tx\nCapEff:\t{sum(1 << bit for bit in bits):016x}\nCapBnd:\t000001ffffffffff\n"


# ---- facts ----


def test_capabilities_are_read_by_their_numbers() -> None:
    assert machine.held(status()) == set()
    assert machine.held(status(39)) == {"CAP_BPF"}
    assert machine.held(status(2, 12, 13, 19, 21, 24, 38, 39)) == ALL
    assert machine.held(status(21)) == {"CAP_SYS_ADMIN", "CAP_BPF", "CAP_PERFMON"}, "CAP_SYS_ADMIN stands for both"
    assert not machine.may_load(machine.held(status(39))) and machine.may_load(machine.held(status(38, 39)))


def test_missing_rights_are_named_with_what_they_are_for() -> None:
    found = {f.name: f for f in machine.capabilities(set())}
    assert found["CAP_BPF"].state == found["CAP_PERFMON"].state == "fail" and "sudo" in found["CAP_BPF"].fix
    assert found["CAP_SYS_PTRACE"].state == "warn" and "names" in found["CAP_SYS_PTRACE"].text
    assert found["CAP_NET_ADMIN"].state == "info", "what is not needed is no failure"
    assert all(f.state == "ok" for f in machine.capabilities(ALL))


def test_a_kernel_without_btf_is_told_what_to_use(tmp_path: Path) -> None:
    found = machine.btf(tmp_path / "none")
    assert found.state == "fail" and "CONFIG_DEBUG_INFO_BTF" in found.fix


def test_lockdown(tmp_path: Path) -> None:
    file = tmp_path / "lockdown"
    assert machine.lockdown(file) is None
    for text, state in (
        ("[none] integrity confidentiality\n", "ok"),
        ("none integrity [confidentiality]\n", "fail"),
    ):
        file.write_text(text)
        found = machine.lockdown(file)
        assert found is not None and found.state == state


def test_locked_memory_matters_on_old_kernels_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (65536, 65536))
    assert machine.memlock(set(), "5.10.0-8-amd64").state == "warn"
    assert machine.memlock({"CAP_SYS_RESOURCE"}, "5.10.0-8-amd64").state == "ok"
    for release in ("5.11.0", "5.15.0-91-generic", "6.1.0", "6.18.44-fc-v657", "7.0-rc1"):
        assert machine.memlock(set(), release).state == "ok"


def test_cgroup_versions(tmp_path: Path) -> None:
    assert machine.cgroups(tmp_path).state == "info"
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified/cgroup.procs").touch()
    assert "version 1" in machine.cgroups(tmp_path).text
    (tmp_path / "cgroup.controllers").touch()
    assert "version 2" in machine.cgroups(tmp_path).text


# ---- sinks ----


def test_receivers_are_reached_or_not_without_their_secrets() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        config = load(None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://user:hunter2@127.0.0.1:{port}/v1/traces"})
        (found,) = check.sinks(config)
        assert found.state == "ok" and "hunter2" not in found.text
    (found,) = check.sinks(config)
    assert found.state == "warn" and str(port) in found.text and "hunter2" not in found.text and found.fix


def test_files_and_the_listener_are_tried(tmp_path: Path) -> None:
    good = load(None, {}, {"files.traces": str(tmp_path / "a"), "metrics.listen": "127.0.0.1:0"})
    assert [f.state for f in check.sinks(good)] == ["ok", "ok"]
    assert not (tmp_path / "a").exists(), "nothing is left behind"
    bad = load(None, {}, {"files.traces": str(tmp_path / "no/such/folder/a")})
    assert [f.state for f in check.sinks(bad)] == ["fail"]
    assert [f.state for f in check.sinks(Config())] == ["info"]


# ---- hooks and the verdict ----


def test_layouts_say_which_is_used_and_why_not_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    works = {"sys_exit", "fexit"}
    monkeypatch.setattr(capture, "missing", lambda layout: "" if layout in works else "this kernel has no such")
    monkeypatch.setattr(check, "load", lambda layout: "")
    chosen, found = check.layouts(Config(), True)
    texts = {f.name.split()[1]: f for f in found}
    assert chosen == "fexit" and texts["fexit"].text.endswith("USED")
    assert "fexit costs less" in texts["sys_exit"].text and "no such" in texts["sock_length"].text
    chosen, found = check.layouts(load(None, {}, {"capture.hooks": "sock_length"}), True)
    assert chosen == "" and {f.name: f.state for f in found}["hooks sock_length"] == "fail"
    chosen, found = check.layouts(load(None, {}, {"capture.hooks": "sys_exit"}), True)
    assert chosen == "sys_exit"


def test_without_rights_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "load", lambda layout: pytest.fail("tried to load"))
    chosen, found = check.layouts(Config(), False)
    assert chosen == "" and all("rights" in f.text or "no " in f.text for f in found)


def verdict(capsys: pytest.CaptureFixture[str], hooks: str, findings: list[Finding]) -> tuple[int, str]:
    import argparse

    code = check.answer(argparse.Namespace(json=False), hooks, findings)
    return code, capsys.readouterr().out.splitlines()[-1]


def test_the_last_line_is_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    good, warn = Finding("kernel", "ok", "x"), Finding("sink loki", "warn", "away", "start it")
    bad, info = Finding("BTF", "fail", "missing", "another kernel"), Finding("sinks", "info", "none")
    assert verdict(capsys, "sock_length", [good, warn, info])[0] == 0
    code, line = verdict(capsys, "sock_length", [good, bad])
    assert code == 1 and "NOT usable: BTF: missing; another kernel" in line
    code, line = verdict(capsys, "", [good])
    assert code == 1 and "no family of hooks" in line


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, to become nobody")
@pytest.mark.parametrize("form", ["text", "json"])
def test_an_unprivileged_user_gets_an_answer(form: str) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
         sys.executable, "-m", "zerospan.exporter.cli", "check", *(["--json"] if form == "json" else [])],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr == ""
    if form == "json":
        said = json.loads(done.stdout)
        assert said["usable"] is False and "root" in said["verdict"]
        assert {f["name"]: f["state"] for f in said["findings"]}["CAP_BPF"] == "fail"
    else:
        assert "NOT usable" in done.stdout.splitlines()[-1] and "root" in done.stdout.splitlines()[-1]
        assert all(len(line) <= 80 for line in done.stdout.splitlines()[:-1])


def test_a_wrong_configuration_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("captur: {}\n")
    monkeypatch.setattr(check, "layouts", lambda config, may_load: ("", []))
    assert main(["check", "--config", str(path), "--json"]) == 1
    found = {f["name"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert found["config"]["state"] == "fail" and "capture" in found["config"]["text"]
