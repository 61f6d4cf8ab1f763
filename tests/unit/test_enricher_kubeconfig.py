"""A kubeconfig, read by the `kubernetes` package in a child: what it says reaches our own client, and nothing of the
package stays in our process.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from enricher_kit import Authority
from fake_kubernetes import Api
from kubernetes_objects import PODS, pod

from zerospan.enricher.sources.kubernetes.client import Access, ApiError, Client, access

PACKAGE = "import sys; from zerospan.enricher.sources.kubernetes.client import access; access({!r}); "


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    made.put(PODS, pod("p", "10.0.0.1"))
    yield made
    made.close()


def written(folder: Path, cluster: dict[str, Any], user: dict[str, Any], **more: Any) -> str:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [
            {"name": "c", "context": {"cluster": "c", "user": "u"}},
            {"name": "other", "context": {"cluster": "other", "user": "u"}},
        ],
        "clusters": [{"name": "c", "cluster": cluster}, {"name": "other", "cluster": more or cluster}],
        "users": [{"name": "u", "user": user}],
    }
    file = folder / "config"
    file.write_text(json.dumps(config))
    return str(file)


def pods(found: Access) -> list[str]:
    client = Client(found)
    try:
        body = json.loads(bytes(client.get(PODS, {})))
    finally:
        client.close()
    return [item["metadata"]["name"] for item in body["items"]]


def encoded(file: str) -> str:
    return base64.b64encode(Path(file).read_bytes()).decode()


def test_certificates_that_stand_in_it(api: Api, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (cert, key), (ours, our_key) = authority.issue("server"), authority.issue("client")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.cert)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(cert, key)
    api.server.socket = context.wrap_socket(api.server.socket, server_side=True)
    url = api.url.replace("http:", "https:")
    trusted = {"server": url, "certificate-authority-data": encoded(authority.cert)}
    known = {"client-certificate-data": encoded(ours), "client-key-data": encoded(our_key)}
    assert pods(access(written(tmp_path, trusted, known))) == ["p"]
    with pytest.raises(OSError, match=r"(?i)certificate|reset|alert|EOF"):  # it is the certificate that opens the door
        pods(access(written(tmp_path, trusted, {})))
    with pytest.raises(ssl.SSLCertVerificationError):
        pods(access(written(tmp_path, {"server": url}, known)))
    assert pods(access(written(tmp_path, {"server": url, "insecure-skip-tls-verify": True}, known))) == ["p"]
    named = trusted | {"server": url.replace("127.0.0.1", "127.0.0.2"), "tls-server-name": "localhost"}
    assert access(written(tmp_path, named, known))._server_name == "localhost"


def test_tokens_names_and_contexts(api: Api, tmp_path: Path) -> None:
    api.token = "s3cr3t"
    file = written(tmp_path, {"server": "http://127.0.0.1:1"}, {"token": "s3cr3t"}, server=api.url)
    assert pods(access(file, "other")) == ["p"]
    basic = access(written(tmp_path, {"server": api.url}, {"username": "u", "password": "p"})).headers()
    assert basic == {"Authorization": "Basic " + base64.b64encode(b"u:p").decode()}


def test_a_refused_token_is_read_again_at_once(api: Api, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"

    def says(token: str) -> None:
        status = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}
        plugin.write_text(f"#!/bin/sh\necho noise >&2\necho run >> {tmp_path}/runs\necho '{json.dumps(status)}'\n")
        plugin.chmod(0o755)

    says("first")
    api.token = "first"
    run = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
    found = access(written(tmp_path, {"server": api.url}, {"exec": run}))
    assert pods(found) == pods(found) == ["p"]
    assert (tmp_path / "runs").read_text() == "run\n"  # not once for each request
    api.token = "second"
    says("second")
    with pytest.raises(ApiError):
        pods(found)
    assert pods(found) == ["p"]
    assert (tmp_path / "runs").read_text() == "run\nrun\n"


@pytest.mark.parametrize("text", ["", "}", '{"current-context": "none"}'])
def test_one_that_cannot_be_used_is_said_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad").write_text(text)
    with pytest.raises(ValueError, match="kubeconfig .*bad: .+") as e:
        access(str(tmp_path / "bad"))
    assert "Traceback" not in str(e.value) and "\n" not in str(e.value)


def test_the_package_stays_out_of_our_process(tmp_path: Path) -> None:
    file = written(tmp_path, {"server": "http://127.0.0.1:1"}, {"token": "t"})
    held = "any(m.partition('.')[0] in ('kubernetes', 'requests') for m in sys.modules)"
    code = PACKAGE.format(file) + f"sys.exit({held})"
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": source}, check=False, timeout=60)
    assert done.returncode == 0
