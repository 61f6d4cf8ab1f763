"""Makes .cache/images/services.image.tar: one image, of several names, with the programs of Bookinfo and of the shop.

    root file system of Debian packages (mmdebstrap) | Envoy (demo/bookinfo/setup.sh) | the services' own code, jars

One root file system for all of them, since a node unpacks it once; the names differ, since an image's name is a tag of
its containers. What no container of ours uses is left out (documentation, translations, PostgreSQL's compiler).
Repeatable: a layer is made again when what it is made of changed. Called by `make e2e-k8s` and `make k8s-up`.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests/kit"), str(ROOT)]

from demo.bookinfo.cluster import envoy  # noqa: E402
from kube_daemon import KubeError, run  # noqa: E402
from kube_files import docker_archive, layer  # noqa: E402

CACHE = ROOT / ".cache/images"
OUT = CACHE / "services.image.tar"
SUITE = "bookworm"
PACKAGES = (
    "busybox-static", "ca-certificates", "curl", "gunicorn", "iproute2", "libpostgresql-jdbc-java", "nftables",
    "nginx-light", "nodejs", "openjdk-17-jre-headless", "postgresql", "procps", "puma", "python3", "python3-dnspython",
    "python3-flask", "python3-requests", "redis-server", "ruby", "ruby-pg", "ruby-rack", "ruby-redis",
)  # fmt: skip
LEFT_OUT = (
    "/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/i18n/*",
    "/usr/lib/postgresql/*/lib/bitcode/*",
    "/usr/lib/*-linux-gnu/libLLVM-*", "/usr/lib/*-linux-gnu/libz3.so*", "/usr/lib/jvm/*/lib/server/classes_nocoops.jsa",
    "/usr/lib/jvm/*/lib/ct.sym", "/var/lib/postgresql/*/main", "/var/cache/debconf/*", "/var/lib/apt/lists/*",
)  # fmt: skip
NAMES = (
    "bookinfo-productpage", "bookinfo-details", "bookinfo-reviews", "bookinfo-ratings", "envoy", "mesh-init",
    "shop-nginx",
    "shop-front", "shop-catalog", "shop-pricing", "shop-recommend", "postgresql", "redis", "tools",
)  # fmt: skip


def main() -> None:
    begin = time.monotonic()
    CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [ROOT / "tools/packages.sh", "mmdebstrap", "default-jdk-headless", "libpostgresql-jdbc-java"], check=True
    )
    subprocess.run(
        [ROOT / "demo/setup.sh"], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SHOP_JAR_ONLY": "1"}, check=True
    )
    subprocess.run([ROOT / "demo/bookinfo/setup.sh"], check=True)
    system, changed = _system()
    code = _code()
    names = [f"localhost/zk/{name}:1" for name in NAMES]
    stamp = _hash(["image", *names, *(f"{path}{path.stat().st_mtime_ns}" for path in (system, code))])
    if changed or not OUT.exists() or _read(CACHE / "services.stamp") != stamp:
        env = [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
            "PYTHONDONTWRITEBYTECODE=1",
        ]
        docker_archive(OUT, names, [system, code], {"Env": env, "Cmd": ["/bin/sh"]})
        (CACHE / "services.stamp").write_text(stamp)
        print(
            f"images: {OUT.name}, {OUT.stat().st_size / 1e6:.0f} MB, in {time.monotonic() - begin:.0f} s",
            file=sys.stderr,
        )


def _system() -> tuple[Path, bool]:
    """The root file system's tar, and whether it is new."""
    out, stamp_file = CACHE / "services-system.tar", CACHE / "services-system.stamp"
    stamp = _hash([SUITE, *PACKAGES, *LEFT_OUT])
    if out.exists() and _read(stamp_file) == stamp:
        return out, False
    print("images: installing the services' Debian packages into a root file system (2 min)", file=sys.stderr)
    # removed at the end: some packages' scripts fail without their folders of documentation
    clean = "--customize-hook=rm -rf " + " ".join(f'"$1"{glob}' for glob in LEFT_OUT)
    run(["nice", "-n", "5", "mmdebstrap", "--variant=essential", f"--include={','.join(PACKAGES)}", clean, SUITE, out],
        timeout_s=900)  # fmt: skip
    stamp_file.write_text(stamp)
    return out, True


def _code() -> Path:
    """The layer of the programs that are no Debian packages."""
    folders = {"srv/shop": ROOT / "demo/services", "srv/bookinfo": ROOT / "demo/bookinfo/services"}
    files = {
        **folders,
        "srv/shop/pricing.jar": ROOT / ".cache/demo/pricing.jar",
        "srv/bookinfo/reviews.jar": ROOT / ".cache/bookinfo/reviews.jar",
        "usr/local/bin/envoy": envoy(),
    }
    out, stamp_file = CACHE / "services-code.tar", CACHE / "services-code.stamp"
    inputs = [
        path
        for top in files.values()
        for path in ([top] if top.is_file() else sorted(top.rglob("*")))
        if path.is_file()
    ]
    stamp = _hash(
        f"{path}{path.stat().st_size}{path.stat().st_mtime_ns}" for path in inputs if "__pycache__" not in str(path)
    )
    if not out.exists() or _read(stamp_file) != stamp:
        layer(out, files)
        stamp_file.write_text(stamp)
    return out


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    try:
        main()
    except (KubeError, subprocess.CalledProcessError) as error:
        sys.exit(f"images: {error}")
