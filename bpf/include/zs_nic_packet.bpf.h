/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * From a packet at an interface to the TCP segment in it: link layer, VLAN tags, IPv4, IPv6 with extension headers, and one
 * tunnel (VXLAN, GENEVE, GRE, IP in IP). What a packet says of its own lengths is believed only as far as it is there.
 *
 * The same code for tc and for socket filters: it reads by bpf_skb_load_bytes, never by pointers into the packet.
 */
#ifndef ZS_NIC_PACKET_BPF_H
#define ZS_NIC_PACKET_BPF_H

#include "zs_ring.bpf.h"
#include <bpf/bpf_endian.h>

/* Set by the loader. Tunnels that run over UDP are known by their destination port only. */
const volatile __u32 zs_nic_vxlan_port = 4789; /* RFC 7348 */
const volatile __u32 zs_nic_vxlan_port_too = 8472; /* Linux' own default, flannel, Cilium */
const volatile __u32 zs_nic_geneve_port = 6081; /* RFC 8926 */

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define ETH_P_TEB 0x6558
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88a8
#define ETH_P_QINQ1 0x9100
#define ETH_HLEN 14
#define IPPROTO_HOPOPTS 0
#define IPPROTO_IPIP 4
#define IPPROTO_IPV6 41
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_GRE 47
#define IPPROTO_AH 51
#define IPPROTO_DSTOPTS 60
#define IPPROTO_MH 135
#define BPF_HDR_START_NET 1

#define TCP_FLAG_FIN 1
#define TCP_FLAG_SYN 2
#define TCP_FLAG_RST 4
#define TCP_FLAG_PSH 8
#define TCP_FLAG_ACK 16

#define ZS_NIC_TAGS 2 /* of VLAN that stand in the packet; one more may be kept beside it */
#define ZS_NIC_EXTENSIONS 6 /* IPv6 extension headers that are stepped over */

/* include/uapi/linux/bpf.h: as much of it as is read here. */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	__u64 flow_keys;
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	__u64 sk;
	__u32 gso_size;
	__u32 tstamp_type;
};

struct zs_ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 total;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 check;
	__u8 src[4];
	__u8 dst[4];
};

struct zs_ipv6 {
	__u8 version;
	__u8 flow[3];
	__be16 payload;
	__u8 next;
	__u8 hops;
	__u8 src[16];
	__u8 dst[16];
};

struct zs_tcp {
	__be16 src;
	__be16 dst;
	__be32 seq;
	__be32 ack;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__be16 check;
	__be16 urgent;
};

/* Both ends of a packet, IPv4 addresses in the first four bytes. */
struct zs_ends {
	__u8 src[16];
	__u8 dst[16];
	__u32 family; /* 0: none */
};

/* A TCP segment and where it was found. */
struct zs_segment {
	struct zs_ends inner;
	struct zs_ends outer; /* of the tunnel */
	__u32 seq;
	__u32 ack;
	__u32 len; /* of the payload */
	__u32 packets;
	__u32 tunnel; /* enum zs_tunnel */
	__u32 tunnel_id;
	__u32 vlans; /* all tags, the outermost highest: tells connections apart */
	__u32 tcp_flags;
	__u32 src_port;
	__u32 dst_port;
};

/* Where the reader stands: offsets count from the link-layer header, without one (l2 false) from the network header. */
struct zs_place {
	__u32 at;
	__u32 end; /* of what the IP header says that the packet is */
	__u32 proto; /* first an Ethertype, then an IP protocol */
	__u32 l2;
};

enum zs_found { ZS_NOT_OURS = 0, ZS_FOUND = 1, ZS_MALFORMED = 2 };

static __always_inline bool zs_read(struct __sk_buff *skb, const struct zs_place *p, __u32 offset, void *to, __u32 n)
{
	if (p->l2)
		return bpf_skb_load_bytes(skb, offset, to, n) == 0;
	return bpf_skb_load_bytes_relative(skb, offset, to, n, BPF_HDR_START_NET) == 0;
}

static __always_inline bool zs_is_tag(__u32 ethertype)
{
	return ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD || ethertype == ETH_P_QINQ1;
}

/* An Ethernet header and its tags; `p` stands behind them then, p->proto is what follows. */
static __always_inline enum zs_found zs_ethernet(struct __sk_buff *skb, struct zs_place *p, __u32 *vlans)
{
	__be16 tag[2], type;

	if (!zs_read(skb, p, p->at + ETH_HLEN - sizeof(type), &type, sizeof(type)))
		return ZS_MALFORMED;
	p->proto = bpf_ntohs(type);
	p->at += ETH_HLEN;
	for (int i = 0; i < ZS_NIC_TAGS && zs_is_tag(p->proto); i++) {
		if (!zs_read(skb, p, p->at, tag, sizeof(tag)))
			return ZS_MALFORMED;
		if (vlans)
			*vlans = *vlans << 12 | (bpf_ntohs(tag[0]) & 0xfff);
		p->proto = bpf_ntohs(tag[1]);
		p->at += sizeof(tag);
	}
	return ZS_FOUND;
}

