# cython: language_level=3, boundscheck=True, wraparound=False
"""The ABI for Python: sizes and offsets (for the test against BTF), counters' names, records built for tests."""

from zerospan.exporter.abi cimport events as abi

cdef extern from * nogil:
    """
    #include <stddef.h>
    #include "zs_abi.h"
    #define ZS_COUNTER_ROW(id, reason, help) {reason, help},
    static const char *const zs_counter_rows[][2] = {ZS_COUNTERS(ZS_COUNTER_ROW)};
    #define ZS_FIELD(type, name) {#type, #name, offsetof(struct type, name), sizeof(((struct type *)0)->name)},
    struct zs_field { const char *type; const char *name; unsigned offset; unsigned size; };
    static const struct zs_field zs_fields[] = {
        ZS_FIELD(zs_hdr, size) ZS_FIELD(zs_hdr, kind) ZS_FIELD(zs_hdr, dir) ZS_FIELD(zs_hdr, flags)
        ZS_FIELD(zs_hdr, payload_len)
        ZS_FIELD(zs_conn, hdr) ZS_FIELD(zs_conn, time_ns) ZS_FIELD(zs_conn, conn_id) ZS_FIELD(zs_conn, cgroup_id)
        ZS_FIELD(zs_conn, isn_connecting) ZS_FIELD(zs_conn, isn_accepting) ZS_FIELD(zs_conn, tgid)
        ZS_FIELD(zs_conn, tid) ZS_FIELD(zs_conn, netns) ZS_FIELD(zs_conn, local_port) ZS_FIELD(zs_conn, remote_port)
        ZS_FIELD(zs_conn, family) ZS_FIELD(zs_conn, protocol) ZS_FIELD(zs_conn, role) ZS_FIELD(zs_conn, pad)
        ZS_FIELD(zs_conn, local_addr) ZS_FIELD(zs_conn, remote_addr) ZS_FIELD(zs_conn, comm)
        ZS_FIELD(zs_connect, hdr) ZS_FIELD(zs_connect, time_ns) ZS_FIELD(zs_connect, conn_id)
        ZS_FIELD(zs_connect, tgid) ZS_FIELD(zs_connect, tid)
        ZS_FIELD(zs_msg, hdr) ZS_FIELD(zs_msg, time_ns) ZS_FIELD(zs_msg, conn_id) ZS_FIELD(zs_msg, tgid)
        ZS_FIELD(zs_msg, tid) ZS_FIELD(zs_msg, seq) ZS_FIELD(zs_msg, len) ZS_FIELD(zs_msg, run)
        ZS_FIELD(zs_msg, run_off) ZS_FIELD(zs_msg, prev_len) ZS_FIELD(zs_msg, prev_end_ns)
        ZS_FIELD(zs_progress, hdr) ZS_FIELD(zs_progress, time_ns) ZS_FIELD(zs_progress, conn_id)
        ZS_FIELD(zs_progress, run_len) ZS_FIELD(zs_progress, run_end_ns) ZS_FIELD(zs_progress, run)
        ZS_FIELD(zs_progress, pad)
        ZS_FIELD(zs_close, hdr) ZS_FIELD(zs_close, time_ns) ZS_FIELD(zs_close, conn_id) ZS_FIELD(zs_close, end_ns)
        ZS_FIELD(zs_close, run_len) ZS_FIELD(zs_close, run_end_ns) ZS_FIELD(zs_close, bytes_sent)
        ZS_FIELD(zs_close, bytes_received) ZS_FIELD(zs_close, run) ZS_FIELD(zs_close, error)
        ZS_FIELD(zs_close, retransmits) ZS_FIELD(zs_close, srtt_us)
        ZS_FIELD(zs_dgram, hdr) ZS_FIELD(zs_dgram, time_ns) ZS_FIELD(zs_dgram, conn_id) ZS_FIELD(zs_dgram, cgroup_id)
        ZS_FIELD(zs_dgram, tgid) ZS_FIELD(zs_dgram, tid) ZS_FIELD(zs_dgram, netns) ZS_FIELD(zs_dgram, len)
        ZS_FIELD(zs_dgram, local_port) ZS_FIELD(zs_dgram, remote_port) ZS_FIELD(zs_dgram, family)
        ZS_FIELD(zs_dgram, pad) ZS_FIELD(zs_dgram, local_addr) ZS_FIELD(zs_dgram, remote_addr) ZS_FIELD(zs_dgram, comm)
        ZS_FIELD(zs_nic, hdr) ZS_FIELD(zs_nic, time_ns) ZS_FIELD(zs_nic, netns_cookie) ZS_FIELD(zs_nic, prev_bytes)
        ZS_FIELD(zs_nic, prev_end_ns) ZS_FIELD(zs_nic, ifindex) ZS_FIELD(zs_nic, isn_connecting)
        ZS_FIELD(zs_nic, isn_accepting) ZS_FIELD(zs_nic, seq) ZS_FIELD(zs_nic, prev_seq)
        ZS_FIELD(zs_nic, prev_packets) ZS_FIELD(zs_nic, prev_retransmits) ZS_FIELD(zs_nic, tunnel_id)
        ZS_FIELD(zs_nic, src_port) ZS_FIELD(zs_nic, dst_port) ZS_FIELD(zs_nic, vlan) ZS_FIELD(zs_nic, family)
        ZS_FIELD(zs_nic, outer_family) ZS_FIELD(zs_nic, role) ZS_FIELD(zs_nic, tunnel) ZS_FIELD(zs_nic, pad)
        ZS_FIELD(zs_nic, src_addr) ZS_FIELD(zs_nic, dst_addr) ZS_FIELD(zs_nic, outer_src_addr)
        ZS_FIELD(zs_nic, outer_dst_addr)
        ZS_FIELD(zs_exe, ino) ZS_FIELD(zs_exe, dev) ZS_FIELD(zs_exe, pad)
        {0, 0, 0, 0}
    };
    """
    const char *const (*zs_counter_rows)[2]
    struct zs_field:
        const char *type
        const char *name
        unsigned offset
        unsigned size
    zs_field *zs_fields

