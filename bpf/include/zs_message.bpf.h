/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * From a system call's end to records: the part that all hook layouts share.
 *
 * A layout (one .bpf.c file) says how a socket's state is kept (zs_state_find and its kin) and whether `sk` is a pointer
 * that may be dereferenced; then it calls zs_on_tcp, zs_on_udp (zs_datagram.bpf.h), zs_on_tcp_state and zs_on_destroy
 * (zs_life.bpf.h).
 */
#ifndef ZS_MESSAGE_BPF_H
#define ZS_MESSAGE_BPF_H

#include "zs_record.bpf.h"

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

static __always_inline void zs_head(struct zs_msg *head, struct zs_state *st, enum zs_dir dir, __u64 id, __u64 now,
				    __u32 seq, __u32 len)
{
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
static __always_inline void zs_unseen_run(struct zs_state *st, enum zs_dir dir, __u64 id, __u32 other, __u64 now,
					  bool known)
{
	struct zs_msg head = {};
	__u32 len = other - st->other_seq;

	zs_turn(st, &head, !dir, zs_run_total(st, st->run_seq + (__u32)st->run_len), st->run_end_ns, st->other_seq);
	zs_head(&head, st, !dir, id, now - 1, st->other_seq, len);
	head.hdr.flags |= ZS_F_NO_PAYLOAD | ZS_F_CUT;
	if (known && zs_emit_msg(&head, 0, NULL, 0))
		st->gap = 0;
	else
		zs_run_lost(st);
	st->run_len = len;
	st->run_end_ns = now;
}

/* A run goes on by bytes that are not to be had or not wanted any more: the short way of sendfile and of large bodies. */
static __always_inline bool zs_goes_on(const struct zs_state *st, const struct zs_io *io, enum zs_dir dir, __u32 other)
{
	return st->announced && st->role && st->run_len && st->dir == dir && st->other_seq == other &&
	       (io->kind == ZS_IO_NONE || (st->captured >= st->capture && io->kind != ZS_IO_MMSG));
}

/* id: as bpf_get_current_pid_tgid() gives it; the layout may have it for less than a call. */
static __always_inline int zs_on_tcp(struct sock *sk, struct tcp_sock *tp, __u64 id, __u32 len, enum zs_dir dir,
				     struct zs_io *io)
{
	struct zs_state *st = zs_state_find(sk);
	struct zs_scratch *gathered = NULL;
	struct zs_msg head = {};
	__u32 tgid = id >> 32;
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
	if (zs_goes_on(st, io, dir, other)) {
		st->dirty = 1; /* nothing to show: the sweep, the next run or the end will say how far it went */
		goto passed;
	}
	known = zs_known(sk, tp, st, now);
	if (st->run == 0) {
		zs_turn(st, &head, dir, 0, 0, seq);
	} else if (st->dir != dir) {
		zs_turn(st, &head, dir, zs_run_total(st, other), st->run_end_ns, seq);
	} else if (other != st->other_seq) {
		zs_unseen_run(st, dir, id, other, now, known);
		zs_turn(st, &head, dir, st->run_len, now, seq);
	}
	st->other_seq = other;

	if (!known) {
		zs_msg_lost(st);
		goto passed;
	}
	if (ZS_EVENT_A_MESSAGE && io->kind == ZS_IO_MMSG)
		zs_pick_of_vector(st, io, len);
	zs_head(&head, st, dir, id, now, seq, len);
	if (st->captured < st->capture) {
		want = st->capture - st->captured;
		if (len < want)
			want = len;
		if (want > ZS_PAYLOAD_MAX)
			want = ZS_PAYLOAD_MAX;
		n = zs_io_locate(io, want, &gathered, &head.hdr.flags);
	}
	if (n == 0 && head.run_off) {
		st->dirty = 1;
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

#endif
