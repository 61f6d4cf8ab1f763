from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRequest(_message.Message):
    __slots__ = ("open", "want", "drop")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    WANT_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    open: Open
    want: _containers.RepeatedScalarFieldContainer[bytes]
    drop: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., want: _Optional[_Iterable[bytes]] = ..., drop: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("node", "epoch", "revision")
    NODE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    node: str
    epoch: int
    revision: int
    def __init__(self, node: _Optional[str] = ..., epoch: _Optional[int] = ..., revision: _Optional[int] = ...) -> None: ...

class ResolveRequest(_message.Message):
    __slots__ = ("keys", "at_ns")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    AT_NS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    at_ns: int
    def __init__(self, keys: _Optional[_Iterable[bytes]] = ..., at_ns: _Optional[int] = ...) -> None: ...

class TagUpdate(_message.Message):
    __slots__ = ("epoch", "revision", "reset", "in_sync", "sets", "bindings")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    IN_SYNC_FIELD_NUMBER: _ClassVar[int]
    SETS_FIELD_NUMBER: _ClassVar[int]
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    revision: int
    reset: bool
    in_sync: bool
    sets: _containers.RepeatedCompositeFieldContainer[TagSet]
    bindings: _containers.RepeatedCompositeFieldContainer[Binding]
    def __init__(self, epoch: _Optional[int] = ..., revision: _Optional[int] = ..., reset: _Optional[bool] = ..., in_sync: _Optional[bool] = ..., sets: _Optional[_Iterable[_Union[TagSet, _Mapping]]] = ..., bindings: _Optional[_Iterable[_Union[Binding, _Mapping]]] = ...) -> None: ...

class TagSet(_message.Message):
    __slots__ = ("id", "base", "tags")
    ID_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    id: int
    base: int
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[int] = ..., base: _Optional[int] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...

class Binding(_message.Message):
    __slots__ = ("key", "pieces")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    pieces: _containers.RepeatedCompositeFieldContainer[Piece]
    def __init__(self, key: _Optional[bytes] = ..., pieces: _Optional[_Iterable[_Union[Piece, _Mapping]]] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("set", "since_ns", "until_ns")
    SET_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    set: int
    since_ns: int
    until_ns: int
    def __init__(self, set: _Optional[int] = ..., since_ns: _Optional[int] = ..., until_ns: _Optional[int] = ...) -> None: ...
