# cython: language_level=3, boundscheck=True
"""A thin binding of libbpf: open, configure, load, attach, maps. Policy (which hooks, which filters) is capture.py's.

Errors are OSError with the failed step, the object's name and, where libbpf said more, its last words.
"""

import os

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strcmp, strlen

cdef extern from "bpf/btf.h" nogil:
    struct btf:
        pass
    struct btf_type:
        unsigned int size
        unsigned int info
    struct btf_var_secinfo:
        unsigned int type
        unsigned int offset
        unsigned int size
    btf *btf__load_vmlinux_btf()
    void btf__free(btf *b)
    int btf__find_by_name_kind(const btf *b, const char *name, unsigned int kind)
    const btf_type *btf__type_by_id(const btf *b, unsigned int id)
    const char *btf__name_by_offset(const btf *b, unsigned int offset)
    unsigned int btf_vlen(const btf_type *t)
    btf_var_secinfo *btf_var_secinfos(const btf_type *t)
    int BTF_KIND_DATASEC, BTF_KIND_TYPEDEF, BTF_KIND_FUNC

cdef extern from * nogil:
    """
    #include <bpf/btf.h>
    static const char *zs_btf_name(const struct btf *b, unsigned id)
    {
        const struct btf_type *t = btf__type_by_id(b, id);
        return t ? btf__name_by_offset(b, t->name_off) : NULL;
    }
    """
    const char *zs_btf_name(const btf *b, unsigned int id)

cdef extern from "bpf/libbpf.h" nogil:
    struct bpf_object:
        pass
    struct bpf_program:
        pass
    struct bpf_map:
        pass
    struct bpf_link:
        pass
    union bpf_iter_link_info:
        pass
    struct bpf_iter_attach_opts:
        size_t sz
        bpf_iter_link_info *link_info
        unsigned int link_info_len
    bpf_object *bpf_object__open_file(const char *path, const void *opts)
    int bpf_object__load(bpf_object *obj)
    void bpf_object__close(bpf_object *obj)
    btf *bpf_object__btf(const bpf_object *obj)
    bpf_program *bpf_object__next_program(const bpf_object *obj, bpf_program *prev)
    bpf_program *bpf_object__find_program_by_name(const bpf_object *obj, const char *name)
    bpf_map *bpf_object__find_map_by_name(const bpf_object *obj, const char *name)
    const char *bpf_program__name(const bpf_program *prog)
    int bpf_program__fd(const bpf_program *prog)
    int bpf_program__set_autoload(bpf_program *prog, bint autoload)
    bint bpf_program__autoload(const bpf_program *prog)
    const char *bpf_program__section_name(const bpf_program *prog)
    bpf_link *bpf_program__attach(const bpf_program *prog)
    bpf_link *bpf_program__attach_iter(const bpf_program *prog, const bpf_iter_attach_opts *opts)
    int bpf_link__fd(const bpf_link *link)
    int bpf_link__destroy(bpf_link *link)
    int bpf_map__fd(const bpf_map *map)
    int bpf_map__set_max_entries(bpf_map *map, uint32_t n)
    int bpf_map__reuse_fd(bpf_map *map, int fd)
    uint32_t bpf_map__max_entries(const bpf_map *map)
    uint32_t bpf_map__value_size(const bpf_map *map)
    void *bpf_map__initial_value(bpf_map *map, size_t *size)
    int libbpf_num_possible_cpus()

