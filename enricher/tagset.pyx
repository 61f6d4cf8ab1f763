# cython: language_level=3, boundscheck=False, wraparound=False
"""Tag sets: immutable, with an id that is the hash of their content.

Equal content has the same id in every enricher, today and after a restart: agents keep what they have learnt. A set
stands on a base (a container's on its pod's, a pod's on its node's, a node's on its cloud's), so that what many share
stands once (this is what DeepFlow's SmartEncoding does with integers).

50,000 pods have 100,000 sets, most of which nobody ever asks for: so an id is made when it is asked for, the values
lie in one text, the keys in a tuple that all sets with the same keys share, and what the pods of one workload have in
common in `shared`. Compiled: a list of 50,000 pods makes them all at once.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItem
from cpython.ref cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcpy

from hashlib import blake2b
from sys import intern

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    MERGED = 4096   # sets of several layers that are remembered
    SHAPES = 4096
    FAST = 512      # tags of a set that is made without a list


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class TagSet:
    """See tagset.pyi. Its fields lead to other sets and to texts only: no cycles, so no garbage collector."""

    def __init__(self):
        raise TypeError("made by TagSets.of")

    @property
    def id(self):
        return self.hashed()

    @property
    def own(self):
        found = []
        for pair in sorted(self.own_tags().items()):
            found += pair
        return tuple(found)

    def same(self, TagSet other not None):
        return same(self, other)

    def own_tags(self):
        cdef dict found = {}
        if self.shared is not None:
            _over(self.shared, found)
        return _over(self, found)

    def own_of(self, tuple names not None):
        cdef list values, more, found = []
        values = more = None
        for name in names:
            if name in self.keys:
                if values is None:
                    values = _values(self)
                found.append(values[self.keys.index(name)])
            elif self.shared is not None and name in self.shared.keys:
                if more is None:
                    more = _values(self.shared)
                found.append(more[self.shared.keys.index(name)])
            else:
                found.append("")
        return tuple(found)

    def apart_tags(self):
        return _over(self, {})

    def tags(self):
        cdef dict found = self.base.tags() if self.base is not None else {}
        if self.shared is not None:
            _over(self.shared, found)
        return _over(self, found)

    def get(self, str key, str default=""):
        cdef TagSet at = self
        while at is not None:
            if key in at.keys:
                return _values(at)[at.keys.index(key)]
            if at.shared is not None and key in at.shared.keys:
                return at.shared.get(key)
            at = at.base
        return default

    def chain(self):
        cdef list found = []
        cdef TagSet at = self
        while at is not None:
            found.append(at)
            at = at.base
        found.reverse()
        return found

    def __repr__(self):
        return f"TagSet({self.id:016x}, {self.tags()})"

    cdef uint64_t hashed(self) except 0:
        if self._id == 0:
            content = "\0".join(self.keys).encode("utf-8", "surrogatepass") + b"\1" + self.text
            if self.base is not None or self.shared is not None:
                content += b"\0\1" + _id(self.base) + _id(self.shared)
            self._id = int.from_bytes(blake2b(content, digest_size=8).digest(), "big") or 1
        return self._id


cdef bytes _id(TagSet tags):
    return (tags.hashed() if tags is not None else 0).to_bytes(8, "big")


cdef bint same(TagSet one, TagSet other):
    """Whether the content is the same, base and all; None is as None only."""
    while one is not other:
        if one is None or other is None:
            return False
        if one._id and other._id:
            return one._id == other._id
        if one.text != other.text or one.keys != other.keys or not same(one.shared, other.shared):
            return False
        one, other = one.base, other.base
    return True


cdef list _values(TagSet tags):
    return tags.text.decode("utf-8", "surrogatepass").split("\0") if tags.keys else []


cdef dict _over(TagSet tags, dict into):
    into.update(zip(tags.keys, _values(tags), strict=True))
    return into


cdef TagSet _made(TagSet base, tuple keys, bytes text, TagSet shared):
    cdef TagSet made = TagSet.__new__(TagSet)
    made.base, made.keys, made.text, made.shared = base, keys, text, shared
    return made


cdef bytes _text(tuple keys, dict tags):
    """The values in the keys' order; None where one is empty or has what needs a closer look."""
    cdef const char* parts[FAST]
    cdef Py_ssize_t sizes[FAST]
    cdef Py_ssize_t i, n = PyTuple_GET_SIZE(keys), size = n - 1
    if n == 0 or n > FAST:
        return None
    for i in range(n):
        value = <object>PyDict_GetItem(tags, <object>PyTuple_GET_ITEM(keys, i))
        try:
            parts[i] = PyUnicode_AsUTF8AndSize(value, &sizes[i])
        except UnicodeEncodeError:
            return None
        if sizes[i] == 0 or memchr(parts[i], 0, sizes[i]) != NULL:
            return None
        size += sizes[i]
    cdef bytes text = PyBytes_FromStringAndSize(NULL, size)
    cdef char* at = PyBytes_AS_STRING(text)
    for i in range(n):
        if i:
            at[0] = 0
            at += 1
        memcpy(at, parts[i], sizes[i])
        at += sizes[i]
    return text


@cython.final
cdef class TagSets:
    """See tagset.pyi. A set on a base is one thing's own and is not interned: it lives as long as what refers to it."""

    def __init__(self):
        self._sets, self._merged, self._shapes = {}, {}, {}

    def __len__(self):
        return len(self._sets)

    cpdef TagSet of(self, tags, TagSet base=None, TagSet shared=None):
        cdef dict given = tags if type(tags) is dict else dict(tags)
        cdef tuple keys = self._shape(tuple(given))
        cdef bytes text = _text(keys, given)
        cdef TagSet known
        if text is None:
            if "" in given.values():
                given = {key: value for key, value in given.items() if value}
                keys = self._shape(tuple(given))
            text = "\0".join([given[key].replace("\0", "\ufffd") for key in keys]).encode("utf-8", "surrogatepass")
        if base is not None or shared is not None:
            self.made += 1
            return _made(base, keys, text, shared)
        at = (keys, text)
        known = self._sets.get(at)
        if known is None:
            self.made += 1
            known = self._sets[at] = _made(None, keys, text, None)
        return known

    cpdef TagSet over(self, TagSet top, TagSet bottom):
        cdef TagSet known
        if top is bottom:
            return top
        at = (top.hashed(), bottom.hashed())
        known = self._merged.get(at)
        if known is None:
            if len(self._merged) >= MERGED:
                self._merged.clear()
            known = self._merged[at] = self.of(bottom.tags() | top.tags())
        return known

    def sweep(self, used):
        cdef TagSet at, each
        cdef Py_ssize_t before = len(self._sets)
        cdef set seen = set()   # addresses: `used` keeps them alive
        cdef dict kept = {}
        self._merged.clear()
        for at in used:
            while at is not None and <size_t><PyObject*>at not in seen:
                if at.base is not None or at.shared is not None:
                    each = at.shared
                else:
                    each = at
                if each is not None:
                    kept[each.keys, each.text] = each
                if at.base is not None:
                    seen.add(<size_t><PyObject*>at)
                at = at.base
        self._sets = kept
        return before - len(kept)

    cdef tuple _shape(self, tuple names):
        """The names in order: one tuple for all sets that have them."""
        cdef tuple keys = self._shapes.get(names)
        if keys is None:
            if len(self._shapes) >= SHAPES:
                self._shapes.clear()
            keys = tuple([intern(name) for name in sorted(names)])
            keys = self._shapes.setdefault(keys, keys)
            self._shapes[names] = keys
        return keys
