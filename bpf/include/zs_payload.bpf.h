/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Where the bytes of a system call lie in user memory, and how they are copied. */
#ifndef ZS_PAYLOAD_BPF_H
#define ZS_PAYLOAD_BPF_H

#include "zs_maps.bpf.h"

enum zs_io_kind {
	ZS_IO_NONE = 0, /* no user memory: sendfile, splice, io_uring */
	ZS_IO_BUF,
	ZS_IO_IOV,
	ZS_IO_MSG,
	ZS_IO_MMSG,
};

struct zs_io {
	__u64 addr; /* ZS_IO_BUF: the bytes; ZS_IO_IOV: the first zs_iovec */
	__u64 name; /* user address of a peer sockaddr; 0 if none */
	__u64 size; /* ZS_IO_BUF: of the buffer, which MSG_TRUNC lets a datagram exceed */
	__u32 count; /* of the iovecs, or of the messages of a vector */
	__u32 kind;
	__u32 after; /* bytes of the same call that follow these in the stream */
	__u32 pad;
};

/* x86-64 system call numbers. */
static __always_inline __u32 zs_io_kind_of(long nr, enum zs_dir dir)
{
	switch (nr) {
	case 0: /* read */
	case 45: /* recvfrom */
		return dir == ZS_RECV ? ZS_IO_BUF : ZS_IO_NONE;
	case 1: /* write */
	case 44: /* sendto */
		return dir == ZS_SEND ? ZS_IO_BUF : ZS_IO_NONE;
	case 19: /* readv */
	case 327: /* preadv2 */
		return dir == ZS_RECV ? ZS_IO_IOV : ZS_IO_NONE;
	case 20: /* writev */
	case 328: /* pwritev2 */
		return dir == ZS_SEND ? ZS_IO_IOV : ZS_IO_NONE;
	case 47: /* recvmsg */
		return dir == ZS_RECV ? ZS_IO_MSG : ZS_IO_NONE;
	case 46: /* sendmsg */
		return dir == ZS_SEND ? ZS_IO_MSG : ZS_IO_NONE;
	case 299: /* recvmmsg */
		return dir == ZS_RECV ? ZS_IO_MMSG : ZS_IO_NONE;
	case 307: /* sendmmsg */
		return dir == ZS_SEND ? ZS_IO_MMSG : ZS_IO_NONE;
	}
	return ZS_IO_NONE;
}

static __always_inline void zs_io_from_msghdr(struct zs_io *io, __u64 addr)
{
	struct zs_msghdr mh = {};

	io->kind = ZS_IO_NONE;
	if (bpf_probe_read_user(&mh, sizeof(mh), (void *)addr))
		return;
	io->addr = mh.iov;
	io->count = mh.iovlen > ZS_MAX_IOVECS ? ZS_MAX_IOVECS + 1 : mh.iovlen;
	io->name = mh.name;
	io->kind = ZS_IO_IOV;
}

/* Copies the first `want` bytes that the iovecs describe into the gather buffer; returns how many. */
static __always_inline __u32 zs_gather_iovecs(const struct zs_io *io, struct zs_scratch *to, __u32 want)
{
	struct zs_iovec iov = {};
	__u64 done = 0, at, n;

	for (__u32 i = 0; i < ZS_MAX_IOVECS; i++) {
		if (i >= io->count || done >= want)
			break;
		if (bpf_probe_read_user(&iov, sizeof(iov), (void *)(io->addr + i * sizeof(iov))))
			break;
		if (!iov.base || !iov.len)
			continue;
		n = want - done;
		if (iov.len < n)
			n = iov.len;
		/*
		 * Both are below ZS_PAYLOAD_MAX, and so their sum is inside: said on the very registers that are used
		 * then, because 6.1's verifier learns nothing of a value's copies on the stack.
		 */
		if (done >= ZS_PAYLOAD_MAX)
			break;
		at = done;
		barrier_var(at);
		at &= ZS_PAYLOAD_MAX - 1;
		barrier_var(n);
		if (n > ZS_PAYLOAD_MAX)
			break;
		if (bpf_probe_read_user(to->data + at, n, (void *)iov.base))
			break;
		done += n;
	}
	return done;
}

/*
 * Makes `io` plain: after it, either one buffer in user memory (kind ZS_IO_BUF), or the bytes lie gathered in
 * *gathered. Returns how many bytes can be copied (at most want); sets flags.
 */
static __always_inline __u32 zs_io_locate(struct zs_io *io, __u32 want, struct zs_scratch **gathered, __u16 *flags)
{
	struct zs_iovec first = {};
	__u32 zero = 0, n;

	*gathered = NULL;
	if (io->kind == ZS_IO_BUF)
		return want < io->size ? want : io->size;
	if (io->kind != ZS_IO_IOV) {
		*flags |= ZS_F_NO_PAYLOAD;
		return 0;
	}
	if (bpf_probe_read_user(&first, sizeof(first), (void *)io->addr)) {
		*flags |= ZS_F_FAULT;
		zs_count(ZS_CNT_FAULT);
		return 0;
	}
	if (first.base && first.len >= want) {
		io->addr = first.base;
		io->kind = ZS_IO_BUF;
		return want;
	}
	*gathered = bpf_map_lookup_elem(&zs_gather, &zero);
	if (!*gathered)
		return 0;
	n = zs_gather_iovecs(io, *gathered, want);
	if (n < want && io->count > ZS_MAX_IOVECS)
		zs_count(ZS_CNT_IOVECS);
	return n;
}

#endif
