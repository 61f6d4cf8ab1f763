// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Layout "sys_exit", for kernels without the socket tracepoints: one hook at the end of every system call. At that point
 * the registers still hold the arguments, so no hook at the beginning is needed. The socket is found through the file
 * table; its pointer is not trusted, so fields are read by probes and the state is kept in a hash by the pointer,
 * deleted when the socket is destroyed.
 */
#define ZS_UNTRUSTED_SOCK
#include "zs_datagram.bpf.h"
#include "zs_life.bpf.h"
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

#define ZS_STATES (1 << 17)
#define ZS_SUMMED 64 /* messages of a vector whose lengths are added up */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ZS_STATES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct zs_state);
} zs_states SEC(".maps");

static __always_inline struct zs_state *zs_state_find(struct sock *sk)
{
	__u64 key = (__u64)sk;

	return bpf_map_lookup_elem(&zs_states, &key);
}

static __always_inline struct zs_state *zs_state_create(struct sock *sk)
{
	struct zs_state fresh = {};
	__u64 key = (__u64)sk;

	bpf_map_update_elem(&zs_states, &key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&zs_states, &key);
}

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct zs_state);
} zs_udp_state SEC(".maps");

/*
 * Nothing tells the end of a UDP socket, so nothing is kept of it: its number is that of its inode, which is not used
 * again before four thousand million sockets have been made.
 */
static __always_inline struct zs_state *zs_state_of_udp(struct sock *sk)
{
	__u32 zero = 0;
	struct zs_state *st = bpf_map_lookup_elem(&zs_udp_state, &zero);

	if (st) {
		st->conn_id = 0xffffULL << 48 | BPF_CORE_READ(sk, sk_socket, file, f_inode, i_ino);
		st->closed_out = !zs_sock_watched(sk);
	}
	return st;
}

/* System calls that move bytes through a socket: enum zs_dir, or -1. */
static __always_inline int zs_dir_of(long nr)
{
	switch (nr) {
	case 0: /* read */
	case 19: /* readv */
	case 45: /* recvfrom */
	case 47: /* recvmsg */
	case 299: /* recvmmsg */
	case 327: /* preadv2 */
		return ZS_RECV;
	case 1: /* write */
	case 20: /* writev */
	case 40: /* sendfile */
	case 44: /* sendto */
	case 46: /* sendmsg */
	case 275: /* splice: only its sending end is a file descriptor that is looked at */
	case 307: /* sendmmsg */
	case 328: /* pwritev2 */
		return ZS_SEND;
	}
	return -1;
}

/* Not inline: its part of the stack is free again for the functions that follow. */
static __noinline struct sock *zs_sock_of_fd(unsigned long fd)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct fdtable *fdt = BPF_CORE_READ(task, files, fdt);
	struct file **table, *file = NULL;
	struct socket *sock;

	if (fd >= BPF_CORE_READ(fdt, max_fds))
		return NULL;
	table = BPF_CORE_READ(fdt, fd);
	bpf_probe_read_kernel(&file, sizeof(file), table + fd);
	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	sock = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(sock, sk);
}

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct zs_io);
} zs_call SEC(".maps");

/*
 * Global functions of numbers only: the verifier looks at each once, however often it is called. Two, because the stack
 * of a program and what it calls has 512 bytes together.
 */
__noinline int zs_tcp(__u64 sk, __u32 len, __u32 dir)
{
	__u32 zero = 0;
	struct zs_io *io = bpf_map_lookup_elem(&zs_call, &zero);

	if (!io)
		return 0;
	return zs_on_tcp((struct sock *)sk, (struct tcp_sock *)sk, bpf_get_current_pid_tgid(), len,
			 dir ? ZS_RECV : ZS_SEND, io);
}

__noinline int zs_udp(__u64 sk, __u32 len, __u32 dir)
{
	__u32 zero = 0;
	struct zs_io *io = bpf_map_lookup_elem(&zs_call, &zero);

	if (!io)
		return 0;
	return zs_on_udp((struct sock *)sk, len, dir ? ZS_RECV : ZS_SEND, io, true);
}

