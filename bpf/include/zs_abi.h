/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * The event ABI: the only definition of what the kernel programs tell the agent.
 *
 * Every .bpf.c file includes it, and so does the Cython code (exporter/abi/events.pxd), so that sizes and
 * offsets come from a C compiler on both sides; tests/unit/test_abi.py compares them with the BTF of
 * the built objects. Rules: fixed-width types, no implicit padding (-Wpadded), no packed structs,
 * head first. A change of layout raises ZS_ABI_VERSION: recordings carry it.
 */
#ifndef ZS_ABI_H
#define ZS_ABI_H

#ifdef __bpf__
typedef unsigned char zs_u8;
typedef unsigned short zs_u16;
typedef unsigned int zs_u32;
typedef unsigned long long zs_u64;
#else
#include <stdint.h>
typedef uint8_t zs_u8;
typedef uint16_t zs_u16;
typedef uint32_t zs_u32;
typedef uint64_t zs_u64;
#endif

#define ZS_ABI_VERSION 1

/* Payload of one record. Each class is a constant size for bpf_ringbuf_reserve. */
#define ZS_PAYLOAD_DEFAULT 512
#define ZS_PAYLOAD_MAX 16384
#define ZS_MAX_IOVECS 8
#define ZS_MAX_DATAGRAMS 4 /* of one sendmmsg/recvmmsg call, in the sys_exit layout */
#define ZS_COMM_LEN 16

enum zs_kind {
	ZS_CONN = 1, /* struct zs_conn: who the ends of a connection are; before its first message */
	ZS_CONNECT = 2, /* struct zs_connect: a thread asks for a connection (SYN_SENT) */
	ZS_MSG = 3, /* struct zs_msg: the first bytes of a run in one direction */
	ZS_PROGRESS = 4, /* struct zs_progress: how far a run has come, from the periodic sweep */
	ZS_CLOSE = 5, /* struct zs_close: the connection is gone */
	ZS_DGRAM = 6, /* struct zs_dgram: one UDP datagram */
	ZS_NIC = 7, /* struct zs_nic: a run of a TCP connection begins or ends at a network interface */
};

enum zs_dir { ZS_SEND = 0, ZS_RECV = 1 };

/* Which side sent the SYN. */
enum zs_role { ZS_ROLE_UNKNOWN = 0, ZS_ROLE_CONNECTING = 1, ZS_ROLE_ACCEPTING = 2 };

enum zs_flags {
	ZS_F_CUT = 1 << 0, /* bytes of this call were left out of the payload */
	ZS_F_NO_PAYLOAD = 1 << 1, /* no user memory to read: sendfile, splice, io_uring */
	ZS_F_FAULT = 1 << 2, /* user memory was not readable (paged out) */
	ZS_F_GAP = 1 << 3, /* a record of this connection before this one was lost */
};

/* Every record begins with it; size is that of the whole record, payload area included. */
struct zs_hdr {
	zs_u16 size;
	zs_u8 kind;
	zs_u8 dir; /* enum zs_dir */
	zs_u16 flags;
	zs_u16 payload_len; /* valid bytes of the payload that follows the struct */
};

struct zs_conn {
	struct zs_hdr hdr;
	zs_u64 time_ns; /* CLOCK_MONOTONIC, as in every record */
	zs_u64 conn_id; /* of this end of the connection; never used twice */
	zs_u64 cgroup_id;
	zs_u32 isn_connecting; /* initial sequence numbers of the two sides; 0,0 if not known */
	zs_u32 isn_accepting;
	zs_u32 tgid;
	zs_u32 tid;
	zs_u32 netns; /* inode number */
	zs_u16 local_port;
	zs_u16 remote_port;
	zs_u8 family; /* AF_INET or AF_INET6; v4-mapped addresses are given as AF_INET */
	zs_u8 protocol; /* IPPROTO_TCP */
	zs_u8 role; /* enum zs_role */
	zs_u8 pad[5];
	zs_u8 local_addr[16];
	zs_u8 remote_addr[16];
	char comm[ZS_COMM_LEN];
};

struct zs_connect {
	struct zs_hdr hdr;
	zs_u64 time_ns;
	zs_u64 conn_id;
	zs_u32 tgid;
	zs_u32 tid;
};

/*
 * A run is what flows in one direction until the other side speaks. The first record of a run has
 * run_off 0; more records follow while less than the capture length of the run has been copied.
 */
