// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Layout "sys_exit", for kernels without the socket tracepoints: one hook at the end of every system call. At that point
 * the registers still hold the arguments, so no hook at the beginning is needed. The socket is found through the file
 * table; its pointer is not trusted, so fields are read by probes and the state is kept in a hash by the pointer,
 * deleted when the connection closes.
 */
#define ZS_UNTRUSTED_SOCK
#include "zs_message.bpf.h"
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

#define ZS_STATES (1 << 17)

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

static __always_inline struct sock *zs_sock_of_fd(unsigned long fd)
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

/* A function of its own: the stack of one frame would not hold it twice. */
static __noinline int zs_one(struct sock *sk, __u16 protocol, __u32 len, enum zs_dir dir, struct zs_io *io)
{
	if (protocol == IPPROTO_TCP)
		return zs_on_tcp(sk, (struct tcp_sock *)sk, len, dir, io);
	return zs_on_udp(sk, len, dir, io, true);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(zs_exit, struct pt_regs *regs, long ret)
{
	long nr = regs->orig_ax, flags = 0;
	int dir = zs_dir_of(nr);
	struct zs_io io = {};
	struct sock *sk;
	__u16 family, protocol;

	if (dir < 0 || ret <= 0)
		return 0;
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
	io.kind = zs_io_kind_of(nr, dir);
	io.addr = regs->si;
	io.count = regs->dx > ZS_MAX_IOVECS ? ZS_MAX_IOVECS + 1 : regs->dx;
	io.name = nr == 44 || nr == 45 ? regs->r8 : 0;
	if (io.kind == ZS_IO_MSG)
		zs_io_from_msghdr(&io, regs->si);
	if (flags & MSG_TRUNC)
		io.kind = ZS_IO_NONE;
	if (io.kind != ZS_IO_MMSG)
		return zs_one(sk, protocol, ret, dir, &io);
#pragma clang loop unroll(disable)
	for (int i = 0; i < ZS_MAX_DATAGRAMS; i++) {
		__u64 mm = regs->si + i * sizeof(struct zs_mmsghdr);
		__u32 len = 0;

		if (i >= ret)
			return 0;
		/* every message of the vector has its length written beside it by now */
		bpf_probe_read_user(&len, sizeof(len), &((struct zs_mmsghdr *)mm)->len);
		zs_io_from_msghdr(&io, mm);
		if (len)
			zs_one(sk, protocol, len, dir, &io);
	}
	if (ret > ZS_MAX_DATAGRAMS)
		zs_count(ZS_CNT_IOVECS);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(zs_set_state, struct sock *sk, int oldstate, int newstate)
{
	__u64 key = (__u64)sk;

	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	if (newstate == TCP_SYN_SENT) {
		bpf_map_delete_elem(&zs_states, &key); /* what an earlier socket at this address may have left */
		zs_on_connect(sk);
	} else if (newstate == TCP_CLOSE) {
		zs_on_close(sk, (struct tcp_sock *)sk);
	}
	return 0;
}

/* The socket itself goes: until now the process could still read what had been received. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(zs_destroy, struct sock *sk)
{
	__u64 key = (__u64)sk;

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
