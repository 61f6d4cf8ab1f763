// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Points of the way of TCP connections: programs for network interfaces. exporter/source/nic.py attaches them, by tcx where
 * the kernel has it, else by clsact, else as filters of packet sockets. They change no packet and keep none.
 *
 * Two of each: with a link-layer header, and for devices that have none (tun, ipip, gre), whose packets are read from the
 * network header on.
 */
#include "zs_nic_flow.bpf.h"
#include "zs_nic_sweep.bpf.h"

char LICENSE[] SEC("license") = "GPL";

#define ZS_NEXT -1 /* TCX_NEXT, TC_ACT_UNSPEC: whoever comes next decides */
#define PACKET_OUTGOING 4

SEC("tc")
int zs_nic_in(struct __sk_buff *skb)
{
	zs_nic_packet(skb, true, false, true);
	return ZS_NEXT;
}

SEC("tc")
int zs_nic_out(struct __sk_buff *skb)
{
	zs_nic_packet(skb, true, true, true);
	return ZS_NEXT;
}

SEC("tc")
int zs_nic_raw_in(struct __sk_buff *skb)
{
	zs_nic_packet(skb, false, false, true);
	return ZS_NEXT;
}

SEC("tc")
int zs_nic_raw_out(struct __sk_buff *skb)
{
	zs_nic_packet(skb, false, true, true);
	return ZS_NEXT;
}

/*
 * Returns 0: the socket's queue stays empty. Kernels before 6.8 take a filter of at most net.core.optmem_max bytes, 20 KiB
 * unless it was set: so there is one copy of the code in it.
 */
SEC("socket")
int zs_nic_tap(struct __sk_buff *skb)
{
	zs_nic_packet(skb, true, skb->pkt_type == PACKET_OUTGOING, false);
	return 0;
}

SEC("socket")
int zs_nic_raw_tap(struct __sk_buff *skb)
{
	zs_nic_packet(skb, false, skb->pkt_type == PACKET_OUTGOING, false);
	return 0;
}
