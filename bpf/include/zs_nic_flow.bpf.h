/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * What an interface saw of a TCP connection, and the records made of it (struct zs_nic).
 *
 * A run is what flows in one direction until the other side sends something new. One state for each connection at each
 * point: an interface of a namespace, outside or inside a tunnel, and on a given way through it: a packet that enters and
 * leaves by the same interface is two points. No lock: two directions that are handled at the same moment on two CPUs may
 * lose a run, which is missing then.
 */
#ifndef ZS_NIC_FLOW_BPF_H
#define ZS_NIC_FLOW_BPF_H

#include "zs_isns.bpf.h"
#include "zs_nic_packet.bpf.h"

const volatile __u32 zs_nic_share = 0xffffffff; /* connections whose hash is not above it are told */
const volatile __u64 zs_nic_netns_cookie = 0; /* of the one namespace; 0: look at each packet's device (Linux 6.2) */

/* Weak, and never reached where a constant says the namespace: older kernels do not have it. */
extern void *bpf_cast_to_kern_ctx(void *ctx) __weak __ksym;

#define ZS_NIC_JUMP ((1 << 30) - 65536) /* RFC 7323: a window is at most 1 GiB */
#define ZS_NIC_TRIES 8 /* runs of a connection at which its socket is looked for */

struct bpf_sock_tuple {
	union {
		struct {
			__be32 saddr;
			__be32 daddr;
			__be16 sport;
			__be16 dport;
		} ipv4;
		struct {
			__be32 saddr[4];
			__be32 daddr[4];
			__be16 sport;
			__be16 dport;
		} ipv6;
	};
};

/* Ends in canonical order: the lower address and port first. Direction 0 is from the first to the second. */
struct zs_nic_key {
	__u64 netns_cookie;
	__u64 addr[2][2];
	__u32 ifindex;
	__u32 tunnel_id;
	__u32 vlans;
	__u16 port[2];
	__u8 tunnel; /* enum zs_tunnel */
	__u8 family;
	__u8 way; /* whether direction 0 leaves by the interface */
	__u8 pad[5];
};

enum zs_nic_choice { ZS_NIC_UNDECIDED = 0, ZS_NIC_TELL = 1, ZS_NIC_LEAVE = 2 };

/* What is known of one direction. */
struct zs_nic_side {
	__u32 isn;
	__u32 high; /* sequence number behind the last byte seen */
	__u32 ack; /* what the last segment with bytes in it acknowledged */
	__u8 isn_known;
	__u8 high_known;
	__u8 ack_known;
	__u8 pad;
};

struct zs_nic_flow {
	__u64 run_bytes;
	__u64 run_end_ns;
	struct zs_nic_side side[2];
	__u32 hole; /* bytes of the run that were not seen: from here */
	__u32 hole_end; /* to here; equal: none */
	__u32 run_seq;
	__u32 run_packets;
	__u32 run_retransmits;
	__u8 run_dir;
	__u8 run_open;
	__u8 connecting; /* 1 + direction of the side that sent the SYN; 0: not known */
	__u8 from_socket;
	__u8 tries;
	__u8 choice; /* enum zs_nic_choice */
	__u8 pad[6];
};

struct zs_nic_own {
	__u64 netns_cookie;
	__u16 port;
	__u8 pad[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536); /* the loader sets its own */
	__type(key, struct zs_nic_key);
	__type(value, struct zs_nic_flow);
} zs_nic_flows SEC(".maps");

/* Local ports of the agent's own connections. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 512);
	__type(key, struct zs_nic_own);
	__type(value, __u8);
} zs_nic_owns SEC(".maps");

static const struct zs_nic_flow zs_nic_fresh = {};

/* One packet's view of its connection. */
struct zs_nic_at {
	struct zs_segment s;
	struct zs_nic_key key;
	__u64 now;
	__u32 dir; /* of this segment */
	bool egress;
	__u8 pad[3];
};

/* By a branch, not by an index: the verifier follows it. */
static __always_inline struct zs_nic_side *zs_nic_side(struct zs_nic_flow *st, __u32 dir)
{
	return dir ? &st->side[1] : &st->side[0];
}

