class Mail:
    queued: int
    published: int
    asked: int
    publish_dropped: int
    ask_dropped: int

    def __init__(self, limit: int) -> None: ...
    def take(self) -> tuple[bytes, bytes, int] | None: ...
    def give(self, values: bytes) -> None: ...
