/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The ring buffer and the counters: what every object has, and shares when several are loaded (bpf.Object.share). */
#ifndef ZS_RING_BPF_H
#define ZS_RING_BPF_H

#include "zs_kernel.h"
#include <bpf/bpf_helpers.h>

/* Never read. tests/unit/test_abi.py compares the records' BTF with what the agent was compiled with. */
const union zs_record *const volatile zs_record_types = NULL;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20); /* the loader sets capture.ring_bytes */
} zs_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ZS_CNT_MAX);
	__type(key, __u32);
	__type(value, __u64);
} zs_counts SEC(".maps");

/* Atomic, although per CPU: a packet's interrupt may close a connection between the load and the store. */
static __always_inline void zs_count_many(__u32 id, __u64 many)
{
	__u64 *n = bpf_map_lookup_elem(&zs_counts, &id);

	if (n)
		__sync_fetch_and_add(n, many);
}

static __always_inline void zs_count(__u32 id)
{
	zs_count_many(id, 1);
}

/* A wake-up for each record would cost five times the record; the agent drains by a timer. */
static __always_inline void zs_submit(void *record)
{
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	zs_count(ZS_CNT_EMITTED);
}

#endif
