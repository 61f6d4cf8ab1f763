/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * From a system call's end to records: the part that all hook layouts share.
 *
 * A layout (one .bpf.c file) says how a socket's state is kept (zs_state_find and its kin) and whether `sk` is a pointer
 * that may be dereferenced; then it calls zs_on_tcp, zs_on_udp, zs_on_tcp_state and zs_on_destroy.
 */
#ifndef ZS_MESSAGE_BPF_H
#define ZS_MESSAGE_BPF_H

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

/* ---- identity ------------------------------------------------------------------------------------- */

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

/* ---- records -------------------------------------------------------------------------------------- */

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
	ev = bpf_ringbuf_reserve(&zs_ring, sizeof(*ev), 0);
	if (!ev) {
		zs_count(ZS_CNT_LOST_CONN);
		return false;
	}
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->hdr.size = sizeof(*ev);
	ev->hdr.kind = ZS_CONN;
	ev->time_ns = now;
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
		} *ev = bpf_ringbuf_reserve(&zs_ring, sizeof(*ev), 0); \
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
		type *ev = bpf_ringbuf_reserve(&zs_ring, sizeof(*ev), 0); \
\
		if (!ev) \
			return false; \
		*ev = *head; \
		ev->hdr.size = sizeof(*ev); \
		zs_submit(ev); \
		return true; \
	} \
	ZS_EMIT_CLASS(type, 64) \
	ZS_EMIT_CLASS(type, 192) \
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

/* ---- TCP messages --------------------------------------------------------------------------------- */

/* The first bytes of a message of a vector, folded: enough to know it from the next call's message in the same place. */
static __always_inline __u32 zs_vector_mark(const struct zs_msghdr *mh)
{
	struct zs_iovec iov = {};
	__u32 head[2] = {};

	bpf_probe_read_user(&iov, sizeof(iov), (void *)mh->iov);
	if (iov.len >= sizeof(head))
		bpf_probe_read_user(head, sizeof(head), (void *)iov.base);
	return head[0] ^ (head[1] * 2654435761u);
}

/*
 * Which message of a sendmmsg/recvmmsg vector an event speaks of: events come one a message, in order. If the vector's
 * first message is not as it was left (another length, other bytes: the process used its array again), this event is
 * that of the first message of a new call.
 */
static __always_inline void zs_pick_of_vector(struct zs_state *st, struct zs_io *io, __u32 len)
{
	struct zs_mmsghdr first = {};
	__u64 vec = io->addr;
	__u32 i = st->mm_index, mark;

	if (bpf_probe_read_user(&first, sizeof(first), (void *)vec)) {
		io->kind = ZS_IO_NONE;
		return;
	}
	mark = zs_vector_mark(&first.hdr);
	if (st->mm_vec != vec || i >= io->count || first.len != st->mm_len || mark != st->mm_mark) {
		i = 0;
		st->mm_vec = vec;
		st->mm_len = len;
		st->mm_mark = mark;
	}
	st->mm_index = i + 1;
	zs_io_from_msghdr(io, vec + i * sizeof(first));
}

/* The true length of the run that ends now: what splice() and its kin moved was seen by no hook. */
static __always_inline __u64 zs_run_total(const struct zs_state *st, __u32 end)
{
	__s32 unseen = (__s32)(end - st->run_seq - (__u32)st->run_len);

	return unseen > 0 ? st->run_len + unseen : st->run_len;
}

static __always_inline void zs_turn(struct zs_state *st, struct zs_msg *head, enum zs_dir dir, __u64 prev_len,
				    __u64 prev_end, __u32 seq)
{
	head->prev_len = prev_len;
	head->prev_end_ns = prev_end;
	st->run++;
	st->dir = dir;
	st->run_len = 0;
	st->run_seq = seq;
	st->captured = 0;
	st->dirty = 0;
}

static __always_inline void zs_head(struct zs_msg *head, struct zs_state *st, enum zs_dir dir, __u64 now, __u32 seq,
				    __u32 len)
{
	__u64 id = bpf_get_current_pid_tgid();

	head->hdr.kind = ZS_MSG;
	head->hdr.dir = dir;
	head->hdr.flags = st->gap ? ZS_F_GAP : 0;
	head->time_ns = now;
	head->conn_id = st->conn_id;
	head->tgid = id >> 32;
	head->tid = (__u32)id;
	head->seq = seq;
	head->len = len;
	head->run = st->run;
	head->run_off = (__u32)st->run_len;
}

