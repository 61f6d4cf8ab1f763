from zerospan.exporter.metrics.families import Kind

class Table:
    kind: Kind
    n: int
    dropped: int
    def replaced_values(self) -> dict[str, int]: ...
