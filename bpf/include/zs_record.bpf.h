/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* What is said of a connection: where it stands, who its ends are; and how a record of any size gets into the ring. */
#ifndef ZS_RECORD_BPF_H
#define ZS_RECORD_BPF_H

#include "zs_filter.bpf.h"
#include "zs_isns.bpf.h"
#include "zs_payload.bpf.h"

#ifdef ZS_UNTRUSTED_SOCK
#define ZS_EVENT_A_MESSAGE 0 /* one hook at the end of a call, which walks a vector itself */
#else
#define ZS_EVENT_A_MESSAGE 1 /* of a vector, too */
#endif

static struct zs_state *zs_state_find(struct sock *sk);
static struct zs_state *zs_state_create(struct sock *sk);
static struct zs_state *zs_state_of_udp(struct sock *sk);

#define ZS_ISN_TRIES 8 /* messages of a connection that may say ZS_CONN anew because the ISNs were not to be had */

/* Where a direction stands: the sequence number after the last byte that this process sent or received. */
static __always_inline __u32 zs_position(struct sock *sk, struct tcp_sock *tp, const struct zs_state *st,
					 enum zs_dir dir)
{
	unsigned long flags;
	__u32 at;

	if (dir == ZS_SEND)
		return ZS_GET(tp, write_seq) - st->fin_sent;
	/*
	 * tcp_recvmsg_locked() steps over the FIN, too, when it meets it. rcv_nxt counts a FIN before the flag says
	 * that there is one, so the flag is read first. (RCV_SHUTDOWN would not do: the process may set it.)
	 */
	flags = ZS_GET(sk, __sk_common.skc_flags);
	barrier();
	at = ZS_GET(tp, copied_seq);
	if ((flags & SOCK_DONE_BIT) && at == ZS_GET(tp, rcv_nxt))
		at--;
	return at;
}

static __always_inline bool zs_is_v4mapped(const __u8 *addr)
{
	const __u64 *high = (const __u64 *)addr;
	const __u32 *mid = (const __u32 *)(addr + 8);

	return high[0] == 0 && mid[0] == bpf_htonl(0xffff);
}

/* Addresses of both ends in network order; a v4-mapped pair is given as what it is, IPv4. */
static __always_inline __u8 zs_read_addrs(struct sock *sk, __u8 *local, __u8 *remote)
{
	__u32 v4;

	if (ZS_GET(sk, __sk_common.skc_family) == AF_INET6) {
		BPF_CORE_READ_INTO((struct in6_addr *)local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO((struct in6_addr *)remote, sk, __sk_common.skc_v6_daddr);
		if (!zs_is_v4mapped(local) && !zs_is_v4mapped(remote))
			return AF_INET6;
		__builtin_memset(local, 0, 16);
		__builtin_memset(remote, 0, 16);
	}
	v4 = ZS_GET(sk, __sk_common.skc_rcv_saddr);
	__builtin_memcpy(local, &v4, 4);
	v4 = ZS_GET(sk, __sk_common.skc_daddr);
	__builtin_memcpy(remote, &v4, 4);
	return AF_INET;
}

/* Of the process, not of the thread that happens to speak: pools name their threads. */
static __always_inline void zs_process_name(char *comm)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);

	BPF_CORE_READ_STR_INTO((char(*)[ZS_COMM_LEN])comm, leader, comm);
}

static __always_inline bool zs_announce(struct sock *sk, struct tcp_sock *tp, struct zs_state *st, __u64 now)
{
	struct zs_isns isns = {};
	struct zs_conn *ev;
	__u64 id = bpf_get_current_pid_tgid();

	if (!zs_read_isns(sk, tp, &isns)) {
		zs_count(ZS_CNT_ISN_RETRY);
		st->tries++;
	}
	if (isns.role)
		st->role = isns.role; /* also if the record is lost: losses are counted by side */
	ev = ZS_RESERVE(sizeof(*ev));
	if (!ev) {
		zs_count(ZS_CNT_LOST_CONN);
		return false;
	}
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->hdr.size = sizeof(*ev);
	ev->hdr.kind = ZS_CONN;
	ev->time_ns = now - 2; /* the reader sorts by time: before zs_unseen_run's record and the call's own */
	ev->conn_id = st->conn_id;
	ev->cgroup_id = bpf_get_current_cgroup_id();
	ev->isn_connecting = isns.connecting;
	ev->isn_accepting = isns.accepting;
	ev->tgid = id >> 32;
	ev->tid = (__u32)id;
	ev->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	ev->local_port = ZS_GET(sk, __sk_common.skc_num);
	ev->remote_port = bpf_ntohs(ZS_GET(sk, __sk_common.skc_dport));
	ev->protocol = IPPROTO_TCP;
	ev->role = isns.role;
	ev->family = zs_read_addrs(sk, ev->local_addr, ev->remote_addr);
	zs_process_name(ev->comm);
	zs_submit(ev);
	st->announced = 1;
	st->told = 1;
	return true;
}

