"""`zerospan check` and the store of links: real servers in each form, what is wrong with them, and no password in
any word."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent import COMMAND
from nginx import free_port

sys.path.insert(0, str(Path(__file__).parent))
from sharing import answers, store, until, valkey_server
from test_across_hosts import Proxy

PASSWORD = "hush-hush"


def check(folder: Path, links: str, **link: Any) -> tuple[int, dict[str, str], str]:
    """Exit code, the finding about links, everything that was printed (as text, and as JSON)."""
    config = folder / "check.yaml"
    config.write_text(yaml.safe_dump({"links": links, "link": link, "run_dir": str(folder)}))
    argv = [*COMMAND, "check", "--config", str(config)]
    text = subprocess.run(argv, capture_output=True, text=True, env=os.environ)
    told = subprocess.run([*argv, "--json"], capture_output=True, text=True, env=os.environ)
    assert text.returncode == told.returncode
    (finding,) = [f for f in json.loads(told.stdout)["findings"] if f["name"] == "links"]
    said = text.stdout + text.stderr + told.stdout + told.stderr
    assert PASSWORD not in said, "the password was printed"
    return told.returncode, finding, text.stdout


def test_a_server_with_a_password(tmp_path: Path) -> None:
    with store(tmp_path / "s", "--requirepass", PASSWORD) as port:
        code, found, text = check(tmp_path, f"redis://:{PASSWORD}@127.0.0.1:{port}/3")
        assert (code, found["state"]) == (0, "ok")
        assert "Redis 7" in found["text"] and " ms" in found["text"] and f"127.0.0.1:{port}" in found["text"]
        assert "links" in text and "is usable" in text
        code, found, text = check(tmp_path, f"redis://:{PASSWORD}-not@127.0.0.1:{port}/3")
        assert (code, found["state"]) == (1, "fail") and "WRONGPASS" in found["text"] and "password" in found["fix"]
        assert "NOT usable: links" in text
        code, found, _ = check(tmp_path, f"redis://127.0.0.1:{port}")
        assert code == 1 and "NOAUTH" in found["text"]


def test_nobody_there(tmp_path: Path) -> None:
    port = free_port()
    code, found, text = check(tmp_path, f"redis://zs:{PASSWORD}@127.0.0.1:{port}")
    assert (code, found["state"]) == (1, "fail")
    assert f"127.0.0.1:{port}" in found["text"] and "refused" in found["text"]
    assert "start the store" in text
    code, found, _ = check(tmp_path, "memory")
    assert (code, found["state"]) == (0, "info")


def test_what_may_not_be_written(tmp_path: Path) -> None:
    with store(tmp_path / "s", "--user", "zs", "on", f">{PASSWORD}", "~zs1:*", "+@read", "+ping") as port:
        code, found, _ = check(tmp_path, f"redis://zs:{PASSWORD}@127.0.0.1:{port}")
        assert code == 1 and "NOPERM" in found["text"] and "~zs1:*" in found["fix"]
        with store(tmp_path / "r", "--replicaof", "127.0.0.1", str(port)) as replica:
            code, found, _ = check(tmp_path, f"redis://127.0.0.1:{replica}")
            assert code == 1 and "READONLY" in found["text"] and "replica" in found["fix"]


def test_a_user_with_what_agents_need(tmp_path: Path) -> None:
    """No INFO for it: the version is not told, everything else is in order."""
    with store(
        tmp_path / "s", "--user", "zs", "on", f">{PASSWORD}", "~zs1:*", "+set", "+get", "+mget", "+ping"
    ) as port:
        code, found, _ = check(tmp_path, f"redis://zs:{PASSWORD}@127.0.0.1:{port}")
        assert (code, found["state"]) == (0, "ok") and "may not see" in found["text"]


def test_a_server_that_is_none(tmp_path: Path) -> None:
    with subprocess.Popen(["python3", "-c", HTTP], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        code, found, _ = check(tmp_path, f"redis://:{PASSWORD}@127.0.0.1:{port}")
        server.kill()
    assert code == 1 and "127.0.0.1" in found["text"]


# Repeats what it was told, as servers do that do not know a command.
HTTP = """
import socket
l = socket.create_server(("127.0.0.1", 0))
print(l.getsockname()[1], flush=True)
while True:
    s, _ = l.accept()
    data = s.recv(4096)
    s.sendall(b"-ERR unknown command 'AUTH', with args beginning with: " + data.split(b"\\r\\n")[4] + b"\\r\\n")
    s.close()