static __always_inline enum zs_found zs_ipv4(struct __sk_buff *skb, struct zs_place *p, __u8 *src, __u8 *dst)
{
	struct zs_ipv4 ip;
	__u32 head, total;

	if (!zs_read(skb, p, p->at, &ip, sizeof(ip)))
		return ZS_MALFORMED;
	head = (ip.version_ihl & 15) * 4;
	total = bpf_ntohs(ip.total);
	if (!total && skb->gso_size) /* longer than the field can say (BIG TCP) */
		total = skb->len - p->at;
	if (ip.version_ihl >> 4 != 4 || head < sizeof(ip) || total < head || p->at + total > skb->len)
		return ZS_MALFORMED;
	if (ip.fragment & bpf_htons(0x1fff))
		return ZS_NOT_OURS; /* no header in it */
	__builtin_memcpy(src, ip.src, 4);
	__builtin_memcpy(dst, ip.dst, 4);
	p->proto = ip.protocol;
	p->end = p->at + total;
	p->at += head;
	return ZS_FOUND;
}

static __always_inline enum zs_found zs_ipv6(struct __sk_buff *skb, struct zs_place *p, __u8 *src, __u8 *dst)
{
	struct zs_ipv6 ip;
	__u8 next[4]; /* next header, length, and of a fragment its place */
	__u32 total, step;

	if (!zs_read(skb, p, p->at, &ip, sizeof(ip)))
		return ZS_MALFORMED;
	total = bpf_ntohs(ip.payload) + sizeof(ip);
	if (!ip.payload && skb->gso_size)
		total = skb->len - p->at;
	if (ip.version >> 4 != 6 || p->at + total > skb->len)
		return ZS_MALFORMED;
	__builtin_memcpy(src, ip.src, 16);
	__builtin_memcpy(dst, ip.dst, 16);
	p->proto = ip.next;
	p->end = p->at + total;
	p->at += sizeof(ip);
	for (int i = 0; i < ZS_NIC_EXTENSIONS; i++) {
		if (p->proto != IPPROTO_HOPOPTS && p->proto != IPPROTO_ROUTING && p->proto != IPPROTO_DSTOPTS &&
		    p->proto != IPPROTO_FRAGMENT && p->proto != IPPROTO_AH && p->proto != IPPROTO_MH)
			return ZS_FOUND;
		if (!zs_read(skb, p, p->at, next, sizeof(next)))
			return ZS_MALFORMED;
		step = (next[1] + 1) * 8;
		if (p->proto == IPPROTO_FRAGMENT) {
			step = 8;
			if (next[2] || next[3] & 0xf8)
				return ZS_NOT_OURS;
		} else if (p->proto == IPPROTO_AH) {
			step = (next[1] + 2) * 4;
		}
		p->proto = next[0];
		p->at += step;
		if (p->at > p->end)
			return ZS_MALFORMED;
	}
	return ZS_NOT_OURS; /* if there are more, whatever follows was never looked at */
}

/* Not inlined, as zs_unwrap below: the verifier then looks at it once, not once for each way that leads there. */
__noinline int zs_ip(struct __sk_buff *skb, struct zs_place *p, struct zs_ends *ends)
{
	if (!p || !ends)
		return ZS_NOT_OURS;
	if (p->proto == ETH_P_IP) {
		ends->family = AF_INET;
		return zs_ipv4(skb, p, ends->src, ends->dst);
	}
	if (p->proto == ETH_P_IPV6) {
		ends->family = AF_INET6;
		return zs_ipv6(skb, p, ends->src, ends->dst);
	}
	return ZS_NOT_OURS;
}

/* RFC 2784, 2890. Version 1 is PPTP, and source routes (RFC 1701) are not walked. */
static __always_inline enum zs_found zs_gre(struct __sk_buff *skb, struct zs_place *p, struct zs_segment *s)
{
	__be16 head[2];
	__be32 key;
	__u32 flags;

	if (!zs_read(skb, p, p->at, head, sizeof(head)))
		return ZS_MALFORMED;
	flags = bpf_ntohs(head[0]);
	if (flags & 0x4007)
		return ZS_NOT_OURS;
	p->proto = bpf_ntohs(head[1]);
	p->at += sizeof(head);
	if (flags & 0x8000)
		p->at += 4;
	if (flags & 0x2000) {
		if (!zs_read(skb, p, p->at, &key, sizeof(key)))
			return ZS_MALFORMED;
		s->tunnel_id = bpf_ntohl(key);
		p->at += 4;
	}
	if (flags & 0x1000)
		p->at += 4;
	s->tunnel = ZS_TUNNEL_GRE;
	return ZS_FOUND;
}

