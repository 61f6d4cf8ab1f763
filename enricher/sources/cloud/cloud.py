"""The source of the cloud: asks the machine's metadata service, tells the store what the machine is.

The key of this node and the machine's own addresses get one tag set. Pods of the node stand on it if their source
makes it their base (`store.find(keys.node(name))`). Nobody is asked where DMI names no cloud. Made by registry.py.
"""

import http.client
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from zerospan.enricher import keys
from zerospan.enricher.source import Layer, SourceStats
from zerospan.enricher.sources.cloud import alibaba, aws, azure, dmi, gcp
from zerospan.enricher.sources.cloud.metadata import Cloud, Machine, Metadata, MetadataError, host_port
from zerospan.enricher.store import TagStore
from zerospan.enricher.tagset import TagSet
from zerospan.exporter.config.model import Section

log = logging.getLogger("zerospan.enricher.cloud")

CLOUDS: dict[str, tuple[str, Callable[[Metadata], Cloud]]] = {
    "aws": (aws.ADDRESS, aws.Aws),
    "gcp": (gcp.ADDRESS, gcp.Gcp),
    "azure": (azure.ADDRESS, azure.Azure),
    "alibaba": (alibaba.ADDRESS, alibaba.Alibaba),
}
REQUESTS = 8  # a reading may take as long as this many requests that just make it


class CloudConfig(Section, frozen=True):
    """The cloud's metadata service."""

    provider: Annotated[
        Literal["auto", "aws", "gcp", "azure", "alibaba", "none"],
        Meta(description="Whose metadata service is asked; `auto`: the one that the DMI data names, else nobody's."),
    ] = "auto"
    address: Annotated[
        str, Meta(description="HOST:PORT of the metadata service; empty: the address that the cloud documents.")
    ] = ""
    tags: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(
            description="Globs of the machine's own tags to take as `zerospan.cloud.tag.*` (Google Cloud: custom "
            "metadata, except what is known to hold secrets)."
        ),
    ] = ()
    refresh_s: Annotated[float, Meta(ge=1, le=86400, description="Time between two readings.")] = 300
    timeout_s: Annotated[float, Meta(ge=0.05, le=30, description="Time for one request.")] = 0.8


def problems(config: CloudConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong beyond types and ranges, with its key, as exporter/config/rules.py tells it."""
    if config.address:
        try:
            host_port(config.address)
        except ValueError as e:
            yield ("address",), str(e)


class CloudSource:
    """node: the name of this node. folder: of the DMI data. clock: Unix time in ns."""

    name = "cloud"

    def __init__(
        self,
        store: TagStore,
        config: CloudConfig,
        node: str,
        *,
        folder: Path = dmi.DMI,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store, self._config, self._node, self._folder, self._clock = store, config, node, folder, clock
        self._stats = SourceStats()
        self._heard = time.monotonic()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._http: Metadata | None = None
        self._cloud: Cloud | None = None
        self._told: dict[bytes, TagSet] = {}
        self._failing = False
        self.provider = ""  # the one that is asked; "": none. Known when start() has returned

    def start(self) -> None:
        chosen = self._config.provider
        self.provider = dmi.provider(self._folder) if chosen == "auto" else "" if chosen == "none" else chosen
        if not self.provider:
            self._stats.in_sync = True
            return
        address, make = CLOUDS[self.provider]
        timeout_s = self._config.timeout_s
        self._http = Metadata(self._config.address or address, timeout_s=timeout_s, total_s=REQUESTS * timeout_s)
        self._cloud = make(self._http)
        self._thread = threading.Thread(target=self._run, name="cloud", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._http is not None:
            self._http.close()
        if self._thread is not None:
            self._thread.join(2)

    def stats(self) -> SourceStats:
        """in_sync also if the first reading failed: a metadata service that is away must not keep the rest waiting;
        `errors` and `lag_s` tell it.
        """
        stats = self._stats
        stats.lag_s = time.monotonic() - self._heard if self.provider else 0.0
        return stats

    def _run(self) -> None:
        assert self._http is not None and self._cloud is not None
        wait_s = 1.0
        while not self._stop.is_set():
            try:
                self._http.begin()
                machine = self._cloud.read(self._config.tags)
                self._tell(machine)
            except Exception as e:  # a source never raises out of its thread
                if self._stop.is_set():
                    return
                self._failed(e)
                pause = min(wait_s, self._config.refresh_s)
                wait_s *= 2
            else:
                self._heard, wait_s, pause = time.monotonic(), 1.0, self._config.refresh_s
                if self._failing:
                    log.info("the metadata service of %s answers again", self.provider)
                self._failing = False
            finally:
                self._http.end()
            self._stats.in_sync = True
            self._stop.wait(pause * random.uniform(0.9, 1.1))  # not all machines at once

    def _failed(self, e: Exception) -> None:
        self._stats.last_error = f"{self.provider}: {e or type(e).__name__}"
        if not self._failing:
            known = isinstance(e, MetadataError | OSError | http.client.HTTPException)
            log.warning(
                "the metadata service of %s: %s; what was known stays, asking again (sources.cloud.provider: none "
                "turns this off)",
                self.provider,
                e or type(e).__name__,
                exc_info=None if known else e,
            )
        self._failing = True
        self._stats.errors += 1

    def _tell(self, machine: Machine) -> None:
        tags = {name: value for name, value in machine.tags.items() if value}
        if machine.private:
            tags["zerospan.cloud.private_ip"] = machine.private[0]
            tags["host.ip"] = ",".join(machine.private)
        if machine.public:
            tags["zerospan.cloud.public_ip"] = machine.public[0]
        store, told = self._store, self._told
        # What is true now has been since the machine came up, but for what changes while we look.
        since_ns = self._clock() - (0 if told else time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        with store.batch():
            made = store.make(tags)
            now = {keys.node(self._node): made}
            now |= {keys.address(text): made for text in (*machine.private, *machine.public)}
            for key, old in told.items():
                if key not in now:
                    self._stats.changes += store.end(key, layer=Layer.CLOUD, tags=old)
            for key, new in now.items():
                if told.get(key) is not new:
                    store.put(key, new, layer=Layer.CLOUD, since_ns=since_ns, node=self._node)
                    self._stats.changes += 1
        self._told = now
        self._stats.entities = {"machine": 1, "address": len(now) - 1}