/* Bytes went the other way that no hook saw (splice from the socket): a run without payload. */
static __always_inline void zs_unseen_run(struct zs_state *st, enum zs_dir dir, __u32 other, __u64 now, bool known)
{
	struct zs_msg head = {};
	__u32 len = other - st->other_seq;

	zs_turn(st, &head, !dir, zs_run_total(st, st->run_seq + (__u32)st->run_len), st->run_end_ns, st->other_seq);
	zs_head(&head, st, !dir, now, st->other_seq, len);
	head.hdr.flags |= ZS_F_NO_PAYLOAD | ZS_F_CUT;
	if (known && zs_emit_msg(&head, 0, NULL, 0))
		st->gap = 0;
	else
		zs_run_lost(st);
	st->run_len = len;
	st->run_end_ns = now;
}

static __always_inline int zs_on_tcp(struct sock *sk, struct tcp_sock *tp, __u32 len, enum zs_dir dir, struct zs_io *io)
{
	struct zs_state *st = zs_state_find(sk);
	struct zs_scratch *gathered = NULL;
	struct zs_msg head = {};
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	__u32 here, other, seq, want = 0, n = 0;
	bool known;
	__u64 now;

	if (!st) {
		st = zs_state_create(sk);
		if (!st) {
			zs_count(ZS_CNT_NO_STATE);
			return 0;
		}
	}
	if (!st->conn_id) {
		st->conn_id = zs_new_id();
		st->closed_out = !zs_sock_watched(sk);
		st->fin_sent = zs_fin_queued(sk);
		st->capture = zs_capture_of(sk);
	}
	if (st->closed_out) {
		if (zs_filters)
			zs_count(ZS_CNT_FILTERED);
		return 0;
	}
	if (tgid == zs_self_tgid) {
		/* Said once, so that the agent knows the other end of its own connections, too. */
		if (zs_announce(sk, tp, st, bpf_ktime_get_ns()))
			st->closed_out = 1;
		return 0;
	}
	if (zs_filters & (ZS_FILTER_PID | ZS_FILTER_EXE | ZS_FILTER_CGROUP)) {
		if (st->judged_tgid != tgid) {
			st->judged_tgid = tgid;
			st->out = !zs_task_watched(tgid);
		}
		if (st->out) {
			zs_count(ZS_CNT_FILTERED);
			return 0;
		}
	}

	now = bpf_ktime_get_ns();
	here = zs_position(sk, tp, st, dir) - io->after;
	other = zs_position(sk, tp, st, !dir);
	seq = here - len;
	/*
	 * Two threads, and the peer's answer to this call was read before this hook ran: the bytes have been told
	 * as a run without payload. Telling them again would pair each answer with the wrong request from here on.
	 */
	if (st->run && st->dir != dir && (__s32)(seq - st->other_seq) < 0) {
		zs_count(ZS_CNT_LATE);
		return 0;
	}
	known = zs_known(sk, tp, st, now);
	if (st->run == 0) {
		zs_turn(st, &head, dir, 0, 0, seq);
	} else if (st->dir != dir) {
		zs_turn(st, &head, dir, zs_run_total(st, other), st->run_end_ns, seq);
	} else if (other != st->other_seq) {
		zs_unseen_run(st, dir, other, now, known);
		zs_turn(st, &head, dir, st->run_len, now, seq);
	}
	st->other_seq = other;

	if (!known) {
		zs_msg_lost(st);
		goto passed;
	}
	if (ZS_EVENT_A_MESSAGE && io->kind == ZS_IO_MMSG)
		zs_pick_of_vector(st, io, len);
	zs_head(&head, st, dir, now, seq, len);
	if (st->captured < st->capture) {
		want = st->capture - st->captured;
		if (len < want)
			want = len;
		if (want > ZS_PAYLOAD_MAX)
			want = ZS_PAYLOAD_MAX;
		n = zs_io_locate(io, want, &gathered, &head.hdr.flags);
	}
	if (n == 0 && head.run_off) {
		st->dirty = 1; /* nothing to show: the sweep, the next run or the end will say how far it went */
		goto passed;
	}
	if (n < len)
		head.hdr.flags |= ZS_F_CUT;
	if (zs_emit_msg(&head, io->addr, gathered, n)) {
		st->captured += n;
		if (n < len)
			st->captured = ZS_PAYLOAD_MAX; /* a hole: later bytes could not be put in their place */
		st->gap = 0;
		st->dirty = 0;
	} else {
		zs_msg_lost(st);
	}
passed:
	/* up to the end of this call, so that bytes of this direction that no hook saw count, too */
	st->run_len += here - (st->run_seq + (__u32)st->run_len);
	st->run_end_ns = now;
	return 0;
}

/* ---- UDP: DNS only -------------------------------------------------------------------------------- */

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

/* ---- life of a connection ------------------------------------------------------------------------- */

