"""A real nginx on loopback for tests: one worker, a 1 KiB file, stub_status, optionally a proxy before it.

Its own count of requests is the ground truth of the ledger tests. Needs Debian's nginx.
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType

SERVER = "server {{ listen 127.0.0.1:{port}; root {root}; location = /zs-status {{ stub_status; }} }}"
PROXY = "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{upstream}; }} }}"
CONFIG = """daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{ access_log off; sendfile on; tcp_nopush on; open_file_cache max=100; keepalive_requests 100000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {servers} }}
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


class Nginx:
    """`with Nginx(folder, proxy=True) as nginx:`; `.port` serves files, `.proxy_port` proxies to it, no keep-alive."""

    def __init__(self, folder: Path, *, proxy: bool = False) -> None:
        self.port = free_port()
        self.proxy_port = free_port() if proxy else 0
        www = folder / "www"
        www.mkdir(parents=True)
        (www / "f.txt").write_bytes(b"a" * 1024)
        folder.chmod(0o755)
        servers = [SERVER.format(port=self.port, root=www)]
        if proxy:
            servers.append(PROXY.format(port=self.proxy_port, upstream=self.port))
        self.config = folder / "nginx.conf"
        self.config.write_text(CONFIG.format(folder=folder, servers="\n  ".join(servers)))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Nginx:
        self.process = subprocess.Popen(["nginx", "-c", str(self.config)])
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return self
            except OSError:
                assert self.process.poll() is None, "nginx ended"
                time.sleep(0.02)
        raise AssertionError("nginx did not come up")

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(10)

    def requests(self) -> int:
        """nginx's own count so far; asking counts as one."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/zs-status", timeout=5) as answer:
            text = answer.read().decode()
        return int(re.findall(r"^ *\d+ +\d+ +(\d+)", text, re.M)[0])