cdef extern from * nogil:
    """
    #include <bpf/bpf.h>
    #include <bpf/libbpf.h>
    static struct bpf_link *zs_attach_map_iter(const struct bpf_program *prog, int map_fd)
    {
        union bpf_iter_link_info info;
        LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &info, .link_info_len = sizeof(info));
        memset(&info, 0, sizeof(info));
        info.map.map_fd = map_fd;
        return bpf_program__attach_iter(prog, &opts);
    }
    static int zs_attach_interface(int prog_fd, int ifindex, int attach_type, unsigned flags)
    {
        LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = flags);
        return bpf_link_create(prog_fd, ifindex, attach_type, &opts);
    }
    static int zs_run_packet(int prog_fd, const void *packet, unsigned size, unsigned gso_segs, unsigned gso_size,
                             int repeat, unsigned *answer, unsigned *ns)
    {
        struct __sk_buff skb;
        LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = size, .repeat = repeat);
        int err;
        memset(&skb, 0, sizeof(skb));
        skb.gso_segs = gso_segs;
        skb.gso_size = gso_size;
        if (gso_segs || gso_size) {
            opts.ctx_in = &skb;
            opts.ctx_size_in = sizeof(skb);
        }
        err = bpf_prog_test_run_opts(prog_fd, &opts);
        *answer = opts.retval;
        *ns = opts.duration;
        return err;
    }
    """
    bpf_link *zs_attach_map_iter(const bpf_program *prog, int map_fd)
    int zs_attach_interface(int prog_fd, int ifindex, int attach_type, unsigned int flags)
    int zs_run_packet(int prog_fd, const void *packet, unsigned int size, unsigned int gso_segs, unsigned int gso_size,
                      int repeat, unsigned int *answer, unsigned int *ns)
    int bpf_map_update_elem(int fd, const void *key, const void *value, unsigned long long flags)
    int bpf_map_delete_elem(int fd, const void *key)
    int bpf_map_lookup_elem(int fd, const void *key, void *value)
    int bpf_iter_create(int link_fd)

cdef extern from * nogil:
    """
    #include <stdarg.h>
    #include <stdio.h>
    #include <string.h>
    static char zs_last_words[4096];
    /* Keeps the end of what libbpf says: it goes into the exception, not to the terminal. */
    static int zs_keep_words(enum libbpf_print_level level, const char *fmt, va_list args)
    {
        size_t n = strlen(zs_last_words);
        if (level != LIBBPF_WARN)
            return 0;
        if (n > sizeof(zs_last_words) - 512)
            n = 0;
        vsnprintf(zs_last_words + n, sizeof(zs_last_words) - n, fmt, args);
        return 0;
    }
    static void zs_catch_words(void) { libbpf_set_print(zs_keep_words); }
    """
    char *zs_last_words
    void zs_catch_words()

zs_catch_words()


cdef object failure(int err, str what):
    said = zs_last_words.decode(errors="replace").strip().splitlines()
    zs_last_words[0] = 0
    tail = "; libbpf: " + " | ".join(line.removeprefix("libbpf: ") for line in said[-4:]) if said else ""
    return OSError(abs(err), f"{what}: {os.strerror(abs(err))}{tail}")


def kernel_has_tracepoint(str name) -> bool:
    """Whether the running kernel's BTF knows a tracepoint (typedef btf_trace_<name>). OSError without BTF."""
    return _in_btf(f"btf_trace_{name}", BTF_KIND_TYPEDEF)


def kernel_has_function(str name) -> bool:
    """Whether the running kernel's BTF knows a function. OSError without BTF."""
    return _in_btf(name, BTF_KIND_FUNC)


cdef bint _in_btf(str name, int kind) except -1:
    cdef btf *b = btf__load_vmlinux_btf()
    cdef int found
    if b == NULL:
        raise failure(errno, "reading the kernel's type information (/sys/kernel/btf/vmlinux)")
    raw = name.encode()
    found = btf__find_by_name_kind(b, raw, kind)
    btf__free(b)
    return found > 0


