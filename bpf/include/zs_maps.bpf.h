/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Maps and settings that every hook layout shares, and how a loss is counted. */
#ifndef ZS_MAPS_BPF_H
#define ZS_MAPS_BPF_H

#include "zs_ring.bpf.h"

/* Set by the loader before the programs are loaded: the verifier drops what they rule out. */
const volatile __u32 zs_self_tgid = 0; /* the agent's own messages are never reported */
const volatile __u32 zs_payload_bytes = ZS_PAYLOAD_DEFAULT;
const volatile __u32 zs_large_bytes = 0; /* the same for the ports in zs_large_port; 0: there are none */
const volatile __u32 zs_filters = 0; /* enum zs_filter */

/* What is remembered of a connection: one per socket, freed with it. */
struct zs_state {
	__u64 conn_id;
	__u64 run_len;
	__u64 run_end_ns;
	__u64 mm_vec; /* sendmmsg/recvmmsg: where this call stands, to know which message an event speaks of */
	__u64 bytes_sent; /* these and error, retransmits, srtt_us: as they were when TCP ended */
	__u64 bytes_received;
	__u64 end_ns; /* when TCP ended */
	__u32 error;
	__u32 retransmits;
	__u32 srtt_us;
	__u32 mm_index;
	__u32 mm_len; /* of its first message */
	__u32 mm_mark; /* first bytes of that */
	__u32 run;
	__u32 run_seq; /* sequence number of the run's first byte */
	__u32 other_seq; /* the other direction's position when this run was last seen */
	__u32 captured; /* payload bytes of the run that were copied */
	__u32 capture; /* how many may be, for this connection's port */
	__u32 judged_tgid; /* process that `out` below was decided for */
	__u8 dir;
	__u8 role;
	__u8 told; /* a ZS_CONNECT or ZS_CONN was written: the end has to be, too */
	__u8 announced; /* ZS_CONN was written */
	__u8 tries; /* of reading the initial sequence numbers */
	__u8 fin_sent; /* write_seq counts this side's FIN */
	__u8 gap; /* a record was lost: say so in the next one */
	__u8 dirty; /* the run went on since it was last reported */
	__u8 closed_out; /* the socket's own address or namespace is filtered out */
	__u8 out; /* the process is filtered out */
	__u8 pad[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} zs_next_id SEC(".maps");

/* Twice the largest payload, so that the verifier sees any offset + length of a gathered copy inside. */
struct zs_scratch {
	__u8 data[2 * ZS_PAYLOAD_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct zs_scratch);
} zs_gather SEC(".maps");

#define ZS_FILTER_MAP(name, key_type) \
	struct { \
		__uint(type, BPF_MAP_TYPE_HASH); \
		__uint(max_entries, ZS_FILTER_ENTRIES); \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__type(key, key_type); \
		__type(value, __u8); \
	} name SEC(".maps")

ZS_FILTER_MAP(zs_filter_pid, __u32);
ZS_FILTER_MAP(zs_filter_exe, struct zs_exe);
ZS_FILTER_MAP(zs_filter_port, __u16);
ZS_FILTER_MAP(zs_filter_cgroup, __u64);
ZS_FILTER_MAP(zs_filter_netns, __u32);
ZS_FILTER_MAP(zs_large_port, __u16); /* no filter: ports whose messages are copied further */

static __always_inline __u64 zs_new_id(void)
{
	__u32 zero = 0;
	__u64 *next = bpf_map_lookup_elem(&zs_next_id, &zero);

	if (!next)
		return 0;
	(*next)++;
	return ((__u64)(bpf_get_smp_processor_id() + 1) << 48) | (*next & ((1ULL << 48) - 1));
}

#endif
