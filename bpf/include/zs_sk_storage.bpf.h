/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * State in the socket's own storage, for layouts whose hooks give a trusted `struct sock *` (tp_btf, fexit).
 * Included after the layout has defined the map zs_states.
 */
#ifndef ZS_SK_STORAGE_BPF_H
#define ZS_SK_STORAGE_BPF_H

static __always_inline struct zs_state *zs_state_find(struct sock *sk)
{
	return bpf_sk_storage_get(&zs_states, sk, 0, 0);
}

static __always_inline struct zs_state *zs_state_create(struct sock *sk)
{
	return bpf_sk_storage_get(&zs_states, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
}

static __always_inline struct zs_state *zs_state_of_udp(struct sock *sk)
{
	return zs_state_create(sk); /* finds it, too */
}

/*
 * The call's buffers, from the user registers of the current task. They are those of the call that this message belongs to
 * only while a 64-bit system call runs: ax says so, it holds -ENOSYS from the call's entry until its result is known.
 * io_uring also moves bytes after that, on the way out of an unrelated call, and from kernel threads.
 */
static __always_inline void zs_io_of(struct zs_io *io, struct task_struct *task, enum zs_dir dir)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
	long nr = regs->orig_ax;

	if ((long)regs->ax != -ENOSYS || (task->thread_info.status & TS_COMPAT)) {
		io->kind = ZS_IO_NONE;
		return;
	}
	io->kind = zs_io_kind_of(nr, dir);
	io->addr = regs->si;
	io->size = regs->dx;
	io->count = regs->dx > ZS_MAX_IOVECS ? ZS_MAX_IOVECS + 1 : regs->dx;
	io->name = nr == 44 ? regs->r8 : 0; /* sendto */
	if (io->kind == ZS_IO_MSG)
		zs_io_from_msghdr(io, regs->si);
	else if (io->kind == ZS_IO_MMSG)
		io->count = regs->dx;
}

static __always_inline int zs_socket_call(struct sock *sk, int ret, int flags, enum zs_dir dir)
{
	struct task_struct *task;
	struct tcp_sock *tp;
	struct zs_io io = {};
	__u16 family, protocol;
	__u64 id;

	if (ret <= 0 || (dir == ZS_RECV && (flags & (MSG_PEEK | MSG_ERRQUEUE))))
		return 0;
	family = sk->__sk_common.skc_family;
	if (family != AF_INET && family != AF_INET6)
		return 0;
	protocol = sk->sk_protocol;
	task = bpf_get_current_task_btf();
	if (protocol == IPPROTO_TCP) {
		tp = ZS_TCP_SOCK(sk);
		if (!tp)
			return 0;
		zs_io_of(&io, task, dir);
		id = (__u64)task->tgid << 32 | (__u32)task->pid;
		if (dir == ZS_RECV && (flags & MSG_TRUNC))
			io.kind = ZS_IO_NONE; /* the bytes were thrown away, not copied */
		return zs_on_tcp(sk, tp, id, ret, dir, &io);
	}
	if (protocol == IPPROTO_UDP) {
		zs_io_of(&io, task, dir);
		/* a peer's address reaches user memory only after this hook when it is received */
		return zs_on_udp(sk, ret, dir, &io, dir == ZS_SEND);
	}
	return 0;
}

static __always_inline int zs_state_change(struct sock *sk, int newstate)
{
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	zs_on_tcp_state(sk, ZS_TCP_SOCK(sk), newstate);
	return 0;
}

SEC("iter/bpf_sk_storage_map")
int zs_sweep(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct zs_state *st = ctx->value;

	if (st)
		zs_sweep_one(st);
	return 0;
}

#endif