struct zs_msg {
	struct zs_hdr hdr;
	zs_u64 time_ns;
	zs_u64 conn_id;
	zs_u32 tgid;
	zs_u32 tid;
	zs_u32 seq; /* TCP sequence number of this call's first byte */
	zs_u32 len; /* bytes of this call */
	zs_u32 run; /* number of the run on this connection, from 1 */
	zs_u32 run_off; /* bytes of the run before this call */
	zs_u64 prev_len; /* bytes of the run before this one */
	zs_u64 prev_end_ns; /* when its last bytes passed; 0 if there is none */
};

struct zs_progress {
	struct zs_hdr hdr;
	zs_u64 time_ns;
	zs_u64 conn_id;
	zs_u64 run_len;
	zs_u64 run_end_ns;
	zs_u32 run;
	zs_u32 pad;
};

/* The last record of a connection, written when its socket is destroyed: nothing can be read from it any more. */
struct zs_close {
	struct zs_hdr hdr;
	zs_u64 time_ns; /* when TCP ended, which may be before the last bytes were read */
	zs_u64 conn_id;
	zs_u64 run_len; /* of the last run; hdr.dir is its direction */
	zs_u64 run_end_ns;
	zs_u64 bytes_sent; /* tcp_sock: bytes_acked, bytes_received */
	zs_u64 bytes_received;
	zs_u32 run;
	zs_u32 error; /* sk_err when TCP ended: ECONNRESET, ETIMEDOUT, EPIPE...; 0 for an orderly end */
	zs_u32 retransmits; /* tcp_sock.total_retrans */
	zs_u32 srtt_us;
};

struct zs_dgram {
	struct zs_hdr hdr;
	zs_u64 time_ns;
	zs_u64 conn_id; /* of the socket */
	zs_u64 cgroup_id;
	zs_u32 tgid;
	zs_u32 tid;
	zs_u32 netns;
	zs_u32 len;
	zs_u16 local_port;
	zs_u16 remote_port; /* 0: the peer is not known at this hook */
	zs_u8 family;
	zs_u8 pad[3];
	zs_u8 local_addr[16];
	zs_u8 remote_addr[16];
	char comm[ZS_COMM_LEN];
};

/* What a packet was wrapped in where it was seen. */
enum zs_tunnel {
	ZS_TUNNEL_NONE = 0,
	ZS_TUNNEL_VXLAN = 1,
	ZS_TUNNEL_GENEVE = 2,
	ZS_TUNNEL_GRE = 3,
	ZS_TUNNEL_IPIP = 4, /* IPv4 or IPv6 in either */
};

enum zs_nic_flags {
	ZS_NIC_EGRESS = 1 << 0, /* the packet leaves by the interface */
	ZS_NIC_END = 1 << 1, /* no run begins: FIN, RST or a long silence; only prev_ counts */
	ZS_NIC_RESET = 1 << 2, /* the end was an RST */
	ZS_NIC_SOCKET = 1 << 3, /* the initial sequence numbers come from a socket, not from a SYN pair */
};

/*
 * One point of the way of a TCP connection: an interface of a network namespace, inside or outside a tunnel. A record says
 * that the other side begins to speak, and what its run before that was; hdr.dir is not used.
 */
struct zs_nic {
	struct zs_hdr hdr; /* flags: enum zs_nic_flags */
	zs_u64 time_ns; /* of the first packet of the run */
	zs_u64 netns_cookie;
	zs_u64 prev_bytes; /* payload of the run before, retransmitted bytes left out */
	zs_u64 prev_end_ns; /* when its last new byte passed; 0 if there is none */
	zs_u32 ifindex;
	zs_u32 isn_connecting; /* 0,0: not known */
	zs_u32 isn_accepting;
	zs_u32 seq; /* TCP sequence number of the run's first byte */
	zs_u32 prev_seq; /* of the run before */
	zs_u32 prev_packets; /* segments, as gso_segs counts them */
	zs_u32 prev_retransmits; /* packets of the run before that brought nothing new */
	zs_u32 tunnel_id; /* VNI, GRE key */
	zs_u16 src_port; /* of the run that begins: the inner packet's */
	zs_u16 dst_port;
	zs_u16 vlan; /* 0: none */
	zs_u8 family; /* of the inner addresses */
	zs_u8 outer_family; /* 0 without a tunnel */
	zs_u8 role; /* enum zs_role of the run's sender */
	zs_u8 tunnel; /* enum zs_tunnel */
	zs_u8 pad[6];
	zs_u8 src_addr[16];
	zs_u8 dst_addr[16];
	zs_u8 outer_src_addr[16];
	zs_u8 outer_dst_addr[16];
};

