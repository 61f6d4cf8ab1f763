from typing import Literal

class BatchEncoder:
    """Requests gathered for one export; filled from Cython (BatchEncoder.add)."""

    @property
    def size(self) -> int:
        """Bytes that take() will return, at most."""
    @property
    def count(self) -> int:
        """Requests in the batch."""
    def __init__(self, kind: Literal["traces", "logs", "loki"]) -> None: ...
    def full(self, limit_bytes: int) -> bool:
        """Whether the batch has reached this size and should be taken."""
    def take(self) -> tuple[memoryview, int] | None:
        """The whole request body and how many requests are in it; None if there is none. The batch is empty then.

        The view's memory is used again once nobody holds it.

        "traces": ExportTraceServiceRequest; "logs": ExportLogsServiceRequest; "loki": the JSON body of
        /loki/api/v1/push.
        MemoryError: the body could not be allocated; the batch is unchanged.
        """
    def clear(self) -> int:
        """Throws the batch away; returns how many requests were in it."""
