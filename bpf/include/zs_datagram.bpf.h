/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* UDP: DNS only. */
#ifndef ZS_DATAGRAM_BPF_H
#define ZS_DATAGRAM_BPF_H

#include "zs_message.bpf.h"

struct zs_dns_header {
	__be16 id;
	__u8 flags;
	__u8 rcode;
	__be16 questions;
	__be16 answers;
	__be16 authorities;
	__be16 additional;
};

/* Enough to leave QUIC, media and the like alone; user space looks properly. */
static __always_inline bool zs_looks_like_dns(const struct zs_dns_header *h)
{
	__u8 opcode = (h->flags >> 3) & 15;

	return (opcode <= 2 || opcode == 4 || opcode == 5) && (h->rcode & 0x40) == 0 && (h->rcode & 15) <= 10 &&
	       bpf_ntohs(h->questions) <= 8 && bpf_ntohs(h->answers) <= 256 && bpf_ntohs(h->authorities) <= 64 &&
	       bpf_ntohs(h->additional) <= 64 && (h->questions || (h->flags & 0x80));
}

static __always_inline void zs_read_peer(struct zs_dgram *head, __u64 name)
{
	struct zs_sockaddr to = {};

	if (!name || bpf_probe_read_user(&to, sizeof(to), (void *)name))
		return;
	if (to.family == AF_INET && head->family == AF_INET) {
		__builtin_memcpy(head->remote_addr, to.rest, 4);
		head->remote_port = bpf_ntohs(to.port);
	} else if (to.family == AF_INET6) {
		if (zs_is_v4mapped(to.rest + 4)) {
			__builtin_memset(head->remote_addr, 0, 16);
			__builtin_memcpy(head->remote_addr, to.rest + 16, 4);
			head->family = AF_INET;
		} else {
			__builtin_memcpy(head->remote_addr, to.rest + 4, 16);
		}
		head->remote_port = bpf_ntohs(to.port);
	}
}

static __always_inline int zs_on_udp(struct sock *sk, __u32 len, enum zs_dir dir, struct zs_io *io, bool name_is_set)
{
	struct zs_dns_header dns = {};
	struct zs_dgram head = {};
	struct zs_scratch *gathered = NULL;
	struct zs_state *st;
	__u64 id = bpf_get_current_pid_tgid();
	__u32 tgid = id >> 32, n;

	if (tgid == zs_self_tgid)
		return 0;
	st = zs_state_of_udp(sk);
	if (!st) {
		zs_count(ZS_CNT_NO_STATE);
		return 0;
	}
	if (!st->conn_id) {
		st->conn_id = zs_new_id();
		st->closed_out = !zs_sock_watched(sk);
	}
	if (ZS_EVENT_A_MESSAGE && io->kind == ZS_IO_MMSG)
		zs_pick_of_vector(st, io, len);
	if (st->closed_out || (zs_filters && !zs_task_watched(tgid))) {
		zs_count(ZS_CNT_FILTERED);
		return 0;
	}
	n = len < zs_payload_bytes ? len : zs_payload_bytes;
	if (n < sizeof(dns) && len >= sizeof(dns))
		n = sizeof(dns);
	if (n > ZS_PAYLOAD_MAX)
		n = ZS_PAYLOAD_MAX;
	n = zs_io_locate(io, n, &gathered, &head.hdr.flags);
	if (n < sizeof(dns)) {
		if (head.hdr.flags & ZS_F_NO_PAYLOAD)
			zs_count(ZS_CNT_UNREAD);
		else if (!(head.hdr.flags & ZS_F_FAULT))
			zs_count(ZS_CNT_NOT_DNS);
		return 0;
	}
	if (gathered)
		__builtin_memcpy(&dns, gathered->data, sizeof(dns));
	else if (bpf_probe_read_user(&dns, sizeof(dns), (void *)io->addr)) {
		zs_count(ZS_CNT_FAULT);
		return 0;
	}
	if (!zs_looks_like_dns(&dns)) {
		zs_count(ZS_CNT_NOT_DNS);
		return 0;
	}
	head.hdr.kind = ZS_DGRAM;
	head.hdr.dir = dir;
	if (n < len)
		head.hdr.flags |= ZS_F_CUT;
	head.time_ns = bpf_ktime_get_ns();
	head.conn_id = st->conn_id;
	head.cgroup_id = bpf_get_current_cgroup_id();
	head.tgid = tgid;
	head.tid = (__u32)id;
	head.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	head.len = len;
	head.local_port = ZS_GET(sk, __sk_common.skc_num);
	head.remote_port = bpf_ntohs(ZS_GET(sk, __sk_common.skc_dport));
	head.family = zs_read_addrs(sk, head.local_addr, head.remote_addr);
	if (!head.remote_port && name_is_set)
		zs_read_peer(&head, io->name);
	zs_process_name(head.comm);
	if (!zs_emit_dgram(&head, io->addr, gathered, n))
		zs_count(ZS_CNT_LOST_DGRAM);
	return 0;
}

#endif