static __always_inline enum zs_found zs_over_udp(struct __sk_buff *skb, struct zs_place *p, struct zs_segment *s)
{
	__be32 head[2];
	__be16 ports[2];
	__u32 port;

	if (!zs_read(skb, p, p->at, ports, sizeof(ports)))
		return ZS_MALFORMED;
	port = bpf_ntohs(ports[1]);
	if (port != zs_nic_vxlan_port && port != zs_nic_vxlan_port_too && port != zs_nic_geneve_port)
		return ZS_NOT_OURS;
	if (!zs_read(skb, p, p->at + 8, head, sizeof(head)))
		return ZS_MALFORMED;
	p->at += 16;
	s->tunnel_id = bpf_ntohl(head[1]) >> 8;
	if (port == zs_nic_geneve_port) {
		if (head[0] & bpf_htonl(0xc0800000)) /* another version, or control */
			return ZS_NOT_OURS;
		p->at += (bpf_ntohl(head[0]) >> 24 & 0x3f) * 4;
		p->proto = bpf_ntohl(head[0]) & 0xffff;
		s->tunnel = ZS_TUNNEL_GENEVE;
	} else {
		if ((head[0] & bpf_htonl(0x0c000000)) != bpf_htonl(0x08000000)) /* VNI valid, not VXLAN-GPE */
			return ZS_NOT_OURS;
		p->proto = ETH_P_TEB;
		s->tunnel = ZS_TUNNEL_VXLAN;
	}
	return ZS_FOUND;
}

/* Steps into a tunnel: on ZS_FOUND `p` stands at the inner network header. */
__noinline int zs_unwrap(struct __sk_buff *skb, struct zs_place *p, struct zs_segment *s)
{
	enum zs_found found = ZS_FOUND;

	if (!p || !s)
		return ZS_NOT_OURS;
	if (p->proto == IPPROTO_IPIP || p->proto == IPPROTO_IPV6) {
		p->proto = p->proto == IPPROTO_IPIP ? ETH_P_IP : ETH_P_IPV6;
		s->tunnel = ZS_TUNNEL_IPIP;
	} else if (p->proto == IPPROTO_GRE) {
		found = zs_gre(skb, p, s);
	} else if (p->proto == IPPROTO_UDP) {
		found = zs_over_udp(skb, p, s);
	} else {
		return ZS_NOT_OURS;
	}
	if (found != ZS_FOUND)
		return found;
	if (p->proto == ETH_P_TEB)
		return zs_ethernet(skb, p, NULL);
	return p->proto == ETH_P_IP || p->proto == ETH_P_IPV6 ? ZS_FOUND : ZS_NOT_OURS;
}

/* Segments that left or will leave as one: what gso_segs counts. A guest's packet may lack the count. */
static __always_inline __u32 zs_packets(struct __sk_buff *skb, __u32 len)
{
	__u32 segs = skb->gso_segs, size = skb->gso_size;

	if (segs)
		return segs;
	return size && len > size ? (len + size - 1) / size : 1;
}

/* Fills `s`, which is all zero. */
static __always_inline int zs_parse(struct __sk_buff *skb, bool l2, struct zs_segment *s)
{
	struct zs_place p = {.l2 = l2};
	struct zs_tcp tcp;
	int found;
	__u32 head;

	if (skb->vlan_present)
		s->vlans = skb->vlan_tci & 0xfff;
	if (l2) {
		if (zs_ethernet(skb, &p, &s->vlans) != ZS_FOUND)
			return ZS_MALFORMED;
	} else {
		p.proto = bpf_ntohs(skb->protocol);
	}
	found = zs_ip(skb, &p, &s->inner);
	if (found != ZS_FOUND)
		return found;
	if (p.proto != IPPROTO_TCP) {
		found = zs_unwrap(skb, &p, s);
		if (found != ZS_FOUND)
			return found;
		s->outer = s->inner;
		__builtin_memset(&s->inner, 0, sizeof(s->inner));
		found = zs_ip(skb, &p, &s->inner);
		if (found != ZS_FOUND)
			return found;
		if (p.proto != IPPROTO_TCP)
			return ZS_NOT_OURS;
	}
	if (p.at + sizeof(tcp) > p.end || !zs_read(skb, &p, p.at, &tcp, sizeof(tcp)))
		return ZS_MALFORMED;
	head = (tcp.offset >> 4) * 4;
	if (head < sizeof(tcp) || p.at + head > p.end)
		return ZS_MALFORMED;
	s->len = p.end - p.at - head;
	s->packets = zs_packets(skb, s->len);
	s->seq = bpf_ntohl(tcp.seq);
	s->ack = bpf_ntohl(tcp.ack);
	s->tcp_flags = tcp.flags;
	s->src_port = bpf_ntohs(tcp.src);
	s->dst_port = bpf_ntohs(tcp.dst);
	return ZS_FOUND;
}

#endif
