// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Layout "fexit", for kernels without the socket tracepoints that allow tracing of function ends: nothing is
 * added to system calls that are not socket calls, and the socket is a trusted pointer.
 *
 * Up to kernel 6.4 sendfile and splice send by inet_sendpage; the loader turns that program on where the function is.
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

#define ZS_TCP_SOCK(sk) bpf_skc_to_tcp_sock(sk)

#include "zs_sk_storage.bpf.h"

SEC("fexit/inet_sendmsg")
int BPF_PROG(zs_send4, struct socket *sock, struct msghdr *msg, size_t size, int ret)
{
	return zs_socket_call(sock->sk, ret, 0, ZS_SEND);
}

SEC("fexit/inet6_sendmsg")
int BPF_PROG(zs_send6, struct socket *sock, struct msghdr *msg, size_t size, int ret)
{
	return zs_socket_call(sock->sk, ret, 0, ZS_SEND);
}

struct page;

SEC("?fexit/inet_sendpage")
int BPF_PROG(zs_sendpage, struct socket *sock, struct page *page, int offset, size_t size, int flags, int ret)
{
	return zs_socket_call(sock->sk, ret, 0, ZS_SEND);
}

SEC("fexit/inet_recvmsg")
int BPF_PROG(zs_recv4, struct socket *sock, struct msghdr *msg, size_t size, int flags, int ret)
{
	return zs_socket_call(sock->sk, ret, flags, ZS_RECV);
}

SEC("fexit/inet6_recvmsg")
int BPF_PROG(zs_recv6, struct socket *sock, struct msghdr *msg, size_t size, int flags, int ret)
{
	return zs_socket_call(sock->sk, ret, flags, ZS_RECV);
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
