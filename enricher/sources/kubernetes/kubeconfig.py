"""What a kubeconfig says, read by the `kubernetes` package in a process of its own.

The package knows all that can stand in one (exec plugins, OIDC, embedded certificates), but to import it costs 20 MB
for good and a third of a second; so a child imports it, tells one JSON object on its stdout, and ends. `read` is the
parent's side (client.py calls it), `main` the child's: `python -m zerospan.enricher.sources.kubernetes.kubeconfig`.
"""

import json
import subprocess
import sys
from pathlib import Path

import msgspec

READ_S = 60.0  # an exec plugin may ask a server


class Said(msgspec.Struct, frozen=True):
    """Certificates and keys as PEM. authorization: value of the header, "": none."""

    host: str
    authorization: str = ""
    verify: bool = True
    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""
    proxy: str = ""


def read(path: str, context: str) -> Said:
    """path: "" as kubectl finds it. ValueError with the package's own words where it cannot be used."""
    command = [sys.executable, "-P", "-m", __name__, path, context]  # -P: no module from the current folder
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=READ_S, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"kubeconfig {path or '~/.kube/config'}: no answer within {READ_S:g} s") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ValueError(f"kubeconfig {path or '~/.kube/config'}: {said[-1] if said else 'the reader died'}")
    return msgspec.json.decode(done.stdout.rpartition(b"\n")[2], type=Said)


def main(path: str, context: str) -> None:
    """In the child: the object is the last line, whatever a plugin writes before it."""
    from kubernetes import config
    from kubernetes.client import Configuration

    made = Configuration()
    config.load_kube_config(path or None, context or None, made, persist_config=False)  # type: ignore[no-untyped-call]
    value = made.get_api_key_with_prefix("authorization") or made.get_api_key_with_prefix("BearerToken")
    if not value and made.username:
        value = made.get_basic_auth_token()
    said = Said(
        made.host,
        value or "",
        made.verify_ssl,
        _text(made.ssl_ca_cert),
        _text(made.cert_file),
        _text(made.key_file),
        made.tls_server_name or "",
        made.proxy or "",
    )
    sys.stdout.write("\n" + json.dumps(msgspec.structs.asdict(said)))


def _text(file: str | None) -> str:
    return Path(file).read_text() if file else ""


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2])
    except Exception as e:
        sys.exit(f"{e}" or type(e).__name__)