/* Whether the agent knows the connection; says ZS_CONN if not, and again while the role is not known. */
static __always_inline bool zs_known(struct sock *sk, struct tcp_sock *tp, struct zs_state *st, __u64 now)
{
	if (st->announced && (st->role || st->tries >= ZS_ISN_TRIES))
		return true;
	return zs_announce(sk, tp, st, now) || st->announced;
}

static __always_inline void zs_run_lost(struct zs_state *st)
{
	bool from_client = (st->role == ZS_ROLE_CONNECTING) == (st->dir == ZS_SEND);

	st->gap = 1;
	st->captured = ZS_PAYLOAD_MAX;
	zs_count(from_client ? ZS_CNT_LOST_REQUEST : ZS_CNT_LOST_RESPONSE);
}

static __always_inline void zs_msg_lost(struct zs_state *st)
{
	if (st->run_len == 0) {
		zs_run_lost(st);
	} else if (st->captured < ZS_PAYLOAD_MAX) {
		st->gap = 1;
		st->captured = ZS_PAYLOAD_MAX;
		zs_count(ZS_CNT_LOST_REST);
	}
}

/* One reservation size for each class: the ring wants a constant. `n` bytes are copied into the record. */
#define ZS_EMIT_CLASS(type, bytes) \
	if (n <= (bytes)) { \
		struct { \
			type head; \
			__u8 data[bytes]; \
		} *ev = ZS_RESERVE(sizeof(*ev)); \
		if (!ev) \
			return false; \
		ev->head = *head; \
		ev->head.hdr.size = sizeof(*ev); \
		copied = n; \
		barrier_var(copied); \
		if (copied > (bytes)) \
			copied = (bytes); \
		if (gathered) \
			failed = bpf_probe_read_kernel(ev->data, copied, gathered->data); \
		else \
			failed = bpf_probe_read_user(ev->data, copied, (void *)addr); \
		if (failed) { \
			ev->head.hdr.flags |= ZS_F_FAULT; \
			copied = 0; \
			zs_count(ZS_CNT_FAULT); \
		} \
		ev->head.hdr.payload_len = copied; \
		zs_submit(ev); \
		return true; \
	}

#define ZS_EMIT_BODY(type) \
	__u64 copied; \
	long failed; \
\
	if (n == 0) { \
		type *ev = ZS_RESERVE(sizeof(*ev)); \
\
		if (!ev) \
			return false; \
		*ev = *head; \
		ev->hdr.size = sizeof(*ev); \
		zs_submit(ev); \
		return true; \
	} \
	ZS_EMIT_CLASS(type, 64) \
	ZS_EMIT_CLASS(type, 128) \
	ZS_EMIT_CLASS(type, 192) \
	ZS_EMIT_CLASS(type, 256) \
	ZS_EMIT_CLASS(type, 384) \
	ZS_EMIT_CLASS(type, 512) \
	if (zs_payload_bytes > 512 || zs_large_bytes > 512) \
		ZS_EMIT_CLASS(type, 2048) \
	if (zs_payload_bytes > 2048 || zs_large_bytes > 2048) \
		ZS_EMIT_CLASS(type, ZS_PAYLOAD_MAX) \
	return false;

static __always_inline bool zs_emit_msg(const struct zs_msg *head, __u64 addr, struct zs_scratch *gathered, __u32 n)
{
	ZS_EMIT_BODY(struct zs_msg)
}

static __always_inline bool zs_emit_dgram(const struct zs_dgram *head, __u64 addr, struct zs_scratch *gathered, __u32 n)
{
	ZS_EMIT_BODY(struct zs_dgram)
}

#endif
