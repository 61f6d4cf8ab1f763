"""`zerospan check` and the enricher: a real tag service in each form, what is wrong with it, no token in any word."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
import yaml
from agent import COMMAND

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from enricher_kit import Authority, put_pod, serving, tcp

from zerospan.enricher import keys
from zerospan.enricher.security import Security as Faces
from zerospan.enricher.source import Layer
from zerospan.enricher.store import TagStore
from zerospan.exporter.config import Secret

NODE = "n1"
TOKEN = "s3cr3t-t0ken"


def check(folder: Path, text: bool = False, **enricher: Any) -> tuple[int, dict[str, str]]:
    """Exit code and the finding about the enricher, which `text` shows to people, too."""
    config = folder / "check.yaml"
    config.write_text(yaml.safe_dump({"enricher": {"node": NODE, **enricher}, "run_dir": str(folder)}))
    argv = [*COMMAND, "check", "--config", str(config)]
    told = subprocess.run([*argv, "--json"], capture_output=True, text=True)
    (finding,) = [f for f in json.loads(told.stdout)["findings"] if f["name"] == "enricher"]
    said = told.stdout + told.stderr
    if text:
        people = subprocess.run(argv, capture_output=True, text=True)
        assert people.returncode == told.returncode
        assert "".join(finding["text"].split()[1:3]) in "".join(people.stdout.split())
        assert people.returncode == 0 or "NOT usable: enricher: " in people.stdout.splitlines()[-1]
        said += people.stdout + people.stderr
    assert TOKEN not in said, "the token was printed"
    assert finding["fix"] or finding["state"] in ("ok", "info")
    return told.returncode, finding


@pytest.fixture
def known() -> TagStore:
    store = TagStore()
    store.put(keys.node(NODE), store.make({"host.name": NODE}), layer=Layer.OS, since_ns=1, node=NODE)
    put_pod(store, NODE, "cart", "10.0.0.7")
    return store


def test_beside_the_agent(known: TagStore, tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    with serving(known, [f"unix:{path}"]):
        code, found = check(tmp_path, True, address=f"unix://{path}")
        assert (code, found["state"]) == (0, "ok")
        assert f"serves node {NODE}" in found["text"] and str(path) in found["text"] and " ms" in found["text"]
        code, found = check(tmp_path, address=f"unix://{path}", node="another")
        assert (code, found["state"]) == (1, "fail")
        assert "knows no node another" in found["text"] and "enricher.node" in found["fix"]
    code, found = check(tmp_path, True, address=f"unix://{path}")
    assert (code, found["state"]) == (1, "fail")
    assert "there is no" in found["text"] and "zerospan enricher run" in found["fix"]


def test_a_socket_that_nobody_listens_on(known: TagStore, tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(str(path))
    code, found = check(tmp_path, address=f"unix://{path}")
    assert (code, found["state"]) == (1, "fail") and "nobody listens" in found["text"]


def test_one_that_has_not_seen_all_yet(known: TagStore, tmp_path: Path) -> None:
    for store, word in ((known, "not seen all yet"), (TagStore(), "nor node n1")):
        with serving(store, in_sync=lambda: False) as service:
            code, found = check(tmp_path, address=tcp(service))
            assert (code, found["state"]) == (0, "warn")
            assert "not seen all yet" in found["text"] and word in found["text"]


def test_rights(known: TagStore, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    with serving(known, security=Faces(tokens=(Secret(TOKEN),))) as service:
        code, found = check(tmp_path, address=tcp(service), token_file=str(token))
        assert (code, found["state"]) == (0, "ok")
        for wrong in ({}, {"token": TOKEN + "-not"}):
            code, found = check(tmp_path, address=tcp(service), **wrong)
            assert (code, found["state"]) == (1, "fail")
            assert "UNAUTHENTICATED" in found["text"] and "token_file" in found["fix"]
    code, found = check(tmp_path, address="127.0.0.1:1", token_file=str(tmp_path / "none"))
    assert (code, found["state"]) == (1, "fail") and str(tmp_path / "none") in found["text"]


def test_tls(known: TagStore, tmp_path: Path) -> None:
    ca, other = Authority(tmp_path), Authority(tmp_path, "other")
    cert, key = ca.issue("server")
    mine = ca.issue("agent")
    with serving(known, security=Faces(cert=cert, key=key)) as service:
        code, found = check(tmp_path, address=tcp(service), tls={"ca": ca.cert})
        assert (code, found["state"]) == (0, "ok"), found
        code, found = check(tmp_path, address=tcp(service), tls={"ca": other.cert})
        assert (code, found["state"]) == (1, "fail") and "enricher.tls" in found["fix"], found
        code, found = check(tmp_path, address=tcp(service))
        assert (code, found["state"]) == (1, "fail"), found
    with serving(known, security=Faces(cert=cert, key=key, client_ca=ca.cert)) as service:
        tls = {"ca": ca.cert, "cert": mine[0], "key": mine[1]}
        code, found = check(tmp_path, address=tcp(service), tls=tls)
        assert (code, found["state"]) == (0, "ok"), found
        code, found = check(tmp_path, address=tcp(service), tls={"ca": ca.cert})
        assert (code, found["state"]) == (1, "fail"), found


def test_what_is_no_enricher(tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        code, found = check(tmp_path, address=f"127.0.0.1:{port}")
        assert (code, found["state"]) == (1, "fail") and "no enricher" in found["fix"], found
    finally:
        server.stop(0)


def test_none_is_in_order(tmp_path: Path) -> None:
    code, found = check(tmp_path, address="off")
    assert (code, found["state"]) == (0, "info")