"""


def test_a_slow_store(tmp_path: Path) -> None:
    """Reached, but a round takes 100 ms: six of them do not fit into a hold of half a second."""
    with store(tmp_path / "s") as port:
        proxy = Proxy(port)
        proxy.delay_s = 0.1
        try:
            code, found, _ = check(tmp_path, f"redis://127.0.0.1:{proxy.port}", hold_s=0.5)
            assert (code, found["state"]) == (0, "warn") and "hold_s" in found["fix"]
            proxy.delay_s = 3.0
            code, found, _ = check(tmp_path, f"redis://127.0.0.1:{proxy.port}")
            assert code == 1 and "no answer in time" in found["text"]
        finally:
            proxy.stop()


def test_tls(tmp_path: Path) -> None:
    cert, key, port = tmp_path / "cert.pem", tmp_path / "key.pem", free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert),
         "-days", "2", "-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True,
    )  # fmt: skip
    with store(tmp_path / "s", "--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key),
               "--tls-ca-cert-file", str(cert), "--tls-auth-clients", "no", "--requirepass", PASSWORD):  # fmt: skip
        until(lambda: answers(port), "no TLS port")
        code, found, _ = check(tmp_path, f"rediss://:{PASSWORD}@127.0.0.1:{port}?ssl_ca_certs={cert}")
        assert (code, found["state"]) == (0, "ok") and "TLS" in found["text"]
        code, found, _ = check(tmp_path, f"rediss://:{PASSWORD}@127.0.0.1:{port}")
        assert code == 1 and "certificate" in found["text"].lower() and "ssl_ca_certs" in found["fix"]


def test_a_cluster_and_a_sentinel(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        cluster = ("--cluster-enabled", "yes", "--cluster-port")
        ports = [stack.enter_context(store(tmp_path / f"c{i}", *cluster, str(free_port()))) for i in range(3)]
        code, found, _ = check(tmp_path, f"redis+cluster://127.0.0.1:{ports[0]}")
        assert code == 1 and "slots" in found["text"], "there is no cluster yet"
        addresses = [f"127.0.0.1:{port}" for port in ports]
        subprocess.run(
            ["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"], check=True, capture_output=True
        )

        def info(port: int) -> str:
            return subprocess.run(
                ["redis-cli", "-p", str(port), "CLUSTER", "INFO"], capture_output=True, text=True
            ).stdout

        until(lambda: all("cluster_state:ok" in info(port) for port in ports), "no cluster")
        code, found, _ = check(tmp_path, "redis+cluster://" + ",".join(addresses))
        assert (code, found["state"]) == (0, "ok") and "3 masters" in found["text"]
        code, found, _ = check(tmp_path, f"redis://{addresses[0]}")
        assert code == 1 and "redis+cluster://" in found["fix"], "one node alone does not have all slots"

        master = stack.enter_context(store(tmp_path / "m", "--requirepass", PASSWORD))
        config = tmp_path / "sentinel.conf"
        config.write_text(f"sentinel monitor main 127.0.0.1 {master} 1\nsentinel auth-pass main {PASSWORD}\n")
        sentinel = free_port()
        argv = ["redis-server", str(config), "--sentinel", "--port", str(sentinel), "--dir", str(tmp_path)]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        stack.callback(lambda: (process.kill(), process.wait()))
        until(lambda: answers(sentinel), "no sentinel")
        code, found, _ = check(tmp_path, f"redis+sentinel://:{PASSWORD}@127.0.0.1:{sentinel}/main")
        assert (code, found["state"]) == (0, "ok") and "'main'" in found["text"]
        code, found, _ = check(tmp_path, f"redis+sentinel://:{PASSWORD}@127.0.0.1:{sentinel}/other")
        assert code == 1 and "knows no master" in found["text"] and "name the master" in found["fix"]


@pytest.mark.parametrize("program", [valkey_server], ids=["valkey"])
def test_valkey_says_its_own_name(tmp_path: Path, program: Callable[[], str]) -> None:
    with store(tmp_path / "s", program=program()) as port:
        code, found, _ = check(tmp_path, f"valkey://127.0.0.1:{port}")
        assert (code, found["state"]) == (0, "ok") and "Valkey " in found["text"]
