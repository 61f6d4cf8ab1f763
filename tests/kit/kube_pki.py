"""Certificates, keys and kubeconfigs of a test cluster: one authority, a certificate for each of who speaks.

The names are those that Kubernetes' built-in RBAC rules and the Node authoriser know (system:node:NAME in
system:nodes, system:kube-scheduler, ...). Made by `openssl` in a folder; nothing is ever made twice in one folder.
Called by kube_cluster.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from kube_daemon import run

DAYS = "3650"


class Pki:
    """`Pki(folder, server)`: the folder of the files, and the API server's URL for the kubeconfigs."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder = folder
        self.server = server
        self.ca = folder / "ca.crt"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def cert(self, name: str) -> Path:
        return self.folder / f"{name}.crt"

    def make_authority(self) -> None:
        """The authority, and the key that signs the tokens of service accounts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._new_key("ca")
        run(["openssl", "req", "-x509", "-new", "-key", self.key("ca"), "-subj", "/CN=kubernetes", "-days", DAYS,
             "-out", self.ca])  # fmt: skip
        run(["openssl", "genrsa", "-out", self.key("sa"), "2048"])  # tokens: RS256

    def make(self, name: str, common_name: str, group: str = "", addresses: Sequence[str] = ()) -> None:
        """`name`.key and `name`.crt, for clients and, with `addresses` (names or IPs), for a server, too."""
        self._new_key(name)
        subject = (f"/O={group}" if group else "") + f"/CN={common_name}"
        request = self.folder / f"{name}.csr"
        run(["openssl", "req", "-new", "-key", self.key(name), "-subj", subject, "-out", request])
        uses = "clientAuth,serverAuth" if addresses else "clientAuth"
        lines = ["basicConstraints=CA:FALSE", f"extendedKeyUsage={uses}"]
        if addresses:
            kinds = [("IP" if at.replace(".", "").isdigit() else "DNS", at) for at in addresses]
            lines.append("subjectAltName=" + ",".join(f"{kind}:{at}" for kind, at in kinds))
        extensions = self.folder / f"{name}.ext"
        extensions.write_text("\n".join(lines) + "\n")
        run(["openssl", "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.key("ca"), "-CAcreateserial",
             "-days", DAYS, "-extfile", extensions, "-out", self.cert(name)])  # fmt: skip

    def kubeconfig(self, name: str, path: Path) -> Path:
        """Writes a kubeconfig (JSON is YAML) that signs in by `name`'s certificate; files are named, not copied."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "zk", "cluster": {"server": self.server, "certificate-authority": str(self.ca)}}],
            "users": [
                {"name": name, "user": {"client-certificate": str(self.cert(name)), "client-key": str(self.key(name))}}
            ],
            "contexts": [{"name": "zk", "context": {"cluster": "zk", "user": name}}],
            "current-context": "zk",
        }
        path.write_text(json.dumps(config, indent=1))
        path.chmod(0o600)
        return path

    def _new_key(self, name: str) -> None:
        run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.key(name)])