static __always_inline int zs_one(struct sock *sk, __u16 protocol, __u32 len, int dir)
{
	return protocol == IPPROTO_TCP ? zs_tcp((__u64)sk, len, dir) : zs_udp((__u64)sk, len, dir);
}

static __noinline void zs_walk_msghdr(struct zs_io *io, __u64 addr)
{
	zs_io_from_msghdr(io, addr);
}

/* Every message of a vector has its length written beside it when the call ends. */
static __always_inline __u32 zs_vector_len(__u64 vec, __u32 i)
{
	__u32 len = 0;

	bpf_probe_read_user(&len, sizeof(len), &((struct zs_mmsghdr *)vec)[i].len);
	return len;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(zs_exit, struct pt_regs *regs, long ret)
{
	long nr = regs->orig_ax, flags = 0;
	int dir = zs_dir_of(nr);
	struct task_struct *task;
	struct zs_io *io;
	struct sock *sk;
	__u16 family, protocol;
	__u32 total = 0, zero = 0;

	if (dir < 0 || ret <= 0)
		return 0;
	task = (struct task_struct *)bpf_get_current_task();
	if (BPF_CORE_READ(task, thread_info.status) & TS_COMPAT)
		return 0; /* 32-bit programs number their calls differently */
	sk = zs_sock_of_fd(nr == 275 ? regs->dx : regs->di);
	if (!sk)
		return 0;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family != AF_INET && family != AF_INET6)
		return 0;
	protocol = BPF_CORE_READ(sk, sk_protocol);
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return 0;
	if (nr == 45 || nr == 299) /* recvfrom, recvmmsg */
		flags = regs->r10;
	else if (nr == 47) /* recvmsg */
		flags = regs->dx;
	if (flags & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	io = bpf_map_lookup_elem(&zs_call, &zero);
	if (!io)
		return 0;
	io->kind = zs_io_kind_of(nr, dir);
	io->addr = regs->si;
	io->size = regs->dx;
	io->count = regs->dx > ZS_MAX_IOVECS ? ZS_MAX_IOVECS + 1 : regs->dx;
	io->name = nr == 44 || nr == 45 ? regs->r8 : 0;
	io->after = 0;
	if (io->kind == ZS_IO_MSG)
		zs_walk_msghdr(io, regs->si);
	if ((flags & MSG_TRUNC) && protocol == IPPROTO_TCP)
		io->kind = ZS_IO_NONE; /* the bytes were thrown away, not copied */
	if (io->kind != ZS_IO_MMSG)
		return zs_one(sk, protocol, ret, dir);
	if (protocol == IPPROTO_TCP) {
		for (int i = 0; i < ZS_SUMMED && i < ret; i++)
			total += zs_vector_len(regs->si, i);
	}
#pragma clang loop unroll(disable)
	for (int i = 0; i < ZS_MAX_DATAGRAMS; i++) {
		__u32 len;

		if (i >= ret)
			return 0;
		len = zs_vector_len(regs->si, i);
		total -= len;
		io->after = protocol == IPPROTO_TCP ? total : 0;
		zs_walk_msghdr(io, regs->si + i * sizeof(struct zs_mmsghdr));
		if ((flags & MSG_TRUNC) && protocol == IPPROTO_TCP)
			io->kind = ZS_IO_NONE;
		if (len)
			zs_one(sk, protocol, len, dir);
	}
	if (ret > ZS_MAX_DATAGRAMS)
		zs_count_many(ZS_CNT_IOVECS, ret - ZS_MAX_DATAGRAMS);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(zs_set_state, struct sock *sk, int oldstate, int newstate)
{
	if (BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP)
		zs_on_tcp_state(sk, (struct tcp_sock *)sk, newstate);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(zs_destroy, struct sock *sk)
{
	__u64 key = (__u64)sk;

	zs_on_destroy(sk, (struct tcp_sock *)sk);
	bpf_map_delete_elem(&zs_states, &key);
	return 0;
}

SEC("iter/bpf_map_elem")
int zs_sweep(struct bpf_iter__bpf_map_elem *ctx)
{
	struct zs_state *st = ctx->value;

	if (st)
		zs_sweep_one(st);
	return 0;
}
