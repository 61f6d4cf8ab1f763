from zerospan.enricher.naming import Naming
from zerospan.enricher.sources.kubernetes.book import PodFacts
from zerospan.enricher.sources.kubernetes.config import Picks
from zerospan.enricher.sources.kubernetes.globs import Dropped
from zerospan.enricher.sources.kubernetes.model import Pod
from zerospan.enricher.sources.kubernetes.owners import Owners

PROTOCOLS: dict[str, int]

class PodReader:
    """naming, picks: of the configuration. owners: who owns what. dropped: counts what is left out. Under the owners'
    lock.
    """

    def __init__(self, naming: Naming, picks: Picks, owners: Owners, dropped: Dropped) -> None: ...
    def read(self, pod: Pod, now: int, gone: bool = False) -> PodFacts:
        """gone: the API says that it is deleted."""