static __always_inline bool zs_nic_isns_known(const struct zs_nic_flow *st)
{
	return st->connecting && st->side[0].isn_known && st->side[1].isn_known;
}

static __always_inline __u64 zs_mix(__u64 h)
{
	h ^= h >> 33;
	h *= 0xff51afd7ed558ccdULL;
	h ^= h >> 33;
	h *= 0xc4ceb9fe1a85ec53ULL;
	return h ^ h >> 33;
}

/* The same connection gives the same answer at every point and host; behind NAT if its sequence numbers are known. */
static __always_inline bool zs_nic_in_share(const struct zs_nic_key *key, __u32 connecting, __u32 accepting)
{
	__u64 h = (__u64)connecting << 32 | accepting;

	if (zs_nic_share == 0xffffffff)
		return true;
	if (!h) {
		h = zs_mix(key->addr[0][0]) ^ key->addr[0][1];
		h = zs_mix(h ^ key->port[0]) ^ key->addr[1][0];
		h = zs_mix(h) ^ key->addr[1][1];
		h ^= (__u64)key->port[1] << 32;
	}
	return (__u32)(zs_mix(h) >> 32) <= zs_nic_share;
}

static __always_inline bool zs_nic_is_own(const struct zs_nic_key *key)
{
	struct zs_nic_own own = {.netns_cookie = key->netns_cookie, .port = key->port[0]};

	if (bpf_map_lookup_elem(&zs_nic_owns, &own))
		return true;
	own.port = key->port[1];
	return bpf_map_lookup_elem(&zs_nic_owns, &own) != NULL;
}

/* Initial sequence numbers from the socket of this namespace, if the connection ends in it. */
static __always_inline void zs_nic_ask_socket(struct __sk_buff *skb, const struct zs_nic_at *at, struct zs_nic_flow *st)
{
	const struct zs_segment *s = &at->s;
	struct bpf_sock_tuple tuple = {};
	struct zs_isns isns = {};
	struct bpf_sock *skc;
	struct tcp_sock *tp;
	__u32 leaving = s->seq + s->len, local;

	st->tries++;
	/* a tuple is what an arriving packet has: from the peer to this side */
	if (s->inner.family == AF_INET) {
		__builtin_memcpy(&tuple.ipv4.saddr, at->egress ? s->inner.dst : s->inner.src, 4);
		__builtin_memcpy(&tuple.ipv4.daddr, at->egress ? s->inner.src : s->inner.dst, 4);
		tuple.ipv4.sport = bpf_htons(at->egress ? s->dst_port : s->src_port);
		tuple.ipv4.dport = bpf_htons(at->egress ? s->src_port : s->dst_port);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, at->egress ? s->inner.dst : s->inner.src, 16);
		__builtin_memcpy(tuple.ipv6.daddr, at->egress ? s->inner.src : s->inner.dst, 16);
		tuple.ipv6.sport = bpf_htons(at->egress ? s->dst_port : s->src_port);
		tuple.ipv6.dport = bpf_htons(at->egress ? s->src_port : s->dst_port);
	}
	if (s->inner.family == AF_INET)
		skc = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	else
		skc = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	if (!skc)
		return;
	tp = bpf_skc_to_tcp_sock(skc);
	if (tp && zs_isns_while((struct sock *)tp, tp, at->egress ? &leaving : NULL, &isns)) {
		local = at->egress ? at->dir : !at->dir;
		st->connecting = 1 + (isns.role == ZS_ROLE_CONNECTING ? local : !local);
		zs_nic_side(st, st->connecting == 2)->isn = isns.connecting;
		zs_nic_side(st, st->connecting != 2)->isn = isns.accepting;
		st->side[0].isn_known = st->side[1].isn_known = 1;
		st->from_socket = 1;
	}
	bpf_sk_release(skc);
}

