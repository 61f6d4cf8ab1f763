"""CONTRIBUTING.md, "A new protocol in an hour", followed to the letter in a copy of the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "tests" / "data" / "toy_protocol"
CONVERSATION = """
import sys
sys.path.insert(0, "tests/unit")
from engine_kit import START, MS, Rig
from engine_wire import Process, Wire
import zerospan.exporter.engine
assert zerospan.exporter.engine.__file__.startswith(sys.argv[1]), zerospan.exporter.engine.__file__
a, b, c = Process(10, "a"), Process(20, "b"), Process(30, "c")
r = Rig(a, b, c, mask=True)
t = START
one, two = Wire(r.kernel, (a, 11), (b, 21)), Wire(r.kernel, (b, 21), (c, 31))
for i in range(3):
    t = one.pass_on("client", b"PING s3cr3t\\n", t + MS, sizes=[3])
    t = two.pass_on("client", b"PING more\\n", t + MS)
    t = two.pass_on("server", b"FAIL no\\n", t + MS)
    t = one.pass_on("server", b"PONG s3cr3t\\n", t + MS)
spans = r.finish()
r.check()
for s in spans:
    print(s.service, s.name, s.kind, s.error, s.attributes["network.protocol.name"], s.link, s.reason)
assert len(spans) == 12 and len({s.trace_id for s in spans}) == 3
assert "s3cr3t" not in str(spans)
"""


def section() -> str:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.split(r"^## ", text.split("## A new protocol in an hour\n", 1)[1], maxsplit=1, flags=re.M)[0]


def block(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```$", section(), flags=re.M | re.S)
    assert len(found) == 1, f"CONTRIBUTING.md has {len(found)} blocks of {language}"
    return str(found[0])


def run(command: str, cwd: Path, **more: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(cwd / "src"), **more}
    done = subprocess.run(command, shell=True, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with everything that is built, but without the C files between."""
    copy = tmp_path_factory.mktemp("tree")
    leave = shutil.ignore_patterns("*.c", "*.html", "__pycache__", "*.o")
    for name in ("exporter", "enricher", "plugins", "src", "bpf"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=leave)
    for name in ("unit", "fuzz"):
        shutil.copytree(ROOT / "tests" / name, copy / "tests" / name, ignore=leave)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return copy


def test_the_steps(tree: Path) -> None:
    """The files of step 2 and 4, the patch of step 3, the commands of step 5; then a conversation of two hops becomes
    spans, linked, with its words masked."""
    for name in ("toy.pyx", "toy.pxd"):
        shutil.copy(TOY / name, tree / "exporter" / "proto" / name)
    for name in ("toy_cases.py", "test_toy.py"):
        shutil.copy(TOY / name, tree / "tests" / "unit" / name)
    (tree / "toy.patch").write_text(block("diff"))
    run("git apply -v toy.patch", tree, GIT_CEILING_DIRECTORIES=str(tree.parent))
    for command in block("sh").strip().splitlines():
        run(command, tree)
    (tree / "talk.py").write_text(CONVERSATION)
    lines = run(f".venv/bin/python talk.py {tree}", tree).splitlines()
    assert lines[:4] == [
        "a PING 3 False toy none ",
        "b PING 2 False toy tcp_isn ",
        "b PING 3 True toy thread FAIL",
        "c PING 2 True toy tcp_isn FAIL",
    ]


def test_the_tree_itself_is_untouched() -> None:
    assert "PROTO_TOY" not in (ROOT / "exporter" / "proto" / "base.pxd").read_text()
    assert not list((ROOT / "exporter" / "proto").glob("toy.*"))


def test_every_file_that_the_steps_name_is_there() -> None:
    named = re.findall(r"`([\w/]+\.(?:pyx|pxd|py))`", section())
    made = {"toy.pxd", "exporter/proto/toy.pyx", "tests/unit/toy_cases.py", "tests/unit/test_toy.py"}
    for name in set(named) - made:
        assert any((ROOT / folder / name).exists() for folder in ("", "exporter", "exporter/proto")), name