ABI_VERSION = abi.ZS_ABI_VERSION

SIZES = {
    "zs_hdr": sizeof(abi.zs_hdr), "zs_conn": sizeof(abi.zs_conn), "zs_connect": sizeof(abi.zs_connect),
    "zs_msg": sizeof(abi.zs_msg), "zs_progress": sizeof(abi.zs_progress), "zs_close": sizeof(abi.zs_close),
    "zs_dgram": sizeof(abi.zs_dgram), "zs_exe": sizeof(abi.zs_exe), "zs_nic": sizeof(abi.zs_nic),
}

KINDS = {"zs_conn": abi.ZS_CONN, "zs_connect": abi.ZS_CONNECT, "zs_msg": abi.ZS_MSG,
         "zs_progress": abi.ZS_PROGRESS, "zs_close": abi.ZS_CLOSE, "zs_dgram": abi.ZS_DGRAM, "zs_nic": abi.ZS_NIC}

SEND = abi.ZS_SEND
RECV = abi.ZS_RECV
CONNECTING = abi.ZS_ROLE_CONNECTING
ACCEPTING = abi.ZS_ROLE_ACCEPTING
F_CUT = abi.ZS_F_CUT
F_NO_PAYLOAD = abi.ZS_F_NO_PAYLOAD
F_FAULT = abi.ZS_F_FAULT
F_GAP = abi.ZS_F_GAP
FILTERS = {"pid": abi.ZS_FILTER_PID, "exe": abi.ZS_FILTER_EXE, "port": abi.ZS_FILTER_PORT,
           "cgroup": abi.ZS_FILTER_CGROUP, "netns": abi.ZS_FILTER_NETNS}
FILTER_ENTRIES = abi.ZS_FILTER_ENTRIES
PAYLOAD_MAX = abi.ZS_PAYLOAD_MAX
CPU_RING_BYTES = abi.ZS_CPU_RING_BYTES


def fields():
    """(struct, field) -> (offset, size) as the C compiler laid them out here."""
    cdef int i = 0
    out = {}
    while zs_fields[i].type != NULL:
        out[zs_fields[i].type.decode(), zs_fields[i].name.decode()] = (zs_fields[i].offset, zs_fields[i].size)
        i += 1
    return out


def counters():
    """(reason, help) of each kernel counter, in the order of enum zs_counter."""
    cdef int i
    out = []
    for i in range(abi.ZS_CNT_MAX):
        out.append((zs_counter_rows[i][0].decode(), zs_counter_rows[i][1].decode()))
    return out


FIELDS = fields()
COUNTERS = counters()


def build(str struct, bytes payload=b"", **values):
    """One record as the kernel would write it: for tests and replayed conversations.

    values: the struct's fields; integers, or bytes for addresses and comm; hdr fields as dir=, flags=.
    """
    if struct not in KINDS:
        raise ValueError(f"{struct!r} is no record; one of {', '.join(KINDS)}")
    cdef int size = SIZES[struct]
    record = bytearray(size + len(payload))
    header = {"size": len(record), "kind": KINDS[struct], "payload_len": len(payload),
              "dir": values.pop("dir", 0), "flags": values.pop("flags", 0)}
    for where, names in (("zs_hdr", header), (struct, values)):
        for name, value in names.items():
            offset, width = FIELDS[where, name]
            data = value[:width].ljust(width, b"\0") if isinstance(value, bytes) else int(value).to_bytes(width, "little")
            record[offset:offset + width] = data
    record[size:] = payload
    return bytes(record)


def parse(bytes record):
    """The fields of one record, payload included, as a dict; ValueError if it is too short or of no known kind."""
    if len(record) < SIZES["zs_hdr"]:
        raise ValueError(f"a record has at least {SIZES['zs_hdr']} bytes, this one {len(record)}")
    names = {kind: name for name, kind in KINDS.items()}
    struct = names.get(record[2])
    if struct is None or len(record) < SIZES[struct]:
        raise ValueError(f"no known record: kind {record[2]}, {len(record)} bytes")
    out = {"struct": struct}
    for where in ("zs_hdr", struct):
        for (owner, name), (offset, width) in FIELDS.items():
            if owner == where and name not in ("hdr", "pad"):
                raw = record[offset:offset + width]
                out[name] = raw if width > 8 else int.from_bytes(raw, "little")
    out["payload"] = record[SIZES[struct]:SIZES[struct] + out["payload_len"]]
    return out