/* One record: `src_dir` is the direction of the run that begins at `seq`, or, with ZS_NIC_END, would begin. */
static __always_inline void zs_nic_tell(struct __sk_buff *asker, const struct zs_nic_at *at, struct zs_nic_flow *st,
					__u32 src_dir, __u32 seq, __u32 flags)
{
	const struct zs_segment *s = &at->s;
	__u32 connecting = 0, accepting = 0;
	bool turned = src_dir != at->dir;
	struct zs_nic *ev;

	if (asker && !zs_nic_isns_known(st) && st->tries < ZS_NIC_TRIES)
		zs_nic_ask_socket(asker, at, st);
	if (zs_nic_isns_known(st)) {
		connecting = zs_nic_side(st, st->connecting == 2)->isn;
		accepting = zs_nic_side(st, st->connecting != 2)->isn;
	}
	if (st->choice == ZS_NIC_UNDECIDED)
		st->choice = zs_nic_in_share(&at->key, connecting, accepting) ? ZS_NIC_TELL : ZS_NIC_LEAVE;
	if (st->choice == ZS_NIC_LEAVE || zs_nic_is_own(&at->key)) {
		zs_count(ZS_CNT_NIC_LEFT_OUT);
		return;
	}
	ev = bpf_ringbuf_reserve(&zs_ring, sizeof(*ev), 0);
	if (!ev) {
		zs_count(ZS_CNT_LOST_NIC);
		return;
	}
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->hdr.size = sizeof(*ev);
	ev->hdr.kind = ZS_NIC;
	if (at->egress != turned)
		flags |= ZS_NIC_EGRESS;
	if (st->from_socket)
		flags |= ZS_NIC_SOCKET;
	ev->hdr.flags = flags;
	ev->time_ns = at->now;
	ev->netns_cookie = at->key.netns_cookie;
	ev->ifindex = at->key.ifindex;
	ev->isn_connecting = connecting;
	ev->isn_accepting = accepting;
	ev->seq = seq;
	if (st->run_open) {
		ev->prev_bytes = st->run_bytes;
		ev->prev_end_ns = st->run_end_ns;
		ev->prev_seq = st->run_seq;
		ev->prev_packets = st->run_packets;
		ev->prev_retransmits = st->run_retransmits;
	}
	ev->tunnel_id = s->tunnel_id;
	ev->vlan = s->vlans & 0xfff;
	ev->family = s->inner.family;
	ev->tunnel = s->tunnel;
	ev->outer_family = s->outer.family;
	if (st->connecting)
		ev->role = st->connecting == src_dir + 1 ? ZS_ROLE_CONNECTING : ZS_ROLE_ACCEPTING;
	if (turned) {
		ev->src_port = s->dst_port;
		ev->dst_port = s->src_port;
		__builtin_memcpy(ev->src_addr, s->inner.dst, 16);
		__builtin_memcpy(ev->dst_addr, s->inner.src, 16);
		__builtin_memcpy(ev->outer_src_addr, s->outer.dst, 16);
		__builtin_memcpy(ev->outer_dst_addr, s->outer.src, 16);
	} else {
		ev->src_port = s->src_port;
		ev->dst_port = s->dst_port;
		__builtin_memcpy(ev->src_addr, s->inner.src, 16);
		__builtin_memcpy(ev->dst_addr, s->inner.dst, 16);
		__builtin_memcpy(ev->outer_src_addr, s->outer.src, 16);
		__builtin_memcpy(ev->outer_dst_addr, s->outer.dst, 16);
	}
	zs_submit(ev);
}

/* Says what the last run was, if that was not said yet. */
static __always_inline void zs_nic_end(struct __sk_buff *asker, const struct zs_nic_at *at, struct zs_nic_flow *st,
				       __u32 flags)
{
	if (!st->run_open)
		return;
	zs_nic_tell(asker, at, st, !st->run_dir, 0, ZS_NIC_END | flags);
	st->run_open = 0;
}