static __always_inline void zs_on_connect(struct sock *sk)
{
	struct zs_state *st = zs_state_find(sk);
	struct zs_connect *ev;
	__u64 id = bpf_get_current_pid_tgid();
	__u32 tgid = id >> 32;

	if (st)
		__builtin_memset(st, 0, sizeof(*st)); /* a further connection of a socket that failed before */
	if (tgid == zs_self_tgid || !zs_task_watched(tgid))
		return;
	if (!st)
		st = zs_state_create(sk);
	if (!st) {
		zs_count(ZS_CNT_NO_STATE);
		return;
	}
	st->conn_id = zs_new_id();
	st->closed_out = !zs_sock_watched(sk);
	st->capture = zs_capture_of(sk);
	if (st->closed_out)
		return;
	ev = bpf_ringbuf_reserve(&zs_ring, sizeof(*ev), 0);
	if (!ev) {
		zs_count(ZS_CNT_LOST_CONNECT);
		return;
	}
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->hdr.size = sizeof(*ev);
	ev->hdr.kind = ZS_CONNECT;
	ev->time_ns = bpf_ktime_get_ns();
	ev->conn_id = st->conn_id;
	ev->tgid = tgid;
	ev->tid = (__u32)id;
	zs_submit(ev);
	st->told = 1;
}

/* What only the living connection knows: a process that reads the error clears it, a reset clears the counters. */
static __always_inline void zs_remember_end(struct sock *sk, struct tcp_sock *tp, struct zs_state *st)
{
	if (st->end_ns)
		return;
	st->end_ns = bpf_ktime_get_ns();
	st->error = ZS_GET(sk, sk_err);
	if (!tp)
		return;
	st->bytes_sent = ZS_GET(tp, bytes_acked);
	st->bytes_received = ZS_GET(tp, bytes_received);
	st->retransmits = ZS_GET(tp, total_retrans);
	st->srtt_us = ZS_GET(tp, srtt_us) >> 3;
}

static __always_inline void zs_on_tcp_state(struct sock *sk, struct tcp_sock *tp, int state)
{
	struct zs_state *st;

	if (state == TCP_SYN_SENT) {
		zs_on_connect(sk);
		return;
	}
	if (state != TCP_FIN_WAIT1 && state != TCP_LAST_ACK && state != TCP_CLOSE)
		return;
	st = zs_state_find(sk);
	if (!st)
		return;
	if (state == TCP_CLOSE)
		zs_remember_end(sk, tp, st);
	else
		st->fin_sent = 1;
}

/*
 * The socket goes. Only now, and not when TCP ended, nothing more can come: the last bytes may be read after both sides
 * have closed, and on loopback the reset that answers a call arrives before the call's hook has run.
 */
static __always_inline void zs_on_destroy(struct sock *sk, struct tcp_sock *tp)
{
	struct zs_state *st = zs_state_find(sk);
	struct zs_close *ev;

	if (!st || !st->told || st->closed_out)
		return;
	zs_remember_end(sk, tp, st);
	ev = bpf_ringbuf_reserve(&zs_ring, sizeof(*ev), 0);
	if (!ev) {
		zs_count(ZS_CNT_LOST_CLOSE);
		return;
	}
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->hdr.size = sizeof(*ev);
	ev->hdr.kind = ZS_CLOSE;
	ev->hdr.dir = st->dir;
	ev->hdr.flags = st->gap ? ZS_F_GAP : 0;
	ev->time_ns = st->end_ns;
	ev->conn_id = st->conn_id;
	ev->run = st->run;
	ev->run_len = st->run_len;
	ev->run_end_ns = st->run_end_ns;
	ev->bytes_sent = st->bytes_sent;
	ev->bytes_received = st->bytes_received;
	ev->error = st->error;
	ev->retransmits = st->retransmits;
	ev->srtt_us = st->srtt_us;
	zs_submit(ev);
	st->told = 0;
}

/* One socket of the periodic sweep: says how far a run has come that grew without a record. */
static __always_inline void zs_sweep_one(struct zs_state *st)
{
	struct zs_progress *ev;

	if (!st->dirty || !st->announced)
		return;
	ev = bpf_ringbuf_reserve(&zs_ring, sizeof(*ev), 0);
	if (!ev) {
		zs_count(ZS_CNT_LOST_PROGRESS);
		return;
	}
	ev->hdr.size = sizeof(*ev);
	ev->hdr.kind = ZS_PROGRESS;
	ev->hdr.dir = st->dir;
	ev->hdr.flags = 0;
	ev->hdr.payload_len = 0;
	ev->time_ns = bpf_ktime_get_ns();
	ev->conn_id = st->conn_id;
	ev->run = st->run;
	ev->pad = 0;
	ev->run_len = st->run_len;
	ev->run_end_ns = st->run_end_ns;
	st->dirty = 0;
	zs_submit(ev);
}

#endif
