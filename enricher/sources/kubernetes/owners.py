"""Who owns a pod: its ReplicaSet's Deployment, its Job's CronJob, or what a custom controller made.

Fed with metadata only. Of ReplicaSets that are named as Deployments name them (name, "-", the pod template's hash) only
that they exist is remembered: a pod's own labels and references tell the rest, and a cluster has tens of thousands of
old ones. The kubelet's source has no such feed and lives by the same rule alone.
"""

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from zerospan.enricher.sources.kubernetes.model import Metadata, Owner, ns

HASH = "pod-template-hash"
ROLLOUT_HASH = "rollouts-pod-template-hash"
DEPTH = 6
DAY = 86_400
GONE = 4096  # owners that are remembered after their end


class Known(msgspec.Struct, gc=False):
    """An owner whose own owner must be remembered."""

    parent: Owner | None


def controller(refs: Iterable[Owner] | None) -> Owner | None:
    """The owner that controls an object. A static pod's node owns nothing in this sense."""
    for ref in refs or ():
        if ref.controller and ref.kind != "Node":
            return ref
    return None


class Owners:
    """Not thread-safe: under the source's lock."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Known]] = {}  # kind: uid
        self._plain: set[int] = set()  # ReplicaSets
        self._gone: dict[str, Known] = {}  # uid; the longest gone first
        self.epoch = 0  # one more for each owner whose chain may be another now

    def seen(self, kind: str, meta: Metadata) -> None:
        """An object that can own."""
        parent = controller(meta.owner_references)
        known = self._known.setdefault(kind, {})
        if kind == "ReplicaSet" and parent is not None and parent.kind == "Deployment":
            head, _, hash = meta.name.rpartition("-")
            if head == parent.name and hash == (meta.labels or {}).get(HASH):
                self.epoch += known.pop(meta.uid, None) is not None
                self._plain.add(short(meta.uid))
                return
        self.epoch += known.get(meta.uid) != Known(parent)
        known[meta.uid] = Known(parent)

    def gone(self, kind: str, uid: str) -> None:
        """Deleted. Its pods, which may live on for a while, keep what they were told."""
        self._remember(uid, self._known.get(kind, {}).pop(uid, None))
        if kind == "ReplicaSet":
            self._plain.discard(short(uid))

    def only(self, kind: str, shorts: set[int]) -> None:
        """After a new list: what is not among these has gone."""
        if kind == "ReplicaSet":
            self._plain &= shorts
        known = self._known.get(kind, {})
        for uid in [uid for uid in known if short(uid) not in shorts]:
            self._remember(uid, known.pop(uid))

    def has(self, owner: Owner) -> bool:
        return (
            owner.uid in self._known.get(owner.kind, ())
            or owner.uid in self._gone
            or (owner.kind == "ReplicaSet" and short(owner.uid) in self._plain)
        )

    def chain(self, meta: Metadata) -> list[Owner]:
        """The pod's owners, the nearest first."""
        found: list[Owner] = []
        at = controller(meta.owner_references)
        while at is not None and len(found) < DEPTH:
            found.append(at)
            known = self._known.get(at.kind, {}).get(at.uid) or self._gone.get(at.uid)
            at = known.parent if known is not None else guessed(at, meta)
        return found

    def _remember(self, uid: str, known: Known | None) -> None:
        if known is not None:
            if len(self._gone) >= GONE:
                del self._gone[next(iter(self._gone))]
            self._gone[uid] = known

    def __len__(self) -> int:
        return sum(map(len, self._known.values())) + len(self._plain)


def guessed(owner: Owner, pod: Metadata) -> Owner | None:
    """The owner's owner by name alone, where Kubernetes' own rule of naming leaves no doubt."""
    labels = pod.labels or {}
    if owner.kind == "ReplicaSet":
        for label, kind in ((HASH, "Deployment"), (ROLLOUT_HASH, "Rollout")):
            hash = labels.get(label)
            if hash and owner.name.endswith("-" + hash):
                return Owner(kind=kind, name=owner.name[: -len(hash) - 1], controller=True)
    if owner.kind == "Job":  # a CronJob's: its name, then the scheduled minute since 1970
        name, _, minutes = owner.name.rpartition("-")
        if name and len(minutes) == 8 and minutes.isdigit():
            late = ns(pod.creation_timestamp) // 1_000_000_000 - int(minutes) * 60
            if 0 <= late < DAY:
                return Owner(kind="CronJob", name=name, controller=True)
    return None


@lru_cache(1 << 12)
def short(uid: str) -> int:
    """A fingerprint of 60 bits: what is confused by it (2^-60) costs a name's certainty, not its truth."""
    text = uid.replace("-", "")[:15]
    try:
        return int(text, 16)
    except ValueError:
        return hash(uid)