/* A SYN or SYN-ACK; the latter tells both initial sequence numbers. Another one than before is another connection. */
static __always_inline void zs_nic_syn(struct __sk_buff *asker, const struct zs_nic_at *at, struct zs_nic_flow *st)
{
	const struct zs_segment *s = &at->s;
	struct zs_nic_side *mine = zs_nic_side(st, at->dir), *other = zs_nic_side(st, !at->dir);
	bool answer = s->tcp_flags & TCP_FLAG_ACK;

	if ((mine->isn_known && mine->isn != s->seq) || (answer && other->isn_known && other->isn != s->ack - 1) ||
	    st->from_socket) {
		zs_nic_end(asker, at, st, 0);
		*st = zs_nic_fresh;
	}
	if (!mine->isn_known) {
		mine->isn = s->seq;
		mine->isn_known = 1;
		mine->high = s->seq + 1;
		mine->high_known = 1;
		st->connecting = 1 + (answer ? !at->dir : at->dir);
	}
	if (answer && !other->isn_known) {
		other->isn = s->ack - 1;
		other->isn_known = 1;
		other->high = s->ack;
		other->high_known = 1;
	}
	if (answer) {
		mine->ack = s->ack;
		mine->ack_known = 1;
	}
}

/* A segment that does not go beyond what was seen: sent again, or late. */
static __always_inline void zs_nic_again(const struct zs_nic_at *at, struct zs_nic_flow *st, __u32 seq)
{
	__u32 end = seq + at->s.len;

	if (!st->run_open || st->run_dir != at->dir)
		return;
	if (at->s.len == 1 && end == zs_nic_side(st, at->dir)->high)
		return; /* a keep-alive probe */
	st->run_packets += at->s.packets;
	if (st->hole != st->hole_end && (__s32)(seq - st->hole_end) < 0 && (__s32)(end - st->hole) > 0) {
		if ((__s32)(seq - st->hole) <= 0)
			st->hole = (__s32)(end - st->hole_end) < 0 ? end : st->hole_end;
		else if ((__s32)(end - st->hole_end) >= 0)
			st->hole_end = seq;
		st->run_end_ns = at->now;
	} else {
		st->run_retransmits += at->s.packets;
	}
}

/*
 * Where a run begins: at its first segment, or, if that overtook others, behind the last byte seen. The latter only if
 * nothing of this connection can have passed elsewhere meanwhile: each side has acknowledged just what was seen here.
 */
static __always_inline __u32 zs_nic_run_start(const struct zs_nic_at *at, struct zs_nic_flow *st, __u32 seq)
{
	const struct zs_nic_side *mine = zs_nic_side(st, at->dir), *other = zs_nic_side(st, !at->dir);

	if (!mine->high_known)
		return seq;
	if ((__s32)(seq - mine->high) < 0)
		return mine->high; /* begins with bytes that were seen */
	if (other->ack_known && other->ack == mine->high && other->high_known && at->s.ack == other->high)
		return mine->high;
	return seq;
}

static __always_inline void zs_nic_data(struct __sk_buff *asker, const struct zs_nic_at *at, struct zs_nic_flow *st,
					__u32 seq)
{
	const struct zs_segment *s = &at->s;
	struct zs_nic_side *mine = zs_nic_side(st, at->dir);
	__u32 end = seq + s->len, start;

	if (mine->high_known && (__s32)(end - mine->high) <= 0) {
		zs_nic_again(at, st, seq);
		return;
	}
	if (!mine->high_known && s->len == 1 && !(s->tcp_flags & TCP_FLAG_PSH))
		return; /* of a connection met midway: as likely a keep-alive probe */
	if (!st->run_open || st->run_dir != at->dir) {
		start = zs_nic_run_start(at, st, seq);
		zs_nic_tell(asker, at, st, at->dir, start, 0);
		st->run_open = 1;
		st->run_dir = at->dir;
		st->run_seq = start;
		st->run_bytes = 0;
		st->run_packets = 0;
		st->run_retransmits = 0;
		st->hole = 0;
		st->hole_end = 0;
	} else {
		start = mine->high;
	}
	if ((__s32)(seq - start) > ZS_NIC_JUMP) {
		start = seq; /* no window is that large */
		st->hole = 0;
		st->hole_end = 0;
	}
	if ((__s32)(seq - start) > 0 && st->hole == st->hole_end) {
		st->hole = start;
		st->hole_end = seq;
	}
	st->run_bytes += end - start;
	st->run_packets += s->packets;
	st->run_end_ns = at->now;
	mine->high = end;
	mine->high_known = 1;
	mine->ack = s->ack;
	mine->ack_known = !!(s->tcp_flags & TCP_FLAG_ACK);
}

