from zerospan.exporter.process.stamp import Stamp

class PeerTags:
    """Owns what the drain thread reads of a Stamp."""

    nbytes: int
    def __init__(self, stamp: Stamp) -> None: ...
    @property
    def stamp(self) -> Stamp: ...
