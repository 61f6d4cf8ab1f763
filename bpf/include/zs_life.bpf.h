/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The life of a connection, and the sweep over those that live. */
#ifndef ZS_LIFE_BPF_H
#define ZS_LIFE_BPF_H

#include "zs_record.bpf.h"

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
	ev = ZS_RESERVE(sizeof(*ev));
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
	ev = ZS_RESERVE(sizeof(*ev));
	if (!ev) {
		zs_count(ZS_CNT_LOST_CLOSE);
		return;
	}
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->hdr.size = sizeof(*ev);
	ev->hdr.kind = ZS_CLOSE;
	ev->hdr.dir = st->dir;
	ev->hdr.flags = st->gap ? ZS_F_GAP : 0;
	ev->time_ns = bpf_ktime_get_ns();
	ev->end_ns = st->end_ns;
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
	ev = ZS_RESERVE(sizeof(*ev));
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
