"""The demo shop, started and stopped: nginx, gunicorn, Puma, Java, Node.js, PostgreSQL, Redis, dnsmasq.

Assumes that `demo/setup.sh` has run. All on loopback. Needs no rights; as root, the name server takes port 53
and the servers that give up root do so. Standard library only. Command line: `--run` (foreground), `--check`
(smoke test). Called by `make demo`.
"""

from __future__ import annotations

import argparse
import glob
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

# For `python3 demo/shop.py`: the folder that holds the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.drive import Request, drive, save
from demo.expected import KINDS, Kind
from demo.probe import HOST, dns_ok, free_dns, free_ports, http_ok, postgres_ok, redis_ok
from demo.process import Identity, Process, ShopError, descendants, identify, rss_kib

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ROOT / "demo" / "services"
JAR = ROOT / ".cache" / "demo" / "pricing.jar"
NAMES = ("catalog", "pricing", "recommend")  # .shop.test; what the name server knows
LISTENERS = ("nginx", "keep", "close", *NAMES, "postgresql", "redis")
START_S = 60.0
STOP_S = 10.0


class Shop:
    """The whole shop as a context manager. `tag`: SQL, Redis keys and DNS names carry the request id, too."""

    expected: dict[str, Kind] = KINDS

    def __init__(self, *, tag: bool = False) -> None:
        self.tag = tag
        self.logs = Path()  # the temporary folder of logs and data, while started
        self.ports: dict[str, int] = {}
        self.dns: tuple[str, int] = ("", 0)
        self.start_s = 0.0  # what start() took
        self._processes: dict[str, Process] = {}

    @property
    def base_url(self) -> str:
        """Where to send requests: nginx."""
        return f"http://{HOST}:{self.ports['nginx']}"

    @property
    def pids(self) -> dict[str, int]:
        """The first process of each program by its name; `demo.process.descendants` finds their workers."""
        return {name: process.pid for name, process in self._processes.items()}

    def start(self) -> None:
        """Starts everything and returns when all answer. ShopError (nothing left running) if one does not."""
        begin = time.monotonic()
        self._require()
        self.logs = Path(tempfile.mkdtemp(prefix="zerospan-shop-"))
        self.logs.chmod(0o755)
        try:
            self.ports = dict(zip(LISTENERS, free_ports(len(LISTENERS)), strict=True))
            self.dns = free_dns()
            self._start_all(begin + START_S)
        except BaseException:
            self.stop()
            raise
        self.start_s = time.monotonic() - begin

    def stop(self) -> None:
        """Stops everything and removes the temporary folder. ShopError if one is still there."""
        everything = self.processes()
        deadline = time.monotonic() + STOP_S
        # Those that ask stop before those that answer; inside one step all at once.
        for step in (("nginx",), ("shop-keep", "shop-close"), NAMES, tuple(self._processes)):
            for name in step:
                if name in self._processes:
                    self._processes[name].ask_to_stop()
            for name in step:
                if name in self._processes and not self._processes[name].stop(deadline):
                    print(f"shop: {name} did not stop by itself and was killed", file=sys.stderr)
        while left := [one for one in everything if identify(one.pid) == one]:
            if time.monotonic() > deadline:
                raise ShopError(f"still running after stop: {left}; end them by hand")
            time.sleep(0.02)
        self._processes.clear()
        if self.logs.name:
            shutil.rmtree(self.logs, ignore_errors=True)
            self.logs = Path()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def drive(self, n: int, concurrency: int, seed: int, curl: int = 10) -> list[Request]:
        """Sends `n` requests, see `demo.drive`."""
        return drive(HOST, self.ports["nginx"], n, concurrency, seed, curl)

    def served(self, wanted: int) -> int:
        """How many of `drive`'s requests nginx has logged; waits a second for the last of `wanted`."""
        deadline = time.monotonic() + 1.0
        while True:
            found = (self.logs / "access.log").read_text().count(" /r/zs")
            if found >= wanted or time.monotonic() > deadline:
                return found
            time.sleep(0.01)

    def processes(self) -> list[Identity]:
        """Every process of the shop, workers and back ends included."""
        return descendants(self.pids.values())

    def dead(self) -> list[str]:
        """Names of the programs that ended by themselves."""
        return [name for name, process in self._processes.items() if not process.alive()]

    def tails(self) -> str:
        """The last log lines of every program, for a failure's message."""
        return "\n".join(process.tail(5) for process in self._processes.values())

    def _require(self) -> None:
        if self._processes:
            raise ShopError("this shop is started already; stop() it first")
        wanted = [JAR, *(Path("/usr/sbin", name) for name in ("nginx", "dnsmasq"))]
        wanted += [
            Path("/usr/bin", name) for name in ("gunicorn", "puma", "node", "java", "redis-server", "curl")
        ]
        gone = [str(path) for path in wanted if not path.exists()]
        if gone or not glob.glob("/usr/lib/postgresql/*/bin/initdb"):
            raise ShopError(f"not here: {', '.join(gone) or 'PostgreSQL'}; run demo/setup.sh first")

    def _start_all(self, deadline: float) -> None:
        waits: list[tuple[Process, Callable[[], bool]]] = []

        def start(
            name: str,
            command: list[str],
            ready: Callable[[], bool],
            env: dict[str, str] | None = None,
            user: str | None = None,
            keep: str | None = None,
            stop_signal: signal.Signals = signal.SIGTERM,
        ) -> None:
            log = self.logs / f"{name}.log"
            process = Process(name, command, log, env=env, user=user, keep=keep, stop_signal=stop_signal)
            self._processes[name] = process
            waits.append((process, ready))

        def wait() -> None:
            for process, ready in waits:
                process.wait_ready(ready, deadline)
            waits.clear()

        port = self.ports
        start("nginx", ["/usr/sbin/nginx", "-c", str(self._nginx_conf())], partial(http_ok, port["nginx"]))
        start("redis", self._redis(), partial(redis_ok, port["redis"]))
        start("dns", self._dnsmasq(), partial(dns_ok, self.dns), user="nobody", keep="net_bind_service")
        env = {"SHOP_PORT": str(port["recommend"])}
        node = ["/usr/bin/node", str(SERVICES / "recommend" / "recommend.js")]
        start("recommend", node, partial(http_ok, port["recommend"]), env)
        postgres = self._initdb()
        answers = partial(postgres_ok, port["postgresql"])
        start("postgresql", postgres, answers, user="postgres", stop_signal=signal.SIGINT)
        wait()
        self._schema()
        stores = {
            "SHOP_PG_PORT": str(port["postgresql"]),
            "SHOP_REDIS_PORT": str(port["redis"]),
            "SHOP_TAG": str(int(self.tag)),
        }
        puma = ["/usr/bin/puma", "-C", str(SERVICES / "catalog" / "puma.rb")]
        env = {**stores, "SHOP_PORT": str(port["catalog"])}
        start("catalog", puma, partial(http_ok, port["catalog"]), env)
        java = ["/usr/bin/java", "-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        # The JDK's server writes head and body apart; with Nagle that costs 40 ms on a kept connection.
        java += [
            "-Dsun.net.httpserver.nodelay=true",
            "-Dsun.net.httpserver.idleInterval=600",
            "-jar",
            str(JAR),
        ]
        env = {**stores, "SHOP_PORT": str(port["pricing"])}
        start("pricing", java, partial(http_ok, port["pricing"]), env)
        for name, extra in (
            (
                "keep",
                ["--worker-class", "gthread", "--workers", "1", "--threads", "4", "--keep-alive", "600"],
            ),
            ("close", ["--worker-class", "sync", "--workers", "2"]),
        ):
            env = {
                "SHOP_DNS": f"{self.dns[0]}:{self.dns[1]}",
                "SHOP_PORTS": ",".join(f"{service}={port[service]}" for service in NAMES),
                "SHOP_TAG": str(int(self.tag)),
                "PYTHONDONTWRITEBYTECODE": "1",
            }
            gunicorn = [
                "/usr/bin/gunicorn",
                "--chdir",
                str(SERVICES / "shop"),
                "--bind",
                f"{HOST}:{port[name]}",
            ]
            gunicorn += ["--worker-tmp-dir", str(self.logs), "--preload", *extra, "shop:app"]
            start(f"shop-{name}", gunicorn, partial(http_ok, port[name]), env)
        wait()

    def _nginx_conf(self) -> Path:
        text = (SERVICES / "nginx" / "nginx.conf.in").read_text()
        fields = {
            "@DIR@": str(self.logs),
            "@USER@": "user nobody nogroup;" if os.geteuid() == 0 else "",
            "@PORT@": str(self.ports["nginx"]),
            "@KEEP@": str(self.ports["keep"]),
            "@CLOSE@": str(self.ports["close"]),
        }
        for field, value in fields.items():
            text = text.replace(field, value)
        path = self.logs / "nginx.conf"
        path.write_text(text)
        return path

    def _redis(self) -> list[str]:
        port = str(self.ports["redis"])
        return [
            "/usr/bin/redis-server",
            "--port",
            port,
            "--bind",
            HOST,
            "--save",
            "",
            "--dir",
            str(self.logs),
        ]

    def _dnsmasq(self) -> list[str]:
        command = [
            "/usr/sbin/dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--log-facility=-",
            "--pid-file=",
        ]
        command += ["--no-resolv", "--no-hosts", "--no-poll", "--bind-interfaces", "--except-interface=none"]
        command += [f"--listen-address={self.dns[0]}", f"--port={self.dns[1]}", "--local=/shop.test/"]
        return command + [f"--address=/{name}.shop.test/{HOST}" for name in NAMES]

    def _initdb(self) -> list[str]:
        """Makes the database's folder; returns the server's command line. The server refuses to be root."""
        binaries = max(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
        data = self.logs / "postgresql"
        data.mkdir(mode=0o700)
        become: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(data, "postgres", "postgres")
            become = ["/usr/bin/setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
        self._once(
            [
                *become,
                f"{binaries}/initdb",
                "-D",
                str(data),
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "-A",
                "trust",
                "-N",
            ]
        )
        shutil.copyfile(SERVICES / "postgresql" / "pg_hba.conf", data / "pg_hba.conf")
        settings = {
            "listen_addresses": HOST,
            "port": self.ports["postgresql"],
            "unix_socket_directories": "",
            "ssl": "off",
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": 30,
            "cluster_name": "shop",
        }
        return [
            f"{binaries}/postgres",
            "-D",
            str(data),
            *(f"--{key}={value}" for key, value in settings.items()),
        ]

    def _schema(self) -> None:
        address = ["-h", HOST, "-p", str(self.ports["postgresql"]), "-U", "postgres", "-d", "postgres"]
        script = str(SERVICES / "postgresql" / "schema.sql")
        self._once(["/usr/bin/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *address, "-f", script])

    def _once(self, command: list[str]) -> None:
        env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PGSSLMODE": "disable"}
        result = subprocess.run(command, capture_output=True, text=True, cwd=self.logs, env=env)
        if result.returncode:
            raise ShopError(
                f"{' '.join(command)} failed with code {result.returncode}\n{result.stdout}{result.stderr}"
            )


def check(n: int, concurrency: int, seed: int, tag: bool, requests_file: Path | None) -> int:
    """Starts the shop, sends `n` requests, prints what they took; 0 if every status was the right one."""
    with Shop(tag=tag) as shop:
        begin = time.perf_counter()
        requests = shop.drive(n, concurrency, seed)
        took = time.perf_counter() - begin
        print(f"started in {shop.start_s:.1f} s; {n} requests in {took:.2f} s, {concurrency} in flight")
        for kind in KINDS:
            ms = sorted(1000 * request.latency for request in requests if request.kind == kind)
            if ms:
                statuses = dict(Counter(request.status for request in requests if request.kind == kind))
                middle, tail = statistics.median(ms), ms[min(len(ms) - 1, len(ms) * 99 // 100)]
                print(
                    f"  {kind:10} {len(ms):5}  p50 {middle:7.2f} ms  p99 {tail:7.2f} ms  statuses {statuses}"
                )
        total = 0
        for name, pid in shop.pids.items():
            family = [rss_kib(one.pid) for one in descendants([pid])]
            total += sum(family)
            print(f"  {name:10} pid {pid:7}  {len(family):3} processes  {sum(family) / 1024:7.1f} MiB RSS")
        print(f"  together {total / 1024:.0f} MiB RSS (shared pages counted in each)")
        served = shop.served(n)
        wrong = [request for request in requests if not request.right]
        if wrong or len(requests) != n or served != n:
            print(f"FAILED: {len(requests)} of {n} sent, nginx logged {served}, wrong: {wrong[:5]}")
            print(shop.tails())
            return 1
        if requests_file is not None:
            save(requests_file, requests)
    print("all statuses right; nothing left running")
    return 0


def run(tag: bool) -> NoReturn:
    """Runs the shop in the foreground until SIGINT or SIGTERM."""
    with Shop(tag=tag) as shop:
        print(f"The shop is open: {shop.base_url} (logs in {shop.logs}). Ctrl-C closes it. Try:", flush=True)
        for kind in KINDS.values():
            path = kind.path.format(rid="zs000000n000001", item=17)
            body = (
                """ -H 'Content-Type: application/json' -d '{"item": 17, "quantity": 2}'"""
                if kind.method == "POST"
                else ""
            )
            print(f"  curl -i {shop.base_url}{path}{body}", flush=True)
        while not (dead := shop.dead()):
            time.sleep(0.5)
        raise ShopError(f"ended by themselves: {', '.join(dead)}\n{shop.tails()}")


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--run", action="store_true", help="run in the foreground and say how to send a request"
    )
    what.add_argument("--check", action="store_true", help="start, send requests, verify, stop")
    parser.add_argument("--requests", type=int, default=300, help="of --check (default 300)")
    parser.add_argument(
        "--concurrency", type=int, default=8, help="of --check: requests in flight (default 8)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of --check: decides the mix")
    parser.add_argument(
        "--requests-file", type=Path, help="of --check: write the requests' ids and kinds, for truth.py"
    )
    parser.add_argument(
        "--tag", action="store_true", help="SQL, Redis keys and DNS names carry the request id"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    try:
        if arguments.run:
            run(arguments.tag)
        return check(
            arguments.requests, arguments.concurrency, arguments.seed, arguments.tag, arguments.requests_file
        )
    except ShopError as error:
        print(f"shop: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