cdef class Object:
    """One .bpf.o file: open on construction; then configure, load(), attach(); close() detaches all."""

    cdef bpf_object *obj
    cdef list links
    cdef readonly str path

    def __cinit__(self, str path):
        raw = os.fsencode(path)
        self.path = path
        self.links = []
        self.obj = bpf_object__open_file(raw, NULL)
        if self.obj == NULL:
            raise failure(errno, f"opening {path}")

    def __dealloc__(self):
        self.close()

    def detach(self):
        """Takes all programs off their hooks; maps can still be read. May be called twice."""
        for fd_link in self.links:
            bpf_link__destroy(<bpf_link *><size_t>fd_link)
        self.links = []

    def close(self):
        """Detaches and unloads everything. May be called twice."""
        self.detach()
        if self.obj != NULL:
            bpf_object__close(self.obj)
            self.obj = NULL

    def programs(self):
        """(name, section) of each program."""
        cdef bpf_program *p = bpf_object__next_program(self.obj, NULL)
        out = []
        while p != NULL:
            out.append((bpf_program__name(p).decode(), bpf_program__section_name(p).decode()))
            p = bpf_object__next_program(self.obj, p)
        return out

    def set_constant(self, str name, value):
        """Sets a `const volatile` variable of 32 or 64 bits; before load(). KeyError if there is none of that name."""
        cdef btf *b = bpf_object__btf(self.obj)
        cdef int id = btf__find_by_name_kind(b, b".rodata", BTF_KIND_DATASEC)
        cdef const btf_type *sec
        cdef btf_var_secinfo *v
        cdef bpf_map *m = bpf_object__find_map_by_name(self.obj, b".rodata")
        cdef uint8_t *data
        cdef size_t size = 0
        cdef unsigned long long word = value
        cdef unsigned int i
        raw = name.encode()
        if id > 0 and m != NULL:
            sec = btf__type_by_id(b, id)
            v = btf_var_secinfos(sec)
            data = <uint8_t *>bpf_map__initial_value(m, &size)
            for i in range(btf_vlen(sec)):
                if (strcmp(zs_btf_name(b, v[i].type), raw) == 0 and v[i].size in (4, 8)
                        and v[i].offset + v[i].size <= size):
                    if word >> 8 * v[i].size - 1 > 1:
                        raise OverflowError(f"constant {name} has {v[i].size} bytes: {value}")
                    memcpy(data + v[i].offset, &word, v[i].size)  # the first bytes: x86-64 and arm64 are little-endian
                    return
        raise KeyError(f"{self.path} has no constant {name!r} of 32 or 64 bits")

    def set_max_entries(self, str name, uint32_t n):
        """Size of a map; before load()."""
        cdef int err = bpf_map__set_max_entries(self._map(name), n)
        if err:
            raise failure(err, f"sizing map {name} to {n}")

    def share(self, str name, int fd):
        """Uses a map of another object (its fd) in place of this object's own; before load()."""
        cdef int err = bpf_map__reuse_fd(self._map(name), fd)
        if err:
            raise failure(err, f"sharing map {name}")

    def program_fd(self, str program):
        """Of a loaded program: for attach_interface(), SO_ATTACH_BPF and test runs. It is the object's: do not close."""
        raw = program.encode()
        cdef bpf_program *p = bpf_object__find_program_by_name(self.obj, raw)
        if p == NULL:
            raise KeyError(f"{self.path} has no program {program!r}")
        return bpf_program__fd(p)

    def set_autoload(self, str program, bint wanted):
        raw = program.encode()
        cdef bpf_program *p = bpf_object__find_program_by_name(self.obj, raw)
        if p == NULL:
            raise KeyError(f"{self.path} has no program {program!r}")
        bpf_program__set_autoload(p, wanted)

    def load(self):
        """Verifies and loads the programs. OSError with libbpf's last words."""
        cdef int err
        zs_last_words[0] = 0
        with nogil:
            err = bpf_object__load(self.obj)
        if err:
            raise failure(err, f"loading {self.path}")

    def attach(self, str program):
        """Attaches one loaded program where its section says."""
        raw = program.encode()
        cdef bpf_program *p = bpf_object__find_program_by_name(self.obj, raw)
        cdef bpf_link *link
        if p == NULL:
            raise KeyError(f"{self.path} has no program {program!r}")
        with nogil:
            link = bpf_program__attach(p)
        if link == NULL:
            raise failure(errno, f"attaching {program} ({bpf_program__section_name(p).decode()})")
        self.links.append(<size_t>link)

    def attach_map_iter(self, str program, str map_name):
        """Makes an iterator over a map's elements; returns the link's fd for run_iter()."""
        raw = program.encode()
        cdef bpf_program *p = bpf_object__find_program_by_name(self.obj, raw)
        cdef bpf_link *link
        if p == NULL:
            raise KeyError(f"{self.path} has no program {program!r}")
        link = zs_attach_map_iter(p, self.map_fd(map_name))
        if link == NULL:
            raise failure(errno, f"attaching {program} to map {map_name}")
        self.links.append(<size_t>link)
        return bpf_link__fd(link)

    cdef bpf_map *_map(self, str name) except NULL:
        raw = name.encode()
        cdef bpf_map *m = bpf_object__find_map_by_name(self.obj, raw)
        if m == NULL:
            raise KeyError(f"{self.path} has no map {name!r}")
        return m

    def map_fd(self, str name):
        return bpf_map__fd(self._map(name))

    def map_size(self, str name):
        """max_entries as it is after load()."""
        return bpf_map__max_entries(self._map(name))

    def update(self, str name, bytes key, bytes value):
        """Sets one element."""
        cdef int err = bpf_map_update_elem(self.map_fd(name), <const char *>key, <const char *>value, 0)
        if err:
            raise failure(err, f"writing to map {name}")

    def delete(self, str name, bytes key):
        """Removes one element."""
        cdef int err = bpf_map_delete_elem(self.map_fd(name), <const char *>key)
        if err:
            raise failure(err, f"removing from map {name}")

    def read_percpu(self, str name, int n):
        """Sums over the CPUs of a per-CPU array of n 64-bit counters."""
        cdef bpf_map *m = self._map(name)
        cdef int cpus = libbpf_num_possible_cpus(), fd = bpf_map__fd(m), cpu
        cdef uint32_t i
        cdef unsigned long long *values = <unsigned long long *>calloc(cpus, 8)
        cdef unsigned long long total
        if values == NULL:
            raise MemoryError()
        out = []
        try:
            for i in range(n):
                if bpf_map_lookup_elem(fd, &i, values):
                    raise failure(errno, f"reading map {name}")
                total = 0
                for cpu in range(cpus):
                    total += values[cpu]
                out.append(total)
        finally:
            free(values)
        return out


