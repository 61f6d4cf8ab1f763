from collections.abc import Iterable, Mapping

class TagSet:
    """Never changed; made by `TagSets.of`. Its own tags stand in order of their keys; see tagset.pyx."""

    base: TagSet | None
    keys: tuple[str, ...]
    text: bytes  # the values in the keys' order, UTF-8, a NUL between
    shared: TagSet | None  # further own tags, under these; it has neither base nor shared

    @property
    def id(self) -> int:
        """Hash of the content, 64 bits, never 0: the same in every enricher. Two contents share one by 2^-64."""

    @property
    def own(self) -> tuple[str, ...]:
        """Key, value, key, value...; keys in order, no value empty."""

    def same(self, other: TagSet) -> bool:
        """Whether the content is the same, base and all. Cheaper than comparing ids that nobody has asked for."""

    def own_tags(self) -> dict[str, str]:
        """Its own tags, without those of its base."""

    def own_of(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The values of some of its own tags, "" for those that it has not."""

    def apart_tags(self) -> dict[str, str]:
        """Its own tags without the shared ones."""

    def tags(self) -> dict[str, str]:
        """All tags, those of the bases included; what stands nearer to the thing itself wins."""

    def get(self, key: str, default: str = "") -> str:
        """One tag."""

    def chain(self) -> list[TagSet]:
        """This set and its bases, the deepest first."""

class TagSets:
    """Makes sets, and interns those that many share: the ones without a base. Not thread-safe: the store's lock."""

    made: int  # sets, since the start
    def __len__(self) -> int:
        """How many are interned."""

    def of(self, tags: Mapping[str, str], base: TagSet | None = None, shared: TagSet | None = None) -> TagSet:
        """The set of these tags on that base. Empty values are left out, a NUL in one becomes U+FFFD. shared: a
        set without a base whose tags are this one's, too; the same tags split otherwise are another set, so whoever
        makes a thing's set always splits alike.
        """

    def over(self, top: TagSet, bottom: TagSet) -> TagSet:
        """One set of both; where both have a tag, the top's."""

    def sweep(self, used: Iterable[TagSet]) -> int:
        """Forgets every interned set on which none of these stands. Returns how many went."""
