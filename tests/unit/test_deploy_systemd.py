"""The units of deploy/systemd as systemd-analyze sees them, their rights against `zerospan check`'s, their examples.

tests/net/test_deploy_sandbox.py runs the programs under them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sandbox import service, words

from zerospan.exporter.cli import machine

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy/systemd"
NAMES = ("zerospan.service", "zerospan-enricher.service")
DROP_INS = {"zerospan-nic.conf": "zerospan.service", "zerospan-enricher-conntrack.conf": "zerospan-enricher.service"}
EXPOSURE = 2.5  # of 10, "safe" to "unsafe"; 2.4 and 2.1 with systemd 252
EXPOSURE_NIC = 3.5
ZEROSPAN = [sys.executable, "-m", "zerospan.exporter.cli"]

analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze (Debian: systemd)")


def installed(folder: Path, *drop_ins: str) -> Path:
    """The units as they are installed in `folder`, with a program that is there."""
    folder.mkdir()
    for name in NAMES:
        text = (UNITS / name).read_text()
        assert "ExecStart=/opt/zerospan/bin/zerospan " in text
        (folder / name).write_text(text.replace("/opt/zerospan/bin/zerospan", shutil.which("true") or ""))
    for name in drop_ins:
        at = folder / f"{DROP_INS[name]}.d"
        at.mkdir()
        shutil.copy(UNITS / name, at)
    return folder


@analyze
@pytest.mark.parametrize("drop_ins", [(), tuple(DROP_INS)], ids=["plain", "drop-ins"])
def test_systemd_understands_every_line(tmp_path: Path, drop_ins: tuple[str, ...]) -> None:
    folder = installed(tmp_path / "units", *drop_ins)
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(folder / name) for name in NAMES)],
        capture_output=True, text=True,
    )  # fmt: skip
    ours = [line for line in (said.stdout + said.stderr).splitlines() if "zerospan" in line or str(folder) in line]
    assert said.returncode == 0 and not ours, said.stderr
    (folder / NAMES[0]).write_text((folder / NAMES[0]).read_text().replace("PrivateTmp=yes", "PrivateTmpp=yes"))
    wrong = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(folder / NAMES[0])], capture_output=True, text=True
    )
    assert "PrivateTmpp" in wrong.stderr, "verify does not see a wrong key"


@analyze
@pytest.mark.parametrize("name", NAMES)
def test_exposure(tmp_path: Path, name: str) -> None:
    def exposure(folder: Path) -> float:
        said = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager", str(folder / name)],
            capture_output=True, text=True,
        )  # fmt: skip
        found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", said.stdout)
        assert found, said.stdout + said.stderr
        return float(found[1])

    assert exposure(installed(tmp_path / "plain")) <= EXPOSURE
    assert exposure(installed(tmp_path / "more", *DROP_INS)) <= EXPOSURE_NIC


def test_rights_are_those_that_check_names() -> None:
    named = {name for _, name, _ in machine.CAPABILITIES}
    agent, enricher = (service(UNITS / name) for name in NAMES)
    for unit in (agent, enricher):
        assert words(unit, "CapabilityBoundingSet") == words(unit, "AmbientCapabilities")
        assert unit["User"] == ["zerospan"] and unit["NoNewPrivileges"] == ["yes"]
    assert set(words(agent, "CapabilityBoundingSet")) == {*machine.NEEDED, *machine.WANTED}
    assert set(words(enricher, "CapabilityBoundingSet")) == set(machine.WANTED)
    for name in DROP_INS:
        more = service(UNITS / name)
        assert words(more, "CapabilityBoundingSet") == words(more, "AmbientCapabilities")
        assert set(words(more, "CapabilityBoundingSet")) <= named - {*machine.NEEDED, *machine.WANTED}
    sysusers = [line.split() for line in (UNITS / "zerospan.sysusers").read_text().splitlines()]
    assert ["u", "zerospan"] in [line[:2] for line in sysusers]


def test_both_units_share_one_folder_and_neither_takes_it_away() -> None:
    """The agent finds enricher.sock where the enricher makes it."""
    config = yaml.safe_load((UNITS / "zerospan.yaml").read_text())
    enricher = yaml.safe_load((UNITS / "enricher.yaml").read_text())
    assert config["enricher"]["address"] == f"unix://{enricher['listen']['unix']}"
    for name in NAMES:
        unit = service(UNITS / name)
        assert unit["RuntimeDirectory"] == ["zerospan"] and unit["RuntimeDirectoryPreserve"] == ["yes"]
    assert Path(enricher["listen"]["unix"]).parent == Path("/run/zerospan")


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_configuration_is_not_tried_again_and_again(tmp_path: Path, name: str) -> None:
    unit = service(UNITS / name)
    words_ = unit["ExecStart"][0].split()[1:]
    path = tmp_path / "wrong.yaml"
    path.write_text("nonsense: 1\n")
    words_[-1] = str(path)
    said = subprocess.run([*ZEROSPAN, *words_], capture_output=True, text=True)
    assert [str(said.returncode)] == unit["RestartPreventExitStatus"] and "nonsense" in said.stderr


def test_the_examples_are_valid(tmp_path: Path) -> None:
    """Also with what stands in comments."""
    for name, command in (("zerospan.yaml", ["config"]), ("enricher.yaml", ["enricher", "config"])):
        text = (UNITS / name).read_text()
        for number, form in enumerate(
            (text, re.sub(r"^(\s*)# (?=\s*[a-z_]+: ?[{\"a-z0-9:]*)", r"\1", text, flags=re.M))
        ):
            assert number == 0 or form != text, "nothing stands in comments"
            form = form.replace("/etc/zerospan/static.yaml", str(tmp_path / "static.yaml"))
            static = (UNITS / "static.yaml").read_text()
            (tmp_path / "static.yaml").write_text(
                static
                if number == 0
                else static.replace("entries: []", "entries:").replace("# -", "-").replace("#  ", " ")
            )
            path = tmp_path / f"{number}-{name}"
            path.write_text(form)
            said = subprocess.run([*ZEROSPAN, *command, "--config", str(path)], capture_output=True, text=True)
            assert said.returncode == 0, f"{form}\n{said.stderr}"