def run_iter(int link_fd):
    """Runs an iterator program once over all elements."""
    cdef int fd = bpf_iter_create(link_fd)
    if fd < 0:
        raise failure(errno, "running an iterator")
    try:
        while os.read(fd, 4096):
            pass
    finally:
        os.close(fd)


def attach_interface(int prog_fd, int ifindex, int attach_type, unsigned int flags=0):
    """Attaches a tc program by tcx (Linux 6.6) to an interface of the calling thread's network namespace.

    attach_type: enum bpf_attach_type, BPF_TCX_INGRESS or BPF_TCX_EGRESS. Returns the link's fd: close it to detach.
    """
    cdef int fd = zs_attach_interface(prog_fd, ifindex, attach_type, flags)
    if fd < 0:
        raise failure(fd, f"attaching to interface {ifindex}")
    return fd


def run_packet(int prog_fd, bytes packet, unsigned int gso_segs=0, unsigned int gso_size=0, int repeat=1):
    """Runs a program once (or more) on a packet of the caller's making; (what it returned, ns of one run on average).

    BPF_PROG_TEST_RUN: the packet begins with an Ethernet header and seems to come from the namespace's loopback device.
    """
    cdef unsigned int answer = 0, ns = 0
    cdef const char *data = packet
    cdef unsigned int size = len(packet)
    cdef int err
    with nogil:
        err = zs_run_packet(prog_fd, data, size, gso_segs, gso_size, repeat, &answer, &ns)
    if err:
        raise failure(err, f"running a program on {size} bytes")
    return answer, ns
