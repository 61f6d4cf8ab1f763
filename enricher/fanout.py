"""Who is told what: subscribers, the keys that each follows, and the bytes of their updates. No I/O.

What waits for a subscriber is a set of keys, not a queue of messages: what it has not read yet is told once, as it is
when it reads, so that a slow one costs no more than the keys that it follows. A changed key's Binding is encoded once
and its bytes are reused for all (a protobuf message is the concatenation of its fields). All methods are called by
one thread (service.py's loop); the store has its own lock.
"""

from collections.abc import Callable, Iterable, Mapping

from zerospan.enricher import keys
from zerospan.enricher.store import Piece, TagStore
from zerospan.enricher.tagset import TagSet
from zerospan.enricher.wire import tags_pb2 as pb
from zerospan.exporter.encode.varint import field

ALL_NODES = "*"  # node of a binding that every subscriber is told without asking
CHUNK_BYTES = 256 << 10  # of one message, more or less
CACHED = 8192  # encoded bindings, and as many sets
ENTRY_BYTES = 128  # what a waiting key costs beside its own bytes
MAX_KEY_BYTES = 512
SETS, BINDINGS = 5 << 3 | 2, 6 << 3 | 2  # fields of TagUpdate, length-delimited
Frame = tuple[bytes, tuple[TagSet, ...]]
Answer = Callable[[bytes, int], list[Piece]]  # of a key at a time; 0: now


