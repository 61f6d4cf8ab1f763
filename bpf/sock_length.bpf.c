// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Layout "sock_length", for kernels that have the tracepoints sock_send_length and sock_recv_length (6.3): no cost at
 * all to system calls that are not socket calls, no file descriptor to look up, state in the socket's own storage.
 */
#include "zs_datagram.bpf.h"
#include "zs_life.bpf.h"
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct zs_state);
} zs_states SEC(".maps");

/* No call, unlike bpf_skc_to_tcp_sock(): each return costs some ns where the kernel guards returns (SRSO). Since 6.2. */
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym;
#define ZS_TCP_SOCK(sk) ((struct tcp_sock *)bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct tcp_sock)))

#include "zs_sk_storage.bpf.h"

SEC("tp_btf/sock_send_length")
int BPF_PROG(zs_send, struct sock *sk, int ret, int flags)
{
	return zs_socket_call(sk, ret, flags, ZS_SEND);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(zs_recv, struct sock *sk, int ret, int flags)
{
	return zs_socket_call(sk, ret, flags, ZS_RECV);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(zs_set_state, struct sock *sk, int oldstate, int newstate)
{
	return zs_state_change(sk, newstate);
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(zs_destroy, struct sock *sk)
{
	zs_on_destroy(sk, ZS_TCP_SOCK(sk));
	return 0;
}