/*
 * Counters of the kernel programs, one per-CPU array. X(id, reason, help)
 * emitted + lost is what the programs wanted to say; the agent compares emitted with what it drained.
 */
#define ZS_COUNTERS(X) \
	X(EMITTED, "emitted", "records written to the ring buffer") \
	X(LOST_REQUEST, "ring_full_request", "request runs lost to a full ring buffer") \
	X(LOST_RESPONSE, "ring_full_response", "response runs lost to a full ring buffer") \
	X(LOST_REST, "ring_full_rest", "further records of a run lost to a full ring buffer") \
	X(LOST_CONN, "ring_full_conn", "connection records put off because the ring buffer was full") \
	X(LOST_CONNECT, "ring_full_connect", "connect records lost to a full ring buffer") \
	X(LOST_CLOSE, "ring_full_close", "close records lost to a full ring buffer") \
	X(LOST_PROGRESS, "ring_full_progress", "progress records put off: ring buffer full") \
	X(LOST_DGRAM, "ring_full_dgram", "datagrams lost to a full ring buffer") \
	X(NO_STATE, "conn_table_full", "messages lost: no memory for the connection's state") \
	X(FAULT, "payload_fault", "payloads not copied: user memory not resident") \
	X(IOVECS, "iovecs_cut", "payloads cut short: more buffers in the call than are walked") \
	X(FILTERED, "filtered", "messages of processes or sockets that the filters leave out") \
	X(NOT_DNS, "udp_not_dns", "datagrams skipped: no DNS header") \
	X(ISN_RETRY, "isn_unstable", "connection keys put off: counters moved while they were read") \
	X(LATE, "late_call", "calls left out: another thread's call told of their bytes first") \
	X(UNREAD, "udp_unread", "datagrams skipped: no user memory to read (splice, io_uring)") \
	X(LOST_NIC, "ring_full_nic", "records of network interfaces lost to a full ring buffer") \
	X(NIC_NO_STATE, "nic_table_full", "segments at interfaces left out: no memory for their connection's state") \
	X(NIC_MIDWAY, "nic_midway", \
	  "connections met at an interface without their SYN: older, or evicted from the table") \
	X(NIC_MALFORMED, "nic_malformed", \
	  "packets at interfaces left out: headers cut short, lengths that do not fit") \
	X(NIC_LEFT_OUT, "nic_left_out", "runs at interfaces left out: outside the share, or the agent's own")

enum zs_counter {
#define ZS_COUNTER_ENUM(id, reason, help) ZS_CNT_##id,
	ZS_COUNTERS(ZS_COUNTER_ENUM)
#undef ZS_COUNTER_ENUM
	    ZS_CNT_MAX
};

/* Which filters are set (const volatile zs_filters of the programs). */
enum zs_filter {
	ZS_FILTER_PID = 1 << 0,
	ZS_FILTER_EXE = 1 << 1,
	ZS_FILTER_PORT = 1 << 2,
	ZS_FILTER_CGROUP = 1 << 3,
	ZS_FILTER_NETNS = 1 << 4,
};

#define ZS_FILTER_ENTRIES 1024

/* Key of the executable filter: the file's identity, so that no path has to be compared. */
struct zs_exe {
	zs_u64 ino;
	zs_u32 dev; /* kernel encoding: major << 20 | minor */
	zs_u32 pad;
};

/* Any record. The programs hold a pointer of this type, which puts all of it into the objects' BTF. */
union zs_record {
	struct zs_hdr hdr;
	struct zs_conn conn;
	struct zs_connect connect;
	struct zs_msg msg;
	struct zs_progress progress;
	struct zs_close close;
	struct zs_dgram dgram;
	struct zs_nic nic;
};

_Static_assert(sizeof(struct zs_hdr) == 8, "zs_hdr");
_Static_assert(sizeof(struct zs_conn) == 112, "zs_conn");
_Static_assert(sizeof(struct zs_connect) == 32, "zs_connect");
_Static_assert(sizeof(struct zs_msg) == 64, "zs_msg");
_Static_assert(sizeof(struct zs_progress) == 48, "zs_progress");
_Static_assert(sizeof(struct zs_close) == 72, "zs_close");
_Static_assert(sizeof(struct zs_dgram) == 104, "zs_dgram");
_Static_assert(sizeof(struct zs_exe) == 16, "zs_exe");
_Static_assert(sizeof(struct zs_nic) == 152, "zs_nic");

#endif
