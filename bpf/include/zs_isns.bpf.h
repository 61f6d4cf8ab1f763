/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The initial sequence numbers of a TCP connection, from its live socket (design.md, "Identity"). */
#ifndef ZS_ISNS_BPF_H
#define ZS_ISNS_BPF_H

#include "zs_kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#ifdef ZS_UNTRUSTED_SOCK
#define ZS_GET(ptr, field) BPF_CORE_READ(ptr, field)
#else
#define ZS_GET(ptr, field) ((ptr)->field)
#endif

/* This side has queued its FIN, while the state still tells. */
static __always_inline bool zs_fin_queued(struct sock *sk)
{
	__u8 state = ZS_GET(sk, __sk_common.skc_state);

	return state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_LAST_ACK || state == TCP_CLOSING;
}

struct zs_isns {
	__u32 connecting;
	__u32 accepting;
	__u32 role; /* enum zs_role */
};

/*
 * Initial sequence numbers from the live socket. With F bytes in flight, bytes_acked + F - (bytes_sent - bytes_retrans)
 * is 1 on the side that sent the SYN, which bytes_acked counts, and 0 on the other; one more once the own FIN has
 * left. tcp_ack() may move the fields on another CPU meanwhile: read until two readings agree.
 *
 * `leaving`: where a segment ends that is on its way out just now (tcp_transmit_skb() counts it in bytes_sent before
 * tcp_event_new_data_sent() moves snd_nxt), or NULL.
 */
static __always_inline bool zs_isns_while(struct sock *sk, struct tcp_sock *tp, const __u32 *leaving,
					  struct zs_isns *out)
{
	__u32 una, nxt, rcv, own;
	__u64 acked, sent, again, received;
	__u8 state;

	for (int i = 0; i < 4; i++) {
		una = ZS_GET(tp, snd_una);
		acked = ZS_GET(tp, bytes_acked);
		nxt = ZS_GET(tp, snd_nxt);
		sent = ZS_GET(tp, bytes_sent);
		again = ZS_GET(tp, bytes_retrans);
		rcv = ZS_GET(tp, rcv_nxt);
		received = ZS_GET(tp, bytes_received);
		barrier();
		if (una == ZS_GET(tp, snd_una) && acked == ZS_GET(tp, bytes_acked) && nxt == ZS_GET(tp, snd_nxt) &&
		    sent == ZS_GET(tp, bytes_sent) && rcv == ZS_GET(tp, rcv_nxt) &&
		    received == ZS_GET(tp, bytes_received)) {
			if (leaving && (__s32)(*leaving - nxt) > 0)
				nxt = *leaving;
			state = ZS_GET(sk, __sk_common.skc_state);
			own = (__u32)acked + (nxt - una) - (__u32)(sent - again);
			if (zs_fin_queued(sk))
				own -= nxt == ZS_GET(tp, write_seq);
			else if (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT)
				return false;
			if (own > 1)
				return false;
			if (own) {
				out->role = ZS_ROLE_CONNECTING;
				out->connecting = una - (__u32)acked;
				out->accepting = rcv - (__u32)received - 1;
			} else {
				out->role = ZS_ROLE_ACCEPTING;
				out->accepting = una - (__u32)acked - 1;
				out->connecting = rcv - (__u32)received - 1;
			}
			return true;
		}
	}
	return false;
}

static __always_inline bool zs_read_isns(struct sock *sk, struct tcp_sock *tp, struct zs_isns *out)
{
	return zs_isns_while(sk, tp, NULL, out);
}

#endif
