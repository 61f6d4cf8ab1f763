/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Silence at an interface: nothing else tells the end of the last answer of a connection that stays open. The agent runs
 * the iterator twice a second. What comes after the silence in the same direction is a new record whose prev_end_ns is 0.
 */
#ifndef ZS_NIC_SWEEP_BPF_H
#define ZS_NIC_SWEEP_BPF_H

#include "zs_nic_flow.bpf.h"

#define ZS_NIC_SILENCE_NS 400000000ULL

SEC("iter/bpf_map_elem")
int zs_nic_sweep(struct bpf_iter__bpf_map_elem *ctx)
{
	const struct zs_nic_key *key = ctx->key;
	struct zs_nic_flow *st = ctx->value;
	struct zs_nic_at at = {};

	if (!key || !st || !st->run_open)
		return 0;
	at.now = bpf_ktime_get_ns();
	if (at.now < st->run_end_ns + ZS_NIC_SILENCE_NS)
		return 0;
	__builtin_memcpy(&at.key, key, sizeof(at.key));
	__builtin_memcpy(at.s.inner.src, at.key.addr[0], 16);
	__builtin_memcpy(at.s.inner.dst, at.key.addr[1], 16);
	at.s.inner.family = at.key.family;
	at.s.src_port = at.key.port[0];
	at.s.dst_port = at.key.port[1];
	at.s.vlans = at.key.vlans;
	at.s.tunnel = at.key.tunnel;
	at.s.tunnel_id = at.key.tunnel_id;
	at.egress = at.key.way; /* of direction 0, which `at` stands for */
	zs_nic_end(NULL, &at, st, 0);
	return 0;
}

#endif