static __always_inline struct zs_nic_flow *zs_nic_state(const struct zs_nic_at *at)
{
	struct zs_nic_flow *st = bpf_map_lookup_elem(&zs_nic_flows, &at->key);

	if (st)
		return st;
	if (!(at->s.tcp_flags & TCP_FLAG_SYN)) {
		if (!at->s.len)
			return NULL; /* the end of something of which nothing was seen */
		zs_count(ZS_CNT_NIC_MIDWAY);
	}
	bpf_map_update_elem(&zs_nic_flows, &at->key, &zs_nic_fresh, BPF_NOEXIST);
	st = bpf_map_lookup_elem(&zs_nic_flows, &at->key);
	if (!st)
		zs_count(ZS_CNT_NIC_NO_STATE);
	return st;
}

static __always_inline bool zs_nic_source_is_second(const struct zs_segment *s)
{
	const __u64 *src = (const __u64 *)s->inner.src, *dst = (const __u64 *)s->inner.dst;

	if (src[0] != dst[0])
		return src[0] > dst[0];
	if (src[1] != dst[1])
		return src[1] > dst[1];
	return s->src_port > s->dst_port;
}

/* Of the device. (bpf_get_netns_cookie tells the sending socket's, or that of the initial namespace.) */
static __always_inline __u64 zs_nic_cookie(struct __sk_buff *skb)
{
	struct sk_buff *inside;

	if (zs_nic_netns_cookie)
		return zs_nic_netns_cookie;
	inside = bpf_cast_to_kern_ctx(skb);
	return inside->dev->nd_net.net->net_cookie;
}

static __always_inline void zs_nic_ends(struct zs_nic_key *key, const __u8 *first, const __u8 *second, __u16 first_port,
					__u16 second_port)
{
	__builtin_memcpy(key->addr[0], first, 16);
	__builtin_memcpy(key->addr[1], second, 16);
	key->port[0] = first_port;
	key->port[1] = second_port;
}

static __always_inline void zs_nic_packet(struct __sk_buff *skb, bool l2, bool egress, bool lookup)
{
	struct zs_nic_at at = {.egress = egress};
	struct zs_segment *s = &at.s;
	struct __sk_buff *asker = lookup ? skb : NULL; /* other programs may not look for sockets */
	struct zs_nic_flow *st;
	int found = zs_parse(skb, l2, s);
	__u32 dir, seq;

	if (found != ZS_FOUND) {
		if (found == ZS_MALFORMED)
			zs_count(ZS_CNT_NIC_MALFORMED);
		return;
	}
	if (!s->len && !(s->tcp_flags & (TCP_FLAG_SYN | TCP_FLAG_FIN | TCP_FLAG_RST)))
		return; /* most packets: nothing but an acknowledgement */
	dir = zs_nic_source_is_second(s);
	at.dir = dir;
	if (dir)
		zs_nic_ends(&at.key, s->inner.dst, s->inner.src, s->dst_port, s->src_port);
	else
		zs_nic_ends(&at.key, s->inner.src, s->inner.dst, s->src_port, s->dst_port);
	at.key.netns_cookie = zs_nic_cookie(skb);
	at.key.ifindex = skb->ifindex;
	at.key.tunnel_id = s->tunnel_id;
	at.key.vlans = s->vlans;
	at.key.tunnel = s->tunnel;
	at.key.family = s->inner.family;
	at.key.way = egress != (bool)dir;
	at.now = bpf_ktime_get_ns();
	st = zs_nic_state(&at);
	if (!st)
		return;
	seq = s->seq;
	if (s->tcp_flags & TCP_FLAG_SYN) {
		zs_nic_syn(asker, &at, st);
		seq++;
	}
	if (s->len)
		zs_nic_data(asker, &at, st, seq);
	if (s->tcp_flags & TCP_FLAG_RST)
		zs_nic_end(asker, &at, st, ZS_NIC_RESET);
	else if (s->tcp_flags & TCP_FLAG_FIN)
		zs_nic_end(asker, &at, st, 0);
}

#endif
