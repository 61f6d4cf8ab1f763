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

from zerospan.enricher.sources.kubelet import KubeletSource
from zerospan.enricher.sources.kubernetes import Kubelet
from zerospan.enricher.sources.kubernetes.client import Access, ApiError, Client, access
from zerospan.enricher.store import TagStore

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


def behind(authority: Authority, cert: str, key: str) -> ssl.SSLContext:
    """A server's, that wants a client's certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.cert)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(cert, key)
    return context


def test_certificates_that_stand_in_it(api: Api, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (cert, key), (ours, our_key) = authority.issue("server"), authority.issue("client")
    api.server.socket = behind(authority, cert, key).wrap_socket(api.server.socket, server_side=True)
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


def test_a_certificate_that_is_renewed(api: Api, tmp_path: Path) -> None:
    """By an exec plugin or by whoever writes the file: the old one is refused, the new one is read."""
    authority = Authority(tmp_path)
    api.put("/pods", pod("p", "10.0.0.1"))
    pairs = {name: authority.issue(name) for name in ("server", "client-one", "client-two")}
    api.server.socket = behind(authority, *pairs["server"]).wrap_socket(api.server.socket, server_side=True)
    (tmp_path / "now.pem").symlink_to(pairs["client-one"][0])
    (tmp_path / "now.key").symlink_to(pairs["client-one"][1])
    trusted = {"server": api.url.replace("http:", "https:"), "certificate-authority-data": encoded(authority.cert)}
    files = {"client-certificate": str(tmp_path / "now.pem"), "client-key": str(tmp_path / "now.key")}
    api.client = "client-one"
    found = access(written(tmp_path, trusted, files))
    kubelet = KubeletSource(
        TagStore(),
        Kubelet(
            url=trusted["server"], ca_file=authority.cert, token_file="",
            client_cert_file=files["client-certificate"], client_key_file=files["client-key"],
        ),
        "n1",
    )  # fmt: skip
    assert pods(found) == ["p"] and kubelet.poll()
    api.client = "client-two"
    for end, file in zip(("pem", "key"), pairs["client-two"], strict=True):
        (tmp_path / f"now.{end}").unlink()
        (tmp_path / f"now.{end}").symlink_to(file)
    with pytest.raises(ApiError, match="401"):
        pods(found)
    assert pods(found) == ["p"]
    assert not kubelet.poll() and kubelet.poll()


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