class TooMuch(Exception):
    """The subscriber asks for more than it may. `reason` is a name to count it by."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Subscriber:
    """One stream. pending: key -> whether it is told what it is (else: that it is no longer its node's)."""

    __slots__ = (
        "cut",
        "due",
        "node",
        "pending",
        "pending_bytes",
        "reset",
        "revision",
        "sent",
        "wake",
        "wants",
        "whole",
    )

    def __init__(self, node: str, wake: Callable[[], None]) -> None:
        self.node = node
        self.wake = wake
        self.wants: set[bytes] = set()
        self.pending: dict[bytes, bool] = {}
        self.pending_bytes = 0
        self.sent: set[int] = set()  # ids of sets told on this stream
        self.revision = 0  # told
        self.reset = False  # the next message begins a snapshot
        self.due = True  # a message is due though nothing is pending
        self.whole = False  # the snapshot has been told
        self.cut = ""  # why this stream must end

    def mark(self, key: bytes, told: bool) -> None:
        """It is to be told of this key."""
        if key not in self.pending:
            self.pending_bytes += len(key) + ENTRY_BYTES
            if len(self.pending) == 0:
                self.wake()
        self.pending[key] = told

    def unmark(self, key: bytes) -> None:
        if self.pending.pop(key, None) is not None:
            self.pending_bytes -= len(key) + ENTRY_BYTES


class Fanout:
    """in_sync: whether the sources are. max_wants: keys that one subscriber, or one Resolve, may ask for; stream_bytes:
    what may wait for one; max_sets: sets that one stream may be told, then it is ended and resumes with none (both
    sides forget). on_want and on_drop: the first subscriber asks for a key, the last one drops it. answers: kind of key
    -> who knows it instead of the store; such a key is answered when it is asked for, and not followed.
    """

    def __init__(
        self,
        store: TagStore,
        in_sync: Callable[[], bool],
        *,
        max_wants: int = 65536,
        stream_bytes: int = 16 << 20,
        max_sets: int = 65536,
        on_want: Callable[[list[bytes]], None] | None = None,
        on_drop: Callable[[list[bytes]], None] | None = None,
        answers: Mapping[bytes, Answer] | None = None,
    ) -> None:
        self.store = store
        self._answers = answers or {}
        self.revision = store.revision  # every change up to this one has been marked
        self.subscribers: set[Subscriber] = set()
        self.resumed = self.snapshots = self.encoded = 0
        self._in_sync = in_sync
        self._synced = in_sync()
        self._max_wants, self._stream_bytes, self._max_sets = max_wants, stream_bytes, max_sets
        self._on_want, self._on_drop = on_want, on_drop
        self._ranges = store.range_revision
        self._nodes: dict[str, set[Subscriber]] = {}
        self._wanters: dict[bytes, set[Subscriber]] = {}
        self._where: dict[bytes, tuple[str, ...]] = {}  # the watched nodes whose subscribers were told of a key
        self._frames: dict[bytes, Frame] = {}
        self._sets: dict[int, bytes] = {}

    # -- subscribers come, ask and go

    def open(self, node: str, epoch: int, revision: int, wake: Callable[[], None]) -> Subscriber:
        """A new stream; it resumes after `revision` of this epoch, or gets a snapshot. Raises TooMuch."""
        _check(keys.node(node))
        sub = Subscriber(node, wake)
        self.subscribers.add(sub)
        own: set[bytes] = set()
        for name in {node, ALL_NODES} - {""}:
            self._nodes.setdefault(name, set()).add(sub)
            found = self.store.of_node(name)
            own.update(found)
            for key in found:
                where = self._where.get(key, ())
                if name not in where:
                    self._where[key] = (*where, name)
        changed = self.store.since(revision) if epoch == self.store.epoch else None
        # One that was away for long in a large cluster costs less by a snapshot than by what it need not know.
        if changed is None or len(changed) > 4 * len(own) + 1024:
            self._snapshot(sub, own)
        else:
            self.resumed += 1
            sub.revision = revision
            for key in changed:
                sub.mark(key, key in own)
        if node:
            self.ask(sub, (keys.node(node),), ())
        return sub

    def ask(self, sub: Subscriber, want: Iterable[bytes], drop: Iterable[bytes]) -> None:
        """Keys that it wants to be told of, and that it does not any more. Raises TooMuch."""
        dropped = []
        for key in drop:
            if key in sub.wants:
                sub.wants.discard(key)
                if not self._is_own(sub, key):
                    sub.unmark(key)
                if self._leave(sub, key):
                    dropped.append(key)
        if dropped and self._on_drop is not None:
            self._on_drop(dropped)
        most = self._max_wants + (sub.node != "")  # its node's key is none that it asked for
        new = []
        try:
            for key in want:
                _check(key)
                if key not in sub.wants:
                    if len(sub.wants) >= most:
                        raise TooMuch("too_many_keys", f"more than {self._max_wants} keys are asked for")
                    sub.wants.add(key)
                    if key not in self._wanters:
                        self._wanters[key] = set()
                        new.append(key)
                    self._wanters[key].add(sub)
                sub.mark(key, True)
        finally:  # close() drops what is wanted, which needs to have been wanted
            if new and self._on_want is not None:
                self._on_want(new)

    def close(self, sub: Subscriber) -> None:
        """The stream has ended."""
        self.subscribers.discard(sub)
        dropped = [key for key in sub.wants if self._leave(sub, key)]
        for name in (sub.node, ALL_NODES):
            subs = self._nodes.get(name)
            if subs is None:
                continue
            subs.discard(sub)
            if not subs:
                del self._nodes[name]
                for key in self.store.of_node(name):  # others in _where leave when they change
                    self._left(key, name)
        sub.wants.clear()
        sub.pending.clear()
        if dropped and self._on_drop is not None:
            self._on_drop(dropped)

    def renew(self) -> None:
        """Everyone is told the revision, whether anything changed or not: the other end lives."""
        for sub in self.subscribers:
            sub.due = True
            sub.wake()

    def stats(self) -> dict[str, int]:
        """Sizes, of this moment."""
        return {
            "subscribers": len(self.subscribers),
            "nodes": len(self._nodes),
            "wanted": len(self._wanters),
            "pending": sum(len(s.pending) for s in self.subscribers),
        }

    # -- changes

    def tick(self) -> None:
        """Marks what has changed since the last call, with all who follow it."""
        store = self.store
        ranges, revision = store.range_revision, store.revision
        changed = store.since(self.revision) if self.revision != revision else []
        self.revision = revision
        if changed is None:  # more than the store remembers
            self.anew()
        else:
            for key in changed:
                self._frames.pop(key, None)
                self._mark(key)
        if ranges != self._ranges:  # they cover addresses, too, of which the store knows nothing else
            self._ranges = ranges
            # also of those that nobody asks for now: nothing else tells that theirs are old
            self._frames = {key: frame for key, frame in self._frames.items() if key[:1] != keys.ADDRESS}
            for key, subs in self._wanters.items():
                if key[:1] == keys.ADDRESS:
                    for sub in subs:
                        sub.mark(key, True)
        if self._synced != self._in_sync():
            self._synced = not self._synced
            self.renew()
        for sub in self.subscribers:
            if sub.whole and sub.pending_bytes > self._stream_bytes and not sub.cut:
                sub.cut = "slow"
                sub.wake()

    def anew(self) -> None:
        """Everyone gets a snapshot."""
        self._frames.clear()
        self._where.clear()
        for sub in self.subscribers:
            self._snapshot(sub, self._own(sub))
            sub.wake()

    def _mark(self, key: bytes) -> None:
        for sub in self._wanters.get(key, ()):
            sub.mark(key, True)
        was = self._where.get(key, ())
        now = self.store.node_of(key)
        if not was and not now:
            return
        watched = tuple(name for name in now if name in self._nodes)
        for name in watched:
            for sub in self._nodes[name]:
                sub.mark(key, True)
        for name in was:
            if name not in now:
                for sub in self._nodes.get(name, ()):
                    if key not in sub.wants and not self._told_by(sub, watched):
                        sub.mark(key, False)
        if watched:
            self._where[key] = watched
        else:
            self._where.pop(key, None)

    def _snapshot(self, sub: Subscriber, own: Iterable[bytes]) -> None:
        self.snapshots += 1
        sub.pending.clear()
        sub.sent.clear()
        sub.pending_bytes = 0
        sub.revision = 0
        sub.reset = sub.due = True
        sub.whole = False
        for key in (*own, *sub.wants):
            sub.mark(key, True)

    def _own(self, sub: Subscriber) -> set[bytes]:
        own: set[bytes] = set()
        for name in {sub.node, ALL_NODES} - {""}:
            found = self.store.of_node(name)
            own.update(found)
            for key in found:
                where = self._where.get(key, ())
                if name not in where:
                    self._where[key] = (*where, name)
        return own

    def _is_own(self, sub: Subscriber, key: bytes) -> bool:
        return self._told_by(sub, self._where.get(key, ()))

    def _told_by(self, sub: Subscriber, names: tuple[str, ...]) -> bool:
        return ALL_NODES in names or sub.node in names

    def _leave(self, sub: Subscriber, key: bytes) -> bool:
        """It no longer wants the key. Returns whether nobody does."""
        subs = self._wanters.get(key)
        if subs is None:
            return False
        subs.discard(sub)
        if subs:
            return False
        del self._wanters[key]
        return True

    def _left(self, key: bytes, name: str) -> None:
        where = tuple(n for n in self._where.get(key, ()) if n != name)
        if where:
            self._where[key] = where
        else:
            self._where.pop(key, None)

    # -- bytes

    def message(self, sub: Subscriber) -> bytes | None:
        """The next TagUpdate for this subscriber, encoded; None if it has been told everything."""
        if not sub.pending and not sub.due:
            return None
        sets: list[bytes] = []
        bindings: list[bytes] = []
        size = 0
        while sub.pending and size < CHUNK_BYTES:
            key, told = sub.pending.popitem()
            sub.pending_bytes -= len(key) + ENTRY_BYTES
            if told:
                frame, tops = self._frame(key)
                for top in tops:
                    size += self._tell(sub, top, sets)
            else:
                frame = field(BINDINGS, pb.Binding(key=key).SerializeToString())
            bindings.append(frame)
            size += len(frame)
        if not sub.pending:
            sub.revision = self.revision
            sub.whole = True
            if len(sub.sent) > self._max_sets:
                sub.cut = "renewed"
        head = pb.TagUpdate(
            epoch=self.store.epoch,
            revision=sub.revision,
            reset=sub.reset,
            in_sync=sub.whole and self._synced,
        ).SerializeToString()
        sub.reset = sub.due = False
        return b"".join((head, *sets, *bindings))

    def _tell(self, sub: Subscriber, top: TagSet, sets: list[bytes]) -> int:
        """Adds the sets that this stream was not told, bases first. Returns their bytes."""
        chain = []
        at: TagSet | None = top
        while at is not None and at.id not in sub.sent:
            chain.append(at)
            sub.sent.add(at.id)
            at = at.base
        size = 0
        for tags in reversed(chain):
            frame = self._sets.get(tags.id)
            if frame is None:
                base = tags.base.id if tags.base is not None else 0
                frame = field(SETS, pb.TagSet(id=tags.id, base=base, tags=tags.own).SerializeToString())
                if len(self._sets) >= CACHED:
                    self._sets.clear()
                self._sets[tags.id] = frame
            sets.append(frame)
            size += len(frame)
        return size

    def _frame(self, key: bytes) -> Frame:
        frame = self._frames.get(key)
        if frame is None:
            self.encoded += 1
            answer = self._answers.get(key[:1])
            pieces = answer(key, 0) if answer is not None else self.store.pieces(key)
            binding = pb.Binding(
                key=key,
                pieces=[pb.Piece(set=p.tags.id, since_ns=p.since_ns, until_ns=p.until_ns) for p in pieces],
            )
            frame = (field(BINDINGS, binding.SerializeToString()), tuple(p.tags for p in pieces))
            if answer is not None:
                return frame
            if len(self._frames) >= CACHED:
                self._frames.clear()
            self._frames[key] = frame
        return frame

    def resolve(self, wanted: Iterable[bytes], at_ns: int) -> bytes:
        """A TagUpdate of these keys only, for someone who follows nothing. Raises TooMuch."""
        update = pb.TagUpdate(epoch=self.store.epoch, revision=self.store.revision, in_sync=self._in_sync())
        told = Subscriber("", lambda: None)
        sets: list[bytes] = []
        for n, key in enumerate(wanted):
            _check(key)
            if n >= self._max_wants:
                raise TooMuch("too_many_keys", f"more than {self._max_wants} keys are asked for")
            binding = update.bindings.add(key=key)
            answer = self._answers.get(key[:1])
            for piece in answer(key, at_ns) if answer is not None else self.store.pieces(key):
                if not at_ns or (piece.since_ns <= at_ns and (not piece.until_ns or at_ns < piece.until_ns)):
                    binding.pieces.add(set=piece.tags.id, since_ns=piece.since_ns, until_ns=piece.until_ns)
                    self._tell(told, piece.tags, sets)
        return b"".join((*sets, update.SerializeToString()))


def _check(key: bytes) -> None:
    if len(key) > MAX_KEY_BYTES or not key:
        raise TooMuch("bad_key", f"a key has 1 to {MAX_KEY_BYTES} bytes")
